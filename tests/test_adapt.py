from pathlib import Path

import pytest
import torch
from helpers import GaussianScore
from torch import Tensor

from ncsn.adapt import from_denoiser, from_diffusers, from_noise_predictor, from_variance_preserving
from ncsn.samplers import heun
from ncsn.score import expand, tweedie

TRUTH = GaussianScore(0.3, 0.7)


def test_denoisers_and_noise_predictors_are_scores(generator: torch.Generator) -> None:
    x, sigma = torch.randn(6, 3, generator=generator), torch.linspace(0.1, 5, 6)
    denoiser = from_denoiser(lambda x, sigma: tweedie(TRUTH, x, sigma))
    predictor = from_noise_predictor(lambda x, sigma: -expand(sigma, x) * TRUTH(x, sigma))
    for score in (denoiser, predictor):
        torch.testing.assert_close(score(x, sigma), TRUTH(x, sigma), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(score(x, torch.tensor(2.0)), TRUTH(x, torch.tensor(2.0)), rtol=1e-4, atol=1e-4)


def test_a_variance_preserving_model_is_asked_at_its_own_scale_and_time(generator: torch.Generator) -> None:
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

    def predictor(x: Tensor, t: Tensor) -> Tensor:  # the exact E[z | x_t] for data from N(0.3, 0.7²)
        alpha = alphas[t][:, None]
        total = alpha * 0.7**2 + 1 - alpha
        return (1 - alpha).sqrt() * (x - alpha.sqrt() * 0.3) / total

    score = from_variance_preserving(predictor, alphas)
    x = torch.randn(5, 2, generator=generator)
    for sigma in (0.05, 0.5, 3.0, 50.0):
        at = torch.tensor(sigma)
        torch.testing.assert_close(score(x * (1 + sigma), at), TRUTH(x * (1 + sigma), at), rtol=0.02, atol=0.02)


@pytest.mark.filterwarnings("ignore")  # other people's
@pytest.mark.parametrize("kind", ["ve", "ddpm"])
def test_a_model_that_diffusers_saved_is_sampled_offline(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "norm_num_groups": 4}
    embedding = "fourier" if kind == "ve" else "positional"
    network = diffusers.UNet2DModel(layers_per_block=1, time_embedding_type=embedding, **shape, **blocks)
    if kind == "ve":
        pipeline = diffusers.ScoreSdeVePipeline(network, diffusers.ScoreSdeVeScheduler())
    else:
        pipeline = diffusers.DDPMPipeline(network, diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "model")
    score = from_diffusers(str(tmp_path / "model"))
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(0.8)
    network = network.eval()
    if kind == "ve":
        expected = network(x, sigma.expand(2)).sample
    else:
        alphas = pipeline.scheduler.alphas_cumprod
        time = (((1 - alphas) / alphas).sqrt() / 0.8).log().abs().argmin()
        expected = -network(x / (1 + 0.8**2) ** 0.5, time).sample / 0.8
    torch.testing.assert_close(score(x, sigma), expected.detach())
    *_, drawn = heun(score, 5 * x, torch.tensor([5.0, 1.0, 0.1]))
    assert drawn.isfinite().all()


@pytest.mark.filterwarnings("ignore")  # other people's
def test_other_models_are_refused(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    network = diffusers.UNet2DModel(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, **blocks)
    diffusers.DDPMPipeline(network, diffusers.PNDMScheduler()).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="allowed are ScoreSdeVe"):
        from_diffusers(str(tmp_path / "model"))
