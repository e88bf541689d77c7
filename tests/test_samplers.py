import pytest
import torch
from helpers import GaussianScore, z_score

from ncsn.noise import Geometric
from ncsn.samplers import annealed_langevin, langevin
from ncsn.score import tweedie

N = 100_000


def check_moments(x: torch.Tensor, mean: float, variance: float) -> None:
    assert abs(z_score(x.flatten(), mean)) < 4
    assert abs(z_score((x.flatten() - mean) ** 2, variance)) < 4


def test_langevin_follows_the_exact_recursion_of_a_gaussian(generator: torch.Generator) -> None:
    mean, std, sigma, alpha = 1.5, 0.8, 0.6, 0.7
    total = std**2 + sigma**2
    m, v = -2.0, 0.25
    x = m + v**0.5 * torch.randn(N, 1, generator=generator)
    path = langevin(
        GaussianScore(mean, std),
        x,
        torch.tensor(sigma),
        step_size=alpha,
        steps=6,
        denoise=False,
        generator=generator,
    )
    for x in path:
        m, v = m + alpha / 2 * (mean - m) / total, v * (1 - alpha / (2 * total)) ** 2 + alpha
        check_moments(x, m, v)


def test_annealed_langevin_follows_the_exact_recursion_of_a_gaussian(generator: torch.Generator) -> None:
    mean, std, eps, steps = 0.5, 1.2, 0.02, 3
    sigmas = Geometric(4.0, 0.25, 5).sigmas()
    m, v = 0.0, 16.0
    x = 4 * torch.randn(N, 1, generator=generator)
    *path, last, denoised = annealed_langevin(
        GaussianScore(mean, std), x, sigmas, eps=eps, steps=steps, generator=generator
    )
    for x, sigma in zip([*path, last], sigmas.tolist(), strict=True):
        alpha, total = eps * sigma**2 / 0.25**2, std**2 + sigma**2
        for _ in range(steps):
            m, v = m + alpha / 2 * (mean - m) / total, v * (1 - alpha / (2 * total)) ** 2 + alpha
        check_moments(x, m, v)
    torch.testing.assert_close(denoised, tweedie(GaussianScore(mean, std), last, sigmas[-1]))


@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_stationary_variance_of_a_level(eps: float, generator: torch.Generator) -> None:
    """With the score of N(0, σ²), the variance is σ²/(1 − ε/(4σ_L²)): the convention of the paper's algorithm 1."""
    sigma = 0.5
    x = sigma * torch.randn(N, 1, generator=generator)
    sigmas = torch.full((1,), sigma)
    (x,) = annealed_langevin(GaussianScore(0, 0), x, sigmas, eps=eps, steps=150, denoise=False, generator=generator)
    check_moments(x, 0, sigma**2 / (1 - eps / (4 * sigma**2)))


def test_same_seed_same_samples() -> None:
    def draw() -> torch.Tensor:
        g = torch.Generator().manual_seed(3)
        x = torch.randn(10, 2, generator=g)
        *_, x = annealed_langevin(GaussianScore(0, 1), x, Geometric(2, 0.1, 4).sigmas(), eps=1e-3, steps=2, generator=g)
        return x

    assert torch.equal(draw(), draw())


def test_number_of_states_and_evaluations(generator: torch.Generator) -> None:
    calls = 0

    def counting(x: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return -x

    x, sigmas = torch.randn(4, 2, generator=generator), Geometric(2, 0.5, 3).sigmas()
    assert len(list(annealed_langevin(counting, x, sigmas, eps=0.1, steps=5, generator=generator))) == 4
    assert calls == 16
    calls = 0
    assert len(list(langevin(counting, x, sigmas[0], step_size=0.1, steps=5, generator=generator))) == 6
    assert calls == 6


@pytest.mark.parametrize(
    ("sigmas", "eps", "steps", "message"),
    [
        ([1.0, 2.0], 0.1, 1, "descending"),
        ([1.0, 0.0], 0.1, 1, "descending"),
        ([], 0.1, 1, "descending"),
        ([1.0, 0.5], 0.0, 1, "eps"),
        ([1.0, 0.5], 1.1, 1, "diverge"),
        ([1.0, 0.5], 0.1, 0, "steps"),
    ],
)
def test_annealed_langevin_refuses(sigmas: list[float], eps: float, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(annealed_langevin(GaussianScore(0, 1), torch.zeros(1, 1), torch.tensor(sigmas), eps=eps, steps=steps))


@pytest.mark.parametrize(("step_size", "steps", "message"), [(0.0, 1, "step_size"), (0.1, 0, "steps")])
def test_langevin_refuses(step_size: float, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(langevin(GaussianScore(0, 1), torch.zeros(1, 1), torch.tensor(1.0), step_size=step_size, steps=steps))
