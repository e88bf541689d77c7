"""Drawing the missing values of a table by conditional sampling, and whether the draws hold what was hidden."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn.kinds.kind import Imputed
from ncsn.kinds.tables.columns import AnyColumn, Columns, Listed, columns_of
from ncsn.kinds.tables.conditional import ConditionalModel
from ncsn.kinds.tables.read import decode, read_frame, write_frame
from ncsn.kinds.tables.table import table_of_frame
from ncsn.machine.messages import bar, log
from ncsn.run import Run
from ncsn.samplers import NonFiniteSampleError
from ncsn.score import Sigma, tweedie

if TYPE_CHECKING:
    import pandas

# Draws of a Gaussian's conditionals are up to 3 % too wide with so many levels, from so much of σ_max down; with 12
# levels from σ_max 9 %, with 30 3 %.
LEVELS, TOP = 25, 0.4
DRAWS_AT_ONCE = 2**10  # rows whose activations fit a processor's cache
HIDDEN, DRAWS = 200, 20  # numbers that are hidden to measure coverage; draws of each


def draw_rows(run: Run, z: Float[Tensor, "b d"], n: int, generator: torch.Generator) -> Float[Tensor, "n b d"]:
    """``n`` draws of each row of ``z``, NaN where a cell is missing, given its other cells; in the user's units."""
    if not isinstance(run.score, ConditionalModel):
        needed = "impute needs a table that fit has learned with the package's network; run.posterior takes any score"
        raise ValueError(f"the run's score knows no conditionals; {needed}")
    model, condition, own = run.score, run.score.condition(z), run.recipe.sampling
    top = max(TOP * own.sigma_max, min(own.sigma_max, 2 * own.sigma_min))
    sampling = own.but(sampler="dpmpp-sde", levels=LEVELS, sigma_max=top, guidance=1.0)

    def score(x: Float[Tensor, "m d"], sigma: Sigma, /) -> Float[Tensor, "m d"]:
        value: Tensor = model(x, sigma, condition)
        return value

    # Around each row's own mean: what the score makes of nothing but noise.
    means = tweedie(score, model.data_mean.expand(z.shape), sampling.sigma_max)
    x = sampling.start(means.repeat_interleave(n, 0), n * len(z), generator=generator)
    *_, last = sampling.follow(score, x, generator=generator)
    if not bool(last.x.isfinite().all()):
        raise NonFiniteSampleError(f"draws of missing values are not finite, by {sampling.sampler}")
    return run.transform.inverse(last.x).view(len(z), n, -1).transpose(0, 1)


@torch.no_grad()
def impute_rows(run: Run, x: Float64[Tensor, "b d"], n: int, generator: torch.Generator) -> Imputed:
    """``n`` draws of the missing cells of each row."""
    z, missing = run.transform.forward(x, generator).float().to(run.device), x.isnan()
    draws = x.repeat(n, 1, 1)
    # Rows without a gap, those of gaps only, and all others.
    kinds, which = torch.unique(torch.stack([missing.any(1), missing.all(1)], 1), dim=0, return_inverse=True)
    parts = [
        (bool(kinds[number, 1]), part)
        for number in range(len(kinds))
        if bool(kinds[number, 0])
        for part in torch.split((which == number).nonzero()[:, 0], max(1, DRAWS_AT_ONCE // n))
    ]
    for empty, part in bar(parts, f"{len(x)} rows"):
        if empty:
            drawn = run.sample(n * len(part), seed=generator).view(n, len(part), -1)
        else:
            hidden = missing[part].to(run.device)
            drawn = draw_rows(run, z[part].masked_fill(hidden, torch.nan), n, generator)
        draws[:, part] = torch.where(missing[part], drawn.to(draws), draws[:, part])
    return summarise(run, x, draws)


def summarise(run: Run, x: Float64[Tensor, "b d"], draws: Float64[Tensor, "n b d"]) -> Imputed:
    """The draws' means and standard deviations; of text and of two values the most frequent one, and its share."""
    point, spread = draws.mean(0), draws.std(0)
    for i, column in enumerate(columns_of(run.transform, x.shape[1]).columns):
        if is_discrete(column):
            point[:, i] = draws[:, :, i].mode(0).values
            spread[:, i] = (draws[:, :, i] == point[:, i]).double().mean(0)
        elif column.date and bool((draws[:, :, i].nan_to_num() % 1 == 0).all()):
            point[:, i] = point[:, i].round()  # whole days
    return Imputed(x, draws, torch.where(x.isnan(), point, x), spread)


def calibration(run: Run, x: Float64[Tensor, "b d"], n: int = DRAWS, *, seed: int = 0) -> tuple[int, float]:
    """Of up to 200 known numbers, each hidden in turn, how many there are, and the share within ``n`` draws.

    A number that is equal to draws lies before or behind each of them at random.  For exact draws the share is
    (n − 1)/(n + 1).

    ``x``: rows that training has not seen, in the user's units, (b, d); NaN is missing.
    """
    good = ((~x.isnan()).sum(1) > 1) & run.transform.possible(x).all(1)
    places = (good[:, None] & ~x.isnan()).nonzero()
    if not len(places):
        return 0, 1.0
    generator = torch.Generator().manual_seed(seed)
    chosen = places[torch.randperm(len(places), generator=generator)[:HIDDEN]]
    known, hidden = x[chosen[:, 0]], chosen[:, 1:]
    truth, gaps = known.gather(1, hidden), known.scatter(1, hidden, torch.nan)
    made = run.impute(gaps, n, seed=seed).draws.gather(2, hidden.expand(n, -1, -1))
    ties = torch.rand(truth.shape, generator=generator, device="cpu") * ((made == truth).sum(0) + 1)
    rank = (made < truth).sum(0) + ties.floor()
    return len(known), float(((rank > 0) & (rank < n)).double().mean())


def impute_table(run: Run, rows: Path, n: int, seed: int, out: Path, draws: Path | None) -> list[str]:
    """Fill in a file's missing cells; what is there is written as it is.  Returns lines that say what was done.

    After the table's columns come, for every column with gaps, the standard deviations (sd) or shares of what was
    filled in, and the draws.  ``draws``: a second table, of whole rows: as many of each row with gaps as there are
    draws, with the numbers of the row and of the draw.
    """
    import pandas

    frame, columns = read_frame(rows).reset_index(drop=True), columns_of(run.transform, run.recipe.shape[0])
    x = torch.from_numpy(table_of_frame(frame, str(rows)).match(columns))
    possible = columns.possible(x)
    good = possible.all(1)
    for row, column in (~possible).nonzero().tolist()[:1]:
        what = f"{columns.place(row, column)} cannot be {frame[columns.names[column]].iloc[row]}, to judge by training"
        log.warning(f"{what}; {int((~good).sum())} of {len(x)} rows are left as they are")
    imputed, index = run.impute(x[good], n, seed=seed), good.nonzero()[:, 0].numpy()
    filled, spreads = frame.copy(), pandas.DataFrame(index=frame.index)
    for i, column in enumerate(columns.columns):
        missing = imputed.missing[:, i].numpy()
        if not missing.any():
            continue
        cells = index[missing]
        filled[column.name] = fill(frame[column.name], cells, decode(column, imputed.point[missing, i].numpy()))
        what = "share" if is_discrete(column) else "sd"
        spreads[f"{column.name} {what}"] = pandas.Series(imputed.spread[missing, i].numpy(), cells)
        for k, numbers in enumerate(imputed.draws[:, missing, i].numpy(), 1):
            spreads[f"{column.name} draw {k}"] = decode(column, numbers).set_axis(cells)
    if double := {*spreads.columns} & {*frame.columns}:
        raise ValueError(f"the table has a column {min(double)}, which is what {out} would call another; rename it")
    write_frame(pandas.concat([filled, spreads], axis=1), out)
    if draws is not None:
        write_frame(complete_rows(frame, columns, imputed, index), draws)
    lines = [f"{out}: {int(imputed.missing.sum())} missing values filled in"]
    if "coverage" in run.measured:
        expected = (DRAWS - 1) / (DRAWS + 1)
        share = f"{run.measured['coverage']:.0%} lay within {DRAWS} draws of them; {expected:.0%} should"
        lines.append(f"of {run.measured['coverage_of']:.0f} numbers that training had not seen, {share}")
    return lines


def is_discrete(column: AnyColumn) -> bool:
    """Whether a column's best guess is the value that most draws have: text, and one of two values."""
    return bool(column.categories) or (isinstance(column, Listed) and len(column.values) == 2)


def complete_rows(
    frame: "pandas.DataFrame", columns: Columns, imputed: Imputed, index: np.ndarray
) -> "pandas.DataFrame":
    """As many copies of each row with gaps as there are draws, after the numbers of the row and of the draw."""
    gaps, n = imputed.missing.any(1).numpy(), len(imputed.draws)
    rows = frame.iloc[np.repeat(index[gaps], n)].reset_index(drop=True)
    for i, column in enumerate(columns.columns):
        missing = np.repeat(imputed.missing[:, i].numpy()[gaps], n)
        numbers = imputed.draws[:, gaps, i].T.flatten().numpy()[missing]
        rows[column.name] = fill(rows[column.name], missing.nonzero()[0], decode(column, numbers))
    rows.insert(0, "draw", np.tile(np.arange(1, n + 1), int(gaps.sum())), allow_duplicates=True)
    rows.insert(0, "row", np.repeat(index[gaps] + 1, n), allow_duplicates=True)
    return rows


def fill(column: "pandas.Series[str]", places: np.ndarray, values: "pandas.Series[str]") -> "pandas.Series[str]":
    """A column with values in some places, of its own dtype where that can hold them."""
    import pandas

    held = pandas.api.types.infer_dtype(column, skipna=True)
    own = values.astype(str) if held in ("string", "empty") else values.dt.date if held == "date" else values
    filled = column.astype(object)
    filled.iloc[places] = list(own)
    try:
        return filled.astype(column.dtype)
    except (ValueError, TypeError):
        return filled.infer_objects()
