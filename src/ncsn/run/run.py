"""Runs: a score and everything you can do with it; and ``PosteriorRun``, which draws examples given a measurement."""

import copy
import math
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor, nn
from typing_extensions import Self, Unpack

from ncsn.conditionals import ConditionalModel
from ncsn.data.dataset import Dataset, Origin, short_name
from ncsn.data.transforms import BYTES, Depth, Transform
from ncsn.likelihood import LogDensities, log_prob
from ncsn.machine import hardware
from ncsn.machine.messages import bar
from ncsn.machine.storage import bytes_of, sha256_of
from ncsn.machine.tensors import move_to
from ncsn.measurements import Measurement, Numbers, Observation, apply, as_mask
from ncsn.noise import check_generator
from ncsn.posteriors import MomentMatching, Posterior, Replacement
from ncsn.prior import Classes, Prior, class_means, with_guide
from ncsn.run.folder import VERSION, Config, claim, write_config, write_model
from ncsn.run.options import SamplingChanges, SamplingOptions, SeededOptions, SeededPosteriorOptions, UserData
from ncsn.run.recipe import Label, Recipe
from ncsn.run.steps import PosteriorSteps, Steps, block_seed, block_size, generator_of
from ncsn.samplers import Step
from ncsn.sampling import Sampling
from ncsn.score import Score, ScoreModel
from ncsn.settings import Reading
from ncsn.validation import Json, as_floats, as_numbers, check_type, real, refuse_options, whole

CPU = torch.device("cpu")
DENSITY_VALUES = 4096  # numbers in the examples whose densities are computed together


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
        if not shape or min(whole("shape", size, 0) for size in shape) < 1:
            raise ValueError(f"shape is {shape}; it must be the shape of one example, such as (2,) or (1, 28, 28)")
        sampling = Sampling.of("dpmpp-sde", sigma_max, sigma_min)
        return cls(score=score, recipe=Recipe(network="none", arguments={}, shape=shape, sampling=sampling))

    def __repr__(self) -> str:
        """A description of the run, in up to five lines."""
        names = getattr(self.transform, "names", ())
        columns = f"columns: {textwrap.shorten(', '.join(names), 90, placeholder='…')}"
        place = f" from {self.folder}" if self.folder else ""
        size = f", {self.parameters:,} weights" if isinstance(self.score, ScoreModel) else ""
        sampling = self.recipe.sampling
        lines = [
            f"Run of {self.examples.noun}{place}",
            columns if names else f"shape: {self.recipe.shape}",
            f"score: {type(self.score).__name__}{size}, on {self.device}",
            f"sampler: {sampling.sampler}, σ from {sampling.sigma_max:.3g} to {sampling.sigma_min:.3g}",
        ]
        if self.measured:
            metrics = ", ".join(f"{name} {value:.3g}" for name, value in self.measured.items())
            lines.append(f"measured: {metrics}")
        return "\n".join(lines)

    @property
    def transform(self) -> Transform:
        """The transform from the user's units to the model's."""
        return self.recipe.transform

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
        data = replace(self._read(place, self.origin.reading), name=short_name(place))
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
        target = hardware.choose_device(str(device))

        def move(score: Score) -> Score:
            if not isinstance(score, ScoreModel):
                return score
            if score.data_mean.device != target:  # a copy, because the original run stays where it is
                score = copy.deepcopy(score).to(target)
            # 256 levels of a pixel survive bfloat16; points would lose digits.
            score.autocast = hardware.choose_autocast(self.examples.precision, target)
            return score

        guide = None if self.guide is None else move(self.guide)
        return replace(self, score=move(self.score), guide=guide, device=target)

    def steps(
        self,
        n: int = 1,
        *,
        seed: int | torch.Generator = 0,
        label: Label | None = None,
        batch_size: int = 500,
        start: Float[Tensor, "n *d"] | None = None,
        **changes: Unpack[SamplingChanges],
    ) -> Steps:
        """Iterate over the states of ``n`` samples from noise to data, ``step.sigma`` and ``step.x``.

        The last state holds the samples.  Options default to the run's own.

        ``seed``: the same seed gives the same samples on one machine, whatever the batch size; or a generator.
        ``sampler``: a name in ``SAMPLERS``.
        ``levels``: the number of noise levels, or the levels themselves.
        ``steps``: Langevin steps: per level for annealed, in total for langevin.
        ``eps``: the Langevin step size α at the smallest noise level.
        ``guidance``: the guidance scale, which says how far to move away from the guide; 1 disables guidance.
        ``label``: one class for all samples, by name or number; a number for each; "any" to draw classes in the
        proportions of the training data; or "none" for the unconditional score.  By default "any" if the proportions
        are known.
        ``batch_size``: the largest number of samples per network evaluation.
        ``start``: states to start from instead of noise, (n, *d), in the score's units.
        Raises ValueError for options that the run does not support.

        >>> run = ncsn.load("mnist", device="cpu")
        >>> [round(step.sigma, 2) for step in run.steps(1, levels=4)]
        [1.94, 0.23, 0.01, 0.0]
        """
        n = whole("n", n, 1)
        generator = generator_of(seed, self.device)
        labels = self.recipe.labels(label, n, generator)
        sampling = self.recipe.sampling
        prior = prior_of(
            self, n, sampling, changes, labels=labels, generator=generator, batch_size=batch_size, start=start
        )
        allow_nan = isinstance(self.score, ConditionalModel)  # a missing cell
        return Steps(self._states(prior, n, labels), prior, n, self.transform, allow_nan=allow_nan)

    def sample(self, n: int = 1, **options: Unpack[SeededOptions]) -> UserData:
        """Draw ``n`` samples in the units of the data, (n, *d).

        ``options``: as for ``steps``.
        Raises ValueError as ``steps`` does.

        >>> run = ncsn.load("mnist", device="cpu")
        >>> run.sample(2, seed=0, levels=4, label="7").shape
        torch.Size([2, 1, 28, 28])
        """
        return self._in_users_form(self._draw(whole("n", n, 1), options))

    def _draw(self, n: int, options: SeededOptions) -> Shaped[Tensor, "n *d"]:
        """``n`` samples as a tensor in the user's units."""
        return self.steps(n, **options).last()

    def stored(self, samples: Float[Tensor, "n *d"], depth: Depth | None = None) -> Shaped[np.ndarray, "n *d"]:
        """Samples as an array is stored in a file: images in the depth of the training files, or another."""
        if len(self.recipe.shape) != 3:
            return samples.numpy()
        default = self.transform if isinstance(self.transform, Depth) else BYTES
        return (depth or default).stored(samples)

    # What tables and signals do in their own way.

    def _read(self, place: str, reading: Reading) -> Dataset:
        """The dataset at a path.  Raises ValueError if it can't be read."""
        raise NotImplementedError

    def _numbers(self, x: object) -> Shaped[Tensor, "b *d"]:
        """A user's examples as a tensor in the user's units.  Raises ValueError for a wrong shape or other columns."""
        return as_numbers("x", x, ", ".join(map(str, ("b", *self.recipe.shape))))

    def _in_users_form(self, x: Shaped[Tensor, "n *d"]) -> UserData:
        """Examples in the form of the training data."""
        return x

    def _align(self, values: Float[Tensor, "b"], x: object) -> UserData:
        """One number per example: a Series if the examples are a DataFrame, otherwise a tensor."""
        return values

    def _states(self, prior: Prior, n: int, labels: Classes) -> Iterator[Step]:
        """The states of ``n`` samples of these classes, in the score's units."""
        # A generator, so that the network is evaluated only once the first state is drawn.
        score = prior.score(n, labels)
        yield from prior.sampling.follow(score, prior.start(n, labels), generator=prior.generator)

    def _density(self, z: Float[Tensor, "b *d"], solve: Callable[..., LogDensities]) -> LogDensities:
        """Log densities in the score's units; ``solve``: those of a score, points and their mean."""
        mean = class_means(self.score, self.recipe.shape, None, self.recipe.sampling.sigma_max, self.device)[0]
        return solve(self.score, z, mean=mean)

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
        for number in range(math.ceil(whole("n", n, 1) / size)):
            yield self.steps(min(size, n - number * size), seed=block_seed(seed, number), **options)

    @property
    def digest(self) -> str:
        """A sha256 of everything that determines samples: the recipe, the weights and those of the guide."""
        contents: list[str | np.ndarray] = [repr(self.recipe)]
        for score in (self.score, self.guide):
            if isinstance(score, nn.Module):
                for name, tensor in score.state_dict().items():
                    contents += [name, bytes_of(tensor)]
        return sha256_of(contents)

    def posterior(
        self,
        measure: Measurement,
        y: Numbers,
        *,
        noise_std: Numbers,
        solver_steps: int = 3,
    ) -> "PosteriorRun":
        """The posterior p(x | y), where y = A x + n is a measurement with noise n ~ N(0, σ_y²), to draw samples from.

        ``measure``: A, a linear function of a batch of examples, (b, *d) → (b, *m); it may add a constant.
        ``y``: one measurement (*m) for any number of samples, or one for each sample, (n, *m).
        ``noise_std``: σ_y > 0 in the units of y: one number, or numbers that broadcast against y.
        ``solver_steps``: conjugate-gradient steps of moment matching, see ``ncsn.posterior``.
        Raises ValueError if ``y`` doesn't have the shape of A x, if the noise isn't positive, and if A isn't linear.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.02)
        >>> answers = run.posterior(lambda x: x[:, :1], 2.0, noise_std=1.0).sample(1000)
        >>> answers[:, 0].mean().round()  # halfway between the measured 2 and the prior's mean 0
        tensor(1.)
        """
        zero = torch.zeros(self.recipe.shape, device=self.device)
        shift, scale, is_affine = self.transform.affine(self.recipe.shape)
        if not bool(is_affine.all()):
            units = torch.eye(len(zero), device=self.device)
            effects = apply(measure, units) - apply(measure, zero[None])
            if bool(effects.cpu()[~is_affine].any()):
                transformed = "; ".join(self.transform.describe())
                raise ValueError(f"measure uses columns that are transformed ({transformed}); use run.impute instead")
        std = as_numbers("noise_std", noise_std).to(zero)
        observation = Observation.of(measure, as_numbers("y", y).to(zero), std, shift.to(zero), scale.to(zero))
        observation.check_precision(self.recipe.sampling.sigma_max, self.recipe.shape)
        return posterior_of(self, observation, whole("solver_steps", solver_steps, 1))

    def held_out(self, dataset: str | None = None) -> Shaped[Tensor, "n *d"]:
        """The test examples of the data in the user's units; ``dataset`` and errors as for ``data``."""
        data = self.data(dataset)
        return data.test if data.test.dtype == torch.uint8 else data.transform.restore(data.test.double())

    def replacement(self, known: Bool[Tensor, "*d"] | np.ndarray, y: Numbers) -> "PosteriorRun":
        """Fill in the unknown part of ``y`` by the NCSN paper's method, with annealed Langevin dynamics.

        It takes five steps per level, or the run's own number if that is larger.

        ``known``: True where a number of an example is known, (*d).
        ``y``: one example, or one for each sample; unknown numbers are ignored.
        Raises ValueError for other shapes, and if ``known`` is not boolean.
        """
        target, shape = as_numbers("y", y), self.recipe.shape
        mask = as_mask(known, shape).to(self.device)
        if shape not in (target.shape, target.shape[1:]):
            raise ValueError(f"y has shape {tuple(target.shape)}; expected {shape}, or one more axis for samples")
        target = target[None] if target.ndim == len(shape) else target
        if target.dtype != torch.uint8:
            values = torch.where(mask.to(target.device), target, torch.nan)
            if values[:, mask.to(target.device)].isnan().any():
                raise ValueError("y has NaN among the known numbers")
            self.transform.check(values)
        target = move_to(self.transform.forward(target), self.device)
        # With the usual two steps per level, the example of ``ncsn.replacement`` is off by 0.07; with five, by 0.03.
        sampling = self.recipe.sampling.but(sampler="annealed", guidance=1.0)
        sampling = replace(sampling, steps=max(5, sampling.steps))
        return PosteriorRun(prior=self, posterior=Replacement(self.score, mask, target), sampling=sampling)

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
        Raises ValueError for x of another shape, and for missing or impossible values.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.01)
        >>> run.log_prob(torch.zeros(1, 2), tolerance=1e-4).round(decimals=2)
        tensor([-1.8400], dtype=torch.float64)
        """
        numbers = self._numbers(x)
        for index in (~numbers.isfinite()).nonzero()[:1].tolist():
            problem = "missing" if bool(numbers[tuple(index)].isnan()) else "infinite"
            place = self.transform.place(*index[:2])
            raise ValueError(f"{place} is {problem}; only complete {self.examples.noun} have a density")
        self.transform.check(numbers)
        batches = self.log_densities(
            numbers, sigma_min=sigma_min, probes=probes, tolerance=tolerance, batch_size=batch_size, seed=seed
        )
        log_probs = list[Tensor]()
        with bar(total=len(numbers), unit=self.examples.noun) as progress:
            for densities in batches:
                log_probs.append(densities.log_prob)
                progress.update(len(densities.log_prob))
        return self._align(torch.cat(log_probs), x)

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
        score, sampling = self.score, self.recipe.sampling
        places = [None if place is None else torch.Generator().manual_seed(place) for _ in range(2)]
        z = move_to(self.transform.forward(x, places[0]), self.device)
        volume = self._log_volume(x, places[1])
        if isinstance(score, ScoreModel):
            score = copy.copy(score)
            score.autocast = None  # an adaptive solver would mistake rounding for curvature
            z = z.to(score.data_std)
        if real("tolerance", tolerance, above=0) > 1:
            raise ValueError(f"tolerance is {tolerance}; it must be at most 1")
        numbers = math.prod(self.recipe.shape)
        # Small examples are cheaper together, but the solver's step must suit the hardest of them.
        default_size = max(32, DENSITY_VALUES // max(1, numbers))
        batch_size = default_size if batch_size is None else whole("batch_size", batch_size, 1)
        if probes is not None or numbers > 16:
            probes = 4 if probes is None else whole("probes", probes, 1)
        density = partial(
            log_prob,
            sigma_max=sampling.sigma_max,
            sigma_min=sampling.sigma_min if sigma_min is None else sigma_min,
            probes=probes,
            tolerance=tolerance,
        )
        in_single_precision = replace(self, score=score)
        batches = zip(torch.split(z, batch_size), torch.split(volume, batch_size), strict=True)
        for number, (batch, batch_volume) in enumerate(batches):
            batch_seed = seed if isinstance(seed, torch.Generator) else block_seed(seed, number)
            solve = partial(density, generator=generator_of(batch_seed, self.device))
            with hardware.uncompiled(), hardware.threads_for(score):  # each probe needs a gradient
                densities = in_single_precision._density(batch, solve)
            yield replace(densities, log_prob=densities.log_prob + batch_volume.to(densities.log_prob))

    def compile(self, batch_size: int) -> None:
        """Compile the networks; if this machine or torch can't, a message says why and they stay as they are.

        ``batch_size``: the batch size to compile for.
        """
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
        Raises ValueError if the folder holds another run and ``overwrite`` is not set, if the score isn't a network, or
        if the guide has a different size and no recipe.
        """
        check_type("folder", folder or None, str, Path)
        runs = [(Path(folder), self)]
        if self.guide is not None:
            guide = replace(self, score=self.guide, recipe=self.guide_recipe or self.recipe)
            if self.guide_recipe is None and guide.parameters != self.parameters:
                raise ValueError("the guide's network differs from the run's; pass guide_recipe to say how to build it")
            runs.append((Path(folder) / "guide", guide))
        models = [run.model for _, run in runs]  # raises before anything is removed
        with claim(Path(folder), overwrite=overwrite):
            for (place, run), model in zip(runs, models, strict=True):
                place.mkdir(exist_ok=True)
                write_model(place, model, origin=run.origin)
                write_config(place, config_of(run))


@dataclass(frozen=True, kw_only=True)
class PosteriorRun:
    """Draws examples given a measurement; ``Run.posterior`` and ``Run.replacement`` return it.

    ``prior``: the run of the examples without a measurement.
    ``posterior``: the score of the posterior, in the units of the run's score.
    ``sampling``: how to sample it by default.
    """

    prior: Run
    posterior: Posterior
    sampling: Sampling

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
    ) -> PosteriorSteps:
        """Iterate over the states of ``n`` samples from noise to data, as ``Run.steps``.

        After the last state of a posterior with particles, ``steps.effective`` is their mean effective sample size.

        ``seed``, ``batch_size``, ``start``, ``changes``: as for ``Run.steps``.
        ``label``: as for ``Run.steps``, but by default "none".
        ``particles``: the number of particles that correct the posterior, and never fewer than samples; 1 is plain
        moment matching with dpmpp-sde.  For examples of up to 64 numbers, the default is 1,000, or 250 if the example
        and its measurement both have more than 16 numbers, or 64 for each of several measurements.  For larger
        examples, with a sampler of your choice and with guidance it is 1.
        Raises ValueError for options that the run does not support.
        """
        run, posterior = self.prior, self.posterior
        n = whole("n", n, 1)
        generator = generator_of(seed, run.device)
        labels = run.recipe.labels("none" if label is None else label, n, generator)
        prior = prior_of(
            run, n, self.sampling, changes, labels=labels, generator=generator, batch_size=batch_size, start=start
        )
        if particles is not None:
            particles = whole("particles", particles, 1)
        # Particles have a sampler of their own.
        by_default = start is None and changes.get("sampler") is None and changes.get("guidance") in (None, 1)
        if isinstance(posterior, MomentMatching) and by_default:
            posterior = posterior.with_particles(n, particles, shape=run.recipe.shape, labels=labels)
        elif particles not in (None, 1):
            allowed = "it needs moment matching, and no sampler, guidance or start"
            raise ValueError(f"particles is {particles}; {allowed}")
        return PosteriorSteps(posterior, prior, n, labels, run.transform)

    def sample(self, n: int = 1, **options: Unpack[SeededPosteriorOptions]) -> UserData:
        """Draw ``n`` samples in the units of the data, (n, *d); ``options``: as for ``steps``.

        Raises ValueError as ``steps`` does.
        """
        return self.prior._in_users_form(self.steps(n, **options).last())

    def log_evidence(self, **options: Unpack[SeededPosteriorOptions]) -> LogDensities:
        """Log p(y), in nats, for each measurement: how well model and operator together explain it.

        The difference between two models, or two operators, is their log Bayes factor.  The standard error
        says how much the result varies from seed to seed; it is unreliable if ``steps.effective`` is only a handful.

        ``options``: as for ``steps``.
        Raises ValueError as ``steps`` does, for ``Run.replacement``, and without particles.

        >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.02)
        >>> run.posterior(lambda x: x[:, :1], 2.0, noise_std=1.0).log_evidence().log_prob.round(decimals=1)
        tensor([-2.3000], dtype=torch.float64)
        """
        if not isinstance(self.posterior, MomentMatching):
            raise ValueError("replacement has no evidence; call run.posterior(...).log_evidence()")
        steps = self.steps(len(self.posterior.observation.y), **options)
        steps.last()
        if (weight := steps.weight) is None:
            raise ValueError("log_evidence needs particles: pass particles=1000, or leave out sampler and guidance")
        return LogDensities(weight.log_evidence.cpu(), weight.standard_error.cpu(), steps.nfe)


def posterior_of(run: Run, observation: Observation, solver_steps: int = 3) -> PosteriorRun:
    """The posterior of a run given an observation in the units of its score; otherwise as ``Run.posterior``."""
    # Twice the usual levels, because the posterior's score is rougher than the prior's; guidance would distort it.
    sampling = run.recipe.sampling.but(sampler="dpmpp-sde", guidance=1.0)
    sampling = sampling.but(levels=2 * sampling.spec.levels_for(sampling.sigma_max, sampling.sigma_min))
    return PosteriorRun(prior=run, posterior=MomentMatching(run.score, observation, solver_steps), sampling=sampling)


def prior_of(
    run: Run,
    n: int,
    sampling: Sampling,
    changes: SamplingChanges,
    *,
    labels: Classes,
    generator: torch.Generator,
    batch_size: int,
    start: Float[Tensor, "n *d"] | None,
) -> Prior:
    """What ``n`` samples of a run are drawn from; arguments as for ``Run.steps``.

    ``sampling``: how to sample by default, and the user's ``changes`` of that.
    Raises ValueError for options that the run does not support.
    """
    refuse_options("steps", changes.keys() - SamplingChanges.__annotations__.keys())
    check_generator(generator, run.device)
    if np.ndim(changes.get("levels")) == 1:  # type: ignore[arg-type]
        changes = {**changes, "levels": tuple(map(float, changes["levels"]))}  # type: ignore[arg-type]
    if start is not None:
        start = as_floats("start", start, ", ".join(map(str, (n, *run.recipe.shape)))).to(run.device)
    sampling = with_guide(sampling.but(**changes), run.guide, labels, changes.get("guidance"))
    return Prior(
        network=run.score,
        guide=run.guide,
        shape=run.recipe.shape,
        sampling=sampling,
        batch_size=whole("batch_size", batch_size, 1),
        generator=generator,
        start_at=start,
    )


def config_of(run: Run) -> Config:
    """The content of a run's config.json."""
    return Config(version=VERSION, settings=run.settings, recipe=run.recipe, data=run.origin, measured=run.measured)
