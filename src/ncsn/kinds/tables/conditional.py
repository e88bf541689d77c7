r"""Scores of some coordinates given others: one network that learns p(targets | observed) for every choice of them.

Each coordinate of an example is *observed* (its clean value is given), a *target* (it is noised, and its score is
wanted) or *absent* (it is unknown and integrated out).  A tensor ``given`` of the examples' shape encodes this:
a finite number is an observed value, NaN a target and infinity an absent coordinate.  The joint density is the case in
which everything is a target.

Training one network on random choices follows Simformer (Gloeckler et al. 2024, arXiv:2404.09636); leaving absent
coordinates out of the loss follows MissDiff (Ouyang et al. 2023, arXiv:2307.00467).

For a Gaussian N(μ, C) all of this has a closed form.  Let S be diagonal, with σ² for targets and 0 for observed
coordinates, or τ² if these have noise τ, and leave absent coordinates out of x, μ and C.  The score of the
targets is their part of :math:`-(C + S)^{-1}(x - μ)`.  The matrix splits into a part that depends on σ and one that
does not,

.. math:: (C + S)^{-1} = L\,(Λ + σ^2)^{-1} L^T + K,

where Λ and the rows of L that belong to targets are the eigenvalues and principal axes of the targets' conditional
covariance, and K is the inverse covariance of only the observed coordinates, including their noise.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from ncsn.score import EDM, ScoreModel, Sigma, expand, place_level

ABSENT = math.inf


class Mixture(NamedTuple):
    """A mixture of Gaussians that share their covariance: ``means`` (k, d), ``shares`` (k,), ``covariance`` (d, d)."""

    means: Float[Tensor, "k d"]
    shares: Float[Tensor, "k"]
    covariance: Float[Tensor, "d d"]


class Condition(NamedTuple):
    """A mixture of Gaussians that share C, conditioned on the observed coordinates of each of b examples.

    ``target``, ``observed``: which coordinates are targets and observed.  ``values``: the observed ones, else 0.
    ``axes``: L, (b, d, d), or (b, d) where it is diagonal.  ``stds``: the roots of Λ, and ``total``: those of the
    conditional variance along the axes, which the distances between the components add to.
    ``pull``, ``stiffness``: K (x − μ), where μ is the mixture's mean, and the diagonal of K.
    ``noise``: τ.
    ``centres``, ``pulls``, ``log_shares``: of each component k, Lᵀ (μₖ − μ), K (μₖ − μ) and log p(k | observed).
    """

    target: Bool[Tensor, "b d"]
    observed: Bool[Tensor, "b d"]
    values: Float[Tensor, "b d"]
    axes: Float[Tensor, "b d d"] | Float[Tensor, "b d"]
    stds: Float[Tensor, "b d"]
    total: Float[Tensor, "b d"]
    pull: Float[Tensor, "b d"]
    stiffness: Float[Tensor, "b d"]
    noise: Float[Tensor, "b 1"]
    centres: Float[Tensor, "b k d"]
    pulls: Float[Tensor, "b k d"]
    log_shares: Float[Tensor, "b k"]


def onto(axes: Tensor, x: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
    """Compute Aᵀx, where each matrix A belongs to m/b consecutive examples."""
    rows = x.view(len(axes), -1, x.shape[1])
    return (rows * axes[:, None] if axes.ndim == 2 else rows @ axes).flatten(0, 1)


def back(axes: Tensor, z: Float[Tensor, "m e"]) -> Float[Tensor, "m d"]:
    """Compute A z, where each matrix A belongs to m/b consecutive examples."""
    return onto(axes if axes.ndim == 2 else axes.mT, z)


class ConditionalModel(ScoreModel):
    """A score network for every conditional of vectors, as a residual around a mixture of Gaussians.

    The mixture's components share their covariance, so given some coordinates the others are again such a mixture, and
    an untrained network is its exact conditional score.

    The network sees each coordinate twice, both times in units of a standard deviation: as it is, and as the residual
    of its regression on all others.  Where noise is small, these are the same for every choice of targets, so what the
    network learns about one choice also helps with the others.

    ``network``: maps (b, 4d) and c = ¼ ln σ, (b,) or (1,), to (b, d); see ``forward`` for its input.
    ``mixture``: with positive shares whose sum is 1, and a positive definite covariance; saved with the weights.
    ``autocast``: as in ``ScoreModel``.
    """

    means: Tensor
    shares: Tensor
    covariance: Tensor

    def __init__(self, network: nn.Module, mixture: Mixture, *, autocast: torch.dtype | None = None) -> None:
        # Contiguous, as in a file, or a loaded run would round differently.
        means, shares, covariance = (part.float().clone(memory_format=torch.contiguous_format) for part in mixture)
        super().__init__(network, shares @ means, preconditioning=EDM(), autocast=autocast)
        self.register_buffer("means", means)
        self.register_buffer("shares", shares)
        self.register_buffer("covariance", covariance)
        # For a single example with only targets, which is broadcast to any number of examples.
        for name, value in self.condition(torch.full_like(self.data_mean[None], torch.nan))._asdict().items():
            self.register_buffer(f"joint_{name}", value, persistent=False)

    @property
    def joint(self) -> Condition:
        """The mixture if nothing is observed."""
        return Condition(*(getattr(self, f"joint_{name}") for name in Condition._fields))

    @torch.no_grad()
    def condition(self, given: Float[Tensor, "b d"], noise: Float[Tensor, "b"] | None = None) -> Condition:
        """The mixture given the observed coordinates of each example, for ``forward``.

        ``given``: (b, d), where a finite number is observed, NaN a target and infinity absent.
        ``noise``: τ of the observed values of each example, in the units of x; by default they are exact.
        """
        variances, given = self.covariance.diagonal(), given.to(self.covariance)
        target, observed = given.isnan(), given.isfinite()
        values = torch.where(observed, given, 0.0)
        off = torch.where(observed, values - self.data_mean, 0.0)
        level = torch.zeros(len(given), 1).to(values) if noise is None else noise[:, None].to(values)
        if len(self.shares) == 1 and not bool((self.covariance - variances.diag()).any()):
            stds, nothing = variances.sqrt()[None], torch.zeros_like(variances)[None]
            stiffness = observed / (variances + level**2)
            axes, pull, centres = target.to(off), off * stiffness, nothing[None]
            return Condition(
                target, observed, values, axes, stds, stds, pull, stiffness, level, centres, centres, nothing[:, :1]
            )
        # The matrices of each pattern of targets and noise are few and small, so they are computed in float64 on the
        # CPU.
        kinds = torch.cat([(target.int() - observed.int()).to(level), level], 1).cpu().double()
        patterns, which = torch.unique(kinds, dim=0, return_inverse=True)
        inverse, variances, axes = self.gaussian_given(patterns[:, :-1] < 0, patterns[:, :-1] > 0, patterns[:, -1:])
        apart = (self.means - self.data_mean).cpu().double()
        centres, pulls = apart @ axes, apart @ inverse  # (p, k, d)
        off = off.cpu().double()
        # Bayes: the components' shares given what is observed.
        evidence = self.shares.cpu().double().log() - (pulls * apart).sum(2) / 2
        log_shares = (evidence[which] + (pulls[which] @ off[..., None])[..., 0]).log_softmax(1)
        shares, centres = log_shares.exp()[:, None], centres[which]
        between = (shares @ (centres - shares @ centres) ** 2)[:, 0]
        exact = (
            axes.float()[which],
            variances.sqrt()[which],
            (variances[which] + between).sqrt(),
            (inverse[which] @ off[..., None])[..., 0],
            inverse.diagonal(dim1=1, dim2=2)[which],
            level,
            centres,
            pulls[which],
            log_shares,
        )
        return Condition(target, observed, values, *(part.to(values) for part in exact))

    def gaussian_given(
        self, known: Bool[Tensor, "p d"], wanted: Bool[Tensor, "p d"], noise: Float64[Tensor, "p 1"]
    ) -> tuple[Float64[Tensor, "p d d"], Float64[Tensor, "p d"], Float64[Tensor, "p d d"]]:
        """K, Λ and L of each pattern of ``known`` and ``wanted`` coordinates, with ``noise`` τ of the known ones."""
        covariance, both = self.covariance.cpu().double(), known[:, :, None] & known[:, None]
        targets = wanted[:, :, None]
        diagonal = torch.where(known, noise**2, 1.0)
        root = torch.linalg.cholesky(torch.where(both, covariance, 0.0) + torch.diag_embed(diagonal))
        inverse = torch.where(both, torch.cholesky_inverse(root), 0.0)
        regression = torch.where(targets, covariance @ inverse, 0.0)  # C_to C_oo⁻¹
        conditional = torch.where(targets & targets.mT, covariance - regression @ covariance, 0.0)
        # An eigenvalue of −1 separates the axes of other coordinates from those of targets.
        variances, axes = torch.linalg.eigh(conditional - torch.diag_embed((~wanted).double()))
        axes = axes * targets
        return inverse, variances.clamp(min=1e-8), axes - regression.mT @ axes

    def forward(
        self, x: Float[Tensor, "m d"], sigma: Sigma, given: Condition | Float[Tensor, "m d"] | None = None
    ) -> Float[Tensor, "m d"]:
        """∇ₓ log p_σ(targets | observed); for other coordinates the score of a single point, their value or 0.

        The network's input is, coordinate by coordinate, the residuals, the coordinates themselves, 1/(1 + 4τ) where
        one is observed, and 1 where one is absent.

        ``x``: where, (m, d); the score of the targets depends on no other coordinate.
        ``sigma``: σ > 0, in the units of x.
        ``given``: as for ``condition``, or what it returned for b examples, each of which then belongs to m/b
        consecutive rows of ``x``; by default everything is a target.
        Raises ValueError for a number σ that is not above 0.
        """
        c = self.joint if given is None else given if isinstance(given, Condition) else self.condition(given)
        std, dtype = expand(sigma, x), x.dtype

        def each(part: Tensor) -> Tensor:
            """Repeat what belongs to an example for all its rows of ``x``."""
            part = part.to(dtype) if part.is_floating_point() else part
            return part if len(part) == 1 else part.repeat_interleave(len(x) // len(part), 0)

        target, observed, values = each(c.target), each(c.observed), each(c.values)
        axes, centres, pulls = (part.to(dtype) for part in (c.axes, c.centres, c.pulls))
        present = target | observed
        centred = torch.where(present, torch.where(target, x, values) - self.data_mean.to(dtype), 0.0)
        # The mixture: each component's posterior share, and (C + S)⁻¹(x − Σ shares μₖ), which is minus the score.
        along, variance = onto(axes, centred), each(c.stds) ** 2 + std**2
        nearness = onto(centres.mT, along / variance) - onto(centres.mT**2, 1 / variance) / 2
        shares = (each(c.log_shares) + nearness).softmax(1)
        pull = back(axes, (along - onto(centres, shares)) / variance) + each(c.pull) - onto(pulls, shares)
        # Divided by the root of the diagonal of (C + S)⁻¹, this is the residual of a regression on all other
        # coordinates.
        stiffness = back(axes**2, 1 / variance) + each(c.stiffness)
        residuals = torch.where(present, pull / stiffness.clamp(min=1e-12).sqrt(), 0.0)
        spread = self.covariance.diagonal() + (self.shares[:, None] * (self.means - self.data_mean) ** 2).sum(0)
        noise = each(c.noise)
        scaled = centred / (spread.to(dtype) + std**2 * target + noise**2 * observed).sqrt()
        shown = (residuals, scaled, observed / (1 + 4 * noise), (~present).to(dtype))
        network_input = torch.cat([part.expand(x.shape) for part in shown], 1).to(self.data_std.dtype)
        levels = place_level(sigma, self.data_std.dtype, x.device).reshape(-1)
        with torch.autocast(x.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            value = self.network(network_input, levels.log() / 4).to(dtype)
        # EDM's scale of a residual along the axes.  If nothing is observed, the density approaches the mixture's as
        # noise grows: to first order of an Edgeworth expansion, the residual decays by one more factor.
        total = each(c.total)
        wide = total**2 + std**2
        fading = torch.where(observed.any(1, keepdim=True), 1.0, total**2 / wide)
        residual = back(axes, total / (std * wide.sqrt()) * fading * onto(axes, value * target))
        return torch.where(target, residual - pull, (values - x) / std**2)
