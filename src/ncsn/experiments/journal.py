"""How a training on images goes: its losses by noise level, on training and on held-out images, and first samples."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ncsn import machine, plots, storage
from ncsn.data import batches
from ncsn.experiments.best import LEARNING, Best
from ncsn.experiments.study import Study
from ncsn.metrics import binned
from ncsn.noise import Proposal
from ncsn.objectives import training_loss
from ncsn.preconditioning import ScoreModel
from ncsn.training import Progress, State
from ncsn.validation import validated

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, in which losses are reported
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]
BEST = "best.safetensors"
ROWS = 10  # in a training
PREVIEW = 3  # rows after each of which samples are drawn


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of metrics.jsonl: losses, averaged since the last one, and those of held-out images, by noise level."""

    step: int
    seconds: float
    images_per_second: float
    loss: float
    bands: list[float | None]
    validation_loss: float
    validation_bands: list[float | None]


@torch.no_grad()
def validate(
    model: ScoreModel, images: Shaped[Tensor, "n c h w"], noise: Proposal
) -> tuple[Float[Tensor, "512"], Float[Tensor, "512"]]:
    """Denoising losses on 512 draws of ``images``, always with the same noise, and their noise levels."""
    fixed = torch.Generator(images.device).manual_seed(0)
    held_out = batches(images, 256, generator=fixed)
    loss = training_loss(noise, generator=fixed)
    with machine.nothing_compiled():
        losses, sigmas = zip(*[loss(model, next(held_out)) for _ in range(2)], strict=True)
    return torch.cat(losses).cpu(), torch.cat(sigmas).cpu()


def by_noise_level(
    progress: Iterable[Progress], validation: Callable[[], tuple[Tensor, Tensor]], *, times: int = ROWS
) -> Iterator[Row]:
    """Train on, and ``times`` in a training yield a row of losses by noise level, averaged since the last one.

    ``validation``: the losses on held-out images and their noise levels.
    """
    losses, sigmas = [], []
    done: int | None = None
    for p in progress:
        if done is None:  # a run that goes on has some of its budget behind it
            done = int(times * p.fraction * (p.step - 1) / p.step + 1e-9)
        losses.append(p.losses)
        sigmas.append(p.sigmas)
        if p.fraction < min(1.0, (done + 1) / times):
            continue
        held_out, levels = validation()
        recent, at = torch.cat(losses).cpu(), torch.cat(sigmas).cpu()
        losses, sigmas = [], []
        done += 1
        yield Row(
            step=p.step,
            seconds=p.seconds,
            images_per_second=p.examples_per_second,
            loss=recent.mean().item(),
            bands=binned(recent, at, BANDS),
            validation_loss=held_out.mean().item(),
            validation_bands=binned(held_out, levels, BANDS),
        )


def keep(study: Study, state: State, guide: State | None, progress: Iterable[Progress]) -> list[Row]:
    """Train to the end, keep metrics.jsonl, TensorBoard's log and previews of samples on the way; returns all rows.

    In the end ``state.average`` is the average that was best on held-out images, and so is the model in the folder.
    """
    pictures = study.pictures.validation.to(study.device)
    path = study.folder / "metrics.jsonl"
    rows = storage.trim_rows(path, state.step, lambda row: validated(Row, row, str(path)))
    best = Best(state.average)
    if rows and (study.folder / BEST).is_file():
        weights = storage.read_best(study.folder / BEST, state.average.state_dict())
        best.recall(weights, [r.validation_loss for r in rows], [r.step for r in rows])
    board = tensorboard(study) if study.settings.job.tensorboard else None
    for row in by_noise_level(progress, lambda: validate(state.average, pictures, study.noise)):
        rows.append(row)
        if best.consider(state, row.validation_loss):
            storage.write_model(study.folder, best.model, name=BEST)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        if board is not None:
            board.add_scalars("loss", {"training": row.loss, "validation": row.validation_loss}, row.step)
        if len(rows) % PREVIEW == 0:
            with machine.nothing_compiled():
                x = study.run(state, guide).sample(20, seed=study.settings.seed)
            plots.image_grid(x.cpu(), study.folder / f"samples_{row.step:06}.png")
    if best.losses:
        print(best.verdict(len(study.pictures.train)))
    if best.rose:
        state.average.load_state_dict(best.model.state_dict())
        storage.write_model(study.folder, state.average)
    return rows


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
