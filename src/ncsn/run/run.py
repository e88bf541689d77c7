"""A run: a score and everything you can do with it, such as sampling, conditioning, evaluating and saving.

``Steps`` draws samples step by step.
"""

import copy
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor, nn
from typing_extensions import Self, Unpack

from ncsn.data.dataset import Dataset, Origin
from ncsn.data.transforms import BYTES, Depth, Transform
from ncsn.likelihood import LogDensities, log_prob
from ncsn.machine import hardware
from ncsn.machine.hardware import threads_for
from ncsn.machine.messages import bar
from ncsn.machine.storage import bytes_of, sha256_of
from ncsn.machine.tensors import move_to
from ncsn.posteriors import (
    Classes,
    Measurement,
    MomentMatching,
    Numbers,
    Observation,
    Posterior,
    Replacement,
    Weight,
    apply,
    as_mask,
)
from ncsn.run.folder import VERSION, Config, Label, Recipe, claim, write_config, write_model
from ncsn.samplers import Step
from ncsn.sampling import NonFiniteSampleError, Sampling
from ncsn.score import Score, ScoreModel, add_guidance, tweedie
from ncsn.score_calls import Counted, evaluate_in_batches, even_batch_size
from ncsn.settings import Reading
from ncsn.validation import Json, as_floats, as_numbers, check_type, counted, real, refuse_options, whole

Levels: TypeAlias = int | Sequence[float] | Float[Tensor | np.ndarray, "levels"]


class SamplingChanges(TypedDict, total=False):
    """The fields of ``Sampling`` that the keywords of ``Run.steps`` replace; None keeps the run's own value."""

    sampler: str | None
    levels: Levels | None
    steps: int | None
    eps: float | None
    guidance: float | None


class SamplingOptions(SamplingChanges, total=False):
    """The keyword arguments of ``Run.steps`` that say how to sample."""

    label: Label | None
    batch_size: int
    start: Float[Tensor, "n *d"] | None
    particles: int | None


class SeededOptions(SamplingOptions, total=False):
    """``SamplingOptions`` with a seed."""

    seed: int | torch.Generator


class Steps(Iterator[Step]):
    """An iterator over the states of samples, from noise to data; its ``len`` is the number of states.

    ``sampling``: how they are drawn.
    ``batch_size``: the largest batch that the network sees.
    ``weight``, ``disagreeing``: the quality of a posterior's samples, known after the last state, see ``Quality``.
    """

    def __init__(
        self,
        source: "Run",
        sampling: Sampling,
        posterior: Posterior | None,
        n: int,
        labels: Classes,
        *,
        start: Float[Tensor, "n *d"] | None,
        generator: torch.Generator,
        batch_size: int,
    ) -> None:
        self.source, self.sampling, self.posterior, self.n, self.batch_size = source, sampling, posterior, n, batch_size
        self.given_start, self.generator = start, generator
        self.networks, self.guides = list[Counted](), list[Counted]()
        self.weight: Weight | None = None
        self.disagreeing = 0
        self.states = self.check(self.follow(labels))

    def __len__(self) -> int:
        """The number of states."""
        return self.sampling.states

    def __next__(self) -> Step:
        """The next state, in the units of the data."""
        sigma, x = self.advance()
        return Step(sigma, self.source.transform.inverse(x))

    def advance(self) -> Step:
        """The next state, in the score's units."""
        with threads_for(self.source.prior):
            return next(self.states)

    def last(self) -> Float[Tensor, "n *d"]:
        """The samples.  Only the last state is transformed to the data's units, because that synchronises a GPU."""
        return self.source.transform.inverse(self.final())

    def final(self) -> Float[Tensor, "n *d"]:
        """The samples in the score's units."""
        with suppress(StopIteration):
            while True:
                x = self.advance().x
        return x

    @property
    def particles(self) -> int:
        """The number of particles in a population; 1 means none."""
        return 1 if self.posterior is None else self.posterior.particles

    @property
    def effective(self) -> float:
        """The mean effective sample size of a posterior's particles, known after the last state."""
        return math.inf if self.weight is None else float(self.weight.effective.mean())

    @property
    def sampler(self) -> str:
        """The method: a name in ``SAMPLERS``, or particles."""
        return self.sampling.sampler if self.particles == 1 else "particles"

    @property
    def nfe(self) -> int:
        """Evaluations of the network so far, per sample."""
        return round(sum(network.evaluated for network in self.networks) / self.n)

    @property
    def backward(self) -> int:
        """Backward passes through the network so far, per sample."""
        return round(sum(network.differentiated for network in self.networks) / self.n)

    @property
    def guide_nfe(self) -> int:
        """Evaluations of the guide so far, per sample."""
        return round(sum(guide.evaluated for guide in self.guides) / self.n)

    def count(self, score: Score) -> Score:
        """The same score, counted."""
        self.networks.append(Counted(score))
        return self.networks[-1]

    def start(self, n: int, labels: Classes) -> Float[Tensor, "n *d"]:
        """Where ``n`` examples of these classes start: in noise around their means, unless the user says where."""
        if self.given_start is not None:
            return self.given_start
        return self.sampling.start(self.source.means(labels), n, generator=self.generator)

    def score(self, n: int, labels: Classes) -> Score:
        """The guided score of up to ``n`` examples of these classes, evaluated in batches and counted."""
        source, sampling, size = self.source, self.sampling, even_batch_size(n, self.batch_size)
        score, guide = Counted(evaluate_in_batches(source.prior, size, labels)), None
        self.networks.append(score)
        if sampling.guidance != 1 and sampling.guide == "unconditional":
            guide = Counted(evaluate_in_batches(source.prior, size))
            self.networks.append(guide)
        elif sampling.guidance != 1 and source.guide is not None:
            known = labels if isinstance(source.guide, ScoreModel) and source.guide.num_classes else None
            guide = Counted(evaluate_in_batches(source.guide, size, known))
            self.guides.append(guide)
        if guide is None:
            return score
        return add_guidance(score, guide, sampling.guidance, between=sampling.guided_between)

    def follow(self, labels: Classes) -> Iterator[Step]:
        """The states in the score's units."""
        if self.posterior is None:
            yield from self.source._states(self, labels)
        else:
            states = self.posterior.states(self, self.n, labels, self.sampling, self.generator)
            self.weight, self.disagreeing = yield from states

    def check(self, states: Iterator[Step]) -> Iterator[Step]:
        """Yield the states and check that they are finite; on a GPU, to avoid synchronising, only at the end.

        Raises NonFiniteSampleError, which names the noise level at which they are not.
        """
        sampling = self.sampling
        for number, (sigma, x) in enumerate(states, 1):
            asked = x.device.type == "cpu" or sigma == 0 or number == len(self)
            if asked and self.source._is_broken(x):
                how = f"{sampling.count} levels, step size {sampling.eps:g}, guidance {sampling.guidance:g}"
                first = f"samples are not finite at noise level {sigma:.4g}"
                raise NonFiniteSampleError(f"{first}, with {self.sampler} on {how}")
            yield Step(sigma, x)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples and their cost.

    ``samples`` (n, *d): in the units of the data.  ``path``: the states of the first few, if requested.
    ``steps``: the exhausted iterator that drew them.
    """

    samples: Float[Tensor, "n *d"]
    path: list[Step]
    steps: Steps
    seconds: float

    @property
    def cost(self) -> str:
        """The cost in words."""
        return cost(len(self.samples), self.steps, self.seconds)


def cost(n: int, steps: Steps, seconds: float) -> str:
    """The cost of ``n`` samples in words; evaluations of the network and of the guide are per sample."""
    guide = f" and {steps.guide_nfe} of the guide" if steps.guide_nfe else ""
    speed = f"{seconds:.1f} s, {n / seconds:.0f} samples/s"
    return f"{counted(n, 'sample')} by {steps.sampler}, {steps.nfe} evaluations each{guide}, {speed}"


CPU = torch.device("cpu")
BLOCK, BLOCK_VALUES = 1000, 2**24  # the most samples, and numbers in them, that ``Run.blocks`` draws together
DENSITY_VALUES = 4096  # numbers in the examples whose densities are computed together
UserData: TypeAlias = Any
"""Examples, or numbers about them, in the user's form: a tensor, or pandas' DataFrame or Series, which has no types."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A score with everything needed to use it: how to sample it, its guide, its folder.

    ``fit``, ``load`` and ``Run.of`` return runs.

    ``score``: ∇ₓ log p_σ(x), a trained ``ScoreModel`` or any other ``Score``.
    ``recipe``: how to build the model, how to sample it, and the transform from your units to the model's.
    ``sample``, ``steps``, ``posterior`` and ``log_prob`` use your units, and ``score`` the model's.
    ``guide``: a less accurate score that guidance moves samples away from.
    ``guide_recipe``: how to build the guide's model, if it differs from this one.
    ``device``: the device to compute on.
    ``folder``: the folder that the run was loaded from.
    ``settings``: the training settings.
    ``origin``: where the training data came from.
    ``measured``: metrics from the end of training, by name; for a table, the ``coverage`` of 90 % intervals on
    ``coverage_of`` hidden values.
    ``examples``: the class of its dataset.
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

    examples: ClassVar[type[Dataset]] = Dataset

    @classmethod
    def of(cls, score: Score, shape: tuple[int, ...], *, sigma_max: float, sigma_min: float) -> Self:
        """A run for any score: an exact one, someone else's model, or a function.

        ``score``: a function ``score(x, sigma)``.
        ``shape``: the shape of one example.
        ``sigma_max``, ``sigma_min``: the noise levels > 0 at which sampling starts and ends.
        Raises ValueError for an empty shape, and for noise levels out of range.

        >>> score = ncsn.GaussianMixture(torch.tensor([[-5.0, 0.0], [5.0, 0.0]]))
        >>> run = ncsn.Run.of(score, shape=(2,), sigma_max=50.0, sigma_min=0.02)
        >>> run.sample(100, seed=0).shape
        torch.Size([100, 2])
        """
        check_type("score", score, Callable)
        check_type("shape", shape, tuple)
        if not shape or min(whole("shape", each, 0) for each in shape) < 1:
            raise ValueError(f"shape is {shape}; it must be the shape of one example, such as (2,) or (1, 28, 28)")
        sampling = Sampling.of("dpmpp-sde", sigma_max, sigma_min)
        return cls(score=score, recipe=Recipe(network="none", arguments={}, shape=shape, sampling=sampling))

    def __repr__(self) -> str:
        """What it is, in up to five lines."""
        recipe, names = self.recipe, getattr(self.transform, "names", ())
        place = f" from {self.folder}" if self.folder else ""
        size = f", {self.parameters:,} weights" if isinstance(self.score, ScoreModel) else ""
        sampling = recipe.sampling
        lines = [
            f"Run of {self.examples.noun}{place}",
            f"columns: {textwrap.shorten(', '.join(names), 90, placeholder='…')}"
            if names
            else f"shape: {recipe.shape}",
            f"score: {type(self.score).__name__}{size}, on {self.device}",
            f"sampler: {sampling.sampler}, σ from {sampling.sigma_max:.3g} to {sampling.sigma_min:.3g}",
            "measured: " + ", ".join(f"{name} {value:.3g}" for name, value in self.measured.items()),
        ]
        return "\n".join(lines if self.measured else lines[:-1])

    @property
    def transform(self) -> Transform:
        """The transform from the user's units to the model's."""
        return self.recipe.transform

    @property
    def posterior_score(self) -> Posterior | None:
        """The posterior's score, if this is the run of a posterior."""
        return self.score if isinstance(self.score, Posterior) else None

    @property
    def prior(self) -> Score:
        """The prior's score, if this is the run of a posterior; otherwise the run's own."""
        return self.score if self.posterior_score is None else self.posterior_score.prior

    @property
    def model(self) -> ScoreModel:
        """The score, if it is a network.  Raises ValueError if it isn't."""
        if not isinstance(self.score, ScoreModel):
            raise ValueError(f"the score is a {type(self.score).__name__}; expected a ScoreModel")
        return self.score

    def data(self, dataset: str | None = None) -> Dataset:
        """The data that the run was trained on, including its validation and test examples.

        ``dataset``: where the data is now, if it has moved.
        Raises ValueError if the data is unknown, can't be read, or isn't what the run was trained on.
        """
        if self.origin is None:
            raise ValueError(f"{self.folder or 'the run'} does not say which data it was trained on")
        place = self.origin.place(dataset)
        data = self._read(place, self.origin.reading)
        self.origin.check(data, place)
        return data

    @property
    def parameters(self) -> int:
        """The number of weights in the network."""
        return sum(p.numel() for p in self.model.parameters())

    def to(self, device: str | torch.device) -> Self:
        """The same run on another device.

        ``device``: auto (CUDA if available, otherwise the CPU), cpu, cuda or mps.
        Raises ValueError if this machine has no such device.
        """
        chosen = hardware.choose_device(str(device))

        def there(score: Score) -> Score:
            if isinstance(score, Posterior):
                return score.to(chosen, there(score.prior))
            if not isinstance(score, ScoreModel):
                return score
            if score.data_mean.device != chosen:  # a copy, because the original run stays where it is
                score = copy.deepcopy(score).to(chosen)
            # 256 levels of a pixel survive bfloat16; points would lose digits.
            score.autocast = hardware.choose_autocast(self.examples.precision, chosen)
            return score

        guide = None if self.guide is None else there(self.guide)
        return replace(self, score=there(self.score), guide=guide, device=chosen)

    def steps(
        self,
        n: int = 1,
        *,
        seed: int | torch.Generator = 0,
        label: Label | None = None,
        batch_size: int = 500,
        start: Float[Tensor, "n *d"] | None = None,
        particles: int | None = None,
        **changes: Unpack[SamplingChanges],
    ) -> Steps:
        """Iterate over the states of ``n`` samples from noise to data, ``step.sigma`` and ``step.x``.

        The last state holds the samples.  Options default to the run's own.  After the last state of a posterior with
        particles, ``steps.effective`` is their mean effective sample size.

        ``seed``: the same seed gives the same samples on one machine, whatever the batch size; or a generator.
        ``sampler``: a name in ``SAMPLERS``.
        ``levels``: the number of noise levels, or the levels themselves.
        ``steps``: Langevin steps: per level for annealed, in total for langevin.
        ``eps``: the Langevin step size α at the smallest noise level.
        ``guidance``: the guidance scale, which says how far to move away from the guide; 1 disables guidance.
        ``label``: one class for all samples, by name or number; a number for each; "any" to draw classes in the
        proportions of the training data; or "none" for the unconditional score.  By default "any" if the proportions
        are known, but "none" for a posterior.
        ``batch_size``: the largest number of samples per network evaluation.
        ``start``: states to start from instead of noise, (n, *d), in the score's units.
        ``particles``: the number of particles that correct a posterior, and never fewer than samples; 1 is plain moment
        matching with dpmpp-sde.  For examples of up to 64 numbers, the default is 1,000, or 250 if the example and
        its measurement both have more than 16 numbers, or 64 for each of several measurements.  For larger examples,
        with a sampler of your choice and with guidance it is 1.
        Raises ValueError for options that the run does not support.

        >>> run = ncsn.load("mnist", device="cpu")
        >>> [round(step.sigma, 2) for step in run.steps(1, levels=4)]
        [1.94, 0.23, 0.01, 0.0]
        """
        n, batch_size = whole("n", n, 1), whole("batch_size", batch_size, 1)
        refuse_options("steps", changes.keys() - SamplingChanges.__annotations__.keys())
        if np.ndim(levels := changes.get("levels")) == 1:  # type: ignore[arg-type]
            changes["levels"] = tuple(map(float, levels))  # type: ignore[arg-type]
        if start is not None:
            start = as_floats("start", start, ", ".join(map(str, (n, *self.recipe.shape)))).to(self.device)
        generator = generator_of(seed, self.device)
        if label is None and self.posterior_score is not None:
            label = "none"
        labels = self.recipe.labels(label, n, generator)
        guidance = changes.get("guidance")
        sampling = guidance_of(self, self.recipe.sampling.but(**changes), labels, guidance)
        given, alone = self.posterior_score, start is None and changes.get("sampler") is None and guidance in (None, 1)
        if particles is not None:
            particles = whole("particles", particles, 1)
        if isinstance(given, MomentMatching) and alone:
            given = given.with_particles(n, particles, shape=self.recipe.shape, labels=labels)
        elif particles not in (None, 1):
            raise ValueError(f"particles is {particles}; it needs a posterior, and no sampler, guidance or start")
        return Steps(self, sampling, given, n, labels, start=start, generator=generator, batch_size=batch_size)

    def sample(self, n: int = 1, **options: Unpack[SeededOptions]) -> UserData:
        """Draw ``n`` samples in the units of the data, (n, *d).

        ``options``: as for ``steps``.
        Raises ValueError as ``steps`` does.

        >>> run = ncsn.load("mnist", device="cpu")
        >>> run.sample(2, seed=0, levels=4, label="7").shape
        torch.Size([2, 1, 28, 28])
        """
        return self._draw(whole("n", n, 1), options)

    def _draw(self, n: int, options: SeededOptions) -> Shaped[Tensor, "n *d"]:
        """``n`` samples as a tensor in the user's units."""
        return self.steps(n, **options).last()

    def stored(self, samples: Float[Tensor, "n *d"], depth: Depth | None = None) -> Shaped[np.ndarray, "n *d"]:
        """Samples as an array is stored in a file: images in the depth of the training files, or another."""
        own = self.transform if isinstance(self.transform, Depth) else BYTES
        return (depth or own).stored(samples) if len(self.recipe.shape) == 3 else samples.numpy()

    # What tables and signals do in their own way.

    def _read(self, place: str, reading: Reading) -> Dataset:
        """The dataset at a path.  Raises ValueError if it can't be read."""
        raise NotImplementedError

    def _numbers(self, x: object) -> Shaped[Tensor, "b *d"]:
        """A user's examples as a tensor in the user's units.  Raises ValueError for a wrong shape or other columns."""
        return as_numbers("x", x, ", ".join(map(str, ("b", *self.recipe.shape))))

    def _align(self, values: Float[Tensor, "b"], x: object) -> UserData:
        """One number per example, in a form that suits the user's examples."""
        return values

    def _states(self, steps: Steps, labels: Classes) -> Iterator[Step]:
        """The states of ``steps`` in the score's units, without a posterior."""
        score = steps.score(steps.n, labels)
        return steps.sampling.follow(score, steps.start(steps.n, labels), generator=steps.generator)

    def _is_broken(self, x: Float[Tensor, "b *d"]) -> bool:
        """Whether samples in the score's units are NaN or infinite."""
        return not bool(x.isfinite().all())

    def _density(self, z: Float[Tensor, "b *d"], solve: Callable[..., LogDensities]) -> LogDensities:
        """Log densities in the score's units; ``solve``: those of a score, points and their mean."""
        return solve(self.score, z, mean=self.means(None)[0])

    def _log_volume(self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx| at examples in the user's units."""
        return self.transform.log_abs_det_jacobian(x, generator)

    def blocks(self, n: int, *, seed: int = 0, **options: Unpack[SamplingOptions]) -> Iterator[Steps]:
        """Draw ``n`` samples one block at a time, in the memory of a single block; yields ``Steps`` for each.

        A block has 1,000 samples, or fewer if they exceed 16 million numbers.

        ``seed``: the seed of the first block, as for ``steps``; those of the others follow from it.
        ``options``: as for ``steps``; ``label`` must be one class for all, "any" or "none".
        Raises ValueError as ``steps`` does.
        """
        size = block_size(self.recipe.shape)
        for number in range(-(-whole("n", n, 1) // size)):
            yield self.steps(min(size, n - number * size), seed=block_seed(seed, number), **options)

    @property
    def digest(self) -> str:
        """A sha256 of everything that determines samples: the recipe, the weights and those of the guide."""
        networks = [score for score in (self.prior, self.guide) if isinstance(score, nn.Module)]
        tensors = [each for network in networks for each in network.state_dict().items()]
        return sha256_of([repr(self.recipe), *(part for name, tensor in tensors for part in (name, bytes_of(tensor)))])

    @torch.no_grad()
    def means(self, labels: Int64[Tensor, "n"] | None) -> Float[Tensor, "_ *d"]:
        """The mean of each label's class, or the single mean of all data, as the score knows it and in its units.

        That is the origin denoised at σ_max, which differs from MNIST's means by 0.4 if σ_max is 10.
        """
        middle = torch.zeros(self.recipe.shape, dtype=torch.float32, device=self.device)[None]
        score, which = self.prior, torch.zeros(1, dtype=torch.long, device=self.device)
        if labels is not None:
            classes, which = torch.unique(labels, return_inverse=True)
            middle = middle.expand(len(classes), *self.recipe.shape)
            score = evaluate_in_batches(score, len(classes), classes)
        with hardware.nothing_compiled():
            return tweedie(score, middle, self.recipe.sampling.sigma_max)[which]

    def posterior(
        self,
        measure: Measurement,
        y: Numbers,
        *,
        noise_std: Numbers,
        solver_steps: int = 3,
    ) -> Self:
        """A run that samples the posterior p(x | y), where y = A x + n is a measurement with noise n ~ N(0, σ_y²).

        ``measure``: A, a linear function of a batch of examples, (b, *d) → (b, *m); it may add a constant.
        ``y``: one measurement (*m) for any number of samples, or one for each sample, (n, *m).
        ``noise_std``: σ_y > 0 in the units of y: one number, or numbers that broadcast against y.
        ``solver_steps``: conjugate-gradient steps of moment matching, see ``ncsn.posterior``.
        Raises ValueError if ``y`` doesn't have the shape of A x, if the noise isn't positive, if A isn't linear, and if
        the run already is a posterior.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.02)
        >>> answers = run.posterior(lambda x: x[:, :1], 2.0, noise_std=1.0).sample(1000)
        >>> answers[:, 0].mean().round()  # halfway between the measured 2 and the prior's mean 0
        tensor(1.)
        """
        zero = torch.zeros(self.recipe.shape, device=self.device)
        shift, scale, affine = self.transform.affine(self.recipe.shape)
        if not bool(affine.all()):
            each = torch.eye(len(zero), device=self.device)
            if bool((apply(measure, each) - apply(measure, zero[None])).cpu()[~affine].any()):
                bent = "; ".join(self.transform.describe())
                raise ValueError(f"measure uses columns that are transformed ({bent}); use run.impute instead")
        std = as_numbers("noise_std", noise_std).to(zero)
        observation = Observation.of(measure, as_numbers("y", y).to(zero), std, shift.to(zero), scale.to(zero))
        observation.check_precision(self.recipe.sampling.sigma_max, self.recipe.shape)
        return self.condition_on(observation, whole("solver_steps", solver_steps, 1))

    def condition_on(self, observation: Observation, solver_steps: int = 3) -> Self:
        """The run of the posterior given an observation in the units of the score; otherwise as ``posterior``."""
        # Twice the usual levels, because the posterior's score is rougher than the prior's; guidance would distort it.
        sampling = self.recipe.sampling.but(sampler="dpmpp-sde", guidance=1.0)
        sampling = sampling.but(levels=2 * sampling.spec.levels_for(sampling.sigma_max, sampling.sigma_min))
        return self.with_posterior(MomentMatching(self.score, observation, solver_steps), sampling)

    def with_posterior(self, posterior: Posterior, sampling: Sampling) -> Self:
        """The run of a posterior.  Raises ValueError if this run already is one."""
        require_prior(self, "the prior of another, so combine all measurements in one")
        return replace(self, score=posterior, recipe=replace(self.recipe, sampling=sampling))

    def log_evidence(self, **options: Unpack[SeededOptions]) -> LogDensities:
        """Log p(y), in nats, for each measurement of a posterior: how well model and operator together explain it.

        The difference between two models, or two operators, is their log Bayes factor.  The standard error
        says how much the result varies from seed to seed; it is unreliable if ``steps.effective`` is only a handful.

        ``options``: as for ``steps``.
        Raises ValueError as ``steps`` does, for runs that don't come from ``run.posterior``, and without particles.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.02)
        >>> run.posterior(lambda x: x[:, :1], 2.0, noise_std=1.0).log_evidence().log_prob.round(decimals=1)
        tensor([-2.3000], dtype=torch.float64)
        """
        if not isinstance(self.posterior_score, MomentMatching):
            raise ValueError("the run has no measurement; call run.posterior(...).log_evidence()")
        steps = self.steps(len(self.posterior_score.observation.y), **options)
        steps.last()
        if (weight := steps.weight) is None:
            raise ValueError("log_evidence needs particles: pass particles=1000, or leave out sampler and guidance")
        return LogDensities(weight.log_evidence.cpu(), weight.standard_error.cpu(), steps.nfe)

    def held_out(self, dataset: str | None = None) -> Shaped[Tensor, "n *d"]:
        """The test examples of the data in the user's units; ``dataset`` and errors as for ``data``."""
        data = self.data(dataset)
        return data.test if data.test.dtype == torch.uint8 else data.transform.restore(data.test.double())

    def replacement(self, known: Bool[Tensor, "*d"] | np.ndarray, y: Numbers) -> Self:
        """A run that fills in the unknown part of ``y`` by the NCSN paper's method, with annealed Langevin dynamics.

        It takes five steps per level, or the run's own number if that is larger.

        ``known``: True where a number of an example is known, (*d).
        ``y``: one example, or one for each sample; unknown numbers are ignored.
        Raises ValueError for other shapes, if ``known`` is not boolean, and if the run already is a posterior.
        """
        target, shape = as_numbers("y", y), self.recipe.shape
        mask = as_mask(known, shape).to(self.device)
        if shape not in (target.shape, target.shape[1:]):
            raise ValueError(f"y has shape {tuple(target.shape)}; expected {shape}, or one more axis for samples")
        target = target[None] if target.ndim == len(shape) else target
        if target.dtype != torch.uint8:
            seen = mask.to(target.device)
            if target[:, seen].isnan().any():
                raise ValueError("y has NaN among the known numbers")
            self.transform.check(torch.where(seen, target, torch.nan))
        target = move_to(self.transform.forward(target), self.device)
        # With the usual two steps per level, the example of ``ncsn.replacement`` is off by 0.07; with five, by 0.03.
        sampling = self.recipe.sampling.but(sampler="annealed", guidance=1.0)
        sampling = replace(sampling, steps=max(5, sampling.steps))
        return self.with_posterior(Replacement(self.score, mask, target), sampling)

    def log_prob(
        self,
        x: object,
        *,
        sigma_min: float | None = None,
        probes: int | None = None,
        tolerance: float = 1e-4,
        batch_size: int | None = None,
        seed: int | torch.Generator = 0,
    ) -> UserData:
        """Log p(x) in nats, in the units of the data, see ``ncsn.log_prob``.

        ``x``: examples, (b, *d).
        ``sigma_min``: the noise level of the density, in the score's units; by default the run's smallest.
        ``probes``: random directions for estimating the divergence; by default 4, or the exact trace for up to 16
        dimensions.
        ``tolerance``: the relative and absolute tolerance of each solver step, in (0, 1].
        ``batch_size``: examples per batch; by default as many as have 4,096 numbers, but at least 32.
        ``seed``: the seed of the random directions.
        Returns a tensor (b,).
        Raises ValueError for posteriors, whose density is unknown, for x of another shape, and for missing or
        impossible values.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.01)
        >>> run.log_prob(torch.zeros(1, 2), tolerance=1e-4).round(decimals=2)
        tensor([-1.8400], dtype=torch.float64)
        """
        require_prior(self, "evaluated, because its density is unknown")
        numbers, transform, noun = self._numbers(x), self.transform, self.examples.noun
        for where in (~numbers.isfinite()).nonzero()[:1].tolist():
            what = "missing" if bool(numbers[tuple(where)].isnan()) else "infinite"
            raise ValueError(f"{transform.place(*where[:2])} is {what}; only complete {noun} have a density")
        transform.check(numbers)
        parts = self.log_densities(
            numbers, sigma_min=sigma_min, probes=probes, tolerance=tolerance, batch_size=batch_size, seed=seed
        )
        found = []
        with bar(total=len(numbers), unit=noun) as shown:
            for part in parts:
                found.append(part.log_prob)
                shown.update(len(part.log_prob))
        return self._align(torch.cat(found), x)

    def log_densities(
        self,
        x: Shaped[Tensor, "b *d"],
        *,
        place: int | None = None,
        sigma_min: float | None = None,
        probes: int | None = None,
        tolerance: float = 1e-4,
        batch_size: int | None = None,
        seed: int | torch.Generator = 0,
    ) -> Iterator[LogDensities]:
        """Log densities of complete, possible examples, one batch at a time; arguments as for ``Run.log_prob``.

        ``place``: the seed of a random place of each discrete value in its cell; by default it is the middle.
        """
        score, sampling, transform = self.score, self.recipe.sampling, self.transform
        places = [None if place is None else torch.Generator().manual_seed(place) for _ in range(2)]
        z, volume = move_to(transform.forward(x, places[0]), self.device), self._log_volume(x, places[1])
        if isinstance(score, ScoreModel):
            score, z = copy.copy(score), z.to(score.data_std)
            score.autocast = None  # an adaptive solver would mistake rounding for curvature
        if real("tolerance", tolerance, above=0) > 1:
            raise ValueError(f"tolerance is {tolerance}; it must be at most 1")
        numbers = math.prod(self.recipe.shape)
        # Small examples are cheaper together, but the solver's step must suit the hardest of them.
        suited = max(32, DENSITY_VALUES // max(1, numbers))
        batch_size = suited if batch_size is None else whole("batch_size", batch_size, 1)
        if probes is not None or numbers > 16:
            probes = 4 if probes is None else whole("probes", probes, 1)
        smallest = sampling.sigma_min if sigma_min is None else sigma_min
        density = partial(
            log_prob, sigma_max=sampling.sigma_max, sigma_min=smallest, probes=probes, tolerance=tolerance
        )
        own = replace(self, score=score)
        batches = zip(torch.split(z, batch_size), torch.split(volume, batch_size), strict=True)
        for number, (part, change) in enumerate(batches):
            part_seed = seed if isinstance(seed, torch.Generator) else block_seed(seed, number)
            solve = partial(density, generator=generator_of(part_seed, self.device))
            with hardware.uncompiled(), hardware.threads_for(score):  # each probe needs a gradient
                found = own._density(part, solve)
            yield replace(found, log_prob=found.log_prob + change.to(found.log_prob))

    def compile(self, batch_size: int) -> None:
        """Compile the networks; if this machine or torch can't, a message says why and they stay as they are.

        ``batch_size``: the batch size to compile for.
        Raises ValueError for a posterior: torch can't compile gradients that are computed more than once.
        """
        require_prior(self, "compiled")
        example = torch.zeros(batch_size, *self.recipe.shape, device=self.device)
        sigma = torch.tensor(1.0, device=self.device)
        with torch.no_grad():  # as they will be called
            for score in (self.score, self.guide):
                if isinstance(score, ScoreModel):
                    hardware.compile_network(score.network, partial(score, example, sigma))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Save the run to a folder, for ``ncsn.load`` and the command ``ncsn``.

        ``folder``: the run's folder, which must not hold another run.
        ``overwrite``: replace an existing run.
        Raises ValueError if the folder holds another run and ``overwrite`` is not set, if the score isn't a network,
        as for a posterior, or if the guide has a different size and no recipe.
        """
        require_prior(self, "saved")
        check_type("folder", folder or None, str, Path)
        parts = [(Path(folder), self, self.model)]
        if self.guide is not None:
            guide = replace(self, score=self.guide, recipe=self.guide_recipe or self.recipe)
            if self.guide_recipe is None and guide.parameters != self.parameters:
                raise ValueError("the guide's network differs from the run's; pass guide_recipe to say how to build it")
            parts.append((Path(folder) / "guide", guide, guide.model))
        with claim(Path(folder), overwrite=overwrite):
            for place, run, model in parts:
                place.mkdir(exist_ok=True)
                write_model(place, model, origin=run.origin)
                write_config(place, config_of(run))


def require_prior(run: Run, verb: str) -> None:
    """Raises ValueError if this is the run of a posterior."""
    if run.posterior_score is not None:
        raise ValueError(f"a posterior cannot be {verb}; use the prior's run")


def guidance_of(run: Run, sampling: Sampling, labels: Tensor | None, weight: float | None) -> Sampling:
    """The sampling with the guide that the run has; without one, its default guidance is turned off.

    ``weight``: the guidance that the user asked for.  Raises ValueError if it needs a guide.
    """
    if run.guide is None and labels is not None:
        sampling = replace(sampling, guide="unconditional")
    if (run.guide if sampling.guide == "smaller" else labels) is not None:
        return sampling
    if weight not in (None, 1):
        missing = "the run has no such guide, so guidance must be 1"
        raise ValueError(f"guidance is {weight}, guide is {sampling.guide}; {missing}")
    return replace(sampling, guidance=1.0)


def config_of(run: Run) -> Config:
    """The content of a run's config.json."""
    return Config(version=VERSION, settings=run.settings, recipe=run.recipe, data=run.origin, measured=run.measured)


def block_size(shape: tuple[int, ...]) -> int:
    """The number of examples of this shape that ``Run.blocks`` draws together."""
    return max(1, min(BLOCK, BLOCK_VALUES // math.prod(shape)))


def block_seed(seed: int, number: int) -> int:
    """The seed of a block of samples; the first block has the user's.

    CPU generators have 2³² seeds.  Blocks count up from a seed that is far from the user's, so that no two blocks share
    a seed, and seeds 0 and 1 have no blocks in common.
    """
    if number == 0:
        return seed
    start = np.random.SeedSequence(seed % 2**64).generate_state(1)[0]
    return (int(start) + number) % 2**32


def generator_of(seed: int | torch.Generator, device: torch.device) -> torch.Generator:
    """A generator with this seed on a device, or the generator that is passed."""
    if isinstance(seed, torch.Generator):
        return seed
    return torch.Generator(device).manual_seed(whole("seed", seed, 0))
