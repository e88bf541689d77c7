"""The networks of NCSN and NCSNv2, RefineNets, and their official weights, as networks of one's own.

python examples/refinenet.py                # ten minutes on MNIST; writes runs/refinenet, and judges it
python examples/refinenet.py --minutes 30 --width 32

RefineNet (Lin et al. 2017, arXiv:1611.06612) with ELU, with dilated convolutions instead of further halving, and with
instance normalisation that keeps the channels' means: Song & Ermon 2019 (arXiv:1907.05600), appendix A.  Where the
papers and their code differ, the code is followed.

``from_ncsn`` makes a score of the weights of the official code (github.com/ermongroup/ncsn and ncsnv2), which computes
what that code computes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Int64
from torch import Tensor, nn

import ncsn
from ncsn.batching import quantize
from ncsn.evaluation import Ruler
from ncsn.networks import NoiseEmbedding
from ncsn.score import Plain, Scaled

Norm = Callable[[int], nn.Module]
"""A function from a number of channels to the module ``norm(x, level)``; its ``scales`` define what a ``level`` is."""


def neutral(levels: int, channels: int) -> Float[Tensor, "levels 3 channels"]:
    """Initial γ, α and β, as in the official code: the first two from N(1, 0.02²), and β zero."""
    return torch.cat([1 + 0.02 * torch.randn(levels, 2, channels), torch.zeros(levels, 1, channels)], 1)


class Table(nn.Module):
    """A table of γ, α and β for each noise level: (b,) indices → (b, 3, channels)."""

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(neutral(levels, channels))  # three axes, so that Adam trains it and not Muon

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
    which distinguish images of different overall colour.  Song & Ermon 2019, appendix A.1, where γ does not multiply α;
    in the official code it does.

    ``scales``: a module from ``level`` to γ, α and β, (b, 3, channels), or (1, 3, channels) for a common level.
    """

    def __init__(self, scales: nn.Module) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, x: Float[Tensor, "b c h w"], level: Tensor) -> Float[Tensor, "b c h w"]:
        mean = x.mean((2, 3))
        colour = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True) + 1e-5).sqrt()
        scales: Tensor = self.scales(level)
        gamma, alpha, beta = scales.to(x.dtype).unbind(1)
        return F.instance_norm(x) * gamma[..., None, None] + (gamma * alpha * colour + beta)[..., None, None]


class Unnormalised(nn.Module):
    """The identity in place of a normalisation."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
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
        self.shortcut = shortcut
        self.halve = halve

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.norm1(x, level)))
        h = self.conv2(F.elu(self.norm2(h, level))) + self.shortcut(x)
        return F.avg_pool2d(h, 2) if self.halve else h


class Stage(nn.ModuleList):
    """Two residual blocks: the first may change channels, resolution or dilation, the second changes none."""

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, shortcut: nn.Module, *, dilation: int = 1, halve: bool = False
    ) -> None:
        first = ResidualBlock(inputs, outputs, norm, shortcut, dilation=dilation, halve=halve)
        super().__init__([first, ResidualBlock(outputs, outputs, norm, nn.Identity(), dilation=dilation)])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
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
        first, *others = [conv(norm(x, level)) for x, norm, conv in zip(inputs, self.norms, self.convs, strict=True)]
        fused = first
        for h in others:
            if h.shape != first.shape:
                h = F.interpolate(h, first.shape[2:], mode="bilinear", align_corners=True)
            fused = fused + h
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
    """The common part of the papers' networks: four stages, refined from last to first; (b, c, h, w) → (b, c, h, w).

    The head is initialised to zero, so that an untrained network returns zero (unlike the official code's).

    ``image_channels``: 1 for grey, 3 for colour.  ``width``: channels of the first stage, at least 2; later ones have
    twice as many.
    ``level``: a module that maps c = ¼ ln σ, (b,) or (1,), to the ``level`` of the normalisations.
    ``norm``: of the stages and before the head.  ``refine_norm`` and ``pool``: of the refine blocks.
    ``rescale``: feed the network 2x − 1, for pixels in [0, 1], instead of x.
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
            raise ValueError(f"image_channels is {image_channels} and width is {width}; expected at least 1 and 2")
        w = width
        self.level = level
        self.rescale = rescale
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

    def compile(self, *args: object, **kwargs: object) -> None:
        """Compile only the normalisations: most of the gain in seconds, where the whole network would take minutes."""
        for module in self.modules():
            if isinstance(module, InstanceNormPlus):
                module.compile(*args, **kwargs)

    def forward(
        self, x: Float[Tensor, "b c h w"], c: Float[Tensor, "b"] | Float[Tensor, "1"]
    ) -> Float[Tensor, "b c h w"]:
        """The network's value at ``x`` for the noise levels c = ¼ ln σ; h and w are at least 4."""
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
        return torch.zeros(1, dtype=torch.int64, device=c.device)


class NCSN(RefineNet):
    """NCSN's network, in which every normalisation depends on the noise level; (b, c, h, w), (b,) → (b, c, h, w).

    Song & Ermon 2019 (arXiv:1907.05600), appendix A; ``CondRefineNetDilated`` of the official code.  There its value
    is the score itself (``Plain``).

    ``image_channels``: 1 for grey, 3 for colour.  ``width``: of the first stage, at least 2; 64 for MNIST and 128 for
    CIFAR-10 in the paper.
    ``sigmas``: its noise levels, > 0, each with its own γ, α and β, as in the paper.  Any other σ is replaced by the
    nearest of them in ln σ.
    ``features``: instead of ``sigmas``, the size of a continuous embedding of σ that γ, α and β are linear in.  This
    is not in the paper, but handles every σ.
    ``rescale``: feed the network 2x − 1, as the paper does with pixels in [0, 1].  False for inputs that are already
    standardised, as with ``EDM``.
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
        levels = tuple(float(sigma) for sigma in sigmas)
        if bool(levels) == bool(features) or features < 0 or not all(0 < sigma < math.inf for sigma in levels):
            raise ValueError(f"sigmas is {levels}, features is {features}; expected one of them, positive and finite")

        def norm(channels: int) -> InstanceNormPlus:
            return InstanceNormPlus(Table(len(levels), channels) if levels else Projection(features, channels))

        level = NearestLevel(levels) if levels else NoiseEmbedding(features)
        pool = nn.AvgPool2d(5, 1, 2)
        super().__init__(image_channels, width, level, norm=norm, refine_norm=norm, pool=pool, rescale=rescale)


class NCSNv2(RefineNet):
    """NCSNv2's network: not conditioned on σ, and without normalisation in its refine blocks; → the shape of x.

    Song & Ermon 2020 (arXiv:2006.09011), for images of 32 × 32 pixels; ``NCSNv2`` of the official code.  The score is
    its value divided by σ (``Scaled``).

    ``image_channels``: 1 for grey, 3 for colour.  ``width``: of the first stage, at least 2; 128 in the paper.
    ``rescale``: feed the network 2x − 1, as the paper does with pixels in [0, 1].
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


TABLE = "embed.weight"
"""The official name of a normalisation's γ, α and β, side by side in one row per noise level."""


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
"""Patterns in our weights' names and their replacements in the official names, applied in this order."""


def weights_by_official_name(network: nn.Module) -> dict[str, Tensor]:
    """The network's own weights (not copies), by their official names and in their official shapes."""
    weights = {}
    for name, weight in network.named_parameters():
        for ours, official in OFFICIAL:
            name = re.sub(ours, official, name)
        weights[name] = weight.detach().flatten(1) if name.endswith(TABLE) else weight.detach()
    return weights


def from_ncsn(
    state: Mapping[str, Tensor], sigmas: Sequence[float] | None = None, *, rescale: bool = True
) -> ncsn.ScoreModel:
    """The score model of the official NCSN or NCSNv2 weights, for pixels in [0, 1].

    ``state``: a state dict of ``CondRefineNetDilated`` (github.com/ermongroup/ncsn), or of ``NCSNv2`` with
    InstanceNorm++ and ELU (github.com/ermongroup/ncsnv2), or the running average of its weights.  Width and image
    channels are read off its tensors.
    ``sigmas``: the noise levels of the former, which its state dict lacks, in the order of its ``labels``; any other σ
    is rounded to the nearest of them.
    ``rescale``: False if it was trained on data in another range than [0, 1] (logits, or ``rescaled``).
    Song & Ermon 2019 (arXiv:1907.05600) and 2020 (arXiv:2006.09011, technique 3: s = f(x)/σ).
    Raises ValueError, naming the tensors, if any is missing, unexpected or of another shape.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}  # of DataParallel
    state.pop("sigmas", None)  # the sampler's
    width, channels = state.get("begin_conv.weight", torch.empty(2, 1)).shape[:2]
    if sigmas is None:
        model = ncsn.ScoreModel(NCSNv2(channels, width, rescale=rescale), preconditioning=Scaled())
    else:
        model = ncsn.ScoreModel(NCSN(channels, width, sigmas=sigmas, rescale=rescale), preconditioning=Plain())
    weights = weights_by_official_name(model.network)
    for name in [name for name in weights if name.endswith(TABLE) and sigmas is None]:
        for symbol, row in zip(("gamma", "alpha", "beta"), weights.pop(name)[0].chunk(3), strict=True):
            weights[name.removesuffix(TABLE) + symbol] = row
    missing = sorted(weights.keys() - state.keys())
    unexpected = sorted(state.keys() - weights.keys())
    if missing or unexpected:
        raise ValueError(f"weights of another network: {missing[:3]} are missing, {unexpected[:3]} are unexpected")
    for name, weight in weights.items():
        if state[name].shape != weight.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}; expected {tuple(weight.shape)}")
        weight.copy_(state[name])
    return model.requires_grad_(False).eval()


def main(minutes: float = 10, width: int = 16, n: int = 1000, out: Path = Path("runs/refinenet")) -> None:
    """Train NCSN's network on MNIST, conditioned on any σ, and compare its samples with test images."""
    data = ncsn.load_dataset("mnist")
    network = NCSN(width=width, features=128, rescale=False)  # fit standardises pixels
    run = ncsn.fit(data, minutes=minutes, network=network)
    run.save(out, overwrite=True)
    samples = run.sample(n)
    ncsn.plots.image_grid(samples[:64], out / "samples.png")
    print(Ruler(data, n=n).judge(quantize(samples)))


if __name__ == "__main__":
    tyro.cli(main)
