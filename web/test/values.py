"""Values of this package, most of which the page in web/ computes too: ``python web/test/values.py`` writes them.

They go to web/test/values.json, against which the page's own mathematics is tested; a test of ours says that the file
is what this script would write.  All of it is in double precision.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ncsn
from ncsn.distributions import TOYS, Distribution, Empirical, Ring
from ncsn.metrics import mode_statistics

PLACE = Path(__file__).resolve().with_suffix(".json")
SIGMAS = (0.01, 0.1, 0.7, 5.0, 20.0)
SAMPLERS = ("annealed", "consistent", "euler", "heun", "edm", "dpmpp", "dpmpp-sde")


def numbers(value: Tensor) -> list[float]:
    """All numbers of a tensor in a row, points as x and y in turn, to twelve digits."""
    return [float(f"{number:.12g}") for number in value.detach().double().flatten().tolist()]


def normal(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal numbers of single precision, in double."""
    return (scale * torch.randn(*shape, generator=seeded(seed))).double()


def seeded(seed: int) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def noise(seed: int, count: int, *shape: int) -> Tensor:
    """What a sampler draws in double precision, one step after the other."""
    generator = seeded(seed)
    return torch.stack([torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)])


def fields(truth: Distribution) -> list[dict[str, Any]]:
    """A distribution's scores and log densities, at points near and far."""
    x = torch.cat([torch.tensor([[0.0, 0.0], [5.0, 0.0], [-7.5, 7.5]]).double(), normal(0, 5, 2, scale=4)])
    return [
        {"sigma": s, "x": numbers(x), "score": numbers(truth(x, s)), "logDensity": numbers(truth.log_prob(x, s))}
        for s in SIGMAS
    ]


def distributions() -> dict[str, Any]:
    """Those of the page, a mixture of uneven weights, and a set of points."""
    points = normal(1, 20, 2, scale=3)
    means = torch.tensor([[0.0, 1.0], [-4.0, 2.0], [3.0, -6.0]], dtype=torch.float64)
    mixture = ncsn.GaussianMixture(means, 0.5, torch.tensor([0.5, 1.5, 3.0], dtype=torch.float64))
    named: dict[str, Distribution] = {name: TOYS[name]() for name in ("gaussian", "circle", "moons", "swiss-roll")}
    named |= {"wide circle": Ring(4.0, 0.5), "mixture": mixture}
    named["points"] = Empirical(points, dtype=torch.float64)
    return {"points": numbers(points), "fields": {name: fields(truth) for name, truth in named.items()}}


def dynamics() -> dict[str, Any]:
    """Langevin dynamics, annealed and not, from the same start with the same noise; and what became of it."""
    truth, eps, steps = TOYS["gaussian"](), 0.005, 3
    assert isinstance(truth, ncsn.GaussianMixture)
    sigmas = ncsn.Geometric(20.0, 0.1, 4).sigmas().double()
    start = (8 * (2 * torch.rand(6, 2, generator=seeded(2)) - 1)).double()
    *_, before, last = ncsn.annealed_langevin(truth, start, sigmas, eps=eps, steps=steps, generator=seeded(3))
    *_, plain = ncsn.langevin(truth, start, 0.1, step_size=0.1, steps=12, denoise=False, generator=seeded(3))
    return {
        "ladder": numbers(ncsn.Geometric(20.0, 0.1, 20).sigmas()),
        "sigmas": numbers(sigmas),
        "eps": eps,
        "perLevel": steps,
        "start": numbers(start),
        "z": numbers(noise(3, 12, 6, 2)),
        "annealed": numbers(before.x),
        "denoised": numbers(last.x),
        "langevin": numbers(plain.x),
        "weights": [mode["weight"] for mode in mode_statistics(last.x, truth)],
        "tweedie": numbers(ncsn.tweedie(truth, start, 2.0)),
    }


def samplers() -> dict[str, Any]:
    """Where each sampler takes the same start with the same noise, and how; and annealed, what is not known."""
    truth, start = TOYS["gaussian"](), normal(7, 3, 2, scale=20)
    found: dict[str, Any] = {"start": numbers(start), "ladders": {}, "ends": {}, "suited": {}}
    found["z"] = numbers(noise(8, 40, 3, 2))

    def end(name: str, sigmas: Tensor, score: ncsn.Score = truth, g: torch.Generator | None = None) -> Any:
        langevin = {"eps": 0.005, "steps": 2} if ncsn.SAMPLERS[name].langevin else {}
        *_, last = ncsn.SAMPLERS[name].follow(score, start, sigmas.double(), generator=g or seeded(8), **langevin)
        return numbers(last.x)

    for name in SAMPLERS:
        method = ncsn.SAMPLERS[name]
        sigmas = method.ladder(20.0, 0.1, 6).sigmas()
        found["ladders"][method.ladder.__name__.lower()] = numbers(sigmas)
        found["ends"][name] = end(name, sigmas)
        found["suited"][name] = [method.levels_for(10, 0.01), method.levels_for(33, 0.01), method.levels, method.steps]
        if name == "annealed":
            known, y = torch.tensor([True, False]), torch.tensor([[-5.0, 0.0]]).double().expand(3, 2)
            g = seeded(8)
            found["filled"] = end(name, sigmas, ncsn.replacement(truth, known, y, generator=g), g)
    rising = torch.tensor([20.0, 3.0, 0.4, 3.0, 0.4])
    found["restarted"] = {"levels": numbers(rising), "end": end("euler", rising)}
    wide = ncsn.GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 3.0)
    weighed = ncsn.add_guidance(truth, wide, 1.5, between=(0.5, 2.0))
    found["guided"] = {str(sigma): numbers(weighed(start, sigma)) for sigma in (0.4, 1.0, 3.0)}
    return found


def learning() -> dict[str, Any]:
    """A small network's scores, the losses of two objectives, their gradients, and what Adam makes of one of them."""
    torch.manual_seed(4)
    model = ncsn.ScoreModel(ncsn.MLP(2, width=4, layers=2), torch.tensor([0.25, -0.5]), 3.0).double()
    weights = list(model.network.parameters())
    for weight in weights:  # the last layer too, which starts at zero
        weight.data.copy_(normal(weight.numel(), *weight.shape) / 2)
    x, sigma = normal(5, 5, 2, scale=3), torch.tensor([0.1, 0.1, 1.0, 9.0, 9.0], dtype=torch.float64)
    found: dict[str, Any] = {"width": 4, "depth": 2, "mean": [0.25, -0.5], "std": 3.0, "x": numbers(x)}

    def row(tensors: Iterable[Tensor]) -> list[float]:
        return numbers(torch.cat([tensor.flatten() for tensor in tensors]))

    def learned(objective: Callable[..., Tensor], at: Tensor, sigma: Tensor) -> dict[str, Any]:
        model.zero_grad()
        loss = (objective(model, at, sigma, generator=seeded(6)) * model.residual_weight(sigma) / 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        return {"loss": numbers(loss)[0], "gradient": row(gradients)}

    found |= {"weights": row(weights), "sigma": numbers(sigma), "score": numbers(model(x, sigma))}
    g, level = seeded(6), torch.full((5,), 0.1, dtype=torch.float64)
    z = torch.randn(5, 2, generator=g, dtype=torch.float64)
    v = 2 * torch.randint(2, (5, 2), generator=g).double() - 1
    found["denoising"] = {"z": numbers(z)} | learned(ncsn.dsm, x, sigma)
    # At these points themselves, without noise: it is taken away before it is added.
    found["sliced"] = {"sigma": 0.1, "v": numbers(v)} | learned(ncsn.ssm, x - 0.1 * z, level)
    optimizer = torch.optim.Adam(weights, lr=2e-3, betas=(0.9, 0.99))
    for _ in range(3):
        optimizer.step()
    found["adam"] = {"steps": 3, "rate": 2e-3, "weights": row(weights)}
    return found


def values() -> dict[str, Any]:
    """All of them."""
    return {"distributions": distributions(), "dynamics": dynamics(), "samplers": samplers(), "learning": learning()}


if __name__ == "__main__":
    PLACE.write_text(json.dumps(values(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {PLACE}")
