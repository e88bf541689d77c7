"""What is written is whole or not there, grows and goes on after kills, and replaces nothing of anybody else's."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from ncsn.files import SamplingJob, streamed
from ncsn.run import Recipe
from ncsn.samplers import Sampling
from ncsn.storage import write_json

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.5, sampler="annealed", levels=4, steps=3, eps=0.05)
RECIPE = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,), sampling=SAMPLING)
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
