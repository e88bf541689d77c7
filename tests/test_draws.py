"""What random numbers an example gets depends on the seed, the step and its place in the batch, on nothing else."""

import math

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


@given(size=st.integers(1, 200), processes=st.integers(1, 70), step=st.integers(0, 10**6), seed=st.integers(0, 2**31))
def test_processes_draw_together_what_one_draws(size: int, processes: int, step: int, seed: int) -> None:
    alone = Draws(seed, size)
    shares: list[Draws] = []
    alone.begin(step)
    for rank in range(processes):
        try:
            share = Draws(seed, size, rank=rank, processes=processes)
        except ValueError:
            assert size < PARTS or processes > PARTS
            continue
        share.begin(step)
        assert share.first == sum(other.mine for other in shares)
        shares.append(share)
    assert sum(share.mine for share in shares) == alone.mine == size
    for whole, *parts in zip(numbers(alone), *map(numbers, shares), strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_shares_are_even() -> None:
    assert [Draws(0, 128, rank=rank, processes=4).mine for rank in range(4)] == [32] * 4
    assert [Draws(0, 64, rank=rank, processes=3).mine for rank in range(3)] == [21, 21, 22]
    with pytest.raises(ValueError, match="2 examples are a batch, for 3 processes of 1 turns each"):
        [Draws(0, 2, rank=rank, processes=3) for rank in range(3)]


@given(size=st.integers(8, 100), turns=st.integers(1, 4), rank=st.integers(0, 1))
def test_turns_draw_together_what_one_draws(size: int, turns: int, rank: int) -> None:
    whole, parted = (Draws(1, size, rank=rank, processes=2, turns=n) for n in (1, turns))
    whole.begin(5)
    expected, parts, at, seen = numbers(whole), [], whole.first, set()
    for _ in parted.each_turn(5):
        assert parted.first == at
        seen.add(parted.mine)
        at += parted.mine
        parts.append(numbers(parted))
    assert at == whole.first + whole.mine
    assert parted.sizes == sorted(seen)
    for one, *others in zip(expected, *parts, strict=True):
        assert torch.equal(one, torch.cat(others))


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


def test_numbers_have_their_distributions() -> None:
    draws, normal, uniform, bits, levels = Draws(0, 256), [], [], [], []
    for step in range(100):
        draws.begin(step)
        normal.append(randn((256, 4), draws, LIKE))
        uniform.append(rand((256,), draws))
        bits.append(randint(2, (256,), draws))
        levels.append(stratified(256, draws))
    z, u, b = torch.cat(normal).flatten(), torch.cat(uniform), torch.cat(bits).double()
    assert abs(float(z.mean())) < 4 / math.sqrt(len(z))
    assert float(z.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / len(z)))
    assert abs(float(u.mean()) - 0.5) < 4 / math.sqrt(12 * len(u))
    assert abs(float(b.mean()) - 0.5) < 4 / math.sqrt(4 * len(b))
    for level in levels:
        within = level.sort().values * 256 - torch.arange(256)
        assert bool(((within >= 0) & (within <= 1)).all()), "1 where float32 rounds up to it"
    assert not torch.equal(levels[0].argsort(), levels[1].argsort())


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
