"""Conditioning a table's run on exact values of some columns."""

from collections.abc import Mapping
from dataclasses import replace

from jaxtyping import Float, Float64
from torch import Tensor

from ncsn.kinds.kind import UserData, Values
from ncsn.kinds.tables.columns import columns_of
from ncsn.kinds.tables.conditional import ConditionalModel, Given
from ncsn.kinds.tables.frames import decode, name_of, numbers_of, zone_of
from ncsn.run import Recipe, Run
from ncsn.validation import one_line


def conditional_model(run: Run) -> ConditionalModel:
    """The run's score, if it is a conditional model.  Raises ValueError if it isn't."""
    if not isinstance(run.score, ConditionalModel):
        advice = "with ncsn's own network; run.posterior works with any score"
        raise ValueError(f"conditional sampling needs a run that fit has trained on a table {advice}")
    return run.score


def complete_run(run: Run) -> Run:
    """The run whose samples have no missing cells."""
    score = run.score
    if isinstance(score, Given):
        return replace(run, score=Given(score.model, score.row, score.kept, complete=True))
    if not isinstance(score, ConditionalModel):
        return run
    return replace(run, score=Given(score, score.nothing_known(1), [*range(len(score.order))], complete=True))


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
    x = numbers_of(pandas.DataFrame({name: [value] for name, value in given.items()}), columns)
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
    return x, run.transform.forward(x).float().to(run.device)


def conditional_run(run: Run, given: Values) -> Run:
    """The run of the other columns given values of some; see ``Run.given``."""
    (x, z), model = given_cells(run, given), conditional_model(run)
    columns = columns_of(run.transform, *run.recipe.shape)
    others = x[0].isnan().tolist()
    names = {name for name, other in zip(columns.names, others, strict=True) if other}
    kept = [place for place, i in enumerate([*columns.numbers, *columns.coded]) if others[i]]
    transform = replace(
        columns,
        columns=tuple(column for column in columns.columns if column.name in names),
        fields=tuple(field for field in columns.fields if name_of(field.label) in names),
        never=(),  # of whole rows
    )
    recipe = Recipe(network="none", arguments={}, shape=(len(kept),), sampling=run.recipe.sampling)
    score = Given(model, z, kept, complete=False)
    return Run(score=score, recipe=replace(recipe, transform=transform), device=run.device)


def insert_given(run: Run, samples: UserData, given: Values) -> UserData:
    """Samples of the other columns with the given values, as rows like those of training."""
    import pandas

    x, _ = given_cells(run, given)
    if not hasattr(samples, "columns"):
        rows = x.to(samples).repeat(len(samples), 1)
        rows[:, x[0].isnan()] = samples
        return rows
    columns = columns_of(run.transform, run.recipe.shape[0])
    made: dict[object, pandas.Series] = {}
    values = {name_of(label): value for label, value in given.items()}
    for column, number in zip(columns.columns, x[0], strict=True):
        field = columns.field(column)
        label = column.name if field is None else field.label
        if column.name not in values:
            made[label] = samples[label]
            continue
        made[label] = decode(column, number.expand(len(samples)).numpy(), field)
        if (dtype := made[label].dtype).kind == "M":  # decoded dates are rounded to seconds
            date = pandas.Timestamp(values[column.name])
            date = date.tz_convert(None) if date.tz and not zone_of(dtype) else date
            made[label] = pandas.Series([date] * len(samples)).astype(dtype)
    return pandas.DataFrame(made)
