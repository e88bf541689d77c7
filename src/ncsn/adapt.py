"""Other people's models as scores: whatever denoises, or predicts the noise, drives every sampler here.

σ is the standard deviation of the noise on data whose scale is not changed ("variance exploding").  A model trained on
x_t = α_t·x + σ_t·z knows the same thing: it is called at α_t·x with the t for which σ_t/α_t is the σ asked for.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.score import Score, expand

Sigma = Float[Tensor, ""] | Float[Tensor, "b"]


def from_denoiser(denoiser: Callable[[Tensor, Tensor], Tensor]) -> Score:
    """The score (D(x, σ) − x)/σ² of a denoiser D(x, σ) ≈ E[x₀ | x] (Robbins 1956)."""

    def score(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        return (denoiser(x, sigma) - x) / expand(sigma, x) ** 2

    return score


def from_noise_predictor(predictor: Callable[[Tensor, Tensor], Tensor]) -> Score:
    """The score −z(x, σ)/σ of a predictor of the standard normal noise z in x = x₀ + σz."""

    def score(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        return -predictor(x, sigma) / expand(sigma, x)

    return score


def from_variance_preserving(predictor: Callable[[Tensor, Tensor], Tensor], alphas: Float[Tensor, "t"]) -> Score:
    """The score of a DDPM: a predictor of the noise z in √ᾱ_t·x₀ + √(1 − ᾱ_t)·z at integer times t.

    ``alphas``: ᾱ_t for every t, decreasing (diffusers' ``scheduler.alphas_cumprod``).  At noise level σ the time is
    the one whose √(1/ᾱ_t − 1) is nearest to σ in ln σ, and x is scaled by √ᾱ_t = 1/√(1 + σ²).
    """
    log_sigmas = ((1 - alphas) / alphas).log() / 2

    def predict(x: Float[Tensor, "b *d"], sigma: Sigma) -> Float[Tensor, "b *d"]:
        per_example = expand(sigma, x)
        times = (per_example.flatten().log()[:, None] - log_sigmas.to(x)).abs().argmin(1)
        return predictor(x / (1 + per_example**2).sqrt(), times)

    return from_noise_predictor(predict)


def from_diffusers(folder: str) -> Score:
    """The score of an image model in a local folder, as diffusers saves it (``pipeline.save_pretrained(folder)``).

    A ``UNet2DModel`` with a ScoreSdeVe scheduler (its output is the score), a Karras-VE one (its output is a direction,
    σ·score), or a DDPM or DDIM one (its output is the noise).  x is in the model's own range, usually [−1, 1].
    Nothing is downloaded.  Raises ValueError if the folder holds another kind of model.
    """
    from diffusers import DiffusionPipeline, UNet2DModel

    pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    network, scheduler = pipeline.unet.eval().requires_grad_(False), type(pipeline.scheduler).__name__
    if not isinstance(network, UNet2DModel):
        raise ValueError(f"{folder} holds a {type(network).__name__}; a UNet2DModel is needed")

    def output(x: Tensor, time: Tensor) -> Tensor:
        return network(x, time).sample  # type: ignore[no-any-return]

    if scheduler == "ScoreSdeVeScheduler":
        return lambda x, sigma: output(x, sigma.expand(len(x)))
    if scheduler == "KarrasVeScheduler":
        return from_noise_predictor(lambda x, sigma: -output((x + 1) / 2, sigma.expand(len(x)) / 2))
    if scheduler in ("DDPMScheduler", "DDIMScheduler") and pipeline.scheduler.config.prediction_type == "epsilon":
        return from_variance_preserving(output, torch.as_tensor(pipeline.scheduler.alphas_cumprod))
    raise ValueError(f"{folder} has a {scheduler}; allowed are ScoreSdeVe, KarrasVe, and DDPM or DDIM for the noise")
