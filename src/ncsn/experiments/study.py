"""An experiment on images under way: what it trains, for how long, what is drawn afterwards, and the run it leaves."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from ncsn import machine, storage
from ncsn.data import Images as Pictures
from ncsn.data import batches
from ncsn.data.origin import Origin
from ncsn.empirical import Empirical
from ncsn.evaluation import Features, at_8_bits, coarse
from ncsn.experiments import guidance
from ncsn.experiments.images import proposal, recalled, recipes, resolve
from ncsn.experiments.settings import Images, ResolvedImages
from ncsn.noise import Proposal
from ncsn.objectives import Batch, Objective, dsm, posterior_dsm
from ncsn.optimizers import muon_and_adam
from ncsn.pixels import reals
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.training import Budget, State

PICTURES = ("samples.png", "samples_annealed.png", "evolution.png", "evolution.gif", "loss.png")
FEW = 1000  # images, below which what is learned may be the images themselves
COMPILED_FROM = 4  # minutes, below which compiling takes longer than it saves
DRAWING = 4  # seconds that figures take
ANNEALED = 50  # at most so many samples by annealed Langevin dynamics, which takes six times as long as the default
ANNEALED_SHARE = 1 / 30  # of the budget
TRIALS, FEWEST_TRIALS = 256, 64  # samples at each guidance weight; with fewer none is chosen
TRIALS_SHARE = 1 / 30  # of the budget
THOROUGH_SECONDS, THOROUGH_STEPS = 360, 1000  # of training, from which on a classifier to choose by is worth its time
GUIDE_SECONDS, GUIDE_STEPS = 1 / 20, 1 / 10  # the guide's share of either budget: its steps take half as long


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What comes after training, and how many ``seconds`` it takes.

    ``trials``: samples at each guidance weight, to choose one; 0 for no choice.  ``annealed``: samples by annealed
    Langevin dynamics.
    """

    trials: int
    annealed: int
    seconds: float


@dataclass(frozen=True)
class Study:
    """An experiment on images: settings without gaps, the data, the recipes, and the folder that they lead to."""

    settings: ResolvedImages
    pictures: Pictures
    recipe: Recipe
    guide_recipe: Recipe | None
    origin: Origin
    device: torch.device
    began: float
    lock: FileLock
    """Keeps other processes out of the folder."""

    @classmethod
    def of(cls, given: Images, pictures: Pictures, origin: Origin, *, began: float) -> "Study":
        """Resolve the settings, try the recipe out, and claim the folder.

        ``origin``: where the ``pictures`` are.  ``began``: when the budget began, by ``time.perf_counter()``.
        Raises ValueError for settings that do not suit the data, and if the folder holds another run.
        """
        device = machine.choose_device(given.job.device)
        settings = resolve(recalled(given), pictures, device)
        recipe, guide_recipe = recipes(settings, pictures)
        folder, resume = settings.job.out, settings.job.resume
        assert folder is not None
        if resume and storage.begun(folder) and settings.guidance == "chosen":
            chosen = storage.read_config(folder).recipe.sampling.guidance
            recipe = replace(recipe, sampling=recipe.sampling.but(guidance=chosen))
        proposal(settings)
        recipe.sampling.but(sampler="annealed")  # which draws some samples, too
        size = settings.batch_size
        machine.check_memory(recipe.memory(size, learning=True), device, f"this network with --batch-size {size}")
        recipe.build()(torch.zeros(1, *pictures.shape), 1.0)  # images that do not fit end here
        for line in (pictures.describe(), *pictures.said):
            print(line)
        if len(pictures.train) < FEW:
            print(f"{len(pictures.train)} images are few to train on: samples may be copies of them")
        begun = storage.begun(folder)
        if resume and not begun:
            print(f"{folder} holds no run to resume: it begins")
        lock = storage.claim(folder, overwrite=settings.job.overwrite, resume=resume, pictures=PICTURES)
        if resume and storage.begun(folder) != begun:
            raise ValueError(f"{folder} was begun by another process just now; --resume again goes on from it")
        torch.manual_seed(settings.seed)  # for initial weights; everything else draws from explicit generators
        return cls(settings, pictures, recipe, guide_recipe, origin, device, began, lock)

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        assert self.settings.job.out is not None
        return self.settings.job.out

    @cached_property
    def pixels(self) -> Shaped[Tensor, "n c h w"]:
        """The training images, on the device."""
        return self.pictures.train.to(self.device)

    @cached_property
    def labels(self) -> Int64[Tensor, "n"] | None:
        """Their classes, if they are to be learned."""
        labels = self.pictures.labels
        return labels.train.to(self.device) if self.settings.classes and labels is not None else None

    def batches(self, generator: torch.Generator, labels: Int64[Tensor, "n"] | None = None) -> Iterator[Batch]:
        """Endless random batches of the training images."""
        settings = self.settings
        return batches(self.pixels, settings.batch_size, labels, flip=settings.flip, generator=generator)

    @cached_property
    def noise(self) -> Proposal:
        """Where training draws its noise levels from."""
        return proposal(self.settings)

    @cached_property
    def objective(self) -> Objective:
        """Denoising score matching, at high noise towards the score of the whole training set where that pays."""
        if self.settings.posterior_above >= self.settings.sigma_max:
            return dsm
        precision = torch.bfloat16 if machine.fast_bfloat16(self.device) else torch.float32
        images, labels = reals(self.pixels), self.labels
        if self.settings.flip:
            images, labels = torch.cat([images, images.flip(-1)]), None if labels is None else labels.repeat(2)
        everything = Empirical(images, labels, dtype=precision)
        return partial(posterior_dsm, data_score=everything, above=self.settings.posterior_above)

    def begin(self, recipe: Recipe, folder: Path) -> State:
        """A network and all that its training changes: new, or as the run in ``folder`` left it.

        From its first step on there is a checkpoint.
        """
        mean, std = self.pictures.statistics
        centre = 0.0 if recipe.preconditioning == "scaled" else mean  # NCSNv2's network centres pixels itself
        model = recipe.build(centre, std, autocast=machine.fast_bfloat16(self.device)).to(self.device)
        rates = {"muon_rate": self.settings.muon_rate, "adam_rate": self.settings.adam_rate}
        generator = torch.Generator(self.device).manual_seed(self.settings.seed)
        state = State(model, muon_and_adam(model, **rates), generator=generator)
        folder.mkdir(exist_ok=True)
        self.describe(folder, recipe)
        checkpoint = folder / "checkpoint.pt"
        if checkpoint.exists():
            state.load(checkpoint)
        else:
            state.save(checkpoint)
        return state

    def describe(self, folder: Path, recipe: Recipe) -> None:
        """Write what the run in ``folder`` is."""
        storage.write_config(folder, "images", storage.plain(asdict(self.settings)), recipe, self.origin)

    def states(self) -> tuple[State, State | None]:
        """The network's, and that of the guide, if there is to be one."""
        state = self.begin(self.recipe, self.folder)
        guide = None if self.guide_recipe is None else self.begin(self.guide_recipe, self.folder / "guide")
        return state, guide

    def trial(self, state: State) -> Callable[[], Tensor]:
        """One call of the network as training calls it."""
        example = torch.zeros(self.settings.batch_size, *self.pictures.shape, device=self.device)
        sigma = torch.ones(self.settings.batch_size, device=self.device)
        return lambda: state.model(example, sigma)

    @property
    def compiles(self) -> bool:
        """Whether to compile: asked for, and worth its time, which is up to a minute of the budget the first time."""
        minutes = self.settings.minutes
        return self.settings.compile and (minutes is None or minutes >= COMPILED_FROM)

    @property
    def chooses(self) -> bool:
        """Whether guidance is to be chosen."""
        return self.settings.guidance == "chosen" and self.guide_recipe is not None

    @cached_property
    def held_out(self) -> UInt8[Tensor, "v c h w"]:
        """The validation images, as bytes."""
        return coarse(self.pictures.validation)

    @cached_property
    def features(self) -> Features:
        """What guidance is chosen by."""
        seconds, steps = 60 * (self.settings.minutes or 0), self.settings.steps or 0
        thorough = seconds >= THOROUGH_SECONDS or steps >= THOROUGH_STEPS
        return guidance.suited(at_8_bits(self.pictures), self.device, thorough=thorough)

    def plan(self, state: State) -> Plan:
        """What comes after training, as much as fits into its share of the budget: timed, as it is never compiled."""
        settings, sampling = self.settings, self.recipe.sampling
        most = min(TRIALS, len(self.pictures.validation) // 3) if self.chooses else 0
        if settings.minutes is None:
            return Plan(
                trials=most if most >= FEWEST_TRIALS else 0, annealed=min(settings.samples, ANNEALED), seconds=0
            )
        budget = 60 * settings.minutes
        example = torch.zeros(FEWEST_TRIALS, *self.pictures.shape, device=self.device)
        evaluation = seconds_of(lambda: state.average(example, 1.0), self.device) / len(example)
        sample = 1.25 * sampling.nfe * evaluation  # with the guide, which is a quarter of the network
        annealed = sampling.but(sampler="annealed").nfe * evaluation
        held_out = self.held_out[:20]
        trial = 1.25 * guidance.evaluations(sampling) * evaluation
        if most and self.features.embed is not None:
            trial += guidance.SEEN * seconds_of(lambda: self.features(held_out), self.device) / len(held_out)
        trials = min(most, int(budget * TRIALS_SHARE / trial)) if most else 0
        trials = trials if trials >= FEWEST_TRIALS else 0
        few = max(1, min(settings.samples, ANNEALED, int(budget * ANNEALED_SHARE / annealed)))
        drawn = (settings.samples + 60) * sample + few * annealed  # the previews too
        return Plan(trials=trials, annealed=few, seconds=DRAWING + drawn + trials * trial)

    def budgets(self, plan: Plan) -> tuple[Budget, Budget]:
        """How long to train the network, and its guide: what is left now, but for what comes afterwards."""
        settings = self.settings
        if settings.steps is not None:
            return Budget(steps=settings.steps), Budget(steps=math.ceil(settings.steps * GUIDE_STEPS))
        assert settings.minutes is not None
        whole = 60 * settings.minutes
        seconds = max(whole / 10, whole - plan.seconds - (time.perf_counter() - self.began))
        share = GUIDE_SECONDS if self.guide_recipe is not None else 0.0
        return Budget(seconds=seconds * (1 - share)), Budget(seconds=seconds * GUIDE_SECONDS)

    def run(self, state: State, guide: State | None) -> Run:
        """What is learned so far, to be sampled: the averaged weights."""
        return Run(
            score=state.average,
            recipe=self.recipe,
            guide=None if guide is None else guide.average,
            device=self.device,
            folder=self.folder,
            experiment="images",
            origin=self.origin,
        )

    def guided(self, run: Run, weight: float) -> Run:
        """The run with guidance of this weight as its own, in its folder too."""
        recipe = replace(self.recipe, sampling=self.recipe.sampling.but(guidance=weight))
        self.describe(self.folder, recipe)
        return replace(run, recipe=recipe)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes the second time."""
    with torch.no_grad(), machine.nothing_compiled():
        call()
        machine.wait(device)
        began = time.perf_counter()
        call()
        machine.wait(device)
    return time.perf_counter() - began
