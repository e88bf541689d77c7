import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import platformdirs
import pytest

from ncsn import compiled, machine


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a user's caches, which is not there yet; what torch's variable says is as before afterwards."""
    monkeypatch.setenv(compiled.VARIABLE, "")
    monkeypatch.delenv(compiled.VARIABLE)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, appauthor: tmp_path / "home" / name)
    return tmp_path / "home"


windows = pytest.mark.skipif(sys.platform == "win32", reason="there torch keeps its own place")


@windows
def test_the_place_is_the_users_and_the_processors(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.keep()
    here = Path(os.environ[compiled.VARIABLE])
    assert here.parent == home / "ncsn" / "compiled"
    assert not home.exists(), "nothing is written before something is compiled"
    monkeypatch.setattr(compiled, "processor", lambda: "another")
    assert compiled.place().parent == here.parent
    assert compiled.place() != here


def test_a_place_that_the_user_has_set_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "mine")
    compiled.keep()
    assert os.environ[compiled.VARIABLE] == "mine"


@windows
@pytest.mark.parametrize(("name", "kept"), [("a b", False), ("it's", False), ("a\\b", False), ("jürgen", True)])
def test_torch_keeps_its_own_place_where_its_compiler_would_stumble_over_ours(
    name: str, kept: bool, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _, appauthor: tmp_path / name)
    compiled.keep()
    assert (compiled.VARIABLE in os.environ) == kept


@windows
def test_torch_keeps_its_own_place_where_the_user_may_not_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(name: str, appauthor: bool) -> Path:
        raise RuntimeError("Could not determine home directory.")

    home.write_text("no folder")
    compiled.keep()
    home.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: mode == os.F_OK)
        compiled.keep()
    for place in (nobody, lambda name, appauthor: Path("~") / name):
        with monkeypatch.context() as patch:
            patch.setattr(platformdirs, "user_cache_path", place)
            compiled.keep()
    assert compiled.VARIABLE not in os.environ
    compiled.keep()
    assert compiled.VARIABLE in os.environ


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder of an hour ago, with a library, a header and a text."""
    (tmp_path / "ab").mkdir()
    for name in ("ab/it.so", "it.gch", "ab/it.py"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, times=(time.time() - 3600,) * 2)
    return tmp_path


def files(folder: Path) -> set[str]:
    """All that is there, but for marks."""
    return {path.name for path in folder.rglob("*.*")}


OLD, NEW = {"it.so", "it.gch", "it.py"}, {"half.so", "half.gch", "whole.py"}


def write(folder: Path) -> None:
    """As compilers do, and torch."""
    for name in ("ab/half.so", "half.gch", "ab/whole.py"):
        (folder / name).touch()


def test_what_a_killed_program_was_compiling_is_removed(kept: Path) -> None:
    with compiled.marked(kept):
        write(kept)
    with compiled.marked(kept):
        assert files(kept) == OLD | NEW, "a program that ended by itself leaves what it has compiled"
    code = f"""
import os
from pathlib import Path
from ncsn import compiled
with compiled.marked(Path({str(kept)!r})):
    os.abort()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode not in (0, 1)
    assert files(kept) == OLD | NEW
    with compiled.marked(kept):
        assert files(kept) == OLD | {"whole.py"}
        write(kept)
    with compiled.marked(kept):
        assert files(kept) == OLD | NEW
    assert [path.name for path in (kept / "unfinished").iterdir()] == ["gate"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_compilers_may_go_on_after_an_interruption_but_not_after_an_error(
    error: type[BaseException], kept: Path
) -> None:
    def stopped() -> None:
        with compiled.marked(kept):
            write(kept)
            raise error

    with pytest.raises(error):
        stopped()
    with compiled.marked(kept):
        assert ("half.so" in files(kept)) == (error is ValueError)


def test_nothing_is_removed_while_another_program_compiles(kept: Path) -> None:
    with compiled.marked(kept):
        (kept / "unfinished" / f"{time.time():.0f}-dead").touch()
        write(kept)
        with compiled.marked(kept):
            assert files(kept) == OLD | NEW
        assert files(kept) == OLD | NEW
    with compiled.marked(kept):
        assert files(kept) == OLD | {"whole.py"}


def test_without_locks_things_are_compiled_all_the_same(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(folder: Path) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(compiled, "begun", nowhere)
    with compiled.marked(kept):
        write(kept)
    assert files(kept) == OLD | NEW


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux lets a variable say where a user's cache is")
def test_nothing_is_compiled_a_second_time(tmp_path: Path) -> None:
    """Not by a command, when the temporary files are gone; and one that was killed leaves nothing half.

    An optimizer loads torch's compiler, which decides then where it keeps things.
    """
    code = """
import os, signal, tempfile
from dataclasses import dataclass
from pathlib import Path
from ncsn.cli import console

@dataclass
class Killed:
    killed: bool = False

def command(given):
    import torch
    from torch._dynamo.utils import counters
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from ncsn import compiled
    from ncsn.networks import MLP
    network = MLP(2, 8, 1)
    torch.optim.Adam(network.parameters()).step()
    def trial():
        value = network(torch.zeros(4, 2), torch.zeros(4))
        if given.killed:
            for half in (*compiled.place().rglob("*.so"), *Path(tempfile.gettempdir()).rglob("*.gch")):
                os.truncate(half, 100)
            os.abort()
        return value
    console.compile_network(network, trial)
    found = counters["inductor"]
    print(pick_vec_isa(), *(found[f"fxgraph_cache_{name}"] for name in ("hit", "miss")))

console.run(command, Killed)
"""
    places = {name: value for name, value in os.environ.items() if name != compiled.VARIABLE}
    places |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}

    def told(*given: str) -> list[str]:
        program = [sys.executable, "-c", code, *given]
        done = subprocess.run(program, capture_output=True, text=True, check=False, env=places)
        assert "without torch.compile" not in done.stderr
        assert (done.returncode == -signal.SIGABRT) == bool(given)
        return done.stdout.split()

    *instructions, hits, misses = told()
    assert (hits, misses) == ("0", "2")
    for left in tmp_path.glob("torchinductor*"):  # as when the system starts anew
        shutil.rmtree(left)
    assert told() == [*instructions, "2", "0"]
    told("--killed")
    halves = {*tmp_path.rglob("*.so"), *tmp_path.rglob("*.gch")}
    assert {path.stat().st_size for path in halves} == {100}
    assert told() == [*instructions, "2", "0"]
    assert min(path.stat().st_size for path in halves) > 100


def test_an_error_of_the_compiler_in_one_line() -> None:
    wrong = "CppCompileError: C++ compile error\n\nCommand:\ng++ -o x\nOutput:\nx.cpp:3: error: no such thing\nmore"
    told = "CppCompileError: C++ compile error; x.cpp:3: error: no such thing"
    assert machine.in_one_line(RuntimeError(wrong)) == told
    assert machine.in_one_line(RuntimeError("no C++ compiler found\nat length")) == "no C++ compiler found"
    assert machine.in_one_line(RuntimeError("")) == "RuntimeError"
