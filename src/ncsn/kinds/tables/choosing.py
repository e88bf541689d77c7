"""Conditional samples of a table: with given values (exact), or satisfying a condition (by rejection)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn.kinds.kind import Draw, UserData, Values
from ncsn.kinds.tables.columns import columns_of
from ncsn.kinds.tables.frames import decode, name_of, numbers_of
from ncsn.kinds.tables.imputation import DRAWS_AT_ONCE, conditional_model, draw_rows
from ncsn.machine.messages import bar, log
from ncsn.run import Recipe, Run
from ncsn.score import Sigma
from ncsn.validation import one_line

RARE, PATIENCE = 1000, 100  # give up after 100 blocks if fewer than one sample in 1,000 is accepted


def given_cells(run: Run, given: Values) -> tuple[Float64[Tensor, "1 d"], Float[Tensor, "1 e"]]:
    """A row with the given values, and NaN elsewhere, in the user's units and in the model's.

    Raises ValueError for values and columns that the run doesn't know, and if no column is left to draw.
    """
    import pandas

    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"given is {given!r}; expected values of some columns, such as {{'sex': 'F'}}")
    columns = columns_of(run.transform, run.recipe.shape[0])
    if unknown := [str(name) for name in given if name_of(name) not in columns.names]:
        raise ValueError(f"given names {', '.join(unknown)}, but the run has {one_line(', '.join(columns.names))}")
    frame = pandas.DataFrame({name: [value] for name, value in given.items()})
    x = numbers_of(frame, columns)
    known = ~x.isnan()
    for i in (i for i, column in enumerate(columns.columns) if column.name in map(name_of, given) and not known[0, i]):
        raise ValueError(f"given has a missing value for {columns.names[i]}; leave it out to draw it")
    for i in known[0].nonzero()[:, 0].tolist():
        column, field = columns.columns[i], columns.field(columns.columns[i])
        whole = field is not None and pandas.api.types.pandas_dtype(field.dtype or "O").kind in "iu"
        if whole and float(decode(column, x[:, i].numpy(), field)[0]) != float(x[0, i]):
            raise ValueError(f"given has {x[0, i]:g} for {column.name}, which its dtype cannot hold")
    if bool(known.all()):
        raise ValueError("given has a value for every column; leave out those to draw")
    z = run.transform.forward(x).float()
    return x, z.masked_fill(~torch.cat([known, known[:, columns.marked]], 1), torch.nan).to(run.device)


def conditional_run(run: Run, given: Values) -> Run:
    """The run of the other columns given values of some; see ``Run.given``."""
    (x, z), model = given_cells(run, given), conditional_model(run)
    columns, condition, wanted = columns_of(run.transform, *run.recipe.shape), model.condition(z), z[0].isnan()

    def score(y: Float[Tensor, "m t"], sigma: Sigma, /) -> Float[Tensor, "m t"]:
        whole = y.new_zeros(len(y), len(wanted)).masked_scatter(wanted.expand(len(y), -1), y)
        value: Tensor = model(whole, sigma, condition)
        return value[:, wanted]

    names = {name for name, cell in zip(columns.names, x[0], strict=True) if bool(cell.isnan())}
    transform = replace(
        columns,
        columns=tuple(column for column in columns.columns if column.name in names),
        marks=tuple(mark for mark in columns.marks if mark.name in names),
        fields=tuple(field for field in columns.fields if name_of(field.label) in names),
    )
    recipe = Recipe(network="none", arguments={}, shape=(int(wanted.sum()),), sampling=run.recipe.sampling)
    return Run(score=score, recipe=replace(recipe, transform=transform), device=run.device)


def given_rows(run: Run, given: Values, generator: torch.Generator) -> Draw:
    """A function that draws a number of rows in which some columns have given values."""
    import pandas

    x, z = given_cells(run, given)
    known = ~x.isnan()

    def draw(n: int) -> UserData:
        sizes = [min(DRAWS_AT_ONCE, n - first) for first in range(0, n, DRAWS_AT_ONCE)]
        drawn = torch.cat([draw_rows(run, z, size, generator)[:, 0] for size in sizes])
        rows = run.transform.inverse(drawn)
        made = run.recipe.kind.examples(run, torch.where(known.to(rows.device), x.to(rows), rows))
        values = {name_of(label): value for label, value in given.items()}
        for label in getattr(made, "columns", ()):  # decoded dates are rounded to seconds
            if name_of(label) in values and made[label].dtype.kind == "M":
                made[label] = pandas.Series([values[name_of(label)]] * n).astype(made[label].dtype)
        return made

    return draw


def accept(draw: Draw, n: int, where: str, block: int) -> UserData:
    """The first ``n`` rows that satisfy a condition, from as many blocks as that takes; logs the share that does.

    Raises ValueError if it isn't a condition on the columns, or if too few rows satisfy it.
    """
    import pandas

    kept, drawn, count = [], 0, 0
    with bar(total=n, unit="rows") as shown:
        while count < n:
            rows = draw(block)
            if not hasattr(rows, "columns"):
                raise ValueError("where needs column names, but the run was trained on an array, which has none")
            try:
                fits = rows.eval(where)
            except Exception as error:  # of any kind, because pandas evaluates Python expressions
                raise ValueError(f"where is {where!r}, which pandas cannot evaluate: {one_line(error)}") from error
            if not isinstance(fits, pandas.Series) or not pandas.api.types.is_bool_dtype(fits):
                raise ValueError(f"where is {where!r}; expected a condition, such as 'age > 60'")
            kept.append(rows[fits.fillna(False)])
            drawn, count = drawn + block, count + len(kept[-1])
            shown.update(len(kept[-1]))
            if drawn >= PATIENCE * block and count * RARE < drawn:
                raise ValueError(f"only {count} of {drawn:,} samples satisfy {where!r}; given= needs no rejection")
    log.info(f"{count:,} of {drawn:,} samples satisfy {where!r} ({count / drawn:.2%})")
    return pandas.concat(kept, ignore_index=True)[:n]
