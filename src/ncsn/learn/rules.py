"""Rules that derive settings from the data, the budget and the machine, each with its reason.

No number is specific to a dataset; those of MNIST follow from the same rules.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import fields, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ncsn.batching import reals
from ncsn.data.dataset import Dataset
from ncsn.distributions import Empirical
from ncsn.learn.methods import METHODS, apply_method
from ncsn.loading import run_class
from ncsn.machine import hardware
from ncsn.machine.messages import log
from ncsn.noise import Geometric, LogNormal, LogUniform, Proposal
from ncsn.run.folder import Config, find, read_config
from ncsn.run.recipe import Argument, Recipe
from ncsn.sampling import SAMPLERS, Sampling, find_spec
from ncsn.settings import ResolvedSettings, TrainSettings
from ncsn.training import Budget
from ncsn.validation import Json, NetworkName, from_json

NETWORKS: dict[NetworkName, str] = {"unet": "UNet", "mlp": "ResidualMLP"}
POSTERIOR_LEVELS = tuple(float(f"{0.1 * 1.25**i:.2g}") for i in range(25))
BLOCKS = 2  # at each resolution
MAX_SHARE_OF_TARGETS = 0.4  # the most that posterior targets may cost, relative to the network's arithmetic
# The most bytes that posterior targets may need: a copy of the data as floats, and two more while it is made.
MAX_BYTES_OF_TARGETS = 2**31
# More of them leave less for the prior to add; measured were 200 to 5,000 images and 2 minutes of one processor.
IMAGES_FROM_PRIOR, MINUTES_FROM_PRIOR = 10_000, 10
WIDTHS = (64, 32, 16)  # of the U-Net's finest resolution, best first
FREE = ("minutes", "steps", "compile")  # settings that may change when a run is resumed
STEPS_TO_COMPILE = 2000  # in a training by steps
SPEEDS = {"cuda": 10_000.0, "fast": 500.0, "slow": 60.0}  # images of 32 x 32 per second, at full width


def round_to(x: float, digits: int = 2) -> float:
    """Round ``x`` to significant digits."""
    return float(f"{x:.{digits}g}")


def leading_std(data: Float[Tensor, "n d"]) -> float:
    """The largest standard deviation of the data in any direction, by power iteration, which never overestimates it."""
    centred = data - data.mean(0)
    direction = torch.randn(data.shape[1], generator=torch.Generator().manual_seed(0), device="cpu").to(data)
    for _ in range(30):
        direction = nn.functional.normalize(centred.T @ (centred @ direction), dim=0)
    return float((centred @ direction).square().mean().sqrt())


def subsample(data: Shaped[Tensor, "n *d"], most: int) -> Float[Tensor, "m *d"]:
    """A fixed random subset of at most ``most`` examples as floats, and beyond 256 of at most 20 million numbers."""
    most = min(most, max(256, int(20e6 / max(1, math.prod(data.shape[1:])))))
    index = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:most].to(data.device)
    return reals(data[index]).nan_to_num(0.0)  # a missing cell of a table is the column's mean


def detail(images: Float[Tensor, "n c *d"]) -> float:
    """The root mean square difference of neighbouring pixels; the standard deviation of images of one pixel."""
    differences = [images.diff(dim=d).square().mean() for d in range(2, images.ndim) if images.shape[d] > 1]
    return float(torch.stack(differences or [images.var()]).mean().sqrt())


def log_sigma_mean(detail: float, std: float) -> float:
    """The mean of ln σ for training: the smoother the images, the lower the noise at which there is most to learn.

    detail²/std is 2(1 − ρ)·std for neighbouring pixels with correlation ρ.  This is an empirical rule: the best values
    on MNIST (−0.4; −0.7 is worse) and on CIFAR-10 (−1.6; −1.2 and −0.4 are worse) are 5.5 times that, within a tenth.
    Nothing below −2 was tried.  For standard deviations below 0.1 that limit falls in proportion, because images with
    less contrast need less noise.
    """
    least = -2.0 + min(0.0, math.log(std / 0.1))
    return round_to(max(least, math.log(5.5 * (detail or std) ** 2 / std)))


def averaging_level(data: Shaped[Tensor, "n *d"]) -> float:
    """The noise level from which several examples could have produced a noisy one, so that posterior targets help.

    There the posterior mean over all examples differs from the true one by more than 1 % of the data's variance.  Below
    it, the target is the example itself, and evaluating the whole dataset would waste time.
    """
    examples = subsample(data, len(data))
    exact_score = Empirical(examples)
    x = examples[:64]
    variance = float((x - exact_score.mean.view(x.shape[1:])).square().mean())
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), device="cpu").to(x)

    def is_noticed(sigma: float) -> bool:
        error = sigma * z + sigma**2 * exact_score(x + sigma * z, sigma)  # the posterior mean minus the example
        return float(error.square().mean()) > 0.01 * variance

    first = bisect_left(POSTERIOR_LEVELS, True, key=is_noticed)
    return POSTERIOR_LEVELS[min(first, len(POSTERIOR_LEVELS) - 1)]


def posterior_above(
    images: Shaped[Tensor, "n c *d"], network: nn.Module, noise: Proposal, top: float, *, mirrored: bool
) -> float:
    """Where posterior targets begin: at ``averaging_level``, or at ``top`` if they cost too much time or memory.

    ``network``: the network to train.  ``noise``: the distribution of its noise levels.
    """
    level = averaging_level(images)
    numbers = (2 if mirrored else 1) * images.numel()
    sigmas = noise.sample(10_000, generator=torch.Generator().manual_seed(0))
    # At those noise levels, one matrix product with all examples in each direction.
    operations = float((sigmas > level).float().mean()) * 4 * numbers
    cheap = operations <= MAX_SHARE_OF_TARGETS * 3 * arithmetic(network, images.shape[1:])
    return level if cheap and 12 * numbers <= MAX_BYTES_OF_TARGETS else top


def arithmetic(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating point operations of evaluating a network for one example; training takes three times as many."""
    device = next(network.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device=device), torch.zeros(1, device=device))
    return int(counter.get_total_flops())


def guidance_interval(log_sigma_mean: float) -> tuple[float, float]:
    """Where guidance acts: at higher noise it reduces diversity, and at lower noise it has no effect.

    Kynkäänniemi et al. 2024 (arXiv:2404.07724).
    """
    middle = math.exp(log_sigma_mean)
    return round_to(0.3 * middle), round_to(2.2 * middle)


def minutes_of(settings: TrainSettings, data: Dataset) -> float:
    """The minutes that a training takes; one by steps counts as ten minutes."""
    if settings.steps is not None:
        return 10.0
    return data.minutes if settings.minutes is None else settings.minutes


def pays_to_compile(settings: ResolvedSettings) -> bool:
    """Whether a training is long enough for compiling the network."""
    if settings.minutes is None:
        return settings.steps is not None and settings.steps >= STEPS_TO_COMPILE
    return settings.minutes >= (2 if settings.network == "unet" else 5)  # only the U-Net has equal blocks


def compiling_seconds(settings: ResolvedSettings) -> float:
    """The most seconds for compiling, which takes minutes on a busy machine; 0 for no limit."""
    return 0.0 if settings.minutes is None else 15 * settings.minutes


def classifier_seconds(settings: ResolvedSettings) -> float:
    """The most seconds for a classifier that chooses the guidance; 0 for none."""
    if settings.minutes is None:
        return math.inf if pays_to_compile(settings) else 0.0
    return 3 * settings.minutes if settings.minutes >= 2 else 0.0  # a twentieth; sampling at several scales is another


def guidance_effort(settings: ResolvedSettings) -> float:
    """The share of the usual images and samples for choosing the guidance."""
    return 1.0 if settings.minutes is None or settings.minutes >= 60 else 0.5


def budgets(settings: ResolvedSettings, elapsed: float, *, guided: bool, after: float = 0.0) -> tuple[Budget, Budget]:
    """The budgets of the network and its guide: what remains after ``elapsed`` seconds, at least a tenth of all.

    The guide gets a twentieth of the time, or a tenth of the steps, which take half as long.  A fortieth of the
    total is reserved for choosing guidance, and the time of ``after`` steps for samples.
    """
    if settings.steps is not None:
        return Budget(steps=settings.steps), Budget(steps=math.ceil(settings.steps / 10))
    assert settings.minutes is not None  # as in all settings without steps
    total = 60 * settings.minutes
    seconds = max(total / 10, 39 / 40 * total - elapsed)
    return Budget(seconds=seconds * (0.95 if guided else 1.0), after=after), Budget(seconds=seconds / 20)


def widths_and_batch(
    settings: TrainSettings, minutes: float, dataset: Dataset, device: torch.device
) -> tuple[tuple[int, ...], int]:
    """The network's widths, finest first, and the batch size: those given, or what suits machine, budget and images.

    They depend on the kind of machine, not on measured speed, so the same command trains the same network however busy
    the machine is.
    """
    if dataset.network == "mlp":
        # From 5,000 rows on a wider network learns more.
        width = 256 if dataset.n >= 5000 else 128
        return settings.channels or (width,), min(settings.batch_size or 512, dataset.n)
    _, *sides = dataset.shape
    fast = hardware.fast_bfloat16(device) and dataset.precision == "auto"
    speed = SPEEDS["cuda" if device.type != "cpu" else "fast" if fast else "slow"]
    at_full_width = speed * 60 * minutes / (math.prod(sides) / 32**2)

    def images_seen(finest: int) -> float:
        """Images seen: half the width takes a quarter of the arithmetic, and in practice a third of the time."""
        return float(at_full_width / (finest / WIDTHS[0]) ** 1.6)

    # A wider network that sees fewer images per channel learns less.
    least = METHODS[settings.method].images_per_channel
    finest = next((w for w in WIDTHS if images_seen(w) >= least * w), WIDTHS[-1])
    depth = max(2, math.ceil(math.log2(max(sides) / 8)))  # the deepest blocks see at most 8 pixels per side
    widths = settings.channels or tuple(finest * min(2**level, 4) for level in range(depth))
    # Large batches if there is time for 1,500 steps of them; otherwise more steps matter more.
    size = 128 if images_seen(widths[0]) >= 1500 * 128 else 64
    return widths, min(settings.batch_size or size, dataset.n)


def changed_options(settings: TrainSettings, names: Iterable[str]) -> list[str]:
    """The names of those settings whose values aren't the defaults."""
    defaults = {field.name: field.default for field in fields(TrainSettings)}
    return [name for name in names if getattr(settings, name) != defaults[name]]


def check_options(settings: TrainSettings, dataset: Dataset) -> None:
    """Raises ValueError for options that do not apply to this kind of data, or to the proposal."""
    if refused := changed_options(settings, dataset.refused):
        listed = ", ".join("start (--from)" if name == "start" else name for name in refused)
        verb, them = ("doesn't", "it") if len(refused) == 1 else ("don't", "them")
        raise ValueError(f"{listed} {verb} apply to {dataset.noun}; leave {them} out")
    names = dataset.names
    if unknown := [name for name in settings.hidden if name not in names]:
        columns = f"the columns are {', '.join(names)}" if names else f"{dataset.noun} have no columns"
        raise ValueError(f"hidden names {', '.join(unknown)}; {columns}")
    if dataset.network == "mlp" and len(settings.channels or (1,)) != 1:
        raise ValueError(f"channels is {settings.channels}; {dataset.noun} take one number")
    proposal = settings.proposal or METHODS[settings.method].proposal
    if proposal != "lognormal" and settings.log_sigma_std is not None:
        raise ValueError(f"log_sigma_std doesn't apply to proposal {proposal}; leave it out")


def start_of(settings: TrainSettings, dataset: Dataset) -> str | None:
    """The run to start from: the given one, or for few small images the prior, unless the network's size is given."""
    if settings.start is not None:
        return None if settings.start == "none" else settings.start
    _, *sides = dataset.shape
    few = dataset.n <= IMAGES_FROM_PRIOR and minutes_of(settings, dataset) <= MINUTES_FROM_PRIOR
    small = all(8 <= side <= 64 for side in sides)
    has_prior = dataset.prior is not None and METHODS[settings.method].prior
    if not (has_prior and few and small) or settings.channels or settings.blocks:
        return None
    log.info("training starts from the prior, a small network in the package; start='none' (--from none) turns it off")
    return dataset.prior


def adopt_network(settings: TrainSettings, start: Config, data: Dataset) -> TrainSettings:
    """The settings with the sizes of the network of the run to start from, unless they are given.

    The sizes of a user's own network are not part of its run's settings.
    Raises ValueError if the run generates another kind of data.
    """
    saved = start.settings
    examples = run_class(start.recipe.shape).examples
    if examples is not run_class(data.shape).examples:
        raise ValueError(f"{settings.start} generates {examples.noun}; expected a run of {data.noun}")
    if saved.get("network") not in NETWORKS:
        return settings
    channels = settings.channels or tuple(saved["channels"])
    return replace(settings, channels=channels, blocks=settings.blocks or saved["blocks"])


def knows_classes(settings: TrainSettings, dataset: Dataset) -> bool:
    """Whether the network is class-conditional; log a line if the data has classes that it cannot learn."""
    labels = dataset.labels
    if not settings.class_conditional or labels is None:
        return False
    # The score of fewer than 20 examples memorises them.
    enough = 2 <= len(labels.names) <= dataset.n / 20
    if not enough:
        log.info("classes are ignored: they need at least two classes of 20 images each")
    return enough


def resolve(
    settings: TrainSettings, dataset: Dataset, device: torch.device, start: Config | None = None
) -> ResolvedSettings:
    """Complete the settings with everything that follows from the data, the budget and the machine.

    ``start``: the configuration of the run to start from; by default that of the folder in the settings, if any.
    Raises ValueError if that run generates another kind of data, and if all examples are the same.
    """
    settings = apply_method(replace(settings, start=start_of(settings, dataset)), dataset)
    if settings.start is not None:
        settings = adopt_network(settings, start or read_config(find(settings.start)), dataset)
    minutes = minutes_of(settings, dataset)
    _, std = dataset.statistics
    examples = subsample(dataset.numbers, 2048)
    if not examples.numel():  # a table without numbers has no noise to choose
        examples = torch.tensor([[-1.0], [1.0]])
    leading = leading_std(examples.flatten(1))
    if not leading > 1e-6:
        raise ValueError("all training examples are the same, so there is no score to learn")
    # At 4.5 times the leading standard deviation p_σ is N(μ, σ²I), where sampling starts, to 2.5 % in every direction;
    # at the leading standard deviation itself, sampling would start 29 % too narrow.  NCSNv2's largest distance between
    # two examples is as safe, but means learning three times as many levels.  At the bottom, noise of 0.01 is invisible
    # for pixels in [0, 1]; images with little contrast need a twentieth of their standard deviation.
    top = settings.sigma_max or round_to(dataset.headroom * leading)
    widths, size = widths_and_batch(settings, minutes, dataset, device)
    unguided = not dataset.guided or find_spec(str(settings.sampler)).langevin
    least, most = dataset.log_sigma_mean
    mean = min(most, max(least, log_sigma_mean(detail(examples), std)))
    values = vars(settings) | {
        "minutes": minutes if settings.steps is None else None,
        "network": dataset.network,
        "class_conditional": knows_classes(settings, dataset),
        "channels": widths,
        "blocks": settings.blocks or BLOCKS,
        "batch_size": size,
        "sigma_max": top,
        "sigma_min": settings.sigma_min or min(0.01, round_to(std / 20, 1)),
        "log_sigma_mean": mean if settings.log_sigma_mean is None else settings.log_sigma_mean,
        "log_sigma_std": settings.log_sigma_std or dataset.log_sigma_std,
        "posterior_above": settings.posterior_above or top,
        "guidance": 1.0 if unguided and settings.guidance == "chosen" else settings.guidance,
    }
    resolved = ResolvedSettings(**values)
    has_targets = dataset.posterior_targets and METHODS[settings.method].posterior_targets
    if settings.posterior_above is not None or not has_targets:
        return resolved
    network = recipes(resolved, dataset)[0].build().network
    above = posterior_above(dataset.train, network, noise_of(resolved), top, mirrored=settings.flip)
    return replace(resolved, posterior_above=above)


def recall(given: TrainSettings, saved: Json) -> ResolvedSettings:
    """The ``saved`` settings of a resumed run with the new job; log which given options have no effect.

    Raises ValueError if the saved settings are invalid.
    """
    settings = from_json(ResolvedSettings, saved, "config.json: settings")
    budget = {name: getattr(given, name) for name in changed_options(given, FREE)}
    settings = settings.but(budget | {"job": given.job})
    names = changed_options(given, vars(given).keys() - {"job", "dataset"})
    if ignored := sorted(name for name in names if getattr(given, name) != getattr(settings, name)):
        log.info(f"--resume keeps the run's own settings; these options have no effect: {', '.join(ignored)}")
    return settings


def noise_of(settings: ResolvedSettings) -> Proposal:
    """The distribution of noise levels in training."""
    top, bottom = settings.sigma_max, settings.sigma_min
    if settings.proposal == "lognormal":
        return LogNormal(settings.log_sigma_mean, settings.log_sigma_std, top, bottom)
    if settings.proposal == "loguniform":
        return LogUniform(top, bottom)
    return Geometric(top, bottom, settings.levels or SAMPLERS[settings.sampler].levels_for(top, bottom))


def recipes(
    settings: ResolvedSettings, dataset: Dataset, network: nn.Module | None = None
) -> tuple[Recipe, Recipe | None]:
    """The recipe of the network, and that of its guide, which is half as wide and has one block at each resolution.

    A class-conditional network has no guide, because its unconditional score is the better guide and needs no training.
    Neither has a ``network`` of the user's own.
    Raises ValueError for options that the sampler does not take.
    """
    if network is not None and settings.guidance not in ("chosen", 1):
        raise ValueError(f"guidance is {settings.guidance}; your own network has no guide")
    if network is not None and dataset.codes:
        advice = "leave out or fill in columns with categories, few or frequent values, or gaps"
        raise ValueError(f"your own network learns numbers without gaps; {advice}")
    labels = dataset.labels if settings.class_conditional and network is None else None
    shares = {} if labels is None else labels.shares
    guided = settings.guidance != 1 and network is None
    conditional = settings.network == "mlp" and network is None  # one's own network sees plain columns
    arguments = arguments_of(settings.network, dataset.numbers.shape[1:], settings.channels, settings.blocks)
    arguments |= dataset.network_arguments
    arguments |= {"num_classes": len(shares)} if shares else {}
    weight = settings.guidance if guided and settings.guidance != "chosen" else 1.0
    sampling = sampling_of(settings, dataset, classes=bool(shares)).but(guidance=weight)
    recipe = Recipe(
        network=NETWORKS[settings.network] if network is None else name_of(network),
        arguments=arguments if network is None else {},
        preconditioning="conditional" if conditional else settings.preconditioning,
        shape=dataset.shape,
        shares=shares,
        transform=dataset.transform,
        sampling=replace(sampling, guide="unconditional" if shares else "smaller"),
    )
    if shares or not guided:
        return recipe, None
    # Half the width takes a quarter of the arithmetic.
    widths = tuple(max(1, width // 2) for width in settings.channels)
    smaller = arguments_of(settings.network, dataset.shape, widths, 1)
    return recipe, replace(recipe, arguments=smaller, sampling=recipe.sampling.but(guidance=1.0))


def sampling_of(settings: ResolvedSettings, data: Dataset, *, classes: bool) -> Sampling:
    """How to sample the run without guidance.  Raises ValueError for options that the sampler does not take."""
    sampling = Sampling.of(settings.sampler, settings.sigma_max, settings.sigma_min, eps=settings.eps)
    sampling = replace(sampling, guided_between=guidance_interval(settings.log_sigma_mean))
    levels = None if settings.sampler == "langevin" else settings.levels  # which uses a single level
    # Given the class, less is decided at high noise, so fewer levels suffice.  This was measured for images and the
    # default sampler only.  The levels of a geometric proposal are also those of training.
    measured = settings.sampler == METHODS["edm"].sampler and settings.proposal != "geometric" and data.guided
    if levels is None and classes and measured:
        levels = round(0.4 * sampling.count)
    return sampling.but(levels=levels, steps=settings.langevin_steps)


def name_of(network: nn.Module) -> str:
    """The name of a user's own network, including its module, which distinguishes it from the package's networks."""
    return f"{type(network).__module__}.{type(network).__qualname__}"


def arguments_of(network: str, shape: tuple[int, ...], widths: tuple[int, ...], blocks: int) -> dict[str, Argument]:
    """A network's arguments for examples of this shape, without the number of classes."""
    if network == "mlp":
        return {"dimensions": shape[0], "width": widths[0], "blocks": blocks, "conditional": True}
    unet: dict[str, Argument] = {"channels": widths, "blocks": blocks, "features": widths[0]}
    return {"image_channels": shape[0]} | unet | ({} if len(shape) == 3 else {"dimensions": len(shape) - 1})
