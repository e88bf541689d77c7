"""The networks of NCSN and NCSNv2, and their official weights.

Given the weights of the official code (github.com/ermongroup/ncsn and ncsnv2), each computes what that code computes.
With ``state`` a state dict of theirs, these are the papers' scores of pixels in [0, 1]::

    ScoreModel(NCSN.from_official(state, sigmas), preconditioning=Plain())
    ScoreModel(NCSNv2.from_official(state), preconditioning=Scaled())
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ncsn.networks.embedding import NoiseEmbedding
from ncsn.networks.refinenet import InstanceNormPlus, Projection, RefineNet, Table, Unnormalised


class NearestLevel(nn.Module):
    """The index of the nearest of the noise levels ``sigmas``, in ln σ: (b,) → (b,)."""

    sigmas: Tensor

    def __init__(self, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.tensor(sigmas))

    def forward(self, c: Float[Tensor, "b"]) -> Int64[Tensor, "b"]:
        """The index of each c = ¼ ln σ."""
        return (c[:, None] - self.sigmas.log() / 4).abs().argmin(1)


class AnyLevel(nn.Module):
    """Index 0, whatever the noise level: (b,) → (1,)."""

    def forward(self, c: Float[Tensor, "b"]) -> Int64[Tensor, "1"]:
        """Zero."""
        return torch.zeros(1, dtype=torch.int64, device=c.device)


class NCSN(RefineNet):
    """NCSN's network: every normalisation is told the noise level; (b, c, h, w), (b,) → (b, c, h, w).

    Song & Ermon 2019 (arXiv:1907.05600), appendix A; ``CondRefineNetDilated`` of the official code.  There its value
    is the score itself (``Plain``).

    ``image_channels``: 1 for grey, 3 for colour.  ``width``: of the first stage, at least 2; 64 for MNIST and 128 for
    CIFAR-10 in the paper.
    ``sigmas``: the noise levels that it knows, > 0, each with its own γ, α and β, as in the paper.  Any other σ is
    taken for the nearest of them in ln σ.
    ``features``: instead of ``sigmas``, the size of a continuous embedding of σ that γ, α and β are linear in.  Not
    the paper's, but it knows every σ.
    ``rescale``: show the network 2x − 1, as the paper does with pixels in [0, 1].  False for an x that is standardised
    already, as it is under ``Karras``.
    Raises ValueError unless exactly one of ``sigmas`` and ``features`` is given, and all are in range.
    """

    def __init__(
        self,
        image_channels: int = 1,
        width: int = 64,
        *,
        sigmas: Sequence[float] = (),
        features: int = 0,
        rescale: bool = True,
    ) -> None:
        known = tuple(float(sigma) for sigma in sigmas)
        if bool(known) == bool(features) or features < 0 or not all(0 < sigma < math.inf for sigma in known):
            raise ValueError(f"sigmas is {known}, features is {features}; one of them is needed, positive and finite")

        def norm(channels: int) -> InstanceNormPlus:
            return InstanceNormPlus(Table(len(known), channels) if known else Projection(features, channels))

        super().__init__(
            image_channels,
            width,
            NearestLevel(known) if known else NoiseEmbedding(features),
            norm=norm,
            refine_norm=norm,
            pool=nn.AvgPool2d(5, 1, 2),
            rescale=rescale,
        )

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], sigmas: Sequence[float], *, rescale: bool = True) -> "NCSN":
        """The network with the weights of a ``CondRefineNetDilated``, or of an ``NCSN`` in NCSNv2's code.

        ``state``: its state dict; width, image channels and the number of levels are read off its tensors.
        ``sigmas``: its noise levels, which are not in the state dict, in the order of its ``labels``.
        ``rescale``: False if it was trained on data in another range than [0, 1] (logits, or ``rescaled``).
        Raises ValueError, naming the tensors, if one is missing, unexpected or of another shape.
        """
        state = without_prefix(state)
        table = state.get("normalizer.embed.weight")
        if table is not None and len(table) != len(sigmas):
            raise ValueError(f"{len(sigmas)} sigmas are given; the state dict has {len(table)} noise levels")
        network = cls(*sizes(state), sigmas=sigmas, rescale=rescale)
        places = officially_named(network)
        fill({name: p.flatten(1) if name.endswith(TABLE) else p for name, p in places.items()}, state)
        return network


class NCSNv2(RefineNet):
    """NCSNv2's network: not told the noise level, and without normalisation in its refine blocks; → the shape of x.

    Song & Ermon 2020 (arXiv:2006.09011), for images of 32 × 32 pixels; ``NCSNv2`` of the official code.  The score is
    its value divided by σ (``Scaled``).

    ``image_channels``: 1 for grey, 3 for colour.  ``width``: of the first stage, at least 2; 128 in the paper.
    ``rescale``: show the network 2x − 1, as the paper does with pixels in [0, 1].
    Raises ValueError if they are out of range.
    """

    def __init__(self, image_channels: int = 1, width: int = 64, *, rescale: bool = True) -> None:
        super().__init__(
            image_channels,
            width,
            AnyLevel(),
            norm=lambda channels: InstanceNormPlus(Table(1, channels)),
            refine_norm=lambda channels: Unnormalised(),
            pool=nn.MaxPool2d(5, 1, 2),
            rescale=rescale,
        )

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], *, rescale: bool = True) -> "NCSNv2":
        """The network with the weights of an ``NCSNv2`` with InstanceNorm++ and ELU.

        ``state``: its state dict, or the running average of its weights that the official code saves beside it.  Its
        ``sigmas`` are the sampler's, not the network's, and are left out.
        ``rescale``: False if it was trained on data in another range than [0, 1] (logits, or ``rescaled``).
        Raises ValueError, naming the tensors, if one is missing, unexpected or of another shape.
        """
        state = without_prefix(state)
        state.pop("sigmas", None)
        network = cls(*sizes(state), rescale=rescale)
        places = officially_named(network)
        for name in [name for name in places if name.endswith(TABLE)]:
            (rows,), norm = places.pop(name), name.removesuffix(TABLE)
            places |= {norm + "gamma": rows[0], norm + "alpha": rows[1], norm + "beta": rows[2]}
        fill(places, state)
        return network


TABLE = "embed.weight"
"""What NCSN's code calls the γ, α and β of a normalisation, side by side in one row for each noise level."""


def unit_name(match: re.Match[str]) -> str:
    """The official name of the n-th norm or convolution of an RCU: branch and place in the branch, both from 1."""
    branch, place = divmod(int(match[3]), 2)
    return f"{match[1]}.{branch + 1}_{place + 1}_{match[2]}"


OFFICIAL: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^stem", "begin_conv"),
    (r"^head", "end_conv"),
    (r"^norm", "normalizer"),
    (r"^stage", "res"),
    (r"^(res2\.0\.(conv2|shortcut))", r"\1.conv"),
    (r"\.norm(\d)", r".normalize\1"),
    (r"\.(adapt|output)", r".\1_convs"),
    (r"(_convs|_convs\.\d)\.(norm|conv)s\.(\d)", unit_name),
    (r"scales\.rows", TABLE),
)
"""Patterns of our names of the weights, and what they are in the official names; one after the other."""


def officially_named(network: RefineNet) -> dict[str, Tensor]:
    """The network's own weights, not copies, by their names in the official code."""
    weights = {}
    for name, weight in network.named_parameters():
        for ours, official in OFFICIAL:
            name = re.sub(ours, official, name)
        weights[name] = weight.detach()
    return weights


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a network that may have been wrapped in ``DataParallel``."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Image channels and width.  Raises ValueError if the state dict has no first convolution."""
    stem = state.get("begin_conv.weight")
    if stem is None or stem.ndim != 4:
        raise ValueError(f"no weights of an NCSN: begin_conv.weight is needed; there are {some(state)}")
    return stem.shape[1], stem.shape[0]


def fill(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of ``state`` into those of ``weights`` that have the same names and shapes.

    Raises ValueError, naming them, if one is missing, unexpected or of another shape.
    """
    missing, unexpected = sorted(weights.keys() - state.keys()), sorted(state.keys() - weights.keys())
    if missing or unexpected:
        raise ValueError(f"other weights are needed: missing are {some(missing)}; unexpected are {some(unexpected)}")
    for name, weight in weights.items():
        if state[name].shape != weight.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}; {tuple(weight.shape)} is needed")
        weight.copy_(state[name])


def some(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    first, rest = list(names)[:5], list(names)[5:]
    return (", ".join(first) or "none") + (f" and {len(rest)} more" if rest else "")
