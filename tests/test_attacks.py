"""What an attacker tries, and what users' files are like: nothing is lost, nothing hangs, and one line says why."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas
import pytest
import torch
from helpers import Patch, Printed, conditional_run, edit_config, refusal, refused, run_ncsn, unchecked
from torch import Tensor

import ncsn

COLUMNS = ("age", "kind", "income")
CHECKPOINT, MODEL = "checkpoint.pt", "model.safetensors"


def rows(n: int) -> np.ndarray:
    """Rows of three columns: numbers, few values, and large ones whose logarithm is normal."""
    rng = np.random.default_rng(0)
    return np.stack([rng.normal(40, 8, n), np.arange(n) % 3, np.exp(rng.normal(7, 2, n))], 1)


def write_rows(path: Path, n: int) -> Path:
    np.savetxt(path, rows(n), delimiter=",", header=",".join(COLUMNS), comments="")
    return path


@pytest.fixture(scope="module")
def of_rows() -> ncsn.Run:
    """The run of a table."""
    frame = pandas.DataFrame(rows(200), columns=COLUMNS)
    run: ncsn.Run = ncsn.fit(frame, channels=(8,), blocks=1, steps=1, device="cpu", quiet=True)
    return run


@pytest.fixture
def table(of_rows: ncsn.Run, tmp_path: Path) -> Path:
    """Its folder."""
    of_rows.save(tmp_path / "table")
    return tmp_path / "table"


@contextmanager
def limit_seconds(seconds: int) -> Iterator[None]:
    """Within it, raise TimeoutError after so many seconds, and again if a library swallows it."""

    def strike(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def learned(trained: Path, tmp_path: Path) -> Path:
    """A folder with the data and the run of a training."""
    shutil.copytree(trained, tmp_path / "learned")
    return tmp_path / "learned"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    "kept",
    [None, {"total": [0.0, 0.0, 0.0]}, {"total": 3}, {"best": {"data_mean": torch.zeros(3)}}, {"rows": [{"step": 1}]}],
)
def test_a_resume_that_is_refused_loses_nothing(kept: dict[str, Any] | None, learned: Path, capsys: Printed) -> None:
    """Numbers go with the weights that they are of, and not before."""
    run, checkpoint = learned / "run", learned / "run" / CHECKPOINT
    if kept is None:
        content = bytearray(checkpoint.read_bytes())
        content[len(content) // 2] ^= 1
        checkpoint.write_bytes(content)
    else:  # without a digest, as torch writes it
        state = torch.load(checkpoint, weights_only=True)
        state["parts"]["ledger"] |= kept
        torch.save(state, checkpoint)
    before = files_in(run)
    with pytest.raises(SystemExit, match=r"^2$"):
        run_ncsn("train", f"{learned}/data.npz", "--resume", "--steps", "20", "--out", str(run), "--device", "cpu")
    assert CHECKPOINT in capsys.readouterr().err
    changed = {Path(name).name for name, content in files_in(run).items() if before.get(name) != content}
    assert changed <= ({"config.json"} if kept else set())  # the new total, before what the checkpoint keeps is read
    other = ncsn.Run.of(ncsn.ScoreModel(ncsn.UNet(1, (8,), 1, 8)), (1, 8, 8), sigma_max=2.0, sigma_min=0.1)
    other.save(run, overwrite=True)
    assert not (run / "metrics.json").exists()


def test_a_full_disk_leaves_the_run_that_is_replaced(learned: Path) -> None:
    run = learned / "run"
    before, full = files_in(run), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    command = ["train", f"{learned}/data.npz", "--overwrite", "--steps", "2", "--out", str(run), "--device", "cpu"]
    with patch("os.fsync", side_effect=full), pytest.raises(SystemExit, match=r"^2$"):
        run_ncsn(*command)
    assert files_in(run) == before
    run_ncsn(*command, "--channels", "8", "--blocks", "1", "--levels", "3", "--samples", "6", "--no-compile")
    assert json.loads((run / "metrics.json").read_text())["step"] == 2
    assert files_in(run).keys() == before.keys()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_disk_that_fills_up_between_samples_is_named(here: Path, monkeypatch: Patch, capsys: Printed) -> None:
    command = ["sample", "mnist", "-n", "2", "--levels", "2", "--out", "x.npz", "--device", "cpu"]
    with Path("/dev/full").open("w+b", buffering=0) as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full)
        assert "x.npz" in refusal(capsys, *command)
    assert not list(here.iterdir())


PIPES = {
    "x.csv": "train x.csv",
    "x.parquet": "train x.parquet",
    "x.npy": "train x.npy --signals",
    "run/model.safetensors": "sample run",
    "run/checkpoint.pt": "train data.npz --resume --out run --device cpu",
}


@pytest.mark.parametrize("name", PIPES)
def test_a_command_waits_for_no_pipe(name: str, learned: Path, monkeypatch: Patch, capsys: Printed) -> None:
    """No signal ends such a wait, but somebody who writes does."""
    monkeypatch.chdir(learned)
    path = Path(name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    writer = threading.Timer(20, lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))
    writer.start()
    with pytest.raises(SystemExit, match=r"^2$"):
        run_ncsn(*PIPES[name].split())
    said = capsys.readouterr().err
    assert (name in said, said.count("\n")) == (True, 1)
    assert writer.is_alive()
    writer.cancel()


Change = Callable[[dict[str, Any]], object]
WRONG = {"shift": "far", "scale": 0, "decimals": 400, "type": "imaginary"}  # of a column of numbers
KNOTS = [[0], [0]], [[0, 1, 2], [0, 1]], [[0, 0], [0, 1]], [[0, 1], [1, 0]]  # one, more of some, no step, a fall
SCALE = {"type": "scale", "shift": [1], "scale": [1]}
TRANSFORMS: list[Change] = [
    lambda recipe: recipe["transform"]["columns"].pop(),
    lambda recipe: recipe["transform"]["columns"].append(recipe["transform"]["columns"][0]),
    lambda recipe: recipe["transform"].update(type="units"),
    lambda recipe: recipe["transform"].update(type={}),
    *(lambda recipe, other=other: recipe.update(transform=other) for other in ({}, SCALE | {"shift": [1, 2]})),
    *(lambda recipe, n=n: recipe.update(transform=SCALE | {"axes": n}) for n in (10**9, 10**12)),
    *(lambda recipe, x=x: recipe["transform"]["columns"][0].update({x[0]: x[1]}) for x in WRONG.items()),
    *(lambda recipe, x=x: recipe["transform"]["columns"][0].update(scale=x) for x in (-1, 10**400)),
    lambda recipe: recipe["transform"]["columns"][1].update(values=[]),
    *(lambda recipe, x=x: recipe["transform"]["columns"][2].update(knots=x) for x in KNOTS),
]


@pytest.mark.parametrize("change", TRANSFORMS)
def test_a_transform_of_other_columns_is_refused_when_a_run_is_loaded(change: Change, table: Path) -> None:
    """Also if a stranger has recomputed the digest; a file edited by hand is rejected with a message."""
    written = (table / "config.json").read_text()
    for digest in (False, True):
        (table / "config.json").write_text(written)
        edit_config(table, lambda content: change(content["recipe"]), digest=digest)
        with unchecked(), limit_seconds(20):
            assert refused(lambda: ncsn.load(table, device="cpu"), naming=str(table))


@pytest.mark.parametrize("name", ["cost $a_{$", "$x$", "a" * 10**5, "\x1b[31mred", "two lines "])
def test_any_name_of_a_column_can_be_drawn_and_printed(name: str, tmp_path: Path) -> None:
    with limit_seconds(20):
        figure = ncsn.plots.columns(rows(50), rows(50), [name, *COLUMNS[1:]], tmp_path / "x.png")
    title = figure.axes[0].get_title()
    assert title[:5] == name[:5].replace("\x1b", "?")
    (tmp_path / "x.csv").write_text(f"{name},b\n" + "\n".join(f"{i % 3},{i * i}" for i in range(300)))
    transform: Any = ncsn.load_dataset(str(tmp_path / "x.csv")).transform
    read = [column.name for column in transform.columns]
    assert all(each.isprintable() and len(each) < 400 and each == each.strip() for each in read)


def test_escape_sequences_of_strangers_files_do_not_reach_the_terminal(tmp_path: Path, capsys: Printed) -> None:
    """Neither in the lines on the data, nor in a refusal."""
    name = "\x1b[2Jtitle\x07\x9b\u202e"
    frame = pandas.DataFrame({"a": np.arange(40) / 7, "b": [f"{name}one", f"{name}other"] * 20, f"c{name}": 1.0})
    frame.to_csv(tmp_path / "x.csv", index=False)

    ncsn.load_dataset(tmp_path / "x.csv").announce()
    with pytest.raises(SystemExit, match=r"^2$"):
        run_ncsn("train", f"{name}.csv", "--device", "cpu")
    said = "".join(capsys.readouterr())
    assert said.count("[2Jtitle") == 2, "a column left out, and the refusal"
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize("columns", ["1", "2"])
def test_help_ends_in_a_narrow_terminal(columns: str, monkeypatch: Patch, capsys: Printed) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with limit_seconds(20), pytest.raises(SystemExit, match=r"^0$"):
        run_ncsn("likelihood", "--help")
    assert "--device" in capsys.readouterr().out


def test_what_is_wrong_is_said_without_a_frame(capsys: Printed) -> None:
    """In a terminal of ASCII, too."""
    command = ["sample", "mnist", "--device", "abacus"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "ncsn", *command]
    ended = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    for said in (ended.stderr, refusal(capsys, *command)):
        assert "abacus" in said
        assert not {"─", "│", "-"} & {word[-1] for word in said.split()}


BLANK = torch.tensor([[1.0, float("nan")]])


@pytest.mark.parametrize("rows", [BLANK.clone().requires_grad_(), BLANK.bfloat16()], ids=["gradients", "bfloat16"])
def test_rows_of_any_tensor_are_filled_in(rows: Tensor) -> None:
    with unchecked():
        draws = conditional_run(torch.eye(2)).impute(rows, 2).draws
    assert draws.shape == (2, 1, 2)
    assert bool((draws[..., 0] == 1).all())


def test_a_run_that_is_loaded_in_inference_mode_has_gradients(table: Path) -> None:
    with torch.inference_mode():
        run = ncsn.load(table, device="cpu")
    x = torch.from_numpy(rows(200)[:2])
    assert torch.equal(run.log_prob(x, tolerance=0.1), ncsn.load(table, device="cpu").log_prob(x, tolerance=0.1))


def test_weights_without_measure_end_an_imputation_in_one_line(table: Path, capsys: Printed) -> None:
    run = ncsn.fit(pandas.DataFrame(rows(200), columns=COLUMNS), steps=1, quiet=True)
    for weights in run.model.network.parameters():
        torch.nn.init.constant_(weights, 1e30)
    run.save(table, overwrite=True)
    (table / "gaps.csv").write_text("age,kind,income\n40.5,,1000\n")
    with pytest.raises(SystemExit, match=r"^1$"):
        run_ncsn("impute", str(table), str(table / "gaps.csv"), "--out", str(table / "x.csv"), "--device", "cpu")
    assert "not finite" in capsys.readouterr().err


def judged(folder: Path) -> list[str]:
    return ["evaluate", str(folder / "run"), "--device", "cpu", "--levels", "3"]


@pytest.fixture(scope="module")
def judgeable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and its run, of enough rows to judge samples by."""
    folder = tmp_path_factory.mktemp("judgeable")
    data = str(write_rows(folder / "x.csv", 1100))
    run_ncsn("train", data, "--steps", "3", "--out", str(folder / "run"), "--device", "cpu")
    return folder


def test_a_density_names_the_row_that_cannot_be(table: Path) -> None:
    rows = pandas.DataFrame({"age": [40, 41], "kind": [1, 2], "income": [100, 0]})
    with pytest.raises(ValueError, match=r"row 2.*income|income.*row 2"):
        ncsn.load(table, device="cpu").log_prob(rows)


@pytest.mark.parametrize("name", ["evaluation.png", "evaluation.json", "evaluation.npz"])
def test_an_evaluation_replaces_nobody_elses_file(name: str, judgeable: Path, tmp_path: Path, capsys: Printed) -> None:
    shutil.copytree(judgeable, tmp_path / "it")
    foreign = tmp_path / "it" / "run" / name
    foreign.write_bytes(b"precious")
    assert name in refusal(capsys, *judged(tmp_path / "it"))
    assert foreign.read_bytes() == b"precious"


def test_a_killed_evaluation_is_done_again_by_the_same_command_with_overwrite(judgeable: Path, tmp_path: Path) -> None:
    """Its numbers come last: they say that the evaluation is whole."""
    shutil.copytree(judgeable, tmp_path / "it")
    with patch("ncsn.plots.columns", side_effect=KeyboardInterrupt), pytest.raises(SystemExit, match=r"^130$"):
        run_ncsn(*judged(tmp_path / "it"))
    assert not (tmp_path / "it" / "run" / "evaluation.json").exists()
    run_ncsn(*judged(tmp_path / "it"), "--overwrite")
    names = {path.name for path in (tmp_path / "it" / "run").iterdir()}
    assert {"evaluation.json", "evaluation.png", "evaluation.npz"} <= names
    assert not [name for name in names if "partial" in name]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the attack needs fork, pidfd and /proc")
def test_promises_are_kept() -> None:
    """An extract of ``make torture``, in a minute: the same attacks, each in a few tries."""
    command = [sys.executable, "scripts/torture.py", "--minutes", "0.2"]
    ended = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    done = re.findall(r"^(\w+): ([\d,]+) tries, ([\d,]+) failures", ended.stdout, re.MULTILINE)
    assert [name for name, *_ in done] == ["kills", "disk", "options", "files"], ended.stderr
    assert ended.returncode == 0, ended.stdout
    assert all(int(tries.replace(",", "")) > 0 for _, tries, _ in done)
