"""What stops a command is one line, whatever it was at."""

import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest
from helpers import Patch, Printed

from ncsn.cli import console
from ncsn.cli.console import MODULES, find_command
from ncsn.machine.hardware import PeerError
from ncsn.machine.messages import Stopped, bar, stop_on_signals
from ncsn.sampling import NonFiniteSampleError
from ncsn.training import NonFiniteLossError


@dataclass
class Nothing:
    pass


def damaged(_: Nothing, number: int | None = None) -> None:
    """What a library says that may have been struck by a signal."""
    with stop_on_signals():
        if number is not None:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(number)
        raise ValueError("the file is damaged")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("too\nlong"), 2, "error: too long"),
        (MemoryError(), 1, "error: out of memory"),
        (RuntimeError("CUDA out of memory. Tried\nto allocate"), 1, "error: out of memory"),
        (NonFiniteLossError("the loss is nan"), 1, "error: the loss is nan"),
        (NonFiniteSampleError("samples are not finite"), 1, "error: samples are not finite"),
        (PeerError("another process has ended"), 1, "error: another process has ended"),
        (Stopped(signal.SIGINT, " at step 3"), 130, "error: interrupted at step 3"),
        (Stopped(signal.SIGTERM, " at step 4"), 143, "error: terminated at step 4"),
        (Stopped(signal.SIGTERM), 143, "error: terminated"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_ends_a_command_is_one_line_of_the_first_process(
    error: BaseException, status: int, line: str, rank: str, monkeypatch: Patch, capsys: Printed
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("TQDM_DISABLE", "")
    monkeypatch.setattr(sys, "stdout", sys.stdout)

    def command(_: Nothing) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        console.run(command, Nothing, [])
    assert ended.value.code == status
    said = capsys.readouterr().err
    assert said.startswith(line) == (rank == "0" or not isinstance(error, KeyboardInterrupt))
    assert said.count("\n") == bool(said)


@pytest.mark.parametrize(("number", "status", "word"), [(None, 2, "damaged"), (2, 130, "interr"), (15, 143, "termin")])
def test_a_signal_is_the_truth_whatever_a_library_says_of_it(
    number: int | None, status: int, word: str, capsys: Printed
) -> None:
    with pytest.raises(SystemExit) as ended:
        console.run(partial(damaged, number=number), Nothing, [])
    assert ended.value.code == status
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(("number", "line"), [(2, "error: interrupted\n"), (15, "error: terminated\n")])
def test_a_signal_before_the_command_ends_the_process_in_one_line(number: int, line: str) -> None:
    code = f"import os; from ncsn.machine.messages import quit_on_signals as q; q(); os.kill(os.getpid(), {number})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (128 + number, line)


def test_what_is_nobodys_fault_is_not_hidden() -> None:
    def command(_: Nothing) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        console.run(command, Nothing, [])


OPTIONS = ["--minutes 5 --steps 2", "--minutes 0", "--minutes five", "--nothing", "--precision f"]


@pytest.mark.parametrize("line", OPTIONS)
def test_an_option_is_refused_in_one_line_that_names_it_and_its_value(line: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        console.parse(find_command("train"), ["mnist", *line.split()], "ncsn train")
    said = capsys.readouterr().err
    assert (said.count("\n"), [word for word in line.split() if word.strip("-") not in said]) == (1, [])


@pytest.mark.parametrize(("name", "encoding"), [("train", "ascii"), *((name, "utf-8") for name in MODULES)])
def test_help_says_what_giving_an_option_does(name: str, encoding: str, monkeypatch: Patch, capsys: Printed) -> None:
    """An option that begins with --no- is named by its own help; nothing says None."""
    monkeypatch.setenv("COLUMNS", "70")  # so that defaults are broken across lines
    monkeypatch.setattr(type(sys.stdout), "encoding", encoding, raising=False)
    with pytest.raises(SystemExit, match=r"^0$"):
        console.parse(find_command(name), ["--help"], name)
    said = " ".join(re.sub("[│|]", " ", capsys.readouterr().out).split())
    assert re.findall(r"None|\(default: True\)", said) == []
    options = re.findall(r"(--no-[a-z]+) (\S+)", said)
    assert all(option == first for option, first in options)
    assert len(options) == (2 if name == "train" else 0)


@pytest.mark.parametrize(("name", "tables"), [("pandas", True), ("scipy", False), (None, False)])
def test_the_cure_of_what_is_not_installed_is_named_where_it_is_one(name: str | None, tables: bool) -> None:
    status, line = console.ending(ImportError("it cannot be imported", name=name))
    assert (status, "ncsn[tables]" in line, "cannot be imported" in line) == (2, tables, not tables)


def test_a_program_without_a_console_has_no_bars(monkeypatch: Patch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert [*bar(range(3), delay=0)] == [0, 1, 2]
