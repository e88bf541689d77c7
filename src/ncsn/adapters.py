"""Adapters: denoisers, noise predictors and flows become scores, which drive every sampler, and scores denoisers.

Here σ is the standard deviation of noise on unscaled data ("variance exploding").  A model trained on
x_t = a_t·x₀ + b_t·z is called at a_t·x, at the t for which b_t/a_t = σ.  Up to known factors it predicts E[z | x_t],
and the score is −E[z | x_t]/σ.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.machine.tensors import Copies, float64
from ncsn.score import Score, Sigma, as_level, expand, place_level, tweedie
from ncsn.validation import as_numbers, real

if TYPE_CHECKING:
    from azula.denoise import Denoiser

Network = Callable[[Tensor, Tensor], Tensor]
"""A network: examples (b, *d), and a noise level or time for each (b,) → predictions (b, *d)."""

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What a diffusion model predicts, named as in diffusers: the noise z, v = √ᾱ·z − √(1 − ᾱ)·x₀, or the data x₀."""

SIGNIFICANT_BITS = 40  # of a time found by bisection
SIGMA_ROUNDING = 1e-3  # relative; in single precision, 1 − ᾱ₀ and hence the smallest σ have three to four digits


def with_levels(function: Callable[[Tensor, Tensor], Tensor]) -> Score:
    """The score ``function(x, std)``, where ``std`` are noise levels in a shape that broadcasts against x."""
    return lambda x, sigma: function(x, expand(sigma, x))


def from_denoiser(denoiser: Network) -> Score:
    """The score (D(x, σ) − x)/σ² of a denoiser (Robbins 1956; Karras et al. 2022, arXiv:2206.00364, equation 3).

    ``denoiser``: (x (b, *d), σ (b,)) → E[x₀ | x], for x = x₀ + σz.

    >>> score = ncsn.from_denoiser(lambda x, sigma: x / (1 + sigma[:, None] ** 2))  # the exact one for N(0, 1)
    >>> score(torch.tensor([[2.0, -4.0]]), 1.0)
    tensor([[-1.,  2.]])
    """
    return with_levels(lambda x, std: (denoiser(x, std.flatten()) - x) / std**2)


def from_noise_predictor(predictor: Network) -> Score:
    """The score −z(x, σ)/σ of a noise predictor (Ho et al. 2020, arXiv:2006.11239, section 3.2).

    ``predictor``: (x (b, *d), σ (b,)) → E[z | x], for x = x₀ + σz with a standard normal z.
    """
    return with_levels(lambda x, std: -predictor(x, std.flatten()) / std)


def from_flow(velocity: Network) -> Score:
    """The score −(x + v)/(σ(1 + σ)) of a rectified flow, or of flow matching along straight lines to the noise.

    ``velocity``: (x_t (b, *d), t (b,)) → v = E[z − x₀ | x_t], for x_t = (1 − t)·x₀ + t·z and t in [0, 1], where t = 0
    is the data.  It is evaluated at x_t = x/(1 + σ) and t = σ/(1 + σ), where z = x_t + (1 − t)·v.

    In the papers, t = 1 is the data.  For such a model u, use ``from_flow(lambda x, t: -u(x, 1 - t))``.

    Liu et al. 2022 (arXiv:2209.03003), equation 1; Lipman et al. 2022 (arXiv:2210.02747), section 4.1.
    """

    def score(x: Float[Tensor, "b *d"], std: Float[Tensor, "b *ones"]) -> Float[Tensor, "b *d"]:
        v = velocity(x / (1 + std), (std / (1 + std)).flatten())
        return -(x + v) / (std * (1 + std))

    return with_levels(score)


def from_variance_preserving(
    predictor: Network, alphas: Float[Tensor, "t"], *, prediction_type: Prediction = "epsilon"
) -> Score:
    """The score of a DDPM: a model trained on x_t = √ᾱ_t·x₀ + √(1 − ᾱ_t)·z at the times t = 0, 1, ….

    ``predictor``: (x_t (b, *d), t (b,)) → the prediction of type ``prediction_type``; t may be fractional.
    ``alphas``: ᾱ_t for every t, strictly decreasing in (0, 1) (diffusers' ``scheduler.alphas_cumprod``).
    ``prediction_type``: "epsilon" for z, "v_prediction" for √ᾱ_t·z − √(1 − ᾱ_t)·x₀, "sample" for x₀.

    At noise level σ the network is called with x/√(1 + σ²) and the time at which ln √(1/ᾱ_t − 1), interpolated linearly
    between integer t, equals ln σ.  Outside of its noise levels, the nearest one is used, with a warning.

    Ho et al. 2020 (arXiv:2006.11239); v: Salimans & Ho 2022 (arXiv:2202.00512), section 4; fractional times as in
    k-diffusion.  Raises ValueError for invalid ``alphas`` or another ``prediction_type``.
    """
    if prediction_type not in get_args(Prediction):
        raise ValueError(f"prediction_type is {prediction_type!r}; it must be one of {', '.join(get_args(Prediction))}")
    alphas = float64(as_numbers("alphas", alphas).detach())
    falling = alphas.ndim == 1 and bool((alphas.diff() < 0).all())
    if not falling or len(alphas) < 2 or not (alphas[0] < 1 and alphas[-1] > 0):
        raise ValueError(f"alphas is {alphas.tolist()}; it must have at least two numbers decreasing in (0, 1)")
    log_sigmas = ((1 - alphas) / alphas).log() / 2
    copies = Copies(log_sigmas)
    least, largest = log_sigmas[[0, -1]].exp().tolist()

    def score(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        std, level = expand(sigma, x), as_level(sigma, x.dtype)
        if bool(((level < least * (1 - SIGMA_ROUNDING)) | (level > largest * (1 + SIGMA_ROUNDING))).any()):
            # The same message each time, so that Python prints it once.
            message = f"noise levels outside {least:.4g} to {largest:.4g}: the model's nearest level is used"
            warnings.warn(message, stacklevel=2)
        std = std.clamp(min=least)
        scale = (1 + std**2).sqrt()
        precision = torch.promote_types(x.dtype, torch.float32)  # bfloat16 cannot tell t from t + 1
        (table,) = copies.on(x.device)
        times = fractional_indices(table.to(precision), std.flatten().to(precision).log())
        predicted = predictor(x / scale, times)
        if prediction_type == "sample":
            return (predicted - x) / std**2
        noise = predicted if prediction_type == "epsilon" else (predicted + std * x / scale) / scale
        return -noise / std

    return score


def fractional_indices(table: Float[Tensor, "t"], values: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Fractional indices of values in an ascending table, clamped to its ends."""
    after = torch.searchsorted(table, values).clamp(1, len(table) - 1)
    before = after - 1
    share = (values - table[before]) / (table[after] - table[before])
    return before + share.clamp(0, 1)


def from_azula(denoiser: Callable[..., Any]) -> Score:
    """The score of one of azula's denoisers (github.com/probabilists/azula), of any schedule.

    ``denoiser``: (x_t, t) → an object with ``mean`` = E[x₀ | x_t], for x_t = α_t·x₀ + σ_t·z, where
    ``denoiser.schedule(t)`` is (α_t, σ_t) for t in [0, 1].  At noise level σ it is called at α_t·x and the t for which
    σ_t/α_t is σ, or at the nearest end.
    Raises ValueError for an object without a schedule.
    """
    schedule = getattr(denoiser, "schedule", None)
    if not callable(schedule):
        raise ValueError(f"denoiser is a {type(denoiser).__name__} without a schedule; expected one of azula's")

    def score(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        level = place_level(sigma, x.dtype, x.device)
        low, high = torch.zeros_like(level), torch.ones_like(level)
        for _ in range(SIGNIFICANT_BITS):  # σ_t/α_t grows with t
            middle = (low + high) / 2
            scale, std = schedule(middle)
            below = std < level * scale
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        scale = expand(schedule(high)[0], x)
        mean: Tensor = denoiser(scale * x, high).mean
        return (mean - x) / expand(level, x) ** 2

    return score


def to_azula(score: Score, *, sigma_max: float, sigma_min: float) -> "Denoiser":
    """A score as one of azula's denoisers, for its samplers and its approximate posteriors (``azula.guidance``).

    ``score``: a run's (``run.score``, which isn't in the data's units if ``run.transform`` changes them), or any other.
    ``sigma_max``, ``sigma_min``: the noise levels at t = 1 and t = 0; x_t = x₀ + σ_t·z, and ln σ_t is linear in t.
    Raises ValueError unless 0 < sigma_min < sigma_max, and ImportError without azula.
    """
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VESchedule

    sigma_max = real("sigma_max", sigma_max, above=real("sigma_min", sigma_min, above=0))

    class ScoreDenoiser(Denoiser):  # type: ignore[misc]
        schedule = VESchedule(sigma_min, sigma_max)

        def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
            return DiracPosterior(tweedie(score, x_t, self.schedule.sigma(t)))

    return ScoreDenoiser()


FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
DISTILLED = ("LCMScheduler", "TCDScheduler")  # consistency models, which predict a sample rather than a mean


def from_diffusers(folder: str | Path) -> Score:
    """The score of an image model that diffusers has saved to a local folder (``pipeline.save_pretrained(folder)``).

    ``folder``: holds an unconditional ``UNet2DModel`` and one of these schedulers:

    - ScoreSdeVe: the network predicts the score (Song et al. 2020, arXiv:2011.13456);
    - FlowMatchEuler, FlowMatchHeun: it predicts a velocity at time t·num_train_timesteps, see ``from_flow``;
    - any other with ``alphas_cumprod`` (DDPM, DDIM, PNDM, Euler, Heun, DPM-Solver, UniPC, …): it predicts the noise, v
      or the sample, according to the scheduler's ``prediction_type``, see ``from_variance_preserving``; a learned
      variance is ignored.

    Latent models, learned time embeddings, inverted or flow sigmas, continuous times, and models distilled for LCM or
    TCD aren't supported.

    x is in the model's own range, usually [−1, 1], for ScoreSdeVe [0, 1].  Nothing is downloaded.  The network moves to
    the device of x.
    Raises ValueError if the folder holds another kind of model, and diffusers' own error if it holds none.
    """
    from diffusers import DiffusionPipeline, UNet2DModel

    components = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True).components
    network, scheduler = components.get("unet"), components.get("scheduler")
    name = type(scheduler).__name__
    settings = getattr(scheduler, "config", {})
    refusal = ValueError(
        f"{folder} holds a {type(network).__name__} with a {name}; see from_diffusers for what is supported"
    )
    channels = 2 if settings.get("variance_type") in ("learned", "learned_range") else 1
    if (
        not isinstance(network, UNet2DModel)
        or "vqvae" in components  # which decodes what the network samples
        or network.class_embedding is not None
        or network.config.time_embedding_type == "learned"  # it has a vector for each integer t only
        or network.config.out_channels != network.config.in_channels * channels
    ):
        raise refusal
    network.requires_grad_(False)  # diffusers has already set it to evaluation mode

    def output(x: Tensor, time: Tensor) -> Tensor:
        if network.device != x.device:
            network.to(x.device)
        sample: Tensor = network(x, time).sample
        return sample[:, : x.shape[1]]

    if name == "ScoreSdeVeScheduler":
        return with_levels(lambda x, std: output(x, std.flatten()))
    if name in FLOWS and not settings.get("invert_sigmas"):
        return from_flow(lambda x, t: output(x, t * settings["num_train_timesteps"]))
    alphas = getattr(scheduler, "alphas_cumprod", None)
    prediction = settings.get("prediction_type", "epsilon")  # RePaint's has none
    other_times = settings.get("timestep_type") == "continuous" or settings.get("use_flow_sigmas")
    if alphas is None or name in DISTILLED or prediction not in get_args(Prediction) or other_times:
        raise refusal
    # With zero terminal SNR (Lin et al. 2023, arXiv:2305.08891) the last ᾱ is 0 in effect, and its σ infinite.
    finite = alphas[:-1] if settings.get("rescale_betas_zero_snr") else alphas
    return from_variance_preserving(output, finite, prediction_type=prediction)
