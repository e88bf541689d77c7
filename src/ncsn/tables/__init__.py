"""Tables: rows of numbers, categories and dates, possibly with missing cells; every conditional is learned."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor, nn

from ncsn import settings
from ncsn.batching import Batch, batches
from ncsn.data import (
    FAR,
    Conditioning,
    Curriculum,
    Dataset,
    Imputation,
    Imputed,
    Kind,
    Loss,
    Reports,
    Unseen,
    UserData,
    Values,
    choose_patterns,
)
from ncsn.kinds.comparison import held_out_examples
from ncsn.machine.messages import bar, log
from ncsn.machine.storage import sha256_of
from ncsn.run.run import Run
from ncsn.samplers import Step
from ncsn.score import PreconditioningName, ScoreModel
from ncsn.settings import OF_IMAGES
from ncsn.tables.columns import Columns, Discrete, Field, columns_of, is_constant, learn_columns, tensor
from ncsn.tables.frames import (
    BOOLEANS,
    MISSING,
    OTHER,
    clean_cells,
    days_of,
    field_of,
    frame_in,
    frame_of,
    name_of,
    numbers_of,
    parse,
    write_frame,
)
from ncsn.tables.impute import (
    announce_guesses,
    cell_coverage,
    complete_run,
    conditional_run,
    impute_frame,
    impute_rows,
    impute_table,
    insert_given,
)
from ncsn.tables.judge import TableRuler, show_rows
from ncsn.tables.learning import Masked, Masks, affordable_rows, code_losses, mask_batches, start
from ncsn.tables.model import ConditionalModel, Gaussian, in_gaussian
from ncsn.validation import as_numbers, counted

CODE = r"0\d+"  # such as the postal code 00501: text, although it has only digits
UNNAMED = ("", "Unnamed: 0")  # names of an index that pandas has written to a file
MAX_MISSING = 0.9  # share of rows; columns with more missing values say too little
MIN_ROWS = 10
MIN_ROWS_OF_CATEGORY, MAX_CATEGORIES = 5, 50
BEYOND = 0.5  # standard deviations by which held-out numbers may exceed a column's bounds without a warning


@dataclass(frozen=True)
class Table:
    """Columns of numbers with their names.

    ``rows`` (n, d): in double precision, or single precision if the array has it; NaN where a cell is missing.
    ``categories``: the texts of each text column, which are 0, 1, … in ``rows``.
    ``dates``: the names of date columns, which are days since 1970 in ``rows``.
    ``fields``: the types of all columns of the DataFrame, including those that are left out.
    ``merged``: the names of text columns whose last category stands for rare texts.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dates: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    merged: tuple[str, ...] = ()

    def keep(self, columns: Bool[np.ndarray, "d"], why: str) -> "Table":
        """Keep only these columns; log the names of the others and why they are left out."""
        if not columns.all():
            log.warning(f"columns left out because {why}: {', '.join(compress(self.names, ~columns))}")
        names = tuple(compress(self.names, columns))
        return replace(self, names=names, rows=self.rows[:, columns])

    def keep_varying(self, rows: Int[np.ndarray, "m"] | slice = slice(None)) -> "Table":
        """Keep only the columns that vary among these rows.  Raises ValueError if there are none."""
        varying = np.array([varies(column[~np.isnan(column)]) for column in self.rows[rows].T], bool)
        if not varying.any():
            raise ValueError(f"no column that varies is left in the table of {counted(len(self.rows[rows]), 'row')}")
        return self.keep(varying, "all training rows, or all but one, have the same value")

    def clean(self) -> "Table":
        """Leave out empty rows and columns that can't be learned, and log which.

        Raises ValueError if nothing is left.
        """
        pairs = zip(self.names, self.rows.T, strict=True)
        named = np.array([name not in UNNAMED or not numbers_rows(column) for name, column in pairs])
        table = self.keep(named, "they have no name and only number the rows").merge_rare_categories()
        missing = np.isnan(table.rows).mean(0)
        table = table.keep(missing <= MAX_MISSING, f"more than {MAX_MISSING:.0%} of their cells are missing")
        empty = np.isnan(table.rows).all(1)
        if 0 < empty.sum() < len(empty):
            log.warning(f"empty rows left out: {empty.sum():,} of {len(empty):,}")
            table = replace(table, rows=table.rows[~empty])
        table = table.keep_varying()
        if len(table.rows) < MIN_ROWS:
            raise ValueError(f"rows found: {len(table.rows)}; training needs at least {MIN_ROWS}, ideally 1,000")
        gaps = np.isnan(table.rows)
        if rows := gaps.any(1).sum():
            most = gaps.sum(0).argmax()
            facts = f"{rows:,} of {len(gaps):,}, most often in {table.names[most]} ({gaps[:, most].sum():,})"
            # Whether values are missing at random (Rubin) can't be told from a table.
            caveat = "results are biased if values are missing because of what they are"
            log.warning(f"rows with missing values: {facts}; training uses their other cells; {caveat}")
        return table

    def split(self, generator: torch.Generator) -> tuple["Table", tuple[Tensor, ...]]:
        """The cleaned table, and the indices of its rows for validation, testing and training."""
        table = self.clean()
        tenth, order = len(table.rows) // 10, torch.randperm(len(table.rows), generator=generator)
        test, validation, learned = order[tenth : 2 * tenth], order[:tenth], order[2 * tenth :]
        return table.keep_varying(learned.numpy()), (validation, test, learned)

    def merge_rare_categories(self) -> "Table":
        """Merge rare texts into one category, unless the DataFrame declares them; leave out columns of few others."""
        rows, categories, kept = self.rows.copy(), dict(self.categories), np.ones(len(self.names), bool)
        merged = []
        declared = {name_of(field.label) for field in self.fields if field.dtype == "category"}
        for place, name in enumerate(self.names):
            if name not in categories:
                continue
            values, codes = categories[name], rows[:, place]
            known = ~np.isnan(codes)
            counts = np.bincount(codes[known].astype(int), minlength=len(values))
            rank = np.argsort(np.argsort(-counts, kind="stable"))
            rare = (counts < MIN_ROWS_OF_CATEGORY) | ((len(values) > MAX_CATEGORIES) & (rank >= MAX_CATEGORIES - 1))
            kept[place] = counts[rare].sum() <= known.sum() / 2
            if kept[place] and rare.sum() > 1 and name not in declared:
                listed = [value for value, few in zip(values, rare, strict=True) if not few and value != OTHER]
                number = {value: i for i, value in enumerate(listed)}
                new = np.array([number.get(value, len(listed)) for value in values])
                rows[known, place] = new[codes[known].astype(int)]
                categories[name] = (*listed, OTHER)
                merged.append(name)
                log.warning(f"{rare.sum()} rare values of {name} are merged into {OTHER!r}")
        table = replace(self, rows=rows, categories=categories, merged=tuple(merged))
        return table.keep(kept, "most of their values are rare")


def numbers_rows(column: Float[np.ndarray, "n"]) -> bool:
    """Whether a column counts the rows, from 0 or 1."""
    return len(column) > 0 and column[0] in (0, 1) and bool((column - column[0] == np.arange(len(column))).all())


def varies(column: Float[np.ndarray, "m"]) -> bool:
    """Whether numbers have a density: at least two of them differ from the others by more than rounding."""
    if len(column) < 3 or min((column > column.min()).sum(), (column < column.max()).sum()) < 2:
        return False
    return not is_constant(torch.from_numpy(column))


def table_of_array(rows: Shaped[np.ndarray, "..."], place: str = "the table") -> Table:
    """An array (n, d) of numbers, whose columns are called 0, 1, ….  Raises ValueError for anything else."""
    if rows.ndim != 2 or rows.dtype.kind not in "buif":
        raise ValueError(f"{place} has shape {rows.shape} and dtype {rows.dtype}; expected numbers (rows, columns)")
    rows = rows if rows.dtype == np.float32 else rows.astype(np.float64)
    return check_range(Table(tuple(map(str, range(rows.shape[1]))), rows), place)


def table_of_frame(rows: object, place: str = "the table", *, text: bool = False) -> Table:
    """The columns of a DataFrame, a dict, or a polars or pyarrow table; text may contain numbers or dates.

    ``text``: whether all cells are text because they come from a text file.
    Raises ValueError for duplicate column names, numbers instead of names, infinite numbers, and unsupported dtypes.
    """
    import pandas

    frame = frame_in(rows)
    if frame is None:
        raise ValueError(f"{place} is a {type(rows).__name__}; expected a DataFrame or a dict of columns")
    names = [name_of(label) for label in frame.columns]
    numbered = [is_number(name) for name in names]
    if names and all(numbered) and names != [str(i) for i in range(len(names))]:
        needed = "its first line must hold column names" if text else "rename them, so that they aren't numbers"
        raise ValueError(f"{place} has columns called {', '.join(names[:3])}; {needed}")
    if index := [str(name) for name in frame.index.names if name is not None]:
        log.warning(f"the index ({', '.join(index)}) is left out; reset_index() makes it a column")
    cells = np.full((len(frame), len(names)), np.nan)
    categories, dates, fields = dict[str, tuple[str, ...]](), list[str](), list[Field]()
    for i, name in enumerate(bar(names, "columns")):
        column = frame.iloc[:, i]
        fields.append(Field(label=name) if text else field_of(column))
        column = given = column.rename(name)
        if pandas.api.types.infer_dtype(column) == "date":
            column = pandas.to_datetime(column)
        elif column.dtype.kind not in "uifMb" and not isinstance(column.dtype, pandas.CategoricalDtype):
            plain = clean_cells(column)
            column = plain if plain.str.fullmatch(CODE).any() else parse(column)
        if column.isna().all():
            continue
        if column.dtype.kind in "uif":
            cells[:, i] = column.to_numpy(float, na_value=np.nan)
            if np.nanmax(abs(cells[:, i])) > 2**53 and given.astype(str).str.fullmatch(r"\s*[-+]?\d+\s*").any():
                log.warning(f"column {name} has whole numbers beyond 2^53, which are rounded to double precision")
        elif column.dtype.kind == "M":
            cells[:, i] = days_of(column, name)
            dates.append(name)
        else:
            if column.dtype.name != "category":
                column = column.astype(str).mask(column.isna()).astype("category")
            levels = column.cat.remove_unused_categories()
            cells[:, i] = np.where(levels.isna(), np.nan, levels.cat.codes)
            categories[name] = tuple(map(str, levels.cat.categories))
            if categories[name] in (BOOLEANS[:1], BOOLEANS[1:]):  # True is 1 even if nothing is False
                cells[:, i] += BOOLEANS.index(categories[name][0])
                categories[name] = BOOLEANS
    return check_range(Table(tuple(names), cells, categories, tuple(dates), tuple(fields)), place)


def is_number(text: str) -> bool:
    """Whether a column name is a number, or a word for a missing value."""
    number = r"[-+]?[$€£]?([\d.,]*\d[\d.,]*(e[-+]?\d+)?|inf(inity)?)"
    return text.strip() in MISSING or re.fullmatch(number, text.strip(), re.IGNORECASE) is not None


def check_range(table: Table, place: str) -> Table:
    """Return the table.  Raises ValueError for infinite numbers, and for numbers whose squares are infinite."""
    for name, limit in (("infinite numbers", np.inf), ("numbers beyond 1e150", 1e150)):
        if (wrong := (np.abs(table.rows, dtype=float) >= limit).any(0)).any():
            listed = ", ".join(compress(table.names, wrong))
            raise ValueError(f"{place} has {name} in {listed}; leave unknown values blank, or change the unit")
    return table


def never_observed(columns: Columns, rows: Float[Tensor, "n d"]) -> tuple[tuple[str, str, float], ...]:
    """Triples of a column, a discrete column and its value in whose rows, of which there are some, it has only gaps."""
    known = (~rows.isnan()).double()
    gappy = [i for i, column in enumerate(columns.columns) if column.gaps]
    found = []
    for j, column in enumerate(columns.columns):
        if isinstance(column, Discrete) and gappy:
            there = (rows[:, j, None] == tensor(column.values)).double()
            nowhere = (there.T @ known[:, gappy] == 0) & (there.sum(0) >= MIN_ROWS)[:, None]
            for value, i in nowhere.nonzero().tolist():
                found.append((columns.names[gappy[i]], column.name, column.values[value]))
    return tuple(found)


def rows_of(name: str, table: Table) -> Dataset:
    """The rows of a table as a dataset, with a tenth each for validation and testing.

    Raises ValueError if there is nothing to learn from the table.
    """
    generator = torch.Generator().manual_seed(0)
    table, parts = table.split(generator)
    rows = torch.from_numpy(table.rows)
    texts = {name: table.categories[name] for name in table.names if name in table.categories}
    columns = learn_columns(rows[parts[-1]], table.names, texts, table.dates, every=rows)
    marked = tuple(replace(column, merged=column.name in table.merged) for column in columns.columns)
    columns = replace(columns, columns=marked, fields=table.fields, never=never_observed(columns, rows[parts[-1]]))
    # Numbers on a grid are placed at random in their cells.
    z = torch.cat([columns.with_gaps(columns.forward(part, generator)).float() for part in torch.split(rows, 2**16)])
    held_out = rows[torch.cat(parts[:-1])].double()
    ends = [getattr(column, "bounds", (-np.inf, np.inf)) for column in columns.columns]
    beyond = held_out - held_out.clamp(*torch.tensor(ends, dtype=torch.float64).T)
    beyond = beyond.abs() > BEYOND * torch.from_numpy(np.nanstd(table.rows, 0))
    possible = torch.cat([columns.possible(part) for part in torch.split(held_out, 2**16)])
    if count := int((~possible | beyond).sum()):
        limit = f"losses clip such numbers at {FAR:g} standard deviations, evaluations at the nearest possible sample"
        log.warning(f"found {counted(count, 'held-out number')} well outside the range of the training data; {limit}")
    numbers = z[:, : len(columns.numbers)]
    numbers.copy_(numbers.clamp(-FAR, FAR))
    validation, test, train = (z[part] for part in parts)
    texts_and_dates = np.frombuffer(repr((table.names, sorted(texts.items()), table.dates)).encode(), np.uint8)
    digest = sha256_of([texts_and_dates, table.rows])
    return Dataset(train, validation, test, None, name, columns, columns.describe(), columns.codes, sha256=digest)


class MaskedCurriculum(Curriculum):
    """Batches of rows in which random cells are known."""

    def __init__(self, sizes: tuple[int, ...], data: Dataset, model: ConditionalModel) -> None:
        super().__init__(sizes)
        self.data, self.model, self.columns = data, model, columns_of(data.transform, data.shape[0])

    def batches(self, drawn: Iterator[Batch], generator: torch.Generator) -> Iterator[Batch]:
        """Endless random batches, in which random cells are known."""
        masks = Masks.of(self.model, self.columns, self.data.n, noisy=True)
        return mask_batches(masks, drawn, self.data.train, generator)

    def held_out(self, examples: Batch) -> Callable[[torch.Generator], Iterator[Batch]]:
        """Half of the held-out rows are for the joint density, the other half for conditionals with fixed masks."""
        generator = torch.Generator(examples.x.device).manual_seed(1)
        rows = next(batches(examples.x, affordable_rows(examples.x, sum(self.sizes)), generator=generator)).x
        masks = Masks.of(self.model, self.columns, self.data.n, noisy=False, joint=0.5)
        batch = masks.draw(rows, generator)
        return lambda _: iter([batch])

    def loss(self, loss: Loss) -> Loss:
        """The loss of scores for the rows that numbers are learned from, followed by that of codes for the others."""

        def both(model: ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
            given = batch.given
            assert isinstance(given, Masked) and isinstance(model, ConditionalModel)  # noqa: PT018
            chosen = batch.x[: len(batch.x) - len(given.truth)]
            found = [loss(model, Batch(chosen, given=given.numbers))] if given.numbers is not None else []
            if len(given.truth):
                found.append((code_losses(model, given), torch.full_like(given.truth[:, 0], torch.nan)))
            losses, sigmas = (torch.cat(parts) for parts in zip(*found, strict=True))
            return losses, sigmas

        return both

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "b"]]:
        """The rows for the joint density, those for conditionals of numbers, and those for codes."""
        assert isinstance(batch.given, Masked)
        codes = torch.arange(len(batch.x), device=batch.x.device) >= len(batch.x) - len(batch.given.truth)
        parts = {"codes": codes} if bool(codes.any()) else {}
        if (numbers := batch.given.numbers) is not None:
            observed = numbers.observed.any(1)
            some = torch.zeros_like(codes)
            some[: len(observed)] = observed
            parts = {"joint": ~some & ~codes, "conditionals": some} | parts
        return parts


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

    def curriculum(self, data: Dataset, model: ScoreModel) -> Curriculum:
        """Random cells of each row are known; a network of the user's own learns the joint density."""
        if not isinstance(model, ConditionalModel):
            return super().curriculum(data, model)
        return MaskedCurriculum(self.held_out, data, model)

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

    def ruler(self, run: Run, data: Dataset, features: object, n: int) -> TableRuler:
        """Compare samples with held-out rows, those with missing cells included."""
        test = held_out_examples(data, n)
        return TableRuler(run, data, test, len(test))

    def show(self, run: Run, data: Dataset, samples: Float[Tensor, "n d"], path: Sequence[Step], folder: Path) -> None:
        """Draw marginals and pairs of columns, of held-out rows and of samples."""
        real = data.transform.restore(data.validation[: len(samples)])
        show_rows(run, real, samples, folder / "samples.png")


def given_rows(run: Run, samples: UserData, given: Values) -> UserData:
    """Rows with the given values."""
    rows = insert_given(run, samples, given)
    x = TABLES.numbers(run, rows, "skip").double()
    if not x.isnan().any():
        announce_guesses(columns_of(run.transform, x.shape[1]), x, ~x.isnan())
    return rows


def draw_missing(run: Run, rows: object, n: int, generator: torch.Generator, unseen: Unseen) -> Imputed:
    """Draw missing cells given the other cells of their rows."""
    if (frame := frame_in(rows)) is not None:
        x = numbers_of(frame, columns_of(run.transform, run.recipe.shape[0]), unseen)
        return impute_frame(run, frame, x, n, generator, skip=unseen == "skip")
    x = TABLES.numbers(run, rows)
    if unseen == "error":
        run.transform.check(x)
    return impute_rows(run, x, n, generator, skip=unseen == "skip")


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
    imputation=Imputation(draw_missing, hide_cells, impute_table),
    conditioning=Conditioning(conditional_run, given_rows, complete_run),
)
