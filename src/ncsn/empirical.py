"""The empirical distribution of a data set, whose noised score is known exactly too."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.score import Sigma, expand, float64

PART = 64  # examples whose distances to all data are in memory at a time
EXACT = "donot_use_mm_for_euclid_dist"  # differences first, squares then: no digits are lost


class Empirical:
    """The empirical distribution of a data set (n, *d): its noised score is what score matching on that set learns.

    p_σ is the mixture of N(x_i, σ²I) over all examples, and the score (E[x_i | x] − x)/σ² a softmax over them.
    One matrix product with the whole set each way: the cost of an evaluation grows with n.
    ``dtype`` of the products: bfloat16 is several times faster where the hardware has it, and precise enough for
    pixels.  ``labels``: the examples' classes.  The score's distances come from ‖x‖² − 2x·x_i + ‖x_i‖², by which its
    weights are off by a factor of about exp(3·10⁻⁷ ‖x − mean‖²/σ²) in float32: where that is not near 1 and several
    examples lie within a few σ of x, give data, x and ``dtype`` in float64.  ``log_prob`` is exact in any case.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        data: Float[Tensor, "n *d"],
        labels: Int64[Tensor, "n"] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.labels = labels
        flat = data[:, None].flatten(1)
        self.shape, self.mean = data.shape[1:], flat.mean(0)
        self.centred = (flat - self.mean).to(dtype)
        parts = torch.split(self.centred, 1000)  # of a large data set even one more copy matters
        self.half_squares = torch.cat([part.to(flat.dtype).square().sum(1) / 2 for part in parts])

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n *d"]:
        """``n`` examples, drawn with replacement, on the data's device."""
        device = self.mean.device if generator is None else generator.device
        chosen = self.centred[torch.randint(len(self.centred), (n,), generator=generator, device=device)]
        return (chosen.to(self.mean.dtype) + self.mean).view(n, *self.shape)

    def _logits(self, x: Float[Tensor, "b d"], sigma: Sigma) -> Float[Tensor, "b n"]:
        """Log N(x; x_i, σ²I) but for what does not depend on i; ``x`` is centred."""
        products = (x.to(self.centred.dtype) @ self.centred.T).to(x.dtype)
        return (products - self.half_squares) / expand(sigma, x) ** 2

    def log_prob(self, x: Float[Tensor, "b *d"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats, from exact differences in double precision, which takes longer than the score."""
        centred = float64(x[:, None].flatten(1) - self.mean)
        std = expand(sigma, centred)[:, 0]
        examples = float64(self.centred)
        parts = zip(torch.split(centred, PART), torch.split(std, PART), strict=True)
        logits = [-(torch.cdist(part, examples, compute_mode=EXACT) ** 2) / (2 * s[:, None] ** 2) for part, s in parts]
        sums = torch.cat([part.logsumexp(1) for part in logits])
        common = math.log(len(examples)) + centred.shape[1] / 2 * (2 * math.pi * std**2).log()
        return (sums - common).to(x)

    def __call__(
        self, x: Float[Tensor, "b *d"], sigma: Sigma, /, label: Int64[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b *d"]:
        """The score ∇ₓ log p_σ(x), or that of the examples of one class for each x; −1 stands for all examples.

        Raises ValueError if classes are given and the data set has none.
        """
        centred = x[:, None].flatten(1) - self.mean
        logits = self._logits(centred, sigma)
        if label is not None:
            if self.labels is None:
                raise ValueError("the data set was made without labels; no class can be given")
            others = (label[:, None] != self.labels) & (label[:, None] >= 0)
            logits = logits.masked_fill(others, -torch.inf)
        posterior = logits.softmax(1).to(self.centred.dtype)
        return (((posterior @ self.centred).to(x.dtype) - centred) / expand(sigma, centred) ** 2).view_as(x)
