"""Learning the score of images: from settings to a recipe, from a recipe to a run."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from ncsn import machine, storage
from ncsn.data import Images as Pictures
from ncsn.empirical import Empirical
from ncsn.experiments.settings import Images, ResolvedImages
from ncsn.noise import Geometric, LogNormal, LogUniform, Proposal, suggest_noise
from ncsn.objectives import Objective, posterior_dsm
from ncsn.optimizers import muon_and_adam
from ncsn.pixels import centres
from ncsn.recipe import Argument, Recipe
from ncsn.run import Run
from ncsn.samplers.methods import METHODS
from ncsn.sampling import Sampling
from ncsn.training import Budget, State

AFTERWARDS = 20  # seconds of --minutes, but at most a sixth, kept for the samples and figures after training
ANNEALED = 50  # at most so many samples by annealed Langevin dynamics, which takes six times as long as the default
GUIDE_SECONDS, GUIDE_STEPS = 1 / 20, 1 / 10  # the guide's share of either budget: its steps take half as long
SHORT = 30  # minutes, below which a slow machine learns more with half the width
NETWORKS = {"unet": "UNet", "refinenet": "NCSN", "refinenet-v2": "NCSNv2"}


def recalled(given: Images) -> Images:
    """The settings as given; with ``--resume`` those of the run that is there, for another job.

    A budget that is given is the run's new total.
    Raises ValueError if there is no run to resume.
    """
    job = replace(given.job, out=given.job.out or Path("runs") / Path(given.dataset).name)
    if job.out is None or not job.resume or isinstance(given, ResolvedImages):
        return replace(given, job=job)
    saved = storage.read_settings(job.out, "images")
    if given.minutes is not None or given.steps is not None:
        saved |= {"minutes": given.minutes, "steps": given.steps}
    return ResolvedImages(**saved, job=job)


def resolve(given: Images, pictures: Pictures, device: torch.device) -> ResolvedImages:
    """The settings with a value for whatever was not given, from the data, the machine and each other.

    Raises ValueError if they contradict the data.
    """
    if isinstance(given, ResolvedImages):
        return given
    if given.classes and pictures.labels is None:
        raise ValueError(f"--classes is given, but {given.dataset} has no classes")
    changes: dict[str, object] = {}
    if given.noise == "auto":
        found = suggest_noise(centres(pictures.train))
        print(found.explanation)
        changes |= {"sigma_max": found.noise.sigma_max, "sigma_min": found.noise.sigma_min, "eps": found.eps}
        if given.sampler == "annealed":
            changes |= {"levels": found.noise.levels, "langevin_steps": found.steps}
    if given.minutes is None and given.steps is None:
        changes["minutes"] = 10.0
    settings = replace(given, **changes)  # type: ignore[arg-type]
    channels, batch_size = shape_of(settings, device)
    method = METHODS[settings.sampler]
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}
    values |= {
        "channels": channels,
        "batch_size": batch_size,
        "levels": settings.levels or method.levels,
        "langevin_steps": settings.langevin_steps or method.steps,
        "eps": settings.sigma_min**2 / 2 if settings.eps is None else settings.eps,
        "guidance": settings.guidance or (2.0 if method.guided else 1.0),
    }
    return ResolvedImages(**values)


def shape_of(settings: Images, device: torch.device) -> tuple[tuple[int, ...], int]:
    """The network's widths and the batch size: those given, or what suits this machine and budget."""
    channels: tuple[int, ...] = (64, 128) if settings.network == "unet" else (64,)
    batch_size = 128
    short = settings.minutes is None or settings.minutes < SHORT
    undecided = settings.channels is None or settings.batch_size is None
    if settings.network == "unet" and machine.slow(device) and short and undecided:
        channels, batch_size = settings.channels or halved(channels), settings.batch_size or batch_size // 2
        print(
            f"--channels {' '.join(map(str, channels))} --batch-size {batch_size}: "
            "without bfloat16, this CPU learns more with them in less than half an hour"
        )
    return settings.channels or channels, settings.batch_size or batch_size


def halved(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Half of each width: a quarter of the arithmetic."""
    return tuple(max(1, w // 2) for w in widths)


def network_arguments(settings: ResolvedImages, image_channels: int, classes: int) -> dict[str, Argument]:
    """What the network is built with."""
    widths = settings.channels
    if settings.network == "unet":
        unet: dict[str, Argument] = {
            "image_channels": image_channels,
            "channels": widths,
            "blocks": settings.blocks,
            "features": widths[0],
        }
        return unet | {"classes": classes} if classes else unet
    # Under Karras' preconditioning NCSN's network is told every σ, and sees what is standardised already.
    told: dict[str, Argument] = {"features": 128, "rescale": False} if settings.network == "refinenet" else {}
    return {"image_channels": image_channels, "width": widths[0]} | told


def proposal(settings: ResolvedImages) -> Proposal:
    """Where training draws its noise levels from."""
    top, bottom = settings.sigma_max, settings.sigma_min
    if settings.proposal == "lognormal":
        return LogNormal(settings.log_sigma_mean, settings.log_sigma_std, top, bottom)
    return LogUniform(top, bottom) if settings.proposal == "loguniform" else Geometric(top, bottom, settings.levels)


def recipes(settings: ResolvedImages, pictures: Pictures) -> tuple[Recipe, Recipe | None]:
    """Which network learns, and how it will be sampled; and its guide: half as wide, one block at each resolution."""
    classes = int(pictures.labels.max()) + 1 if settings.classes and pictures.labels is not None else 0
    recipe = Recipe(
        network=NETWORKS[settings.network],
        arguments=network_arguments(settings, pictures.shape[0], classes),
        preconditioning="scaled" if settings.network == "refinenet-v2" else "karras",
        shape=pictures.shape,
        sampling=Sampling(
            sigma_max=settings.sigma_max,
            sigma_min=settings.sigma_min,
            sampler=settings.sampler,
            levels=settings.levels if settings.sampler != "langevin" else 1,
            steps=settings.langevin_steps,
            eps=settings.eps,
            guidance=settings.guidance,
        ),
    )
    if settings.guidance == 1:
        return recipe, None
    smaller = replace(settings, channels=halved(settings.channels), blocks=1)
    arguments = network_arguments(smaller, pictures.shape[0], 0)
    return recipe, replace(recipe, arguments=arguments, sampling=recipe.sampling.but(guidance=1.0))


@dataclass(frozen=True)
class Study:
    """An experiment on images: settings without gaps, the data, the recipes, and the folder that they lead to."""

    settings: ResolvedImages
    pictures: Pictures
    recipe: Recipe
    guide_recipe: Recipe | None
    device: torch.device
    began: float

    @classmethod
    def of(cls, given: Images, pictures: Pictures) -> "Study":
        """Resolve the settings, try the recipe out, and claim the folder.

        Raises ValueError for settings that do not suit the data, and if the folder holds another run.
        """
        began = time.perf_counter()
        device = machine.choose_device(given.job.device)
        settings = resolve(recalled(given), pictures, device)
        recipe, guide_recipe = recipes(settings, pictures)
        proposal(settings)
        recipe.build()(torch.zeros(1, *pictures.shape), 1.0)  # images that do not fit end here
        study = cls(settings, pictures, recipe, guide_recipe, device, began)
        storage.claim(study.folder, overwrite=settings.job.overwrite, resume=settings.job.resume)
        torch.manual_seed(settings.seed)  # for initial weights; everything else draws from explicit generators
        return study

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        assert self.settings.job.out is not None
        return self.settings.job.out

    @cached_property
    def pixels(self) -> UInt8[Tensor, "n c h w"]:
        """The training images, on the device."""
        return self.pictures.train.to(self.device)

    @cached_property
    def labels(self) -> Int64[Tensor, "n"] | None:
        """Their classes, if they are to be learned."""
        labels = self.pictures.labels
        return labels.to(self.device) if self.settings.classes and labels is not None else None

    @cached_property
    def noise(self) -> Proposal:
        """Where training draws its noise levels from."""
        return proposal(self.settings)

    @cached_property
    def objective(self) -> Objective:
        """Denoising score matching, at high noise towards the score of the whole training set."""
        precision = torch.bfloat16 if machine.fast_bfloat16(self.device) else torch.float32
        everything = Empirical(centres(self.pixels), self.labels, dtype=precision)
        return partial(posterior_dsm, data_score=everything, above=self.settings.posterior_above)

    def begin(self, recipe: Recipe, folder: Path) -> State:
        """A network and all that its training changes: new, or as the run in ``folder`` left it."""
        mean, std = self.pictures.statistics()
        centre = 0.0 if recipe.preconditioning == "scaled" else mean  # NCSNv2's network centres pixels itself
        model = recipe.build(centre, std, autocast=machine.fast_bfloat16(self.device)).to(self.device)
        rates = {"muon_rate": self.settings.muon_rate, "adam_rate": self.settings.adam_rate}
        generator = torch.Generator(self.device).manual_seed(self.settings.seed)
        state = State(model, muon_and_adam(model, **rates), generator=generator)
        folder.mkdir(exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            state.load(folder / "checkpoint.pt")
        storage.write_config(folder, "images", storage.plain(asdict(self.settings)), recipe)
        return state

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

    def budgets(self) -> tuple[Budget, Budget]:
        """How long to train the network, and its guide: what is left now, but for what is drawn afterwards."""
        settings = self.settings
        if settings.steps is not None:
            return Budget(steps=settings.steps), Budget(steps=math.ceil(settings.steps * GUIDE_STEPS))
        assert settings.minutes is not None
        whole = settings.minutes * 60
        seconds = max(1.0, whole - min(AFTERWARDS, whole / 6) - (time.perf_counter() - self.began))
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
        )
