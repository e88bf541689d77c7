"""Learning from tables with missing cells: the Gaussian that training starts around, and the masks of training rows.

A mask gives each number and code of a row its role:

- an *observed* number is an input of the network, often with noise, and so is a *known* code;
- a *target* is a number that gets noise and whose score is learned;
- an *absent* number is neither, because it is unknown or doesn't exist: the cell is missing or has a frequent value;
- an *unknown* code isn't an input; in the rows that codes are learned from, its probabilities are learned.

A missing cell is a value of its column's code, so every row is complete, and what is known in a mask doesn't depend on
what is missing in the row.  So no conditional is learned from the rows without gaps only.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from ncsn.batching import Batch, batches
from ncsn.conditionals import ABSENT, Condition, ConditionalModel, Gaussian, indicators
from ncsn.data.columns import Columns, columns_of
from ncsn.data.dataset import Curriculum, Dataset, Loss
from ncsn.noise import noise_like
from ncsn.score import PreconditioningName, ScoreModel
from ncsn.settings import OF_IMAGES
from ncsn.tables.constraints import Constraint, announce_constraints, find_constraints
from ncsn.validation import NetworkName, counted

NARROW = 256  # coordinates; with more, a covariance takes longer than the network
INDEPENDENT = 3  # rows added to a table's covariance, as if their columns were independent
MAX_ROWS = 2000
EM_STEPS = 20
MAX_INDICATORS, MAX_WITH_GAPS = 48, 32  # of codes, in the Gaussian; the latter with codes that only mark gaps
WAVES, ROWS_FOR_WAVES, MAX_WAVY = 5, 500, 128  # frequencies; rows to learn them from; numbers, or the input is long
NARROW_WITH_GAPS, MAX_PAIRWISE_ROWS = 40, 20_000  # numbers for EM with missing cells; rows for pairs of wider tables
FLOORS = (0.01, 0.05, 0.2)  # of a correlation's eigenvalues
NUMBERS_AT_ONCE = 2**24  # in the matrices of a chunk of rows
ARITHMETIC = 1e9  # held-out rows with gaps, times the cube of the number of coordinates: a second
MAX_REPEATS, COLUMNS_PER_REPEAT = 16, 16  # of a row with gaps in a batch of a wide table
HIDDEN = 0.75  # share of patterns in which the columns that the user wants hidden are unknown and all others known
JOINT = 0.3  # smallest share of rows in which nothing is observed
PATTERNS = 16  # choices of known columns in a batch, each shared by many rows
# Exact values identify the rows of a small table, which are then memorised; noisy values don't.
NOISY, NOISY_ROWS = 0.6, 600  # largest share of patterns with noisy values; that share times the table's rows
DROPPED = 0.5  # share of the columns, because the pattern of a row's missing cells would identify it, too
LOG_NOISE_MEAN, LOG_NOISE_STD, MAX_NOISE = -1.0, 1.5, 3.0  # in standard deviations of a column
NUMBERLESS = 1.5  # largest share of the known columns whose number is unknown; above 1, so that often all are
CODES, ONLY_GAPS = 1 / 3, 0.2  # share of a batch that learns codes; fewer if all of them only say what is missing
MOST_GROUPS = 4  # of columns that are drawn one after the other; each costs as much as all numbers together
DEPENDENT = 4.0  # standard errors of a correlation
EXPLAINED = 1e-3  # of the standard deviation; what is left of it is rounding
MOST_FACTS = 2 * 10**7  # numbers from which correlations are computed


def e_step(
    gaussian: Gaussian, x: Float[Tensor, "n d"]
) -> Iterator[tuple[Float64[Tensor, "b d"], Float64[Tensor, "b"], Float64[Tensor, "d d"]]]:
    """Completed rows, log densities and the sum of conditional covariances, in chunks with a matrix for each pattern.

    Missing cells get their conditional means: μ_m + S_mo S_oo⁻¹ (x_o − μ_o).  NaN is missing.
    """
    mean, covariance = gaussian
    for rows in torch.split(x.double(), max(1, NUMBERS_AT_ONCE // len(mean) ** 2)):
        missing = rows.isnan()
        patterns, which, counts = torch.unique(missing, dim=0, return_inverse=True, return_counts=True)
        known = ~(patterns[:, :, None] | patterns[:, None])
        # S_oo and its inverse in the places of observed cells; ones, and then zeros, in those of missing cells.
        factors = torch.linalg.cholesky(torch.where(known, covariance, 0.0) + torch.diag_embed(patterns.double()))
        inverses = torch.where(known, torch.cholesky_inverse(factors), 0.0)
        log_volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        centred = (rows - mean).masked_fill(missing, 0.0)
        solved = centred @ inverses[0] if len(patterns) == 1 else (centred[:, None] @ inverses[which])[:, 0]
        logs = -(solved * centred).sum(1) / 2 - log_volumes[which]
        conditional = (counts[:, None, None] * (covariance - covariance @ inverses @ covariance)).sum(0)
        yield torch.where(missing, mean + solved @ covariance, rows), logs, conditional


def log_densities(gaussian: Gaussian, x: Float[Tensor, "n d"]) -> Float64[Tensor, "n"]:
    """Log density of the cells of each row that are not NaN, up to a constant."""
    return torch.cat([logs for _, logs, _ in e_step(gaussian, x)])


def improve(gaussian: Gaussian, x: Float[Tensor, "n d"]) -> Gaussian:
    """One step of EM (Dempster, Laird & Rubin 1977)."""
    n, d = x.shape
    total = torch.zeros(d).double()
    squares = INDEPENDENT * torch.eye(d).double()
    for rows, _, conditional in e_step(gaussian, x):
        total += rows.sum(0)
        squares += rows.T @ rows + conditional
    mean = total / n
    return Gaussian(mean, (squares - n * torch.outer(mean, mean)) / (n + INDEPENDENT))


def pairwise(x: Float[Tensor, "n d"]) -> Iterator[Gaussian]:
    """Gaussians from all pairs of observed cells, which is consistent if cells are missing at random places.

    Such a covariance can have negative eigenvalues: each Gaussian has another floor for those of the correlation.
    """
    observed = (~x.isnan()).double()
    values = x.double().nan_to_num(0.0)
    mean = values.sum(0) / observed.sum(0).clamp(min=1)
    centred = (values - mean) * observed
    counts = observed.T @ observed
    prior = INDEPENDENT * torch.eye(x.shape[1])
    covariance = (centred.T @ centred + prior) / (counts + INDEPENDENT)
    stds = covariance.diagonal().sqrt()
    eigenvalues, axes = torch.linalg.eigh(covariance / stds / stds[:, None])
    for floor in FLOORS:
        correlation = (axes * eigenvalues.clamp(min=floor)) @ axes.T
        yield Gaussian(mean, correlation * stds * stds[:, None])


def fit_gaussian(train: Float[Tensor, "n f"], held_out: Float[Tensor, "m f"]) -> Gaussian:
    """The Gaussian of numbers and indicators; NaN is a missing number.

    The covariance is shrunk, which imputes real tables as well as the shrinkage of Ledoit & Wolf (2004).  EM inverts a
    matrix for each pattern of missing cells, so wide tables with gaps have a ``pairwise`` covariance, the one under
    which held-out rows have the largest density.  For more than 256 coordinates they are independent.
    """
    d = train.shape[1]
    if d > NARROW:
        mean = train.nanmean(0)
        variances = (train - mean).square().nanmean(0).clamp(min=1e-4)
        return Gaussian(mean.cpu(), variances.diag().cpu())
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    x = train[order[:MAX_ROWS]].cpu()
    incomplete = bool(x.isnan().any())
    if incomplete and d > NARROW_WITH_GAPS:
        held_out = held_out[: affordable_rows(held_out, MAX_ROWS)].cpu()
        candidates = list(pairwise(train[order[:MAX_PAIRWISE_ROWS]].cpu()))
        return max(candidates, key=lambda gaussian: float(log_densities(gaussian, held_out).mean()))
    gaussian = Gaussian(torch.zeros(d).double(), torch.eye(d).double())
    gaussian = improve(gaussian, x.nan_to_num(0.0))
    for _ in range(EM_STEPS if incomplete else 0):
        gaussian = improve(gaussian, x)
    return gaussian


def affordable_rows(x: Float[Tensor, "n d"], most: int) -> int:
    """How many held-out rows to use: with gaps, each may have a pattern of its own, whose matrix is inverted."""
    if not bool(x.isnan().any()):
        return most
    return min(most, max(128, int(ARITHMETIC / max(1, x.shape[1]) ** 3)))


def log_shares(columns: Columns, train: Float[Tensor, "n e"]) -> Float64[Tensor, "k"]:
    """The logarithm of the share of each value of each code, with half a row added to each."""
    counts = indicators(train[:, len(columns.numbers) :], columns.codes).double().sum(0)
    return ((counts + 0.5) / (len(train) + 1)).log()


def group_columns(columns: Columns, train: Float[Tensor, "n e"]) -> list[int]:
    """The group of each column: values are taken to be missing at random given the columns of earlier groups.

    So a column follows when where its cells are missing depends on no column of its own group or of later ones, given
    the earlier ones.  If that holds for none, the one with the weakest dependence comes next.
    """
    missing, facts, owner = facts_of(columns, train)
    shares = missing.mean(0).tolist()
    groups = [0] * len(columns.names)
    if sum(share > 0 for share in shares) > NARROW:
        return groups
    remaining = {*range(len(columns.names))}
    for group in range(MOST_GROUPS):
        gappy = [i for i in remaining if shares[i]]
        dependent = dict[int, float]()
        if gappy and group < MOST_GROUPS - 1:
            dependent = dependence(missing, facts, owner, remaining, gappy)
        weakest = sorted(dependent, key=lambda i: dependent[i])[:1]
        for i in (remaining - dependent.keys()) or weakest:
            groups[i] = group
            remaining.remove(i)
    return groups


def facts_of(
    columns: Columns, train: Float[Tensor, "n e"]
) -> tuple[Float64[Tensor, "n m"], Float64[Tensor, "n k"], Int64[Tensor, "k"]]:
    """Where cells of each column are missing, its values, their squares and indicators, and the column of each of them.

    These are 0 on average, and where they are missing.
    """
    d = len(columns.numbers)
    x = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))].cpu()
    x = x[: max(1000, MOST_FACTS // (2 * d + sum(columns.codes)))].double()
    missing = torch.zeros(len(x), len(columns.columns)).double()
    blocks = [x[:, :d], x[:, :d] ** 2]
    owner = 2 * columns.numbers
    for i, count, gap, code in zip(columns.coded, columns.codes, columns.gaps, x.T[d:], strict=True):
        missing[:, i] = code == gap
        blocks.append(indicators(code[:, None], (count,)).where((code != gap)[:, None], torch.nan))
        owner = owner + [i] * count
    facts = torch.cat(blocks, 1)
    return missing, (facts - facts.nanmean(0)).nan_to_num(0.0), torch.tensor(owner)


def dependence(
    missing: Float64[Tensor, "n m"],
    facts: Float64[Tensor, "n k"],
    owner: Int64[Tensor, "k"],
    remaining: set[int],
    gappy: list[int],
) -> dict[int, float]:
    """The columns of ``gappy`` with gaps that depend on a column of ``remaining`` given the others, and how much.

    That is their largest correlation beyond chance with a fact of such a column, among the rows in which it is
    observed, after linear regression on the facts of all columns that don't remain.
    """
    earlier = torch.tensor([i not in remaining for i in range(missing.shape[1])])
    known = torch.cat([torch.ones_like(missing[:, :1]), missing[:, earlier], facts[:, earlier[owner]]], 1)
    known = known if known.shape[1] <= NARROW else known[:, :1]
    known = known / known.norm(dim=0).clamp(min=1e-9)
    strengths = torch.zeros(len(gappy)).double()
    complete = [i for i in remaining if i not in gappy]
    for block in filter(None, [complete, *([i] for i in gappy)]):
        rows = (missing[:, block] == 0).all(1)
        of_block = torch.isin(owner, torch.tensor(block))
        responses = torch.cat([missing[:, gappy], facts[:, of_block]], 1)[rows]
        responses = responses - responses.mean(0)
        predictors = known[rows]
        ridge = predictors.T @ predictors + 1e-9 * torch.eye(predictors.shape[1])
        residuals = responses - predictors @ torch.linalg.solve(ridge, predictors.T @ responses)
        norms = residuals.norm(dim=0)
        residuals = residuals / norms.where(norms > EXPLAINED * responses.norm(dim=0), torch.inf)
        correlations = (residuals[:, : len(gappy)].T @ residuals[:, len(gappy) :]).abs()
        chance = DEPENDENT / math.sqrt(max(1, len(predictors) - predictors.shape[1]))
        correlations = pad(correlations.where(correlations > chance, 0.0), (1, 0))
        strengths = torch.maximum(strengths, correlations.amax(1))
    return {i: strength for i, strength in zip(gappy, strengths.tolist(), strict=True) if strength}


class Masked(NamedTuple):
    """The two parts of a batch of rows: numbers are learned from the first, and codes from the last rows.

    ``numbers``: the condition of the first rows; None without numbers.
    ``codes``: that of the others; None without codes.
    ``truth``: the codes of the others, NaN where they are known, so that there is nothing to learn.
    """

    numbers: Condition | None
    codes: Condition | None
    truth: Float[Tensor, "b c"]


@dataclass(frozen=True)
class Masks:
    """Draws the masks of training rows: the rows of a pattern have the same one.

    ``owner``: the column of each number and code.
    ``noisy``: the share of patterns whose observed values have noise; its level is an input of the model.
    ``joint``: the share of rows in which no number of the group is observed.
    ``hidden``: the numbers and codes of columns that are unknown, and all others known, in a share of the patterns.
    """

    model: ConditionalModel
    owner: Int64[Tensor, "e"]
    joint: float
    noisy: float
    hidden: Bool[Tensor, "e"]

    @classmethod
    def of(
        cls,
        model: ConditionalModel,
        columns: Columns,
        rows: int,
        *,
        noisy: bool,
        joint: float = JOINT,
        hidden: tuple[str, ...] = (),
    ) -> "Masks":
        """Masks for a table with ``rows`` training rows; ``noisy``: whether some observed values get noise."""
        owner = torch.tensor([*columns.numbers, *columns.coded], device=model.order.device)
        # With few columns, all numbers of observed columns are equally likely.
        joint = max(joint, 1 / max(1, model.d))
        share_noisy = min(NOISY, NOISY_ROWS / rows) if noisy else 0.0
        is_hidden = torch.tensor([columns.names[i] in hidden for i in owner.tolist()], device=owner.device)
        return cls(model, owner, joint, share_noisy, is_hidden.bool())

    @property
    def share(self) -> float:
        """The share of rows that codes are learned from."""
        d, gaps = self.model.d, self.model.gaps
        if not len(gaps) or not d:
            return float(len(gaps) > 0)
        values = torch.tensor(self.model.counts, device=gaps.device) - (gaps >= 0).long()
        share = ONLY_GAPS if bool((values == 1).all()) else CODES
        hides_numbers, hides_codes = bool(self.hidden[:d].any()), bool(self.hidden[d:].any())
        # The rows that are there for hidden columns teach only what these consist of.
        share_if_hidden = float(hides_codes) if hides_numbers != hides_codes else share
        return share + HIDDEN * (share_if_hidden - share)

    def draw(self, x: Float[Tensor, "b e"], generator: torch.Generator, repeats: int = 1) -> Batch:
        """A batch of masked rows.  ``repeats``: divides their number; those for numbers occur as often instead."""
        d = self.model.d
        x = x[: -(-len(x) // repeats)]
        n = len(x) - round(self.share * len(x))
        numbers, clean = self.numbers(x[:n], generator) if n else (None, x[:0, :d])
        codes, truth = self.codes(x[n:], generator) if n < len(x) else (None, x[:0, d:])
        clean = torch.cat([clean.repeat_interleave(repeats, 0), x[n:, :d].nan_to_num(0.0)])
        return Batch(clean, given=Masked(numbers, codes, truth))

    def numbers(self, x: Float[Tensor, "b e"], generator: torch.Generator) -> tuple[Condition, Float[Tensor, "b d"]]:
        """The condition of rows that numbers are learned from, and these numbers without noise."""
        d = self.model.d
        which = assign_patterns(x)
        groups = torch.unique(self.model.order[:d])
        patterns = min(PATTERNS, len(x))
        group = groups[torch.randint(len(groups), (patterns, 1), generator=generator, device=x.device)]
        known, target = self.known_in_group(group, x, generator)
        if bool((self.model.gaps >= 0).any()):  # now and then, other columns are unknown as well
            dropped = self.drop_columns(patterns, x, generator)
            known, target = known & ~dropped, target & ~dropped[:, :d]
        if bool(self.hidden[:d].any()):
            hides, known_others, hidden_target = self.hidden_columns(group, x, generator)
            known = torch.where(hides, known_others, known)
            target = torch.where(hides, hidden_target, target)
        condition = self.condition(x, known[which], target[which], which, generator)
        return condition, torch.where(condition.target, x[:, :d], condition.values)

    def known_in_group(
        self, group: Int64[Tensor, "p 1"], x: Float[Tensor, "b e"], generator: torch.Generator
    ) -> tuple[Bool[Tensor, "p e"], Bool[Tensor, "p d"]]:
        """What is known in each pattern, and the targets: the other numbers of its group.

        That is random numbers of the group, all of its codes, the earlier groups, and sometimes later columns.
        """
        d, order = self.model.d, self.model.order
        columns = self.draw_for_columns(len(group), x, generator)
        rates = uniform(len(group), 2, x, generator)
        inside = (order == group)[:, :d]
        ranks = torch.where(inside, columns[:, :d], 2.0).argsort(1).argsort(1)
        most = inside.sum(1, keepdim=True) - 1
        counts = ((rates[:, :1] * most).floor() + 1).minimum(most)
        joint = torch.arange(len(group), device=x.device) < round(len(group) * self.joint)
        target = inside & ((ranks >= counts) | joint[:, None])
        known = (order <= group) | (columns < 2 * rates[:, 1:] - 1)
        known[:, :d] &= ~target
        return known, target

    def drop_columns(self, patterns: int, x: Float[Tensor, "b e"], generator: torch.Generator) -> Bool[Tensor, "p e"]:
        """The numbers and codes of columns that are unknown in each pattern: up to half of the columns."""
        return self.draw_for_columns(patterns, x, generator) < DROPPED * uniform(patterns, 1, x, generator)

    def hidden_columns(
        self, group: Int64[Tensor, "p 1"], x: Float[Tensor, "b e"], generator: torch.Generator
    ) -> tuple[Bool[Tensor, "p 1"], Bool[Tensor, "p e"], Bool[Tensor, "p d"]]:
        """Which patterns are for the columns to be hidden, and for these what is known in them and what is a target.

        The targets are the hidden numbers of the group.  Other columns are known, and so is what is drawn before.
        """
        d, order = self.model.d, self.model.order
        target = (order == group)[:, :d] & self.hidden[:d]
        hides = target.any(1, keepdim=True) & (uniform(len(group), 1, x, generator) < HIDDEN)
        known = ~self.hidden | (order <= group)
        known[:, :d] &= ~target
        return hides, known, target

    def codes(self, x: Float[Tensor, "b e"], generator: torch.Generator) -> tuple[Condition, Float[Tensor, "b c"]]:
        """The condition of rows that codes are learned from, and these codes: from one to all, given random columns."""
        d, count = self.model.d, self.column_count
        which = assign_patterns(x)
        patterns = min(PATTERNS, len(x))
        order = uniform(patterns, count, x, generator)
        # One column with a code is last in its pattern's order, so that it's unknown.
        coded = torch.unique(self.owner[d:])
        last = coded[torch.randint(len(coded), (patterns,), generator=generator, device=x.device)]
        order[torch.arange(patterns, device=x.device), last] = 2.0
        ranks = order.argsort(1).argsort(1)
        known = ranks < torch.randint(0, count, (patterns, 1), generator=generator, device=x.device)
        known = known[:, self.owner]
        known[:, :d] &= ~self.numbers_to_follow(patterns, x, generator)
        if bool(self.hidden[d:].any()):
            hides = uniform(patterns, 1, x, generator) < HIDDEN
            known = torch.where(hides, ~self.hidden, known)
        known = known[which]
        condition = self.condition(x, known, torch.zeros_like(known[:, :d]), which, generator)
        return condition, x[:, d:].masked_fill(known[:, d:], torch.nan)

    def numbers_to_follow(
        self, patterns: int, x: Float[Tensor, "b e"], generator: torch.Generator
    ) -> Bool[Tensor, "p d"]:
        """The numbers that are unknown in each pattern though their code is known, because codes are drawn first."""
        rates = NUMBERLESS * uniform(patterns, 1, x, generator)
        follows = self.draw_for_columns(patterns, x, generator)[:, : self.model.d] < rates
        return follows & (self.model.indicator >= 0)

    @property
    def column_count(self) -> int:
        """The number of columns."""
        return int(self.owner.max()) + 1

    def draw_for_columns(self, patterns: int, like: Tensor, generator: torch.Generator) -> Float[Tensor, "p e"]:
        """A number between 0 and 1 for each column of each pattern, which the column's number and code share."""
        return uniform(patterns, self.column_count, like, generator)[:, self.owner]

    def condition(
        self,
        x: Float[Tensor, "b e"],
        known: Bool[Tensor, "b e"],
        target: Bool[Tensor, "b d"],
        which: Int64[Tensor, "b"],
        generator: torch.Generator,
    ) -> Condition:
        """The condition of rows given what is known; ``which``: the pattern of each row."""
        d = self.model.d
        values, noise = self.add_noise(x, which, generator)
        unknown = torch.where(target, torch.nan, ABSENT)
        numbers = torch.where(known[:, :d], values, unknown).masked_fill(x[:, :d].isnan(), ABSENT)
        codes = torch.where(known[:, d:], x[:, d:], torch.nan)
        noise = noise * numbers.isfinite().any(1)
        wanted = () if bool(target.any()) else range(len(self.model.counts))
        return self.model.condition(torch.cat([numbers, codes], 1), noise, wanted=wanted)

    def add_noise(
        self, x: Float[Tensor, "b e"], which: Int64[Tensor, "b"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b"]]:
        """Observed numbers with the noise of their pattern, and its level; many patterns have none."""
        patterns = int(which.max()) + 1
        normal = torch.randn(patterns, generator=generator, device=x.device, dtype=x.dtype)
        levels = (normal * LOG_NOISE_STD + LOG_NOISE_MEAN).exp().clamp(max=MAX_NOISE)
        is_noisy = torch.rand(patterns, generator=generator, device=x.device, dtype=x.dtype) < self.noisy
        noise = (levels * is_noisy)[which]
        numbers = x[:, : self.model.d]
        return numbers + noise[:, None] * noise_like(numbers, generator), noise


def assign_patterns(x: Float[Tensor, "b e"]) -> Int64[Tensor, "b"]:
    """The pattern of each row; consecutive rows share one."""
    return torch.arange(len(x), device=x.device) * min(PATTERNS, len(x)) // len(x)


def uniform(rows: int, columns: int, like: Tensor, generator: torch.Generator) -> Float[Tensor, "r c"]:
    """Numbers between 0 and 1, with the dtype and on the device of ``like``."""
    return torch.rand(rows, columns, generator=generator, device=like.device, dtype=like.dtype)


def code_losses(model: ConditionalModel, given: Masked) -> Float[Tensor, "b"]:
    """The cross-entropy of unknown codes of each row in nats, divided by the number of codes."""
    assert given.codes is not None
    total = torch.zeros(len(given.truth), device=given.truth.device)
    logits = torch.split(model.logits(given.codes), list(model.counts), 1)
    for code_logits, truth in zip(logits, given.truth.T, strict=True):
        labels = truth.nan_to_num(-100.0).long()  # torch's label for an example without a loss
        total = total + cross_entropy(code_logits, labels, reduction="none")
    return total / max(1, len(model.counts))


class MaskedCurriculum(Curriculum):
    """Batches of rows in which random cells are known."""

    def __init__(self, data: "Table", model: ConditionalModel, hidden: tuple[str, ...]) -> None:
        super().__init__(data.held_out)
        self.data = data
        self.model = model
        self.hidden = hidden

    def batches(self, drawn: Iterator[Batch], generator: torch.Generator) -> Iterator[Batch]:
        """Endless random batches, in which random cells are known.

        If inverting a matrix for each row with gaps would take longer than the network, a batch has fewer rows, and
        numbers are learned from each of them several times, with fresh noise.
        """
        masks = Masks.of(self.model, self.data.columns, self.data.n, noisy=True, hidden=self.hidden)
        has_gaps = bool(self.data.numbers.isnan().any())
        repeats = min(MAX_REPEATS, max(1, len(self.model.mean) // COLUMNS_PER_REPEAT)) if has_gaps else 1
        for batch in drawn:
            yield masks.draw(batch.x, generator, repeats)

    def held_out(self, examples: Batch) -> Callable[[torch.Generator], Iterator[Batch]]:
        """Half of the held-out rows are for the joint density, the other half for conditionals with fixed masks."""
        generator = torch.Generator(examples.x.device).manual_seed(1)
        count = affordable_rows(examples.x, sum(self.sizes))
        rows = next(batches(examples.x, count, generator=generator)).x
        masks = Masks.of(self.model, self.data.columns, self.data.n, noisy=False, joint=0.5, hidden=self.hidden)
        batch = masks.draw(rows, generator)
        return lambda _: iter([batch])

    def loss(self, loss: Loss) -> Loss:
        """The loss of scores for the rows that numbers are learned from, followed by that of codes for the others."""

        def loss_of_both(model: ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
            given = batch.given
            assert isinstance(given, Masked) and isinstance(model, ConditionalModel)  # noqa: PT018
            losses, sigmas = list[Tensor](), list[Tensor]()
            if given.numbers is not None:
                numbers = batch.x[: len(batch.x) - len(given.truth)]
                score_losses, levels = loss(model, Batch(numbers, given=given.numbers))
                losses.append(score_losses)
                sigmas.append(levels)
            if len(given.truth):
                losses.append(code_losses(model, given))
                sigmas.append(torch.full_like(given.truth[:, 0], torch.nan))
            return torch.cat(losses), torch.cat(sigmas)

        return loss_of_both

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "b"]]:
        """The rows for the joint density, those for conditionals of numbers, and those for codes."""
        given = batch.given
        assert isinstance(given, Masked)
        part_of_row = torch.full((len(batch.x),), 2, device=batch.x.device)
        names = {2: "codes"} if len(given.truth) else {}
        if given.numbers is not None:
            part_of_row[: len(batch.x) - len(given.truth)] = given.numbers.observed.any(1).long()
            names = {0: "joint", 1: "conditionals"} | names
        return {name: part_of_row == part for part, name in names.items()}


@dataclass(frozen=True)
class Table(Dataset):
    """Rows of numbers, categories and dates, possibly with missing cells; every conditional is learned."""

    noun: ClassVar[str] = "rows"
    network: ClassVar[NetworkName] = "mlp"
    minutes: ClassVar[float] = 1.5
    headroom: ClassVar[float] = 10.0  # columns may have tails
    # Where a network of standardised columns has most to learn.
    log_sigma_mean: ClassVar[tuple[float, float]] = (-0.8, -0.8)
    log_sigma_std: ClassVar[float] = 1.6
    # Rows are cheap, and a small table is soon memorised.  An evaluation costs up to four steps.
    held_out: ClassVar[tuple[int, ...]] = (4096,)
    evaluations: ClassVar[int] = 100
    evaluation_power: ClassVar[float] = 2.0
    evaluation_spacing: ClassVar[int] = 25
    evaluates_start: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.0
    patience: ClassVar[float] = 0.25
    posterior_targets: ClassVar[bool] = False
    refused: ClassVar[tuple[str, ...]] = (
        *(*OF_IMAGES, "method", "preconditioning"),
        *("flip", "start", "posterior_above"),
    )
    shown: ClassVar[int] = 10  # a picture shows more points than images

    @cached_property
    def columns(self) -> Columns:
        """The columns of the table; called 0, 1, … if its rows aren't transformed."""
        return columns_of(self.transform, self.shape[0])

    @property
    def numbers(self) -> Float[Tensor, "n d"]:
        """The training rows, without codes."""
        return self.train[:, : len(self.columns.numbers)]

    @property
    def codes(self) -> tuple[int, ...]:
        return self.columns.codes

    @cached_property
    def indicated(self) -> tuple[int, ...]:
        """The codes that have indicators in the Gaussian: as many as there is room for.

        Those that stand for values come first, then those that only say whether a cell is missing.
        """
        chosen, used = list[int](), 0
        only_gaps = [count == 2 and gap >= 0 for count, gap in zip(self.codes, self.columns.gaps, strict=True)]
        for code in sorted(range(len(self.codes)), key=lambda i: (only_gaps[i], self.codes[i])):
            if used + self.codes[code] <= (MAX_WITH_GAPS if only_gaps[code] else MAX_INDICATORS):
                chosen.append(code)
                used += self.codes[code]
        return tuple(sorted(chosen))

    @property
    def network_arguments(self) -> dict[str, int | tuple[int, ...]]:
        few_numbers = 0 < len(self.columns.numbers) <= MAX_WAVY
        waves = {"waves": WAVES} if few_numbers and self.n >= ROWS_FOR_WAVES else {}
        codes = {"codes": self.codes, "indicated": self.indicated} if self.codes else {}
        return codes | waves

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns.names

    @property
    def width(self) -> str:
        return counted(len(self.names), "column")

    @cached_property
    def constraints(self) -> list[Constraint]:
        """The constraints that all training rows obey, such as "start ≤ end"."""
        return find_constraints(self.columns, self.transform.restore(self.train.double()).cpu().double().numpy())

    def announce(self) -> None:
        """Log the description, what was done to the columns, and what all training rows obey."""
        super().announce()
        announce_constraints(self.constraints, self.n)

    def start(self, preconditioning: PreconditioningName) -> dict[str, float | Tensor]:
        """A Gaussian, the shares of codes, and the order of columns, from rows with the codes of missing cells."""
        if preconditioning != "conditional":
            return super().start(preconditioning)
        columns, d = self.columns, len(self.columns.numbers)
        inside = torch.tensor(self.indicated, dtype=torch.long, device=self.train.device)
        counts = tuple(self.codes[code] for code in self.indicated)

        def coordinates(x: Tensor) -> Tensor:
            return torch.cat([x[:, :d], indicators(x[:, d:][:, inside], counts)], 1)

        gaussian = fit_gaussian(coordinates(self.train), coordinates(self.validation))
        groups = group_columns(columns, self.train)
        code_of = {column: code for code, column in enumerate(columns.coded)}
        return {
            "mean": gaussian.mean,
            "covariance": gaussian.covariance,
            "log_shares": log_shares(columns, self.train),
            "order": torch.tensor([groups[i] for i in [*columns.numbers, *columns.coded]]).long(),
            "indicator": torch.tensor([code_of.get(i, -1) for i in columns.numbers]).long(),
            "gaps": torch.tensor(columns.gaps).long(),
        }

    def curriculum(self, model: ScoreModel, hidden: tuple[str, ...]) -> Curriculum:
        """Random cells of each row are known; a network of the user's own learns the joint density."""
        if not isinstance(model, ConditionalModel):
            return super().curriculum(model, hidden)
        return MaskedCurriculum(self, model, hidden)
