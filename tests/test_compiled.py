import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from ncsn import compiled, machine

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux lets a variable say where a user's cache is")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for a user's caches; what torch's variable says is as before afterwards, and its headers stay."""
    monkeypatch.setattr(compiled, "remove_headers", lambda: None)
    monkeypatch.setenv(compiled.VARIABLE, "")
    monkeypatch.delenv(compiled.VARIABLE)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, appauthor: tmp_path / "home" / name)
    return tmp_path / "home"


def test_the_place_is_the_users_and_the_processors(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.keep()
    here = Path(os.environ[compiled.VARIABLE])
    assert here.parent == home / "ncsn" / "compiled"
    assert not home.exists(), "nothing is written before something is compiled"
    monkeypatch.setattr(compiled, "processor", lambda: "another")
    assert compiled.place().parent == here.parent
    assert compiled.place() != here


def test_a_place_that_the_user_has_set_stays_and_nothing_in_it_is_removed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.VARIABLE, str(tmp_path))
    (tmp_path / f"{compiled.UNFINISHED}mine").touch()
    compiled.keep()
    with compiled.marked():
        assert [path.name for path in tmp_path.iterdir()] == [f"{compiled.UNFINISHED}mine"]
    assert os.environ[compiled.VARIABLE] == str(tmp_path)


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME"])
def test_torch_keeps_its_own_place_where_its_compiler_would_stumble_over_ours(
    name: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _, appauthor: tmp_path / name)
    compiled.keep()
    assert compiled.VARIABLE not in os.environ


def test_torch_keeps_its_own_place_where_the_user_may_not_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("no folder")
    compiled.keep()
    assert compiled.VARIABLE not in os.environ
    home.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: mode == os.F_OK)
        compiled.keep()
    assert compiled.VARIABLE not in os.environ
    compiled.keep()
    assert compiled.VARIABLE in os.environ


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_what_a_killed_program_was_compiling_is_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.keep()
    half = compiled.place() / "half.so"
    code = f"""
import os, signal
from pathlib import Path
from ncsn import compiled
compiled.place = lambda: Path({str(compiled.place())!r})
with compiled.marked():
    Path({str(half)!r}).touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    removed: list[str] = []
    monkeypatch.setattr(compiled, "remove_headers", lambda: removed.append("headers"))
    with compiled.marked():
        whole = compiled.place() / "whole.so"
        whole.touch()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert half.exists()
    with compiled.marked():
        assert not half.exists()
        assert not whole.exists()
        assert removed == ["headers"]
        whole.touch()
    with compiled.marked():
        assert whole.exists(), "a program that ended by itself leaves what it has compiled"
    assert [path.name for path in compiled.place().iterdir()] == ["whole.so"]


def test_nothing_is_removed_while_another_program_compiles(home: Path) -> None:
    compiled.keep()
    with compiled.marked():
        dead, half = compiled.place() / f"{compiled.UNFINISHED}dead", compiled.place() / "half.so"
        dead.touch()
        half.touch()
        with compiled.marked():
            assert half.exists()
        assert half.exists()
    with compiled.marked():
        assert not half.exists()


@pytest.mark.slow
@linux
def test_nothing_is_compiled_a_second_time(tmp_path: Path) -> None:
    """Not by a command, when the temporary files are gone; and one that was killed leaves nothing half.

    An optimizer loads torch's compiler, which decides then where it keeps things.
    """
    code = """
import os, signal, sys
from dataclasses import dataclass
from ncsn import console

@dataclass
class Killed:
    killed: bool = False

def command(given):
    import torch
    from torch._dynamo.utils import counters
    from ncsn import compiled
    from ncsn.networks import MLP
    network = MLP(2, 8, 1)
    torch.optim.Adam(network.parameters()).step()
    def trial():
        value = network(torch.zeros(4, 2), torch.zeros(4))
        if given.killed:
            for library in compiled.place().rglob("*.so"):
                os.truncate(library, 100)
            os.kill(os.getpid(), signal.SIGKILL)
        return value
    console.compile_network(network, trial)
    print(*(counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss")))

console.run(command, Killed)
"""
    places = {name: value for name, value in os.environ.items() if name != compiled.VARIABLE}
    places |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}

    def told(*given: str) -> str:
        program = [sys.executable, "-c", code, *given]
        done = subprocess.run(program, capture_output=True, text=True, check=False, env=places)
        assert "without torch.compile" not in done.stderr
        for left in tmp_path.glob("torchinductor*"):  # as when the system starts anew
            shutil.rmtree(left)
        return done.stdout.strip()

    assert [told(), told(), told("--killed"), told()] == ["0 2", "2 0", "", "0 2"]


def test_an_error_of_the_compiler_in_one_line() -> None:
    wrong = "CppCompileError: C++ compile error\n\nCommand:\ng++ -o x\nOutput:\nx.cpp:3: error: no such thing\nmore"
    told = "CppCompileError: C++ compile error; x.cpp:3: error: no such thing"
    assert machine.in_one_line(RuntimeError(wrong)) == told
    assert machine.in_one_line(RuntimeError("no C++ compiler found\nat length")) == "no C++ compiler found"
    assert machine.in_one_line(RuntimeError("")) == "RuntimeError"
