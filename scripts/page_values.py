"""Values of this package that the page in web/ computes too: ``python scripts/page_values.py`` writes them.

They go to web/test/values.json, against which the page's own mathematics is tested; a test of ours says that the file
is what this script would write.  All of it is in double precision.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncsn import (
    METHODS,
    MLP,
    Empirical,
    GaussianMixture,
    Geometric,
    Karras,
    Ring,
    ScoreModel,
    annealed_langevin,
    langevin,
)
from ncsn.distributions import TOYS, Distribution
from ncsn.evaluation.metrics import mode_statistics
from ncsn.objectives import dsm, ssm
from ncsn.problems import replacement
from ncsn.rng import randint, randn
from ncsn.samplers import Descent, Method
from ncsn.score import Score, guided, tweedie

PLACE = Path(__file__).resolve().parents[1] / "web" / "test" / "values.json"
SIGMAS = (0.01, 0.1, 0.7, 5.0, 20.0)
DIGITS = 12


def numbers(value: Tensor) -> list[float]:
    """All numbers of a tensor in a row, points as x and y in turn."""
    return [float(f"{number:.{DIGITS}g}") for number in value.detach().double().flatten().tolist()]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def fields(truth: Distribution) -> list[dict[str, Any]]:
    """A distribution's scores and log densities, at points near and far."""
    x = torch.cat([torch.tensor([[0.0, 0.0], [5.0, 0.0], [-7.5, 7.5]]), 4 * torch.randn(5, 2, generator=seeded())])
    x = x.double()
    return [
        {"sigma": s, "x": numbers(x), "score": numbers(truth(x, s)), "logDensity": numbers(truth.log_prob(x, s))}
        for s in SIGMAS
    ]


def distributions() -> dict[str, Any]:
    """Those of the page, a mixture of uneven weights, and a set of points."""
    points = (3 * torch.randn(20, 2, generator=seeded(1))).double()
    means = torch.tensor([[0.0, 1.0], [-4.0, 2.0], [3.0, -6.0]], dtype=torch.float64)
    mixture = GaussianMixture(means, 0.5, torch.tensor([0.5, 1.5, 3.0], dtype=torch.float64))
    named: dict[str, Distribution] = {name: TOYS[name]() for name in ("gaussian", "circle", "moons", "swiss-roll")}
    named |= {"wide circle": Ring(4.0, 0.5), "mixture": mixture, "points": Empirical(points, dtype=torch.float64)}
    return {"points": numbers(points), "fields": {name: fields(truth) for name, truth in named.items()}}


def dynamics() -> dict[str, Any]:
    """Langevin dynamics, annealed and not, from the same start with the same noise; and what became of it."""
    truth = TOYS["gaussian"]()
    assert isinstance(truth, GaussianMixture)
    sigmas, eps, steps = Geometric(20.0, 0.1, 4).sigmas().double(), 0.005, 3
    start = (8 * (2 * torch.rand(6, 2, generator=seeded(2)) - 1)).double()
    z = torch.stack(
        [torch.randn(start.shape, generator=g, dtype=torch.float64) for g in [seeded(3)] for _ in range(12)]
    )
    *_, before, last = annealed_langevin(truth, start, sigmas, eps=eps, steps=steps, generator=seeded(3))
    *_, plain = langevin(truth, start, 0.1, step_size=0.1, steps=12, denoise=False, generator=seeded(3))
    weights = [mode["weight"] for mode in mode_statistics(last.x, truth)]
    return {
        "ladder": numbers(Geometric(20.0, 0.1, 20).sigmas()),
        "sigmas": numbers(sigmas),
        "eps": eps,
        "perLevel": steps,
        "start": numbers(start),
        "z": numbers(z),
        "annealed": numbers(before.x),
        "denoised": numbers(last.x),
        "langevin": numbers(plain.x),
        "weights": weights,
        "tweedie": numbers(tweedie(truth, start, 2.0)),
    }


def samplers() -> dict[str, Any]:
    """Where each sampler takes the same start with the same noise, and how; and annealed, what is not known."""
    truth = TOYS["gaussian"]()
    start = (20 * torch.randn(3, 2, generator=seeded(7))).double()
    found: dict[str, Any] = {"start": numbers(start), "ladders": {}, "ends": {}, "suited": {}}
    g = seeded(8)
    found["z"] = numbers(torch.stack([torch.randn(start.shape, generator=g, dtype=torch.float64) for _ in range(40)]))
    for name in ("annealed", "consistent", "euler", "heun", "edm", "dpmpp", "dpmpp-sde"):
        method = METHODS[name]
        sigmas = (Geometric if method.ladder == "geometric" else Karras)(20.0, 0.1, 6).sigmas()

        def followed(score: Score, g: torch.Generator, method: Method = method, sigmas: Tensor = sigmas) -> Tensor:
            descent = Descent(score=score, x=start, sigmas=sigmas.double(), steps=2, eps=0.005, generator=g)
            *_, last = method.follow(descent)
            return last.x

        found["ladders"][method.ladder] = numbers(sigmas)
        found["ends"][name] = numbers(followed(truth, seeded(8)))
        found["suited"][name] = [method.suited(10, 0.01), method.suited(33, 0.01), method.levels, method.steps]
        if name == "annealed":
            known, y = torch.tensor([True, False]), torch.tensor([[-5.0, 0.0]]).double().expand(3, 2)
            g = seeded(8)
            found["filled"] = numbers(followed(replacement(truth, known, y, generator=g), g))
    rising = torch.tensor([20.0, 3.0, 0.4, 3.0, 0.4])
    descent = Descent(score=truth, x=start, sigmas=rising.double(), steps=1, eps=0.005, generator=seeded(8))
    *_, last = METHODS["euler"].follow(descent)
    found["restarted"] = {"levels": numbers(rising), "end": numbers(last.x)}
    wide = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 3.0)
    weighed = guided(truth, wide, 1.5, between=(0.5, 2.0))
    found["guided"] = {str(sigma): numbers(weighed(start, sigma)) for sigma in (0.4, 1.0, 3.0)}
    return found


def weights_of(model: ScoreModel) -> Tensor:
    """All weights in a row."""
    return torch.cat([weight.flatten() for weight in model.network.parameters()])


def learning() -> dict[str, Any]:
    """A small network's scores, the losses of two objectives, their gradients, and what Adam makes of one of them."""
    torch.manual_seed(4)
    model = ScoreModel(MLP(2, width=4, layers=2), torch.tensor([0.25, -0.5]), 3.0).double()
    with torch.no_grad():
        for weight in model.network.parameters():  # the last layer too, which starts at zero
            weight.copy_(torch.randn(weight.shape, generator=seeded(weight.numel())) / 2)
    x = (3 * torch.randn(5, 2, generator=seeded(5))).double()
    sigma = torch.tensor([0.1, 0.1, 1.0, 9.0, 9.0], dtype=torch.float64)
    found: dict[str, Any] = {"width": 4, "depth": 2, "mean": [0.25, -0.5], "std": 3.0, "x": numbers(x)}
    found |= {"weights": numbers(weights_of(model)), "sigma": numbers(sigma), "score": numbers(model(x, sigma))}

    def learned(objective: Callable[..., Tensor], at: Tensor, sigma: Tensor) -> dict[str, Any]:
        model.zero_grad()
        loss = (objective(model, at, sigma, generator=seeded(6)) * model.residual_weight(sigma) / 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        slopes = [
            weight.grad if weight.grad is not None else torch.zeros_like(weight)
            for weight in model.network.parameters()
        ]
        return {
            "loss": float(f"{loss:.{DIGITS}g}"),
            "gradient": numbers(torch.cat([slope.flatten() for slope in slopes])),
        }

    g, level = seeded(6), torch.full((5,), 0.1, dtype=torch.float64)
    z = randn(x.shape, g, x)
    v = (2 * randint(2, x.shape, g, x.device) - 1).to(x.dtype)
    found["denoising"] = {"z": numbers(z)} | learned(dsm, x, sigma)
    # At these points themselves, without noise: it is taken away before it is added.
    found["sliced"] = {"sigma": 0.1, "v": numbers(v)} | learned(ssm, x - 0.1 * z, level)
    optimizer = torch.optim.Adam(model.network.parameters(), lr=2e-3, betas=(0.9, 0.99))
    for _ in range(3):
        optimizer.step()
    found["adam"] = {"steps": 3, "rate": 2e-3, "weights": numbers(weights_of(model))}
    return found


def values() -> dict[str, Any]:
    """All of them."""
    return {"distributions": distributions(), "dynamics": dynamics(), "samplers": samplers(), "learning": learning()}


if __name__ == "__main__":
    PLACE.write_text(json.dumps(values(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {PLACE}")
