"""What is written is whole or not there, grows and goes on after kills, and replaces nothing of anybody else's."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from ncsn import evaluation, plots, storage
from ncsn import run as runs
from ncsn.files import SamplingJob, streamed
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
    "samples.npz": lambda path: evaluation.write_samples(path, torch.zeros(3, 1, 4, 4, dtype=torch.uint8)),
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
        (mine, {"overwrite": True, "directory": True}, "is a file; a folder is needed"),
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


OUTPUTS = ("x.npz", "x.npy", "x")
JOB: SamplingJob = {"seed": 3, "label": None}
ROWS = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 5), dtype=np.uint8)

# Kills itself, by a signal that cannot be caught, before each of the calls that make something final.
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from ncsn.files import streamed
out, number = Path(sys.argv[1]), int(sys.argv[2])
rows, calls = np.load(sys.argv[3]), []
def dying(method):
    def instead(*args, **how):
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **how)
    return instead
os.fsync, Path.replace, Path.mkdir = dying(os.fsync), dying(Path.replace), dying(Path.mkdir)
with streamed(out, {"seed": 3, "label": None}, rows.shape, rows.dtype, block=8) as stream:
    for start in range(stream.done, len(rows), 8):
        stream.write(rows[start : start + 8])
"""


def content(out: Path) -> np.ndarray:
    """What has been written, as one array."""
    if out.suffix == ".npz":
        with np.load(out) as archive:
            assert archive.files == ["samples"]
            return np.asarray(archive["samples"])
    if out.suffix == ".npy":
        return np.asarray(np.load(out))
    assert sorted(path.name for path in out.iterdir()) == [f"{i:06}.png" for i in range(len([*out.iterdir()]))]
    pictures = np.stack([np.asarray(Image.open(path)) for path in sorted(out.iterdir())])
    return pictures[:, None] if pictures.ndim == 3 else pictures.transpose(0, 3, 1, 2)


def write(out: Path, rows: np.ndarray, *, job: SamplingJob = JOB, overwrite: bool = False, most: int = 1000) -> int:
    """Write rows eight at a time, those that are not there; returns how many were."""
    with streamed(out, job, rows.shape, rows.dtype, block=8, overwrite=overwrite) as stream:
        before = stream.done
        for start in range(before, len(rows), 8):
            if stream.done >= most:
                raise KeyboardInterrupt
            stream.write(rows[start : start + 8])
        return before


@pytest.mark.parametrize("name", OUTPUTS)
def test_after_a_kill_at_any_moment_the_same_bytes_come(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    (tmp_path / "never").mkdir()
    write(tmp_path / "never" / name, ROWS)
    before: list[int] = []
    while True:
        folder = tmp_path / str(len(before))
        folder.mkdir()
        command = [sys.executable, "-c", KILLED, str(folder / name), str(len(before) + 1), str(tmp_path / "rows.npy")]
        done = subprocess.run(command, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -9
        if not (folder / name).exists():
            before.append(write(folder / name, ROWS))
        else:
            before.append(20)
            shutil.rmtree(folder / f".{name}.partial", ignore_errors=True)
        assert [path.name for path in folder.iterdir()] == [name]
        ours, theirs = (sorted(p.rglob("*")) or [p] for p in (folder / name, tmp_path / "never" / name))
        assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
    assert {0, 8, 16, 20} <= set(before)
    assert np.array_equal(content(folder / name), ROWS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_same_job_goes_on_and_another_one_is_kept(name: str, tmp_path: Path) -> None:
    out, other = tmp_path / name, {**JOB, "seed": 4}
    with pytest.raises(KeyboardInterrupt):
        write(out, ROWS, most=0)
    assert not [*tmp_path.iterdir()]
    with pytest.raises(KeyboardInterrupt):
        write(out, ROWS, most=16)
    assert not out.exists()
    for job, rows in ((other, ROWS), (JOB, ROWS[:9]), (JOB, ROWS[..., :4])):
        with pytest.raises(ValueError, match=r"holds samples of another job \((seed 3, not 4|rows .*)\); finish"):
            write(out, rows, job=job)
    assert write(out, ROWS) == 16
    assert np.array_equal(content(out), ROWS)
    with pytest.raises(ValueError, match="exists; give --overwrite"):
        write(out, ROWS)
    with pytest.raises(KeyboardInterrupt):
        write(out, ROWS, most=8, overwrite=True)
    assert np.array_equal(content(out), ROWS), "the old one stays until the new one is whole"
    assert write(out, 255 - ROWS[:9], job=other, overwrite=True) == 0
    assert np.array_equal(content(out), 255 - ROWS[:9])
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("damage", [b"", b"\x00", None])
def test_what_it_goes_on_from_is_whole(tmp_path: Path, damage: bytes | None) -> None:
    """A block that is cut, flipped or gone is drawn again, and so are those after it."""
    out, hidden = tmp_path / "x.npy", tmp_path / ".x.npy.partial"
    with pytest.raises(KeyboardInterrupt):
        write(out, ROWS, most=16)
    second = next(hidden.glob("000001-*"))
    second.unlink() if damage is None else second.write_bytes(damage + second.read_bytes()[1:])
    note = (hidden / "job.json").read_text()
    for damaged in ("", "[]", '{"seed": 3}'):
        (hidden / "job.json").write_text(damaged)
        with pytest.raises(ValueError, match="samples of another job"):
            write(out, ROWS)
    (hidden / "job.json").write_text(note)
    assert write(out, ROWS) == 8
    assert np.array_equal(content(out), ROWS)


def test_nothing_of_anybody_elses_is_removed_or_followed(tmp_path: Path) -> None:
    thesis, hidden, out = tmp_path / "thesis", tmp_path / ".x.npy.partial", tmp_path / "x.npy"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("precious")

    def refuse(out: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            write(out, ROWS, overwrite=True)
        assert (thesis / "chapter.tex").read_text() == "precious"

    hidden.symlink_to(thesis)
    refuse(out, "is not a folder of unfinished samples")
    hidden.unlink()
    hidden.write_text("a file")
    refuse(out, "is not a folder of unfinished samples")
    hidden.unlink()
    shutil.copytree(thesis, hidden)
    refuse(out, "is not a folder of unfinished samples")
    assert (hidden / "chapter.tex").exists()
    refuse(thesis, "holds more than such images, and is not replaced")
    (hidden / "chapter.tex").unlink()
    with FileLock(hidden / "lock"):
        refuse(out, r"another process is writing .*x\.npy; wait for it")
    (hidden / "images").symlink_to(thesis)
    write_json(hidden / "job.json", {})
    write(out, ROWS)
    assert (thesis / "chapter.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("shape", "kind"), [((3, 3, 4, 4), "uint8"), ((3, 1, 4, 4), "uint16"), ((3, 2, 4, 4), "uint8"), ((3, 2), "float32")]
)
def test_png_images_are_grey_or_rgb(shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    rows = np.arange(np.prod(shape)).reshape(shape).astype(kind) * 7
    if shape[1] == 2:
        with pytest.raises(ValueError, match="a folder of PNG images holds grey ones"):
            write(tmp_path / "x", rows)
    else:
        write(tmp_path / "x", rows)
        assert np.array_equal(content(tmp_path / "x"), rows)
    write(tmp_path / "x.npy", rows)
    assert np.array_equal(content(tmp_path / "x.npy"), rows)
