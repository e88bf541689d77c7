import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import GaussianScore, refuses
from torch import Tensor

import ncsn
from ncsn.score import tweedie

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of diffusers
Network = Callable[[Tensor, Tensor], Tensor]
MEAN, STD = 0.3, 0.7
TRUTH = GaussianScore(MEAN, STD)
ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
SIGMAS = (1 / ALPHAS - 1).sqrt()


def exact_noise(x: Tensor, t: Tensor) -> Tensor:
    """What a model of N(0.3, 0.7²) predicts, at whole times and between them."""
    sigma = torch.from_numpy(np.exp(np.interp(t, np.arange(1000), SIGMAS.log()))).to(x)[:, None]
    alpha, beta = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    return beta * (x - alpha * MEAN) / (alpha**2 * STD**2 + beta**2)


VARIANCE_PRESERVING = partial(ncsn.from_variance_preserving, exact_noise)


def test_bfloat16_does_not_blur_the_time() -> None:
    """A predictor that returns the time: then s = −t/σ."""
    score = ncsn.from_variance_preserving(lambda x, t: t[:, None].expand(x.shape), ALPHAS)
    time = -32.0 * score(torch.ones(1, 2, dtype=torch.bfloat16), 32.0)
    assert float((time - time_of(32.0, ALPHAS)).abs().max()) < 0.01


def test_beyond_its_noise_levels_a_model_is_asked_at_its_last_one_with_a_warning() -> None:
    x, one = torch.linspace(-2000, 2000, 4, dtype=torch.float64)[:, None], torch.ones(1, 1)
    rounded = VARIANCE_PRESERVING(ALPHAS.float())  # whose least σ is 0.0100005: not outside
    torch.testing.assert_close(rounded(one, 0.01), TRUTH(one, 0.01), rtol=1e-3, atol=0)
    score = VARIANCE_PRESERVING(ALPHAS)
    with pytest.warns(UserWarning, match=r"0\.01 to 157\.4"):
        actual = score(x, torch.tensor([0.02, 0.004, 0.02, 0.003]))
    torch.testing.assert_close(actual, TRUTH(x, torch.tensor([0.02, 0.01, 0.02, 0.01])), rtol=1e-4, atol=1e-4)
    sigma, largest = 1000.0, float(SIGMAS[-1])
    with pytest.warns(UserWarning, match=r"0\.01 to 157\.4"):
        actual = score(x, sigma)
    seen = x / (1 + sigma**2) ** 0.5 * (1 + largest**2) ** 0.5
    torch.testing.assert_close(actual, -largest * (seen - MEAN) / (STD**2 + largest**2) / sigma)


NO_ALPHAS = [0.9], [0.9, 0.95], [1.0, 0.5], [0.9, 0.0], [[0.9, 0.5]], [0.9, float("nan")]
NO_LEVELS = (0.05, 20.0), (1.0, 1.0), (1.0, 0.0), (float("nan"), 0.1)
REFUSED: list[tuple[Callable[[], object], str]] = [
    *((partial(VARIANCE_PRESERVING, torch.tensor(each)), r"alphas is .* decreasing") for each in NO_ALPHAS),
    (partial(VARIANCE_PRESERVING, ALPHAS, prediction_type="eps"), "is 'eps'; it must be one of epsilon, v_pred"),
    *((partial(ncsn.to_azula, TRUTH, sigma_max=top, sigma_min=low), "sigma_m") for top, low in NO_LEVELS),
    (lambda: ncsn.from_azula(lambda x, t: x), "without a schedule"),
]
test_other_alphas_predictions_and_denoisers_are_refused = refuses(REFUSED)


# Models in diffusers' folders.

BETAS: dict[str, object] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
X = torch.linspace(-2, 2, 32).view(2, 1, 4, 4)


Save = Callable[..., tuple[str, Network, Tensor]]


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """A model as diffusers saves it: its folder, what its network says, and its scheduler's table (empty for none)."""
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    small: dict[str, object] = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
    small |= {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "sample_size": 4}
    small |= {"in_channels": 1, "out_channels": 1, "num_train_timesteps": 1000}

    def save(name: str, unet: Mapping[str, object] | None = None, **settings: object) -> tuple[str, Network, Tensor]:
        torch.manual_seed(0)
        network = diffusers.UNet2DModel(**small | dict(unet or {})).eval().requires_grad_(False)
        scheduler = getattr(diffusers, f"{name}Scheduler")(**settings)
        diffusers.DDPMPipeline(network, scheduler).save_pretrained(tmp_path)
        return str(tmp_path), lambda x, t: network(x, t).sample, getattr(scheduler, "alphas_cumprod", torch.empty(0))

    return save


def time_of(sigma: float, alphas: Tensor) -> Tensor:
    """The time with a fraction, by numpy: linear in ln σ between whole times."""
    table = (1 / alphas.double() - 1).sqrt().log().numpy()
    return torch.tensor(np.interp(np.log(sigma), table, np.arange(len(table))), dtype=torch.float32)


SCHEDULERS = [
    ("DDPM", {"variance_type": "fixed_small"}),
    ("DDPM", {"prediction_type": "v_prediction", "variance_type": "learned_range"}),
    ("DDPM", {"prediction_type": "sample", "variance_type": "learned"}),
    ("PNDM", {"prediction_type": "epsilon"}),
    ("RePaint", {}),
    ("EulerDiscrete", {"prediction_type": "sample"}),
    ("DPMSolverMultistep", {"prediction_type": "v_prediction"}),
    ("UniPCMultistep", {"prediction_type": "epsilon"}),
]


@pytest.mark.parametrize(("name", "settings"), SCHEDULERS)
def test_a_scheduler_with_a_table(name: str, settings: dict[str, str], save: Save) -> None:
    channels = 2 if "learned" in settings.get("variance_type", "") else 1
    path, network, alphas = save(name, {"out_channels": channels}, **settings, **BETAS)
    sigma = 0.75  # √(1 + σ²) = 1.25, √ᾱ = 0.8, √(1 − ᾱ) = 0.6
    answer = network(0.8 * X, time_of(sigma, alphas))[:, :1]
    clean = {"epsilon": X - 0.75 * answer, "v_prediction": 0.64 * X - 0.6 * answer, "sample": answer}
    denoised = clean[settings.get("prediction_type", "epsilon")]
    torch.testing.assert_close(ncsn.from_diffusers(path)(X, sigma), (denoised - X) / sigma**2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete"])  # one has 0 at the end of its table, the other 2⁻²⁴
def test_a_model_that_was_trained_down_to_no_signal(name: str, save: Save) -> None:
    path, network, alphas = save(name, rescale_betas_zero_snr=True, prediction_type="v_prediction", **BETAS)
    score = ncsn.from_diffusers(path)
    table = (1 / alphas - 1).sqrt()
    sigma = float(table[997])
    denoised = 0.001 * X - network(0.001 * X * sigma, torch.tensor(997.0))
    torch.testing.assert_close(score(0.001 * X * sigma**2, sigma) * sigma, -0.001 * X * sigma + denoised / sigma)
    with pytest.warns(UserWarning, match=re.escape(f"to {table[998]:.4g}:")):
        score(X, 1e5)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"])
def test_a_flow_in_a_folder(name: str, save: Save) -> None:
    path, network, _ = save(name, num_train_timesteps=500, shift=3.0)
    denoised = 0.8 * X - 0.2 * network(0.8 * X, torch.tensor(0.2 * 500))  # σ = 0.25: t = 0.2, x_t = 0.8·x
    torch.testing.assert_close(ncsn.from_diffusers(path)(X, 0.25), (denoised - X) / 0.25**2, rtol=1e-4, atol=1e-5)


def test_a_variance_exploding_model_is_a_score_already(save: Save) -> None:
    path, network, _ = save("ScoreSdeVe", {"time_embedding_type": "fourier"})
    for sigma in (0.8, torch.tensor([0.8, 0.8])):
        torch.testing.assert_close(ncsn.from_diffusers(path)(X, sigma), network(X, torch.tensor([0.8, 0.8])))


OTHERS = [
    ("DDPM", {"out_channels": 2}, {}),
    ("DDPM", {}, {"variance_type": "learned"}),
    ("DDPM", {"num_class_embeds": 10}, {}),
    ("DDPM", {"time_embedding_type": "learned"}, {}),
    ("EulerDiscrete", {}, {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
    ("UniPCMultistep", {}, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ("FlowMatchEulerDiscrete", {}, {"invert_sigmas": True}),
    ("DDIM", {}, {"prediction_type": "noise"}),
    ("EDMEuler", {}, {"prediction_type": "v_prediction"}),
    ("LCM", {}, {"prediction_type": "epsilon"}),
]


@pytest.mark.parametrize(("name", "unet", "settings"), OTHERS)
def test_other_models_are_refused(name: str, unet: dict[str, object], settings: dict[str, object], save: Save) -> None:
    path, _, _ = save(name, unet, **settings)
    with pytest.raises(ValueError, match=f"a UNet2DModel with a {name}Scheduler"):
        ncsn.from_diffusers(path)


def test_other_networks_and_latent_models_are_refused(save: Save, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    network = diffusers.UNet1DModel(block_out_channels=(32, 32, 64))
    diffusers.DDPMPipeline(network, diffusers.PNDMScheduler()).save_pretrained(tmp_path / "other")
    decoder, (path, _, _) = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4), save("DDIM")
    parts = diffusers.DDPMPipeline.from_pretrained(path)
    diffusers.LDMPipeline(decoder, parts.unet, parts.scheduler).save_pretrained(tmp_path / "latent")
    for name, kind in (
        ("other", "a UNet1DModel with a PNDMScheduler"),
        ("latent", "a UNet2DModel with a DDIMScheduler"),
    ):
        with pytest.raises(ValueError, match=kind):
            ncsn.from_diffusers(tmp_path / name)


def test_a_denoiser_of_azula_is_its_score() -> None:
    """The package's own exact denoiser of a Gaussian, which takes one time for all examples."""
    azula = pytest.importorskip("azula")
    covariance = azula.linalg.covariance.IsotropicCovariance(torch.tensor(STD**2))
    denoiser = azula.denoise.GaussianDenoiser(torch.full((3,), MEAN), covariance, azula.noise.VPSchedule())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for sigma in (0.05, 0.8, 20.0):
        torch.testing.assert_close(ncsn.from_azula(denoiser)(x, sigma), TRUTH(x, sigma), rtol=1e-3, atol=1e-3)


def test_a_score_is_a_denoiser_of_azula() -> None:
    """The exact mean at both ends of its schedule and between them, at one time for all examples and one for each."""
    pytest.importorskip("azula")
    denoiser = ncsn.to_azula(TRUTH, sigma_max=20.0, sigma_min=0.05)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    times, sigmas = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.05, 1.0, 20.0])
    torch.testing.assert_close(denoiser(x, times).mean, tweedie(TRUTH, x, sigmas))
    torch.testing.assert_close(denoiser(x, times[1]).mean, tweedie(TRUTH, x, 1.0))
    torch.testing.assert_close(ncsn.from_azula(denoiser)(x, 3.0), TRUTH(x, 3.0))


AXIS = torch.linspace(-8, 8, 400)
GRID = torch.cartesian_prod(AXIS, AXIS)
CLOUD = ncsn.GaussianMixture(torch.tensor([[2.0, 2.0]]))


def intensity(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def count(x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
    rates = torch.distributions.Poisson(3 * x.clamp(min=0.01))
    return rates.log_prob(torch.tensor([12.0, 3.0])) / (1 + sigma**2)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("name", ["intensity", "counts"])
def test_azula_draws_posteriors_of_nonlinear_measurements_and_counts(name: str) -> None:
    """As on the page about operators; approximately, beside sums over a grid."""
    azula, denoiser = pytest.importorskip("azula"), ncsn.to_azula(CLOUD, sigma_max=40.0, sigma_min=0.02)
    if name == "intensity":
        noise = azula.linalg.covariance.IsotropicCovariance(torch.tensor(1.0))
        given = azula.guidance.mmps.MMPSDenoiser(denoiser, torch.tensor([16.0]), intensity, noise)
        sampler = azula.sample.DDPMSampler(given, steps=256, silent=True)
        log_likelihood = -(intensity(GRID)[:, 0] - 16).square() / 2
    else:
        sampler = azula.guidance.tds.TDSSampler(denoiser, count, steps=64, silent=True)
        log_likelihood = count(GRID).sum(1)
    torch.manual_seed(0)
    x = sampler(sampler.init((4000, 2)))
    weights = (CLOUD.log_prob(GRID, 0.0) + log_likelihood).softmax(0)
    mean = weights @ GRID
    std = (weights @ (GRID - mean) ** 2).sqrt()
    assert float(((x.mean(0) - mean) / std).abs().max()) < 0.2
    assert float((x.std(0) / std - 1).abs().max()) < 0.15
