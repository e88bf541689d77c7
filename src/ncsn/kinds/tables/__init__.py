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
    Drawing,
    Imputed,
    Kind,
    Loss,
    Reports,
    Unseen,
    UserData,
    Values,
    Writer,
    choose_patterns,
)
from ncsn.kinds.reading import OF_IMAGES, Reading
from ncsn.kinds.tables.columns import Columns, columns_of
from ncsn.kinds.tables.conditional import ConditionalModel, Gaussian, in_gaussian
from ncsn.kinds.tables.frames import frame_in, frame_of, numbers_of
from ncsn.kinds.tables.given import complete_run, conditional_run, insert_given
from ncsn.kinds.tables.imputation import announce_guesses, cell_coverage, impute_frame, impute_rows, impute_table
from ncsn.kinds.tables.judge import TableRuler, show_rows
from ncsn.kinds.tables.missing import Masked, Masks, affordable_rows, code_losses, mask_batches, start
from ncsn.kinds.tables.read import write_frame
from ncsn.kinds.tables.table import table_of_array
from ncsn.kinds.transform import Transform
from ncsn.run import Run
from ncsn.samplers import Step
from ncsn.score import PreconditioningName, ScoreModel
from ncsn.validation import as_numbers


class Tables(Kind[Run]):
    """Rows of a table."""

    def start(self, data: Dataset, preconditioning: PreconditioningName) -> dict[str, float | Tensor]:
        """A Gaussian, the shares of codes, and the order of columns, from the training rows."""
        if preconditioning == "conditional":
            return dict(start(columns_of(data.transform, data.shape[0]), data.train, data.validation))
        return super().start(data, preconditioning)

    def model(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        preconditioning: PreconditioningName,
        start: Mapping[str, float | Tensor],
        autocast: torch.dtype | None,
    ) -> ScoreModel:
        """A model of every conditional, around the Gaussian; a network of the user's own learns the joint density."""
        if preconditioning != "conditional":
            return super().model(network, shape, preconditioning, start, autocast)
        counts: tuple[int, ...] = tuple(getattr(network, "codes", ()))
        size = shape[0] - len(counts) + sum(k for k, inside in zip(counts, in_gaussian(counts), strict=True) if inside)
        gaussian = Gaussian(torch.zeros(size), torch.eye(size))
        others = {} if "data_mean" in start else dict(start)  # a file's tensors are loaded later, if their shapes fit
        if others:
            gaussian = Gaussian(*(torch.as_tensor(others.pop(name)) for name in Gaussian._fields))
        return ConditionalModel(network, gaussian, counts, autocast=autocast, **others)  # type: ignore[arg-type]

    def batches(self, data: Dataset, model: ScoreModel, reading: Reading, drawing: Drawing) -> Iterator[Batch]:
        """Endless random batches, in which random cells are known."""
        drawn = super().batches(data, model, reading, drawing)
        if not isinstance(model, ConditionalModel):
            return drawn
        masks = Masks.of(model, columns_of(data.transform, data.shape[0]), data.n, noisy=True)
        return mask_batches(masks, drawn, data.train, drawing.generator)

    def held_out_batches(
        self, data: Dataset, model: ScoreModel, examples: Batch
    ) -> Callable[[torch.Generator], Iterator[Batch]]:
        """Half of the held-out rows are for the joint density, the other half for conditionals with fixed masks."""
        if not isinstance(model, ConditionalModel):
            return super().held_out_batches(data, model, examples)
        generator = torch.Generator(examples.x.device).manual_seed(1)
        rows = next(batches(examples.x, affordable_rows(examples.x, sum(self.held_out)), generator=generator)).x
        masks = Masks.of(model, columns_of(data.transform, data.shape[0]), data.n, noisy=False, joint=0.5)
        batch = masks.draw(rows, generator)
        return lambda _: iter([batch])

    def loss(self, loss: Loss) -> Loss:
        """The loss of scores for the rows that numbers are learned from, followed by that of codes for the others."""

        def both(model: ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
            given = batch.given
            if not isinstance(given, Masked) or not isinstance(model, ConditionalModel):
                return loss(model, batch)
            chosen = batch.x[: len(batch.x) - len(given.truth)]
            found = [loss(model, Batch(chosen, given=given.numbers))] if given.numbers is not None else []
            if len(given.truth):
                found.append((code_losses(model, given), torch.full_like(given.truth[:, 0], torch.nan)))
            losses, sigmas = (torch.cat(parts) for parts in zip(*found, strict=True))
            return losses, sigmas

        return both

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "b"]]:
        """The rows for the joint density, those for conditionals of numbers, and those for codes."""
        if not isinstance(batch.given, Masked):
            return {}
        codes = torch.arange(len(batch.x), device=batch.x.device) >= len(batch.x) - len(batch.given.truth)
        parts = {"codes": codes} if bool(codes.any()) else {}
        if (numbers := batch.given.numbers) is not None:
            observed = numbers.observed.any(1)
            some = torch.zeros_like(codes)
            some[: len(observed)] = observed
            parts = {"joint": ~some & ~codes, "conditionals": some} | parts
        return parts

    def measure(self, run: Run, data: Dataset) -> dict[str, float]:
        """How often the range of draws contains hidden values of test rows."""
        if not isinstance(run.score, ConditionalModel) or not len(data.test):
            return {}
        return cell_coverage(run, data.transform.restore(data.test.double()))

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
        if not x.isnan().any():  # otherwise gaps are drawn, too
            announce_guesses(columns_of(run.transform, x.shape[1]), x, ~x.isnan())
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

    def fill_in(self, run: Run, samples: UserData, given: Values) -> UserData:
        """Rows with the given values."""
        rows = insert_given(run, samples, given)
        x = self.numbers(run, rows, "skip").double()
        if not x.isnan().any():
            announce_guesses(columns_of(run.transform, x.shape[1]), x, ~x.isnan())
        return rows

    def complete(self, run: Run) -> Run:
        """The run of rows without missing cells."""
        return complete_run(run)

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

    def ruler(self, run: Run, data: Dataset, features: object, n: int) -> TableRuler:
        """Compare samples with held-out rows, those with missing cells included."""
        test = held_out_examples(data, n)
        return TableRuler(run, data, test, len(test))

    @property
    def writers(self) -> Mapping[str, Writer | None]:
        """Tables and arrays."""
        return {**dict.fromkeys(reading.TABLES), ".npz": None, ".npy": None}

    def show(self, run: Run, data: Dataset, samples: Float[Tensor, "n d"], path: Sequence[Step], folder: Path) -> None:
        """Draw marginals and pairs of columns, of held-out rows and of samples."""
        real = data.transform.restore(data.validation[: len(samples)])
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
