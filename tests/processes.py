"""Programs of several processes, for tests: how they are started, and what they are compared with.

By gloo, on this machine; one thread each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

WITHIN = 120  # seconds for whatever is tried here
TRAIN = (
    "train {data} --steps 50 --channels 8 --blocks 1 --batch-size 24 --levels 3 --samples 2 --guidance 1 --no-compile "
    "--device cpu --posterior-above 0.5 --flip --out {out}"
)
PROGRAM = """
import os, sys
from ncsn.interrupts import quit_on_signals
quit_on_signals()
from ncsn import machine
from ncsn.cli import main as cli
machine.fast_bfloat16 = lambda _: False  # which rounds sums of other sizes otherwise
{more}
cli.main(sys.argv[1:])
"""


def command(processes: int, program: Path, words: str) -> list[str]:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(program)]
    return [sys.executable, *(run if processes > 1 else [str(program)]), *words.split()]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return kept | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def done(processes: int, program: Path, words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(processes, program, words),
        capture_output=True,
        text=True,
        timeout=WITHIN,
        env=environment(),
        check=False,
    )


def prepared(folder: Path) -> Path:
    """A folder with images of two classes, a program, and a training by one process."""
    rng, labels = np.random.default_rng(0), np.arange(900) % 2
    images = (rng.random((900, 8, 8)) * 100 + 100 * labels[:, None, None]).astype(np.uint8)
    np.savez(folder / "data.npz", images=images, labels=labels)
    (folder / "program.py").write_text(PROGRAM.format(more=""))
    finished = done(1, folder / "program.py", TRAIN.format(data=folder / "data.npz", out=folder / "one"))
    assert finished.returncode == 0, finished.stderr
    return folder


def rows(folder: Path) -> np.ndarray:
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([[row["step"], row["loss"], row["validation_loss"]] for row in written])


def same(one: Path, other: Path) -> None:
    np.testing.assert_allclose(rows(one), rows(other), rtol=1e-3)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, weight in ours.items():
        assert torch.allclose(theirs[name], weight, rtol=1e-2, atol=1e-3), name
