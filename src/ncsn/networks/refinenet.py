"""The RefineNet of the NCSN papers: a residual network whose later stages dilate, refined from coarse to fine.

Song & Ermon 2019 (arXiv:1907.05600), appendix A, after Lin et al. 2017 (arXiv:1611.06612): ELU everywhere, instance
normalisation that keeps the channels' means, average pooling, and dilated convolutions instead of further downsampling.
With ``features`` the normalisation depends on the noise level (2019); with none of them the network does not know it
(2020, arXiv:2006.09011, where the score is f(x)/σ).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ncsn.networks.embedding import NoiseEmbedding


class InstanceNormPlus(nn.Module):
    """Conditional instance normalisation ++: γ·(x_k − μ_k)/s_k + β + α·(μ_k − m)/v for each channel k.

    μ_k, s_k: mean and standard deviation over a channel's pixels; m, v: those of the μ_k over channels, which tell
    pictures of another overall colour apart.  γ, β, α depend on the noise level if there are ``features``.  Song &
    Ermon 2019, appendix A.1.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.scales = nn.Linear(features, 3 * channels) if features else None
        if self.scales is None:
            self.gain = nn.Parameter(neutral(channels))
        else:
            nn.init.zeros_(self.scales.weight)
            self.scales.bias.data = neutral(channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"] | Float[Tensor, "1 e"]
    ) -> Float[Tensor, "b c h w"]:
        """``x``, normalised."""
        mean = x.mean((2, 3))
        shift = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        scales = self.gain[None] if self.scales is None else self.scales(embedding)
        gain, bias, colour = scales.expand(len(x), -1).chunk(3, 1)
        return F.instance_norm(x) * gain[..., None, None] + (bias + colour * shift)[..., None, None]


def neutral(channels: int) -> Tensor:
    """The neutral start of γ, β, α: one, zero and one for each channel."""
    return torch.cat([torch.ones(channels), torch.zeros(channels), torch.ones(channels)])


def convolution(inputs: int, outputs: int, dilation: int = 1) -> nn.Conv2d:
    """A padded 3 × 3 convolution."""
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)


class ResidualBlock(nn.Module):
    """Norm, ELU, convolution, twice; ``down`` halves the resolution by averaging, or ``dilation`` widens the view."""

    def __init__(self, inputs: int, outputs: int, features: int, *, down: bool = False, dilation: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = InstanceNormPlus(inputs, features), InstanceNormPlus(inputs, features)
        self.conv1, self.conv2 = convolution(inputs, inputs, dilation), convolution(inputs, outputs, dilation)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs or down else nn.Identity()
        self.down = down

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Branch plus shortcut."""
        h = self.conv1(F.elu(self.norm1(x, embedding)))
        h = self.conv2(F.elu(self.norm2(h, embedding))) + self.shortcut(x)
        return F.avg_pool2d(h, 2) if self.down else h


class ResidualConvolutions(nn.Module):
    """RCU: ``blocks`` residual branches of norm, ELU and convolution, twice each."""

    def __init__(self, channels: int, features: int, blocks: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(InstanceNormPlus(channels, features) for _ in range(2 * blocks))
        self.convs = nn.ModuleList(convolution(channels, channels) for _ in range(2 * blocks))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x`` after all branches."""
        pairs = list(zip(self.norms, self.convs, strict=True))
        for first, second in zip(pairs[::2], pairs[1::2], strict=True):
            h = x
            for norm, conv in (first, second):
                h = conv(F.elu(norm(h, embedding)))
            x = x + h
        return x


class Refine(nn.Module):
    """RCU on every input, fusion at the first one's resolution (MSF), chained residual pooling (CRP), RCU again."""

    def __init__(self, inputs: Sequence[int], outputs: int, features: int, *, last: bool = False) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(ResidualConvolutions(c, features, 2) for c in inputs)
        self.fuse_norms = nn.ModuleList(InstanceNormPlus(c, features) for c in inputs)
        self.fuse = nn.ModuleList(convolution(c, outputs) for c in inputs)
        self.pool_norms = nn.ModuleList(InstanceNormPlus(outputs, features) for _ in range(2))
        self.pool = nn.ModuleList(convolution(outputs, outputs) for _ in range(2))
        self.output = ResidualConvolutions(outputs, features, 3 if last else 1)

    def forward(self, inputs: Sequence[Tensor], embedding: Tensor) -> Tensor:
        """The refined features, at the resolution of the first input."""
        size, parts = inputs[0].shape[2:], []
        for x, adapt, norm, conv in zip(inputs, self.adapt, self.fuse_norms, self.fuse, strict=True):
            part = conv(norm(adapt(x, embedding), embedding))
            same = part.shape[2:] == size
            parts.append(part if same else F.interpolate(part, size, mode="bilinear", align_corners=True))
        h = path = F.elu(torch.stack(parts).sum(0))
        for norm, conv in zip(self.pool_norms, self.pool, strict=True):
            path = conv(F.avg_pool2d(norm(path, embedding), 5, 1, 2))
            h = h + path
        return self.output(h, embedding)  # type: ignore[no-any-return]


class RefineNet(nn.Module):
    """The networks of NCSN and NCSNv2 at any width: (b, c, h, w), (b,) → (b, c, h, w).

    ``image_channels``: 1 for grey, 3 for colour.  ``width``: channels of the first stage, twice as many later; 64 for
    MNIST and 128 for CIFAR-10 in the papers.  ``features``: of the embedding of the noise level; 0 for NCSNv2's
    network, which does not see it.  Height and width must be even; forward raises ValueError otherwise.
    """

    def __init__(self, image_channels: int = 1, width: int = 64, features: int = 128) -> None:
        super().__init__()
        if min(image_channels, width) < 1 or features < 0:
            raise ValueError(
                f"image_channels is {image_channels}, width is {width}, features is {features}; at least 1, 1 and 0"
            )
        w, f = width, features
        self.embedding = NoiseEmbedding(features) if features else None
        self.stem = convolution(image_channels, w)
        self.stages = nn.ModuleList(
            nn.ModuleList(stage)
            for stage in (
                [ResidualBlock(w, w, f), ResidualBlock(w, w, f)],
                [ResidualBlock(w, 2 * w, f, down=True), ResidualBlock(2 * w, 2 * w, f)],
                [ResidualBlock(2 * w, 2 * w, f, dilation=2), ResidualBlock(2 * w, 2 * w, f, dilation=2)],
                [ResidualBlock(2 * w, 2 * w, f, dilation=4), ResidualBlock(2 * w, 2 * w, f, dilation=4)],
            )
        )
        self.refine = nn.ModuleList(
            [
                Refine([2 * w], 2 * w, f),
                Refine([2 * w, 2 * w], 2 * w, f),
                Refine([2 * w, 2 * w], w, f),
                Refine([w, w], w, f, last=True),
            ]
        )
        self.norm, self.head = InstanceNormPlus(w, f), convolution(w, image_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(torch.as_tensor(self.head.bias))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the normalisations alone: most of the gain in seconds, where the whole network takes minutes."""
        for module in self.modules():
            if isinstance(module, InstanceNormPlus):
                module.compile(*args, **kwargs)

    def forward(
        self, x: Float[Tensor, "b c h w"], c: Float[Tensor, "b"] | Float[Tensor, "1"]
    ) -> Float[Tensor, "b c h w"]:
        """The network's value at ``x`` for the noise levels c = ¼ ln σ."""
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"images of {x.shape[2]} x {x.shape[3]} pixels; multiples of 2 are needed")
        embedding = c if self.embedding is None else self.embedding(c)
        h, stages = self.stem(x), []
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, embedding)
            stages.append(h)
        h = self.refine[0]([stages[3]], embedding)
        for refine, finer in zip(list(self.refine)[1:], reversed(stages[:3]), strict=True):
            h = refine([finer, h], embedding)
        return self.head(F.elu(self.norm(h, embedding)))  # type: ignore[no-any-return]
