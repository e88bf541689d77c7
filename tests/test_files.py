"""What is written is whole or not there: by the order of system calls, and by a disk that fails."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ncsn import evaluation, plots, storage
from ncsn.files import HOST, atomic, check_out, sweep
from ncsn.model import ScoreModel
from ncsn.networks import MLP
from ncsn.recipe import Recipe
from ncsn.samplers import Sampling
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
    evaluation.write_samples(path, torch.zeros(3, 1, 4, 4, dtype=torch.uint8))


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


def test_temporary_names_cannot_be_guessed_and_what_a_kill_leaves_is_swept(tmp_path: Path) -> None:
    path, names = tmp_path / "grid.png", set()
    for _ in range(3):
        with atomic(path) as temporary:
            temporary.write_bytes(b"x")
            names.add(temporary.name)
            assert not temporary.is_symlink()
    assert len(names) == 3
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".grid.partial.{HOST}.{ended.pid}.00ff.png"
    others = [
        tmp_path / f".grid.partial.{HOST}.{os.getpid()}.00ff.png",  # of a process that is alive
        tmp_path / f".grid.partial.elsewhere.{ended.pid}.00ff.png",
        tmp_path / f".other.partial.{HOST}.{ended.pid}.00ff.png",
    ]
    for file in (left, *others):
        file.write_bytes(b"half")
    check_out(path, overwrite=True)
    assert not left.exists()
    assert all(file.exists() for file in others)
    sweep(tmp_path)
    assert [file.exists() for file in others] == [True, True, False]


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from ncsn.files import atomic\n"
        "with atomic(Path(sys.argv[1])) as t: t.write_text('new'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    check_out(path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    (tmp_path / "link.png").symlink_to(mine)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    for name, what in {"link": "a link", "dangling": "a link", "folder": "a folder", "fifo": "no regular file"}.items():
        path = tmp_path / f"{name}.png"
        with pytest.raises(ValueError, match=f"is {what}; only regular files are replaced"):
            check_out(path, overwrite=True)
        with pytest.raises(ValueError, match=f"is {what}"), atomic(path) as temporary:
            temporary.write_bytes(b"x")
    with pytest.raises(ValueError, match="only regular files"):
        check_out(Path("/dev/null"), overwrite=True)
    assert mine.read_text() == "precious"
    with pytest.raises(ValueError, match="give --overwrite"):
        check_out(mine, overwrite=False)


def test_a_failure_to_write_names_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gone" / "x.txt"
    with pytest.raises(OSError, match=r"No such file or directory: '[^']*gone/x\.txt'"), atomic(path):
        pass

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match=r"No space left on device: '[^']*/y\.txt'"),
        atomic(tmp_path / "y.txt") as temporary,
    ):
        temporary.write_text("y")
    assert list(tmp_path.iterdir()) == []
