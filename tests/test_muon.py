import pytest
import torch
from helpers import Patch
from hypothesis import given, settings
from hypothesis import strategies as st
from refinenet import NCSN
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ncsn.networks import MLP, UNet
from ncsn.score import ScoreModel
from ncsn.training import COEFFICIENTS, Muon, muon_and_adam, orthogonalize


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


def test_updates_are_those_of_torch_one_matrix_at_a_time(generator: torch.Generator) -> None:
    """Kernels are matrices of a row an output; what has no gradient stays; bfloat16 sums in another order."""
    shapes = [(8, 24), (24, 8), (8, 24), (16, 16), (8, 24), (6, 3, 2, 2)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone().flatten(1)) for p in ours]
    still = ours[2].detach().clone()
    mine, oracle = Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0)
    for _ in range(5):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = torch.randn(a.shape, generator=generator) if i != 2 else None
            b.grad = None if a.grad is None else a.grad.flatten(1).clone()
        mine.step()
        oracle.step()  # type: ignore[no-untyped-call]
    for a, b, shape in zip(ours, theirs, shapes, strict=True):
        assert float((a.flatten(1) - b).detach().norm() / b.detach().norm()) < 0.01, shape
    assert torch.equal(ours[2], still)


def test_tall_and_wide_matrices_cost_the_same() -> None:
    with FlopCounterMode(display=False) as tall, FlopCounterMode(display=False) as wide:
        orthogonalize(torch.ones(2, 8, 40))
    with tall:
        orthogonalize(torch.ones(2, 40, 8))
    assert tall.get_total_flops() == wide.get_total_flops() > 0


def test_without_bfloat16_hardware_products_are_in_float32(monkeypatch: Patch, generator: torch.Generator) -> None:
    """Emulated bfloat16 took more than half of a training step there.

    The iteration acts on each singular value alone.
    """
    x, errors, (a, b, c) = torch.randn(3, 8, 24, generator=generator), [], COEFFICIENTS
    left, values, right = torch.linalg.svd(x.double(), full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    precise = (left * values[:, None] @ right).float()
    for hardware, products in ((False, None), (True, None), (False, torch.bfloat16)):
        monkeypatch.setattr("ncsn.training.fast_bfloat16", lambda _, hardware=hardware: hardware)
        errors.append(float((orthogonalize(x, products=products) - precise).norm() / precise.norm()))
    assert errors[0] < 1e-5
    assert min(errors[1:]) > 1e-4
    assert max(errors[1:]) < 0.02


EDGES = [
    (UNet(channels=(8, 8), blocks=1, features=8, num_classes=3), {"labels.weight", "stem.weight", "head.weight"}),
    (NCSN(1, width=4, features=8), {"stem.weight", "head.weight"}),
    (MLP(2, 8, 1), set()),
]


@pytest.mark.parametrize(("network", "edges"), EDGES)
def test_hidden_matrices_and_kernels_get_muon_and_the_rest_adam(network: nn.Module, edges: set[str]) -> None:
    model = ScoreModel(network)
    names = {id(p): name.removeprefix("network.") for name, p in model.named_parameters()}
    groups = [optimizer.param_groups[0] for optimizer in muon_and_adam(model, muon_rate=0.3, adam_rate=3e-3)]
    muon, adam = ([names[id(p)] for p in group["params"]] for group in groups)
    assert ([group["lr"] for group in groups], groups[1]["betas"]) == ([0.3, 3e-3], (0.9, 0.99))
    assert sorted(muon + adam) == sorted(names.values())
    large = {name for name, p in network.named_parameters() if p.ndim in (2, 4)}
    tables = {name for name in large if "embedding" in name or name.split(".")[-2] in ("scale", "shift", "gain")}
    assert large - set(muon) - tables == edges
