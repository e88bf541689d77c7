"""What random numbers an example gets depends on the seed, the step and its place in the batch, on nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ncsn.data import batches
from ncsn.noise import Geometric, LogNormal, LogUniform
from ncsn.rng import PARTS, Draws, rand, randint, randn, stratified

LIKE = torch.zeros(1)


def numbers(draws: Draws) -> list[Tensor]:
    """Some of everything, in the order in which a step asks for it."""
    n = draws.mine
    return [
        randint(1000, (n,), draws),
        rand((n,), draws),
        stratified(n, draws),
        randn((n, 3), draws, LIKE),
        randint(2, (n, 2), draws),
        rand((n, 2, 2), draws),
        stratified(n, draws),
    ]


@given(
    size=st.integers(1, 200),
    processes=st.integers(1, 70),
    turns=st.integers(1, 4),
    step=st.integers(0, 10**6),
    seed=st.integers(0, 2**31),
)
def test_processes_draw_together_in_turns_what_one_draws(
    size: int, processes: int, turns: int, step: int, seed: int
) -> None:
    alone, parts, first = Draws(seed, size), [], 0
    alone.begin(step)
    expected = numbers(alone)
    for rank in range(processes):
        try:
            share = Draws(seed, size, rank=rank, processes=processes, turns=turns)
        except ValueError:
            assert size < PARTS or processes * turns > PARTS
            return
        assert share.places.start == first
        for _ in share.each_turn(step):
            assert (share.first, share.mine in share.sizes) == (first, True)
            first += share.mine
            parts.append(numbers(share))
    assert first == alone.mine == size
    for whole, *shared in zip(expected, *parts, strict=True):
        assert torch.equal(whole, torch.cat(shared))


def test_shares_are_even() -> None:
    assert [Draws(0, 64, rank=rank, processes=3).mine for rank in range(3)] == [21, 21, 22]
    with pytest.raises(ValueError, match="2 examples are a batch, for 3 processes of 1 turns each"):
        [Draws(0, 2, rank=rank, processes=3) for rank in range(3)]


def test_steps_and_seeds_differ_and_a_step_is_repeated_alike() -> None:
    draws = Draws(3, 64)
    first = randn((64, 2), draws, LIKE)
    draws.begin(1)
    second = randn((64, 2), draws, LIKE)
    draws.begin(0)
    assert torch.equal(randn((64, 2), draws, LIKE), first)
    assert not torch.isclose(first, second).any()
    assert not torch.isclose(randn((64, 2), Draws(4, 64), LIKE), first).any()
    # Not the neighbour's either: parts and steps are seeded one after the other.
    assert len(torch.unique(torch.cat([first, second]), dim=0)) == 128


def test_strata_hold_one_number_each_in_another_order_every_step() -> None:
    draws, orders = Draws(0, 256), []
    for step in range(20):
        draws.begin(step)
        levels = stratified(256, draws)
        within = levels.sort().values * 256 - torch.arange(256)
        assert bool(((within >= 0) & (within <= 1)).all()), "1 where float32 rounds up to it"
        assert float(within.std()) == pytest.approx(12**-0.5, rel=0.2)
        orders.append(levels.argsort())
    assert len({tuple(order.tolist()) for order in orders}) == 20


@pytest.mark.parametrize("noise", [LogNormal(0, 1.2, 10, 0.1), LogUniform(10, 0.1), Geometric(10, 0.1, 5)])
def test_noise_levels_and_batches_are_shared(noise: LogNormal | LogUniform | Geometric) -> None:
    data = torch.randint(256, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(50)

    def step(draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        x, label = next(batches(data, draws.size, labels, flip=True, generator=draws))
        assert label is not None
        return x, label, noise.sample(draws.mine, generator=draws)

    whole = step(Draws(1, 24))
    parts = [step(Draws(1, 24, rank=rank, processes=3)) for rank in range(3)]
    for one, *others in zip(whole, *parts, strict=True):
        assert torch.equal(one, torch.cat(others))
