"""The RefineNet of the NCSN papers: a residual network whose later stages dilate, refined from coarse to fine.

Lin et al. 2017 (arXiv:1611.06612) with ELU, with dilated convolutions instead of further halving, and with instance
normalisation that keeps the channels' means: Song & Ermon 2019 (arXiv:1907.05600), appendix A.  Where the papers and
their code differ, the code is followed.  Here are the parts; ``ncsn.networks.ncsn`` makes each paper's network of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
"""Makes the normalisation ``norm(x, level)`` of so many channels; what a ``level`` is, its ``scales`` know."""


def neutral(levels: int, channels: int) -> Float[Tensor, "levels 3 channels"]:
    """How γ, α and β start, as in the official code: the first two near 1, N(1, 0.02²), and β at zero."""
    return torch.cat([1 + 0.02 * torch.randn(levels, 2, channels), torch.zeros(levels, 1, channels)], 1)


class Table(nn.Module):
    """γ, α and β of each of so many noise levels: (b,) indices → (b, 3, channels)."""

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(neutral(levels, channels))  # three axes: no matrix, so Adam's and not Muon's

    def forward(self, level: Int64[Tensor, "b"]) -> Float[Tensor, "b 3 channels"]:
        """The rows of these levels."""
        return self.rows[level]


class Projection(nn.Module):
    """γ, α and β as a linear function of an embedded noise level: (b, features) → (b, 3, channels)."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 3 * channels)
        nn.init.zeros_(self.linear.weight)
        self.linear.bias.data = neutral(1, channels).flatten()

    def forward(self, level: Float[Tensor, "b features"]) -> Float[Tensor, "b 3 channels"]:
        """The scales of these levels."""
        return self.linear(level).unflatten(1, (3, -1))  # type: ignore[no-any-return]


class InstanceNormPlus(nn.Module):
    """Instance normalisation ++: γ·((x_k − μ_k)/s_k + α·(μ_k − m)/v) + β for each channel k.

    μ_k, s_k: mean and standard deviation over a channel's pixels; m, v: those of the μ_k over channels (v² unbiased),
    which tell pictures of another overall colour apart.  Song & Ermon 2019, appendix A.1, where γ does not multiply α;
    in the official code it does.

    ``scales``: a module from ``level`` to γ, α and β, (b, 3, channels), or (1, 3, channels) for a common level.
    """

    def __init__(self, scales: nn.Module) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, x: Float[Tensor, "b c h w"], level: Tensor) -> Float[Tensor, "b c h w"]:
        """``x``, normalised."""
        mean = x.mean((2, 3))
        colour = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True) + 1e-5).sqrt()
        scales: Tensor = self.scales(level)
        gamma, alpha, beta = scales.to(x.dtype).unbind(1)
        return F.instance_norm(x) * gamma[..., None, None] + (gamma * alpha * colour + beta)[..., None, None]


class Unnormalised(nn.Module):
    """``x`` as it is: what stands for a normalisation where there is none."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """``x``."""
        return x


def convolution(inputs: int, outputs: int, dilation: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """A padded 3 × 3 convolution."""
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


class ResidualBlock(nn.Module):
    """Norm, ELU, convolution, twice, plus a shortcut; ``halve`` averages the sum over 2 × 2 pixels."""

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, shortcut: nn.Module, *, dilation: int = 1, halve: bool = False
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(inputs)
        self.conv1, self.conv2 = convolution(inputs, inputs, dilation), convolution(inputs, outputs, dilation)
        self.shortcut, self.halve = shortcut, halve

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Branch plus shortcut."""
        h = self.conv1(F.elu(self.norm1(x, level)))
        h = self.conv2(F.elu(self.norm2(h, level))) + self.shortcut(x)
        return F.avg_pool2d(h, 2) if self.halve else h


class Stage(nn.ModuleList):
    """Two residual blocks: one that may change channels, resolution or dilation, and one whose shortcut is direct."""

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, shortcut: nn.Module, *, dilation: int = 1, halve: bool = False
    ) -> None:
        first = ResidualBlock(inputs, outputs, norm, shortcut, dilation=dilation, halve=halve)
        super().__init__([first, ResidualBlock(outputs, outputs, norm, nn.Identity(), dilation=dilation)])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """``x`` after both blocks."""
        for block in self:
            x = block(x, level)
        return x


class ResidualConvolutions(nn.Module):
    """RCU: ``branches`` residual branches of norm, ELU and convolution, twice each."""

    def __init__(self, channels: int, norm: Norm, branches: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for _ in range(2 * branches))
        self.convs = nn.ModuleList(convolution(channels, channels, bias=False) for _ in range(2 * branches))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """``x`` after all branches."""
        pairs = list(zip(self.norms, self.convs, strict=True))
        for branch in zip(pairs[::2], pairs[1::2], strict=True):
            h = x
            for norm, conv in branch:
                h = conv(F.elu(norm(h, level)))
            x = x + h
        return x


class Fusion(nn.Module):
    """MSF: norm and convolution of every input, resized to the first one's resolution, and summed."""

    def __init__(self, inputs: Sequence[int], outputs: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for channels in inputs)
        self.convs = nn.ModuleList(convolution(channels, outputs) for channels in inputs)

    def forward(self, inputs: Sequence[Tensor], level: Tensor) -> Tensor:
        """The sum, at the resolution of the first input."""
        parts = [conv(norm(x, level)) for x, norm, conv in zip(inputs, self.norms, self.convs, strict=True)]
        fused, size = parts[0], parts[0].shape[2:]
        for part in parts[1:]:
            same = part.shape[2:] == size
            fused = fused + (part if same else F.interpolate(part, size, mode="bilinear", align_corners=True))
        return fused  # type: ignore[no-any-return]


class ChainedPooling(nn.Module):
    """CRP: ELU, plus two links of a chain of norm, 5 × 5 ``pool`` and convolution."""

    def __init__(self, channels: int, norm: Norm, pool: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(channels) for _ in range(2))
        self.convs = nn.ModuleList(convolution(channels, channels, bias=False) for _ in range(2))
        self.pool = pool

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """The sum of ELU(x) and of every link."""
        h = link = F.elu(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            link = conv(self.pool(norm(link, level)))
            h = h + link
        return h


class Refine(nn.Module):
    """RCU on every input, fusion if there are several (MSF), chained residual pooling (CRP), ``branches`` of RCU."""

    def __init__(self, inputs: Sequence[int], outputs: int, norm: Norm, pool: nn.Module, *, branches: int = 1) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(ResidualConvolutions(channels, norm, 2) for channels in inputs)
        self.msf = Fusion(inputs, outputs, norm) if len(inputs) > 1 else None
        self.crp = ChainedPooling(outputs, norm, pool)
        self.output = ResidualConvolutions(outputs, norm, branches)

    def forward(self, inputs: Sequence[Tensor], level: Tensor) -> Tensor:
        """The refined features, at the resolution of the first input."""
        adapted = [adapt(x, level) for x, adapt in zip(inputs, self.adapt, strict=True)]
        h = adapted[0] if self.msf is None else self.msf(adapted, level)
        return self.output(self.crp(h, level), level)  # type: ignore[no-any-return]


class RefineNet(nn.Module):
    """What the papers' networks share: four stages, refined from the last to the first; (b, c, h, w) → (b, c, h, w).

    Its head starts at zero, so that an untrained network returns zero (the official code's does not).

    ``image_channels``: 1 for grey, 3 for colour.  ``width``: channels of the first stage, at least 2; later ones have
    twice as many.
    ``level``: a module from c = ¼ ln σ, (b,) or (1,), to what the normalisations are told of it.
    ``norm``: of the stages and before the head.  ``refine_norm`` and ``pool``: of the refine blocks.
    ``rescale``: show the network 2x − 1, for pixels in [0, 1], instead of x.
    Raises ValueError if there are too few channels.
    """

    def __init__(
        self,
        image_channels: int,
        width: int,
        level: nn.Module,
        *,
        norm: Norm,
        refine_norm: Norm,
        pool: nn.Module,
        rescale: bool,
    ) -> None:
        super().__init__()
        if image_channels < 1 or width < 2:
            raise ValueError(f"image_channels is {image_channels} and width is {width}; at least 1 and 2 are needed")
        w = width
        self.image_channels, self.rescale = image_channels, rescale
        self.level = level
        self.stem = convolution(image_channels, w)
        self.stage1 = Stage(w, w, norm, nn.Identity())
        self.stage2 = Stage(w, 2 * w, norm, nn.Conv2d(w, 2 * w, 1), halve=True)
        self.stage3 = Stage(2 * w, 2 * w, norm, convolution(2 * w, 2 * w, 2), dilation=2)
        self.stage4 = Stage(2 * w, 2 * w, norm, convolution(2 * w, 2 * w, 4), dilation=4)
        self.refine1 = Refine([2 * w], 2 * w, refine_norm, pool)
        self.refine2 = Refine([2 * w, 2 * w], 2 * w, refine_norm, pool)
        self.refine3 = Refine([2 * w, 2 * w], w, refine_norm, pool)
        self.refine4 = Refine([w, w], w, refine_norm, pool, branches=3)
        self.norm, self.head = norm(w), convolution(w, image_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(torch.as_tensor(self.head.bias))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the normalisations alone: most of the gain in seconds, where the whole network takes minutes."""
        for module in self.modules():
            if isinstance(module, InstanceNormPlus):
                module.compile(*args, **kwargs)

    def forward(self, x: Float[Tensor, "*bchw"], c: Float[Tensor, "b"] | Float[Tensor, "1"]) -> Float[Tensor, "*bchw"]:
        """The network's value at ``x`` for the noise levels c = ¼ ln σ.

        Raises ValueError unless x is (b, image_channels, h, w), with h and w even and at least 4.
        """
        if x.ndim != 4 or x.shape[1] != self.image_channels or any(side < 4 or side % 2 for side in x.shape[2:]):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; (batch, {self.image_channels}, height, width) is needed, "
                "height and width even and at least 4"
            )
        level = self.level(c)
        first = self.stage1(self.stem(2 * x - 1 if self.rescale else x), level)
        second = self.stage2(first, level)
        third = self.stage3(second, level)
        fourth = self.stage4(third, level)
        h = self.refine1([fourth], level)
        h = self.refine2([third, h], level)
        h = self.refine3([second, h], level)
        h = self.refine4([first, h], level)
        return self.head(F.elu(self.norm(h, level)))  # type: ignore[no-any-return]
