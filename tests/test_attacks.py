"""What an attacker tries, and what users' files are like: nothing is lost, nothing hangs, and one line says why."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import DIGITS, SAMPLING, conditional_run, refusal, refused, unchecked
from pictures import png, write
from safetensors.torch import load_file
from torch import Tensor

import ncsn
from ncsn.cli import main as cli
from ncsn.data.dataset import stream
from ncsn.data.sources import Reading
from ncsn.data.units import Units
from ncsn.machine.interrupts import at_most
from ncsn.networks import MLP
from ncsn.problems import Measurement
from ncsn.run import Recipe, Run
from ncsn.run.folder import CHECKPOINT, MODEL
from ncsn.samplers import Sampling
from ncsn.score import ScoreModel
from ncsn.storage import read_tensors, sealed
from ncsn.validation import read_json

Printed = pytest.CaptureFixture[str]
COLUMNS = ("age", "kind", "income")
LEARNED = {"network": "MLP", "arguments": {"dimensions": 3, "width": 8, "layers": 1}, "shape": (3,)}


def rows(n: int) -> np.ndarray:
    """Rows of three columns: numbers, few values, and large ones whose logarithm is normal."""
    rng = np.random.default_rng(0)
    return np.stack([rng.normal(40, 8, n), np.arange(n) % 3, np.exp(rng.normal(7, 2, n))], 1)


def write_rows(path: Path, n: int) -> Path:
    np.savetxt(path, rows(n), delimiter=",", header=",".join(COLUMNS), comments="")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The folder of a table's run."""
    units = Units.of(torch.from_numpy(rows(200)))
    recipe = Recipe(**LEARNED, columns=COLUMNS, sampling=SAMPLING)  # type: ignore[arg-type]
    Run(score=ScoreModel(MLP(3, 8, 1)), recipe=recipe, units=units).save(tmp_path / "table")
    return tmp_path / "table"


@pytest.fixture
def learned(trained: Path, tmp_path: Path) -> Path:
    """A folder with the data and the run of a training."""
    shutil.copytree(trained, tmp_path / "learned")
    return tmp_path / "learned"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_resume_that_is_refused_loses_nothing(learned: Path, capsys: Printed) -> None:
    """Numbers go with the weights that they are of, and not before."""
    run, checkpoint = learned / "run", learned / "run" / CHECKPOINT
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    before = files_in(run)
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["train", f"{learned}/data.npz", "--resume", "--out", str(run), "--device", "cpu"])
    assert CHECKPOINT in capsys.readouterr().err
    assert files_in(run) == before
    ncsn.run.write_model(run, DIGITS.build(0.1, 0.3))
    assert not (run / "metrics.json").exists()


def test_a_full_disk_leaves_the_run_that_is_replaced(learned: Path) -> None:
    run = learned / "run"
    before, full = files_in(run), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    command = ["train", f"{learned}/data.npz", "--overwrite", "--steps", "2", "--out", str(run), "--device", "cpu"]
    with patch("os.fsync", side_effect=full), pytest.raises(SystemExit, match=r"^2$"):
        cli.main(command)
    assert files_in(run) == before
    cli.main([*command, "--channels", "8", "--blocks", "1", "--levels", "3", "--samples", "6", "--no-compile"])
    assert read_json(run / "metrics.json")["step"] == 2
    assert files_in(run).keys() == before.keys()


READERS: dict[str, Callable[[Path], object]] = {
    "weights": read_tensors,
    "checkpoint": ncsn.State(ScoreModel(MLP(2, 8, 1)), generator=torch.Generator()).load,
    "numbers": read_json,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "it")
    # No signal ends such a wait, but somebody who writes does.
    writer = threading.Timer(5, lambda: os.close(os.open(tmp_path / "it", os.O_WRONLY)))
    writer.start()
    assert refused(lambda: READERS[name](tmp_path / "it"), naming="it")
    assert writer.is_alive()
    writer.cancel()


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.npy", "run/metrics.json"])
def test_a_command_waits_for_no_pipe(name: str, table: Path, tmp_path: Path) -> None:
    table.rename(tmp_path / "run")
    os.mkfifo(tmp_path / name)
    words = ["info", "run"] if "json" in name else ["train", name, *(["--signals"] if "npy" in name else [])]
    line = [sys.executable, "-m", "ncsn", *words]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=20, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert name in ended.stderr


def shard(path: Path, values: range) -> None:
    with tarfile.open(path, "w") as archive:
        for value in values:
            info = tarfile.TarInfo(f"{value}.png")
            info.size = len(png(value))
            archive.addfile(info, io.BytesIO(png(value)))


def test_shards_that_are_emptied_end_a_training_and_empty_ones_begin_none(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number}.tar", range(40 * number, 40 * number + 40))
    images = ncsn.load_images(str(tmp_path))
    batches = stream(images, Reading(), 16, torch.Generator().manual_seed(0), labels=False, flip=False)
    assert next(batches).x.shape == (16, 1, 6, 5)
    shard(tmp_path / "0.tar", range(0))
    with at_most(20):
        assert refused(lambda: [next(batches) for _ in range(200)], naming="0.tar")
        assert refused(lambda: ncsn.load_images(str(tmp_path)), naming="0.tar")


WRONG: dict[str, Tensor | None] = {
    "shift": torch.zeros(2),
    "scale": torch.ones(4).double(),
    "scale of nothing": torch.zeros(3).double(),
    "shift of tables": torch.zeros(3, 3),
    "log": torch.zeros(2).bool(),
    "log in numbers": torch.zeros(3),
    "cells": torch.zeros(4).long(),
    "values": torch.zeros(1, 20).double(),
    "values of nothing": torch.zeros(3).double(),
    "knots": torch.zeros(3, 3, 16).double(),
    "knots, one of each": torch.zeros(2, 3, 1).double(),
    "": None,
}


@pytest.mark.parametrize("name", WRONG)
def test_units_of_other_columns_are_refused_when_a_run_is_loaded(name: str, table: Path) -> None:
    path, wrong = table / MODEL, WRONG[name]
    tensors = load_file(path)
    if wrong is None:
        tensors = {key: tensor for key, tensor in tensors.items() if "units" not in key}
    else:
        tensors[f"units.{name.split()[0].strip(',')}"] = wrong
    path.write_bytes(sealed(tensors))
    with unchecked():
        assert refused(lambda: ncsn.load(table, device="cpu"), naming=MODEL)


@pytest.mark.parametrize("columns", [["age"], ["age", "kind"], [*COLUMNS, "more"]])
def test_a_recipe_of_other_columns_is_refused(columns: list[str], table: Path) -> None:
    config = read_json(table / "config.json")
    config["recipe"]["columns"] = columns
    (table / "config.json").write_text(json.dumps(config))
    assert refused(lambda: ncsn.load(table, device="cpu"), naming=MODEL)


@pytest.mark.parametrize("name", ["cost $a_{$", "$x$", "a" * 10**6, "\x1b[31mred"])
def test_any_name_of_a_column_can_be_drawn(name: str, tmp_path: Path) -> None:
    with at_most(20):
        figure = ncsn.plots.columns(rows(50), rows(50), [name, *COLUMNS[1:]], tmp_path / "x.png")
    title = figure.axes[0].get_title()
    assert title[:5] == name[:5].replace("\x1b", "?")


@pytest.mark.parametrize("columns", ["1", "2"])
def test_help_ends_in_a_narrow_terminal(columns: str, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with at_most(20), pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["info", "--help"])
    assert "--device" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_is_wrong_is_said_without_a_frame(encoding: str) -> None:
    line = [sys.executable, "-m", "ncsn", "info", "mnist", "--device", "abacus"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "abacus" in ended.stderr
    assert not {"─", "│", "-"} & {word[-1] for word in ended.stderr.split()}


def point() -> Run:
    return Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=10.0, sigma_min=0.05)


def first(x: Tensor) -> Tensor:
    return x[:, :1]


def measured(measure: Measurement = first, y: Any = 2.0, noise_std: Any = 1.0) -> Run:
    return point().posterior(measure, y, noise_std=noise_std)


BLANK = torch.tensor([[1.0, float("nan")]])
MISTAKES: dict[str, Callable[[], object]] = {
    "no shape": lambda: Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (), sigma_max=10.0, sigma_min=0.05),
    "no numbers": lambda: Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (0,), sigma_max=10.0, sigma_min=0.05),
    "no draws": lambda: [*conditional_run(torch.eye(2)).impute(BLANK, 0)],
    "a score without conditionals": lambda: [*point().impute(BLANK, 2)],
    "no batches": lambda: point().log_prob(torch.zeros(2, 2), batch_size=0),
    "half a sample": lambda: point().sample(1.5),  # type: ignore[arg-type]
    "other starts": lambda: point().sample(5, start=torch.zeros(3, 2)),
    "half a draw": lambda: conditional_run(torch.eye(2)).impute(BLANK, 1.5),  # type: ignore[arg-type]
    "half a block": lambda: [*point().blocks(1.5)],  # type: ignore[arg-type]
    "a seed below zero": lambda: point().sample(2, seed=-1),
    "half a seed": lambda: point().sample(2, seed=0.5),
    "imputation by a seed below zero": lambda: conditional_run(torch.eye(2)).impute(BLANK, 2, seed=-1),
    "a measurement taken three times": lambda: measured(noise_std=torch.ones(3)),
    "noise of more measurements": lambda: measured(noise_std=torch.ones(4, 1)),
    "noise of three numbers for two": lambda: measured(lambda x: x, [1.0, 2.0], noise_std=torch.ones(3)),
    "a measurement that detaches": lambda: measured(lambda x: x.detach()[:, :1]),
    "a measurement that detaches half": lambda: measured(lambda x: torch.stack([x[:, 0], x[:, 1].detach()], 1), [1, 2]),
    "a measurement by numpy": lambda: measured(lambda x: torch.from_numpy(x.detach().numpy()[:, :1])),
    "noise below precision": lambda: measured(noise_std=1e-8),
    "noise below precision, of each": lambda: measured(lambda x: x, [1.0, 2.0], noise_std=torch.tensor([1.0, 1e-8])),
    "a measurement out of sight": lambda: measured(y=1e30),
    "a complex measurement": lambda: measured(y=1 + 1j),
    "complex noise": lambda: measured(noise_std=torch.tensor(1 + 1j)),
    "complex rows": lambda: [*conditional_run(torch.eye(2)).impute(torch.ones(1, 2, dtype=torch.complex64))],
    "complex density": lambda: point().log_prob(torch.ones(1, 2, dtype=torch.complex64)),
    "complex starts": lambda: point().sample(1, start=torch.ones(1, 2, dtype=torch.complex64)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_run_cannot_do_is_refused(name: str) -> None:
    with unchecked():
        assert refused(MISTAKES[name])


@pytest.mark.parametrize("rows", [BLANK.clone().requires_grad_(), BLANK.bfloat16()], ids=["gradients", "bfloat16"])
def test_rows_of_any_tensor_are_filled_in(rows: Tensor) -> None:
    with unchecked():
        [(_, draws)] = conditional_run(torch.eye(2)).impute(rows, 2)
    assert draws.shape == (2, 1, 2)
    assert bool((draws[..., 0] == 1).all())


def test_a_run_that_is_loaded_in_inference_mode_has_gradients(table: Path) -> None:
    with torch.inference_mode():
        run = ncsn.load(table, device="cpu")
    x = torch.from_numpy(rows(200)[:2])
    assert torch.equal(run.log_prob(x, tolerance=0.1), ncsn.load(table, device="cpu").log_prob(x, tolerance=0.1))


def test_weights_without_measure_end_an_imputation_in_one_line(table: Path, capsys: Printed) -> None:
    network: dict[str, Any] = {"dimensions": 3, "width": 8, "blocks": 1, "conditional": True}
    recipe = Recipe(
        network="ResidualMLP",
        arguments=network,
        preconditioning="conditional",
        shape=(3,),
        columns=COLUMNS,
        sampling=Sampling.of("dpmpp-sde", 20.0, 0.01),
    )
    model = recipe.build()
    for weights in model.network.parameters():
        torch.nn.init.ones_(weights)
    Run(score=model, recipe=recipe, units=ncsn.load(table).units).save(table, overwrite=True)
    tensors = load_file(table / MODEL)
    large = {name: 1e30 * tensor if "network" in name else tensor for name, tensor in tensors.items()}
    (table / MODEL).write_bytes(sealed(large))
    (table / "gaps.csv").write_text("age,kind,income\n40.5,,1000\n")
    with pytest.raises(SystemExit, match=r"^1$"):
        cli.main(["impute", str(table), str(table / "gaps.csv"), "--out", str(table / "x.csv"), "--device", "cpu"])
    assert "not finite" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [{"total": torch.zeros(3).double()}, {"total": 3}, {"best.data_mean": torch.zeros(3)}])
def test_a_checkpoint_that_keeps_something_else_is_refused(
    kept: dict[str, Any], learned: Path, capsys: Printed
) -> None:
    checkpoint = learned / "run" / CHECKPOINT
    content = torch.load(checkpoint, weights_only=True)
    content["kept"] |= kept
    torch.save(content, checkpoint)  # without a digest, as torch writes it
    command = ["train", f"{learned}/data.npz", "--resume", "--steps", "20", "--out", str(learned / "run")]
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main([*command, "--device", "cpu"])
    assert CHECKPOINT in capsys.readouterr().err


def test_info_prints_a_run_and_nothing_else(table: Path, capsys: Printed) -> None:
    (table / "cookies.json").write_text('{"cookie": "secret"}')
    (table / "metrics.json").write_text('{"note": "\x9b31mred"}', encoding="utf-8")
    cli.main(["info", str(table), "--device", "cpu"])
    said = capsys.readouterr().out
    assert "note" in said
    assert "secret" not in said
    assert "\x9b" not in said


@pytest.mark.parametrize("name", ["\x1b[31mred", "a" * 10**6, "two lines "])
def test_names_of_columns_can_be_printed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"{name},b\n" + "\n".join(f"{i % 3},{i * i}" for i in range(300)))
    data = ncsn.load_images(str(path))
    assert all(name.isprintable() and len(name) < 400 and name == name.strip() for name in data.columns)


def judged(folder: Path) -> list[str]:
    return ["evaluate", str(folder / "run"), "--device", "cpu", "--levels", "3"]


@pytest.fixture(scope="module")
def judgeable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and its run, of enough rows to judge samples by."""
    folder = tmp_path_factory.mktemp("judgeable")
    data = str(write_rows(folder / "x.csv", 1100))
    cli.main(["train", data, "--steps", "3", "--out", str(folder / "run"), "--device", "cpu"])
    return folder


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("likelihood RUN x.csv --data x.csv", "--data"),
        ("likelihood RUN x.csv -n 5", "--n"),
        ("likelihood RUN --out y.csv", "--out"),
        ("evaluate RUN --features pixels", "--features"),
        ("impute mnist x.csv", "inpaint"),
        ("impute RUN x.csv --out y.npy", "y.npy"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    command: str, named: str, table: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    assert named in refusal(capsys, *command.replace("RUN", "table").split())


def test_a_density_names_the_row_as_the_file_counts_them(
    table: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    Path("x.csv").write_text("age,kind,income\n40,1,100\n,1,100\n,,\n41,2,0\n")
    line = refusal(capsys, "likelihood", "table", "x.csv")
    assert "row 4" in line
    assert "income" in line


@pytest.mark.parametrize("name", ["evaluation.png", "evaluation.json"])
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
        cli.main(judged(tmp_path / "it"))
    assert not (tmp_path / "it" / "run" / "evaluation.json").exists()
    cli.main([*judged(tmp_path / "it"), "--overwrite"])
    names = {path.name for path in (tmp_path / "it" / "run").iterdir()}
    assert {"evaluation.json", "evaluation.png"} <= names
    assert not [name for name in names if "partial" in name]


@pytest.mark.parametrize(
    ("files", "held"),
    [
        ({"all.zip": b"PK", "read.me": b""}, "1 .zip, 1 .me"),
        ({"a/1": png(1), "a/2": png(2)}, "2 without suffix"),
        ({f"{i}.dcm": bytes(128) + b"DICM" for i in range(30)}, "30 .dcm"),
        ({}, "no files"),
    ],
)
def test_a_folder_without_images_says_what_it_holds(files: dict[str, bytes], held: str, tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    message = refused(lambda: ncsn.load_images(write(tmp_path / "it", files)), naming="it")
    assert held in message
    assert ".png" in message


@pytest.mark.parametrize(
    ("names", "more", "unsorted"),
    [
        (["cat ({}).png", "dog ({}).png"], {}, True),
        (["cat.{}.png", "Dog_{}.png", "cow{}.png"], {}, True),
        (["{}.png"], {"train.csv": b"id,label"}, True),
        (["{}.png"], {"notes.txt": b"id,label"}, False),
        (["cat{}.png"], {}, False),
        (["{}.png", "cat{}.png"], {}, False),
        (["cats/{}.png", "dogs/{}.png"], {"train.csv": b"id,label"}, False),
    ],
)
def test_classes_that_are_no_folders_are_spoken_of(
    names: list[str], more: dict[str, bytes], unsorted: bool, tmp_path: Path
) -> None:
    files = {name.format(i): png(20 * k + i) for k, name in enumerate(names) for i in range(20)}
    said = ncsn.load_images(write(tmp_path, files | more)).notes
    assert sum(line.startswith("unsorted: ") for line in said) == unsorted
