"""The record of a training: checkpoints and metrics, in a run's folder or only in memory."""

import copy
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from ncsn.data.dataset import Origin
from ncsn.evaluation.output import SUFFIXES, write
from ncsn.machine import storage
from ncsn.machine.hardware import ALONE, Group
from ncsn.machine.messages import Stopped, bar, handle_signals, log
from ncsn.run.folder import CHECKPOINT, claim, read_config, remove_run, write_config, write_model
from ncsn.run.run import Run, config_of
from ncsn.run.steps import Drawn
from ncsn.sampling import NonFiniteSampleError
from ncsn.score import ScoreModel
from ncsn.settings import Job
from ncsn.training import NonFiniteLossError, Progress, State
from ncsn.validation import Json

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, for which losses are reported separately
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]
LEARNING = 0.01  # the smallest relevant change of the held-out loss, relative
SETTLED = 200  # steps, before which a small rise of the held-out loss may be chance
SAVE_EVERY = 30.0  # seconds between two checkpoints


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of metrics.jsonl: the training loss since the previous line, and the held-out loss.

    ``validation_bands``: by noise level.  ``parts``: of parts of the examples, by name; for a table, of the joint
    density and of conditionals.
    """

    step: int
    loss: float
    validation_loss: float
    validation_bands: list[float | None]
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class Ledger:
    """The progress of a training as a part of its checkpoint, so that a kill does not affect it.

    ``rows``: the metrics so far.
    ``sum``, ``count``: of the losses since the last row.
    ``best``: the ``average`` of the weights with the smallest held-out loss.
    """

    def __init__(self, average: ScoreModel) -> None:
        self.rows: list[Row] = []
        self.sum, self.count = torch.zeros(()).double(), 0
        self.best = copy.deepcopy(average)

    def note(self, losses: Tensor) -> None:
        """Add the losses of a batch, without waiting for a GPU."""
        dtype = torch.float32 if losses.device.type == "mps" else torch.float64
        self.sum = self.sum.to(losses.device, dtype) + losses.to(dtype).sum()
        self.count += len(losses)

    def add(self, row: Row, average: ScoreModel) -> None:
        """Add a row, reset the sum, and keep the average if it is the best so far."""
        self.sum, self.count = torch.zeros(()).double(), 0
        self.rows.append(row)
        if row.validation_loss <= min(row.validation_loss for row in self.rows):
            self.best.load_state_dict(average.state_dict())

    def state_dict(self) -> Json:
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "total": [float(self.sum), self.count], "best": self.best.state_dict()}

    def load_state_dict(self, state: Json, /) -> None:
        self.best.load_state_dict(state["best"])
        self.rows = [Row(**row) for row in state["rows"]]
        loss, self.count = state["total"]
        self.sum = torch.tensor(loss, dtype=torch.float64)


def best_row(rows: Sequence[Row], tolerance: float) -> Row:
    """The row of the result: the last one, or the best one if the held-out loss has risen since."""
    best = min(rows, key=lambda row: row.validation_loss)
    return best if rows[-1].validation_loss > best.validation_loss * (1 + tolerance) else rows[-1]


def until_spoiled(
    progress: Iterator[Progress], rows: Sequence[Row], patience: float, group: Group
) -> Iterator[Progress]:
    """Yield a training's progress until it overfits.

    That is when the held-out loss exceeds its minimum by ``patience``, or by a tenth of that in the second half of the
    steps since its minimum, of which there are at least ``SETTLED``.

    The leading process of the ``group`` decides, because losses of others may differ in their last digits.
    """
    looked = 0
    while True:
        if patience < math.inf and len(rows) > looked:
            looked, losses = len(rows), [row.validation_loss for row in rows]
            best, last = losses.index(min(losses)), rows[-1].step
            late = last >= max(SETTLED, 2 * rows[best].step)
            spoiled = losses[-1] > (1 + (patience / 10 if late else patience)) * losses[best]
            if group.broadcast(b"ends" if spoiled else b"goes on") == b"ends":
                above = f"{losses[-1] / losses[best] - 1:.0%} above its minimum at step {rows[best].step:,}"
                log.info(f"training stops early at step {last:,}: the held-out loss is {above}")
                return
        p = next(progress, None)
        if p is None:
            return
        yield p


def verdict(rows: Sequence[Row], kept: Row, examples: int) -> str:
    """Summarise what was ``kept``, and whether more training or more ``examples`` would help."""
    best, last = min(rows, key=lambda row: row.validation_loss), rows[-1].validation_loss
    listed = ", ".join(f"{name} {loss:.4f}" for name, loss in kept.parts.items())
    line = f"held-out loss {kept.validation_loss:.4f}{f' ({listed})' if listed else ''}, at step {kept.step:,}"
    if examples < 1000:
        line = f"with only {examples} examples, samples may be copies of them; {line}"
    if kept.step == 0:
        return f"{line}: the network has not improved on the Gaussian that it starts from"
    if kept is not rows[-1] and last > kept.validation_loss * (1 + LEARNING):
        return f"{line}, then it rose to {last:.4f}: {examples:,} examples are too few for more training"
    before = rows[int(0.75 * (len(rows) - 1))].validation_loss
    falling = before > best.validation_loss * (1 + LEARNING)
    if falling:
        return f"{line}; it is still falling: more training would help"
    return f"{line}, the last one, so more training may help" if kept is best is rows[-1] else line


@dataclass(kw_only=True)
class Record:
    """A training's folder, rows and signals, and the processes that share it.

    ``folder``: the run's folder, which this process claims; None keeps everything in memory.
    ``job``: whether an existing run may be replaced or is resumed.  ``origin``: of the data, for config.json.
    ``group``: the processes; the leading one writes.  ``kept``: the row of the weights that are left at the end.
    """

    folder: Path | None = None
    job: Job = field(default_factory=Job)
    origin: Origin | None = None
    group: Group = ALONE
    rows: list[Row] = field(default_factory=list)
    kept: Row | None = None
    signals: list[int] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    run: Run | None = None
    lock: FileLock | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes into a folder."""
        return self.folder is not None and self.group.is_main

    def path(self, *names: str) -> Path:
        """The path of a file of the run."""
        assert self.folder is not None
        return self.folder.joinpath(*names)

    def describe(self, run: Run, part: str = "") -> None:
        """Write config.json of the run, or of its guide (``part``)."""
        if self.writes:
            write_config(self.path(part), config_of(replace(run, origin=self.origin)))

    def begin(self, run: Run, state: State, part: str = "") -> None:
        """Load the state of a run in the folder, or write a first checkpoint.

        Raises ValueError if the folder holds another run, or if another process is writing it.
        """
        if self.folder is not None:
            self.run, replaces = self.run or run, False
            if self.writes and self.lock is None:
                replaces, resume = self.job.overwrite, self.job.resume
                self.lock = claim(self.folder, overwrite=replaces, resume=resume, keep=True)
            checkpoint = self.path(part, CHECKPOINT)
            if self.writes and (replaces or not checkpoint.exists()):
                checkpoint.parent.mkdir(exist_ok=True)
                with storage.atomic(checkpoint) as temporary:
                    state.save(temporary)
                    if replaces:  # only now, so that a full disk leaves the old run intact
                        remove_run(self.folder)
                    self.describe(run, part)
            self.group.broadcast()  # the others wait for the checkpoint
            begun_by = read_config(self.folder).recipe if not part and self.path("config.json").exists() else run.recipe
            if begun_by.arguments != run.recipe.arguments:
                raise ValueError(f"{self.folder} was started with another network or version of ncsn; start a new run")
            state.load(checkpoint)
            self.describe(run, part)  # a resumed run may have another budget

    def save(self, state: State, part: str = "") -> None:
        """Write a checkpoint and the averaged weights, if there is a folder."""
        if self.writes:
            state.save(self.path(part, CHECKPOINT))
            write_model(self.path(part), state.average, origin=self.origin)

    def write_rows(self) -> None:
        """Rewrite all of metrics.jsonl, which is short."""
        if self.writes:
            with storage.atomic(self.path("metrics.jsonl")) as temporary:
                temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in self.rows))

    def draw_samples(self) -> None:
        """Draw a few samples of the unfinished run in a few steps, if its kind of data has such pictures."""
        if (run := self.run) is None or not self.writes or ".png" not in SUFFIXES[run.examples.noun]:
            return
        with suppress(NonFiniteSampleError):
            write(run, run.sample(20, sampler="dpmpp-sde", levels=8, guidance=1), [], self.path("samples.png"))

    def watch(self, progress: Iterable[Progress], state: State, *, part: str = "") -> Iterator[Progress]:
        """Yield a training's progress with a progress bar, checkpoints, and handling of signals and divergence.

        ``part``: the folder within the run's, for a guide.
        Ctrl-C and SIGTERM end the training after a step, with a checkpoint and a KeyboardInterrupt.
        Raises NonFiniteLossError, which names the last good checkpoint.
        """
        bar_format = (
            f"{part or 'training':8} {{percentage:3.0f}}% |{{bar}}| {{elapsed}} elapsed, {{remaining}} left{{postfix}}"
        )
        checkpoint = self.path(part, CHECKPOINT) if self.folder else None
        saved, stop = time.monotonic(), 0
        shown = bar(total=1.0, bar_format=bar_format, delay=0, leave=True)
        with handle_signals(lambda number, _: self.signals.append(number)), shown:  # no step is interrupted
            try:
                for p in progress:
                    if p.losses.device.type == "cpu" or p.step % 10 == 0:  # reading the loss synchronises a GPU
                        shown.postfix = f"step {p.step}, loss {p.losses.mean():.4f}"
                    shown.update(min(p.fraction, 1.0) - shown.n)
                    yield p
                    stop = p.stop
                    if stop:
                        break
                    if time.monotonic() - saved > SAVE_EVERY:
                        self.save(state, part)
                        saved = time.monotonic()
                self.save(state, part)
            except NonFiniteLossError as error:
                good = f"; the last good checkpoint is {checkpoint}" if checkpoint else ""
                raise NonFiniteLossError(f"{error}{good}; a lower learning rate may help") from error
        if self.signals and self.group.size == 1:
            stop = self.signals[0]  # it may have arrived during the last step
        if stop:
            # No process may leave before the checkpoint exists, because torchrun would then end the others.
            self.group.broadcast()
            raise Stopped(stop, f" at step {state.step}")

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Within it, a signal that ends the training, or what comes before and after it, names the checkpoint."""
        try:
            yield
        except Stopped as error:
            if self.folder is None or not (checkpoint := self.path(CHECKPOINT)).exists():
                raise
            raise Stopped(
                error.number, f"{error}; {checkpoint} is saved, continue with --resume --out {self.folder}"
            ) from error

    def results(self, run: Run, drawn: Drawn) -> None:
        """Write metrics.json: the losses of the result, the images seen, the cost of a sample, and the time."""
        last, batch_size, minutes = self.rows[-1], run.settings["batch_size"], run.settings.get("minutes")
        seconds = time.perf_counter() - self.began
        content = asdict(self.kept or self.rows[-1]) | {
            "training_seconds": last.seconds,
            "images_seen": last.step * self.group.share(batch_size) * self.group.size,
            "guidance": drawn.steps.sampling.guidance,
            "nfe": drawn.steps.nfe,
            "guide_nfe": drawn.steps.guide_nfe,
            "seconds": seconds,
        }
        storage.write_json(self.path("metrics.json"), content)
        log.info(f"{self.folder}: {drawn.cost}; more with `ncsn sample {self.folder}`")
        if minutes is not None and seconds > 63 * minutes:
            log.info(f"this took {seconds:.0f} s, not {60 * minutes:g}: the machine is busy, or the budget very short")
