"""Tables: rows of numbers, categories and dates, possibly with missing cells; every conditional is learned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from ncsn.batching import Batch, batches
from ncsn.kinds import reading
from ncsn.kinds.comparison import held_out_examples
from ncsn.kinds.kind import (
    Dataset,
    Draw,
    Drawing,
    Imputed,
    Kind,
    Reports,
    Unseen,
    UserData,
    Values,
    Writer,
    choose_patterns,
)
from ncsn.kinds.reading import OF_IMAGES, Reading
from ncsn.kinds.tables.choosing import accept, conditional_run, given_rows
from ncsn.kinds.tables.columns import Columns, columns_of
from ncsn.kinds.tables.conditional import Condition, ConditionalModel, Mixture
from ncsn.kinds.tables.frames import frame_in, frame_of, numbers_of
from ncsn.kinds.tables.imputation import cell_coverage, impute_frame, impute_rows, impute_table
from ncsn.kinds.tables.judge import TableRuler, show_rows
from ncsn.kinds.tables.missing import affordable_rows, draw_masks, fill_or_unmark, fit_mixture, mask_batches
from ncsn.kinds.tables.read import write_frame
from ncsn.kinds.tables.table import table_of_array
from ncsn.kinds.transform import Transform
from ncsn.run import Run
from ncsn.samplers import Step
from ncsn.score import PreconditioningName, ScoreModel
from ncsn.validation import as_numbers, one_line


class Tables(Kind[Run]):
    """Rows of a table."""

    def start(self, data: Dataset, preconditioning: PreconditioningName) -> dict[str, float | Tensor]:
        """A mixture of Gaussians, fitted to the training rows."""
        if preconditioning != "conditional":
            if bool(data.train.isnan().any()):
                raise ValueError("the rows have missing values, but your own network needs complete rows")
            return super().start(data, preconditioning)
        return dict(fit_mixture(data.train, data.validation)._asdict())

    def model(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        preconditioning: PreconditioningName,
        start: Mapping[str, float | Tensor],
        autocast: torch.dtype | None,
    ) -> ScoreModel:
        """A model of every conditional, around the mixture; a network of the user's own learns the joint density."""
        if preconditioning != "conditional":
            return super().model(network, shape, preconditioning, start, autocast)
        standard = Mixture(torch.zeros(1, *shape), torch.ones(1), torch.eye(*shape))
        mixture = Mixture(*(torch.as_tensor(start[name]) for name in Mixture._fields)) if start else standard
        return ConditionalModel(network, mixture, autocast=autocast)

    def batches(self, data: Dataset, model: ScoreModel, reading: Reading, drawing: Drawing) -> Iterator[Batch]:
        """Endless random batches, in which random cells are observed."""
        drawn = super().batches(data, model, reading, drawing)
        if not isinstance(model, ConditionalModel):
            return drawn
        marks = len(columns_of(data.transform, 0).marks)
        return mask_batches(model, drawn, data.train, drawing.generator, marks=marks)

    def held_out_batches(
        self, data: Dataset, model: ScoreModel, examples: Batch
    ) -> Callable[[torch.Generator], Iterator[Batch]]:
        """Half of the held-out rows are for the joint density, the other half for conditionals with fixed masks."""
        if not isinstance(model, ConditionalModel):
            return super().held_out_batches(data, model, examples)
        generator = torch.Generator(examples.x.device).manual_seed(1)
        rows = next(batches(examples.x, affordable_rows(examples.x, sum(self.held_out)), generator=generator)).x
        if marks := len(columns_of(data.transform, 0).marks):
            rows = fill_or_unmark(rows, marks, generator)
        batch = draw_masks(model, rows, generator, joint=0.5)
        return lambda _: iter([batch])

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "b"]]:
        """The rows for the joint density, and those for conditionals."""
        if not isinstance(batch.given, Condition):
            return {}
        conditional = batch.given.observed.any(1)
        return {"joint": ~conditional, "conditionals": conditional}

    def measure(self, run: Run, data: Dataset) -> dict[str, float]:
        """How often the range of draws contains hidden values of test rows."""
        if not isinstance(run.score, ConditionalModel) or not len(data.test):
            return {}
        count, coverage = cell_coverage(run, data.transform.inverse(data.test.double()))
        return {"coverage": coverage, "coverage_of": float(count)} if count else {}

    def numbers(self, run: Run, x: object) -> Float64[Tensor, "b d"]:
        """A DataFrame's columns are matched by their names, an array's by their places."""
        columns = columns_of(run.transform, run.recipe.shape[0])
        if (frame := frame_in(x)) is not None:
            return numbers_of(frame, columns)
        x = as_numbers("rows", x).detach().cpu().double().numpy() if isinstance(x, Tensor) else x
        x = np.ma.filled(x.astype(float), np.nan) if isinstance(x, np.ma.MaskedArray) else np.asarray(x)
        rows = torch.from_numpy(np.array(table_of_array(x, "rows").rows, np.float64))  # a copy: files are read-only
        if rows.shape[1] != len(columns.names):
            listed = ", ".join(columns.names)
            raise ValueError(f"rows has {rows.shape[1]} columns, but the run has {len(columns.names)}: {listed}")
        return rows

    def examples(self, run: Run, x: Float[Tensor, "b d"]) -> UserData:
        """A DataFrame if the run was trained on one."""
        if not isinstance(run.transform, Columns) or not run.transform.fields:
            return x
        return frame_of(run.transform, x.double().cpu().numpy())

    def align(self, values: Float[Tensor, "b"], x: object) -> UserData:
        """A Series with the index of a DataFrame."""
        if (frame := frame_in(x)) is None:
            return values
        import pandas

        return pandas.Series(values.cpu().numpy(), frame.index, name="log_prob")

    def condition(self, run: Run, given: Values) -> Run:
        """The run of the other columns."""
        return conditional_run(run, given)

    def draw_given(self, run: Run, given: Values, generator: torch.Generator) -> Draw:
        """Rows are drawn as by ``impute``."""
        return given_rows(run, given, generator)

    def accept(self, draw: Draw, n: int, where: str, block: int) -> UserData:
        """Rows are chosen by rejection."""
        return accept(draw, n, where, block)

    def impute(self, run: Run, rows: object, n: int, generator: torch.Generator, unseen: Unseen) -> Imputed:
        """Draw missing cells given the other cells of their rows."""
        if (frame := frame_in(rows)) is not None:
            x = numbers_of(frame, columns_of(run.transform, run.recipe.shape[0]), unseen)
            return impute_frame(run, frame, x, n, generator, skip=unseen == "skip")
        x = self.numbers(run, rows)
        if unseen == "error":
            run.transform.check(x)
        return impute_rows(run, x, n, generator, skip=unseen == "skip")

    def hide(self, run: Run, what: object, shape: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "n d"]:
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

    def impute_file(self, run: Run, rows: Path, n: int, seed: int, out: Path, draws: Path | None) -> list[str]:
        """Fill in a table's missing cells; observed cells are written unchanged."""
        for path in (out, draws or out):
            if path.suffix not in reading.TABLES:
                raise ValueError(f"{path}: rows can be written to {', '.join(reading.TABLES)}")
        return impute_table(run, rows, n, seed, out, draws)

    def ruler(self, run: Run, data: Dataset, features: object, n: int, target: str | None = None) -> TableRuler:
        """Compare samples with held-out rows."""
        names = columns_of(run.transform, data.shape[0]).names
        if target not in (None, *names):
            raise ValueError(f"target is {target!r}; it must be one of the columns {one_line(', '.join(names))}")
        test = held_out_examples(data, n)
        return TableRuler(run, data, test, max(len(test), min(n, data.n)), target)

    @property
    def writers(self) -> Mapping[str, Writer | None]:
        """Tables and arrays."""
        return {**dict.fromkeys(reading.TABLES), ".npz": None, ".npy": None}

    def show(self, run: Run, data: Dataset, samples: Float[Tensor, "n d"], path: Sequence[Step], folder: Path) -> None:
        """Draw marginals and pairs of columns, of held-out rows and of samples."""
        real = data.transform.inverse(data.validation[: len(samples)])
        show_rows(run, real, samples, folder / "samples.png")

    def write_table(self, transform: Transform, rows: UserData, out: Path) -> None:
        """Write rows with the columns' names, texts and dates."""
        if not hasattr(rows, "columns"):
            rows = frame_of(columns_of(transform, rows.shape[1]), np.asarray(rows, np.float64))
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
)
