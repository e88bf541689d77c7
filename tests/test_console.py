"""What stops a command is one line, whatever it was at."""

import re
import signal
import subprocess
import sys
from contextlib import suppress
from unittest.mock import Mock

import pytest
import torch
from helpers import COMMANDS, Patch, Printed, conditional_run, run_ncsn

import ncsn


@pytest.fixture
def loads(monkeypatch: Patch) -> Mock:
    """What commands load their run with; its ``side_effect`` is what happens to them."""
    load = Mock()
    monkeypatch.setattr(ncsn, "load", load, raising=False)
    return load


def ended(*words: str) -> int:
    """The status with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        run_ncsn(*words)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("too\nlong"), 2, "error: too long"),
        (MemoryError(), 1, "error: out of memory"),
        (RuntimeError("timed out\nat length"), 1, "error: another process has ended or can't be reached (timed out)"),
        (FloatingPointError("samples are not finite"), 1, "error: samples are not finite"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (KeyboardInterrupt(" at step 3"), 130, "error: interrupted at step 3"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_ends_a_command_is_one_line_of_the_first_process(
    error: BaseException, status: int, line: str, rank: str, monkeypatch: Patch, capsys: Printed
) -> None:
    """Here of a training, whose processes look for each other first."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("TQDM_DISABLE", "")
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr("ncsn.machine.hardware.rendezvous", Mock(side_effect=error))
    assert ended("train", "mnist", "--device", "cpu") == status
    said = capsys.readouterr().err
    assert said.startswith(line) == (rank == "0" or not isinstance(error, KeyboardInterrupt))
    assert said.count("\n") == bool(said)


def test_torchs_own_words_for_too_little_memory_are_one_line(loads: Mock, capsys: Printed) -> None:
    loads.side_effect = RuntimeError("CUDA out of memory. Tried\nto allocate")
    assert ended("sample", "it") == 1
    said = capsys.readouterr().err
    assert (said.startswith("error: out of memory"), said.count("\n")) == (True, 1)


@pytest.mark.parametrize(("number", "status", "word"), [(None, 2, "damaged"), (2, 130, "interr"), (15, 143, "termin")])
def test_a_signal_is_the_truth_whatever_a_library_says_of_it(
    number: int | None, status: int, word: str, loads: Mock, capsys: Printed
) -> None:
    def damaged(*_: object, **__: object) -> None:
        """What a library says that may have been struck by a signal."""
        if number is not None:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(number)
        raise ValueError("the file is damaged")

    loads.side_effect = damaged
    assert ended("sample", "it") == status
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(("number", "line"), [(2, "error: interrupted\n"), (15, "error: terminated\n")])
def test_a_signal_before_the_command_ends_the_process_in_one_line(number: int, line: str) -> None:
    code = f"import os; from ncsn.machine.messages import quit_on_signals as q; q(); os.kill(os.getpid(), {number})"
    stopped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (stopped.returncode, stopped.stderr) == (128 + number, line)


def test_what_is_nobodys_fault_is_not_hidden(loads: Mock) -> None:
    loads.side_effect = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        run_ncsn("sample", "it")


OPTIONS = [
    *("--minutes 5 --steps 2", "--minutes 0", "--minutes five", "--nothing", "--precision f"),
    *("--channels wide", "--guidance big", "--sampler ddim", "--seed"),
]


@pytest.mark.parametrize("line", OPTIONS)
def test_an_option_is_refused_in_one_line_that_names_it_and_its_value(line: str, capsys: Printed) -> None:
    assert ended("train", "mnist", *line.split()) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), [word for word in line.split() if word.strip("-") not in said]) == (1, [])


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("trainn mnist", "train"),
        ("train mnist --minuts 2", "--minutes"),
        ("train mnist --bach-size 3 --fliip", "--batch-size and --flip?"),
        ("sample mnist --level 8", "--levels"),
    ],
)
def test_a_mistyped_word_is_named_with_what_was_meant(line: str, meant: str, capsys: Printed) -> None:
    assert ended(*line.split()) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), meant in said) == (1, True)


@pytest.mark.parametrize(("name", "encoding"), [("train", "ascii"), *((name, "utf-8") for name in COMMANDS)])
def test_help_says_what_giving_an_option_does(name: str, encoding: str, monkeypatch: Patch, capsys: Printed) -> None:
    """An option that begins with --no- is named by its own help; nothing says None."""
    monkeypatch.setenv("COLUMNS", "70")  # so that defaults are broken across lines
    monkeypatch.setattr(type(sys.stdout), "encoding", encoding, raising=False)
    assert ended(name, "--help") == 0
    said = " ".join(re.sub("[│|]", " ", capsys.readouterr().out).split())
    assert re.findall(r"None|\(default: True\)", said) == []
    options = re.findall(r"(--no-[a-z]+) (\S+)", said)
    assert all(option == first for option, first in options)
    assert len(options) == (2 if name == "train" else 0)


def test_every_command_is_in_the_help_of_all(capsys: Printed) -> None:
    assert ended("--help") == 0
    (names,) = re.findall(r"\{([a-z,\s]+)\}", capsys.readouterr().out)
    assert "".join(names.split()).split(",") == COMMANDS


@pytest.mark.parametrize(("name", "tables"), [("pandas", True), ("scipy", False), (None, False)])
def test_the_cure_of_what_is_not_installed_is_named_where_it_is_one(
    name: str | None, tables: bool, loads: Mock, capsys: Printed
) -> None:
    loads.side_effect = ImportError("it cannot be imported", name=name)
    assert ended("sample", "it") == 2
    said = capsys.readouterr().err
    assert ("ncsn[tables]" in said, "cannot be imported" in said) == (tables, not tables)


def test_a_program_without_a_console_has_no_bars(monkeypatch: Patch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    rows = [[0.0, float("nan")]]
    assert conditional_run(torch.eye(2)).impute(rows, 2).draws.shape == (2, 1, 2)
