"""What of a training is kept: checkpoints, and how it goes; in a run's folder, or, without one, in memory alone."""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ncsn import storage
from ncsn.data import Images as Pictures
from ncsn.data import Origin, load_images
from ncsn.data.named import NAMED
from ncsn.data.reading import short_name
from ncsn.learn import rules
from ncsn.learn.settings import Images, Job, ResolvedImages, Toy, given_ones, recalled
from ncsn.machine import distributed, hardware
from ncsn.machine.distributed import ALONE, Group
from ncsn.machine.interrupts import Stopped, deferred
from ncsn.run import Drawn, Recipe, plain, read_config, write_config, write_model
from ncsn.training import NonFiniteLossError, Progress, Row, State
from ncsn.validation import validated

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, in which losses are reported
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]
LEARNING = 0.01  # relative change of the held-out loss that counts
FEW_STEPS = 500  # for which the learning rate's rise and fall are too short, and held-out losses say little
SAVE_EVERY = 30.0  # seconds between two checkpoints


def left(rows: Sequence[Row], slack: float) -> Row:
    """The row of the average that is left: the last one, or the best if the held-out loss has risen since."""
    best = min(rows, key=lambda row: row.validation_loss)
    return best if rows[-1].validation_loss > best.validation_loss * (1 + slack) else rows[-1]


def verdict(rows: Sequence[Row], examples: int) -> str:
    """What was best, and whether more training, or more of the ``examples``, would help."""
    best, last = min(rows, key=lambda row: row.validation_loss), rows[-1]
    said = f"held-out loss {best.validation_loss:.4f}, at step {best.step:,}"
    if last.validation_loss > best.validation_loss * (1 + LEARNING):
        risen = f"{said}, then it rose to {last.validation_loss:.4f}"
        return f"{risen}: {examples:,} examples are too few for more training"
    before = rows[int(0.75 * (len(rows) - 1))].validation_loss
    if before > best.validation_loss * (1 + LEARNING):
        return f"{said}; it is still falling: more training would help"
    return said if last.step < FEW_STEPS else f"{said}; it falls no more"


class Tally:
    """Losses by noise level since the last row: sums that a checkpoint keeps, so that a kill cuts no row short.

    ``kept``: that of a ``State``.
    """

    def __init__(self, kept: dict[str, Tensor]) -> None:
        self.losses = kept.setdefault("losses", torch.zeros(len(BAND_NAMES)).double())
        self.counts = kept.setdefault("counts", torch.zeros(len(BAND_NAMES)).double())

    def add(self, losses: Float[Tensor, "b"], sigmas: Float[Tensor, "b"]) -> None:
        """Count one step's losses."""
        band = torch.bucketize(sigmas.cpu(), torch.tensor(BANDS), right=True) - 1
        self.losses.index_add_(0, band, losses.cpu().double())
        self.counts.index_add_(0, band, torch.ones(len(band)).double())

    def close(self) -> tuple[float, list[float | None]]:
        """The mean loss, and those by noise level, None where there were none; the next row begins."""
        mean = (self.losses.sum() / self.counts.sum()).item()
        bands = [(loss / n).item() if n else None for loss, n in zip(self.losses, self.counts, strict=True)]
        self.losses.zero_()
        self.counts.zero_()
        return mean, bands


class Record:
    """A training's folder, or none; its rows, its signals, and the processes that share it.

    ``folder``: a run's, which ``claim`` makes this process' own; None keeps everything in memory.
    ``settings``, ``origin``: what config.json says of them.  ``group``: the processes; the leading one writes.
    """

    def __init__(
        self,
        folder: Path | None = None,
        settings: Images | Toy | None = None,
        origin: Origin | None = None,
        group: Group = ALONE,
    ) -> None:
        self.folder, self.settings, self.origin, self.group = folder, settings, origin, group
        self.began = time.perf_counter()
        self.rows: list[Row] = []
        self.signals: list[int] = []
        self.state: State | None = None
        self.lock: FileLock | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes into a folder."""
        return self.folder is not None and self.group.leads

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began

    def path(self, *names: str) -> Path:
        """Where a file of the run goes."""
        assert self.folder is not None
        return self.folder.joinpath(*names)

    def claim(self, job: Job, pictures: tuple[str, ...]) -> None:
        """Make the folder this process' own, and create it.

        ``pictures``: what is written there beside the run.
        Raises ValueError if another run is there, or another process writes there.
        """
        if not self.writes:
            return
        if job.resume and not storage.begun(self.path()):
            print(f"{self.folder} holds no run to resume: it begins")
        self.lock = storage.claim(self.path(), overwrite=job.overwrite, resume=job.resume, pictures=pictures)

    def describe(self, recipe: Recipe, part: str = "") -> None:
        """Write config.json of the run, or of a ``part`` of it: its guide."""
        if self.writes:
            assert self.settings is not None
            experiment = "images" if isinstance(self.settings, Images) else "toy"
            settings = plain(asdict(self.settings))
            write_config(self.path(part), experiment, settings, recipe, self.origin)

    def begin(self, state: State, recipe: Recipe, part: str = "") -> None:
        """Bring the state to where the run in the folder left it; from the first step on there is a checkpoint."""
        if self.folder is None:
            return
        checkpoint = self.path(part, storage.CHECKPOINT)
        if not self.group.leads:
            with tempfile.TemporaryDirectory() as place:  # the folder may be on another machine
                copy = Path(place) / checkpoint.name
                copy.write_bytes(self.group.share())
                state.load(copy)
            return
        checkpoint.parent.mkdir(exist_ok=True)
        if checkpoint.exists():
            state.load(checkpoint)  # before it is described: it may be another network's
        self.describe(recipe, part)
        if not checkpoint.exists():
            state.save(checkpoint)
        if self.group.size > 1:
            self.group.share(checkpoint.read_bytes())
        rows = self.path("metrics.jsonl")
        if not part and rows.exists():
            lines = [validated(Row, json.loads(line), str(rows)) for line in rows.read_bytes().splitlines()]
            self.rows = [row for row in lines if row.step <= state.step]

    def save(self, state: State, part: str = "") -> None:
        """Write a checkpoint and the averaged weights, if there is a folder."""
        if self.writes:
            state.save(self.path(part, storage.CHECKPOINT))
            write_model(self.path(part), state.average)

    def write(self, row: Row) -> None:
        """Keep a row, and write it down."""
        self.rows.append(row)
        if self.writes:
            with storage.atomic(self.path("metrics.jsonl")) as temporary:
                temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in self.rows))

    def watch(
        self, progress: Iterable[Progress], state: State, *, part: str = "", what: str = "training"
    ) -> Iterator[Progress]:
        """Pass a training's progress on, and look after it: a bar, checkpoints, signals and divergence.

        ``part``: the folder within the run's, for a guide.
        Ctrl-C and SIGTERM end the training after a step: with a checkpoint, by a KeyboardInterrupt that says so.
        Raises NonFiniteLossError, which names the checkpoint that is left.
        """
        bar_format = what + " {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left{postfix}"
        saved, smooth, stop = time.monotonic(), 0.0, 0
        checkpoint = self.path(part, storage.CHECKPOINT) if self.folder else None
        brief: dict[str, Any] = {} if self.folder else {"delay": 1, "leave": False}
        self.state = state
        with (
            deferred(self.signals) if self.folder else nullcontext(),
            tqdm(total=1.0, bar_format=bar_format, mininterval=hardware.refresh_interval(), **brief) as bar,
        ):
            try:
                for p in progress:
                    loss = p.losses.mean().item()
                    smooth = 0.95 * smooth + 0.05 * loss if smooth else loss
                    bar.postfix = f"step {p.step}, loss {smooth:.4f}, {p.examples_per_second:.0f}/s"
                    bar.update(min(p.fraction, 1.0) - bar.n)
                    yield p
                    stop = p.stop
                    if stop:
                        break
                    if time.monotonic() - saved > SAVE_EVERY:
                        self.save(state, part)
                        saved = time.monotonic()
                else:
                    stop = self.signals[0] if self.signals and self.group.size == 1 else 0  # during the last step
                self.save(state, part)
            except NonFiniteLossError as error:
                left = f"; the last good checkpoint is {checkpoint}" if checkpoint else ""
                raise NonFiniteLossError(f"{error}{left}; a lower learning rate may help") from error
        if stop:
            self.group.share()  # nobody leaves before the checkpoint is there: torchrun would end the others
            raise Stopped(stop, f" at step {state.step}; {checkpoint} is saved, and --resume goes on from it")

    def results(self, drawn: Drawn, annealed: Drawn) -> None:
        """Write metrics.json: losses of the average that is left, what training saw, what samples cost, the clock."""
        assert isinstance(self.settings, ResolvedImages)
        assert self.state is not None
        known: dict[str, Any] = asdict(left(self.rows, LEARNING)) if self.rows else {}
        known |= {
            "training_seconds": self.state.seconds,
            "images_seen": self.state.step * self.settings.batch_size,
            "guidance": drawn.sampling.guidance,
            "samples": len(drawn.samples),
            "sampling_seconds": drawn.seconds,
            "nfe": drawn.nfe,
            "guide_nfe": drawn.guide_nfe,
            "annealed_seconds": annealed.seconds,
            "annealed_nfe": annealed.nfe,
            "seconds": self.passed,
        }
        storage.write_json(self.path("metrics.json"), known)
        print(f"{self.path('samples.png')}: {drawn.cost}")
        print(f"{self.path('samples_annealed.png')}: {annealed.cost}")
        print(f"{self.folder}: also evolution, losses and metrics; more with `ncsn sample {self.folder}`")

    def close(self) -> None:
        """End together with the other processes: the leading one has work when they have none."""
        self.group.share()


def opened(given: Images) -> tuple[Pictures, ResolvedImages, Record]:
    """The images to train on, the settings that follow from them, and a record of the training in the run's folder.

    With ``--resume`` the settings are the run's own.  Of several processes the leading one reads first, and the others
    do what it says.  Where torchrun has started them again, after a failure, they go on from the last checkpoint.
    Raises ValueError if images cannot be read, do not suit the settings, or are others than the run's or the leading
    process'; and if the folder holds another run.
    """
    group = distributed.join()
    folder = given.job.out or Path("runs") / short_name(given.dataset)
    job = replace(given.job, out=folder)
    if group.leads:
        storage.check(folder, overwrite=job.overwrite, resume=job.resume)
        pictures, settings, origin = led(replace(given, job=job), folder)
        settings = rules.resolve(settings, pictures, hardware.choose_device(job.device))
        words = {"settings": plain(asdict(settings)), "origin": asdict(origin)}
        group.share(json.dumps(words).encode())
        return pictures, settings, Record(folder, settings, origin, group)
    words, where = json.loads(group.share()), "what the leading process says"
    origin = validated(Origin, words["origin"], where)
    settings = replace(validated(ResolvedImages, words["settings"], where), job=job)
    # By the name that is given, or where the run has found its images; either way they must be the same.
    pictures = origin.load(None if job.resume or given.dataset in NAMED else given.dataset)
    return pictures, settings, Record(folder, settings, origin, group)


def led(given: Images, folder: Path) -> tuple[Pictures, Images, Origin]:
    """The images, the settings and where the images are; of a run that is resumed they are its own."""
    if not (given.job.resume and storage.begun(folder)):
        pictures = load_images(given.dataset, given.job.data_dir, reading=given.reading)
        return pictures, given, Origin.of(given.dataset, given.job.data_dir, given.reading, pictures)
    free = ("minutes", "steps", "compile", "accumulate")
    settings = recalled(given, ResolvedImages, folder, read_config(folder).settings, free=free)
    origin = read_config(folder).data
    if origin is None:
        raise ValueError(f"{folder / 'config.json'} does not say which images the run has learned from")
    # The default says nothing of where a run's images are.
    if given.dataset == settings.dataset or not given_ones(given, ["dataset"]):
        return origin.load(), settings, origin
    return origin.load(given.dataset), settings, origin.moved(given.dataset)


def opened_toy(given: Toy) -> tuple[Toy, Record]:
    """The settings of a toy and a record in the run's folder; with ``--resume`` they are the run's own.

    Raises ValueError if what is there is no run of a toy.
    """
    folder = given.job.out or Path("runs") / f"toy-{given.generator}"
    if given.job.resume and storage.begun(folder):
        given = recalled(given, Toy, folder, read_config(folder).settings)
    return given, Record(folder, given)
