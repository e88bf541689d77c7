"""Walk from one digit to another along the probability flow, which maps noise to images one to one.

python examples/interpolation.py       # half a minute; writes docs/images/mnist_interpolation.png

The upper rows start from random noise, and the lower ones from test images: the flow in reverse turns these into noise.
Points between two noises lie on a great circle, because a straight line would pass too close to the origin, where noise
practically never is.
"""

from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

import ncsn
from ncsn.batching import centres

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "mnist_interpolation.png"
LEVELS = 40
GENERATED, REAL, POINTS = 3, 3, 12  # rows of each sort, and images in a row


def slerp(a: Float[Tensor, "b *d"], b: Float[Tensor, "b *d"], weights: Float[Tensor, "k"]) -> Float[Tensor, "b k *d"]:
    """Interpolate from a (weight 0) to b (weight 1) along the great circle (Shoemake 1985)."""
    u, v = a.flatten(1), b.flatten(1)
    angle = torch.cosine_similarity(u, v).clamp(-1 + 1e-6, 1 - 1e-6).arccos()[:, None]
    weight_of_u = ((1 - weights) * angle).sin() / angle.sin()
    weight_of_v = (weights * angle).sin() / angle.sin()
    points: Tensor = weight_of_u[..., None] * u[:, None] + weight_of_v[..., None] * v[:, None]
    return points.view(len(a), len(weights), *a.shape[1:])


@torch.no_grad()
def encode(score: ncsn.Score, x: Float[Tensor, "b *d"], sigmas: Float[Tensor, "levels"]) -> Float[Tensor, "b *d"]:
    """The noise that the probability flow dx/dσ = −σ·s(x, σ) turns into x, by Heun's method up the descending levels.

    Song et al. 2020 (arXiv:2011.13456), section 4.3 and appendix D.3.
    """
    for sigma, higher in pairwise(sigmas.flip(0)):
        slope = -sigma * score(x, sigma)
        ahead = x + (higher - sigma) * slope
        x = x + (higher - sigma) * (slope - higher * score(ahead, higher)) / 2
    return x


@torch.no_grad()
def mean(run: ncsn.Run) -> Float[Tensor, "1 *d"]:
    """The mean of the data, to which the origin is denoised at the largest noise level."""
    return ncsn.tweedie(run.score, torch.zeros(1, *run.recipe.shape), run.recipe.sampling.sigma_max)


def walk(run: ncsn.Run, first: Float[Tensor, "b *d"], last: Float[Tensor, "b *d"], points: int) -> Tensor:
    """Images on the way from one noise to another, (b · points, *d)."""
    start = (slerp(first, last, torch.linspace(0, 1, points)) + mean(run)).flatten(0, 1)
    images: Tensor = run.sample(len(start), start=start, sampler="heun", levels=LEVELS, label="none", guidance=1.0)
    return images


def main() -> None:
    """Draw walks between samples, and between test images of different digits."""
    run = ncsn.load("mnist", device="cpu")
    sigma_max, sigma_min = run.recipe.sampling.sigma_max, run.recipe.sampling.sigma_min
    noise = sigma_max * torch.randn(2 * GENERATED, *run.recipe.shape, generator=torch.Generator().manual_seed(0))
    images = centres(ncsn.load_dataset("mnist").test[: 2 * REAL])
    encoded = encode(run.score, images, ncsn.Karras(sigma_max, sigma_min, LEVELS).sigmas())
    ends = torch.cat([noise, encoded - mean(run)])
    ncsn.plots.image_grid(walk(run, ends[::2], ends[1::2], POINTS), PICTURE, columns=POINTS)


if __name__ == "__main__":
    main()
