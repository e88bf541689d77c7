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

TRAIN = (
    "train {data} --steps 12 --channels 8 --blocks 1 --batch-size 24 --levels 3 --samples 2 --guidance 1 --no-compile "
    "--device cpu --posterior-above 0.5 --flip --out {out}"
)
PROGRAM = """
import functools, os, signal, sys
from ncsn.machine.messages import quit_on_signals
quit_on_signals()
from ncsn import training
from ncsn.machine import hardware
from ncsn.cli import console
from ncsn.learn import record
hardware.fast_bfloat16 = lambda _: False  # which rounds sums of other sizes otherwise
hardware.join = functools.cache(hardware.join)  # once for all commands
rank, restarts = (os.environ.get(name, "0") for name in ("RANK", "TORCHELASTIC_RESTART_COUNT"))
update = training.State.update
def counted(self, rate):
    update(self, rate)
    {more}
training.State.update = counted
if {shares} > 1:  # one process learns from what several would, one after the other
    from types import SimpleNamespace as Part
    add = training.add_gradients
    hardware.Group.share = lambda _, n: n // {shares}
    training.add_gradients = lambda *args: sum(add(*args[:3], Part(rank=i, size={shares})) for i in range({shares}))
for words in sys.argv[1:]:
    console.main(words.split())
"""


def done(
    processes: int, place: Path, *commands: str, more: str = "", shares: int = 1, restarts: int = 0
) -> "subprocess.CompletedProcess[str]":
    """One program, of so many processes, that does one command after the other.

    ``more``: what follows every step.  ``shares``: how many processes a single one stands for in training.
    """
    program = place / f"program-{len(more)}-{shares}.py"
    program.write_text(PROGRAM.format(more=more, shares=shares))
    torchrun = f"-m torch.distributed.run --max-restarts={restarts} --standalone --nproc-per-node {processes}".split()
    line = [sys.executable, *(torchrun if processes > 1 else []), str(program), *commands]
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    own = kept | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(line, capture_output=True, text=True, timeout=600, env=own, check=False)


def prepared(folder: Path) -> Path:
    """A folder with images of two classes, and what one process makes of them with the random numbers of two."""
    rng, labels = np.random.default_rng(0), np.arange(900) % 2
    images = (rng.random((900, 8, 8)) * 100 + 100 * labels[:, None, None]).astype(np.uint8)
    np.savez(folder / "data.npz", images=images, labels=labels)
    finished = done(1, folder, train(folder, "one"), *uses(folder, "one"), shares=2)
    assert finished.returncode == 0, finished.stderr
    return folder


def train(place: Path, name: str) -> str:
    """A training."""
    return TRAIN.format(data=place / "data.npz", out=place / name)


def uses(place: Path, name: str) -> tuple[str, str]:
    """Samples and likelihoods of the one process' run."""
    samples = f"sample {place / 'one'} -n 1200 --levels 3 --device cpu --out {place / name}.npy"
    return samples, f"likelihood {place / 'one'} -n 40 --probes 2 --tolerance 0.1 --device cpu"


def same(one: Path, other: Path) -> None:
    """Whether two trainings have learned the same."""
    rows = [[json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, other)]
    for name in ("step", "loss", "validation_loss"):
        ours, theirs = ([row[name] for row in each] for each in rows)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    before, after = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, weight in before.items():
        assert torch.allclose(after[name], weight, rtol=1e-2, atol=1e-3), name
