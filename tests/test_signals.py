"""Signals: real numbers in units of their own, one U-Net for any number of sides, by command and in Python."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refusal
from learning import TINY, unlearned

import ncsn
from ncsn.cli import main as cli

SCALES = torch.tensor([50.0, 2e-6, 1.0], dtype=torch.float64)[:, None]
SHIFTS = torch.tensor([1e9, 0.0, -3.0], dtype=torch.float64)[:, None]
CURVES = SHIFTS.numpy() + SCALES.numpy() * np.random.default_rng(0).normal(size=(240, 3, 9))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ncsn.Run:
    """What a tiny ``ncsn train --signals`` leaves once it has been resumed."""
    folder = tmp_path_factory.mktemp("signals")
    np.savez(folder / "curves.npz", x=CURVES, y=np.arange(240) % 5 // 3)
    for options in (f"{TINY} --steps 12", "--resume --steps 14"):
        cli.main(f"train {folder}/curves.npz --signals --out {folder}/run --device cpu {options}".split())
    return ncsn.load(folder / "run")


def test_a_run_of_signals_speaks_the_users_units(run: ncsn.Run, tmp_path: Path) -> None:
    assert (run.guide, run.settings["steps"], list(run.recipe.shares)) == (None, 14, ["0", "1"])
    assert run.units is not None
    train = run.data().train
    off = abs(CURVES - run.units.restore(train)[0].numpy()) / SCALES.numpy()
    assert off.max((1, 2)).min() < 1e-5
    torch.testing.assert_close(train.square().mean((0, 2)), torch.ones(3))
    for name in ("x.png", "x.npy"):
        cli.main(["sample", f"{run.folder}", "-n", "8", "--seed", "3", "--out", f"{tmp_path}/{name}"])
    x = torch.from_numpy(np.load(tmp_path / "x.npy"))
    assert torch.equal(x, run.sample(8, seed=3))
    z = run.units.standardise(x)
    assert bool(((z.std((0, 2)) > 0.1) & (abs(x - SHIFTS) < 30 * SCALES).all(2).all(0)).all())
    inner = replace(run, units=None).log_prob(z.float(), probes=1) - 9 * run.units.scale.log().sum()
    torch.testing.assert_close(run.log_prob(x, probes=1), inner, check_dtype=False, rtol=1e-3, atol=0.05)


def test_a_posterior_of_signals_agrees_with_what_was_measured(run: ncsn.Run) -> None:
    y = torch.tensor([1e-6, -2e-6, 0.0, 3e-6])
    answers = run.posterior(lambda x: x[:, 1, :4], y, noise_std=2e-7).sample(6, seed=0)
    assert float((answers[:, 1, :4] - y).abs().max()) < 1e-6


@pytest.mark.parametrize("shape", [(12, 8), (1025,), (5, 1), (2, 5, 4, 3)])
def test_rules_suit_signals_and_volumes_of_any_size(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x = 1e9 + 1000 * np.random.default_rng(1).normal(size=(60, *shape)).cumsum(-1)
    run = unlearned(monkeypatch, x, signals=True, steps=6).run
    assert run.recipe.arguments["dimensions"] == max(1, len(shape) - 1)
    assert 4 < run.settings["sigma_max"] < 5 * np.prod(shape) ** 0.5 + 10


@pytest.mark.parametrize(
    ("array", "options", "named"),
    [
        (np.where(CURVES[3, 1, 2] == CURVES, np.nan, CURVES), "", "1 times"),
        (np.concatenate([CURVES, np.ones((240, 1, 9))], 1), "", "channel 3"),
        (CURVES[:9], "", "few"),
        (CURVES[:, None], "", "(240, 1, 3, 9)"),
        (CURVES, "--size 9 --fit stretch", "size, fit"),
        (CURVES, "--network refinenet", "refinenet"),
    ],
)
def test_what_are_no_signals_is_refused(
    array: np.ndarray, options: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", array)
    assert named in refusal(capsys, "train", f"{tmp_path}/x.npy", "--signals", *options.split())
