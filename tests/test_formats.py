"""Runs of every version of config.json that was ever read by a release are read: tests/data/runs has one of each.

They were trained on MNIST at 8 × 8 pixels, for 20 steps; ``expected.npz`` holds what they have drawn since
a sampler last changed.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ncsn
from ncsn import machine, storage
from ncsn.cli import main as cli
from ncsn.optim import muon_and_adam
from ncsn.storage import CONFIG_VERSION
from ncsn.training import State

RUNS = sorted((Path(__file__).parent / "data" / "runs").iterdir())
every_run = pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)


def test_there_is_a_run_of_the_version_that_is_written() -> None:
    assert CONFIG_VERSION in [json.loads((folder / "config.json").read_text())["version"] for folder in RUNS]


@every_run
def test_a_run_of_every_version_samples_as_it_did(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fast_bfloat16", lambda _: False)
    run = ncsn.load(folder, device="cpu")
    assert run.guide is not None
    with np.load(folder / "expected.npz") as expected:
        # Other machines add in another order; what is seen is 1/256.
        assert torch.allclose(run.sample(4, seed=0), torch.from_numpy(expected["samples"]), atol=1e-3)


@every_run
def test_a_checkpoint_of_every_version_goes_on(folder: Path) -> None:
    recipe = storage.read_config(folder).recipe
    model = recipe.build()
    state = State(model, muon_and_adam(model), generator=torch.Generator())
    state.load(folder / "checkpoint.pt")
    assert state.step == 20
    saved, _ = storage.read_model(folder, recipe)
    pairs = zip(state.average.parameters(), saved.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    before = [p.clone() for p in state.model.parameters()]
    state.model(torch.ones(2, *recipe.shape), 1.0).square().mean().backward()
    state.update(1.0)
    assert state.step == 21
    assert any(not torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True))


@every_run
def test_a_run_of_every_version_is_described(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["info", str(folder), "--device", "cpu"])
    said = capsys.readouterr().out
    assert "UNet(image_channels=1" in said
    assert "steps=20" in said
