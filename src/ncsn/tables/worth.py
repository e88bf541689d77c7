"""What to measure next: the information that each unknown column of a row is expected to give about another."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn.data.columns import Columns, Discrete
from ncsn.likelihood import log_prob
from ncsn.machine.hardware import threads_for, uncompiled
from ncsn.machine.messages import bar
from ncsn.tables.frames import numbers_of
from ncsn.validation import one_line

if TYPE_CHECKING:
    import pandas

    from ncsn.tables.run import TableRun


def cells_of(row: object, columns: Columns) -> Float64[Tensor, "1 d"]:
    """The cells of a single row of the user's, NaN where nothing is known."""
    import pandas

    if isinstance(row, pandas.DataFrame):
        if len(row) != 1:
            raise ValueError(f"row has {len(row)} rows; expected one, such as df.iloc[[0]]")
        row = row.iloc[0]
    if not isinstance(row, Mapping | pandas.Series):
        raise ValueError(f"row is {one_line(repr(row))}; expected the known values of a row, such as {{'age': 61}}")
    known = {label: value for label, value in row.items() if not pandas.isna(value)}
    if not known:
        return torch.full((1, len(columns.names)), torch.nan, dtype=torch.float64, device="cpu")
    return numbers_of(pandas.DataFrame(known, index=[0]), columns)


def information(
    run: "TableRun", x: Float64[Tensor, "1 d"], target: int, n: int, generator: torch.Generator
) -> "pandas.DataFrame":
    """See ``TableRun.worth``; ``x``: the known cells, NaN elsewhere; ``target``: the place of a column."""
    import pandas

    columns = run.columns
    unknown = x[0].isnan().nonzero()[:, 0].tolist()
    name = columns.names[target]
    if target not in unknown:
        raise ValueError(f"row has a value for {name}, so there is nothing left to learn about it; leave it out")
    candidates = [column for column in unknown if column != target]
    if not candidates:
        raise ValueError(f"row has a value for every column but {name}; leave out what you could measure")
    known = columns.forward(x).float().to(run.device)
    completions = Completions(run, known, run._draw_cells(known, n, generator)[:, 0])
    gains = [completions.information(target, column) for column in bar(candidates, "columns")]
    table = pandas.DataFrame(
        {
            "nats": [float(gain.mean()) for gain in gains],
            "standard_error": [float(gain.std()) / n**0.5 for gain in gains],
        },
        pandas.Index([columns.field(columns.columns[column]).label for column in candidates], name="column"),
    )
    return table.sort_values("nats", ascending=False, kind="stable")


class Completions:
    """Draws of a row, (n, e), of which ``known``, (1, e), is known.  Columns are places in the user's table."""

    def __init__(self, run: "TableRun", known: Float[Tensor, "1 e"], drawn: Float[Tensor, "n e"]) -> None:
        self.run, self.known, self.drawn = run, known, drawn
        self.column_of = torch.tensor([*run.columns.numbers, *run.columns.coded], device=known.device)

    def information(self, target: int, candidate: int) -> Float64[Tensor, "n"]:
        """Numbers whose mean is the mutual information of two columns."""
        for category, measured in ((target, candidate), (candidate, target)):  # mutual information is symmetric
            if isinstance(self.run.columns.columns[category], Discrete):
                return self.divergences(category, measured)
        return self.log_densities(target, candidate) - self.log_densities(target)

    def divergences(self, category: int, measured: int) -> Float64[Tensor, "n"]:
        """The Kullback-Leibler divergences of the probabilities after a measurement from their mean."""
        model, code = self.run.conditionals, self.run.columns.coded.index(category)
        rows = torch.where(self.column_of == measured, self.drawn, self.known)
        with threads_for(model):
            p = model.log_chances(rows, code, complete=True).cpu().double().exp()
        return (torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))).sum(1)

    def log_densities(self, target: int, *measured: int) -> Float64[Tensor, "n"]:
        """Of a number given what is known and measured."""
        model, sampling = self.run.conditionals, self.run.recipe.sampling
        is_target = self.column_of == target
        is_drawn = torch.isin(self.column_of, torch.tensor([target, *measured], device=is_target.device))
        # Only one number is a target, so that the trace has one term, which a single probe gives exactly.
        solve = partial(
            log_prob,
            sigma_max=sampling.sigma_max,
            sigma_min=sampling.sigma_min,
            probes=1,
            generator=torch.Generator(self.run.device).manual_seed(0),
        )
        rows = torch.where(is_drawn, self.drawn, self.known)
        with uncompiled(), threads_for(model):
            return model.log_densities(rows, solve, sampling.sigma_max, known=~is_target).log_prob.cpu().double()
