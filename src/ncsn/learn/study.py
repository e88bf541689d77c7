"""An experiment on images under way: what it trains, for how long, what is drawn afterwards, and the run it leaves."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from ncsn import machine, storage
from ncsn.data import Images as Pictures
from ncsn.data import Origin, batches, shards
from ncsn.data.named import NAMED
from ncsn.data.pixels import reals
from ncsn.data.reading import short_name
from ncsn.distributed import ALONE, Group
from ncsn.distributions import Empirical
from ncsn.evaluation import Features, as_bytes, at_8_bits
from ncsn.learn import guidance
from ncsn.learn.images import found, proposal, recalled, recipes, resolve
from ncsn.learn.settings import Images, ResolvedImages, kept
from ncsn.model import ScoreModel
from ncsn.noise import Proposal
from ncsn.objectives import Batch, Objective, dsm, posterior_dsm
from ncsn.optim import muon_and_adam
from ncsn.progress import Clock
from ncsn.recipe import Recipe
from ncsn.rng import Draws
from ncsn.run import Run
from ncsn.training import State
from ncsn.validation import validated

PICTURES = ("samples.png", "samples_annealed.png", "evolution.png", "evolution.gif", "loss.png")
FEW = 1000  # images, below which what is learned may be the images themselves
COMPILED_FROM = 4  # minutes, below which compiling takes longer than it saves
THOROUGH_SECONDS, THOROUGH_STEPS = 360, 1000  # of training, from which on a classifier to choose by is worth its time
SLOWER = 5  # times as long does that classifier take without bfloat16


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the leading process makes of the settings and the data, for the others."""

    settings: dict[str, Any]
    origin: Origin
    recipe: Recipe
    guide: Recipe | None


@dataclass(frozen=True)
class Study:
    """An experiment on images: settings without gaps, the data, the recipes, and the folder that they lead to."""

    settings: ResolvedImages
    pictures: Pictures
    recipe: Recipe
    guide_recipe: Recipe | None
    origin: Origin
    device: torch.device
    clock: Clock
    lock: FileLock | None
    """Keeps other programs out of the folder; the leading process has it."""
    group: Group = ALONE

    @classmethod
    def of(cls, given: Images, pictures: Pictures, origin: Origin, *, clock: Clock, group: Group = ALONE) -> "Study":
        """Resolve the settings, try the recipe out, and claim the folder.

        ``origin``: where the ``pictures`` are.  ``clock``: which began with the budget.
        ``group``: the processes that will train together, of which this is the leading one.
        Raises ValueError for settings that do not suit the data, and if the folder holds another run.
        """
        device = machine.choose_device(given.job.device)
        precision = machine.choose_precision(given.job.precision, device)
        if machine.emulated(precision, device):
            print(f"precision {precision}: this processor emulates it, many times slower than fp32")
        settings = resolve(recalled(given), pictures, device)
        recipe, guide_recipe = recipes(settings, pictures)
        folder, resume = settings.job.out, settings.job.resume
        assert folder is not None
        if resume and storage.begun(folder):
            if said := kept(given, settings, changed=("dataset", "minutes", "steps", "compile", "accumulate")):
                print(said)
            recipe = as_saved(recipe, folder, chosen=settings.guidance == "chosen")
            if guide_recipe is not None and storage.begun(folder / "guide"):
                guide_recipe = as_saved(guide_recipe, folder / "guide", chosen=False)
        proposal(settings)
        recipe.sampling.but(sampler="annealed")  # which draws some samples, too
        draws_of(settings, device, group)  # too many shares end here
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
        return cls(settings, pictures, recipe, guide_recipe, origin, device, clock, lock, group)

    @classmethod
    def shared(cls, given: Images, group: Group, *, clock: Clock) -> "Study":
        """What the leading process makes of the settings and the data, on every process of the group.

        Where torchrun has started them again, after a failure, they go on from the last checkpoint.
        Raises ValueError as ``of``, and where the data is another here than there.
        """
        job = replace(given.job, out=given.job.out or Path("runs") / short_name(given.dataset))
        if group.leads:
            if job.out is not None and storage.begun_by_this_job(job.out):
                given = replace(given, job=replace(job, resume=True, overwrite=False))
            study = cls.of(given, *found(given), clock=clock, group=group)
            if group.size > 1:
                group.share(study.said().encode())
            return study
        where = "what the leading process says"
        said = validated(Said, json.loads(group.share()), where)
        settings = replace(validated(ResolvedImages, said.settings, where), job=job)
        # By the name that is given, or where the run has found its images; either way they must be the same.
        pictures = said.origin.load(None if job.resume or given.dataset in NAMED else given.dataset)
        device = machine.choose_device(job.device)
        return cls(settings, pictures, said.recipe, said.guide, said.origin, device, clock, None, group)

    def said(self) -> str:
        """What the other processes must know, as JSON."""
        content = {
            "settings": storage.plain(asdict(self.settings)),
            "origin": asdict(self.origin),
            "recipe": asdict(self.recipe),
            "guide": None if self.guide_recipe is None else asdict(self.guide_recipe),
        }
        return json.dumps(content)

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        assert self.settings.job.out is not None
        return self.settings.job.out

    @property
    def precision(self) -> str:
        """What the network runs in."""
        return machine.choose_precision(self.settings.job.precision, self.device)

    @property
    def products(self) -> torch.dtype:
        """What large products beside the network are in: float16's numbers end too early for them."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @cached_property
    def pixels(self) -> Shaped[Tensor, "n c h w"]:
        """The training images: on the device, or, where they would take much of its memory, where they are."""
        images = self.pictures.train
        return images.to(self.device) if images.nbytes <= machine.memory_of(self.device) // 4 else images

    @cached_property
    def labels(self) -> Int64[Tensor, "n"] | None:
        """Their classes, if they are to be learned."""
        labels = self.pictures.labels
        return labels.train.to(self.device) if self.settings.classes and labels is not None else None

    def batches(self, model: ScoreModel) -> Iterator[Batch]:
        """Endless random batches of the training images, with their classes if the ``model`` can be told them."""
        size, labels, flip = self.settings.batch_size, self.labels if model.classes else None, self.settings.flip
        if self.pictures.shards is not None:
            reading = self.settings.reading
            return shards.stream(self.pictures, reading, self.draws, labels=labels is not None, flip=flip)
        return batches(self.pixels, size, labels, flip=flip, generator=self.draws)

    @cached_property
    def validation(self) -> Batch:
        """The validation images, on the device, and their classes if they are learned."""
        labels = self.pictures.labels if self.labels is not None else None
        known = None if labels is None else labels.validation.to(self.device)
        return Batch(self.pictures.validation.to(self.device), known)

    @cached_property
    def noise(self) -> Proposal:
        """Where training draws its noise levels from."""
        return proposal(self.settings)

    @cached_property
    def objective(self) -> Objective:
        """Denoising score matching, at high noise towards the score of the whole training set where that pays."""
        if self.settings.posterior_above >= self.settings.sigma_max:
            return dsm
        images, labels = reals(self.pixels), self.labels
        if self.settings.flip:
            images, labels = torch.cat([images, images.flip(-1)]), None if labels is None else labels.repeat(2)
        everything = Empirical(images, labels, dtype=self.products)
        return partial(posterior_dsm, data_score=everything, above=self.settings.posterior_above)

    def begin(self, recipe: Recipe, folder: Path) -> State:
        """A network and all that its training changes: new, or as the run in ``folder`` left it.

        From its first step on there is a checkpoint.
        """
        mean, std = self.pictures.statistics
        centre = 0.0 if recipe.preconditioning == "scaled" else mean  # NCSNv2's network centres pixels itself
        machine.allow_tf32(self.precision != "fp32")
        model = recipe.build(centre, std, autocast=machine.autocast_of(self.precision)).to(self.device)
        rates = {"muon_rate": self.settings.muon_rate, "adam_rate": self.settings.adam_rate}
        state = State(model, muon_and_adam(model, **rates, products=self.products), generator=self.draws)
        checkpoint = folder / storage.CHECKPOINT
        if self.group.leads:
            folder.mkdir(exist_ok=True)
            if checkpoint.exists():
                state.load(checkpoint)  # before anything is said of it: it may be another network's
            self.describe(folder, recipe)
            if not checkpoint.exists():
                state.save(checkpoint)
            if self.group.size > 1:
                self.group.share(checkpoint.read_bytes())
            return state
        with tempfile.TemporaryDirectory() as place:  # the folder may be on another machine
            copy = Path(place) / "checkpoint.pt"
            copy.write_bytes(self.group.share())
            state.load(copy)
        return state

    @cached_property
    def draws(self) -> Draws:
        """The random numbers of training: those of the examples that this process has of every batch."""
        return draws_of(self.settings, self.device, self.group)

    def describe(self, folder: Path, recipe: Recipe) -> None:
        """Write what the run in ``folder`` is."""
        storage.write_config(folder, "images", storage.plain(asdict(self.settings)), recipe, self.origin)

    def states(self) -> tuple[State, State | None]:
        """The network's, and that of the guide, if there is to be one."""
        state = self.begin(self.recipe, self.folder)
        guide = None if self.guide_recipe is None else self.begin(self.guide_recipe, self.folder / "guide")
        return state, guide

    def trial(self, state: State) -> Callable[[], Tensor]:
        """A call of the network for each number of images that training shows it; the sum of what it makes of them."""
        examples = [torch.zeros(size, *self.pictures.shape, device=self.device) for size in self.draws.sizes]
        return lambda: sum(state.model(x, torch.ones(len(x), device=self.device)).sum() for x in examples)

    @property
    def compiles(self) -> bool:
        """Whether to compile: asked for, and worth its time, which is up to a minute of the budget the first time."""
        minutes = self.settings.minutes
        return self.settings.compile and (minutes is None or minutes >= COMPILED_FROM)

    @property
    def chooses(self) -> bool:
        """Whether guidance is to be chosen."""
        return self.settings.guidance == "chosen" and bool(self.guide_recipe or self.recipe.classes)

    @cached_property
    def held_out(self) -> UInt8[Tensor, "v c h w"]:
        """The validation images, as bytes."""
        return as_bytes(self.pictures.validation)

    @cached_property
    def features(self) -> Features:
        """What guidance is chosen by."""
        seconds, steps = 60 * (self.settings.minutes or 0), self.settings.steps or 0
        enough = THOROUGH_SECONDS * (SLOWER if machine.slow(self.device) else 1)
        thorough = seconds >= enough or steps >= THOROUGH_STEPS
        return guidance.suited(at_8_bits(self.pictures), self.device, thorough=thorough)

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

    def with_guidance(self, run: Run, choice: guidance.Trial) -> Run:
        """The run with this guidance as its own, in its folder too."""
        sampling = self.recipe.sampling.but(guidance=choice.weight)
        recipe = replace(self.recipe, sampling=sampling)
        self.describe(self.folder, recipe)
        return replace(run, recipe=recipe)


def draws_of(settings: ResolvedImages, device: torch.device, group: Group) -> Draws:
    """The random numbers of a process' share of a training.  Raises ValueError if there are too many shares."""
    turns, who = settings.accumulate, {"rank": group.rank, "processes": group.size}
    return Draws(settings.seed, settings.batch_size, device=device, turns=turns, **who)


def as_saved(recipe: Recipe, folder: Path, *, chosen: bool) -> Recipe:
    """The recipe with the network of the run that is resumed, and with its guidance if that was ``chosen`` there."""
    saved = storage.read_config(folder).recipe
    sampling = recipe.sampling
    if chosen:
        sampling = sampling.but(guidance=saved.sampling.guidance, guide=saved.sampling.guide)
    return replace(recipe, arguments=saved.arguments, shares=saved.shares, sampling=sampling)
