"""What training and sampling take from the data, the budget and the machine: every rule once, with its reason.

None of these numbers belongs to a data set: those of MNIST follow from the same rules.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ncsn import machine
from ncsn.data.images import Labels
from ncsn.data.pixels import reals
from ncsn.distributions import Empirical
from ncsn.noise import Proposal
from ncsn.samplers import METHODS
from ncsn.score import tweedie

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


def classes(labels: Labels | None) -> bool:
    """Whether to learn the score of each class: there are two at least, of some images each on average."""
    return labels is not None and 2 * PER_CLASS <= PER_CLASS * len(labels.names) <= int(labels.counts.sum())


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
    return SPEEDS["slow" if machine.slow(device) else "fast"]


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


def batch_size(expected: float) -> int:
    """Large batches for those who see many images; of half the size for others, who need the steps."""
    return BATCHES[0] if expected >= STEPS * BATCHES[0] else BATCHES[1]


def halved(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Half of each width: a quarter of the arithmetic."""
    return tuple(max(1, w // 2) for w in widths)
