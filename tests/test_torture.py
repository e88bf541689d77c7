"""An extract of ``make torture``, in minutes: the same attacks, each in a few tries."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the attack needs fork, pidfd and /proc"),
]
ROOT = Path(__file__).parent.parent
FILES = "config weights checkpoints arrays images tables exports"
COMMANDS = "options outputs resumed terminals"
FAULTS = "kills signals races disk"


@pytest.mark.parametrize(("names", "minutes"), [(FILES, 0.6), (COMMANDS, 0.6), (FAULTS, 0.8)])
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
