"""Samples by the million: the same after a kill, in constant memory, and nothing else is overwritten."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import GaussianScore
from PIL import Image

import ncsn
from ncsn import run as runs
from ncsn.cli import main as cli
from ncsn.drawn import Steps
from ncsn.model import ScoreModel
from ncsn.networks import MLP, UNet
from ncsn.recipe import Recipe
from ncsn.rng import block_seed
from ncsn.run import Run
from ncsn.samplers import Sampling
from ncsn.streaming import Job, streamed
from ncsn.units import Units

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.1, sampler="dpmpp-sde", levels=3, steps=1, eps=1e-3)
IMAGES = Recipe(
    network="UNet",
    arguments={"image_channels": 1, "channels": (8,), "blocks": 1, "features": 8, "classes": 3},
    shape=(1, 8, 8),
    sampling=SAMPLING,
)
OUTPUTS = ("x.npz", "x.npy", "x", "x.zarr")
JOB: Job = {"seed": 3, "label": None}
ROWS = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 5), dtype=np.uint8)

# Kills itself, by a signal that cannot be caught, in a fork of its own for each output and each moment.
KILLED = """
import os, signal, sys
import torch._dynamo, zarr
from ncsn import run, streaming
from ncsn.cli import main as cli
run.BLOCK = 7
def dying(method, call):
    calls = []
    def instead(*args):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args)
    return instead
out, folder = sys.argv[1:]
for moment in ("within", "between", "end"):
    for name in %r:
        if (child := os.fork()) == 0:
            os.chdir(os.path.join(out, moment))
            writer = streaming.WRITERS[os.path.splitext(name)[1]]
            if moment == "end":
                writer.finish = dying(writer.finish, 1)
            elif moment == "within":  # an image is written and not noted
                streaming.write_json = dying(streaming.write_json, 3)
            else:
                writer.write = dying(writer.write, 4)
            cli.main(["sample", folder, "-n", "40", "--class", "any", "--out", name])
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "BLOCK", 7)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    Run(score=ScoreModel(UNet(1, (8,), 1, 8, classes=3), 0.5, 0.3), recipe=IMAGES).save(tmp_path / "run")
    return tmp_path / "run"


def content(out: Path) -> np.ndarray:
    """What has been written, as one array."""
    if out.suffix == ".npz":
        with np.load(out) as archive:
            assert archive.files == ["samples"]
            return np.asarray(archive["samples"])
    if out.suffix == ".npy":
        return np.asarray(np.load(out))
    if out.suffix == ".zarr":
        return np.asarray(pytest.importorskip("zarr").open_array(out, mode="r")[:])
    pictures = []
    for number, path in enumerate(sorted(out.iterdir())):
        assert path.name == f"{number:06}.png"
        with Image.open(path) as image:
            pictures.append(np.asarray(image))
    stacked = np.stack(pictures)
    return stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)


def sample(run: Path, out: Path, *options: str) -> None:
    cli.main(["sample", str(run), "-n", "40", "--class", "any", "--device", "cpu", *options, "--out", str(out)])


def refused(capsys: pytest.CaptureFixture[str], run: Path, out: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as stop:
        sample(run, out, *options)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def write(out: Path, rows: np.ndarray, *, job: Job = JOB, overwrite: bool = False, most: int = 1000) -> int:
    """Write rows eight at a time, those that are not there; returns how many were."""
    with streamed(out, job, rows.shape, rows.dtype, block=8, overwrite=overwrite) as stream:
        before = stream.done
        for start in range(before, len(rows), 8):
            if stream.done >= most:
                raise KeyboardInterrupt
            stream.write(rows[start : start + 8])
        return before


def test_any_number_of_samples_is_drawn_in_blocks(small_blocks: None) -> None:
    run = Run(score=GaussianScore(0.5, 0.3), recipe=IMAGES)
    for n in (3, 7, 8, 21, 24):
        blocks = [[*steps][-1].x for steps in run.blocks(n, seed=5)]
        assert [len(x) for x in blocks] == [7] * (n // 7) + [n % 7] * (n % 7 > 0)
        assert torch.equal(blocks[0], run.sample(min(n, 7), seed=5))
        assert len({tuple(x.flatten().tolist()) for x in torch.cat(blocks)}) == n
    again = [[*steps][-1].x for steps in run.blocks(24, seed=5, first=2)]
    assert all(torch.equal(x, y) for x, y in zip(blocks[2:], again, strict=True))
    with pytest.raises(ValueError, match="n is 0; it must be at least 1"):
        next(run.blocks(0))


def test_a_block_is_smaller_where_samples_are_large() -> None:
    run = Run(score=GaussianScore(0.5, 0.3), recipe=IMAGES)
    sizes = {(2,): 1000, (1, 28, 28): 1000, (3, 64, 64): 1000, (3, 256, 256): 85, (3, 4096, 4096): 1}
    for shape, size in sizes.items():
        assert replace(run, recipe=replace(IMAGES, shape=shape)).block == size


def test_no_two_blocks_have_one_seed() -> None:
    """Not even of seeds that follow each other, as a generator on a CPU has no more than 32 bits of its seed."""
    seeds = [block_seed(seed, number) % 2**32 for seed in range(-3, 30) for number in range(1000)]
    assert len(set(seeds)) == len(seeds)
    assert [block_seed(seed, 0) for seed in (0, 5, -1)] == [0, 5, -1]


def test_the_digest_is_of_all_that_samples_are_made_of(run: Path) -> None:
    first = ncsn.load(run, device="cpu")
    assert first.digest == ncsn.load(run, device="cpu").digest
    model = ScoreModel(UNet(1, (8,), 1, 8, classes=3), 0.5, 0.3)
    others = [
        replace(first, guide=model),
        replace(first, score=model),
        replace(first, recipe=replace(IMAGES, sampling=SAMPLING.but(levels=4))),
        replace(first, units=Units(torch.zeros(1), torch.ones(1))),
        replace(first, units=Units(torch.ones(1), torch.ones(1))),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 6


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_is_written_is_what_was_given(name: str, tmp_path: Path) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr")
    assert write(tmp_path / name, ROWS) == 0
    found = content(tmp_path / name)
    assert found.dtype == np.uint8
    assert np.array_equal(found, ROWS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("rows", [ROWS.repeat(3, 1), ROWS.astype(np.uint16) * 251])
def test_pictures_have_the_bits_and_colours_of_the_data(rows: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "x", rows)
    found = content(tmp_path / "x")
    assert found.dtype == rows.dtype
    assert np.array_equal(found, rows)


@pytest.mark.parametrize("rows", [ROWS.repeat(2, 1), ROWS.repeat(4, 1), ROWS.repeat(3, 1).astype(np.uint16)])
def test_what_is_no_picture_is_refused_before_any_work(rows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"grey ones of 8 or 16 bits, and RGB of 8: give --out"):
        write(tmp_path / "x", rows)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_same_job_goes_on_and_another_one_is_kept(name: str, tmp_path: Path) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr")
    out = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        write(out, ROWS, most=16)
    assert not out.exists()
    other: Job = {"seed": 4, "label": None}
    with pytest.raises(ValueError, match=r"holds 16 samples of another job \(seed 3 and not 4\); finish that one"):
        write(out, ROWS, job=other)
    assert write(out, ROWS) == 16
    assert np.array_equal(content(out), ROWS)
    with pytest.raises(KeyboardInterrupt):
        write(out, ROWS, most=8)
    assert write(out, 255 - ROWS, job=other, overwrite=True) == 0
    assert np.array_equal(content(out), 255 - ROWS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_left_before_the_first_block_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.npy", ROWS, most=0)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("note", ["", "[]", '{"done": 8}', '{"done": "x", "job": {}}'])
def test_a_note_that_cannot_be_read_is_of_another_job(note: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.npy", ROWS, most=8)
    (tmp_path / ".x.npy.partial" / "job.json").write_text(note)
    with pytest.raises(ValueError, match="samples of another job"):
        write(tmp_path / "x.npy", ROWS)


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    (tmp_path / ".x.npy.partial").mkdir()
    held = FileLock(tmp_path / ".x.npy.partial" / "lock")
    with held, pytest.raises(ValueError, match=r"another process is writing .*x\.npy; wait for it"):
        write(tmp_path / "x.npy", ROWS)
    write(tmp_path / "x.npy", ROWS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_only_such_samples_are_replaced(name: str, tmp_path: Path) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr")
    out = tmp_path / name
    write(out, ROWS)
    write(out, ROWS[:9], job={"seed": 4}, overwrite=True)
    assert np.array_equal(content(out), ROWS[:9])
    precious = tmp_path / f"precious{out.suffix}"
    precious.mkdir()
    (precious / "letter.txt").write_text("precious")
    with pytest.raises(ValueError, match="is something else than such samples, and is not replaced"):
        write(precious, ROWS, overwrite=True)
    assert (precious / "letter.txt").read_text() == "precious"


def test_zarr_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match=r"pip install 'ncsn\[zarr\]'"):
        write(tmp_path / "x.zarr", ROWS)


def test_after_a_kill_the_same_command_ends_in_the_same_samples(
    run: Path, tmp_path: Path, small_blocks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("zarr")
    moments = {"within": 14, "between": 21, "end": 40}
    for moment in ("never", *moments):
        (tmp_path / moment).mkdir()
    code = KILLED % (OUTPUTS,)
    # As many threads, as they may add numbers up in another order; imported once, and forked.
    same = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path), str(run)], check=True, env=same)
    for name in OUTPUTS:
        sample(run, tmp_path / "never" / name)
        assert "going on" not in capsys.readouterr().err
        whole = content(tmp_path / "never" / name)
        blocks = [[*steps][-1].x for steps in ncsn.load(run, device="cpu").blocks(40, label="any")]
        assert np.array_equal(whole, IMAGES.depth.restored(torch.cat(blocks)))
        for moment, done in moments.items():
            out = tmp_path / moment / name
            assert not out.exists()
            sample(run, out)
            assert f"going on at {done} of 40" in capsys.readouterr().err
            assert np.array_equal(content(out), whole)
    for moment in moments:
        assert sorted(path.name for path in (tmp_path / moment).iterdir()) == sorted(OUTPUTS)


def test_an_interrupt_says_how_to_go_on(
    run: Path, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, seen = Run.steps, []

    def interrupted(self: Run, n: int = 1, **how: object) -> Steps:
        seen.append(n)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return steps(self, n, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "steps", interrupted)
    with pytest.raises(SystemExit) as stop:
        sample(run, tmp_path / "x.npy")
    assert stop.value.code == 130
    assert capsys.readouterr().err == "error: interrupted at 14 of 40 samples; the same command goes on\n"
    assert "seed 0 and not 1" in refused(capsys, run, tmp_path / "x.npy", "--seed", "1")
    sample(run, tmp_path / "x.npy")
    said = capsys.readouterr()
    assert "going on at 14 of 40\n" in said.err
    assert "26 samples by dpmpp-sde, 3 evaluations each" in said.out
    assert ", after 14 that were there" in said.out


def test_every_block_draws_its_classes(run: Path, tmp_path: Path, small_blocks: None) -> None:
    drawn: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        labels = Run.labels

        def noted(*args: object) -> torch.Tensor:
            drawn.append(labels(*args))  # type: ignore[arg-type]
            return drawn[-1]

        patch.setattr(Run, "labels", noted)
        sample(run, tmp_path / "x.npy")
    assert [len(label) for label in drawn] == [7, 7, 7, 7, 7, 5]
    assert len({tuple(label.tolist()) for label in drawn}) == 6


def test_a_full_disk_is_one_line_with_the_name(
    run: Path, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "x.npy cannot be written (No space left on device)" in refused(capsys, run, tmp_path / "x.npy")
    sample(run, tmp_path / "x.npy")
    assert "going on at 14 of 40" in capsys.readouterr().err


def test_a_picture_of_too_many_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.png", "x.gif"):
        assert "at most 10000: more go into .npz, .npy, .zarr" in refused(capsys, run, tmp_path / name, "-n", "10001")


def test_points_are_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,), sampling=SAMPLING)
    Run(score=ScoreModel(MLP(2, 8, 1)), recipe=recipe).save(tmp_path / "run")
    args = ["sample", str(tmp_path / "run"), "-n", "9", "--device", "cpu", "--out"]
    with pytest.raises(SystemExit):
        cli.main([*args, str(tmp_path / "x")])
    assert "samples are float32 of shape (2,)" in capsys.readouterr().err
    cli.main([*args, str(tmp_path / "x.npy")])
    assert np.array_equal(content(tmp_path / "x.npy"), ncsn.load(tmp_path / "run").sample(9).numpy())


GROWING = """
import resource, sys
from ncsn.cli import main as cli
for n in ("2000", "20000"):
    cli.main(["sample", sys.argv[1], "-n", n, "--device", "cpu", "--out", sys.argv[2], "--overwrite"])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_ten_times_as_many_samples_take_no_more_memory(tmp_path: Path) -> None:
    """Of 2,048 numbers each, so that all of them are 164 MB, and 1,000 of them 8."""
    recipe = Recipe(
        network="MLP",
        arguments={"dimensions": 2048, "width": 8, "layers": 1},
        shape=(2048,),
        sampling=SAMPLING.but(levels=2),
    )
    Run(score=ScoreModel(MLP(2048, 8, 1)), recipe=recipe).save(tmp_path / "run")
    command = [sys.executable, "-c", GROWING, str(tmp_path / "run"), str(tmp_path / "x.npy")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    few, many = (int(line) for line in printed if line.isdecimal())
    assert (tmp_path / "x.npy").stat().st_size > 160e6
    assert many < 1.1 * few
