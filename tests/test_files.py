"""What is written is whole or not there: by the order of system calls, and by a disk that fails."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ncsn import evaluation, plots, storage
from ncsn.files import atomic
from ncsn.networks import MLP
from ncsn.preconditioning import ScoreModel
from ncsn.recipe import Recipe
from ncsn.sampling import Sampling
from ncsn.training import State

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.5, sampler="annealed", levels=4, steps=3, eps=0.05)
RECIPE = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,), sampling=SAMPLING)
MODEL = ScoreModel(MLP(2, 8, 1))


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is told to keep the new file, it is whole, and the old one still has the name; then it moves."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    old, synced, real = path.stat().st_ino, [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, path.read_text()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(path) as temporary:
        temporary.write_text("the new one")
        assert temporary.parent == path.parent  # a rename goes no farther
        assert path.read_text() == "old"
    assert path.read_text() == "the new one"
    assert path.stat().st_ino != old
    assert synced == [(path.stat().st_ino, len("the new one"), "old")]
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def save_state(path: Path) -> None:
    State(MODEL, generator=torch.Generator()).save(path)


def write_samples(path: Path) -> None:
    evaluation.write_samples(path, torch.zeros(3, 1, 4, 4))


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint.pt": save_state,
    "model.safetensors": lambda path: storage.write_model(path.parent, MODEL),
    "config.json": lambda path: storage.write_config(path.parent, "toy", {}, RECIPE),
    "metrics.json": lambda path: storage.write_json(path, {"loss": 1.0}),
    "metrics.jsonl": lambda path: storage.trim_rows(path, 5, dict),
    "samples.npz": write_samples,
    "samples.png": lambda path: plots.image_grid(torch.zeros(3, 1, 4, 4), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fails_leaves_the_previous_file_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = b'{"step": 1}\n{"step": 9}\n'
    (tmp_path / name).write_bytes(previous)

    def fail(_: int) -> None:
        raise OSError("input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="input/output error"):
            WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() == previous
    assert [p.name for p in tmp_path.iterdir()] == [name]
    WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() != previous
