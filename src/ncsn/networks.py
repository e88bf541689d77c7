"""Networks: plain modules that map ``network(x, c)`` to the shape of x.  They do not depend on scores.

c = ¼ ln σ has one value per example, or a single one for all of them.

Multilayer perceptrons are for vectors and tables.  The simplified U-Net is for signals, images and volumes; it is cheap
enough to learn digits in minutes on two CPU cores, because the image is folded into a quarter of the pixels with four
times the channels before the first convolution (pixel unshuffle), which makes every later one four times cheaper; skip
connections are added, not concatenated, so no convolution is ever wider than its level; and normalisation is over the
channels of each pixel, one pass over memory.  U-Net: Ronneberger et al. 2015 (arXiv:1505.04597).
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, TypeAlias

import torch
import torch.nn.functional as F
from annotated_types import Interval, Len
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ncsn.validation import whole

__all__ = ["MLP", "ResidualMLP", "UNet"]

Positive: TypeAlias = Annotated[int, Interval(ge=1)]
WAVES = 32  # frequencies in the embedding of the noise level
REACH = 5.0  # standard deviations up to which inputs for tables are nearly linear


def require_positive(**counts: int) -> list[int]:
    """The given numbers.  Raises ValueError, with the number's name, unless all are whole numbers from 1."""
    return [whole(name, count, 1) for name, count in counts.items()]


class NoiseEmbedding(nn.Module):
    """Sines and cosines of c = ¼ ln σ at geometric frequencies, followed by two layers: (b,) → (b, features).

    Fourier features as in Song et al. 2021 (arXiv:2011.13456, appendix C), but at fixed frequencies from ⅛ to 8 cycles
    per unit of c, so that the slowest wave distinguishes the ends of the usual range of σ and nothing is random.
    """

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        frequencies = [2 * math.pi * 2.0 ** (-3 + 6 * i / (WAVES - 1)) for i in range(WAVES)]
        self.register_buffer("frequencies", torch.tensor(frequencies), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * WAVES, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, c: Float[Tensor, "b"]) -> Float[Tensor, "b features"]:
        """The embedding of each noise level."""
        phase = c[:, None] * self.frequencies
        return self.layers(torch.cat([phase.sin(), phase.cos()], 1))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """A multilayer perceptron whose hidden layers are shifted by the embedded noise level: (b, d), (b,) → (b, d).

    The last layer starts at zero, so that an untrained network returns zero.

    ``dimensions``: d.
    ``width``: units in a hidden layer.
    ``layers``: hidden layers.
    """

    def __init__(
        self, dimensions: Positive, width: Positive = 128, layers: Annotated[int, Interval(ge=1, le=1000)] = 3
    ) -> None:
        super().__init__()
        dimensions, width, layers = require_positive(dimensions=dimensions, width=width, layers=layers)
        self.embedding = NoiseEmbedding(width)
        self.hidden = nn.ModuleList(nn.Linear(dimensions if i == 0 else width, width) for i in range(layers))
        self.shifts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.output = nn.Linear(width, dimensions)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Float[Tensor, "b d"], c: Float[Tensor, "b"] | Float[Tensor, "1"]) -> Float[Tensor, "b d"]:
        """The network's output F(x, c), which ``ScoreModel`` turns into a score.

        ``x``: scaled examples, (b, d).
        ``c``: ¼ ln σ of each, (b,), or of all, (1,).
        """
        embedding = self.embedding(c)
        h = x
        for hidden, shift in zip(self.hidden, self.shifts, strict=True):
            h = F.silu(hidden(h) + shift(embedding))
        return self.output(h)  # type: ignore[no-any-return]


class ResidualMLP(nn.Module):
    """``blocks`` residual blocks of ``width`` units, normalised and shifted by the noise level: (b, d), (b,) → (b, d).

    ``fit`` trains it on tables, where it also returns logits.

    ``dimensions``: d.
    ``width``: units in a layer.
    ``blocks``: of two layers each.
    ``conditional``: whether its input is that of ``ConditionalModel``, (b, (4 + 2w)d + k), bounded by 5 tanh(x/5),
    because there are too few examples far out, where an unbounded network extrapolates at random.
    ``waves``: w, at how many frequencies it is shown the sine and the cosine of each number.
    ``codes``: the number of values of each discrete coordinate; k is their sum, and the output is (b, d + k).
    ``indicated``: the codes, counted from 0, that have indicators in the Gaussian of ``ConditionalModel``,
    which reads this; by default those with the fewest values.
    """

    def __init__(
        self,
        dimensions: Annotated[int, Interval(ge=0)],
        width: Positive = 256,
        blocks: Annotated[int, Interval(ge=1, le=1000)] = 3,
        conditional: bool = False,
        codes: tuple[Positive, ...] = (),
        indicated: tuple[Annotated[int, Interval(ge=0)], ...] | None = None,
        waves: Annotated[int, Interval(ge=0)] = 0,
    ) -> None:
        super().__init__()
        dimensions = whole("dimensions", dimensions, 0)
        width, blocks = require_positive(width=width, blocks=blocks)
        inputs = (4 + 2 * whole("waves", waves, 0)) * dimensions if conditional else dimensions
        self.conditional = conditional
        self.codes = codes
        self.indicated = indicated
        self.waves = waves
        self.embedding = NoiseEmbedding(width)
        self.stem = nn.Linear(inputs + sum(codes), width)
        self.hidden = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(blocks))
        self.shifts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(blocks))
        self.back = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.output = nn.Linear(width, dimensions + sum(codes))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Float[Tensor, "b _"], c: Float[Tensor, "b"] | Float[Tensor, "1"]) -> Float[Tensor, "b d"]:
        """The network's output F(x, c) for the noise levels c = ¼ ln σ."""
        embedding = self.embedding(c)
        h = self.stem(REACH * torch.tanh(x / REACH) if self.conditional else x)
        for hidden, shift, back in zip(self.hidden, self.shifts, self.back, strict=True):
            h = h + back(F.silu(hidden(h) + shift(embedding)))
        return self.output(F.silu(h))  # type: ignore[no-any-return]


# One for each number of dimensions, 1, 2 and 3.
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


def fold(x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b k *_"]:
    """Halve each side and multiply the channels by 2ᵈ: pixel unshuffle for any number d of sides."""
    for axis in range(2, x.ndim):
        x = torch.unflatten(x, axis, (-1, 2)).movedim(axis + 1, 2).flatten(1, 2)
    return x


def unfold(x: Float[Tensor, "b k *_"]) -> Float[Tensor, "b c *d"]:
    """The inverse of ``fold``."""
    for axis in reversed(range(2, x.ndim)):
        x = torch.unflatten(x, 1, (-1, 2)).movedim(2, axis + 1).flatten(axis, axis + 1)
    return x


class Convolution(nn.Module):
    """A padded convolution of size 3 whose kernel is stored as a matrix with one row per output channel.

    The Muon optimiser orthogonalises matrices.  Its columns run over (*place, input channel), so that the
    kernel is contiguous in channels-last order and needs no copy.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, dimensions: int = 2) -> None:
        super().__init__()
        kernel = LAYERS[dimensions - 1](inputs, outputs, 3).weight.detach()
        self.weight = nn.Parameter(kernel.movedim(1, -1).reshape(outputs, -1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.stride = stride

    def forward(self, x: Float[Tensor, "b i *d"]) -> Float[Tensor, "b o *_"]:
        kernel = self.weight.view(len(self.weight), *[3] * (x.ndim - 2), -1).movedim(-1, 1)
        convolve = CONVOLUTIONS[x.ndim - 3]
        if self.stride > 1 and x.shape[-1] <= 2 and x.device.type == "cpu":
            # In bfloat16 on AMX, torch 2.13 reads uninitialised memory here (a bug in oneDNN).
            wide = torch.promote_types(x.dtype, torch.float32)
            with torch.autocast("cpu", enabled=False):
                return convolve(x.to(wide), kernel.to(wide), self.bias.to(wide), self.stride, 1).to(x.dtype)
        return convolve(x, kernel, self.bias, self.stride, 1)


class ChannelNorm(nn.Module):
    """RMS normalisation over the channels at each position, with a gain per channel (Zhang & Sennrich 2019).

    The scale is always computed in single precision.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        """``x`` with unit mean square over channels, times the gain."""
        # When compiled, this is faster than torch's rms_norm, which keeps a float32 copy of x for the gradient.
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-5).to(x.dtype)
        return x * scale * self.gain.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


class Block(nn.Module):
    """Two convolutions on a residual branch, with features scaled and shifted by the noise level in between.

    The second convolution is initialised to zero, so a new block is the identity.
    """

    def __init__(self, channels: int, dimensions: int = 2) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1 = Convolution(channels, channels, dimensions=dimensions)
        self.conv2 = Convolution(channels, channels, dimensions=dimensions)
        nn.init.zeros_(self.conv2.weight)

    def forward(
        self, h: Float[Tensor, "b c *d"], modulation: Float[Tensor, "b 2*c"] | Float[Tensor, "1 2*c"]
    ) -> Float[Tensor, "b c *d"]:
        """``h`` plus the branch; ``modulation`` is the scale (minus one) and the shift of each channel."""
        scale, shift = modulation.view(*modulation.shape, *[1] * (h.ndim - 2)).chunk(2, 1)
        branch = self.conv1(F.silu(self.norm1(h)))
        return h + self.conv2(F.silu(self.norm2(branch) * (1 + scale) + shift))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """A U-Net on ``len(channels)`` resolutions, the finest at half of the image's: (b, c, *d), (b,) → (b, c, *d).

    ``image_channels``: 1 for grey, 3 for colour.  ``channels``: the width at each resolution, finest first.
    ``blocks``: residual blocks at each resolution, on the way down and again on the way up.
    ``features``: numbers in the embedding of the noise level.
    ``num_classes``: the number of classes of a class-conditional network; by default it is unconditional.
    ``dimensions``: 1 for signals (b, c, l), 2 for images (b, c, h, w), 3 for volumes (b, c, d, h, w).
    Sides may have any length.
    Raises ValueError for a network without channels, blocks or features, and for other dimensions.
    """

    def __init__(
        self,
        image_channels: Positive = 1,
        channels: Annotated[Sequence[Positive], Len(1, 12)] = (64, 128),
        blocks: Annotated[int, Interval(ge=1, le=100)] = 2,
        features: Positive = 64,
        num_classes: int = 0,
        dimensions: Annotated[int, Interval(ge=1, le=3)] = 2,
    ) -> None:
        super().__init__()
        require_positive(image_channels=image_channels, blocks=blocks, features=features)
        require_positive(**{"len(channels)": len(channels)})
        require_positive(**{f"channels[{i}]": width for i, width in enumerate(channels)})
        whole("num_classes", num_classes, 0)
        if whole("dimensions", dimensions, 1) > len(LAYERS):
            raise ValueError(f"dimensions is {dimensions}; expected 1, 2 or 3")
        layer = LAYERS[dimensions - 1]
        folded_channels = 2**dimensions * image_channels
        self.factor = 2 ** len(channels)
        self.embedding = NoiseEmbedding(features)
        # The first row stands for no class.
        self.labels = nn.Embedding(num_classes + 1, features) if num_classes else None
        self.stem = layer(folded_channels, channels[0], 3, padding=1)
        block = partial(Block, dimensions=dimensions)
        convolution = partial(Convolution, dimensions=dimensions)
        self.encoder = nn.ModuleList(nn.ModuleList(block(c) for _ in range(blocks)) for c in channels)
        self.decoder = nn.ModuleList(nn.ModuleList(block(c) for _ in range(blocks)) for c in channels)
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(convolution(fine, coarse, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(convolution(coarse, fine) for fine, coarse in pairs)
        self.norm = ChannelNorm(channels[0])
        self.head = layer(channels[0], folded_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(torch.as_tensor(self.head.bias))
        # The modulations of all blocks in one product, in the order in which forward uses them.
        self.widths = [2 * c for c in (*channels, *reversed(channels)) for _ in range(blocks)]
        self.modulation = nn.Linear(features, sum(self.widths))

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the blocks, as ``torch.compile`` does: equal ones once, a third of the work for the whole network."""
        for block in self.modules():
            if isinstance(block, Block):
                block.compile(*args, **options)

    def forward(
        self,
        x: Float[Tensor, "b c *d"],
        c: Float[Tensor, "b"] | Float[Tensor, "1"],
        label: Int64[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b c *d"]:
        """The network's output F(x, c), which ``ScoreModel`` turns into a score.

        ``x``: scaled examples, (b, c, *d).
        ``c``: ¼ ln σ of each, (b,), or of all, (1,).
        ``label``: the class of each, −1 for none, if the network is class-conditional.
        """
        sides = x.shape[2:]
        # Pad with zeros, the mean of the data, as the convolutions do.
        x = F.pad(x, [n for side in reversed(sides) for n in (0, -side % self.factor)])
        embedding = self.embedding(c)
        if self.labels is not None:
            embedding = embedding + self.labels(torch.zeros_like(c, dtype=torch.long) if label is None else label + 1)
        modulations = iter(self.modulation(embedding).split(self.widths, 1))
        h = self.stem(fold(x).contiguous(memory_format=FORMATS[x.ndim - 3]))
        skips = []
        for level, blocks in enumerate(self.encoder):
            h = self.down[level - 1](h) if level else h
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, next(modulations))
                skips.append(h)
        for level, blocks in reversed(list(enumerate(self.decoder))):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h + skips.pop(), next(modulations))
            h = self.up[level - 1](F.interpolate(h, scale_factor=2.0)) if level else h
        padded = unfold(self.head(F.silu(self.norm(h))))
        return padded[tuple(map(slice, (None, None, *sides)))]
