"""examples/refinenet.py: NCSN's and NCSNv2's networks beside what the official code returns for the same weights."""

import hashlib
import math
from typing import Any

import jaxtyping
import pytest
import torch
from helpers import refuses
from refinenet import NCSN, InstanceNormPlus, NCSNv2, RefineNet, from_ncsn, weights_by_official_name
from torch import Tensor, nn

State = dict[str, Tensor]
SIGMAS = (1.0, 0.3, 0.1, 0.03, 0.01)


def official_shapes(channels: int, width: int, levels: int) -> dict[str, tuple[int, ...]]:
    """The official state dict's names and shapes: NCSN's with so many noise levels, NCSNv2's with none."""
    network = NCSN(channels, width, sigmas=SIGMAS[:levels]) if levels else NCSNv2(channels, width)
    shapes = {name: tuple(weight.shape) for name, weight in weights_by_official_name(network).items()}
    for name in [name for name in shapes if name.endswith("embed.weight") and not levels]:
        place, (_, numbers) = name.removesuffix("embed.weight"), shapes.pop(name)
        shapes |= {place + part: (numbers // 3,) for part in ("alpha", "gamma", "beta")}
    return shapes


def official_state(channels: int, width: int, levels: int) -> State:
    """Weights that keep the signal's size, with γ, α and β that matter; float32 numbers, to compute with in float64."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in sorted(official_shapes(channels, width, levels).items()):
        z = torch.randn(shape, generator=generator)
        state[name] = (z / math.prod(shape[1:]) ** 0.5 if len(shape) == 4 else 1 + 0.3 * z).double()
    return state


@pytest.mark.parametrize(("levels", "tensors", "digest"), [(5, 173, "2a186c0f78049a18"), (0, 153, "ca6bc323ca4be25a")])
def test_names_and_shapes_are_those_of_the_official_code(levels: int, tensors: int, digest: str) -> None:
    """Of its own classes for colour images, of width 8; as written down once, in a list."""
    names = sorted(official_shapes(3, 8, levels).items())
    assert (len(names), hashlib.sha256(repr(names).encode()).hexdigest()[:16]) == (tensors, digest)


HERE, THERE = (0, 0, 13, slice(None, None, 9)), (slice(None), 2, 5, slice(0, 6, 3))
GREY, COLOUR = (1, 1, 28, 28), (2, 3, 12, 8)


SCORES = [
    (5, GREY, [0.1], HERE, [3.218535817, 4.081650001, 2.099868173, 1.979994967]),
    (0, GREY, [0.1], HERE, [18.25294272, 20.67478325, 37.73949493, 23.36257319]),
    (5, COLOUR, [0.03, 1], THERE, [1.895943391, 2.85725402, 3.252123228, 2.946059746]),
    (0, COLOUR, [0.03, 1], THERE, [186.1268984, 70.41472237, 5.552280443, 1.814709344]),
]


@pytest.mark.parametrize(("levels", "shape", "sigmas", "place", "expected"), SCORES)
def test_scores_are_those_of_the_official_code(
    levels: int, shape: tuple[int, ...], sigmas: list[float], place: Any, expected: list[float]
) -> None:
    """Of grey images from the repositories' own classes, of colour images from their code, read as plain functions."""
    state = official_state(shape[1], 8, levels) | ({} if levels else {"sigmas": torch.tensor(SIGMAS).double()})
    x = torch.linspace(0, 1, math.prod(shape), dtype=torch.float64).view(shape).sin()
    score = from_ncsn(state, SIGMAS if levels else None).double()
    value = score(x, torch.tensor(sigmas, dtype=torch.float64))[place]
    torch.testing.assert_close(value.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)


def test_official_weights_may_be_wrapped_or_averages_and_hold_the_levels(generator: torch.Generator) -> None:
    state, x, c = official_state(1, 4, 0), torch.rand(2, 1, 8, 8, generator=generator), torch.zeros(2)
    expected = from_ncsn(state).network(x, c)
    wrapped = {f"module.{name}": tensor for name, tensor in {**state, "sigmas": torch.tensor(SIGMAS)}.items()}
    assert torch.equal(from_ncsn(wrapped).network(x, c), expected)
    assert torch.equal(from_ncsn(state, rescale=False).network(2 * x - 1, c), expected)


def test_other_weights_are_refused_by_name() -> None:
    first, second = official_state(1, 4, 5), official_state(1, 4, 0)
    renamed = {name.replace("refine1.crp.norms.0", "gone"): tensor for name, tensor in first.items()}
    with pytest.raises(ValueError, match=r"refine1.crp.norms.0.embed.weight'\] are missing, .'gone"):
        from_ncsn(renamed, SIGMAS)
    with pytest.raises(ValueError, match=r"normal.*alpha.* are missing, .*embed.weight.* are unexpected"):
        from_ncsn(first)
    with pytest.raises(ValueError, match=r"begin_conv.weight"):
        from_ncsn({"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"end_conv.weight has shape \(3, 4, 3, 3\); expected \(1, 4, 3, 3\)"):
        from_ncsn({**second, "end_conv.weight": torch.zeros(3, 4, 3, 3)})
    with pytest.raises(ValueError, match=r"has shape \(5, .*\); expected \(4, .*\)"):
        from_ncsn(first, SIGMAS[:4])


@pytest.mark.parametrize("network", [NCSN(1, 16, sigmas=SIGMAS), NCSN(1, 16, features=8), NCSNv2(1, 16)])
def test_gamma_and_alpha_start_near_one_and_beta_at_zero(network: RefineNet) -> None:
    level = network.level(torch.tensor([0.3]))
    scales = [norm.scales(level)[0] for norm in network.modules() if isinstance(norm, InstanceNormPlus)]
    gamma, alpha, beta = torch.cat(scales, 1)
    for z in ((gamma - 1) / 0.02, (alpha - 1) / 0.02):
        assert abs(z.mean()) < 4 / len(z) ** 0.5
        assert abs(z.std() - 1) < 4 / (2 * len(z)) ** 0.5
    assert not beta.any()


def test_another_sigma_is_the_nearest_level_in_its_logarithm() -> None:
    network = NCSN(1, 4, sigmas=(1.0, 0.1, 0.01))
    sigmas = torch.tensor([50.0, 0.32, 0.31, 0.1, 0.02, 1e-5])
    assert network.level(sigmas.log() / 4).tolist() == [0, 0, 1, 1, 2, 2]


IMPOSSIBLE = [
    (lambda: NCSN(), "sigmas is .*, features is 0; expected one"),
    (lambda: NCSN(sigmas=SIGMAS, features=8), "features is 8; expected one"),
    (lambda: NCSN(features=-1), "features is -1; expected one"),
    (lambda: NCSN(sigmas=(1.0, 0.0)), "positive and finite"),
    (lambda: NCSN(sigmas=(math.nan,)), "positive and finite"),
    (lambda: NCSN(width=1, features=8), "width is 1; expected at least 1 and 2"),
    (lambda: NCSNv2(0), "image_channels is 0"),
]


test_impossible_networks_are_refused = refuses(IMPOSSIBLE)


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
