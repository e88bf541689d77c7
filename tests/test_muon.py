import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ncsn.muon import COEFFICIENTS, Muon, orthogonalize


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
        monkeypatch.setattr("ncsn.muon.fast_bfloat16", lambda _, found=hardware: found)
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
