"""Steps, averages, budgets and checkpoints of a small network."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from ncsn.batching import batches
from ncsn.networks import MLP
from ncsn.noise import Geometric
from ncsn.objectives import dsm, training_loss
from ncsn.score import ScoreModel
from ncsn.training import Budget, NonFiniteLossError, Progress, State, schedule, step_seed, train

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
    assert [schedule(f, s) for f, s in ((0, 0), (0, 49), (0, 60), (0.3, 99), (1, 99))] == [0.02, 1, 1, 0.7, 0]


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
    "budget", [{}, {"steps": 0}, {"seconds": math.inf}, {"seconds": -1.0}, {"steps": 1, "seconds": 2.0}]
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
