"""Runs of tables: rows, rows given some values, missing cells, and densities."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor
from typing_extensions import Self, Unpack

from ncsn import settings
from ncsn.conditionals import ConditionalModel
from ncsn.data.columns import Columns, Discrete, Number, columns_of, insert_rest, name_of, select
from ncsn.data.dataset import OTHER_DATA, Dataset, short_name
from ncsn.likelihood import LogDensities, log_prob
from ncsn.machine.hardware import choose_autocast, free_threads, in_parallel, threads_for, uncompiled
from ncsn.machine.messages import bar, forecast
from ncsn.metrics import Trials, rank
from ncsn.prior import Classes, Prior
from ncsn.run.imputation import Imputed, ImputingRun, Unseen, check_unseen, choose_patterns
from ncsn.run.options import SeededOptions, UserData
from ncsn.run.steps import generator_of
from ncsn.samplers import Step
from ncsn.score import Sigma, tweedie
from ncsn.settings import Reading
from ncsn.tables.doubt import doubt_cells
from ncsn.tables.frames import decode, frame_of, numbers_of
from ncsn.tables.imputed import (
    DRAWS,
    HIDDEN,
    INSIDE,
    ImputedTable,
    announce_guesses,
    announce_left,
    describe_coverage,
    guesses_in,
    is_discrete,
)
from ncsn.tables.learning import Table
from ncsn.tables.read import frame_in, read_table, table_of_array, zone_of
from ncsn.tables.streaming import impute_file
from ncsn.tables.worth import cells_of, information
from ncsn.validation import as_numbers, check_type, counted, one_line, whole

if TYPE_CHECKING:
    import pandas

# With 25 levels from 0.4 σ_max down, draws from a Gaussian's conditionals are up to 3 % too wide.  From σ_max itself
# that would take 30 levels; with 12 they are 9 % too wide.
LEVELS, TOP = 25, 0.4
ROWS_AT_ONCE = 2048  # whose densities are computed together
DRAWS_AT_ONCE = 2**10  # rows whose activations fit into a processor's cache
Values: TypeAlias = Mapping[Any, object]
"""Values of some columns of a table, by the columns' labels."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TableRun(ImputingRun):
    """A run that generates rows of a table.

    ``known``: a row with the cells that all samples have, (1, d), and NaN elsewhere; see ``given``.
    ``complete``: whether samples have no missing cells.
    """

    known: Float64[Tensor, "1 d"] | None = None
    complete: bool = False

    examples: ClassVar[type[Dataset]] = Table

    @property
    def columns(self) -> Columns:
        """The columns of the table."""
        return columns_of(self.transform, self.recipe.shape[0])

    @property
    def conditionals(self) -> ConditionalModel:
        """The score, if it is a model of every conditional.  Raises ValueError if it isn't."""
        if not isinstance(self.score, ConditionalModel):
            advice = "with ncsn's own network; run.posterior works with any score"
            raise ValueError(f"conditional sampling needs a run that fit has trained on a table {advice}")
        return self.score

    def data(self, dataset: str | None = None) -> Dataset:
        """The rows that the run was trained on, including its validation and test rows.

        ``dataset``: a file with these rows, if they have moved or were passed to ``fit`` as a table in memory.
        Raises ValueError if the data is unknown, can't be read, or isn't what the run was trained on.
        """
        if self.origin is not None or dataset is None:
            return super().data(dataset)
        rows = replace(self._read(dataset, Reading()), name=short_name(dataset))
        if rows.transform != self.transform:
            raise ValueError(f"{dataset}: {OTHER_DATA}")
        return rows

    def _read(self, place: str, reading: Reading) -> Table:
        """The rows at a path."""
        return read_table(place)

    # Rows of the user.

    def _numbers(self, x: object, unseen: Unseen = "error") -> Float64[Tensor, "b d"]:
        """A DataFrame's columns are matched by their names, an array's by their places; given cells are added."""
        columns = self.columns if self.known is None else select(self.columns, self.known[0].isnan())
        if (frame := frame_in(x)) is not None:
            return self._whole(numbers_of(frame, columns, unseen))
        x = as_numbers("rows", x).detach().cpu().double().numpy() if isinstance(x, Tensor) else x
        x = np.ma.filled(x.astype(float), np.nan) if isinstance(x, np.ma.MaskedArray) else np.asarray(x)
        rows = torch.from_numpy(np.array(table_of_array(x, "rows").rows, np.float64))  # a copy: files are read-only
        if rows.shape[1] != len(columns.names):
            listed = ", ".join(columns.names)
            raise ValueError(f"rows has {rows.shape[1]} columns, but the run has {len(columns.names)}: {listed}")
        return self._whole(rows)

    def _whole(self, rows: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Rows with the given cells, which they lack."""
        return rows if self.known is None else insert_rest(self.known, rows)

    def _with_known(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rows with exactly the given cells, which the transform may have rounded."""
        return x if self.known is None else torch.where(self.known.isnan().to(x.device), x, self.known.to(x))

    def _align(self, values: Float[Tensor, "b"], x: object) -> UserData:
        """A Series with the index of a DataFrame."""
        if (frame := frame_in(x)) is None:
            return values
        import pandas

        return pandas.Series(values.cpu().numpy(), frame.index, name="log_prob")

    def _frame(self, x: Float[Tensor, "b d"], given: "Values | None" = None) -> UserData:
        """Rows of numbers in the form of the training data; ``given``: exact values of some columns."""
        columns = self.columns
        complete = x.isnan().any().logical_not()  # otherwise gaps are drawn, too
        announce_guesses(guesses_in(columns, x, complete.expand(x.shape)))
        if not columns.fields:
            return x
        import pandas

        frame = frame_of(columns, x.double().cpu().numpy())
        labels = {name_of(label): label for label in frame}
        for name, value in (given or {}).items():
            label = labels[name_of(name)]
            if (dtype := frame[label].dtype).kind == "M":  # decoded dates are rounded to seconds
                date = pandas.Timestamp(value)
                date = date.tz_convert(None) if date.tz and not zone_of(dtype) else date
                frame[label] = pandas.Series([date] * len(frame)).astype(dtype)
        return frame

    # Sampling.

    def sample(
        self, n: int = 1, *, given: Values | None = None, complete: bool = False, **options: Unpack[SeededOptions]
    ) -> UserData:
        """Draw ``n`` rows: a DataFrame if the run was trained on one, otherwise a tensor (n, d).

        Cells are missing as often as in the table, and in similar patterns.

        ``given``: exact values of some columns, such as ``{"sex": "F"}``; the other columns are drawn from
        their distribution given these.
        ``complete``: draw rows without missing cells, as ``impute`` would fill them in.
        ``options``: as for ``steps``.
        Raises ValueError as ``steps`` does, and for values and columns that the run doesn't know.
        """
        check_type("complete", complete, bool)
        run = replace(self, complete=complete or self.complete)
        if given is not None:
            run = run.given(given)
        return run._frame(run._draw(whole("n", n, 1), options), given)

    def _in_users_form(self, x: Shaped[Tensor, "n d"]) -> UserData:
        return self._frame(x)

    def _draw(self, n: int, options: SeededOptions) -> Shaped[Tensor, "n d"]:
        """``n`` rows as a tensor in the user's units."""
        return self._with_known(super()._draw(n, options))

    def given(self, values: Values) -> Self:
        """The run whose rows have these values of some columns, and whose other columns are drawn given these."""
        assert self.conditionals
        return replace(self, known=self._given_cells(values))

    def _given_cells(self, given: Values) -> Float64[Tensor, "1 d"]:
        """A row with the given values, and NaN elsewhere, in the user's units.

        Raises ValueError for values and columns that the run doesn't know, and if no column is left to draw.
        """
        import pandas

        if not isinstance(given, Mapping) or not given:
            raise ValueError(
                f"given is {one_line(repr(given))}; expected values of some columns, such as {{'sex': 'F'}}"
            )
        columns = self.columns
        names = {*map(name_of, given)}
        if unknown := [str(name) for name in given if name_of(name) not in columns.names]:
            raise ValueError(f"given names {', '.join(unknown)}, but the run has {one_line(', '.join(columns.names))}")
        if several := [str(name) for name, value in given.items() if np.ndim(value)]:  # type: ignore[arg-type]
            raise ValueError(f"given has several values of {', '.join(several)}; for these, use ncsn.with_prior")
        x = numbers_of(pandas.DataFrame({name: [value] for name, value in given.items()}), columns)
        for column, cell in zip(columns.columns, x.T, strict=True):
            if column.name in names and bool(cell.isnan()):
                raise ValueError(f"given has a missing value for {column.name}; leave it out to draw it")
            field = columns.field(column)
            is_integer = column.name in names and pandas.api.types.pandas_dtype(field.dtype or "O").kind in "iu"
            if is_integer and float(decode(column, cell.numpy(), field)[0]) != float(cell):
                raise ValueError(f"given has {float(cell):g} for {column.name}, which its dtype cannot hold")
        if not bool(x.isnan().any()):
            raise ValueError("given has a value for every column; leave out those to draw")
        return x

    def _states(self, prior: Prior, n: int, labels: Classes) -> Iterator[Step]:
        """Rows are drawn by the chain rule, column after column, unless the network is the user's own."""
        if not isinstance(self.score, ConditionalModel) or prior.start_at is not None:
            return super()._states(prior, n, labels)
        rows = self.score.nothing_known(n)
        if self.known is not None:
            rows = self.transform.forward(self.known).to(rows).expand(n, -1)
        count = prior.cost.count
        return self.score.fill(rows, prior.sampling, prior.generator, complete=self.complete, count=count)

    # Missing cells.

    def impute(
        self, rows: object, n: int = 20, *, seed: int | torch.Generator = 0, unseen: Unseen = "error"
    ) -> Imputed:
        """Draw the missing cells of rows from their distribution given the observed ones, which are kept.

        Parts of a table can be imputed apart, by several processes: the results have the same columns and dtypes, and
        are independent if each part has a seed of its own.

        ``rows``: a DataFrame, a dict of columns or a table of pyarrow or polars, whose columns are matched by name and
        may be absent; or an array (b, d).  NaN means missing.  There may be 0 rows.
        ``n``: the number of draws for each row, at least 1; with one, the spread is unknown (NaN).
        ``seed``: a number, or a generator on the run's device, which is advanced.
        ``unseen``: what to do with values that are impossible, judging by the training data.  "error" rejects them.
        "missing" imputes unseen categories; impossible numbers are kept, but not conditioned on.  "skip" leaves rows
        that have any unchanged.
        Returns the draws, the best guesses and their spread: for an array ``Imputed``, otherwise ``ImputedTable``.
        Raises ValueError for unknown columns or impossible values, and if the network is your own.
        """
        check_unseen(unseen)
        n = whole("n", n, 1)
        generator = generator_of(seed, self.device)
        skip = unseen == "skip"
        x = self._numbers(rows, unseen)
        if (frame := frame_in(rows)) is not None:
            table = self._table_of(self._impute(x, n, generator, skip=skip), frame)
            announce_left(table.left)
            announce_guesses(table.guesses)
            return table
        if unseen == "error":
            self.transform.check(x)
        return self._impute(x, n, generator, skip=skip)

    @torch.no_grad()
    def probabilities(self, rows: object, column: object) -> UserData:
        """The probability of each value of a column given the other cells of each row, from the network itself.

        Unlike the share of a value among the draws of ``impute``, it has no error of sampling.

        ``rows``: rows as for ``impute``; their values in this column aren't used.
        ``column``: the label of a column of text or of few values.
        Returns a DataFrame with a column for each value, (b, k), for a DataFrame, otherwise a tensor; rows sum to 1.
        Raises ValueError for other columns, and as ``impute`` does.
        """
        columns, model = self.columns, self.conditionals
        discrete = {known.name: known for known in columns.columns if isinstance(known, Discrete)}
        chosen = discrete.get(name_of(column))
        if chosen is None:
            listed = one_line(", ".join(discrete)) or "none"
            raise ValueError(f"column is {column!r}, but the columns that have probabilities are {listed}")
        place = columns.names.index(chosen.name)
        x = self._numbers(rows)
        x[:, place] = torch.nan
        self.transform.check(x)
        z = self.transform.forward(x).float().to(self.device)
        with threads_for(self.score):
            log_chances = model.log_chances(z, columns.coded.index(place), complete=True)
        chances = log_chances[:, : len(chosen.values)].exp()
        if (frame := frame_in(rows)) is None:
            return chances
        import pandas

        labels = decode(chosen, np.array(chosen.values), columns.field(chosen))
        return pandas.DataFrame(chances.cpu().numpy(), frame.index, pandas.Index(labels, name=column))

    def doubt(self, rows: object) -> "pandas.DataFrame":
        """Judge each known cell by its distribution given the rest of its row, to find cells that may be wrong.

        The p-value of a number is twice the probability of numbers at least as low, or at least as high, whichever is
        less.  The p-value of a category, or of one of few values, is the probability of all values that are at most
        as probable.  Both are computed without draws.  Values that are impossible, judging by the training data,
        have p 0.  Missing cells aren't judged.

        A wrong cell would make the others in its row look wrong.  So the most doubtful cell of a row is hidden if its
        p-value is below 0.001, and the rest of the row is judged again.

        ``rows``: rows as for ``impute``.
        Returns a DataFrame with a line for each cell, by ascending p: ``row`` (the label in the index, or the place
        from 0), ``column``, ``value``, ``expected`` (the 5 % and 95 % quantiles, or the most probable value),
        ``p_value``, and ``p_corrected`` for the number of cells: if you doubt all cells where it is at most q, about
        a share q of them are right (Benjamini & Hochberg 1995).
        Raises ValueError for unknown columns, text in columns of numbers, and rows without known cells, and if the
        network is your own.
        """
        assert self.conditionals
        return doubt_cells(self, rows)

    @torch.no_grad()
    def worth(self, row: object, of: object, n: int = 1000, *, seed: int | torch.Generator = 0) -> "pandas.DataFrame":
        """What to measure next: the information that each unknown column is expected to give about the column ``of``.

        That is the mutual information of the two given what is known, E[log p(of | known, column) − log p(of | known)],
        averaged over ``n`` completions of the row that the run draws (Lindley 1956, "On a Measure of the Information
        Provided by an Experiment").  It is what the run believes, and about a single next measurement: two columns may
        say more together than apart, or the same twice.

        ``row``: the known values of a row, ``{"age": 61}``; or a Series or a DataFrame of one row, NaN where unknown.
        ``of``: the label of a column that is unknown in this row.
        ``n``: the number of completions, at least 2.
        ``seed``: a number, or a generator on the run's device, which is advanced.
        Returns a DataFrame with a row for each other unknown column, the most informative first: ``nats`` and their
        ``standard_error``.  Small values can be negative by chance.
        Raises ValueError for unknown columns or impossible values, if ``of`` or every other column is known, and if the
        network is your own.
        """
        columns = self.columns
        if name_of(of) not in columns.names:
            raise ValueError(f"of is {of!r}, but the columns are {one_line(', '.join(columns.names))}")
        target = columns.names.index(name_of(of))
        return information(self, cells_of(row, columns), target, whole("n", n, 2), generator_of(seed, self.device))

    @torch.no_grad()
    def _impute(
        self,
        x: Float64[Tensor, "b d"],
        n: int,
        generator: torch.Generator,
        *,
        skip: bool = False,
        report: Callable[[int], object] | None = None,
    ) -> Imputed:
        """``n`` draws of the missing cells of each row.  Impossible numbers are kept, but not conditioned on.

        ``skip``: don't impute rows with impossible numbers, so that their gaps stay NaN.
        ``report``: is called with the number of rows whenever some are done; by default a bar shows the progress.
        """
        quick = self._in_16_bits()
        possible = self.transform.possible(x)
        missing = x.isnan()
        z = self.transform.forward(x.masked_fill(~possible, torch.nan)).float()
        is_empty = z.isnan().all(1)
        has_gaps = missing.any(1) & (possible.all(1) if skip else True)
        # Rows with known values first, then empty ones.
        batches = [
            batch
            for rows in (has_gaps & ~is_empty, has_gaps & is_empty)
            for batch in torch.split(rows.nonzero()[:, 0], max(1, DRAWS_AT_ONCE // n))
            if len(batch)
        ]
        seeds = torch.randint(2**62, (len(batches),), generator=generator, device=self.device).tolist()

        @torch.no_grad()
        def draw(numbered: tuple[int, Int64[Tensor, "k"]]) -> Float64[Tensor, "n k d"]:
            number, batch = numbered
            chance = torch.Generator(self.device).manual_seed(seeds[number])
            drawn = quick._draw_cells(z[batch].to(self.device), n, chance)
            return self.transform.inverse(drawn.flatten(0, 1)).view(n, len(batch), -1).to(x)

        draws = x.repeat(n, 1, 1)
        name = f"{len(x)} rows"
        at_once = free_threads(self.device)
        drawn_batches = in_parallel(draw, enumerate(batches), at_once)
        if report is None:
            drawn_batches = bar(forecast(drawn_batches, len(batches), name, at_once), name, total=len(batches))
        else:
            report(int((~has_gaps).sum()))
        for batch, drawn in zip(batches, drawn_batches, strict=True):
            draws[:, batch] = torch.where(missing[batch], drawn, draws[:, batch])
            if report is not None:
                report(len(batch))
        point, spread = self._summarise(draws)
        return Imputed(x, draws, torch.where(missing, point, x), spread, self)

    def _in_16_bits(self) -> Self:
        """The run whose network computes in 16 bits if that is faster here, which draws don't show."""
        model = copy.copy(self.conditionals)
        model.autocast = choose_autocast("auto", self.device)
        return replace(self, score=model)

    def _draw_cells(self, z: Float[Tensor, "b e"], n: int, generator: torch.Generator) -> Float[Tensor, "n b e"]:
        """``n`` draws of each row of ``z`` given what is known of it (the rest is NaN), in the model's units."""
        return self._fill(z.repeat_interleave(n, 0), generator).view(len(z), n, -1).transpose(0, 1)

    def _fill(self, z: Float[Tensor, "m e"], generator: torch.Generator) -> Float[Tensor, "m e"]:
        """Rows with what is unknown in them, NaN, drawn."""
        sampling = self.recipe.sampling
        if not bool(z.isnan().all()):  # otherwise nothing is known, and rows are samples
            top = max(TOP * sampling.sigma_max, min(sampling.sigma_max, 2 * sampling.sigma_min))
            sampling = sampling.but(sampler="dpmpp-sde", levels=LEVELS, sigma_max=top, guidance=1.0)
        *_, last = self.conditionals.fill(z, sampling, generator, complete=True)
        return last.x

    def _summarise(self, draws: Float64[Tensor, "n b d"]) -> tuple[Float64[Tensor, "b d"], Float64[Tensor, "b d"]]:
        """Mean and standard deviation of draws; the most frequent one and its share for text and two-valued columns."""
        point = draws.mean(0)
        spread = draws.std(0) if len(draws) > 1 and point.numel() else torch.full_like(point, torch.nan)
        for i, column in enumerate(self.columns.columns):
            if is_discrete(column):
                point[:, i] = draws[:, :, i].mode(0).values
                spread[:, i] = (draws[:, :, i] == point[:, i]).double().mean(0)
            elif column.date and bool((draws[:, :, i].nan_to_num() % 1 == 0).all()):
                point[:, i] = point[:, i].round()  # whole days
        return point, spread

    def _table_of(self, imputed: Imputed, frame: "pandas.DataFrame") -> ImputedTable:
        """The draws of a DataFrame's cells; columns of the run that it lacks are added at its end."""
        import pandas

        columns = self.columns
        present = {*map(name_of, frame.columns)}
        absent = [columns.field(column).label for column in columns.columns if column.name not in present]
        added = pandas.DataFrame(None, frame.index, pandas.Index(absent, dtype=object), dtype=object)
        source = pandas.concat([frame, added], axis=1) if absent else frame
        return ImputedTable(imputed.observed, imputed.draws, imputed.point, imputed.variation, self, source)

    def impute_file(self, rows: Path, n: int, seed: int, out: Path, draws: Path | None) -> list[str]:
        """Impute a file's missing cells; observed cells are written unchanged.  Returns a summary in lines.

        For every column with gaps, columns with the standard deviation (sd) or share and with the draws are appended.
        A .parquet may be larger than memory: it is read and written in batches.
        ``draws``: a second table, with every draw of each row with gaps as a complete row.
        """
        for path in (out, draws or out):
            if path.suffix not in settings.TABLES:
                raise ValueError(f"{path}: rows can be written to {', '.join(settings.TABLES)}")
        filled = impute_file(self, rows, n, generator_of(seed, self.device), out, draws)
        return [f"{out}: {counted(filled, 'missing value')} filled in", *describe_coverage(self.measured)]

    def _hide(self, hidden: object, shape: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "n d"]:
        """A share hides random cells, at least one in each row; column names are accepted, too."""
        if isinstance(hidden, float):
            uniform = torch.rand(shape, generator=generator)
            return (uniform < hidden) | (uniform == uniform.amin(1, keepdim=True))
        names = self.columns.names
        if isinstance(hidden, Sequence) and hidden and all(isinstance(name, str) for name in hidden):
            if unknown := [name for name in hidden if name not in names]:
                raise ValueError(f"hidden names {', '.join(unknown)}; the run's columns are {', '.join(names)}")
            hidden = [name in hidden for name in names]
        return choose_patterns(hidden, shape, generator)

    # Densities.

    def log_prob(self, x: object, *, given: Values | None = None, **options: Any) -> UserData:
        """As ``Run.log_prob`` for rows or a DataFrame, whose index the result then has.

        ``given``: exact values of some columns to condition on; ``x`` then has the other columns.
        """
        run = self if given is None else self.given(given)
        return super(TableRun, run).log_prob(x, **options)

    def _log_volume(self, x: Shaped[Tensor, "b d"], generator: torch.Generator | None) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx| for the columns that aren't given."""
        if self.known is None:
            return super()._log_volume(x, generator)
        unknown = self.known[0].isnan()
        return select(self.columns, unknown).log_abs_det_jacobian(x[:, unknown], generator)

    def _density(self, z: Float[Tensor, "b e"], solve: Callable[..., LogDensities]) -> LogDensities:
        """By the chain rule, unless the network is the user's own."""
        if not isinstance(self.score, ConditionalModel):
            return super()._density(z, solve)
        known = None
        if self.known is not None:
            column_of_place = torch.tensor([*self.columns.numbers, *self.columns.coded])
            known = ~self.known[0].isnan()[column_of_place].to(z.device)
        return self.score.log_densities(z, solve, self.recipe.sampling.sigma_max, known=known)

    def _densities_of(
        self, z: Float[Tensor, "b e"], places: Int64[Tensor, "p"], *, tolerance: float, probes: int | None = None
    ) -> Float64[Tensor, "b"]:
        """Log densities of the numbers at ``places`` given all other known ones in a row, in the score's units."""
        model, sampling = self.conditionals, self.recipe.sampling
        generator = torch.Generator(z.device).manual_seed(0)
        target = torch.zeros_like(z[0, : model.d]).index_fill(0, places, 1.0).bool()
        log_densities = list[Tensor]()
        for rows in bar(torch.split(z, ROWS_AT_ONCE), "densities"):
            condition = model.condition(
                model.given(rows.index_fill(1, places, torch.nan), target.expand(len(rows), -1))
            )
            numbers = rows[:, : model.d].nan_to_num()

            def score(x: Float[Tensor, "b p"], sigma: Sigma, /) -> Float[Tensor, "b p"]:
                return model.numbers(numbers.index_copy(1, places, x), sigma, condition)[:, places]  # noqa: B023

            with uncompiled(), threads_for(model):
                with torch.no_grad():
                    mean = tweedie(score, model.mean[places].expand(len(rows), -1), sampling.sigma_max)
                densities = log_prob(
                    score,
                    rows[:, places],
                    sigma_max=sampling.sigma_max,
                    sigma_min=sampling.sigma_min,
                    mean=mean,
                    probes=probes,
                    tolerance=tolerance,
                    generator=generator,
                )
                log_densities.append(densities.log_prob)
        return torch.cat(log_densities)

    def describe_sharpness(self, x: Float[Tensor, "n d"], hidden: Bool[Tensor, "d"]) -> str:
        """The log density of what is hidden given the rest, next to that of the Gaussian that training starts from."""
        columns = self.columns
        rows = x[~x[:, hidden].isnan().any(1) & columns.possible(x).all(1)].double()
        if (places := places_of(columns, hidden)) is None or not len(rows):
            return ""
        gaussian_score = copy.deepcopy(self.conditionals)
        for weight in gaussian_score.network.parameters():
            weight.data.zero_()
        z = columns.forward(rows).float().to(self.device)
        places = places.to(z.device)
        volume = select(columns, hidden).log_abs_det_jacobian(rows[:, hidden])
        ours, gaussian = (
            float((run._densities_of(z, places, tolerance=1e-3) + volume).mean())
            for run in (self, replace(self, score=gaussian_score))
        )
        return f"held-out log density of what was hidden: {ours:.2f} nats; the best Gaussian has {gaussian:.2f}"

    def measure_coverage(self, data: Dataset) -> dict[str, float]:
        """Hide up to 200 known values of test rows, one at a time, and compare them with draws.

        ``coverage``: the share that lies within the range of its draws; ``coverage_of``: how many.
        ``right``: the share of draws of ``discrete`` columns that equal the hidden value; ``confidence``: that of pairs
        of draws that agree, which is the same on average if the draws are right; ``right_of``: how many values.
        Empty if nothing can be hidden.
        """
        x = data.transform.restore(data.test.double())
        known = ~x.isnan()
        cells = ((known.sum(1) > 1)[:, None] & known).nonzero()  # something is left to condition on
        if not isinstance(self.score, ConditionalModel) or not len(cells):
            return {}
        generator = torch.Generator().manual_seed(0)
        rows, columns = cells[torch.randperm(len(cells), generator=generator)[:HIDDEN]].T
        truth = x[rows]
        hidden = torch.arange(x.shape[1]) == columns[:, None]
        draws = self.impute(truth.masked_fill(hidden, torch.nan), DRAWS, unseen="missing").draws
        ranks = rank(Trials(truth, draws, hidden), generator)["number"]
        covered = (2 * ranks - 1).abs() <= INSIDE
        measured = {"coverage": float(covered.double().mean()), "coverage_of": float(len(ranks))}
        is_category = torch.tensor([is_discrete(column) for column in self.columns.columns])[columns]
        if is_category.any():
            values = draws[:, hidden][:, is_category]
            true_values = truth[hidden][is_category]
            agreement = (values[:, None] == values).double().mean((0, 1))
            agreement = (len(values) * agreement - 1) / (len(values) - 1)  # not with themselves
            measured["right"] = float((values == true_values).double().mean())
            measured["confidence"] = float(agreement.mean())
            measured["right_of"] = float(len(true_values))
        return measured


def places_of(columns: Columns, chosen: Bool[Tensor, "d"]) -> Int64[Tensor, "p"] | None:
    """The model's numbers that some columns consist of; None if these can have values that aren't on a line."""
    chosen_columns = [column for column, is_chosen in zip(columns.columns, chosen.tolist(), strict=True) if is_chosen]
    if not all(isinstance(column, Number) and not column.codes for column in chosen_columns):
        return None
    return torch.tensor([place for place, i in enumerate(columns.numbers) if chosen[i]], dtype=torch.long)
