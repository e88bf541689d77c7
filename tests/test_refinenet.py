"""NCSN's and NCSNv2's networks against the official code, read once more as plain functions of its state dict."""

import math
import re
from collections.abc import Callable

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ncsn.adapters import from_ncsn
from ncsn.model import ScoreModel
from ncsn.networks import NCSN, NCSNv2
from ncsn.networks.refinenet import InstanceNormPlus, RefineNet

State = dict[str, Tensor]
SIGMAS = (1.0, 0.3, 0.1, 0.03, 0.01)


def official_shapes(channels: int, w: int, levels: int) -> dict[str, tuple[int, ...]]:
    """The official state dict's names and shapes: NCSN's with so many noise levels, NCSNv2's with none."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, size: int = 3, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, width: int) -> None:
        if levels:
            shapes[f"{name}.embed.weight"] = (levels, 3 * width)
        else:
            shapes.update({f"{name}.{part}": (width,) for part in ("alpha", "gamma", "beta")})

    def refine_norm(name: str, width: int) -> None:
        if levels:
            norm(name, width)

    def rcu(name: str, width: int, branches: int) -> None:
        for unit in [f"{name}.{i}_{j}" for i in range(1, branches + 1) for j in (1, 2)]:
            conv(f"{unit}_conv", width, width, bias=False)
            refine_norm(f"{unit}_norm", width)

    conv("begin_conv", channels, w)
    conv("end_conv", w, channels)
    norm("normalizer", w)
    for stage, (inputs, outputs) in enumerate([(w, w), (w, 2 * w), (2 * w, 2 * w), (2 * w, 2 * w)], 1):
        pooled = ".conv" if stage == 2 else ""
        conv(f"res{stage}.0.conv1", inputs, inputs)
        conv(f"res{stage}.0.conv2{pooled}", inputs, outputs)
        if stage > 1:
            conv(f"res{stage}.0.shortcut{pooled}", inputs, outputs, 1 if pooled else 3)
        conv(f"res{stage}.1.conv1", outputs, outputs)
        conv(f"res{stage}.1.conv2", outputs, outputs)
        for i in (1, 2):
            norm(f"res{stage}.0.normalize{i}", inputs)
            norm(f"res{stage}.1.normalize{i}", outputs)
    for block, (inputs, parts, outputs) in enumerate(
        [(2 * w, 1, 2 * w), (2 * w, 2, 2 * w), (2 * w, 2, w), (w, 2, w)], 1
    ):
        for k in range(parts):
            rcu(f"refine{block}.adapt_convs.{k}", inputs, 2)
            if parts > 1:
                conv(f"refine{block}.msf.convs.{k}", inputs, outputs)
                refine_norm(f"refine{block}.msf.norms.{k}", inputs)
        for k in (0, 1):
            conv(f"refine{block}.crp.convs.{k}", outputs, outputs, bias=False)
            refine_norm(f"refine{block}.crp.norms.{k}", outputs)
        rcu(f"refine{block}.output_convs", outputs, 3 if block == 4 else 1)
    return shapes


def official_state(channels: int, width: int, levels: int) -> State:
    """Weights that keep the signal's size, with γ, α and β that matter; float32 numbers, to compute with in float64."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in sorted(official_shapes(channels, width, levels).items()):
        z = torch.randn(shape, generator=generator)
        state[name] = (z / math.prod(shape[1:]) ** 0.5 if len(shape) == 4 else 1 + 0.3 * z).double()
    return state


class Official:
    """The official forward computation; ``y`` is the index of each example's noise level."""

    def __init__(self, state: State, y: Tensor) -> None:
        self.state, self.y = state, y

    def conv(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), padding=padding, dilation=dilation)

    def norm(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.embed.weight" in self.state:
            scales = self.state[f"{name}.embed.weight"][self.y].chunk(3, 1)
        elif f"{name}.gamma" in self.state:
            scales = tuple(self.state[f"{name}.{part}"][None] for part in ("gamma", "alpha", "beta"))
        else:
            return x
        gamma, alpha, beta = (scale[:, :, None, None] for scale in scales)
        mean = x.mean((2, 3), keepdim=True)
        inside = (x - mean) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        between = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, unbiased=True, keepdim=True) + 1e-5).sqrt()
        return gamma * (inside + alpha * between) + beta

    def residual(self, name: str, x: Tensor, dilation: int) -> Tensor:
        pooled = name == "res2.0"
        inner = ".conv" if pooled else ""
        h = self.conv(f"{name}.conv1", F.elu(self.norm(f"{name}.normalize1", x)), dilation)
        h = self.conv(f"{name}.conv2{inner}", F.elu(self.norm(f"{name}.normalize2", h)), dilation)
        known = f"{name}.shortcut{inner}.weight" in self.state
        shortcut = self.conv(f"{name}.shortcut{inner}", x, dilation) if known else x
        halved = F.avg_pool2d if pooled else (lambda x, _: x)
        return halved(h, 2) + halved(shortcut, 2)

    def rcu(self, name: str, x: Tensor, branches: int) -> Tensor:
        for i in range(1, branches + 1):
            h = self.conv(f"{name}.{i}_1_conv", F.elu(self.norm(f"{name}.{i}_1_norm", x)))
            x = x + self.conv(f"{name}.{i}_2_conv", F.elu(self.norm(f"{name}.{i}_2_norm", h)))
        return x

    def refine(self, name: str, parts: list[Tensor], branches: int = 1) -> Tensor:
        adapted = [self.rcu(f"{name}.adapt_convs.{k}", part, 2) for k, part in enumerate(parts)]
        h = adapted[0]
        if len(parts) > 1:
            msf = [
                self.conv(f"{name}.msf.convs.{k}", self.norm(f"{name}.msf.norms.{k}", a)) for k, a in enumerate(adapted)
            ]
            same_size = [F.interpolate(m, parts[0].shape[2:], mode="bilinear", align_corners=True) for m in msf]
            h = torch.stack(same_size).sum(0)
        pool: Callable[..., Tensor] = F.avg_pool2d if "normalizer.embed.weight" in self.state else F.max_pool2d
        h = link = F.elu(h)
        for k in (0, 1):
            link = pool(self.norm(f"{name}.crp.norms.{k}", link), 5, stride=1, padding=2)
            link = self.conv(f"{name}.crp.convs.{k}", link)
            h = h + link
        return self.rcu(f"{name}.output_convs", h, branches)

    def __call__(self, x: Tensor) -> Tensor:
        h, stages = self.conv("begin_conv", 2 * x - 1), []
        for stage, dilation in enumerate((1, 1, 2, 4), 1):
            h = self.residual(f"res{stage}.1", self.residual(f"res{stage}.0", h, dilation), dilation)
            stages.append(h)
        h = self.refine("refine1", [stages[3]])
        h = self.refine("refine2", [stages[2], h])
        h = self.refine("refine3", [stages[1], h])
        h = self.refine("refine4", [stages[0], h], branches=3)
        h = self.conv("end_conv", F.elu(self.norm("normalizer", h)))
        return h / self.state["sigmas"][self.y][:, None, None, None] if "sigmas" in self.state else h


def converted(state: State) -> ScoreModel:
    return from_ncsn(state, None if "sigmas" in state else SIGMAS)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 12, 8)])
@pytest.mark.parametrize("version", [1, 2])
def test_computes_what_the_official_code_computes(
    version: int, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    state = official_state(shape[0], 8, len(SIGMAS) if version == 1 else 0)
    if version == 2:
        state["sigmas"] = torch.tensor(SIGMAS, dtype=torch.float64)
    y, sigmas = torch.tensor([2, 0, 4, 3]), torch.tensor(SIGMAS, dtype=torch.float64)
    x = torch.rand(4, *shape, generator=generator, dtype=torch.float64)
    score = converted(state).double()
    torch.testing.assert_close(score(x, sigmas[y]), Official(state, y)(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(score(x, 0.1), Official(state, torch.full((4,), 2))(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (len(SIGMAS), [3.218535817, 4.081650001, 2.099868173, 1.979994967]),
        (0, [1.825294272, 2.067478325, 3.773949493, 2.336257319]),
    ],
)
def test_computes_what_the_official_classes_returned(levels: int, expected: list[float]) -> None:
    """With these weights, this picture and σ = 0.1: from the repositories' own classes, in float64."""
    state = official_state(1, 8, levels)
    x = torch.linspace(0, 1, 28 * 28, dtype=torch.float64).view(1, 1, 28, 28).sin()
    network = NCSN.from_official(state, SIGMAS) if levels else NCSNv2.from_official(state)
    value = network.double()(x, torch.tensor([math.log(0.1) / 4], dtype=torch.float64))
    torch.testing.assert_close(value[0, 0, 13, ::9], torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)


def test_official_weights_may_be_wrapped_or_averages_and_hold_the_levels(generator: torch.Generator) -> None:
    state, x, c = official_state(1, 4, 0), torch.rand(2, 1, 8, 8, generator=generator), torch.zeros(2)
    expected = NCSNv2.from_official(state)(x, c)
    wrapped = {f"module.{name}": tensor for name, tensor in {**state, "sigmas": torch.tensor(SIGMAS)}.items()}
    assert torch.equal(NCSNv2.from_official(wrapped)(x, c), expected)
    assert torch.equal(NCSNv2.from_official(state, rescale=False)(2 * x - 1, c), expected)


def test_other_weights_are_refused_by_name() -> None:
    first, second = official_state(1, 4, 5), official_state(1, 4, 0)
    renamed = {name.replace("refine1.crp.norms.0", "gone"): tensor for name, tensor in first.items()}
    with pytest.raises(ValueError, match=r"missing are refine1.crp.norms.0.embed.weight; unexpected are gone.embed"):
        NCSN.from_official(renamed, SIGMAS)
    with pytest.raises(ValueError, match=r"missing are .*alpha.* more; unexpected are .*embed.weight.* and 66 more"):
        NCSNv2.from_official(first)
    with pytest.raises(ValueError, match=r"begin_conv.weight is needed; there are weight"):
        NCSNv2.from_official({"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"end_conv.weight has shape \(3, 4, 3, 3\); \(1, 4, 3, 3\) is needed"):
        NCSNv2.from_official({**second, "end_conv.weight": torch.zeros(3, 4, 3, 3)})
    with pytest.raises(ValueError, match="4 sigmas are given; the state dict has 5 noise levels"):
        NCSN.from_official(first, SIGMAS[:4])


@pytest.mark.parametrize(
    ("levels", "channels", "width", "expected"),
    [
        (10, 1, 64, 7_638_657),  # NCSN for MNIST
        (10, 3, 128, 30_117_635),  # and for CIFAR-10
        (0, 1, 64, 7_426_881),
        (0, 3, 128, 29_694_083),  # NCSNv2 for CIFAR-10
    ],
)
def test_has_the_official_number_of_weights(levels: int, channels: int, width: int, expected: int) -> None:
    with torch.device("meta"):
        network = NCSN(channels, width, sigmas=range(1, levels + 1)) if levels else NCSNv2(channels, width)
    official = sum(map(math.prod, official_shapes(channels, width, levels).values()))
    assert sum(p.numel() for p in network.parameters()) == official == expected


@pytest.mark.parametrize("network", [NCSN(1, 16, sigmas=SIGMAS), NCSN(1, 16, features=8), NCSNv2(1, 16)])
def test_gamma_and_alpha_start_near_one_and_beta_at_zero(network: RefineNet) -> None:
    level = network.level(torch.tensor([0.3]))
    scales = [norm.scales(level)[0] for norm in network.modules() if isinstance(norm, InstanceNormPlus)]
    gamma, alpha, beta = torch.cat(scales, 1)
    for scale in (gamma, alpha):
        n = len(scale)
        assert abs(scale.mean() - 1) < 4 * 0.02 / n**0.5
        assert abs(scale.std() - 0.02) < 4 * 0.02 / (2 * n) ** 0.5
    assert torch.equal(beta, torch.zeros_like(beta))


def test_another_sigma_is_the_nearest_level_in_its_logarithm() -> None:
    network = NCSN(1, 4, sigmas=(1.0, 0.1, 0.01))
    sigmas = torch.tensor([50.0, 0.32, 0.31, 0.1, 0.02, 1e-5])
    assert network.level(sigmas.log() / 4).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("network", [NCSN(3, 4, sigmas=SIGMAS), NCSN(3, 4, features=8), NCSNv2(3, 4)])
def test_every_weight_learns(network: RefineNet, generator: torch.Generator) -> None:
    nn.init.normal_(network.head.weight)
    x, sigmas = torch.rand(5, 3, 8, 8, generator=generator), torch.tensor(SIGMAS)
    network(x, sigmas.log() / 4).square().sum().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())}
    assert idle == {name for name in idle if "level.layers" in name}  # behind the projections, which start at zero


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 3, 7, 8), (2, 3, 8, 9), (2, 3, 2, 8), (2, 3, 8, 8, 1)])
def test_refuses_images_of_another_shape(shape: tuple[int, ...]) -> None:
    needed = r"; \(batch, 3, height, width\) is needed, height and width even and at least 4"
    with pytest.raises(ValueError, match=re.escape(f"x has shape {shape}") + needed):
        NCSNv2(3, 4)(torch.zeros(shape), torch.zeros(2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NCSN(), "sigmas is .*, features is 0; one of them is needed"),
        (lambda: NCSN(sigmas=SIGMAS, features=8), "features is 8; one of them is needed"),
        (lambda: NCSN(features=-1), "features is -1; one of them is needed, positive"),
        (lambda: NCSN(sigmas=(1.0, 0.0)), "positive and finite"),
        (lambda: NCSN(sigmas=(math.nan,)), "positive and finite"),
        (lambda: NCSN(width=1, features=8), "width is 1; at least 1 and 2"),
        (lambda: NCSNv2(0), "image_channels is 0"),
    ],
)
def test_refuses_impossible_networks(build: Callable[[], RefineNet], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch, inside its compiler
@pytest.mark.parametrize("network", [NCSN(width=4, sigmas=SIGMAS), NCSN(width=4, features=8), NCSNv2(width=4)])
def test_compiles_its_normalisations_alone(network: RefineNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what checks types does not compile
    example = torch.randn(2, 1, 8, 8), torch.ones(2)
    nn.init.normal_(network.head.weight)
    expected = network(*example)
    network.compile(backend="eager")
    compiled = {type(module) for module in network.modules() if module._compiled_call_impl is not None}
    assert compiled == {InstanceNormPlus}
    torch.testing.assert_close(network(*example), expected)
