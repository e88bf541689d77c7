import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ncsn.model import ScoreModel
from ncsn.networks import MLP, NCSN, UNet
from ncsn.optim import COEFFICIENTS, Muon, muon_and_adam, orthogonalize


@given(st.integers(1, 5), st.integers(2, 40), st.integers(2, 40), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_singular_values_become_about_one(k: int, rows: int, columns: int, seed: int) -> None:
    left, right = (
        torch.linalg.qr(torch.randn(k, n, min(rows, columns), generator=torch.Generator().manual_seed(seed)))[0]
        for n in (rows, columns)
    )
    singular = torch.linspace(0.1, 1.0, min(rows, columns))
    values = torch.linalg.svdvals(orthogonalize(left * singular @ right.mT))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_updates_are_those_of_torch(generator: torch.Generator) -> None:
    """torch.optim.Muon, one matrix at a time, is the oracle; bfloat16 sums in another order."""
    shapes = [(8, 24), (24, 8), (8, 24), (16, 16), (8, 24)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    mine, oracle = Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        mine.step()
        oracle.step()  # type: ignore[no-untyped-call]
    for a, b, shape in zip(ours, theirs, shapes, strict=True):
        assert float((a - b).detach().norm() / b.detach().norm()) < 0.01, shape


def test_without_bfloat16_hardware_products_are_in_float32(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """Emulated bfloat16 took more than half of a training step there."""
    x = torch.randn(3, 8, 24, generator=generator)
    precise = orthogonalize_in_float64(x)
    errors = []
    for hardware in (False, True):
        monkeypatch.setattr("ncsn.optim.fast_bfloat16", lambda _, found=hardware: found)
        errors.append(float((orthogonalize(x) - precise).norm() / precise.norm()))
    assert errors[0] < 1e-5
    assert 1e-4 < errors[1] < 0.02


def orthogonalize_in_float64(x: torch.Tensor) -> torch.Tensor:
    """The iteration through singular values, on each of which it acts alone."""
    left, values, right = torch.linalg.svd(x.double(), full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        a, b, c = COEFFICIENTS
        values = a * values + b * values**3 + c * values**5
    orthogonal: torch.Tensor = left * values[:, None] @ right
    return orthogonal.float()


def test_a_saved_state_continues_as_if_it_had_not_been_saved() -> None:
    """Three steps, saved, and three more by another optimiser: the same bytes as six; without the momentum others."""

    def walk(optimizer: Muon, params: list[nn.Parameter], steps: range) -> None:
        for i in steps:
            for p in params:
                p.grad = torch.sin(p.detach() * (i + 1))
            optimizer.step()

    def start(weights: list[torch.Tensor]) -> tuple[Muon, list[nn.Parameter]]:
        params = [nn.Parameter(w.detach().clone()) for w in weights]
        return Muon(params, lr=0.1), params

    weights = [torch.randn(4, 6, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    whole, expected = start(weights)
    walk(whole, expected, range(6))
    first, params = start(weights)
    walk(first, params, range(3))
    second, resumed = start(list(params))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    walk(second, resumed, range(3, 6))
    third, fresh = start(list(params))
    walk(third, fresh, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(resumed, expected, strict=True))
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(fresh, expected, strict=True))


def test_momentum_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients g₁, g₂ of a matrix whose singular vectors stay: m ← 0.95m + 0.05g, the direction 0.05g + 0.95m.

    Along each singular direction the size of a step is that of the iteration at the normalised direction.
    """
    monkeypatch.setattr("ncsn.optim.fast_bfloat16", lambda _: False)  # for the digits
    p = nn.Parameter(torch.zeros(2, 2))
    optimizer, momentum, expected = Muon([p], lr=0.1), torch.zeros(2), torch.zeros(2)
    for gradient in (torch.tensor([1.0, 0.2]), torch.tensor([-0.1, 0.3]), torch.tensor([0.0, -0.5])):
        p.grad = gradient.diag()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = 0.05 * gradient + 0.95 * momentum
        values = direction / direction.norm()
        for _ in range(5):
            a, b, c = COEFFICIENTS
            values = a * values + b * values**3 + c * values**5
        expected = expected - 0.1 * values
        torch.testing.assert_close(p.detach(), expected.diag())


def test_the_first_steps_have_the_peak_rates() -> None:
    """A gradient of one everywhere: Adam moves by its rate; Muon's matrix is of rank one, whose value ends near one."""
    network = MLP(2, 8, 2)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    muon, adam = muon_and_adam(network)
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    muon.step()
    adam.step()
    moved = {name: before[name] - p.detach() for name, p in network.named_parameters()}
    torch.testing.assert_close(moved["output.bias"], torch.full((2,), 2e-3), rtol=1e-4, atol=0)
    value = 1.0
    for _ in range(5):
        value = COEFFICIENTS[0] * value + COEFFICIENTS[1] * value**3 + COEFFICIENTS[2] * value**5
    norms = {name: float(moved[name].norm()) for name in ("hidden.0.weight", "hidden.1.weight", "output.weight")}
    # Of 8 × 2, 8 × 8 and 2 × 8: twice as large for the one that is four times as tall as wide.
    assert list(norms.values()) == pytest.approx([0.04 * value, 0.02 * value, 0.02 * value], rel=0.02)
    # A second step without a gradient: what is left of the two averages, each over its own bias.
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    kept = network.output.bias.detach().clone()
    adam.step()
    first, second = 0.09 / (1 - 0.9**2), 0.0099 / (1 - 0.99**2)
    expected = torch.full((2,), 2e-3 * first / second**0.5)
    torch.testing.assert_close(kept - network.output.bias.detach(), expected, rtol=1e-4, atol=0)


def learned_by(network: nn.Module) -> dict[str, set[str]]:
    """The names of the parameters that each optimiser gets."""
    names = {id(p): name.removeprefix("network.") for name, p in ScoreModel(network).named_parameters()}
    optimizers = muon_and_adam(ScoreModel(network))
    return {type(o).__name__: {names[id(p)] for g in o.param_groups for p in g["params"]} for o in optimizers}


def test_hidden_matrices_get_muon_and_the_rest_adam() -> None:
    found = learned_by(UNet(channels=(8, 8), blocks=1, features=8, classes=3))
    assert {"labels.weight", "stem.weight", "head.weight", "norm.gain", "down.0.bias"} <= found["Adam"]
    assert {"down.0.weight", "encoder.0.0.conv1.weight", "modulation.weight"} <= found["Muon"]
    assert found["Muon"].isdisjoint(found["Adam"])
    network = UNet(channels=(8, 8), blocks=1, features=8, classes=3)
    assert len(found["Muon"] | found["Adam"]) == len(list(network.parameters()))
    assert learned_by(MLP(2, 8, 1))["Adam"] == {name for name, p in MLP(2, 8, 1).named_parameters() if p.ndim == 1}


def test_the_kernels_of_the_papers_networks_get_muon_too() -> None:
    network = NCSN(1, width=4, features=8)
    kernels = {name for name, p in network.named_parameters() if p.ndim == 4}
    assert kernels - learned_by(network)["Muon"] == {"stem.weight", "head.weight"}


def test_a_kernel_is_learned_as_the_matrix_of_its_outputs(generator: torch.Generator) -> None:
    kernel = nn.Parameter(torch.randn(6, 3, 2, 2, generator=generator))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    for p in (kernel, matrix):
        p.grad = torch.ones_like(p) + torch.arange(p.numel()).view(p.shape) / 10
        Muon([p], lr=0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_a_parameter_without_a_gradient_stays(generator: torch.Generator) -> None:
    with_gradient, without = (nn.Parameter(torch.randn(4, 6, generator=generator)) for _ in range(2))
    alone = nn.Parameter(with_gradient.detach().clone())
    before = without.detach().clone()
    together, single = Muon([without, with_gradient], lr=0.1), Muon([alone], lr=0.1)
    for _ in range(2):
        with_gradient.grad = torch.ones(4, 6)
        alone.grad = torch.ones(4, 6)
        together.step()
        single.step()
    assert torch.equal(without, before)
    torch.testing.assert_close(with_gradient, alone)
