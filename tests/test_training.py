"""Steps, averages, budgets and checkpoints of a small network."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import Patch
from hypothesis import given, settings
from hypothesis import strategies as st
from refinenet import NCSN
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.flop_counter import FlopCounterMode

from ncsn import MLP, Budget, Geometric, ScoreModel, State, UNet, batches, dsm, muon_and_adam, train, training_loss
from ncsn.optimizers import COEFFICIENTS, Muon, orthogonalize
from ncsn.training import NonFiniteLossError, Progress, linear_decay, step_seed

DATA = torch.randn(500, 2, generator=torch.Generator().manual_seed(9))


def make(seed: int = 0) -> State:
    torch.manual_seed(seed)
    model = ScoreModel(MLP(2, 16, layers=2), 0.0, 3.0)
    return State(model, generator=torch.Generator().manual_seed(seed))


def run(state: State, factor: float = 1.0, **budget: float) -> Iterator[Progress]:
    loss = training_loss(Geometric(5.0, 0.2, 5), lambda *a, **k: factor * dsm(*a, **k), generator=state.generator)
    stream = batches(DATA, 32, generator=state.generator)
    return train(state, stream, loss, budget=Budget(**budget))  # type: ignore[arg-type]


def weights(state: State) -> Tensor:
    return torch.cat([parameters_to_vector(model.parameters()) for model in (state.model, state.average)]).detach()


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Interrupted after 8 of 20 steps, and gone on with by another process' state."""
    whole, first, second = make(), make(), make(seed=5)
    *_, last = run(whole, steps=20)
    next(p for p in run(first, steps=20) if p.step == 8)
    first.parts["some"], second.parts["some"] = (part := nn.Linear(2, 2)), (other := nn.Linear(2, 2))
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    assert second.step == 8
    assert torch.equal(other.weight, part.weight)
    *_, again = run(second, steps=20)
    assert (last.step, last.fraction, len(last.losses)) == (20, 1, 32)
    assert not last.losses.requires_grad, "who keeps the losses of all steps would keep all activations"
    assert torch.equal(last.losses, again.losses)
    assert torch.equal(weights(whole), weights(second))


def test_rates_follow_the_schedule_and_the_average_is_the_power_function_profile() -> None:
    state = make()
    expected = parameters_to_vector(state.average.parameters())
    for t, _ in enumerate(run(state, steps=12), 1):
        rates = [optimizer.param_groups[0]["lr"] for optimizer in state.optimizers]
        assert rates == pytest.approx([peak * t / 50 * (13 - t) / 12 for peak in (0.02, 2e-3)])
        now = parameters_to_vector(state.model.parameters()).detach()
        expected = (t * expected + 10 * now) / (t + 10)
    torch.testing.assert_close(parameters_to_vector(state.average.parameters()), expected)
    assert [linear_decay(f, s) for f, s in ((0, 0), (0, 49), (0, 60), (0.3, 99), (1, 99))] == [0.02, 1, 1, 0.7, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(bad: float) -> None:
    state = make()
    list(run(state, steps=3))
    before = weights(state)
    with pytest.raises(NonFiniteLossError, match="at step 3"):
        next(run(state, bad, steps=9))
    assert torch.equal(before, weights(state))


@pytest.mark.parametrize(("place", "bad"), [(0, math.nan), (-1, -math.inf), (0, None)])
def test_what_cannot_be_saved_keeps_the_previous_checkpoint(place: int, bad: float | None, tmp_path: Path) -> None:
    """One weight that is not finite; or a full disk, for which a limit on the size of files stands."""
    resource = pytest.importorskip("resource")
    state, limits = make(), resource.getrlimit(resource.RLIMIT_FSIZE)
    state.save(tmp_path / "checkpoint.pt")
    before = (tmp_path / "checkpoint.pt").read_bytes()
    try:
        if bad is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        else:
            list(state.model.parameters())[place].data.view(-1)[1] = bad
        with pytest.raises((NonFiniteLossError, OSError), match=r"at step 0|is the disk full|File too large"):
            state.save(tmp_path / "checkpoint.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_seconds_that_were_spent_before_count(tmp_path: Path) -> None:
    """A training of 100 seconds that is resumed after 75 has 25 left; one that has a quarter of a second uses it."""
    state, resumed = make(), make(seed=5)
    state.seconds = 75.0
    state.save(tmp_path / "checkpoint.pt")
    resumed.load(tmp_path / "checkpoint.pt")
    progress = next(run(resumed, seconds=100.0))
    assert 75 < progress.seconds < 100
    assert progress.fraction == progress.seconds / 100
    assert list(run(resumed, seconds=75.0)) == []
    assert [p.fraction >= 1 for p in run(resumed, seconds=progress.seconds + 0.25)].count(True) == 1


def test_time_may_be_left_for_as_much_work_as_some_steps() -> None:
    """For 50 more steps at 0.2 seconds each, of 100 seconds, until half of them are left."""
    budget = Budget(seconds=100.0, after=50)
    assert [budget.fraction(step, 0.2 * step) for step in (0, 225, 450)] == pytest.approx([0, 0.5, 1])
    assert budget.fraction(10, 40.0) == 0.8
    assert Budget(steps=8, after=50).fraction(2, 9.0) == 0.25


@pytest.mark.parametrize(
    "budget",
    [
        {},
        {"steps": 0},
        {"seconds": math.inf},
        {"seconds": -1.0},
        {"steps": 1, "seconds": 2.0},
        {"seconds": 2.0, "after": -1.0},
    ],
)
def test_budgets_that_are_none_are_refused(budget: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match="|".join(f"{name} is {value}" for name, value in budget.items()) or "steps is"
    ):
        Budget(**budget)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_no_two_shares_of_a_training_have_the_same_random_numbers(seed: int) -> None:
    seeds = {step_seed(s, step, share, 6) for s in (seed, seed + 1) for step in range(200) for share in range(6)}
    assert len(seeds) == 2 * 1200
    assert all(0 <= value < 2**32 for value in seeds)


# Muon.


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
        monkeypatch.setattr("ncsn.optimizers.fast_bfloat16", lambda _, hardware=hardware: hardware)
        errors.append(float((orthogonalize(x, products=products) - precise).norm() / precise.norm()))
    assert errors[0] < 1e-5
    assert min(errors[1:]) > 1e-4
    assert max(errors[1:]) < 0.02


def test_muons_products_have_the_dtype_that_is_asked_for(generator: torch.Generator) -> None:
    x, weights = torch.randn(2, 8, generator=generator), list[Tensor]()
    for products in (torch.float32, torch.bfloat16):
        nn.init.eye_((layer := nn.Linear(8, 8, bias=False)).weight)
        layer(x).square().sum().backward()
        muon_and_adam(nn.Sequential(layer), products=products)[0].step()
        weights.append(layer.weight.detach())
    assert 1e-4 < float((weights[0] - weights[1]).abs().max()) < 0.01


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
