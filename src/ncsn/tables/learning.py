"""Learning from tables with missing cells: the Gaussian that training starts around, and the masks of training rows.

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

from ncsn.batching import Batch, batches
from ncsn.conditionals import ABSENT, Condition, ConditionalModel, Gaussian, in_gaussian, indicators
from ncsn.data.columns import Columns, columns_of
from ncsn.data.dataset import Curriculum, Dataset, Loss
from ncsn.noise import noise_like
from ncsn.score import PreconditioningName, ScoreModel
from ncsn.settings import OF_IMAGES
from ncsn.validation import NetworkName

NARROW = 256  # coordinates; with more, a covariance takes longer than the network
INDEPENDENT = 3  # rows added to a table's covariance, as if their columns were independent
MAX_ROWS = 2000
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
    for part in torch.split(x.double(), max(1, NUMBERS_AT_ONCE // len(mean) ** 2)):
        missing = part.isnan()
        patterns, which, counts = torch.unique(missing, dim=0, return_inverse=True, return_counts=True)
        known = ~(patterns[:, :, None] | patterns[:, None])
        factors = torch.linalg.cholesky(torch.where(known, covariance, 0.0) + torch.diag_embed(patterns.double()))
        inverses = torch.where(known, torch.cholesky_inverse(factors), 0.0)
        volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        off = (part - mean).masked_fill(missing, 0.0)
        solved = off @ inverses[0] if len(patterns) == 1 else (off[:, None] @ inverses[which])[:, 0]
        logs = -(solved * off).sum(1) / 2 - volumes[which]
        conditional = (counts[:, None, None] * (covariance - covariance @ inverses @ covariance)).sum(0)
        yield torch.where(missing, mean + solved @ covariance, part), logs, conditional


def log_densities(gaussian: Gaussian, x: Float[Tensor, "n d"]) -> Float64[Tensor, "n"]:
    """Log density of the cells of each row that are not NaN, up to a constant."""
    return torch.cat([logs for _, logs, _ in e_step(gaussian, x)])


def improve(gaussian: Gaussian, x: Float[Tensor, "n d"]) -> Gaussian:
    """One step of EM (Dempster, Laird & Rubin 1977)."""
    n, d = x.shape
    total, squares = torch.zeros(d).double(), INDEPENDENT * torch.eye(d).double()
    for rows, _, conditional in e_step(gaussian, x):
        total += rows.sum(0)
        squares += rows.T @ rows + conditional
    mean = total / n
    return Gaussian(mean, (squares - n * torch.outer(mean, mean)) / (n + INDEPENDENT))


def pairwise(x: Float[Tensor, "n d"]) -> Iterator[Gaussian]:
    """Gaussians from all pairs of observed cells, which is consistent if cells are missing at random places.

    Such a covariance can have negative eigenvalues: each Gaussian has another floor for those of the correlation.
    """
    observed, values = (~x.isnan()).double(), x.double().nan_to_num(0.0)
    mean = values.sum(0) / observed.sum(0).clamp(min=1)
    off, counts, prior = (values - mean) * observed, observed.T @ observed, INDEPENDENT * torch.eye(x.shape[1])
    covariance = (off.T @ off + prior) / (counts + INDEPENDENT)
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
        judges = held_out[: affordable_rows(held_out, MAX_ROWS)].cpu()
        found = list(pairwise(train[order[:MAX_PAIRWISE_ROWS]].cpu()))
        return max(found, key=lambda gaussian: float(log_densities(gaussian, judges).mean()))
    gaussian = Gaussian(torch.zeros(d).double(), torch.eye(d).double())
    for rows in [x.nan_to_num(0.0), *[x] * (20 if incomplete else 0)]:
        gaussian = improve(gaussian, rows)
    return gaussian


def affordable_rows(x: Float[Tensor, "n d"], most: int) -> int:
    """How many held-out rows to use: with gaps, each may have a pattern of its own, whose matrix is inverted."""
    return min(most, max(128, int(ARITHMETIC / max(1, x.shape[1]) ** 3))) if bool(x.isnan().any()) else most


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
    shares, groups, left = missing.mean(0).tolist(), [0] * len(columns.names), {*range(len(columns.names))}
    if sum(share > 0 for share in shares) > NARROW:
        return groups
    for group in range(MOST_GROUPS):
        gappy = [i for i in left if shares[i]]
        search = gappy and group < MOST_GROUPS - 1
        found = dependence(missing, facts, owner, left, gappy) if search else dict[int, float]()
        for i in (left - found.keys()) or sorted(found, key=lambda i: found[i])[:1]:
            groups[i] = group
            left.remove(i)
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
    missing, owner = torch.zeros(len(x), len(columns.columns)).double(), 2 * columns.numbers
    parts = [x[:, :d], x[:, :d] ** 2]
    for i, count, gap, code in zip(columns.coded, columns.codes, columns.gaps, x.T[d:], strict=True):
        missing[:, i] = code == gap
        parts.append(indicators(code[:, None], (count,)).where((code != gap)[:, None], torch.nan))
        owner = owner + [i] * count
    facts = torch.cat(parts, 1)
    return missing, (facts - facts.nanmean(0)).nan_to_num(0.0), torch.tensor(owner)


def dependence(
    missing: Float64[Tensor, "n m"],
    facts: Float64[Tensor, "n k"],
    owner: Int64[Tensor, "k"],
    left: set[int],
    gappy: list[int],
) -> dict[int, float]:
    """The columns of ``gappy`` with gaps that depend on a column of ``left`` given the others, and how much.

    That is their largest correlation beyond chance with a fact of such a column, among the rows in which it is
    observed, after linear regression on the facts of all columns that aren't left.
    """
    drawn = torch.tensor([i not in left for i in range(missing.shape[1])])
    known = torch.cat([torch.ones_like(missing[:, :1]), missing[:, drawn], facts[:, drawn[owner]]], 1)
    known = known if known.shape[1] <= NARROW else known[:, :1]
    known, found = known / known.norm(dim=0).clamp(min=1e-9), torch.zeros(len(gappy)).double()
    complete = [i for i in left if i not in gappy]
    for block in filter(None, [complete, *([i] for i in gappy)]):
        rows = (missing[:, block] == 0).all(1)
        both = torch.cat([missing[:, gappy], facts[:, torch.isin(owner, torch.tensor(block))]], 1)[rows]
        both, base = both - both.mean(0), known[rows]
        ridge = base.T @ base + 1e-9 * torch.eye(base.shape[1])
        residuals = both - base @ torch.linalg.solve(ridge, base.T @ both)
        norms = residuals.norm(dim=0)
        residuals = residuals / norms.where(norms > EXPLAINED * both.norm(dim=0), torch.inf)
        correlations = (residuals[:, : len(gappy)].T @ residuals[:, len(gappy) :]).abs()
        chance = DEPENDENT / math.sqrt(max(1, len(base) - base.shape[1]))
        correlations = torch.nn.functional.pad(correlations.where(correlations > chance, 0.0), (1, 0))
        found = torch.maximum(found, correlations.amax(1))
    return {i: strength for i, strength in zip(gappy, found.tolist(), strict=True) if strength}


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
    """Draws masks of training rows, with the same choice of columns for many of them.

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
        """The masks of a table with so many training rows; ``noisy``: whether some observed values have noise."""
        owner = torch.tensor([*columns.numbers, *columns.coded], device=model.order.device)
        # With few columns, all numbers of observed columns are equally likely.
        joint = max(joint, 1 / max(1, model.d))
        chosen = torch.tensor([columns.names[i] in hidden for i in owner.tolist()], device=owner.device)
        return cls(model, owner, joint, min(NOISY, NOISY_ROWS / rows) if noisy else 0.0, chosen.bool())

    @property
    def share(self) -> float:
        """The share of rows that codes are learned from."""
        gaps = self.model.gaps
        if not len(gaps) or not self.model.d:
            return float(len(gaps) > 0)
        counts = torch.tensor(self.model.counts, device=gaps.device) - (gaps >= 0).long()
        share = ONLY_GAPS if bool((counts == 1).all()) else CODES
        numbers, codes = bool(self.hidden[: self.model.d].any()), bool(self.hidden[self.model.d :].any())
        wanted = float(codes) if numbers != codes else share  # what rows teach that are there for hidden columns
        return share + HIDDEN * (wanted - share)

    def draw(self, x: Float[Tensor, "b e"], generator: torch.Generator, repeats: int = 1) -> Batch:
        """A batch of masked rows.  ``repeats``: divides their number; those for numbers occur as often instead."""
        x = x[: -(-len(x) // repeats)]
        last = round(self.share * len(x))
        rows, others = x[: len(x) - last], x[len(x) - last :]
        numbers, clean = self.numbers(rows, generator) if len(rows) else (None, rows[:, : self.model.d])
        codes, truth = self.codes(others, generator) if last else (None, others[:, self.model.d :])
        clean = torch.cat([clean.repeat_interleave(repeats, 0), others[:, : self.model.d].nan_to_num(0.0)])
        return Batch(clean, given=Masked(numbers, codes, truth))

    def uniform(self, *shape: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers between 0 and 1."""
        return torch.rand(*shape, generator=generator, device=like.device, dtype=like.dtype)

    def add_noise(
        self, x: Float[Tensor, "b e"], which: Int64[Tensor, "b"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b"]]:
        """Observed numbers with the noise of each pattern, and its level."""
        few = int(which.max()) + 1 if len(which) else 1
        levels = torch.randn(few, generator=generator, device=x.device, dtype=x.dtype) * LOG_NOISE_STD + LOG_NOISE_MEAN
        chosen = self.uniform(few, like=x, generator=generator) < self.noisy
        noise = (levels.exp().clamp(max=MAX_NOISE) * chosen)[which]
        numbers = x[:, : self.model.d]
        return numbers + noise[:, None] * noise_like(numbers, generator), noise

    def condition(
        self,
        x: Float[Tensor, "b e"],
        known: Bool[Tensor, "b e"],
        target: Bool[Tensor, "b d"],
        which: Int64[Tensor, "b"],
        generator: torch.Generator,
    ) -> Condition:
        """The condition of rows given what is known."""
        d = self.model.d
        values, noise = self.add_noise(x, which, generator)
        missing = x[:, :d].isnan()
        numbers = torch.where(known[:, :d], values, torch.where(target, torch.nan, ABSENT)).masked_fill(missing, ABSENT)
        codes = torch.where(known[:, d:], x[:, d:], torch.nan)
        noise = noise * numbers.isfinite().any(1)
        wanted = () if bool(target.any()) else range(len(self.model.counts))
        return self.model.condition(torch.cat([numbers, codes], 1), noise, wanted=wanted)

    def numbers(self, x: Float[Tensor, "b e"], generator: torch.Generator) -> tuple[Condition, Float[Tensor, "b d"]]:
        """Numbers of one group given all codes of that group, random other numbers of it, and the earlier groups.

        Later groups are unknown, or some of their columns are known.
        """
        d, n = self.model.d, len(x)
        few = max(1, min(PATTERNS, n))
        which = torch.arange(n, device=x.device) * few // max(1, n)
        order = self.model.order
        groups = torch.tensor(sorted({*order[:d].tolist()}), device=x.device)
        joint = torch.arange(few, device=x.device) < round(few * self.joint)
        group = groups[torch.randint(len(groups), (few, 1), generator=generator, device=x.device)]
        columns = self.uniform(few, int(self.owner.max()) + 1, like=x, generator=generator)[:, self.owner]
        rates = self.uniform(few, 2, like=x, generator=generator)
        inside, later = order == group, order > group
        ranks = torch.where(inside[:, :d], columns[:, :d], 2.0).argsort(1).argsort(1)
        most = inside[:, :d].sum(1, keepdim=True) - 1
        counts = ((rates[:, :1] * most).floor() + 1).minimum(most)
        observed = (ranks < counts) & ~joint[:, None]
        known = torch.where(later, (columns < 2 * rates[:, 1:] - 1), True)
        known[:, :d] &= torch.where(inside[:, :d], observed, True)
        target = inside[:, :d] & ~observed
        if bool((self.model.gaps >= 0).any()):  # now and then, other columns are unknown as well
            dropped = self.uniform(few, int(self.owner.max()) + 1, like=x, generator=generator)[:, self.owner]
            dropped = dropped < DROPPED * self.uniform(few, 1, like=x, generator=generator)
            known, target = known & ~dropped, target & ~dropped[:, :d]
        if bool(self.hidden[:d].any()):
            here = inside[:, :d] & self.hidden[:d]
            chosen = here.any(1, keepdim=True) & (self.uniform(few, 1, like=x, generator=generator) < HIDDEN)
            earlier = (order < group) | inside
            earlier[:, :d] &= ~here
            known = torch.where(chosen, ~self.hidden | earlier, known)
            target = torch.where(chosen, here, target)
        condition = self.condition(x, known[which], target[which], which, generator)
        return condition, torch.where(condition.target, x[:, :d], condition.values)

    def codes(self, x: Float[Tensor, "b e"], generator: torch.Generator) -> tuple[Condition, Float[Tensor, "b c"]]:
        """Codes of random columns, from one to all, given random others."""
        d, n, m = self.model.d, len(x), int(self.owner.max()) + 1
        few = max(1, min(PATTERNS, n))
        which = torch.arange(n, device=x.device) * few // max(1, n)
        ranks = self.uniform(few, m, like=x, generator=generator)
        coded = torch.tensor(sorted({*self.owner[d:].tolist()}), device=x.device)
        wanted = coded[torch.randint(len(coded), (few,), generator=generator, device=x.device)]
        ranks[torch.arange(few, device=x.device), wanted] = 2.0
        ranks = ranks.argsort(1).argsort(1)
        counts = torch.randint(0, m, (few, 1), generator=generator, device=x.device)
        known = (ranks < counts)[:, self.owner]
        if bool(self.hidden[d:].any()):
            chosen = self.uniform(few, 1, like=x, generator=generator) < HIDDEN
            known = torch.where(chosen, ~self.hidden, known)
        known = known[which]
        condition = self.condition(x, known, torch.zeros_like(known[:, :d]), which, generator)
        return condition, x[:, d:].masked_fill(known[:, d:], torch.nan)


def code_losses(model: ConditionalModel, given: Masked) -> Float[Tensor, "b"]:
    """The cross-entropy of unknown codes of each row in nats, divided by the number of codes."""
    assert given.codes is not None
    logits, total = model.logits(given.codes), torch.zeros(len(given.truth), device=given.truth.device)
    for values, truth in zip(torch.split(logits, list(model.counts), 1), given.truth.T, strict=True):
        right = truth.nan_to_num(-100.0).long()
        total = total + torch.nn.functional.cross_entropy(values, right, reduction="none")
    return total / max(1, len(model.counts))


class MaskedCurriculum(Curriculum):
    """Batches of rows in which random cells are known."""

    def __init__(self, data: "Table", model: ConditionalModel, hidden: tuple[str, ...]) -> None:
        super().__init__(data.held_out)
        self.data, self.model, self.columns, self.hidden = data, model, data.columns, hidden

    def batches(self, drawn: Iterator[Batch], generator: torch.Generator) -> Iterator[Batch]:
        """Endless random batches, in which random cells are known.

        If inverting a matrix for each row with gaps would take longer than the network, a batch has fewer rows, and
        numbers are learned from each of them several times, with fresh noise.
        """
        masks = Masks.of(self.model, self.columns, self.data.n, noisy=True, hidden=self.hidden)
        gappy, size = bool(self.data.numbers.isnan().any()), len(self.model.mean)
        repeats = min(MAX_REPEATS, max(1, size // COLUMNS_PER_REPEAT)) if gappy else 1
        for batch in drawn:
            yield masks.draw(batch.x, generator, repeats)

    def held_out(self, examples: Batch) -> Callable[[torch.Generator], Iterator[Batch]]:
        """Half of the held-out rows are for the joint density, the other half for conditionals with fixed masks."""
        generator = torch.Generator(examples.x.device).manual_seed(1)
        rows = next(batches(examples.x, affordable_rows(examples.x, sum(self.sizes)), generator=generator)).x
        masks = Masks.of(self.model, self.columns, self.data.n, noisy=False, joint=0.5, hidden=self.hidden)
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
        given, which = batch.given, torch.full((len(batch.x),), 2, device=batch.x.device)
        names = {2: "codes"} if len(given.truth) else {}
        if given.numbers is not None:
            which[: len(batch.x) - len(given.truth)] = given.numbers.observed.any(1).long()
            names = {0: "joint", 1: "conditionals"} | names
        return {name: which == part for part, name in names.items()}


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
    refused: ClassVar[tuple[str, ...]] = (*OF_IMAGES, "flip", "start", "posterior_above")
    shown: ClassVar[int] = 10  # a picture shows more points than images

    @cached_property
    def columns(self) -> Columns:
        """Those of the table."""
        return columns_of(self.transform, self.shape[0])

    @property
    def numbers(self) -> Float[Tensor, "n d"]:
        """The training rows, without codes."""
        return self.train[:, : len(self.columns.numbers)]

    @property
    def codes(self) -> tuple[int, ...]:
        return self.columns.codes

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns.names

    @property
    def width(self) -> str:
        return f"{len(self.names)} columns"

    def start(self, preconditioning: PreconditioningName) -> dict[str, float | Tensor]:
        """A Gaussian, the shares of codes, and the order of columns, from rows with the codes of missing cells."""
        if preconditioning != "conditional":
            return super().start(preconditioning)
        columns, d, counts = self.columns, len(self.columns.numbers), self.codes
        inside = torch.tensor(in_gaussian(counts), dtype=torch.bool, device=self.train.device)
        shown = tuple(count for count, chosen in zip(counts, inside.tolist(), strict=True) if chosen)

        def coordinates(x: Tensor) -> Tensor:
            return torch.cat([x[:, :d], indicators(x[:, d:][:, inside], shown)], 1)

        place = {column: i for i, column in enumerate(columns.coded)}
        indicator = [place[i] if columns.columns[i].codes else -1 for i in columns.numbers]
        groups = group_columns(columns, self.train)
        order = [groups[i] for i in [*columns.numbers, *columns.coded]]
        gaussian = fit_gaussian(coordinates(self.train), coordinates(self.validation))
        longs = {"order": order, "indicator": indicator, "gaps": [*columns.gaps]}
        shares = {"log_shares": log_shares(columns, self.train)}
        return gaussian._asdict() | shares | {k: torch.tensor(v).long() for k, v in longs.items()}

    def curriculum(self, model: ScoreModel, hidden: tuple[str, ...]) -> Curriculum:
        """Random cells of each row are known; a network of the user's own learns the joint density."""
        if not isinstance(model, ConditionalModel):
            return super().curriculum(model, hidden)
        return MaskedCurriculum(self, model, hidden)
