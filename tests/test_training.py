import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ncsn.data import batches
from ncsn.distributions import GaussianMixture
from ncsn.model import ScoreModel
from ncsn.networks import MLP
from ncsn.noise import Geometric
from ncsn.objectives import Batch, training_loss
from ncsn.training import Budget, NonFiniteLossError, State, schedule, train

NOISE = Geometric(5.0, 0.2, 5)


def make(seed: int = 0) -> tuple[State, torch.Generator]:
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    return State(ScoreModel(MLP(2, width=16, layers=2), 0.0, 3.0), generator=g), g


def run(state: State, g: torch.Generator, steps: int) -> None:
    data = torch.randn(500, 2, generator=torch.Generator().manual_seed(9))
    loss = training_loss(NOISE, generator=g)
    for _ in train(state, batches(data, 32, generator=g), loss, budget=Budget(steps=steps)):
        pass


def weights(state: State) -> list[Tensor]:
    return [*state.model.state_dict().values(), *state.average.state_dict().values()]


def test_training_recovers_the_score_of_a_mixture() -> None:
    truth = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5)
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    data = truth.sample(20_000, generator=g)
    state = State(ScoreModel(MLP(2, width=64), data.mean(0), data.std()), generator=g)
    loss = training_loss(NOISE, generator=g)
    for _ in train(state, batches(data, 512, generator=g), loss, budget=Budget(steps=400)):
        pass
    for sigma in NOISE.sigmas():
        x = data[:2000] + sigma * torch.randn(2000, 2, generator=g)
        error = (state.average(x, sigma) - truth(x, sigma)).square().mean() / truth(x, sigma).square().mean()
        assert error < 0.02


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, g = make()
    run(whole, g, 20)
    # Interrupted after 8 of 20 steps, then continued by another process's state.
    first, g = make()
    data = torch.randn(500, 2, generator=torch.Generator().manual_seed(9))
    loss = training_loss(NOISE, generator=g)
    for p in train(first, batches(data, 32, generator=g), loss, budget=Budget(steps=20)):
        if p.step == 8:
            break
    first.save(tmp_path / "checkpoint.pt")
    second, g = make(seed=5)
    second.load(tmp_path / "checkpoint.pt")
    run(second, g, 20)
    assert second.step == 20
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))


def test_the_average_is_the_power_function_profile() -> None:
    state, g = make()
    history = []
    data = torch.randn(500, 2, generator=g)
    loss = training_loss(NOISE, generator=g)
    expected = [p.detach().clone() for p in state.average.parameters()]
    for _ in train(state, batches(data, 32, generator=g), loss, budget=Budget(steps=12)):
        history.append([p.detach().clone() for p in state.model.parameters()])
    for t, now in enumerate(history, 1):
        decay = 1 - 10 / (t + 10)
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, now, strict=True)]
    for e, p in zip(expected, state.average.parameters(), strict=True):
        torch.testing.assert_close(e, p)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(bad: float) -> None:
    state, g = make()
    run(state, g, 3)
    before = [w.clone() for w in weights(state)]

    def loss(model: ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch.x, 1.0).sum(1) * 0 + bad, torch.ones(len(batch.x))

    with pytest.raises(NonFiniteLossError, match="at step 3"):
        next(train(state, iter([Batch(torch.zeros(4, 2))]), loss, budget=Budget(steps=9)))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))


@pytest.mark.parametrize(("place", "bad"), [(0, math.nan), (0, math.inf), (-1, -math.inf)])
def test_one_weight_that_is_not_finite_keeps_the_previous_checkpoint(place: int, bad: float, tmp_path: Path) -> None:
    state, _ = make()
    state.save(tmp_path / "checkpoint.pt")
    before = (tmp_path / "checkpoint.pt").read_bytes()
    list(state.model.parameters())[place].data.view(-1)[1] = bad
    with pytest.raises(NonFiniteLossError, match="weights are not finite at step 0"):
        state.save(tmp_path / "checkpoint.pt")
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_seconds_that_were_spent_before_count(tmp_path: Path) -> None:
    """A training of 100 seconds that is resumed after 75 has 25 left."""
    state, _ = make()
    state.seconds = 75.0
    state.save(tmp_path / "checkpoint.pt")
    resumed, g = make(seed=5)
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.seconds == 75
    data = torch.randn(100, 2, generator=g)
    loss = training_loss(NOISE, generator=g)
    progress = next(train(resumed, batches(data, 8, generator=g), loss, budget=Budget(seconds=100.0)))
    assert 75 < progress.seconds < 100
    assert progress.fraction == progress.seconds / 100
    assert list(train(resumed, batches(data, 8, generator=g), loss, budget=Budget(seconds=75.0))) == []


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    resource = pytest.importorskip("resource")
    state, _ = make()
    state.save(tmp_path / "checkpoint.pt")
    before, limits = (tmp_path / "checkpoint.pt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"is the disk full|File too large"):
            state.save(tmp_path / "checkpoint.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_checkpoints_are_refused_and_change_nothing(tmp_path: Path) -> None:
    state, g = make()
    path = tmp_path / "checkpoint.pt"
    state.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    torch.save({"version": 99}, tmp_path / "version.pt")
    State(ScoreModel(MLP(2, width=8), 0.0, 1.0), generator=torch.Generator()).save(tmp_path / "other.pt")
    contents = {
        "is no whole checkpoint": (b"", whole[: len(whole) // 2], b"not a checkpoint at all", bytes(flipped), None),
        "another version; this program reads 1": ((tmp_path / "version.pt").read_bytes(),),
        "belongs to another network": ((tmp_path / "other.pt").read_bytes(),),
    }
    run(state, g, 2)
    before = [w.clone() for w in weights(state)]
    for message, cases in contents.items():
        for content in cases:
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(ValueError, match=message):
                state.load(path)
            assert all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))
            assert state.step == 2


def test_schedule_rises_then_falls_to_zero() -> None:
    rise = [schedule(0.0, step) for step in range(60)]
    assert rise[0] == pytest.approx(1 / 50)
    assert all(a <= b for a, b in pairwise(rise))
    assert rise[-1] == 1
    fall = [schedule(i / 10, 1000) for i in range(11)]
    assert all(a > b for a, b in pairwise(fall))
    assert fall[-1] == 0


@pytest.mark.parametrize(
    "arguments",
    [{}, {"steps": 0}, {"steps": -3}, {"seconds": 0.0}, {"seconds": -1.0}, {"steps": 1, "seconds": 1.0}],
)
def test_budgets_that_are_none_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is"):
        Budget(**arguments)  # type: ignore[arg-type]


def test_a_budget_in_seconds_ends() -> None:
    state, g = make()
    data = torch.randn(100, 2, generator=g)
    loss = training_loss(NOISE, generator=g)
    last = [*train(state, batches(data, 8, generator=g), loss, budget=Budget(seconds=0.3))][-1]
    assert last.fraction >= 1
    assert 0.3 <= last.seconds < 3


def in_half() -> tuple[State, torch.Generator]:
    """A network in float16, whose loss is so small that its gradients are nothing there unless it is scaled."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    return State(ScoreModel(MLP(2, width=16, layers=2), 0.0, 3.0, autocast=torch.float16), generator=g), g


def test_float16_learns_the_same_within_rounding() -> None:
    """Of a loss of 10⁻⁷ an unscaled gradient would be nothing in float16; Adam does not care how large it is."""
    found = []
    for state, g in (make(), in_half()):
        before = torch.cat([w.flatten() for w in weights(state)])
        loss = training_loss(NOISE, generator=g)

        def tiny(model: ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
            losses, sigmas = loss(model, batch)  # noqa: B023
            return 1e-6 * losses, sigmas

        data = torch.randn(500, 2, generator=torch.Generator().manual_seed(9))
        for _ in train(state, batches(data, 32, generator=g), tiny, budget=Budget(steps=30)):
            pass
        found.append(torch.cat([w.flatten() for w in weights(state)]) - before)
    full, half = found
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.99
    assert 0.95 < half.norm() / full.norm() < 1.05


def test_a_step_whose_gradient_is_too_large_for_float16_is_left_out() -> None:
    state, g = in_half()
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**40})
    before = weights(state)[0].clone()
    run(state, g, 1)
    assert torch.equal(weights(state)[0], before)
    assert state.scaler.get_scale() == 2.0**39


def test_the_scale_of_the_loss_is_kept(tmp_path: Path) -> None:
    state, g = in_half()
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 512.0})
    run(state, g, 2)
    state.save(tmp_path / "checkpoint.pt")
    other, _ = in_half()
    other.load(tmp_path / "checkpoint.pt")
    assert other.scaler.get_scale() == 512.0
    assert not other.kept
    make()[0].load(tmp_path / "checkpoint.pt")  # a run may go on in another precision
