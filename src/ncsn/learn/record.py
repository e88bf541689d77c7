"""The record of a training: checkpoints and metrics, in a run's folder or only in memory."""

import json
import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from ncsn.data.dataset import Origin
from ncsn.evaluation.output import SUFFIXES, write
from ncsn.learn.history import Row
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

SAVE_EVERY = 30.0  # seconds between two checkpoints


@dataclass(kw_only=True)
class Record:
    """A training's folder, metrics and signals, and the processes that share it.

    ``folder``: the run's folder, which this process claims; None keeps everything in memory.
    ``job``: whether an existing run may be replaced or is resumed.
    ``origin``: of the data, for config.json.
    ``group``: the processes; the leading one writes.
    ``rows``: the metrics so far.
    ``kept``: the row of the weights that are kept at the end.
    ``signals``: those that this process has received during its steps.
    ``began``: when the training began, by time.perf_counter.
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

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return self.folder is not None and self.job.resume and (self.folder / CHECKPOINT).exists()

    def path(self, *names: str) -> Path:
        """The path of a file of the run."""
        assert self.folder is not None
        return self.folder.joinpath(*names)

    def describe(self, run: Run, subfolder: str = "") -> None:
        """Write config.json of the run, or of its guide, which has a ``subfolder``."""
        if self.writes:
            write_config(self.path(subfolder), config_of(replace(run, origin=self.origin)))

    def begin(self, run: Run, state: State, subfolder: str = "") -> None:
        """Load the state of a run in the folder, or write a first checkpoint.

        Raises ValueError if the folder holds another run, or if another process is writing it.
        """
        if self.folder is None:
            return
        self.run, replaces = self.run or run, False
        if self.writes and self.lock is None:
            replaces = self.job.overwrite
            self.lock = claim(self.folder, overwrite=replaces, resume=self.job.resume, keep=True)
        checkpoint = self.path(subfolder, CHECKPOINT)
        if self.writes and (replaces or not checkpoint.exists()):
            checkpoint.parent.mkdir(exist_ok=True)
            with storage.atomic(checkpoint) as temporary:
                state.save(temporary)
                if replaces:  # only now, so that a full disk leaves the old run intact
                    remove_run(self.folder)
                self.describe(run, subfolder)
        self.group.broadcast()  # the others wait for the checkpoint
        arguments = run.recipe.arguments
        if not subfolder and self.path("config.json").exists():
            arguments = read_config(self.folder).recipe.arguments
        if arguments != run.recipe.arguments:
            raise ValueError(f"{self.folder} was started with another network or version of ncsn; start a new run")
        state.load(checkpoint)
        self.describe(run, subfolder)  # a resumed run may have another budget

    def save(self, state: State, subfolder: str = "") -> None:
        """Write a checkpoint and the averaged weights, if there is a folder."""
        if self.writes:
            state.save(self.path(subfolder, CHECKPOINT))
            self.write_weights(state.average, subfolder)

    def write_weights(self, average: ScoreModel, subfolder: str = "") -> None:
        """Write the averaged weights, if there is a folder."""
        if self.writes:
            write_model(self.path(subfolder), average, origin=self.origin)

    def report(self) -> None:
        """Write the metrics so far, all of them, because they are short; and draw samples, if images are learned."""
        if self.writes:
            with storage.atomic(self.path("metrics.jsonl")) as temporary:
                temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in self.rows))
            self.draw_samples()

    def draw_samples(self) -> None:
        """Draw a few samples of the unfinished run in a few steps, if its kind of data has such pictures."""
        run = self.run
        if run is not None and ".png" in SUFFIXES[run.examples.noun]:
            with suppress(NonFiniteSampleError):
                samples = run.sample(20, sampler="dpmpp-sde", levels=8, guidance=1)
                write(run, samples, [], self.path("samples.png"))

    def watch(self, progress: Iterable[Progress], state: State, *, subfolder: str = "") -> Iterator[Progress]:
        """Yield a training's progress with a progress bar, checkpoints, and handling of signals and divergence.

        ``subfolder``: the folder within the run's, for a guide.
        Ctrl-C and SIGTERM end the training after a step, with a checkpoint and a KeyboardInterrupt.
        Raises NonFiniteLossError, which names the last good checkpoint.
        """
        name = subfolder or "training"
        bar_format = f"{name:8} {{percentage:3.0f}}% |{{bar}}| {{elapsed}} elapsed, {{remaining}} left{{postfix}}"
        checkpoint = self.path(subfolder, CHECKPOINT) if self.folder else None
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
                        self.save(state, subfolder)
                        saved = time.monotonic()
                self.save(state, subfolder)
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
            advice = f"{checkpoint} is saved, continue with --resume --out {shlex.quote(str(self.folder))}"
            raise Stopped(error.number, f"{error}; {advice}") from error

    def write_results(self, run: Run, drawn: Drawn) -> None:
        """Write metrics.json: the losses of the result, the images seen, the cost of a sample, and the time."""
        last = self.rows[-1]
        share = self.group.share(run.settings["batch_size"])
        seconds = time.perf_counter() - self.began
        content = asdict(self.kept or last) | {
            "training_seconds": last.seconds,
            "images_seen": last.step * share * self.group.size,
            "guidance": drawn.steps.sampling.guidance,
            "nfe": drawn.steps.nfe,
            "guide_nfe": drawn.steps.guide_nfe,
            "seconds": seconds,
        }
        storage.write_json(self.path("metrics.json"), content)
        more = f"ncsn sample {shlex.quote(str(self.folder))}"
        if run.examples.noun == "rows":  # which can't be written to the default, a picture
            more += " --out new.csv"
        log.info(f"{self.folder}: {drawn.cost}; more with `{more}`")
        minutes = run.settings.get("minutes")
        if minutes is not None and seconds > 63 * minutes:
            log.info(f"this took {seconds:.0f} s, not {60 * minutes:g}: the machine is busy, or the budget very short")
