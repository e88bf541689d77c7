r"""Rows of numbers and codes given any others of them: one network that learns p(unknown | known) for every choice.

A row has d numbers, which are diffused, and C codes of discrete values, which are predicted as probabilities.  A number
is *observed* (its clean value is given), a *target* (it is noised, and its score is wanted) or *absent* (it is unknown
and integrated out); a code is known or unknown.  A tensor ``given`` of the rows' shape encodes this: a finite number is
an observed value or a known code, NaN a target or an unknown code, and infinity an absent number or an unknown code.

By the chain rule, codes one after the other and then the numbers given all codes make up the joint distribution.  Any
order of codes is learned (any-order autoregressive models, Hoogeboom et al. 2022, arXiv:2110.02037).  Training one
network on random choices of numbers follows Simformer (Gloeckler et al. 2024, arXiv:2404.09636); leaving absent numbers
out of the loss follows MissDiff (Ouyang et al. 2023, arXiv:2307.00467).

Numbers start from a Gaussian N(μ, C) of numbers and indicators of codes, for which all of this has a closed form.  Let
S be diagonal, with σ² for targets and 0 for observed coordinates, or τ² if these have noise τ, and leave absent
coordinates out of x, μ and C.  The score of the targets is their part of :math:`-(C + S)^{-1}(x - μ)`.  The matrix
splits into a part that depends on σ and one that does not,

.. math:: (C + S)^{-1} = L\,(Λ + σ^2)^{-1} L^T + K,

where Λ and the rows of L that belong to targets are the eigenvalues and principal axes of the targets' conditional
covariance, and K is the inverse covariance of only the observed coordinates, including their noise.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from ncsn.likelihood import LogDensities
from ncsn.samplers import Step
from ncsn.sampling import NonFiniteSampleError, Sampling
from ncsn.score import EDM, Score, ScoreModel, Sigma, expand, place_level, tweedie

ABSENT = math.inf
MAX_LOG_ODDS = 20.0  # nats; the most that linear discriminants add to a log probability
MAX_INDICATORS = 32  # in the Gaussian, where nothing says which codes have any; other codes only enter the network


class Gaussian(NamedTuple):
    """The Gaussian of a row's numbers, followed by indicators of its codes: ``mean`` (f,), ``covariance`` (f, f)."""

    mean: Float[Tensor, "f"]
    covariance: Float[Tensor, "f f"]


class Condition(NamedTuple):
    """A Gaussian conditioned on the known coordinates of each of b examples.

    ``target``, ``observed``: which numbers are targets and observed.  ``values``: the observed ones, else 0.
    ``codes``: indicators of the known codes, (b, k), 0 for unknown ones.
    ``axes``: the rows of L that belong to numbers, (b, d, d), or (b, d) where it is diagonal; one for all examples if
    these have the same pattern.  ``stds``: the roots of Λ.
    ``shift``: what the codes add to Lᵀ(x − μ).
    ``pull``, ``stiffness``: K (x − μ) and the diagonal of K, both of the numbers.
    ``noise``: τ, the noise level of the observed numbers.
    ``log_chances``: log probabilities of the values of codes, up to a constant for each code.
    """

    target: Bool[Tensor, "b d"]
    observed: Bool[Tensor, "b d"]
    values: Float[Tensor, "b d"]
    codes: Float[Tensor, "b k"]
    axes: Float[Tensor, "p d d"] | Float[Tensor, "p d"]
    stds: Float[Tensor, "p d"]
    shift: Float[Tensor, "b d"]
    pull: Float[Tensor, "b d"]
    stiffness: Float[Tensor, "p d"]
    noise: Float[Tensor, "b 1"]
    log_chances: Float[Tensor, "b k"]


def to_axes(axes: Tensor, x: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
    """Compute Aᵀx, where each matrix A belongs to m/b consecutive examples."""
    rows = x.view(len(axes), len(x) // max(1, len(axes)), x.shape[1])
    return (rows * axes[:, None] if axes.ndim == 2 else rows @ axes).flatten(0, 1)


def from_axes(axes: Tensor, z: Float[Tensor, "m e"]) -> Float[Tensor, "m d"]:
    """Compute A z, where each matrix A belongs to m/b consecutive examples."""
    return to_axes(axes if axes.ndim == 2 else axes.mT, z)


def indicators(codes: Float[Tensor, "b c"], counts: tuple[int, ...]) -> Float[Tensor, "b k"]:
    """One-hot vectors of codes, one after the other; zeros for those that aren't finite.

    ``counts``: how many values each code can have.
    """
    one_hot = [
        (code[:, None] == torch.arange(k, device=codes.device)).to(codes)
        for code, k in zip(codes.T, counts, strict=True)
    ]
    return torch.cat([codes.new_zeros(len(codes), 0), *one_hot], 1)


def smallest(counts: tuple[int, ...]) -> tuple[int, ...]:
    """The codes with the fewest values, which have no more than 32 indicators together."""
    ordered = sorted(range(len(counts)), key=lambda code: counts[code])
    totals = accumulate(counts[code] for code in ordered)
    return tuple(code for code, total in zip(ordered, totals, strict=True) if total <= MAX_INDICATORS)


def waves(
    x: Float[Tensor, "m d"], blur: Float[Tensor, "_ d"], count: int, present: Bool[Tensor, "_ d"]
) -> list[Float[Tensor, "m d"]]:
    """Cosines and sines of numbers at frequencies that double from π/4 on, and weaken with the root of the frequency.

    Without them, a network is slow to learn edges (Tancik et al. 2020, arXiv:2006.10739).

    ``x``: in units of a standard deviation.
    ``blur``: the standard deviation of their noise, with which a wave averages out.
    ``present``: 0 elsewhere.
    """
    result = list[Tensor]()
    for octave in range(count):
        frequency = math.pi / 4 * 2**octave
        amplitude = present * 2 ** (-octave / 2) * torch.exp(-((frequency * blur) ** 2) / 2)
        result += [amplitude * torch.cos(frequency * x), amplitude * torch.sin(frequency * x)]
    return result


class ConditionalModel(ScoreModel):
    """A network for every conditional of rows: scores of numbers, as residuals around a Gaussian, and logits of codes.

    An untrained network gives the Gaussian's exact conditional scores, and codes by linear discriminant analysis.  If
    nothing is known of a row, the probabilities of a code are its shares in training, whatever the network says.

    The network sees each number twice, both times in units of a standard deviation: as it is, and as the residual of
    its regression on all others.  Where noise is small, these are the same for every choice of targets, so what the
    network learns about one choice also helps with the others.

    ``network``: maps (b, (4 + 2w)d + k) and c = ¼ ln σ, (b,) or (1,), to (b, d + k); see ``evaluate`` for its input.
    ``gaussian``: of numbers and indicators, with a positive definite covariance; saved with the weights.
    ``counts``: how many values each code can have; k is their sum.
    ``indicated``: the codes that have indicators in the Gaussian; by default those with the fewest values.
    ``log_shares``: ln of the share of each value of each code in training, (k,).
    ``order``: the group of each number and code, (d + C,), 0, 1, …: groups are drawn one after the other.
    ``indicator``: for each number the code that says whether it exists (0) or the cell is missing or has a frequent
    value, (d,); −1 if it always exists.
    ``gaps``: the value of each code that stands for a missing cell, (C,); −1 if no cell is missing.
    ``autocast``: as in ``ScoreModel``.
    """

    mean: Tensor
    covariance: Tensor
    log_shares: Tensor
    order: Tensor
    indicator: Tensor
    gaps: Tensor
    value_code: Tensor
    value_in_gaussian: Tensor

    def __init__(
        self,
        network: nn.Module,
        gaussian: Gaussian,
        counts: tuple[int, ...] = (),
        *,
        indicated: tuple[int, ...] | None = None,
        log_shares: Float[Tensor, "k"] | None = None,
        order: Tensor | None = None,
        indicator: Tensor | None = None,
        gaps: Tensor | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        # Contiguous, as in a file, or a loaded run would round differently.
        mean, covariance = (moment.float().clone(memory_format=torch.contiguous_format) for moment in gaussian)
        self.counts = counts
        self.frequencies = int(getattr(network, "waves", 0))
        indicated = smallest(counts) if indicated is None else indicated
        self.d = len(mean) - sum(counts[code] for code in indicated)
        centre = torch.cat([mean[: self.d], torch.zeros(len(counts))])
        super().__init__(network, centre, preconditioning=EDM(), autocast=autocast)
        k, size = sum(counts), self.d + len(counts)
        value_code = [code for code, n in enumerate(counts) for _ in range(n)]  # of each value of each code
        buffers = {
            "mean": mean,
            "covariance": covariance,
            "log_shares": torch.zeros(k) if log_shares is None else log_shares.float(),
            "order": torch.zeros(size).long() if order is None else order.long(),
            "indicator": torch.full((self.d,), -1) if indicator is None else indicator.long(),
            "gaps": torch.full((len(counts),), -1) if gaps is None else gaps.long(),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.clone())
        derived = {
            "value_code": torch.tensor(value_code, dtype=torch.long),
            "value_in_gaussian": torch.tensor([code in indicated for code in value_code], dtype=torch.bool),
        }
        for name, buffer in derived.items():
            self.register_buffer(name, buffer, persistent=False)

    @classmethod
    def around(
        cls, network: nn.Module, size: int, start: Mapping[str, float | Tensor], autocast: torch.dtype | None
    ) -> "ConditionalModel":
        """A model around the Gaussian in ``start``, by default a standard one.

        ``size``: the number of numbers and codes of a row.
        """
        counts: tuple[int, ...] = tuple(getattr(network, "codes", ()))
        indicated: tuple[int, ...] | None = getattr(network, "indicated", None)
        indicated = smallest(counts) if indicated is None else indicated
        f = size - len(counts) + sum(counts[code] for code in indicated)
        if not start or "data_mean" in start:  # a file's tensors are loaded later, if their shapes fit
            standard = Gaussian(torch.zeros(f), torch.eye(f))
            return cls(network, standard, counts, indicated=indicated, autocast=autocast)
        tensors = {name: torch.as_tensor(value) for name, value in start.items()}
        gaussian = Gaussian(tensors.pop("mean"), tensors.pop("covariance"))
        return cls(network, gaussian, counts, indicated=indicated, autocast=autocast, **tensors)

    @torch.no_grad()
    def condition(
        self, given: Float[Tensor, "b e"], noise: Float[Tensor, "b"] | None = None, *, wanted: Sequence[int] = ()
    ) -> Condition:
        """The Gaussian given the known coordinates of each example, for ``numbers`` and ``logits``.

        ``given``: (b, d + C), where a finite number is observed, NaN a target and infinity absent, and a finite code is
        known.
        ``noise``: τ of the observed numbers of each example, in the units of x; by default they are exact.
        ``wanted``: the codes whose probabilities are of interest; of others they are the shares in training.
        """
        given, d = given.to(self.covariance), self.d
        numbers = given[:, :d]
        codes = indicators(given[:, d:], self.counts)
        target, observed = numbers.isnan(), numbers.isfinite()
        values = torch.where(observed, numbers, 0.0)
        deviation = torch.where(observed, values - self.mean[:d], 0.0)
        tau = torch.zeros(len(given), 1).to(values) if noise is None else noise[:, None].to(values)
        log_chances = self.log_shares.expand(len(given), -1)
        if not bool((self.covariance - self.covariance.diagonal().diag()).any()):  # nothing is correlated
            variances = self.covariance.diagonal()[:d]
            axes, stds, shift = target.to(deviation), variances.sqrt()[None], torch.zeros_like(deviation)
            stiffness = observed / (variances + tau**2)
            pull = deviation * stiffness
            return Condition(target, observed, values, codes, axes, stds, shift, pull, stiffness, tau, log_chances)
        known = given[:, d:].isfinite()[:, self.value_code][:, self.value_in_gaussian]
        code_deviation = torch.where(known, codes[:, self.value_in_gaussian] - self.mean[d:], 0.0)
        deviation = torch.cat([deviation, code_deviation], 1).cpu().double()
        # The matrices of each pattern of targets and noise are few and small, so they are computed in float64 on the
        # CPU.  In a pattern, 1 is a target, −1 a known coordinate and 0 an absent one; its last number is τ.
        roles = torch.cat([target.int() - observed.int(), -known.int()], 1)
        roles_and_noise = torch.cat([roles.to(tau), tau], 1).cpu().double()
        patterns, pattern = torch.unique(roles_and_noise, dim=0, return_inverse=True)
        inverse, variances, axes = self.gaussian_given(patterns[:, :-1] < 0, patterns[:, :d] > 0, patterns[:, -1:])
        if len(patterns) == 1:
            shift, pull = deviation[:, d:] @ axes[0, d:], deviation @ inverse[0]
        else:
            shift = (deviation[:, None, d:] @ axes[pattern][:, d:])[:, 0]
            pull = (inverse[pattern] @ deviation[..., None])[..., 0]
        if wanted:
            log_chances = self.discriminate(wanted, inverse, pull, pattern)
        if len(patterns) == 1:  # which all examples share
            pattern = pattern[:1]
        axes, stds = axes[:, :d][pattern], variances.sqrt()[pattern]
        stiffness = inverse.diagonal(dim1=1, dim2=2)[:, :d][pattern]
        gaussian = (axes, stds, shift, pull[:, :d], stiffness, tau, log_chances)
        return Condition(target, observed, values, codes, *(tensor.to(values) for tensor in gaussian))

    def discriminate(
        self,
        wanted: Sequence[int],
        inverse: Float64[Tensor, "p f f"],
        pull: Float64[Tensor, "b f"],
        pattern: Int64[Tensor, "b"],
    ) -> Float64[Tensor, "b k"]:
        r"""Linear discriminant analysis with the Gaussian's moments: log probabilities of unknown codes.

        Let e be the indicators of a code, with covariance E, of which G is explained by what is known.  By Woodbury's
        identity, the inverse covariance within classes follows from K, and the discriminants are those of
        :math:`(E - G)^{-1}` times the linear prediction of e.

        ``wanted``: the codes whose probabilities are of interest.
        ``inverse``: K of each pattern.  ``pull``: K (x − μ).  ``pattern``: the pattern of each example.
        """
        covariance, d = self.covariance.cpu().double(), self.d
        log_shares = self.log_shares.cpu().double()
        log_chances = log_shares.repeat(len(pull), 1)
        ends = torch.tensor([0, *self.counts]).cumsum(0).tolist()
        position = torch.cumsum(self.value_in_gaussian, 0).cpu() - 1  # of each value among the indicators
        for code in wanted:
            start, end = ends[code], ends[code + 1]
            if not self.value_in_gaussian[start]:
                continue
            block = slice(d + int(position[start]), d + int(position[end - 1]) + 1)
            total, cross = covariance[block, block], covariance[:, block]
            explained = cross.T @ inverse @ cross
            identity = torch.eye(len(total)).double()
            precision = torch.linalg.inv(total - explained + 1e-9 * identity)
            offsets = identity - log_shares[start:end].exp()  # of each value's indicators from their mean
            norms = ((offsets @ precision @ explained @ torch.linalg.inv(total)) * offsets).sum(2)
            discriminants = ((pull @ cross)[:, None] @ precision[pattern].mT)[:, 0] - norms[pattern] / 2
            discriminants = discriminants - discriminants.mean(1, keepdim=True)
            log_chances[:, start:end] += discriminants.clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)
        return log_chances

    def gaussian_given(
        self, known: Bool[Tensor, "p f"], target: Bool[Tensor, "p d"], noise: Float64[Tensor, "p 1"]
    ) -> tuple[Float64[Tensor, "p f f"], Float64[Tensor, "p d"], Float64[Tensor, "p f d"]]:
        """K, Λ and L of each pattern of ``known`` coordinates and ``target`` numbers; ``noise``: τ of known numbers."""
        covariance, d = self.covariance.cpu().double(), self.d
        both_known = known[:, :, None] & known[:, None]
        targets = target[:, :, None]
        diagonal = torch.where(known, 0.0, 1.0)
        diagonal[:, :d] += torch.where(known[:, :d], noise**2, 0.0)
        root = torch.linalg.cholesky(torch.where(both_known, covariance, 0.0) + torch.diag_embed(diagonal))
        inverse = torch.where(both_known, torch.cholesky_inverse(root), 0.0)
        if not bool(target.any()):  # then only K matters
            return inverse, torch.ones_like(noise).expand(-1, d), torch.zeros(*known.shape, d).double()
        regression = torch.where(targets, covariance[:d] @ inverse, 0.0)  # C_to C_oo⁻¹
        explained = regression @ covariance[:, :d]
        conditional = torch.where(targets & targets.mT, covariance[:d, :d] - explained, 0.0)
        # An eigenvalue of −1 separates the axes of other coordinates from those of targets.
        variances, axes = torch.linalg.eigh(conditional - torch.diag_embed((~target).double()))
        axes = axes * targets
        padded = torch.nn.functional.pad(axes, (0, 0, 0, len(covariance) - d))
        return inverse, variances.clamp(min=1e-8), padded - regression.mT @ axes

    def evaluate(
        self, x: Float[Tensor, "m d"], sigma: Sigma, c: Condition
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"], Float[Tensor, "m k"]]:
        """The Gaussian's score of the targets, and the network's value: the residual in its score, and logits.

        The network's input is, number by number, the residuals, the numbers themselves, 1/(1 + 4τ) where one is
        observed, 1 where one is absent, and waves of the numbers; then the indicators of known codes.
        """
        std, dtype, d = expand(sigma, x), x.dtype, self.d

        def repeat(values: Tensor) -> Tensor:
            """Repeat what belongs to an example for all its rows of ``x``."""
            values = values.to(dtype) if values.is_floating_point() else values
            return values if len(values) in (1, len(x)) else values.repeat_interleave(len(x) // len(values), 0)

        target, observed = repeat(c.target), repeat(c.observed)
        values, codes, noise = repeat(c.values), repeat(c.codes), repeat(c.noise)
        axes, stds = c.axes.to(dtype), repeat(c.stds)
        present = target | observed
        centred = torch.where(present, torch.where(target, x, values) - self.mean[:d].to(dtype), 0.0)
        # (C + S)⁻¹(x − μ), which is minus the score.
        variance = stds**2 + std**2
        along = to_axes(axes, centred) + repeat(c.shift)
        pull = from_axes(axes, along / variance) + repeat(c.pull)
        # Divided by the root of the diagonal of (C + S)⁻¹, this is the residual of a regression on all other
        # coordinates.
        stiffness = from_axes(axes**2, 1 / variance.expand(x.shape)) + repeat(c.stiffness)
        residuals = torch.where(present, pull / stiffness.clamp(min=1e-12).sqrt(), 0.0)
        data_variance = self.covariance.diagonal()[:d].to(dtype)
        noise_variance = std**2 * target + noise**2 * observed
        total_std = (data_variance + noise_variance).sqrt()
        scaled = centred / total_std
        certainty = observed / (1 + 4 * noise)
        absent = (~present).to(dtype)
        inputs = [residuals, scaled, certainty, absent]
        if self.frequencies:
            inputs += waves(scaled, noise_variance.sqrt() / total_std, self.frequencies, present)
        columns = [column.expand(x.shape) for column in inputs]
        network_input = torch.cat([*columns, codes.expand(len(x), -1)], 1).to(self.data_std.dtype)
        levels = place_level(sigma, self.data_std.dtype, x.device).reshape(-1)
        with torch.autocast(x.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            output = self.network(network_input, levels.log() / 4).to(dtype)
        # EDM's scale of a residual along the axes.  If nothing is known, the density approaches the Gaussian as noise
        # grows: to first order of an Edgeworth expansion, the residual decays by one more factor.
        any_known = observed.any(1, keepdim=True) | codes.any(1, keepdim=True)
        fading = torch.where(any_known, 1.0, stds**2 / variance)
        scale = stds / (std * variance.sqrt()) * fading
        residual = from_axes(axes, scale * to_axes(axes, output[:, :d] * target))
        return -pull, residual, output[:, d:] * any_known  # if nothing is known, the shares in training are exact

    def numbers(self, x: Float[Tensor, "m d"], sigma: Sigma, c: Condition) -> Float[Tensor, "m d"]:
        """∇ₓ log p_σ(targets | known); for other numbers the score of a single point, their value or 0.

        ``x``: where, (m, d); the score of the targets depends on no other number.
        ``sigma``: σ > 0, in the units of x.
        ``c``: what ``condition`` returned for b examples, each of which belongs to m/b consecutive rows of ``x``.
        Raises ValueError for a number σ that is not above 0.
        """
        gaussian, residual, _ = self.evaluate(x, sigma, c)
        repeats = len(x) // len(c.target)
        target, values = c.target.repeat_interleave(repeats, 0), c.values.repeat_interleave(repeats, 0)
        return torch.where(target, residual + gaussian, (values - x) / expand(sigma, x) ** 2)

    def logits(self, c: Condition) -> Float[Tensor, "b k"]:
        """The logarithm, up to a constant for each code, of the probabilities of its values given what is known."""
        _, _, logits = self.evaluate(c.values, 1.0, c)
        return logits + c.log_chances

    def forward(
        self, x: Float[Tensor, "m e"], sigma: Sigma, given: Condition | Float[Tensor, "m e"] | None = None
    ) -> Float[Tensor, "m e"]:
        """The score of numbers given codes, as ``numbers``, and 0 for the codes.

        ``x``: (m, d + C), or only the numbers, (m, d).
        ``sigma``: σ > 0, in the units of x.
        ``given``: as for ``condition``, or what it returned; by default every number is a target, and the codes are
        those of ``x``.
        Raises ValueError for a number σ that is not above 0.
        """
        if given is None:
            given = torch.cat([torch.full_like(x[:, : self.d], torch.nan), x[:, self.d :]], 1)
        c = given if isinstance(given, Condition) else self.condition(given)
        score = self.numbers(x[:, : self.d], sigma, c)
        return torch.cat([score, torch.zeros_like(x[:, self.d :])], 1)

    def nothing_known(self, n: int) -> Float[Tensor, "n e"]:
        """Rows in which everything is unknown."""
        return torch.full((n, len(self.order)), torch.nan, device=self.mean.device)

    def given(self, z: Float[Tensor, "b e"], target: Bool[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Rows as ``condition`` takes them: unknown numbers that are not targets become absent."""
        numbers = z[:, : self.d]
        return torch.cat([torch.where(numbers.isnan() & ~target, ABSENT, numbers), z[:, self.d :]], 1)

    def exists(self, z: Float[Tensor, "b e"]) -> Bool[Tensor, "b d"]:
        """Whether each number of a row exists, judging by the row's codes."""
        codes = torch.cat([z[:, self.d :], torch.zeros_like(z[:, :1])], 1)
        return codes[:, self.indicator] == 0  # −1 is the column of zeros

    @torch.no_grad()
    def fill(
        self,
        z: Float[Tensor, "b e"],
        sampling: Sampling,
        generator: torch.Generator,
        *,
        complete: bool,
        count: Callable[[Score], Score] = lambda score: score,
    ) -> Iterator[Step]:
        """Draw what is unknown in rows; the last state is complete, and earlier ones have noise in the last group.

        One group of columns after the other, first their codes and then their numbers, each given all that is known by
        then; what is unknown in later groups is integrated out.

        ``z``: rows, NaN where something is unknown.
        ``complete``: whether no cell may be missing.
        ``count``: wraps the scores that are evaluated.
        Raises NonFiniteSampleError if numbers are not finite.
        """
        z, d = z.clone(), self.d
        last = int(self.order[:d].max()) if d else -1
        for group in sorted({*self.order.tolist()}):
            for code in (self.order[d:] == group).nonzero()[:, 0].tolist():
                rows = z[:, d + code].isnan()
                if bool(rows.any()):
                    z[rows, d + code] = self.draw_code(z[rows], code, generator, complete=complete)
            target = z[:, :d].isnan() & self.exists(z) & (self.order[:d] == group)
            rows = target.any(1)
            if not bool(rows.any()):
                continue
            state = z
            for step in self.draw_numbers(z[rows], target[rows], sampling, generator, count):
                state = z.clone()
                state[rows, :d] = torch.where(target[rows], step.x.to(z), z[rows, :d])
                if group == last and step.sigma:
                    yield Step(step.sigma, state)
            z = state
            if not bool(z[:, :d][target].isfinite().all()):
                raise NonFiniteSampleError(f"sampling with {sampling.sampler} gave numbers that are not finite")
        yield Step(0.0, z)

    def draw_code(
        self, z: Float[Tensor, "b e"], code: int, generator: torch.Generator, *, complete: bool
    ) -> Float[Tensor, "b"]:
        """Values of a code, drawn given what is known of rows."""
        gap = int(self.gaps[code])
        if complete and gap >= 0 and self.counts[code] == 2:
            return torch.zeros_like(z[:, 0])
        chances = self.log_chances(z, code, complete=complete).exp()
        if not bool(chances.isfinite().all()):
            raise NonFiniteSampleError("the network gave probabilities that are not finite")
        return torch.multinomial(chances, 1, generator=generator)[:, 0].to(z)

    def log_chances(self, z: Float[Tensor, "b e"], code: int, *, complete: bool) -> Float[Tensor, "b n"]:
        """Log probabilities of the values of a code given what is known of rows; −∞ for a gap if ``complete``."""
        # Draws of one row often agree in what is known so far, and then so do their probabilities.
        rows, row_of = torch.unique(z.where(~z.isnan(), ABSENT).cpu(), dim=0, return_inverse=True)
        logits = torch.split(self.logits(self.condition(rows, wanted=[code])), list(self.counts), 1)[code]
        if complete and self.gaps[code] >= 0:
            logits = logits.index_fill(1, self.gaps[code], -torch.inf)
        return logits.log_softmax(1)[row_of]

    def draw_numbers(
        self,
        z: Float[Tensor, "b e"],
        target: Bool[Tensor, "b d"],
        sampling: Sampling,
        generator: torch.Generator,
        count: Callable[[Score], Score],
    ) -> Iterator[Step]:
        """The states of the targets from noise to data, given what is known of rows."""
        c = self.condition(self.given(z, target))
        score = count(lambda x, sigma: self.numbers(x, sigma, c))
        # Start around each row's own mean, which is what pure noise is denoised to.
        means = tweedie(score, self.mean[: self.d].expand(len(z), -1), sampling.sigma_max)
        x = sampling.start(means, len(z), generator=generator)
        return sampling.follow(score, x, generator=generator)

    def log_densities(
        self,
        z: Float[Tensor, "b e"],
        solve: Callable[..., LogDensities],
        sigma_max: float,
        *,
        known: Bool[Tensor, "e"] | None = None,
    ) -> LogDensities:
        """Log densities of complete rows by the chain rule, in the order of ``fill``.

        ``solve``: the log densities of points by a score, given their mean, as ``ncsn.log_prob`` from ``sigma_max`` on.
        ``known``: which coordinates are given, (e,).
        """
        d, b = self.d, len(z)
        given = torch.zeros_like(self.order, dtype=torch.bool) if known is None else known
        log_prob, variance, nfe = torch.zeros(b).double(), torch.zeros(b).double(), 0
        so_far = torch.where(given, z, torch.nan)
        for group in sorted({*self.order.tolist()}):
            new = (self.order == group) & ~given
            for code in new[d:].nonzero()[:, 0].tolist():
                with torch.no_grad():
                    log_chances = self.log_chances(so_far, code, complete=True)
                value = z[:, d + code].long()[:, None]
                log_prob += log_chances.gather(1, value)[:, 0].cpu().double()
                so_far[:, d + code] = z[:, d + code]
            target = new[:d] & ~z[:, :d].isnan()
            if bool(target.any()):
                densities = self.density_of_numbers(so_far, z, target, solve, sigma_max)
                log_prob += densities.log_prob
                variance += densities.standard_error**2
                nfe += densities.nfe
                so_far[:, :d] = torch.where(target, z[:, :d], so_far[:, :d])
        return LogDensities(log_prob, variance.sqrt(), nfe)

    def density_of_numbers(
        self,
        known: Float[Tensor, "b e"],
        z: Float[Tensor, "b e"],
        target: Bool[Tensor, "b d"],
        solve: Callable[..., LogDensities],
        sigma_max: float,
    ) -> LogDensities:
        """Log densities of the targets given what is known; other numbers stay 0 and add nothing."""
        c = self.condition(self.given(known, target))

        def score(x: Float[Tensor, "b d"], sigma: Sigma, /) -> Float[Tensor, "b d"]:
            return torch.where(target, self.numbers(x, sigma, c), 0.0)

        with torch.no_grad():
            means = tweedie(score, self.mean[: self.d].expand(len(z), -1), sigma_max)
        points = torch.where(target, z[:, : self.d], 0.0)
        densities = solve(score, points, mean=torch.where(target, means, 0.0))
        # Each number that stays 0 has the density N(0; 0, σ_max²) in the result of ``solve``.
        log_normalizer = 0.5 * math.log(2 * math.pi * sigma_max**2)
        return replace(densities, log_prob=densities.log_prob + log_normalizer * (~target).sum(1).cpu().double())
