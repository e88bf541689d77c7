"""How a training on images goes: its losses by noise level, on training and on held-out images, and first samples."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn import machine, plots, storage
from ncsn.data import batches
from ncsn.evaluation.metrics import binned
from ncsn.files import append
from ncsn.learn.best import LEARNING, Best
from ncsn.learn.study import Study
from ncsn.model import ScoreModel
from ncsn.noise import Proposal
from ncsn.objectives import Batch, training_loss
from ncsn.storage import check_tensors
from ncsn.training import Progress, State
from ncsn.validation import validated

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, in which losses are reported
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]
BEST = "best."  # how the names of the best average's weights begin in a checkpoint
ROWS = 10  # in a training
PREVIEW = 3  # rows after each of which samples are drawn


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of metrics.jsonl: losses, averaged since the last one, and those of held-out images, by noise level."""

    step: int
    loss: float
    bands: list[float | None]
    validation_loss: float
    validation_bands: list[float | None]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """A line of pace.jsonl: how fast it went; apart, because nothing else differs between two trainings alike."""

    step: int
    seconds: float
    images_per_second: float


class Journal(NamedTuple):
    """What was written down, one of each at a time."""

    rows: list[Row]
    paces: list[Pace]


class Tally:
    """Losses by noise level since the last row: sums in the checkpoint, so that a row is whole after an interruption.

    ``kept``: what a ``State`` saves.  Raises ValueError if it holds something else by these names.
    """

    def __init__(self, kept: dict[str, Tensor]) -> None:
        names = ("losses", "counts")
        self.losses, self.counts = (kept.setdefault(name, torch.zeros(len(BAND_NAMES)).double()) for name in names)
        check_tensors(
            {name: kept[name] for name in names}, {name: torch.zeros(len(BAND_NAMES)).double() for name in names}
        )

    def add(self, losses: Float[Tensor, "b"], sigmas: Float[Tensor, "b"]) -> None:
        """Count one step's losses."""
        band = torch.bucketize(sigmas.cpu(), torch.tensor(BANDS), right=True) - 1
        self.losses.index_add_(0, band, losses.cpu().double())
        self.counts.index_add_(0, band, torch.ones(len(band)).double())

    def close(self) -> tuple[float, list[float | None]]:
        """The mean loss, and those by noise level, None where there were none; and begin anew."""
        mean = (self.losses.sum() / self.counts.sum()).item()
        bands = [(loss / n).item() if n else None for loss, n in zip(self.losses, self.counts, strict=True)]
        self.losses.zero_()
        self.counts.zero_()
        return mean, bands


@torch.no_grad()
def validate(model: ScoreModel, pictures: Batch, noise: Proposal) -> tuple[Float[Tensor, "512"], Float[Tensor, "512"]]:
    """Denoising losses on 512 draws of ``pictures``, always with the same noise, and their noise levels."""
    fixed = torch.Generator(pictures.x.device).manual_seed(0)
    held_out = batches(pictures.x, 256, pictures.label, generator=fixed)
    loss = training_loss(noise, drop_label=0.0, generator=fixed)
    with machine.nothing_compiled():
        losses, sigmas = zip(*[loss(model, next(held_out)) for _ in range(2)], strict=True)
    return torch.cat(losses).cpu(), torch.cat(sigmas).cpu()


def by_noise_level(
    progress: Iterable[Progress],
    tally: Tally,
    validation: Callable[[], tuple[Tensor, Tensor]],
    *,
    times: int = ROWS,
) -> Iterator[tuple[Row, Pace]]:
    """Train on, and ``times`` in a training yield a row of losses by noise level, averaged since the last one.

    ``validation``: the losses on held-out images and their noise levels.
    """
    done: int | None = None
    for p in progress:
        if done is None:  # a run that goes on has some of its budget behind it
            done = int(times * min(1.0, p.fraction) * (p.step - 1) / p.step + 1e-9)
        tally.add(p.losses, p.sigmas)
        if p.fraction < min(1.0, (done + 1) / times):
            continue
        held_out, levels = validation()
        loss, bands = tally.close()
        done += 1
        row = Row(
            step=p.step,
            loss=loss,
            bands=bands,
            validation_loss=held_out.mean().item(),
            validation_bands=binned(held_out, levels, BANDS),
        )
        yield row, Pace(step=p.step, seconds=p.seconds, images_per_second=p.examples_per_second)


def keep(study: Study, state: State, guide: State | None, progress: Iterable[Progress]) -> Journal:
    """Train to the end, and write down how it goes: losses, pace, TensorBoard's log, previews of samples.

    In the end ``state.average`` is the average that was best on held-out images, and so is the model in the folder.
    What a row needs of the steps before it, and the best average, are kept in the checkpoint.
    """
    paths = study.folder / "metrics.jsonl", study.folder / "pace.jsonl"
    rows, paces = [], []
    if study.group.leads:
        rows = storage.trim_rows(paths[0], state.step, lambda row: validated(Row, untimed(row), str(paths[0])))
        paces = storage.trim_rows(paths[1], state.step, lambda row: validated(Pace, row, str(paths[1])))
    best = recalled(state, rows)
    board = tensorboard(study) if study.settings.job.tensorboard and study.group.leads else None

    def held_out() -> tuple[Tensor, Tensor]:
        study.clock.lap("logging")
        losses = validate(state.average, study.validation, study.noise)
        study.clock.lap("validation")
        return losses

    found = by_noise_level(progress, Tally(state.kept), held_out)
    for row, pace in found:
        rows.append(row)
        paces.append(pace)
        best.consider(state, row.validation_loss)
        if not study.group.leads:
            continue
        for path, line in zip(paths, (asdict(row), asdict(pace)), strict=True):
            append(path, json.dumps(line))
        if board is not None:
            board.add_scalars("loss", {"training": row.loss, "validation": row.validation_loss}, row.step)
        if len(rows) % PREVIEW == 0:
            study.clock.lap("logging")
            with machine.nothing_compiled():
                x = study.run(state, guide).sample(20, seed=study.settings.seed)
            plots.image_grid(x.cpu(), study.folder / f"samples_{row.step:06}.png")
            study.clock.lap("previews")
    if not study.group.leads:
        return Journal(rows, paces)
    if best.losses:
        print(best.verdict(study.pictures.n))
    if best.rose:
        state.average.load_state_dict(best.model.state_dict())
        storage.write_model(study.folder, state.average)
    return Journal(rows, paces)


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what stands in pace.jsonl, and once stood there too."""
    return {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")}


def recalled(state: State, rows: Sequence[Row]) -> Best:
    """The best average so far, of this session or an earlier one, whose weights ``state.kept`` holds from now on."""
    best = Best(state.average)
    weights = {name.removeprefix(BEST): tensor for name, tensor in state.kept.items() if name.startswith(BEST)}
    if weights and rows:
        check_tensors(weights, best.model.state_dict())
        best.recall(weights, [row.validation_loss for row in rows], [row.step for row in rows])
    state.kept |= {BEST + name: tensor for name, tensor in best.model.state_dict().items()}
    return best


def kept(rows: Sequence[Row]) -> Row:
    """The row of the average that is left: the last, or the best if the held-out loss has risen since."""
    best = min(rows, key=lambda row: row.validation_loss)
    return best if rows[-1].validation_loss > best.validation_loss * (1 + LEARNING) else rows[-1]


def tensorboard(study: Study) -> Any:
    """A TensorBoard writer into the run's folder.  Raises ValueError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(f"--tensorboard needs TensorBoard ({error}); `pip install tensorboard`") from error
    return SummaryWriter(study.folder)
