"""A run: a score, and all that can be done with it: sample, measure, ask for a posterior, save."""

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from typing_extensions import Unpack

from ncsn.calibration import ALPHA, MIN_TRIALS, Calibration, Ranks, Trials, judge
from ncsn.kinds.kind import Dataset, Imputed, Origin, Unseen
from ncsn.kinds.transform import Transform
from ncsn.likelihood import LogDensities, log_prob
from ncsn.machine import hardware
from ncsn.machine.messages import bar, log
from ncsn.posteriors.matching import MomentMatching, Posterior, Replacement
from ncsn.posteriors.measurements import Measurement, Noise, Numbers, Observation, Poisson, as_mask, observe
from ncsn.quantization import reals
from ncsn.run.folder import VERSION, Config, claim, find, has_run, read_config, read_model, write_config, write_model
from ncsn.run.options import DensityOptions, Label, SamplingOptions, SeededOptions
from ncsn.run.recipe import Recipe
from ncsn.run.steps import Steps, guidance_of
from ncsn.run.trials import imputation, measurement, trials
from ncsn.samplers import Sampling, slerp
from ncsn.score import Score, ScoreModel, evaluate_in_batches, move_to, tweedie
from ncsn.validation import GuideName, Json, as_floats, as_numbers, check_type, real, whole

CPU = torch.device("cpu")
BLOCK, BLOCK_VALUES = 1000, 2**24  # samples, and numbers in them, that are drawn together by ``Run.blocks``
CONFORMAL, LEAST_CONFORMAL = 1000, 300  # held-out examples whose values widen intervals; fewer are used several times
DENSITY_VALUES = 4096  # numbers in the examples whose densities are computed together


@dataclass(frozen=True, kw_only=True)
class Run:
    """A score, and what is known about it: how to sample it, its guide, its folder.

    ``fit``, ``load`` and ``Run.of`` make runs.

    ``score``: ∇ₓ log p_σ(x), for whatever takes a ``Score``: a trained ``ScoreModel``, or any other.
    ``recipe``: how its model is built, how it is sampled, and the transform from the user's numbers to the model's.
    ``sample``, ``steps``, ``posterior`` and ``log_prob`` use the user's numbers, and ``score`` the model's.
    ``guide``: a worse score that samples move away from.
    ``guide_recipe``: how the guide's model is built, if not as this one.
    ``device``: where it computes.
    ``folder``: where it was loaded from.
    ``settings``: how it was trained.
    ``origin``: the data that it has learned from.
    ``measured``: metrics from the end of its training, by name; for a table, the ``coverage`` of 90 % intervals on
    ``coverage_of`` hidden numbers.
    """

    score: Score
    recipe: Recipe
    guide: Score | None = None
    guide_recipe: Recipe | None = None
    device: torch.device = CPU
    folder: Path | None = None
    settings: Json = field(default_factory=dict)
    origin: Origin | None = None
    measured: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, score: Score, shape: tuple[int, ...], *, sigma_max: float, sigma_min: float) -> "Run":
        """The run of any score: an exact one, somebody else's model, a function.

        ``score``: a function ``score(x, sigma)``.
        ``shape``: of one example.
        ``sigma_max``: the noise level where sampling starts.
        ``sigma_min``: the noise level where it ends, > 0.
        Raises ValueError for noise levels out of range.

        >>> score = ncsn.GaussianMixture(torch.tensor([[-5.0, 0.0], [5.0, 0.0]]))
        >>> run = ncsn.Run.of(score, shape=(2,), sigma_max=50.0, sigma_min=0.02)
        >>> run.sample(100, seed=0).shape
        torch.Size([100, 2])
        """
        check_type("score", score, Callable)
        check_type("shape", shape, tuple)
        if not shape or min(whole("shape", each, 0) for each in shape) < 1:
            raise ValueError(f"shape is {shape}; examples need numbers, such as (2,) or (1, 28, 28)")
        sampling = Sampling.of("dpmpp-sde", sigma_max, sigma_min)
        return cls(score=score, recipe=Recipe(network="none", arguments={}, shape=shape, sampling=sampling))

    @property
    def transform(self) -> Transform:
        """From the user's numbers to the model's."""
        return self.recipe.transform

    @property
    def posterior_score(self) -> Posterior | None:
        """The posterior that it draws from, if it is the run of one."""
        return self.score if isinstance(self.score, Posterior) else None

    @property
    def prior(self) -> Score:
        """The score that a posterior was made of, or the run's own."""
        return self.score if self.posterior_score is None else self.posterior_score.prior

    def refuse_posterior(self, verb: str) -> None:
        """Raises ValueError if the run is that of a posterior."""
        if self.posterior_score is not None:
            raise ValueError(f"a posterior cannot be {verb}; use the prior's run")

    @property
    def model(self) -> ScoreModel:
        """The score, where it is a network.  Raises ValueError where it is not."""
        if not isinstance(self.score, ScoreModel):
            raise ValueError(f"the score is a {type(self.score).__name__}; a ScoreModel is needed")
        return self.score

    def data(self, dataset: str | None = None) -> Dataset:
        """The data that the run was trained on, including its validation and test examples.

        ``dataset``: where the data is now, if it has moved.
        Raises ValueError if the data is unknown, can't be read, or isn't what the run was trained on.
        """
        if self.origin is None:
            raise ValueError(f"{self.folder or 'the run'} does not say which data it has learned from")
        return self.origin.load(dataset)

    @property
    def parameters(self) -> int:
        """How many weights the network has."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def guide_parameters(self) -> int:
        """How many weights the guide has; 0 without one."""
        return sum(p.numel() for p in self.guide.parameters()) if isinstance(self.guide, ScoreModel) else 0

    def to(self, device: str | torch.device) -> "Run":
        """The same run on another device.

        ``device``: auto (CUDA where there is one), cpu, cuda or mps.
        Raises ValueError if this machine has no such device.
        """
        chosen = hardware.choose_device(str(device))

        def there(score: Score) -> Score:
            if isinstance(score, Posterior):
                return score.to(chosen, there(score.prior))
            if not isinstance(score, ScoreModel):
                return score
            if score.data_mean.device != chosen:  # a copy, because the run as it was still computes
                score = copy.deepcopy(score).to(chosen)
            # 256 levels of a pixel survive bfloat16; points would lose digits.
            precision = hardware.choose_precision(self.recipe.kind.precision, chosen)
            score.autocast = hardware.autocast_of(precision)
            return score

        guide = None if self.guide is None else there(self.guide)
        return replace(self, score=there(self.score), guide=guide, device=chosen)

    def steps(
        self,
        n: int = 1,
        *,
        seed: int | torch.Generator = 0,
        sampler: str | None = None,
        levels: int | Sequence[float] | Float[Tensor | np.ndarray, "levels"] | None = None,
        steps: int | None = None,
        eps: float | None = None,
        guidance: float | None = None,
        guide: GuideName | None = None,
        label: Label | None = None,
        batch_size: int = 500,
        start: Float[Tensor, "n *d"] | None = None,
        particles: int | None = None,
    ) -> Steps:
        """The states of ``n`` samples from noise to data: ``step.sigma`` and ``step.x``; the last are the samples.

        Options that are not given default to the run's own.

        ``seed``: the same one gives the same samples on one machine, whatever the batch size; or a generator.
        ``sampler``: a name in ``SAMPLERS``.
        ``levels``: how many noise levels it descends, or which.
        ``steps``: of Langevin dynamics, on each level if annealed.
        ``eps``: the size α of these steps on the smallest level.
        ``guidance``: how far to move away from a guide; 1 disables guidance.
        ``guide``: which one, smaller or unconditional, see ``Sampling``.
        ``label``: a class for all, by its name or number; a number for each; "any" for classes drawn by their shares in
        the training data; or "none" for the score of all classes together.  By default any, where shares are known, but
        none for a posterior.
        ``batch_size``: how many samples the network sees at a time, at most.
        ``start``: where to begin instead of in noise, (n, *d), in the score's units.
        ``particles``: the number of particles that correct a posterior.  All samples of one measurement share a
        population of at least as many.  Each of several measurements has its own.  1 is plain moment matching, by
        dpmpp-sde.  For examples of up to 64 numbers the default is 1,000, or 250 if more than 16 numbers are measured,
        or 64 for each of several measurements.  It is 1 for larger examples, if you name a sampler, and with guidance.
        Raises ValueError for options that the run does not support.

        >>> run = ncsn.load("mnist", device="cpu")
        >>> [round(step.sigma, 2) for step in run.steps(1, levels=4)]
        [1.94, 0.23, 0.01, 0.0]
        """
        n, batch_size = whole("n", n, 1), whole("batch_size", batch_size, 1)
        if levels is not None and np.ndim(levels) == 1:
            levels = tuple(map(float, levels))  # type: ignore[arg-type]
        if start is not None:
            start = as_floats("start", start).to(self.device)
            if start.shape != (n, *self.recipe.shape):
                raise ValueError(f"start has shape {tuple(start.shape)}; {(n, *self.recipe.shape)} is needed")
        generator = generator_of(seed, self.device)
        labels = self.labels(label, n, generator)
        sampling = self.recipe.sampling.but(
            sampler=sampler, levels=levels, steps=steps, eps=eps, guidance=guidance, guide=guide
        )
        sampling = guidance_of(self, sampling, labels, weight=guidance, guide=guide)
        if levels is None:
            sampling = sampling.affordable
        given, alone = self.posterior_score, sampler is None and guidance in (None, 1) and start is None
        if particles is not None:
            particles = whole("particles", particles, 1)
        if isinstance(given, MomentMatching) and alone:
            given = given.with_particles(n, particles, shape=self.recipe.shape, labels=labels)
        elif particles not in (None, 1):
            raise ValueError(f"particles is {particles}; only posteriors have them, with no sampler, guidance or start")
        return Steps(self, sampling, given, n, labels, start=start, generator=generator, batch_size=batch_size)

    def labels(self, label: Label | None, n: int, generator: torch.Generator) -> Int64[Tensor, "n"] | None:
        """The class of each of ``n`` samples, see ``Recipe.labels``; by default as ``steps`` says."""
        if label is None:
            label = "any" if self.recipe.shares and self.posterior_score is None else "none"
        return self.recipe.labels(label, n, generator)

    def sample(
        self,
        n: int = 1,
        *,
        given: Mapping[Any, object] | None = None,
        where: str | None = None,
        **options: Unpack[SeededOptions],
    ) -> Any:
        """``n`` samples, in the units of the data: a tensor (n, *d), or a DataFrame if the run has learned one.

        ``given``: exact values of some columns of a table, such as ``{"sex": "F"}``; the others are drawn from their
        distribution given these, as by ``impute``.
        ``where``: an expression of pandas' ``query``, such as ``"age > 60"``; samples are drawn until ``n`` satisfy it,
        and the share that does is printed.
        ``options``: as for ``steps``, and so are errors.
        Raises ValueError for values and columns that the run does not know, and if fewer than 1 in 1,000 samples
        satisfy ``where``.

        >>> run = ncsn.load("mnist", device="cpu")
        >>> run.sample(2, seed=0, levels=4, label="7").shape
        torch.Size([2, 1, 28, 28])
        """
        kind = self.recipe.kind
        if given is None and where is None:
            return kind.examples(self, self.steps(n, **options).last())
        return kind.choose(self, whole("n", n, 1), given, where, options)

    @property
    def block(self) -> int:
        """How many samples ``blocks`` draws together: 1,000, or fewer if these have more than 16 million numbers."""
        return max(1, min(BLOCK, BLOCK_VALUES // math.prod(self.recipe.shape)))

    def blocks(
        self, n: int, *, seed: int = 0, first: int = 0, every: int = 1, **options: Unpack[SamplingOptions]
    ) -> Iterator[Steps]:
        """Draw ``n`` samples one ``block`` at a time, in the memory of a single block; yields ``Steps`` for each.

        The first block's are those of ``steps`` with this seed.  Every other block has a generator of its own, so that
        it can be drawn alone.

        ``seed``: of the first block; the others follow from it.
        ``first``: the block to begin with.
        ``every``: from there on, draw only one block in so many.
        ``options``: as for ``steps``; ``label`` is one class for all, or any or none.
        Raises ValueError as ``steps``.
        """
        for number in range(whole("first", first, 0), -(-whole("n", n, 1) // self.block), whole("every", every, 1)):
            yield self.steps(min(self.block, n - number * self.block), seed=block_seed(seed, number), **options)

    @property
    def digest(self) -> str:
        """A sha256 of all that samples are made of: the recipe, the weights and the guide's."""
        found = hashlib.sha256(repr(self.recipe).encode())
        for part in (score.state_dict() for score in (self.prior, self.guide) if isinstance(score, nn.Module)):
            for name, tensor in part.items():
                found.update(name.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def walk(self, n: int, steps: int, *, seed: int = 0) -> Float[Tensor, "m *d"]:
        """Starting points of ``n`` walks between samples, for ``steps(start=...)`` with a probability flow.

        ``steps`` ≥ 2 starts for each walk, on a great circle between two noises; one walk after the other.
        Raises ValueError for fewer, and for ``n`` < 1.
        """
        n, steps = whole("n", n, 1), whole("steps", steps, 2)
        mean = self.means(None)[0]
        noise = self.recipe.sampling.start(mean[None], 2 * n, generator=generator_of(seed, self.device)) - mean
        weights = torch.linspace(0, 1, steps, device=self.device)
        return (slerp(noise[:n], noise[n:], weights) + mean).flatten(0, 1)

    @torch.no_grad()
    def means(self, labels: Int64[Tensor, "n"] | None) -> Float[Tensor, "_ *d"]:
        """The mean of each label's class as the score knows it, or alone that of all data; in the score's units.

        What it makes of nothing but noise: the denoised middle at σ_max, off MNIST's means by 0.4 where σ_max is 10.
        """
        middle = torch.zeros(self.recipe.shape, device=self.device)[None]
        score, which = self.prior, torch.zeros(1, dtype=torch.long, device=self.device)
        if labels is not None:
            classes, which = torch.unique(labels, return_inverse=True)
            middle, score = (
                middle.expand(len(classes), *self.recipe.shape),
                evaluate_in_batches(score, len(classes), classes),
            )
        with hardware.nothing_compiled():
            return tweedie(score, middle, self.recipe.sampling.sigma_max)[which]

    def posterior(
        self,
        measure: Measurement,
        y: Numbers,
        *,
        method: Literal["moments", "dps"] = "moments",
        solver_steps: int = 3,
        **noise: Unpack[Noise],
    ) -> "Run":
        """A run that samples the posterior p(x | y): every x that could have been measured as ``y``.

        y = A x + n with n ~ N(0, σ_y²).

        ``measure``: A, a linear function of a batch of examples, (b, *d) → (b, *m); it may add a constant.
        ``y``: one measurement (*m), for any number of samples, or one for each sample, (n, *m).
        ``noise_std``: σ_y > 0 in the units of y, one number or as many as broadcast against y.
        ``noise_cov``: in its place the covariance of the noise, (m, m) for the m numbers of a measurement.
        ``likelihood``: in its place ``ncsn.Poisson(peak)``, for counts.  Samples are then as with ``method="dps"``.
        ``repeated``: whether ``y``, (k, *m), holds independent measurements of one x, instead of one for each sample.
        ``method``: "moments", or "dps" for any smooth A: diffusion posterior sampling (Chung et al. 2023,
        arXiv:2209.14687), here by moment matching of A linearised at D(x).  It is approximate, and a line says so.
        Particles make it exact, by default for examples of up to 64 numbers.
        ``solver_steps``: of moment matching, see ``ncsn.posterior``.
        Raises ValueError for a ``y`` that is no measurement, for noise that is not positive, for A that is not linear
        or not smooth, and if the run is a posterior already.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.02)
        >>> answers = run.posterior(lambda x: x[:, :1], 2.0, noise_std=1.0).sample(1000)
        >>> answers[:, 0].mean().round()  # half of what was measured: the prior says 0
        tensor(1.)
        """
        zero = torch.zeros(self.recipe.shape, device=self.device)
        shift, scale, affine = self.transform.affine(self.recipe.shape)
        if not bool(affine.all()):
            each = torch.eye(len(zero), device=self.device)
            if bool((measure(each) - measure(zero[None])).cpu()[~affine].any()):
                bent = "; ".join(self.transform.describe())
                raise ValueError(f"the measurement is not linear in {bent}; run.impute fills in")
        if method not in ("moments", "dps"):
            raise ValueError(f"method is {method!r}; allowed are moments and dps")
        target, place = as_numbers("y", y).to(zero), (shift.to(zero), scale.to(zero))
        observation = observe(measure, target, *place, linear=method == "moments", **noise)
        observation.check_precision(self.recipe.sampling.sigma_max, self.recipe.shape)
        return self.condition_on(observation, whole("solver_steps", solver_steps, 1))

    def condition_on(self, observation: Observation, solver_steps: int = 3) -> "Run":
        """The run of the posterior given an observation in the units of the score; otherwise as ``posterior``."""
        # Twice the usual levels, unguided: the posterior's score is rougher than the prior's, and must be a score.
        sampling = self.recipe.sampling.but(sampler="dpmpp-sde", guidance=1.0)
        sampling = sampling.but(levels=2 * sampling.spec.levels_for(sampling.sigma_max, sampling.sigma_min))
        return self.with_posterior(MomentMatching(self.score, observation, solver_steps), sampling)

    def with_posterior(self, posterior: Posterior, sampling: Sampling) -> "Run":
        """The run of a posterior.  Raises ValueError if the run is one already."""
        self.refuse_posterior("the prior of another; give one measurement of everything")
        return replace(self, score=posterior, recipe=replace(self.recipe, sampling=sampling))

    def log_evidence(self, **options: Unpack[SeededOptions]) -> LogDensities:
        """Log p(y), in nats, of each measurement of a posterior: how well the run and the operator explain it together.

        Its difference between two runs, or two operators, is their log Bayes factor.  The standard error tells how
        much seeds differ; it is unreliable if ``steps.effective`` is only a handful.

        ``options``: as for ``steps``, and so are errors.
        Raises ValueError for runs that do not come from ``run.posterior``, and without particles.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.02)
        >>> run.posterior(lambda x: x[:, :1], 2.0, noise_std=1.0).log_evidence().log_prob.round(decimals=1)
        tensor([-2.3000], dtype=torch.float64)
        """
        if not isinstance(self.posterior_score, MomentMatching):
            raise ValueError("the run has no measurement; run.posterior(...).log_evidence() has")
        steps = self.steps(len(self.posterior_score.observation.y), **options)
        steps.last()
        if (weight := steps.weight) is None:
            raise ValueError("evidence takes particles: pass particles=1000, or leave out sampler and guidance")
        return LogDensities(weight.log_evidence.cpu(), weight.standard_error.cpu(), steps.nfe)

    def given(self, columns: Mapping[Any, object] | None = None, /, **values: object) -> "Run":
        """Condition a table's run on exact values of some columns: ``run.given(x1=0.0, x2=0.0)``.

        Its ``log_prob`` is the conditional density, the joint one minus the log evidence of what is given; its
        ``sample`` draws as ``sample(n, given=...)`` does, without the given columns.

        ``columns``: values of columns whose names can't be keywords, such as ``{"blood pressure": 120}``.
        Raises ValueError as ``sample`` does, and if the run is not of a table.
        """
        conditional: Run = self.recipe.kind.condition(self, {**(columns or {}), **values})
        return conditional

    def calibrate(
        self,
        examples: object = None,
        *,
        hidden: object = None,
        measure: Measurement | None = None,
        noise_std: float | Tensor | None = None,
        noise_cov: Tensor | None = None,
        likelihood: Poisson | None = None,
        method: Literal["moments", "dps"] = "moments",
        truths: Literal["both", "run", "held-out"] = "both",
        n: int = 300,
        draws: int = 39,
        solver_steps: int = 3,
        seed: int = 0,
        **options: Unpack[SamplingOptions],
    ) -> Calibration:
        """Test whether this run's posteriors are calibrated: whether 90 % intervals contain nine truths out of ten.

        Each trial observes part of a known example and ranks the example among draws of the posterior; see
        ``ncsn.calibration``.  Trials end early if it is clear that the ranks are not uniform.  Examples come from two
        sources, tested separately.  Samples of the run itself test how posteriors are
        drawn, as if the model were exact, and held-out examples test the model, too.

        ``examples``: held-out ones, as ``impute`` takes rows; by default the test examples that training has left.
        ``hidden``: what is not observed.  Of a table: the names of columns, a share of the cells at random (by default
        a half), or booleans (d,) or (m, d) such as ``df.isna()``, a row of which is taken at random for each example.
        Of signals: a share of the length, in the middle, or booleans.  With ``measure``: booleans, which numbers are
        judged, by default all.
        ``measure``: a measurement to test instead, with its ``noise_std``, ``noise_cov`` or ``likelihood``, ``method``
        and ``solver_steps``, all as for ``posterior``.
        ``truths``: the sources: run, held-out, or both.
        ``n``: trials of each source, at least 30.  An example is used once, so held-out ones may be fewer.
        ``draws``: of each posterior.
        ``options``: how a measurement's posterior is sampled, as for ``steps``.
        Raises ValueError as ``impute`` and ``posterior``, for other ``truths``, for fewer than 30 trials,
        and if nothing is hidden.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=20.0, sigma_min=0.02)
        >>> found = run.calibrate(measure=lambda x: x[:, :1], noise_std=1.0, truths="run", n=100, draws=9)
        >>> found.calibrated
        {'run': True}
        """
        self.refuse_posterior("calibrated")
        n, draws, seed = whole("n", n, MIN_TRIALS), whole("draws", draws, 1), whole("seed", seed, 0)
        generator = generator_of(seed, self.device)
        if measure is None:
            question = imputation(self, hidden, generator)
        else:
            noise: Noise = {"noise_std": noise_std, "noise_cov": noise_cov, "likelihood": likelihood}
            posterior = partial(self.posterior, measure, method=method, solver_steps=solver_steps, **noise)
            question = measurement(self, hidden, generator, measure, posterior, noise, options)
        chance, found = torch.Generator().manual_seed(seed), dict[str, Ranks]()
        sources = self.truths(examples, truths, n, chance)
        for name, x in sources.items():
            x = self.steps(n, label="none", guidance=1.0, seed=generator).last().cpu() if x is None else x
            parts = trials(self, question, x, draws, chance, name)
            found[name] = judge(parts, len(x), alpha=ALPHA / len(sources), seed=seed)
        return Calibration(found, draws)

    def truths(
        self, examples: object, which: str, n: int, generator: torch.Generator
    ) -> dict[str, Shaped[Tensor, "m *d"] | None]:
        """Up to ``n`` held-out examples, and None for those that the run is to draw, by their names."""
        if which not in ("both", "run", "held-out"):
            raise ValueError(f"truths is {which!r}; allowed are both, run and held-out")
        sources: dict[str, Tensor | None] = {} if which == "held-out" else {"run": None}
        if which == "run":
            return sources
        try:
            known = self.held_out() if examples is None else self.recipe.kind.numbers(self, examples)
            if len(known) < MIN_TRIALS:
                raise ValueError(f"there are {len(known)} held-out examples; at least {MIN_TRIALS} are needed")
        except ValueError as error:
            if not sources or examples is not None:
                raise
            log.warning(f"{error}; only truths from the run are used")
            return sources
        return sources | {"held-out": reals(known[torch.randperm(len(known), generator=generator)[:n]])}

    def held_out(self, dataset: str | None = None) -> Shaped[Tensor, "n *d"]:
        """The test examples of the data, in the user's units; ``dataset`` and errors as of ``data``."""
        data = self.data(dataset)
        return data.test if data.test.dtype == torch.uint8 else data.transform.inverse(data.test.double())

    def impute(
        self, rows: object, n: int = 20, *, seed: int | torch.Generator = 0, unseen: Unseen = "error"
    ) -> Imputed:
        """Draw the missing values of rows or signals from their distribution given the observed ones.

        Observed values are taken as exact and stay as they are.  ``fit`` learns the conditional distributions of a
        table directly (``ConditionalModel``).  Signals are drawn by moment matching, which is approximate where several
        answers compete.  A progress bar is shown if it takes over a second.

        ``rows``: a DataFrame or a dict of columns, which are matched by name and may be absent; or (b, *d).  NaN is
        missing.
        ``n``: the number of draws of each row, at least 1.
        ``seed``: a number, or a generator on the run's device, which is advanced.
        ``unseen``: what to do with values that training shows to be impossible.  By default they are errors.
        "missing" fills in unseen categories like gaps; unseen numbers stay, but say nothing about other cells.  "skip"
        leaves their rows as they are.
        Returns the draws, the best single guesses and their spread, see ``Imputed``; of a DataFrame or dict an
        ``ImputedTable``, which makes DataFrames of them.
        Raises ValueError for other columns or impossible values, for images, and for rows if the run's score knows no
        conditionals because it is not a table's, or its network is your own.
        """
        if unseen not in get_args(Unseen):
            raise ValueError(f"unseen is {unseen!r}; allowed are {', '.join(get_args(Unseen))}")
        with hardware.threads_for(self.score):
            imputed = self.recipe.kind.impute(self, rows, whole("n", n, 1), generator_of(seed, self.device), unseen)
        return replace(imputed, again=self.draw_held_out)

    def draw_held_out(
        self, missing: Bool[Tensor, "b *d"], n: int, examples: object, least: Int64[Tensor, "*d"]
    ) -> Trials:
        """``n`` draws of held-out examples, in which values are hidden where others are ``missing``; (n, r, b, *d).

        Few of them are used r times, with other values hidden.

        ``examples``: True for the test examples of the run's data, or others, as ``impute`` takes them.
        ``least``: how many of them must have the value in each place, if others miss it.
        Raises ValueError if fewer do.
        """
        chance = torch.Generator().manual_seed(0)
        x = self.held_out() if examples is True else self.recipe.kind.numbers(self, examples)
        chosen = torch.randperm(len(x), generator=chance)[: max(CONFORMAL, int(least.max()))]
        short, counts = missing.any(0), (~x[chosen].isnan()).sum(0)
        short &= counts < least
        if short.any():
            few, needed = int(counts[short].min()), int(least.max())
            raise ValueError(f"{few} held-out examples say too little about a column; the level needs {needed}")
        repeats = max(1, LEAST_CONFORMAL // max(1, len(x)))
        rows, question = x[chosen.repeat(repeats)], imputation(self, missing.numpy(), generator_of(0, self.device))
        hidden = question.hide(tuple(rows.shape), chance) & ~rows.isnan()
        draws, shape = question.draw(rows, hidden, n), (repeats, len(chosen), *x.shape[1:])
        return Trials(rows.reshape(shape), draws.reshape(n, *shape), hidden.reshape(shape))

    def replacement(self, known: Bool[Tensor, "*d"] | np.ndarray, y: Numbers) -> "Run":
        """A run that fills in the unknown part of ``y`` by the paper's method, with annealed Langevin dynamics.

        By default it takes five steps a level, or the run's own if they are more.

        ``known``: True where a number of an example is known, (*d).
        ``y``: one example, or one for each sample; what is not known is ignored.
        Raises ValueError for other shapes, if ``known`` is not boolean, and if the run is a posterior already.
        """
        target, shape = as_numbers("y", y), self.recipe.shape
        mask = as_mask(known, shape).to(self.device)
        if shape not in (target.shape, target.shape[1:]):
            raise ValueError(f"y has shape {tuple(target.shape)}; {shape} is needed, or one more axis for samples")
        target = target[None] if target.ndim == len(shape) else target
        if target.is_floating_point():
            self.transform.check(torch.where(mask.to(target.device), target, torch.nan))
        target = move_to(self.transform.forward(target), self.device)
        # The sampler's own two steps a level leave the unknown 0.07 off where 1.35 is right, five of them 0.03.
        sampling = self.recipe.sampling.but(sampler="annealed", guidance=1.0)
        sampling = replace(sampling, steps=max(5, sampling.steps))
        return self.with_posterior(Replacement(self.score, mask, target), sampling)

    def log_prob(
        self, x: object, *, given: Mapping[Any, object] | None = None, **options: Unpack[DensityOptions]
    ) -> Any:
        """Log p(x) in nats, in the units of the data; arguments and errors are those of ``likelihoods``.

        A tensor (b,), or a Series with the index of ``x`` if that is a DataFrame.

        ``given``: exact values of some columns of a table; the density is that of the others, in ``x``, given these.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.01)
        >>> run.log_prob(torch.zeros(1, 2), tolerance=1e-4).round(decimals=2)
        tensor([-1.8400], dtype=torch.float64)
        """
        if given is not None:
            return self.given(given).log_prob(x, **options)
        kind = self.recipe.kind
        numbers = kind.numbers(self, x)
        with bar(total=len(numbers), unit=kind.noun) as shown:
            found = []
            for part in self.likelihoods(numbers, **options):
                found.append(part.log_prob)
                shown.update(len(part.log_prob))
        return kind.align(torch.cat(found), x)

    def likelihoods(
        self,
        x: object,
        *,
        sigma_min: float | None = None,
        probes: int | None = None,
        tolerance: float = 1e-4,
        batch_size: int | None = None,
        seed: int | torch.Generator = 0,
    ) -> Iterator[LogDensities]:
        """Log p(x) in nats, in the units of the data, in parts as they come: see ``ncsn.log_prob``.

        ``x``: examples, (b, *d), or a DataFrame or dict of columns.
        ``sigma_min``: the noise level whose density is taken for the data's, in the score's units; by default the run's
        smallest.
        ``probes``: random directions that estimate the divergence; by default the exact trace for up to 16 dimensions,
        else 4.
        ``tolerance``: of each step of the solver, relative and absolute.
        ``batch_size``: examples in a part; by default as many as have 4,096 numbers, but at least 32.
        ``seed``: of the probes.  If it is a number, each part has a generator of its own.
        Raises ValueError for the posterior of a run, whose density is not known, and for x of another shape.
        """
        self.refuse_posterior("asked for densities, which are not known")
        x, noun = self.recipe.kind.numbers(self, x), self.recipe.kind.noun
        # Small examples cost less together; the solver's step suits the hardest of them.
        suited = max(32, DENSITY_VALUES // max(1, math.prod(self.recipe.shape)))
        batch_size = suited if batch_size is None else whole("batch_size", batch_size, 1)
        for where in (~x.isfinite()).nonzero()[:1].tolist():
            what = "missing" if bool(x[tuple(where)].isnan()) else "infinite"
            raise ValueError(f"{self.transform.place(*where[:2])} is {what}; only whole {noun} have a density")
        score, sampling, transform = self.score, self.recipe.sampling, self.transform
        transform.check(x)
        z, volume = move_to(transform.forward(x), self.device), transform.log_abs_det_jacobian(x)
        if isinstance(score, ScoreModel):
            score, z = copy.copy(score), z.to(score.data_std)
            score.autocast = None  # a solver that adapts its step takes rounding for curvature
        if real("tolerance", tolerance, above=0) > 1:
            raise ValueError(f"tolerance is {tolerance}; above 0 and up to 1 are allowed")
        if probes is not None or math.prod(self.recipe.shape) > 16:
            probes = 4 if probes is None else whole("probes", probes, 1)
        mean = replace(self, score=score).means(None)[0]
        smallest = sampling.sigma_min if sigma_min is None else sigma_min
        density = partial(log_prob, score, mean=mean, probes=probes, tolerance=tolerance)
        parts = zip(torch.split(z, batch_size), torch.split(volume, batch_size), strict=True)
        for number, (part, change) in enumerate(parts):
            part_seed = seed if isinstance(seed, torch.Generator) else block_seed(seed, number)
            generator = generator_of(part_seed, self.device)
            with hardware.uncompiled(), hardware.threads_for(score):  # gradients are asked for once for each probe
                densities = density(part, sigma_max=sampling.sigma_max, sigma_min=smallest, generator=generator)
            yield replace(densities, log_prob=densities.log_prob + change.to(densities.log_prob))

    def compile(self, batch_size: int) -> None:
        """Compile the networks; a line says so if this machine or torch cannot.

        ``batch_size``: for batches of this size.
        Raises ValueError for a posterior: torch can't compile gradients that are computed more than once.
        """
        self.refuse_posterior("compiled")
        example = torch.zeros(batch_size, *self.recipe.shape, device=self.device)
        sigma = torch.tensor(1.0, device=self.device)
        with torch.no_grad():  # as they will be called
            for score in (self.score, self.guide):
                if isinstance(score, ScoreModel):
                    hardware.compile_network(score.network, partial(score, example, sigma))

    @property
    def config(self) -> Config:
        """What config.json says of it."""
        return Config(
            version=VERSION, settings=self.settings, recipe=self.recipe, data=self.origin, measured=self.measured
        )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the run into a folder of its own, for ``ncsn.load`` and the command ``ncsn``.

        ``folder``: where; it may not hold another run.
        ``overwrite``: replace a run that is there.
        Raises ValueError if the folder holds another run and ``overwrite`` is not given, if the score is not a
        ScoreModel, such as a posterior, or if the guide has a different size and no recipe.
        """
        self.refuse_posterior("saved")
        check_type("folder", folder or None, str, Path)
        parts = [(Path(folder), self, self.model)]
        if self.guide is not None:
            guide = replace(self, score=self.guide, recipe=self.guide_recipe or self.recipe)
            if self.guide_recipe is None and self.guide_parameters != self.parameters:
                raise ValueError("the guide is another network than the run's; give guide_recipe, how it is built")
            parts.append((Path(folder) / "guide", guide, guide.model))
        with claim(Path(folder), overwrite=overwrite):
            for place, run, model in parts:
                place.mkdir(exist_ok=True)
                write_model(place, model, origin=run.origin)
                write_config(place, run.config)


def block_seed(seed: int, number: int) -> int:
    """The seed of a block of samples: the user's for the first.

    On a CPU generators have 2³² seeds.  Blocks count on from one that is far from the user's, so that no two blocks
    share one, and seeds 0 and 1 have no blocks in common.
    """
    if number == 0:
        return seed
    start = np.random.SeedSequence(seed % 2**64).generate_state(1)[0]
    return (int(start) + number) % 2**32


def generator_of(seed: int | torch.Generator, device: torch.device) -> torch.Generator:
    """The generator of a seed on a device; or the one that is given."""
    if isinstance(seed, torch.Generator):
        return seed
    return torch.Generator(device).manual_seed(whole("seed", seed, 0))


@torch.inference_mode(False)
def load(run: str | Path, *, device: str = "auto", network: nn.Module | None = None) -> Run:
    """A run from a folder, from the package or from Hugging Face's hub.

    ``run``: a run's folder; "mnist", which comes with the package; or "hf://user/model@revision".  The last is fetched
    by ``huggingface_hub`` (the extra ``hub``), unless its cache has the revision, by default main.
    ``device``: auto (CUDA where there is one), cpu, cuda or mps.
    ``network``: if the run's network is the user's own, one that was built in the same way.
    Raises ValueError if the folder is not a run, if its weights are missing, damaged or of another network, if there
    is no such device, or if the hub has no such run or can't be reached.

    >>> run = ncsn.load("mnist", device="cpu")
    >>> run.recipe.shape, run.parameters > 10**6
    ((1, 28, 28), True)
    """
    check_type("run", run, str, Path)
    folder = find(run)
    config, guide, guide_recipe = read_config(folder), None, None
    model = read_model(folder, config, network=network)
    if has_run(folder / "guide"):
        smaller = read_config(folder / "guide")
        guide, guide_recipe = read_model(folder / "guide", smaller), smaller.recipe
    loaded = Run(
        score=model,
        recipe=config.recipe,
        guide=guide,
        guide_recipe=guide_recipe,
        folder=folder,
        settings=config.settings,
        origin=config.data,
        measured=config.measured,
    )
    return loaded.to(device)
