"""Imports that are interrupted, terminals that know no Unicode, and how much memory commands take."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from attacks.forks import Limits, forked
from attacks.ground import Ground, complaint, ncsn, toy, used_by_many
from attacks.jobs import jobs, status_of
from attacks.tally import Attack, Attempt, Failure

STARTED = 3.0  # times what `python -c pass` takes, from when on signals are ours to answer


def interrupted_import(ground: Ground, case: int) -> Attempt:
    """Ctrl-C or SIGTERM while a real process imports."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    start = STARTED * (time.monotonic() - began)
    moment = start + ground.chance("imports", case).random() * 6
    command = [sys.executable, "-m", "ncsn", "info", str(ground.run), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(moment)
    number, what = [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")][case // 3 % 2]
    process.send_signal(number)
    out, error = process.communicate()
    status = process.returncode
    kinds = []
    if "Traceback" in error or (status == 128 + number and error.count("\n") != 1):
        kinds.append(f"{what} during import: a traceback")
    elif status not in (0, 128 + number) and not (status == -number and out):  # all was said, and Python was ending
        kinds.append(f"{what} during import: status {status}")
    said = f"after {moment:.2f} s: status {status}\n{error[-2000:]}\n{out[-200:]}"
    return Attempt(failures=tuple(Failure(kind=kind, command="ncsn info RUN", said=said) for kind in kinds))


def ascii_only(ground: Ground, case: int) -> Attempt:
    """A command whose standard output is ASCII."""
    named = jobs(ground)
    commands = [("info", ncsn(f"info {ground.run} --device cpu")), ("info of points", ncsn(f"info {ground.points}"))]
    commands += [(f"{name} --help", ncsn([name, "--help"])) for name in ("train", "sample", "evaluate", "likelihood")]
    commands += [("toy --help", toy("--help")), *((name, job.call()) for name, job in named.items())]
    name, call = commands[case % len(commands)]
    with ground.place("ascii", case) as place:
        ended = forked(call, place, encoding="ascii")
    wrong = complaint(ended)
    failure = Failure(kind=f"ASCII: {wrong}", command=f"PYTHONIOENCODING=ascii {name}", said=status_of(ended))
    return Attempt(failures=(failure,) if wrong else ())


def terminals(ground: Ground, case: int) -> Attempt:
    """Either, in turn."""
    return interrupted_import(ground, case) if case % 3 == 0 else ascii_only(ground, case - case // 3 - 1)


TERMINALS = Attack(
    promise="Ctrl-C or SIGTERM while the program is still importing is one line; a terminal that knows ASCII only is "
    "enough",
    how="signals to real processes in their first six seconds; every command with an ASCII standard output",
    tries=90,
    share=0.03,
    attempt=terminals,
    prepare=used_by_many,
)

MEASURED = {
    "ncsn info mnist": ncsn("info mnist --device cpu"),
    "ncsn sample mnist -n 64": ncsn("sample mnist -n 64 --device cpu --out x.npz"),
    # Neither is compiled, which takes memory of its own.
    "ncsn sample RUN -n 1000": ncsn("sample RUN -n 1000 --device cpu --out x.npz"),
    "ncsn sample RUN -n 10000": ncsn("sample RUN -n 10000 --device cpu --out x.npz"),
    "ncsn evaluate 10,000 digits": ncsn("evaluate digits.npz --device cpu --out out"),
    "ncsn likelihood mnist -n 4": ncsn("likelihood mnist -n 4 --device cpu"),
    "ncsn inpaint mnist -n 4": ncsn("inpaint mnist -n 4 --device cpu"),
    "ncsn interpolate mnist -n 1": ncsn("interpolate mnist -n 1 --device cpu"),
    "ncsn train mnist --steps 20": ncsn(
        "train mnist --steps 20 --no-compile --samples 4 --guidance 1 --device cpu --out out"
    ),
    "training_toy.py --steps 100": toy("--steps 100 --device cpu --out out"),
}
BOUNDS = {"ncsn evaluate 10,000 digits": 10**9}  # bytes


def peaks(ground: Ground, case: int) -> Attempt:
    """The peak memory of a command, and whether it is within its bound."""
    name = list(MEASURED)[case]
    with ground.place("memory", case) as place:
        (place / "RUN").symlink_to(ground.run)
        if "digits" in name:
            write_digits(place / "digits.npz")
        ended = forked(MEASURED[name], place, limits=Limits(cpu=600, wall=1800))
    kinds = [wrong] if (wrong := complaint(ended)) else []
    if not kinds and ended.peak > BOUNDS.get(name, ended.peak):
        kinds.append(f"{name} takes more than {BOUNDS[name] / 1e9:g} GB")
    (ground.folder / f"peak-{case}").write_text(str(ended.peak))
    before = ground.folder / f"peak-{case - 1}"
    if name.endswith("RUN -n 10000") and before.exists() and ended.peak > 1.1 * int(before.read_text()):
        kinds.append("memory grows with the number of samples")
    said = f"{ended.peak / 1e6:,.0f} MB\n{status_of(ended)}"
    return Attempt(
        failures=tuple(Failure(kind=kind, command=name, said=said) for kind in kinds),
        notes=(f"peak: `{name}` | {ended.peak / 1e6:,.0f} MB",),
    )


def write_digits(path: Path) -> None:
    """Ten thousand digits with a little noise."""
    import numpy as np

    from ncsn import data

    pixels = data.mnist().train[:10_000].numpy().astype(np.int16)
    noise = np.random.default_rng(0).integers(-8, 9, pixels.shape, dtype=np.int16)
    np.savez_compressed(path, samples=(pixels + noise).clip(0, 255).astype(np.uint8))


MEMORY = Attack(
    promise="Memory does not grow with the number of samples, and judging 10,000 images takes less than 1 GB",
    how="the peak of every command, below",
    tries=len(MEASURED),
    share=0.08,
    attempt=peaks,
    prepare=used_by_many,
    most=lambda _: len(MEASURED),
    alone=True,
)
