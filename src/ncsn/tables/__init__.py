"""Tables: rows of numbers, categories and dates, possibly with missing cells; every conditional is learned."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ncsn import settings
from ncsn.data import (
    OTHER_DATA,
    Conditioning,
    Curriculum,
    Dataset,
    Imputation,
    Imputed,
    Kind,
    Reports,
    Unseen,
    UserData,
    choose_patterns,
)
from ncsn.kinds.comparison import held_out_examples
from ncsn.run.run import Run
from ncsn.samplers import Step
from ncsn.score import PreconditioningName, ScoreModel
from ncsn.settings import OF_IMAGES
from ncsn.tables import impute, simulations
from ncsn.tables.columns import columns_of
from ncsn.tables.frames import frame_of, numbers_of, write_frame
from ncsn.tables.judge import TableRuler, show_rows
from ncsn.tables.learning import MaskedCurriculum, log_shares, start
from ncsn.conditionals import ConditionalModel
from ncsn.tables.read import frame_in, table_of_array
from ncsn.validation import as_numbers


class Tables(Kind[Run]):
    """Rows of a table."""

    def start(self, data: Dataset, preconditioning: PreconditioningName) -> dict[str, float | Tensor]:
        """A Gaussian, the shares of codes, and the order of columns, from the training rows."""
        if preconditioning == "conditional":
            return dict(start(columns_of(data.transform, data.shape[0]), data.train, data.validation))
        return super().start(data, preconditioning)

    def columns(self, data: Dataset) -> tuple[str, ...]:
        """Those of the table."""
        return columns_of(data.transform, data.shape[0]).names

    def curriculum(self, data: Dataset, model: ScoreModel, hidden: tuple[str, ...]) -> Curriculum:
        """Random cells of each row are known; a network of the user's own learns the joint density."""
        if not isinstance(model, ConditionalModel):
            return super().curriculum(data, model, hidden)
        return MaskedCurriculum(self.held_out, data, model, hidden)

    def measure(self, run: Run, data: Dataset) -> dict[str, float]:
        """How often the range of draws contains hidden values of test rows."""
        if not isinstance(run.score, ConditionalModel) or not len(data.test):
            return {}
        return impute.cell_coverage(run, data.transform.restore(data.test.double()))

    def numbers(self, run: Run, x: object, unseen: Unseen = "error") -> Float64[Tensor, "b d"]:
        """A DataFrame's columns are matched by their names, an array's by their places."""
        columns = columns_of(run.transform, run.recipe.shape[0])
        if (frame := frame_in(x)) is not None:
            return numbers_of(frame, columns, unseen)
        x = as_numbers("rows", x).detach().cpu().double().numpy() if isinstance(x, Tensor) else x
        x = np.ma.filled(x.astype(float), np.nan) if isinstance(x, np.ma.MaskedArray) else np.asarray(x)
        rows = torch.from_numpy(np.array(table_of_array(x, "rows").rows, np.float64))  # a copy: files are read-only
        if rows.shape[1] != len(columns.names):
            listed = ", ".join(columns.names)
            raise ValueError(f"rows has {rows.shape[1]} columns, but the run has {len(columns.names)}: {listed}")
        return rows

    def examples(self, run: Run, x: Float[Tensor, "b d"]) -> UserData:
        """A DataFrame if the run was trained on one."""
        columns = columns_of(run.transform, x.shape[1])
        complete = x.isnan().any().logical_not()  # otherwise gaps are drawn, too
        impute.announce_guesses(columns, x, complete.expand(x.shape))
        return frame_of(columns, x.double().cpu().numpy()) if columns.fields else x

    def align(self, values: Float[Tensor, "b"], x: object) -> UserData:
        """A Series with the index of a DataFrame."""
        if (frame := frame_in(x)) is None:
            return values
        import pandas

        return pandas.Series(values.cpu().numpy(), frame.index, name="log_prob")

    def ruler(self, run: Run, data: Dataset, features: object, n: int) -> TableRuler:
        """Compare samples with held-out rows, those with missing cells included.

        Raises ValueError if the training rows aren't those of the run, which a transform of categories can't tell.
        """
        shares = log_shares(columns_of(data.transform, data.shape[0]), data.train)
        model = run.model
        if isinstance(model, ConditionalModel) and not torch.allclose(model.log_shares.cpu().double(), shares.cpu()):
            raise ValueError(OTHER_DATA)
        test = held_out_examples(data, n)
        return TableRuler(run, data, test, len(test))

    def show(self, run: Run, data: Dataset, samples: Float[Tensor, "n d"], path: Sequence[Step], folder: Path) -> None:
        """Draw marginals and pairs of columns, of held-out rows and of samples."""
        real = data.transform.restore(data.validation[: len(samples)])
        show_rows(run, real, samples, folder / "samples.png")


def draw_missing(run: Run, rows: object, n: int, generator: torch.Generator, unseen: Unseen) -> Imputed:
    """Draw missing cells given the other cells of their rows."""
    if (frame := frame_in(rows)) is not None:
        x = numbers_of(frame, columns_of(run.transform, run.recipe.shape[0]), unseen)
        return impute.impute_frame(run, frame, x, n, generator, skip=unseen == "skip")
    x = TABLES.numbers(run, rows)
    if unseen == "error":
        run.transform.check(x)
    return impute.impute_rows(run, x, n, generator, skip=unseen == "skip")


def hide_cells(run: Run, what: object, shape: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "n d"]:
    """A share hides random cells, at least one in each row; column names are accepted, too."""
    if isinstance(what, float):
        chance = torch.rand(shape, generator=generator)
        return (chance < what) | (chance == chance.amin(1, keepdim=True))
    names = columns_of(run.transform, shape[1]).names
    if isinstance(what, Sequence) and what and all(isinstance(name, str) for name in what):
        if strangers := [name for name in what if name not in names]:
            raise ValueError(f"hidden names {', '.join(strangers)}; the run's columns are {', '.join(names)}")
        what = [name in what for name in names]
    return choose_patterns(what, shape, generator)


def write_rows(run: Run, rows: UserData, path: Sequence[Step], out: Path) -> None:
    """Write rows with the columns' names, texts and dates."""
    if not hasattr(rows, "columns"):
        rows = frame_of(columns_of(run.transform, rows.shape[1]), np.asarray(rows, np.float64))
    write_frame(rows, out)


TABLES = Tables(
    noun="rows",
    axis="columns",
    network="mlp",
    minutes=1.5,
    headroom=10.0,  # columns may have tails
    log_sigma_mean=(-0.8, -0.8),  # where a network of standardised columns has most to learn
    log_sigma_std=1.6,
    # Rows are cheap, and a small table is soon memorised.  A report costs up to four steps.
    held_out=(4096,),
    reports=Reports(count=100, power=2, spacing=25, from_start=True, tolerance=0.0, patience=0.25),
    precision="fp32",
    posterior_targets=False,
    # Columns are scaled by their own statistics.
    refused=(*OF_IMAGES, "flip", "start", "posterior_above"),
    shown=10,  # a picture shows more points than images
    writers={**dict.fromkeys(settings.TABLES, write_rows), ".npz": None, ".npy": None},
    imputation=Imputation(draw_missing, hide_cells, impute.impute_table),
    conditioning=Conditioning(
        impute.conditional_run,
        impute.insert_given,
        impute.complete_run,
        simulations.log_prior_of,
        simulations.draw_together,
        simulations.warn_if_unlike,
        simulations.describe_sharpness,
    ),
)
