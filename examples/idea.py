"""Draw the picture at the top of the README: data with noise, the learned score, and samples.

python examples/idea.py                # a minute on one core; writes docs/images/idea.png

Top: what training sees, data with more and more noise, and the score that a network learns from it.
Bottom: sampling.  New points start as noise, on the left, and follow the arrows.  So the noise grows in the upper row
and shrinks in the lower one, and both read from left to right.
"""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import ncsn
from ncsn.distributions import TOYS
from ncsn.noise import LogUniform

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "idea.png"
SIGMAS = (0.0, 0.15, 0.4, 1.2)  # approximate noise levels of the panels
VIEW = 3.0
GREY, RED, INK = "#8d99ae", "#d1495b", "#22223b"


def learn(data: torch.Tensor, generator: torch.Generator) -> ncsn.ScoreModel:
    """The score of the data at every noise level from 20 to 0.02."""
    torch.manual_seed(0)  # the initial weights
    state = ncsn.State(ncsn.ScoreModel(ncsn.MLP(2), data.mean(0), data.std()), generator=generator)
    batches = ncsn.batches(data, 512, generator=generator)
    loss = ncsn.training_loss(LogUniform(20, 0.02), generator=generator)
    for _ in ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=2000)):
        pass
    return state.average


def main() -> None:
    """Learn the score of the two moons, sample from it, and plot both."""
    generator = torch.Generator().manual_seed(0)
    data = TOYS["moons"]().sample(5000, generator=generator)
    data = (data - data.mean(0)) / data.std(0)
    score = learn(data, generator)
    sigmas = ncsn.Geometric(sigma_max=20, sigma_min=0.02, levels=60).sigmas()
    start = 20 * torch.randn(1500, 2, generator=generator)
    with torch.no_grad():
        states = list(ncsn.dpm_solver(score, start, sigmas, stochasticity=1.0, generator=generator))

    axis = torch.linspace(-0.9 * VIEW, 0.9 * VIEW, 11)
    grid = torch.cartesian_prod(axis, axis)
    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    upper, lower = halves
    upper.suptitle("Training: add noise to the data, and learn the arrows that lead back.", size=17, color=INK)
    lower.suptitle("Sampling: start with noise, and follow the arrows.", size=17, color=INK)
    for above, below, target in zip(upper.subplots(1, 4), lower.subplots(1, 4)[::-1], SIGMAS, strict=True):
        sigma, x = min(states, key=lambda step: abs(step.sigma - target))
        noisy = data[:1500] + sigma * torch.randn(1500, 2, generator=generator)
        above.scatter(*noisy.T.numpy(), s=4, color=GREY, alpha=0.6, linewidths=0)
        below.scatter(*x.T.numpy(), s=4, color=RED, alpha=0.6, linewidths=0)
        if sigma:
            arrows = score(grid, sigma).detach() * sigma**2  # the distance to the mean of the clean data
            length = arrows.norm(dim=1, keepdim=True)
            arrows = arrows / length * (length / 0.3).clamp(0.35, 1)  # short ones would be dots
            above.quiver(*grid.T.numpy(), *arrows.T.numpy(), color=INK, scale=14, width=0.01)
        above.set_title(f"σ = {sigma:.2g}" if sigma else "data", size=16, color=INK)
        below.set_title(f"σ = {sigma:.2g}" if sigma else "samples", size=16, color=INK)
        for axes in (above, below):
            axes.set(xlim=(-VIEW, VIEW), ylim=(-VIEW, VIEW), aspect="equal", xticks=[], yticks=[])
            axes.spines[:].set_color(GREY)
    figure.savefig(PICTURE, dpi=200)


if __name__ == "__main__":
    main()
