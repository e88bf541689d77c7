"""What is written is whole or not there, and replaces nothing of anybody else's."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ncsn import plots, storage
from ncsn import run as runs
from ncsn.networks import MLP
from ncsn.run import Recipe
from ncsn.samplers import Sampling
from ncsn.score import ScoreModel
from ncsn.storage import HOST, atomic, check_out, sweep, write_json
from ncsn.training import State
from ncsn.validation import read_json

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.5, sampler="annealed", levels=4, steps=3, eps=0.05)
RECIPE = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,), sampling=SAMPLING)
MODEL = ScoreModel(MLP(2, 8, 1))


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is told to keep the new file, it is whole, and the old one still has the name; then it moves."""
    path = tmp_path / f"{'long' * 58}.txt"
    path.write_text("old")
    path.chmod(0o600)
    old, synced, real = path.stat().st_ino, [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, path.read_text()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(path) as temporary:
        temporary.write_text("the new one")
        assert temporary.parent == path.parent  # a rename goes no farther
    assert path.read_text() == "the new one"
    assert path.stat().st_ino != old
    assert path.stat().st_mode & 0o777 == 0o600
    assert synced == [(path.stat().st_ino, len("the new one"), "old")]
    assert [*tmp_path.iterdir()] == [path]


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint.pt": lambda path: State(MODEL, generator=torch.Generator()).save(path),
    "model.safetensors": lambda path: runs.write_model(path.parent, MODEL),
    "config.json": lambda path: runs.write_config(path.parent, "toy", {}, RECIPE),
    "metrics.json": lambda path: write_json(path, {"loss": 1.0}),
    "metrics.jsonl": lambda path: storage.trim_rows(path, 5, dict),
    "samples.png": lambda path: plots.image_grid(torch.zeros(3, 1, 4, 4), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_leaves_the_previous_file_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = b'{"step": 1}\n{"step": 9}\n'
    (tmp_path / name).write_bytes(previous)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '[^']*/\.?[a-z.]+'"):
            WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() == previous
    assert [path.name for path in tmp_path.iterdir()] == [name]
    WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() != previous


def test_what_a_kill_leaves_is_swept_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ncsn.storage import atomic\n"
        "with atomic(Path(sys.argv[1])) as t: t.write_text('new'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "x.txt"
    path.write_text("old")
    ended = subprocess.Popen([sys.executable, "-c", code, str(path)])
    assert ended.wait() == -9
    assert path.read_text() == "old"
    assert len([*tmp_path.iterdir()]) == 2
    check_out(path, overwrite=True)
    assert [*tmp_path.iterdir()] == [path]
    others = [
        f".grid.partial.{HOST}.{os.getpid()}.00ff00ff00ff00ff.png",  # of a process that is alive
        f".grid.partial.elsewhere.{ended.pid}.00ff00ff00ff00ff.png",
        f".grid.partial.{HOST}.{ended.pid}.mine.png",  # of another program
        ".thesis.partial.tex",
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f".link.partial.{HOST}.{ended.pid}.00ff00ff00ff00ff").symlink_to(path)
    sweep(tmp_path)
    assert len([*tmp_path.iterdir()]) == 1 + len(others) + 1
    sweep(tmp_path, everybodys=True)
    assert {file.name for file in tmp_path.iterdir() if file.is_file() and not file.is_symlink()} == {
        "x.txt",
        *others[2:],
    }


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
    assert mine.read_text() == "precious"
    for out, how, message in [
        (mine, {"overwrite": False}, "exists; give --overwrite"),
        (tmp_path / "gone" / "x.txt", {"overwrite": False}, "is no folder to write x.txt into"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_out(out, **how)
    with (
        pytest.raises(OSError, match=r"No such file or directory: '[^']*gone/x\.txt'"),
        atomic(tmp_path / "gone/x.txt"),
    ):
        pass


def test_json_is_read_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": 1}' + b" " * (10**6 - 8))
    assert read_json(path) == {"a": 1}
    for content in (b"", b"{", b"[]", b"\xff\xfe1", b"[" * 100_000, b"9" * 5000, b'{"a": 1}' + b" " * 10**6):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.json (cannot be read|has more than 1,000,000 bytes)"):
            read_json(path)
    with pytest.raises(ValueError, match=r"/dev/zero has more than"):
        read_json(Path("/dev/zero"))
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        read_json(tmp_path / "none")
