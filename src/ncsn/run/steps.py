"""Samples step by step: the states from noise to data, and what they cost."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.data.transforms import Transform
from ncsn.machine.hardware import threads_for
from ncsn.prior import Prior
from ncsn.samplers import NonFiniteSampleError, Step
from ncsn.validation import counted, whole


class Steps(Iterator[Step]):
    """An iterator over the states of samples, from noise to data; its ``len`` is the number of states.

    ``sampling``: how they are drawn.
    ``n``: the number of samples.
    ``batch_size``: the largest batch that the network sees.
    """

    def __init__(
        self, states: Iterator[Step], prior: Prior, n: int, transform: Transform, *, allow_nan: bool = False
    ) -> None:
        """Wrap the ``states`` of samples of a ``prior``, in its units; with ``allow_nan``, NaN is a missing value."""
        self.prior = prior
        self.n = n
        self.transform = transform
        self.sampling = prior.sampling
        self.batch_size = prior.batch_size
        self.states = self.check(states, allow_nan=allow_nan)

    def __len__(self) -> int:
        """The number of states."""
        return self.sampling.states

    def __next__(self) -> Step:
        """The next state, in the units of the data."""
        sigma, x = self.advance()
        return Step(sigma, self.transform.inverse(x))

    def advance(self) -> Step:
        """The next state, in the score's units."""
        with threads_for(self.prior.network):
            return next(self.states)

    def last(self) -> Float[Tensor, "n *d"]:
        """The samples.  Only the last state is transformed to the data's units, because that synchronises a GPU."""
        return self.transform.inverse(self.final())

    def final(self) -> Float[Tensor, "n *d"]:
        """The samples in the score's units."""
        with suppress(StopIteration):
            while True:
                x = self.advance().x
        return x

    @property
    def sampler(self) -> str:
        """The method: a name in ``SAMPLERS``, or particles."""
        return self.sampling.sampler

    @property
    def nfe(self) -> int:
        """Evaluations of the network so far, per sample."""
        return round(sum(network.evaluated for network in self.prior.cost.networks) / self.n)

    @property
    def backward(self) -> int:
        """Backward passes through the network so far, per sample."""
        return round(sum(network.differentiated for network in self.prior.cost.networks) / self.n)

    @property
    def guide_nfe(self) -> int:
        """Evaluations of the guide so far, per sample."""
        return round(sum(guide.evaluated for guide in self.prior.cost.guides) / self.n)

    def check(self, states: Iterator[Step], *, allow_nan: bool) -> Iterator[Step]:
        """Yield the states and check that they are finite; on a GPU, to avoid synchronising, only at the end.

        Raises NonFiniteSampleError, which names the noise level at which they are not.
        """
        sampling = self.sampling
        for number, (sigma, x) in enumerate(states, 1):
            is_cheap = x.device.type == "cpu" or sigma == 0 or number == len(self)
            if is_cheap and is_broken(x, allow_nan=allow_nan):
                settings = f"{sampling.count} levels, step size {sampling.eps:g}, guidance {sampling.guidance:g}"
                problem = f"samples are not finite at noise level {sigma:.4g}"
                raise NonFiniteSampleError(f"{problem}, with {self.sampler} on {settings}")
            yield Step(sigma, x)


def is_broken(x: Float[Tensor, "b *d"], *, allow_nan: bool) -> bool:
    """Whether samples are infinite, or NaN unless that is allowed."""
    return bool(x.isinf().any()) if allow_nan else not bool(x.isfinite().all())


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
        return describe_cost(len(self.samples), self.steps, self.seconds)


def describe_cost(n: int, steps: Steps, seconds: float) -> str:
    """The cost of ``n`` samples in words; evaluations of the network and of the guide are per sample."""
    guide = f" and {steps.guide_nfe} of the guide" if steps.guide_nfe else ""
    speed = f"{seconds:.1f} s, {n / seconds:.0f} samples/s"
    return f"{counted(n, 'sample')} by {steps.sampler}, {steps.nfe} evaluations each{guide}, {speed}"


def generator_of(seed: int | torch.Generator, device: torch.device) -> torch.Generator:
    """A generator with this seed on a device, or the generator that is passed."""
    if isinstance(seed, torch.Generator):
        return seed
    return torch.Generator(device).manual_seed(whole("seed", seed, 0))
