import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ncsn.networks import MLP, NCSN, UNet
from ncsn.optimizers import COEFFICIENTS, Muon, muon_and_adam, orthogonalize
from ncsn.preconditioning import ScoreModel


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
        monkeypatch.setattr("ncsn.optimizers.fast_bfloat16", lambda _, found=hardware: found)
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


def test_state_survives_saving() -> None:
    def run(
        steps: int, state: dict[str, object] | None, weights: list[torch.Tensor]
    ) -> tuple[Muon, list[nn.Parameter]]:
        params = [nn.Parameter(w.clone()) for w in weights]
        optimizer = Muon(params, lr=0.1)
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))
        for i in range(steps):
            for p in params:
                p.grad = torch.sin(p.detach() * (i + 1))
            optimizer.step()
        return optimizer, params

    start = [torch.randn(4, 6, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    first, weights = run(3, None, start)
    _, again = run(3, first.state_dict(), [w.detach() for w in weights])
    _second, more = run(3, first.state_dict(), [w.detach() for w in weights])
    _, fresh = run(3, None, [w.detach() for w in weights])
    assert all(torch.equal(a, b) for a, b in zip(again, more, strict=True))
    assert not torch.equal(again[0], fresh[0])  # the momentum did matter


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
