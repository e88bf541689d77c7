"""An extract of ``make torture``, in minutes: the same attacks, each in a few tries."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the attack needs fork, pidfd and /proc")
ROOT = Path(__file__).parent.parent
FILES = "config weights checkpoints arrays images tables"
COMMANDS = "options outputs resumed terminals"
FAULTS = "kills signals races disk"

# What is known not to hold, in one place; who mends it removes the line.
BROKEN = {
    FILES: "damaged configurations, weights, checkpoints, arrays and tables of numbers are not all refused in one line",
    COMMANDS: "pipes, devices and files are replaced, links are followed, a terminal of ASCII is not enough",
    FAULTS: "resumed rows and their picture are others, a run that nobody accepts, SIGTERM's status is not 143",
}


def known(names: str) -> pytest.MarkDecorator | tuple[()]:
    return pytest.mark.xfail(strict=True, reason=BROKEN[names], raises=AssertionError) if names in BROKEN else ()


@pytest.mark.parametrize(("names", "minutes"), [
    pytest.param(FILES, 1.0, marks=known(FILES)),
    pytest.param(COMMANDS, 1.0, marks=known(COMMANDS)),
    pytest.param(FAULTS, 1.5, marks=known(FAULTS)),
])  # fmt: skip
def test_promises_are_kept(names: str, minutes: float, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/torture.py", "--minutes", str(minutes), "--processes", "1", "--only"]
    ended = subprocess.run(
        [*command, *names.split(), "--out", str(tmp_path / "failures")], cwd=ROOT, capture_output=True, text=True
    )
    said = f"{ended.stdout}\n{ended.stderr}"
    done = re.findall(r"^(\w+): ([\d,]+) tries, ([\d,]+) failures", ended.stdout, re.MULTILINE)
    if [name for name, *_ in done] != names.split():
        pytest.fail(f"the attack itself has a mistake:\n{said}")
    assert not [name for name, _, failures in done if failures != "0"], said
    assert ended.returncode == 0, said
