import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from helpers import GaussianScore, states_of, z_score, zero_score

from ncsn import samplers as ways
from ncsn.distributions import TOYS, Empirical, GaussianMixture
from ncsn.likelihood import log_prob
from ncsn.noise import Geometric, Karras, LogNormal, LogUniform, suggest_noise
from ncsn.problems import blurred, conjugate_gradient, downsampled, masked, posterior, replacement
from ncsn.samplers import encode, slerp
from ncsn.score import Counted, Score, tweedie

annealed_langevin = states_of(ways.annealed_langevin)
consistent_annealed = states_of(ways.consistent_annealed)
langevin = states_of(ways.langevin)
predictor_corrector = states_of(ways.predictor_corrector)
dpm_solver = states_of(ways.dpm_solver)
edm = states_of(ways.edm)
euler = states_of(ways.euler)
heun = states_of(ways.heun)

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


Sampler = Callable[..., Iterator[torch.Tensor]]
STOCHASTIC: dict[str, tuple[Sampler, dict[str, float]]] = {
    "annealed": (annealed_langevin, {"eps": 0.05, "steps": 3}),
    "consistent": (consistent_annealed, {"eta": 0.6}),
    "pc": (predictor_corrector, {"snr": 0.1, "corrections": 1}),
    "edm": (edm, {"churn": 4.0}),
    "dpmpp-sde": (dpm_solver, {"stochasticity": 1.0}),
}
FLOWS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp": dpm_solver}


@pytest.mark.parametrize("name", [*STOCHASTIC, *FLOWS])
def test_states_and_evaluations_are_those_documented(name: str, generator: torch.Generator) -> None:
    evaluations = {"annealed": 16, "pc": 9, "heun": 9, "edm": 9}.get(name, 5)  # with the denoising one, on 5 levels
    sampler, arguments = STOCHASTIC.get(name) or (FLOWS[name], {})
    score, x, sigmas = (
        Counted(GaussianScore(0, 1)),
        torch.randn(4, 2, generator=generator),
        Geometric(2, 0.5, 5).sigmas(),
    )
    *path, last, denoised = sampler(
        score, x, sigmas, **arguments, **({"generator": generator} if name in STOCHASTIC else {})
    )
    assert len(path) == (4 if name == "annealed" else 3)
    assert score.nfe == evaluations
    torch.testing.assert_close(denoised, tweedie(GaussianScore(0, 1), last, sigmas[-1]))


def test_langevin_counts() -> None:
    score = Counted(GaussianScore(0, 1))
    assert len(list(langevin(score, torch.zeros(4, 2), torch.tensor(1.0), step_size=0.1, steps=5))) == 6
    assert score.nfe == 6


def flow_of_a_gaussian(x: torch.Tensor, std: float, sigmas: torch.Tensor) -> torch.Tensor:
    """Where the probability flow carries x: a Gaussian's x/√(s² + σ²) is constant along it."""
    return x * ((std**2 + sigmas[-1] ** 2) / (std**2 + sigmas[0] ** 2)).sqrt()


def test_a_restart_keeps_the_distribution_and_takes_back_errors(generator: torch.Generator) -> None:
    """Two starts end as far apart as a Gaussian's flow says, which goes through the levels of the restart twice."""
    down, again = Geometric(3.0, 0.1, 200).sigmas().double(), Geometric(1.0, 0.1, 100).sigmas().double()
    score = Counted(GaussianScore(1.0, 0.7))
    x = 1 + math.hypot(3, 0.7) * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    one, other = (
        [*euler(score, start, torch.cat([down, again]), denoise=False, generator=torch.Generator().manual_seed(5))][-1]
        for start in (x, x + 2)
    )
    twice = flow_of_a_gaussian(flow_of_a_gaussian(torch.tensor(2.0), 0.7, down), 0.7, again)
    torch.testing.assert_close(other - one, twice.to(x).expand_as(x), rtol=0.03, atol=0)
    assert abs(z_score(one[:, 0], 1)) < 4
    assert float(one.std()) == pytest.approx(math.hypot(0.7, 0.1), rel=0.03)  # 6 standard errors
    assert score.nfe == 2 * (len(down) - 1 + len(again) - 1), "the way up costs nothing"


def test_only_euler_restarts() -> None:
    rising = torch.tensor([2.0, 1.0, 1.5, 0.5])
    assert [step.sigma for step in ways.euler(GaussianScore(0, 1), torch.zeros(2, 1), rising)] == [1, 1.5, 0.5, 0]
    for sampler in (heun, dpm_solver):
        with pytest.raises(ValueError, match="a descending ladder"):
            list(sampler(GaussianScore(0, 1), torch.zeros(2, 1), rising))
    for wrong in ([2.0, 1.0, 1.0], [2.0, math.nan, 1.0]):
        with pytest.raises(ValueError, match="a descending ladder, but for restarts,"):
            list(euler(GaussianScore(0, 1), torch.zeros(2, 1), torch.tensor(wrong)))


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    """The error at the end of a Gaussian's flow falls as levels^-order, in float64."""
    x, errors, counts = torch.linspace(1, 3, 5, dtype=torch.float64)[:, None], [], [40, 80, 160, 320]
    for levels in counts:
        top, bottom = math.log(3.0), math.log(0.1)
        sigmas = torch.linspace(top, bottom, levels, dtype=torch.float64).exp()
        *_, end = FLOWS[name](GaussianScore(0, 0.7), x, sigmas, denoise=False)
        errors.append(float((end - flow_of_a_gaussian(x, 0.7, sigmas)).norm()))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.1)


@pytest.mark.parametrize("name", ["heun", "dpmpp"])
def test_the_flow_of_a_mixture_is_that_of_a_fine_euler(name: str, generator: torch.Generator) -> None:
    mixture = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5, torch.tensor([0.3, 0.7]))
    x = 10 * torch.randn(50, 2, generator=generator, dtype=torch.float64)
    *_, fine = euler(mixture, x, Karras(10, 0.01, 4000).sigmas().double())
    *_, coarse = FLOWS[name](mixture, x, Karras(10, 0.01, 200).sigmas().double())
    torch.testing.assert_close(coarse, fine, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_mixture_is_sampled_with_its_weights_and_widths(name: str, generator: torch.Generator) -> None:
    """Each stochastic sampler, with the exact score and many levels, draws from the mixture."""
    sampler, arguments = STOCHASTIC[name]
    ladder = Geometric(8.0, 0.1, 60).sigmas()
    arguments = {"annealed": {"eps": 0.005, "steps": 20}, "consistent": {"eta": 0.14}}.get(name, arguments)
    mixture = GaussianMixture(torch.tensor([[-3.0], [3.0]]), 0.6, torch.tensor([0.3, 0.7]))
    x = mixture.sample(20_000, generator=generator) + 8 * torch.randn(20_000, 1, generator=generator)
    *_, x, _ = sampler(mixture, x, ladder, generator=generator, **arguments)
    right = x[:, 0] > 0
    assert float(right.float().mean()) == pytest.approx(0.7, abs=0.02)  # 6 standard errors, and discretisation
    assert float(x[right].std()) == pytest.approx(math.hypot(0.6, 0.1), rel=0.04)
    assert float(x[~right].mean()) == pytest.approx(-3, abs=0.04)


@pytest.mark.parametrize("stochasticity", [0.5, 1.0])
def test_dpm_solver_follows_the_exact_recursion_of_a_gaussian(stochasticity: float, generator: torch.Generator) -> None:
    """Its first step is exact for D constant: mean and variance follow in closed form."""
    mean, std = 1.0, 0.8
    sigmas = torch.tensor([2.0, 1.2])
    x = 2.0 * torch.randn(N, 1, generator=generator)
    (x,) = dpm_solver(
        GaussianScore(mean, std), x, sigmas, stochasticity=stochasticity, denoise=False, generator=generator
    )
    kept = (1.2 / 2.0) ** (1 + stochasticity)
    pull = std**2 / (std**2 + 4.0)  # D = mean + pull·(x − mean)
    slope = kept + (1 - kept) * pull
    fresh = 1.2**2 * (1 - (1.2 / 2.0) ** (2 * stochasticity))
    check_moments(x, (1 - kept) * (1 - pull) * mean, slope**2 * 4.0 + fresh)


def test_a_step_of_order_1_loses_what_the_denoiser_does_not_know(generator: torch.Generator) -> None:
    """It takes D for x₀: E[x²] falls by a²·E[(x₀ − D)²], whatever the data."""
    two, sigma, following = GaussianMixture(torch.tensor([[-2.0], [2.0]]), 0.5), 1.5, 0.7
    clean = two.sample(N, generator=generator)
    x = clean + sigma * torch.randn(N, 1, generator=generator)
    unknown = float((clean - tweedie(two, x, sigma)).square().mean())
    (found,) = dpm_solver(
        two, x, torch.tensor([sigma, following]), stochasticity=1.0, denoise=False, generator=generator
    )
    lost = (1 - (following / sigma) ** 2) ** 2 * unknown
    assert lost > 0.3
    # E[x₀²] is 4.25; squares of a standard deviation below 5: over three standard errors.
    assert float(found.square().mean()) == pytest.approx(4.25 + following**2 - lost, abs=0.06)


def test_only_the_last_step_of_dpm_solver_is_held_back() -> None:
    sigmas, x = Karras(5, 0.02, 7).sigmas(), torch.tensor([[2.0], [-1.0]])
    two = GaussianMixture(torch.tensor([[-2.0], [2.0]]), 0.5)
    free = torch.stack([*dpm_solver(two, x, sigmas, denoise=False)])
    held = torch.stack([*dpm_solver(two, x, sigmas, last_extrapolation=0.0, denoise=False)])
    assert torch.equal(free[:-1], held[:-1])
    assert not torch.equal(free[-1], held[-1])


def test_consistent_annealing_leaves_the_noise_of_the_next_level(generator: torch.Generator) -> None:
    """With the score of a point, x/σ stays standard normal at every level: the schedule is consistent."""
    x, sigmas = 4.0 * torch.randn(N, 1, generator=generator), Geometric(4.0, 0.5, 6).sigmas()
    path = consistent_annealed(GaussianScore(0, 0), x, sigmas, eta=0.7, denoise=False, generator=generator)
    for x, sigma in zip(path, sigmas[1:].tolist(), strict=True):
        check_moments(x, 0, sigma**2)


def test_without_randomness_the_stochastic_samplers_are_the_flow(generator: torch.Generator) -> None:
    x, sigmas = torch.randn(6, 2, generator=generator), Geometric(3.0, 0.2, 8).sigmas()
    score: Score = GaussianScore(0.5, 0.4)
    smallest = float(1 - sigmas[1] / sigmas[0])
    *_, consistent = consistent_annealed(score, x, sigmas, eta=smallest, generator=generator)
    *_, flow = euler(score, x, sigmas)
    torch.testing.assert_close(consistent, flow, atol=2e-3, rtol=2e-3)
    *_, quiet = edm(score, x, sigmas, churn=0.0, generator=generator)
    *_, flow = heun(score, x, sigmas)
    torch.testing.assert_close(quiet, flow)


def test_the_ladders_of_samplers_are_checked() -> None:
    x, ladder = torch.zeros(1, 1), torch.tensor([1.0, 0.5])
    for sampler in FLOWS.values():
        with pytest.raises(ValueError, match="descending"):
            next(sampler(GaussianScore(0, 1), x, torch.tensor([1.0, 1.0])))
    with pytest.raises(ValueError, match=r"from 0\.5 on this ladder"):
        next(consistent_annealed(GaussianScore(0, 1), x, ladder, eta=0.4))
    with pytest.raises(ValueError, match="churn is -1"):
        next(edm(GaussianScore(0, 1), x, ladder, churn=-1))
    with pytest.raises(ValueError, match="snr is 0"):
        next(predictor_corrector(GaussianScore(0, 1), x, ladder, snr=0.0))
    with pytest.raises(ValueError, match="stochasticity is -1"):
        next(dpm_solver(GaussianScore(0, 1), x, ladder, stochasticity=-1))
    with pytest.raises(ValueError, match=r"last_extrapolation is -0\.1"):
        next(dpm_solver(GaussianScore(0, 1), x, ladder, last_extrapolation=-0.1))


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


AXIS = torch.linspace(-90, 90, 901, dtype=torch.float64)
MODE = math.hypot(5.0, 5.0)


def exact_weight(sigmas: torch.Tensor, share: float, steps: int) -> float:
    """What annealed Langevin with α = ``share``·σ² makes of the weight 0.2 of N((−5,−5), I), the other at (5, 5).

    Along the line through both modes, where noise and score do not depend on the rest: transition matrices on a grid,
    from N(0, σ_1²) down to σ = 0.8, where nothing crosses any more.
    """
    truth = GaussianMixture(torch.tensor([[-MODE], [MODE]]).double(), 1.0, torch.tensor([0.2, 0.8]).double())
    mass = (-(AXIS**2) / (2 * sigmas[0] ** 2)).softmax(0)
    for sigma in sigmas[sigmas > 0.8].double():
        alpha = share * sigma**2
        mean = AXIS + alpha / 2 * truth(AXIS[:, None], sigma)[:, 0]
        kernel = (-((AXIS - mean[:, None]) ** 2) / (2 * alpha)).softmax(1)
        for _ in range(steps):
            mass = mass @ kernel
    return float(mass[AXIS < 0].sum() + mass[AXIS == 0].sum() / 2)


def test_weights_of_modes_are_those_of_the_exact_recursion(generator: torch.Generator) -> None:
    """With 20 levels and α = σ²/2 the lighter mode gets 0.213 for 0.2: the recursion's own bias, and the sampler's."""
    sigmas = Geometric(20, 0.1, 20).sigmas()
    expected = exact_weight(sigmas, 0.5, 50)
    assert expected == pytest.approx(0.2129, abs=2e-4)
    line = GaussianMixture(torch.tensor([[-MODE], [MODE]]), 1.0, torch.tensor([0.2, 0.8]))
    x = 20 * torch.randn(20_000, 1, generator=generator)
    *_, x = annealed_langevin(line, x, sigmas, eps=0.005, steps=50, generator=generator)
    assert abs(z_score((x[:, 0] < 0).double(), expected)) < 4


def test_small_steps_and_many_of_them_give_modes_their_weights() -> None:
    """Half of the bias is the size of the steps, the other half how few there are while the modes part."""
    sigmas = Geometric(20, 0.1, 20).sigmas()
    assert exact_weight(sigmas, 0.5, 1000) == pytest.approx(0.2064, abs=3e-4)
    assert abs(exact_weight(Geometric(20, 0.1, 40).sigmas(), 0.2, 150) - 0.2) < 0.004  # README's
    assert abs(exact_weight(Karras(5, 0.1, 40, rho=2).sigmas(), 0.25, 50) - 0.2) < 0.005  # at a third of the cost


def test_slerp_keeps_the_length_and_meets_both_ends(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    b = b * a.flatten(1).norm(dim=1)[:, None, None] / b.flatten(1).norm(dim=1)[:, None, None]
    walk = slerp(a, b, torch.linspace(0, 1, 5))
    assert walk.shape == (2, 5, 3, 4)
    torch.testing.assert_close(walk[:, 0], a)
    torch.testing.assert_close(walk[:, -1], b)
    torch.testing.assert_close(walk.flatten(2).norm(dim=2), a.flatten(1).norm(dim=1)[:, None].expand(2, 5))


def test_every_state_comes_with_its_noise_level(generator: torch.Generator) -> None:
    score, x, sigmas = GaussianScore(0, 1), torch.randn(2, 2, generator=generator), Geometric(2, 0.5, 4).sigmas()
    ladder = [round(float(s), 4) for s in sigmas]
    annealed = ways.annealed_langevin(score, x, sigmas, eps=0.01, steps=2, generator=generator)
    assert [round(step.sigma, 4) for step in annealed] == [*ladder, 0]
    assert [step.sigma for step in ways.langevin(score, x, 0.7, step_size=0.1, steps=2)] == [0.7, 0.7, 0]
    for path in (
        ways.euler(score, x, sigmas),
        ways.heun(score, x, sigmas),
        ways.edm(score, x, sigmas, churn=1.0, generator=generator),
        ways.dpm_solver(score, x, sigmas, generator=generator),
        ways.consistent_annealed(score, x, sigmas, eta=0.8, generator=generator),
        ways.predictor_corrector(score, x, sigmas, generator=generator),
    ):
        assert [round(step.sigma, 4) for step in path] == [*ladder[1:], 0]


def test_the_corrector_makes_no_step_along_a_score_that_is_zero(generator: torch.Generator) -> None:
    x, sigmas = torch.randn(3, 2, generator=generator), torch.tensor([2.0, 1.0])
    start = torch.Generator().manual_seed(1)
    *_, found = predictor_corrector(zero_score, x, sigmas, denoise=False, generator=start)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, x + 3**0.5 * z)


def test_a_step_of_the_predictor_and_of_the_corrector_in_closed_form() -> None:
    score, x, sigmas = GaussianScore(0.3, 0.8), torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([2.0, 1.0])
    (found,) = predictor_corrector(score, x, sigmas, snr=0.2, denoise=False, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(5)
    z = torch.randn(2, 2, generator=g)
    x = x + 3 * score(x, 2.0) + 3**0.5 * z
    z, s = torch.randn(2, 2, generator=g), score(x, 1.0)
    eps = 2 * (0.2 * float(z.norm(dim=1).mean()) / float(s.norm(dim=1).mean())) ** 2
    torch.testing.assert_close(found, x + eps * s + math.sqrt(2 * eps) * z)


def test_a_step_with_churn_in_closed_form() -> None:
    """Noise is raised within the range alone, by √2 at most; then Heun's step from there."""
    score, x, sigmas = GaussianScore(0.3, 0.8), torch.tensor([[1.0, -2.0]]), torch.tensor([2.0, 1.0, 0.5])
    for churn, raised in ((0.6, 1.2), (30.0, math.sqrt(2))):
        *_, found = edm(
            score,
            x,
            sigmas,
            churn=churn,
            churn_range=(0.7, 1.5),
            denoise=False,
            generator=torch.Generator().manual_seed(5),
        )
        *_, first = heun(score, x, sigmas[:2], denoise=False)
        z = torch.randn(1, 2, generator=torch.Generator().manual_seed(5))
        noisier = first + math.sqrt(raised**2 - 1) * z
        *_, expected = heun(score, noisier, torch.tensor([raised, 0.5]), denoise=False)
        torch.testing.assert_close(found, expected)


def test_a_step_of_annealed_langevin_in_closed_form() -> None:
    score, x, sigmas = GaussianScore(0.3, 0.8), torch.tensor([[1.0, -2.0]]), torch.tensor([2.0, 1.0])
    *_, found = annealed_langevin(
        score, x, sigmas, eps=0.3, steps=1, denoise=False, generator=torch.Generator().manual_seed(5)
    )
    g = torch.Generator().manual_seed(5)
    for sigma, alpha in ((2.0, 1.2), (1.0, 0.3)):
        z = torch.randn(1, 2, generator=g)
        x = x + alpha / 2 * score(x, sigma) + math.sqrt(alpha) * z
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("last", [math.inf, 0.25, 0.0])
def test_a_second_step_of_dpm_solver_in_closed_form(last: float) -> None:
    score, x, sigmas = GaussianScore(0.3, 0.8), torch.tensor([[1.0, -2.0]]), torch.tensor([3.0, 2.0, 0.9])
    *_, found = dpm_solver(
        score,
        x,
        sigmas,
        stochasticity=0.7,
        last_extrapolation=last,
        denoise=False,
        generator=torch.Generator().manual_seed(5),
    )
    g = torch.Generator().manual_seed(5)
    denoised, slope = torch.zeros(1, 2), torch.zeros(1, 2)
    for i, (sigma, following) in enumerate(((3.0, 2.0), (2.0, 0.9))):
        h, before = math.log(sigma / following), denoised
        denoised = tweedie(score, x, sigma)
        share = 1 - (following / sigma) ** 1.7
        slope = share * min(last, h / (2 * math.log(1.5))) * (denoised - before) if i else slope
        z = torch.randn(1, 2, generator=g)
        x = (1 - share) * x + share * denoised + slope + following * math.sqrt(1 - (following / sigma) ** 1.4) * z
    torch.testing.assert_close(found, x)


MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5)
X, Y, LADDER = torch.ones(4, 2), torch.full((4, 1), 2.0), Geometric(2.0, 0.5, 4).sigmas()
IMAGE, KNOWN = torch.ones(1, 1, 6, 6), torch.tensor([True, False])


def follow(sampler: Sampler, **options: float | torch.Generator) -> torch.Tensor:
    *_, x = sampler(MIXTURE, X, LADDER, **options)
    return x


def toy_sample(name: str, generator: torch.Generator) -> torch.Tensor:
    return TOYS[name]().sample(5, generator=generator)


def toy_score_and_density(name: str) -> torch.Tensor:
    truth = TOYS[name]()
    return torch.cat([truth(X, 0.5).flatten(), truth.log_prob(X, 0.5)])


RANDOM: dict[str, Callable[[torch.Generator], torch.Tensor]] = {
    "annealed": lambda g: follow(annealed_langevin, eps=0.05, steps=3, generator=g),
    "consistent": lambda g: follow(consistent_annealed, eta=0.6, generator=g),
    "pc": lambda g: follow(predictor_corrector, generator=g),
    "edm": lambda g: follow(edm, churn=4.0, generator=g),
    "dpmpp-sde": lambda g: follow(dpm_solver, stochasticity=1.0, generator=g),
    "langevin": lambda g: torch.cat(list(langevin(MIXTURE, X, 0.5, step_size=0.1, steps=2, generator=g))),
    "replacement": lambda g: replacement(MIXTURE, KNOWN, X, generator=g)(X, 0.5),
    "log_prob": lambda g: log_prob(MIXTURE, X, sigma_max=20, sigma_min=0.5, probes=2, generator=g).log_prob,
    "Empirical": lambda g: Empirical(torch.arange(9.0, device="cpu")).sample(8, generator=g),
    **{name: partial(toy_sample, name) for name in TOYS},
    "mixture of equals": lambda g: GaussianMixture(MIXTURE.means).sample(5, generator=g),
    "Geometric": lambda g: Geometric(5, 0.1, 99).sample(9, generator=g),
    "LogNormal": lambda g: LogNormal(-0.4, 1.2, 5, 0.1).sample(9, generator=g),
    "LogUniform": lambda g: LogUniform(5, 0.1).sample(9, generator=g),
}
CERTAIN: dict[str, Callable[[], torch.Tensor]] = {
    **{name: partial(follow, sampler) for name, sampler in FLOWS.items()},
    "slerp": lambda: slerp(X, X.flip(1) * X.cumsum(1), LADDER),
    "posterior": lambda: posterior(MIXTURE, masked(KNOWN), Y, 0.3)(X, 0.5),
    "conjugate_gradient": lambda: conjugate_gradient(lambda u: 2 * u, X, 2),
    "downsampled": lambda: downsampled(2)(IMAGE),
    "blurred": lambda: blurred(1.0)(IMAGE),
    "exact trace": lambda: log_prob(MIXTURE, X, sigma_max=20, sigma_min=0.5, mean=0.1).log_prob,
    "no point": lambda: log_prob(MIXTURE, X[:0], sigma_max=20, sigma_min=0.5).log_prob,
    "Empirical": lambda: Empirical(X)(X, 0.5) + Empirical(X).log_prob(X, 0.5)[:, None],
    **{name: partial(toy_score_and_density, name) for name in TOYS},
    "ladders": lambda: torch.cat(
        [Geometric(5, 0.1, 3).sigmas(), Geometric(5, 0.1, 1).sigmas(), Karras(5, 1, 3).sigmas()]
    ),
    "suggest_noise": lambda: suggest_noise(X.cumsum(0)).noise.sigmas(),
}


@pytest.mark.parametrize("name", RANDOM)
def test_draws_come_from_the_generator_alone_and_are_made_on_its_device(name: str) -> None:
    """Whatever the global seed and the default device are."""
    first, other = (RANDOM[name](torch.Generator().manual_seed(seed)) for seed in (3, 4))
    assert not torch.equal(first, other)
    torch.manual_seed(123)
    assert torch.equal(RANDOM[name](torch.Generator().manual_seed(3)), first)
    with torch.device("meta"):
        assert torch.equal(RANDOM[name](torch.Generator().manual_seed(3)), first)


@pytest.mark.parametrize("name", CERTAIN)
def test_tensors_are_made_on_the_device_of_what_is_given(name: str) -> None:
    """Whatever the default device is."""
    expected = CERTAIN[name]()
    with torch.device("meta"):
        assert torch.equal(CERTAIN[name](), expected)


def test_the_bound_on_eps_is_four_variances_of_the_smallest_level() -> None:
    """Just below it runs, and there it is refused: a Gaussian's variance is σ²/(1 − ε/(4σ_L²))."""
    score, x, sigmas = GaussianScore(0, 0), torch.zeros(1, 1), torch.tensor([1.0, 0.5])
    assert len(list(annealed_langevin(score, x, sigmas, eps=0.999, steps=1, denoise=False))) == 2
    with pytest.raises(ValueError, match=r"eps is 1\.0; allowed is 0 < eps < 4 sigma_L\^2 = 1, else"):
        next(annealed_langevin(score, x, sigmas, eps=1.0, steps=1))


def test_the_correctors_signal_to_noise_ratio_is_the_papers_by_default() -> None:
    score, x, sigmas = GaussianScore(0.3, 0.8), torch.tensor([[1.0, -2.0]]), torch.tensor([2.0, 1.0])
    *_, default = predictor_corrector(score, x, sigmas, generator=torch.Generator().manual_seed(5))
    *_, given = predictor_corrector(
        score, x, sigmas, snr=0.16, corrections=1, generator=torch.Generator().manual_seed(5)
    )
    assert torch.equal(default, given)


def test_one_step_of_langevin_in_closed_form() -> None:
    score, x = GaussianScore(0.3, 0.8), torch.tensor([[1.0, -2.0]])
    *_, found = langevin(
        score, x, 0.5, step_size=0.2, steps=1, denoise=False, generator=torch.Generator().manual_seed(5)
    )
    z = torch.randn(1, 2, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, x + 0.1 * score(x, 0.5) + math.sqrt(0.2) * z)


def test_encoding_is_the_flow_the_other_way(generator: torch.Generator) -> None:
    """Of a Gaussian the flow stretches what is around the mean, from √(s² + σ_min²) to √(s² + σ_max²)."""
    mean, std, sigmas = 0.5, 0.3, Karras(20.0, 0.01, 60).sigmas()
    x = mean + std * torch.randn(6, 1, 4, 4, generator=generator)
    score = GaussianScore(mean, std)
    noise = encode(score, x, sigmas)
    stretched = ((std**2 + 20.0**2) / (std**2 + 0.01**2)) ** 0.5
    torch.testing.assert_close(noise, mean + (x - mean) * stretched, rtol=3e-3, atol=0.05)
    *_, last = heun(score, noise, sigmas, denoise=False)
    torch.testing.assert_close(last, x, rtol=0, atol=2e-3)
