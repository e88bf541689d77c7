"""Learning the score of a distribution in the plane: settings, numbers and pictures."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from ncsn import machine, objectives, storage
from ncsn.distributions import TOYS, Distribution, GaussianMixture
from ncsn.evaluation import metrics
from ncsn.learn.settings import ResolvedToy, Toy, check_auto, kept
from ncsn.noise import Geometric, suggest_noise
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.samplers import Sampling
from ncsn.training import State
from ncsn.validation import validated

VIEW = 8.0  # everything is drawn on [-8, 8]², where the paper's figures are
PICTURES = ("score_field.png", "samples.png", "trajectories.gif")
MANY = 100_000  # training examples
OBJECTIVES: dict[str, objectives.Objective] = {
    "dsm": objectives.dsm,
    "ssm": objectives.ssm,
    "exact": objectives.exact,
}


def recalled(given: Toy) -> Toy:
    """The settings as given; with ``--resume`` those of the run that is there, if there is one, for another job.

    Raises ValueError if the run is of another experiment, or its settings are none.
    """
    job = replace(given.job, out=given.job.out or Path("runs") / f"toy-{given.generator}")
    if job.out is None or not job.resume or not storage.begun(job.out):
        return replace(given, job=job)
    saved = storage.read_settings(job.out, "toy")
    return replace(validated(ResolvedToy, saved, f"{job.out / 'config.json'}: settings"), job=job)


def resolve(given: Toy, data: Float[Tensor, "n 2"]) -> ResolvedToy:
    """The settings with a value for whatever was not given, some of them from the data."""
    if isinstance(given, ResolvedToy):
        return given
    check_auto(given, ("sigma_max", "sigma_min", "levels", "langevin_steps", "eps"))
    if given.noise == "auto":
        found = suggest_noise(data)
        print(found.explanation)
        given = replace(
            given,
            sigma_max=found.noise.sigma_max,
            sigma_min=found.noise.sigma_min,
            levels=found.noise.levels,
            langevin_steps=found.steps,
            eps=found.eps,
        )
    values = {f.name: getattr(given, f.name) for f in fields(given)}
    paper = 0.1 if given.generator == "gaussian" else given.sigma_min**2
    shown = {"circle": "field", "gaussian": "samples"}.get(given.generator, "both")
    values |= {
        "eps": given.sigma_min**2 / 2 if given.eps is None else given.eps,
        "step_size": paper if given.step_size is None else given.step_size,
        "view": shown if given.view == "auto" else given.view,
    }
    return ResolvedToy(**values)


@dataclass(frozen=True)
class Study:
    """An experiment in the plane: settings without gaps, the truth, its data, the recipe, and the folder."""

    settings: ResolvedToy
    truth: Distribution
    data: Float[Tensor, "n 2"]
    recipe: Recipe
    device: torch.device
    generator: torch.Generator
    began: float
    lock: FileLock
    """Keeps other processes out of the folder."""

    @classmethod
    def of(cls, given: Toy) -> "Study":
        """Draw the data, resolve the settings, and claim the folder.

        Raises ValueError for settings that make no sense, and if the folder holds another run.
        """
        began = time.perf_counter()
        device = machine.choose_device(given.job.device)
        asked, given = given, recalled(given)
        if isinstance(given, ResolvedToy) and (said := kept(asked, given)):
            print(said)
        generator = torch.Generator(device).manual_seed(given.seed)
        truth = TOYS[given.generator]()
        data = truth.sample(MANY, generator=generator)
        settings = resolve(given, data)
        sampling = Sampling(
            sigma_max=settings.sigma_max,
            sigma_min=settings.sigma_min,
            sampler="annealed",
            levels=settings.levels,
            steps=settings.langevin_steps,
            eps=settings.eps,
        )
        arguments = {"dimensions": 2, "width": settings.width, "layers": settings.layers}
        recipe = Recipe(network="MLP", arguments=dict(arguments), shape=(2,), sampling=sampling)
        steps = settings.levels * settings.langevin_steps
        sampling.but(sampler="langevin", steps=steps, eps=settings.step_size)  # to which annealing is compared
        folder = settings.job.out
        assert folder is not None
        begun = storage.begun(folder)
        if settings.job.resume and not begun:
            print(f"{folder} holds no run to resume: it begins")
        overwrite, resume = settings.job.overwrite, settings.job.resume
        lock = storage.claim(folder, overwrite=overwrite, resume=resume, pictures=PICTURES)
        if settings.job.resume and storage.begun(folder) != begun:
            raise ValueError(f"{folder} was begun by another process just now; --resume again goes on from it")
        torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from an explicit generator
        return cls(settings, truth, data, recipe, device, generator, began, lock)

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        assert self.settings.job.out is not None
        return self.settings.job.out

    @property
    def noise(self) -> Geometric:
        """The ladder of noise levels, on which the score is learned and sampled."""
        return Geometric(self.settings.sigma_max, self.settings.sigma_min, self.settings.levels)

    @property
    def objective(self) -> objectives.Objective:
        """Denoising, sliced or exact score matching."""
        return OBJECTIVES[self.settings.objective]

    def state(self) -> State:
        """An MLP and all that its training changes: new, or as an interrupted run left it."""
        model = self.recipe.build(self.data.mean(0), self.data.std()).to(self.device)
        state = State(model, generator=self.generator)
        storage.write_config(self.folder, "toy", storage.plain(asdict(self.settings)), self.recipe)
        checkpoint = self.folder / storage.CHECKPOINT
        if checkpoint.exists():
            state.load(checkpoint)
        else:
            state.save(checkpoint)
        return state

    def run(self, state: State) -> Run:
        """What was learned, to be sampled."""
        return Run(score=state.average, recipe=self.recipe, device=self.device, folder=self.folder, experiment="toy")


def score_errors(study: Study, run: Run, grid: Float[Tensor, "p 2"]) -> list[dict[str, object]]:
    """Each noise level's relative errors, against the exact score."""
    generator = torch.Generator(study.device).manual_seed(study.settings.seed + 2)
    data = study.truth.sample(5000, generator=generator)
    sigmas = study.noise.sigmas(device=study.device)
    return metrics.score_errors(run.score, study.truth, sigmas, data, grid, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Samples of the same start by two samplers, with learned and with exact scores, and their numbers.

    ``panels``: the data, the start, and what each sampler made of it.  ``way``: annealing with the learned score.
    """

    panels: dict[str, Float[Tensor, "n 2"]]
    way: list[tuple[str, Float[Tensor, "shown 2"]]]
    numbers: dict[str, object]


def compare_samplers(study: Study, run: Run, draw: Callable[..., Any]) -> Compared:
    """Langevin dynamics and its annealed descendant from the same start, with as many steps.

    ``draw``: how a run is sampled, ``drawing.draw``.
    """
    settings, truth = study.settings, study.truth
    generator = torch.Generator(study.device).manual_seed(settings.seed + 1)
    data, *others = (truth.sample(settings.samples, generator=generator) for _ in range(6))
    start = (torch.rand(settings.samples, 2, generator=generator, device=study.device) * 2 - 1) * VIEW
    floor = sum(metrics.sliced_wasserstein(data, other) for other in others) / len(others)
    samplers: dict[str, dict[str, Any]] = {
        "langevin": {"steps": settings.levels * settings.langevin_steps, "eps": settings.step_size},
        "annealed": {},
    }
    panels = {"data": data, "start": start}
    way: list[tuple[str, Tensor]] = []
    numbers: dict[str, object] = {"sliced_wasserstein_floor": floor, "n": settings.samples}
    for kind, score in (("learned", run.score), ("exact", truth)):
        for sampler, options in samplers.items():
            drawn = draw(
                replace(run, score=score),
                settings.samples,
                seed=generator,
                sampler=sampler,
                start=start,
                keep=1500 if (kind, sampler) == ("learned", "annealed") else 0,
                description=f"{sampler}, {kind} score",
                **options,
            )
            panels[f"{sampler}, {kind} score"] = drawn.samples
            row: dict[str, object] = {
                "sliced_wasserstein_over_floor": metrics.sliced_wasserstein(drawn.samples, data) / floor,
                "nfe": drawn.nfe,
                "seconds": drawn.seconds,
            }
            if few_modes(truth):
                row["modes"] = metrics.mode_statistics(drawn.samples, truth)
            numbers[f"{sampler}_{kind}"] = row
            if (kind, sampler) == ("learned", "annealed"):
                named = [(f"σ = {sigma:.2f}" if sigma else "denoised", x) for sigma, x in drawn.path]
                way = [("start: uniform", start[:1500]), *named]
    return Compared(panels=panels, way=way, numbers=numbers)


def few_modes(truth: Distribution) -> TypeGuard[GaussianMixture]:
    """Whether samples can be told apart by the component that they belong to."""
    return isinstance(truth, GaussianMixture) and len(truth.means) <= 8


def titled(name: str, x: Float[Tensor, "n 2"], truth: Distribution) -> tuple[str, Tensor]:
    """A panel under its name, and under the modes' weights if there are modes."""
    if not few_modes(truth):
        return name, x
    weights = [f"{mode['weight']:.3f}" for mode in metrics.mode_statistics(x, truth)]
    return f"{name}\nweights {' / '.join(weights)}", x
