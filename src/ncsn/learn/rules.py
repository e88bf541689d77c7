"""What training and sampling take from the data, the budget and the machine: every rule once, with its reason.

None of these numbers belongs to a data set: those of MNIST follow from the same rules.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ncsn import networks
from ncsn.data import Images as Pictures
from ncsn.data import Labels
from ncsn.data.pixels import reals
from ncsn.distributions import Empirical
from ncsn.learn.settings import Images, ResolvedImages
from ncsn.machine import hardware
from ncsn.noise import Geometric, LogNormal, LogUniform, Proposal, suggest_noise
from ncsn.run import Argument, Recipe
from ncsn.samplers import METHODS, Sampling
from ncsn.score import tweedie
from ncsn.training import Budget

NETWORKS = {"unet": "UNet", "refinenet": "NCSN", "refinenet-v2": "NCSNv2"}
SIGMA_MAX = 4.5  # times the data's leading standard deviation
SIGMA_MIN = 0.01  # what no eye sees of pixels in [0, 1], and two and a half steps of a byte
FINEST = 1 / 20  # of the pixels' standard deviation: σ_min of images with little contrast
MEASURED = 2048  # examples from which the data's directions are measured
COMPARED, FEWEST = 20e6, 256  # numbers of the examples that are looked at, and how many examples at least
NOTICED = 0.01  # share of the data's variance by which a posterior's mean must be off the example to be worth a target
POSTERIOR_LEVELS = tuple(float(f"{0.1 * 1.25**i:.2g}") for i in range(25))
LEARNED = 5.5  # times detail²/std: the noise level that training draws most
LOWEST = -2.0  # its logarithm, at least: lower ones were never tried
WORTH = 0.4  # of the network's arithmetic: what posterior targets may take at most
MEMORY = 2**31  # bytes that posterior targets may need: a copy of the data as reals, and two more while it is made
COARSEST = 8  # pixels, or less, is the side of what the U-Net's deepest blocks see
WIDTHS = (64, 32, 16)  # of the U-Net's finest resolution, best first
SEEN = 2_200  # images that training should see for each channel: a wider network that sees fewer learns less
BATCHES = (128, 64)  # images in a batch, best first
STEPS = 1500  # that training should take, before it takes large batches
PER_CLASS = 20  # training images: the score of fewer is those images
TOLD = 0.4  # of the default sampler's usual noise levels: as many as samples of a known class need
SPEEDS = {"cuda": 10_000.0, "fast": 500.0, "slow": 60.0}  # images of 32 x 32 a second that the full width trains on

MANY_POINTS = 5_000  # training examples, from which on a wider and deeper MLP learns more
COMPILED_MINUTES, COMPILED_STEPS = 4, 2000  # of training, below which compiling takes longer than it saves
THOROUGH_SECONDS, THOROUGH_STEPS = 360, 1000  # from which on a classifier to choose guidance by is worth its time
SLOWER = 5  # times as long does that classifier take without bfloat16
GUIDE_SECONDS, GUIDE_STEPS = 1 / 20, 1 / 10  # the guide's share of either budget: its steps take half as long
AFTERWARDS = 1 / 16  # of the budget in minutes, for guidance and samples


def leading_std(data: Float[Tensor, "n d"], *, iterations: int = 30) -> float:
    """The largest standard deviation of the data in any direction, by power iteration; from below."""
    centred = data - data.mean(0)
    direction = torch.randn(data.shape[1], generator=torch.Generator().manual_seed(0), device="cpu").to(data)
    for _ in range(iterations):
        direction = nn.functional.normalize(centred.T @ (centred @ direction), dim=0)
    return float((centred @ direction).square().mean().sqrt())


def some(data: Shaped[Tensor, "n *d"], most: int) -> Float[Tensor, "m *d"]:
    """At most so many of the examples, and of their numbers ``COMPARED``, always the same, as reals."""
    most = min(most, max(FEWEST, int(COMPARED / max(1, data[0].numel()))))
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:most].to(data.device)
    return reals(data[chosen])


def averaging_level(data: Shaped[Tensor, "n *d"]) -> float:
    """The noise level from which a noisy example may have been made of several: where posterior targets begin to help.

    Where the mean of all examples that could be meant is off the one that was by over ``NOTICED`` of the data's
    variance.  Below, the target is the example itself, and asking the whole data set is time lost.
    """
    examples = some(data, len(data))
    x, everything = examples[:64], Empirical(examples)
    variance = float((x - everything.mean.view(x.shape[1:])).square().mean())
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), device="cpu").to(x)

    def noticed(sigma: float) -> bool:
        mean = tweedie(everything, x + sigma * z, sigma)
        return float((mean - x).square().mean()) > NOTICED * variance

    first = bisect_left(POSTERIOR_LEVELS, True, key=noticed)
    return POSTERIOR_LEVELS[min(first, len(POSTERIOR_LEVELS) - 1)]


def detail(images: Float[Tensor, "n c h w"]) -> float:
    """The root mean square difference of neighbouring pixels; of images of one pixel, the pixels' deviation."""
    differences = [images.diff(dim=d).square().mean() for d in (2, 3) if images.shape[d] > 1]
    return float(torch.stack(differences or [images.var()]).mean().sqrt())


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules ask of a data set of images: how many there are of which shape, and four numbers in pixel units.

    ``std``: of all pixels.  ``leading_std``: of the images, in the direction where they differ most.
    ``detail``: the root mean square difference of neighbouring pixels.  ``averaging``: see ``averaging_level``.
    """

    n: int
    shape: tuple[int, int, int]
    std: float
    leading_std: float
    detail: float
    averaging: float

    @classmethod
    def of(cls, images: Shaped[Tensor, "n c h w"], std: float) -> "Facts":
        """Measure training images, bytes or reals in [0, 1].  Raises ValueError if they are all the same."""
        n, channels, height, width = images.shape
        leading = leading_std(some(images, MEASURED).flatten(1))
        if not leading > 1e-6:
            raise ValueError("all training images are the same: there is no score to learn")
        return cls(
            n=n,
            shape=(channels, height, width),
            std=std,
            leading_std=leading,
            detail=detail(some(images, MEASURED)),
            averaging=averaging_level(images),
        )

    @property
    def sigma_max(self) -> float:
        """Several times the leading standard deviation: then p_σ is N(μ, σ²I) to 2.5 % in every direction.

        Sampling starts from that Gaussian; at the leading standard deviation itself it would start 40 % too narrow.
        NCSNv2's largest distance between two examples is as safe, but has three times the levels to learn.
        """
        return float(f"{SIGMA_MAX * self.leading_std:.2g}")

    @property
    def sigma_min(self) -> float:
        """A hundredth of the range of a pixel, or less for images with less contrast than that."""
        return min(SIGMA_MIN, float(f"{FINEST * self.std:.1g}"))

    @property
    def log_sigma_mean(self) -> float:
        """The smoother images are, the less noise there is to be seen through where there is most to learn.

        detail²/std is 2(1 − ρ)·std for neighbouring pixels that correlate by ρ.  No theory: what was found best on
        MNIST (−0.4; −0.7 is worse) and on CIFAR-10 (−1.6; −1.2 and −0.4 are worse) is 5.5 times that, within a tenth.
        """
        learned = LEARNED * (self.detail or self.std) ** 2 / self.std
        return max(LOWEST, float(f"{math.log(learned):.2g}"))

    def posterior_above(self, network: nn.Module, proposal: Proposal) -> float:
        """Where posterior targets begin: at ``averaging``, or nowhere if they are not worth their time or memory.

        ``network``: what is trained.  ``proposal``: where its noise levels come from.
        """
        numbers = self.n * math.prod(self.shape)
        drawn = proposal.sample(10_000, generator=torch.Generator().manual_seed(0))
        share = float((drawn > self.averaging).float().mean())
        asked = share * 4 * numbers  # one product with all examples each way
        if 12 * numbers > MEMORY or asked > WORTH * 3 * arithmetic(network, self.shape):
            return self.sigma_max
        return self.averaging


def arithmetic(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating point operations of one evaluation of a network for one example; training takes three times as many."""
    place = next(network.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device=place), torch.zeros(1, device=place))
    return int(counter.get_total_flops())


def levels(sampler: str, top: float, bottom: float, *, classes: bool) -> int:
    """How many noise levels to descend between: what suits the sampler, fewer where ``classes`` are told.

    Then there is less to be decided at high noise.  Measured with the default sampler, and for it alone.
    """
    usual = METHODS[sampler].suited(top, bottom)
    return round(TOLD * usual) if classes and sampler == "dpmpp-sde" else usual


def guided_between(log_sigma_mean: float) -> tuple[float, float]:
    """Guidance acts where training looks: at high noise it narrows variety, at low noise it does nothing.

    Kynkäänniemi et al. 2024 (arXiv:2404.07724).
    """
    middle = math.exp(log_sigma_mean)
    return float(f"{0.3 * middle:.2g}"), float(f"{2.2 * middle:.2g}")


def speed(device: torch.device) -> float:
    """How many images of 32 × 32 the full width trains on in a second, about: by kind of machine, not by the clock.

    So that the same command trains the same network, whatever else the machine does.
    """
    if device.type != "cpu":
        return SPEEDS["cuda"]
    return SPEEDS["slow" if hardware.slow(device) else "fast"]


def channels(shape: tuple[int, int, int], speed: float, seconds: float | None) -> tuple[int, ...]:
    """The U-Net's width at each resolution: as wide as still lets it see enough images, as deep as they are large.

    ``speed``: see ``speed``.  ``seconds``: of training, None if it goes by steps.
    """
    _, height, width = shape
    depth = max(2, math.ceil(math.log2(max(height, width) / COARSEST)))
    finest = next((w for w in WIDTHS if seen(shape, w, speed, seconds) >= SEEN * w), WIDTHS[-1])
    return tuple(finest * min(2**level, 4) for level in range(depth))


def seen(shape: tuple[int, int, int], width: int, speed: float, seconds: float | None) -> float:
    """How many images a training is expected to see; by steps, as if it had ten minutes.

    Half the width is a quarter of the arithmetic, and in practice a third of the time.
    """
    _, height, across = shape
    cost = height * across / 32**2 * (width / WIDTHS[0]) ** 1.6
    return float(speed * (600 if seconds is None else seconds) / cost)


def resolve(settings: Images, pictures: Pictures, device: torch.device) -> ResolvedImages:
    """The settings with a value for whatever was not given, from the data, the budget and the machine.

    Raises ValueError if they contradict the data or each other.
    """
    if isinstance(settings, ResolvedImages):
        return settings
    if pictures.shards is not None and settings.posterior_above is not None:
        raise ValueError(
            f"posterior_above is {settings.posterior_above}; it asks all training images at every step, and these stay "
            "in their shards: leave it out"
        )
    if settings.langevin_steps is not None and not METHODS[settings.sampler].langevin:
        raise ValueError(f"langevin_steps is {settings.langevin_steps}; {settings.sampler} takes no Langevin steps")
    if settings.network != "unet" and settings.blocks != Images.blocks:
        raise ValueError(f"blocks is {settings.blocks}; {settings.network} has as many as its paper says")
    if settings.noise == "auto":
        settings = after_ncsnv2(settings, pictures)
    if settings.minutes is None and settings.steps is None:
        settings = replace(settings, minutes=10.0)
    facts = replace(Facts.of(pictures.train, pictures.statistics[1]), n=pictures.n)
    told = tells_apart(settings, pictures.labels)
    widths, size = shape_of(settings, facts, device)
    top, bottom = settings.sigma_max or facts.sigma_max, settings.sigma_min or facts.sigma_min
    # The levels of a geometric proposal are those to learn, too.
    fewer = told and settings.proposal != "geometric"
    method = METHODS[settings.sampler]
    unguided = settings.guidance == "chosen" and method.guided_from == math.inf
    mean = facts.log_sigma_mean if settings.log_sigma_mean is None else settings.log_sigma_mean
    values = {field.name: getattr(settings, field.name) for field in fields(Images)} | {
        "classes": told,
        "channels": widths,
        "batch_size": size,
        "sigma_max": top,
        "sigma_min": bottom,
        "log_sigma_mean": mean,
        "posterior_above": settings.posterior_above or top,
        "levels": settings.levels or levels(settings.sampler, top, bottom, classes=fewer),
        "langevin_steps": settings.langevin_steps or method.steps,
        "eps": settings.eps or bottom**2 / 2,
        "guidance": 1.0 if unguided else settings.guidance,
    }
    resolved = ResolvedImages(**values)
    if settings.posterior_above is not None or pictures.shards is not None:
        return resolved
    network = recipes(resolved, pictures)[0].build().network
    shown = replace(facts, n=2 * facts.n) if settings.flip else facts  # the mirrored images, too
    return replace(resolved, posterior_above=shown.posterior_above(network, noise_of(resolved)))


def after_ncsnv2(settings: Images, pictures: Pictures) -> Images:
    """The settings with the noise levels that NCSNv2 takes from the data, which are explained on the screen."""
    advice = suggest_noise(some(pictures.train, 10_000))
    print(advice.explanation)
    noise = advice.noise
    top, bottom = settings.sigma_max or noise.sigma_max, settings.sigma_min or noise.sigma_min
    settings = replace(settings, sigma_max=top, sigma_min=bottom, eps=settings.eps or advice.eps)
    if settings.sampler != "annealed":
        return settings
    levels, steps = settings.levels or noise.levels, settings.langevin_steps or advice.steps
    return replace(settings, levels=levels, langevin_steps=steps)


def tells_apart(settings: Images, labels: Labels | None) -> bool:
    """Whether the score of each class is learned: asked for, possible, and worth it; says why not."""
    if not settings.classes or labels is None:
        return False
    images = int(labels.counts.sum())
    enough = 2 * PER_CLASS <= PER_CLASS * len(labels.names) <= images
    if settings.network == "unet" and enough:
        return True
    why = "only unet can" if settings.network != "unet" else f"two of {PER_CLASS} images each are needed"
    print(f"{len(labels.names)} classes, {images:,} training images: not told apart, {why}")
    return False


def shape_of(settings: Images, facts: Facts, device: torch.device) -> tuple[tuple[int, ...], int]:
    """The network's widths and the batch size: those given, or what suits this machine, budget and data."""
    seconds = None if settings.minutes is None else 60 * settings.minutes
    rate = speed(device)
    suited = channels(facts.shape, rate, seconds) if settings.network == "unet" else (64,)
    widths = settings.channels or suited
    # Large batches for those who see many images; half as large for others, who need the steps.
    many = seen(facts.shape, widths[0], rate, seconds) >= STEPS * BATCHES[0]
    size = min(settings.batch_size or BATCHES[0 if many else 1], facts.n)
    return widths, size


def noise_of(settings: ResolvedImages) -> Proposal:
    """Where training draws its noise levels from."""
    top, bottom = settings.sigma_max, settings.sigma_min
    if settings.proposal == "lognormal":
        return LogNormal(settings.log_sigma_mean, settings.log_sigma_std, top, bottom)
    return LogUniform(top, bottom) if settings.proposal == "loguniform" else Geometric(top, bottom, settings.levels)


def recipes(
    settings: ResolvedImages, pictures: Pictures, network: nn.Module | None = None
) -> tuple[Recipe, Recipe | None]:
    """Which network learns, and how it is sampled; and its guide: half as wide, with one block at each resolution.

    There is no guide where there are classes: without the class, the network itself is the better guide, and costs no
    training.  Nor has a ``network`` of the user's own one.
    """
    if network is not None:
        plain, _ = recipes(replace(settings, classes=False, guidance=1.0), pictures)
        return replace(plain, network=own_name(network), arguments={}), None
    shares = pictures.labels.shares if settings.classes and pictures.labels is not None else {}
    recipe = Recipe(
        depth=pictures.depth,
        network=NETWORKS[settings.network],
        arguments=arguments_of(settings, pictures.shape[0], len(shares)),
        preconditioning="scaled" if settings.network == "refinenet-v2" else "karras",
        shape=pictures.shape,
        shares=shares,
        sampling=Sampling(
            sigma_max=settings.sigma_max,
            sigma_min=settings.sigma_min,
            sampler=settings.sampler,
            levels=settings.levels if settings.sampler != "langevin" else 1,
            steps=settings.langevin_steps,
            eps=settings.eps,
            guidance=1.0 if settings.guidance == "chosen" else settings.guidance,
            guided_between=guided_between(settings.log_sigma_mean),
            guide="unconditional" if shares else "smaller",
        ),
    )
    if settings.guidance == 1 or shares:
        return recipe, None
    # Half of each width is a quarter of the arithmetic.
    smaller = replace(settings, channels=tuple(max(1, width // 2) for width in settings.channels), blocks=1)
    arguments = arguments_of(smaller, pictures.shape[0], 0)
    return recipe, replace(recipe, arguments=arguments, sampling=recipe.sampling.but(guidance=1.0))


def own_name(network: nn.Module) -> str:
    """What a network of the user's own is called: no name of the package's, which would be built for it."""
    name = type(network).__name__
    return f"Own{name}" if name in networks.__all__ else name


def recipe_of_points(
    z: Float[Tensor, "n d"], network: nn.Module | None, noise: Proposal | None, sampler: str
) -> Recipe:
    """Which network learns from standardised points, and how it is sampled.

    Noise goes up to ten times the data's largest standard deviation in any direction, where p_σ is as good as Gaussian,
    and down to a hundredth of every coordinate's, where it does not matter; or as far as a proposal of the user's own.
    """
    top = getattr(noise, "sigma_max", None) or 10 * leading_std(z)
    bottom = getattr(noise, "sigma_min", 0.01)
    method = METHODS.get(sampler)  # one that is not known is refused by Sampling
    sampling = Sampling(
        sigma_max=top,
        sigma_min=bottom,
        sampler=sampler,
        levels=1 if method is None else method.suited(top, bottom),
        steps=1 if method is None else method.steps,
        eps=bottom**2 / 2,
    )
    if network is not None:
        return Recipe(network=own_name(network), arguments={}, shape=tuple(z.shape[1:]), sampling=sampling)
    width, layers = (256, 4) if len(z) >= MANY_POINTS else (128, 3)
    arguments: dict[str, Argument] = {"dimensions": z.shape[1], "width": width, "layers": layers}
    return Recipe(network="MLP", arguments=arguments, shape=tuple(z.shape[1:]), sampling=sampling)


def noise_of_points(recipe: Recipe) -> Proposal:
    """Where a network of standardised points has most to learn."""
    return LogNormal(-0.8, 1.6, recipe.sampling.sigma_max, recipe.sampling.sigma_min)


def compiles(settings: ResolvedImages) -> bool:
    """Whether compiling, which takes up to a minute the first time, saves more than it takes."""
    long = settings.minutes is not None and settings.minutes >= COMPILED_MINUTES
    return settings.compile and (long or (settings.steps is not None and settings.steps >= COMPILED_STEPS))


def thorough(settings: ResolvedImages, device: torch.device) -> bool:
    """Whether a classifier to choose guidance by, half a minute's training, is a small part of the time."""
    enough = THOROUGH_SECONDS * (SLOWER if hardware.slow(device) else 1)
    return 60 * (settings.minutes or 0) >= enough or (settings.steps or 0) >= THOROUGH_STEPS


def budgets(settings: ResolvedImages, elapsed: float, *, guided: bool) -> tuple[Budget, Budget]:
    """How long to train the network, and its guide: what is left after ``elapsed`` seconds, a tenth at least.

    ``AFTERWARDS`` of the whole is for what follows.
    """
    if settings.steps is not None:
        return Budget(steps=settings.steps), Budget(steps=math.ceil(settings.steps * GUIDE_STEPS))
    whole = 60 * (settings.minutes or 0)
    seconds = max(whole / 10, (1 - AFTERWARDS) * whole - elapsed)
    share = GUIDE_SECONDS if guided else 0.0
    return Budget(seconds=seconds * (1 - share)), Budget(seconds=seconds * GUIDE_SECONDS)


def arguments_of(settings: ResolvedImages, colours: int, classes: int) -> dict[str, Argument]:
    """What the network is built with, for images of so many colours."""
    widths = settings.channels
    if settings.network == "unet":
        unet: dict[str, Argument] = {"channels": widths, "blocks": settings.blocks, "features": widths[0]}
        return {"image_channels": colours} | unet | ({"classes": classes} if classes else {})
    # Under Karras' preconditioning NCSN's network is told every σ, and sees what is standardised already.
    ncsn: dict[str, Argument] = {"features": 128, "rescale": False} if settings.network == "refinenet" else {}
    return {"image_channels": colours, "width": widths[0]} | ncsn
