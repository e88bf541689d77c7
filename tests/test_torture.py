"""An extract of ``make torture``, in a minute: the same attacks, each in a few tries."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the attack needs fork, pidfd and /proc")
def test_promises_are_kept() -> None:
    command = [sys.executable, "scripts/torture.py", "--minutes", "0.2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    done = re.findall(r"^(\w+): ([\d,]+) tries, ([\d,]+) failures", ended.stdout, re.MULTILINE)
    assert [name for name, *_ in done] == ["kills", "disk", "options", "files"], ended.stderr
    assert ended.returncode == 0, ended.stdout
    assert all(int(tries.replace(",", "")) > 0 for _, tries, _ in done)
