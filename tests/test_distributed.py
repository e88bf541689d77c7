"""Several processes that work on one thing: the same results as one, the same end, and nobody waits for the dead.

By gloo, on this machine; one thread each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Patch, Printed, run_ncsn
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
from ncsn.cli.commands import main
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
    import itertools, torch
    train = training.train
    hardware.Group.share = lambda _, n: n // {shares}
    def train_for_all(state, batches, loss, **options):
        def losses_of_all(model, _):
            pairs = []
            for rank in range({shares}):
                state.generator.manual_seed(training.step_seed(state.seed, state.step, rank, {shares}))
                pairs.append(loss(model, next(batches)))
            return tuple(map(torch.cat, zip(*pairs)))
        return train(state, itertools.repeat(None), losses_of_all, **options)
    training.train = train_for_all
for words in sys.argv[1:]:
    main(words.split())
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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("distributed"))


@pytest.mark.slow
def test_two_processes_do_what_one_does(place: Path) -> None:
    """They learn the same from the same random numbers; samples are the same to the byte; a run is not replaced."""
    before = {path.name: path.read_bytes() for path in (place / "one").iterdir() if path.is_file()}
    finished = done(2, place, train(place, "two"), *uses(place, "two"), train(place, "one"))
    assert finished.returncode != 0
    assert finished.stderr.count("holds another run") == 1, finished.stderr
    assert {path.name: path.read_bytes() for path in (place / "one").iterdir() if path.is_file()} == before
    same(place / "one", place / "two")
    one, two = ({path.name for path in (place / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert finished.stdout.count("held-out loss") == 1, "one of them speaks"
    assert finished.stdout.count("bits/dim") == 1
    assert (place / "one.npy").read_bytes() == (place / "two.npy").read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_processes(place: Path) -> None:
    """Of two processes the second is told to stop; both do, after the same step, and one goes on alone, in turns."""
    stop = "if self.step == 5 and rank == '1': os.kill(os.getpid(), signal.SIGTERM)"
    first = done(2, place, train(place, "cut"), more=stop)
    assert "error: terminated at step 6; " in first.stderr
    assert first.returncode != 0
    assert torch.load(place / "cut" / "checkpoint.pt", weights_only=True)["step"] == 6
    second = done(1, place, train(place, "cut") + " --resume", shares=2)
    assert second.returncode == 0, second.stderr
    same(place / "one", place / "cut")


@pytest.mark.slow
def test_torchrun_starts_again_and_the_training_goes_on(place: Path) -> None:
    """From the checkpoint of its last step."""
    die = "record.SAVE_EVERY = 0.0; self.step == 8 and rank == '1' and restarts == '0' and os._exit(9)"
    finished = done(2, place, train(place, "again") + " --resume", more=die, restarts=1)
    assert finished.returncode == 0, finished.stderr
    same(place / "one", place / "again")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "line", "step"),
    [
        ("if self.step == 5 and rank == '1': os._exit(7)", "error: another process has ended or can't be reached", 0),
        (
            "if self.step == 7 and rank == '1': self.model.data_mean.fill_(float('nan'))",
            "error: the loss is not finite at step 7; the last good checkpoint is",
            0,
        ),
    ],
)
def test_what_ends_one_process_ends_all_with_one_line(more: str, line: str, step: int, place: Path) -> None:
    name = f"ended-{len(more)}"
    finished = done(2, place, train(place, name), more=more)
    assert finished.returncode != 0
    assert line in finished.stderr
    assert finished.stderr.count("error: ") <= 2
    assert torch.load(place / name / "checkpoint.pt", weights_only=True)["step"] == step


def test_what_torch_says_of_a_peer_becomes_one_line(tmp_path: Path, monkeypatch: Patch, capsys: Printed) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("Read error: timed out\nat length")

    names = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.modules["torch.distributed.rendezvous"], "TCPStore", unreachable)
    with pytest.raises(SystemExit, match=r"^1$"):
        run_ncsn("train", "mnist", "--out", str(tmp_path / "run"), "--steps", "1", "--device", "cpu")
    line = "error: another process has ended or can't be reached (Read error: timed out)"
    assert capsys.readouterr().err.splitlines() == [line]
