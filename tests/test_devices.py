"""A handful of paths that users have, on pretended GPUs (``pretend``): where what is left behind shows."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import SAMPLING, GaussianScore, Patch, conditional_run, run_ncsn
from learning import arrays
from pretend import Pretend, active
from torch import Tensor, nn

import ncsn
from ncsn import SAMPLERS, Recipe, Run, ScoreModel, add_guidance
from ncsn.batching import Batch
from ncsn.distributions import Empirical
from ncsn.networks import MLP, UNet
from ncsn.noise import LogNormal
from ncsn.objectives import dsm, posterior_dsm, training_loss
from ncsn.posteriors import blurred, downsampled, masked, posterior
from ncsn.training import Budget, Progress, State, train

Path_ = Callable[[str, Path], object]
PATHS: dict[str, Path_] = {}
on_gpus = pytest.mark.parametrize("device", ["cuda", "mps"], indirect=True)  # other tests are the processor's


def path(function: Path_) -> Path_:
    """One of the paths."""
    PATHS[function.__name__] = function
    return function


def seeded(device: str, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def there(x: Tensor, device: str) -> None:
    """Whether it is where it should be, and finite."""
    assert x.device.type == device
    assert bool(x.isfinite().all())


def model(
    device: str, shape: tuple[int, ...] = (2,), autocast: torch.dtype | None = None, classes: int = 0
) -> ScoreModel:
    """A network with weights that leave nothing out, there."""
    torch.manual_seed(0)
    network = MLP(2, 8, 2) if len(shape) == 1 else UNet(1, (4,), 1, 4, num_classes=classes, dimensions=len(shape) - 1)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    return ScoreModel(network, torch.full(shape, 0.3), 0.8, autocast=autocast).to(device).requires_grad_(False).eval()


def data(device: str, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)).to(device)


# Samplers, posteriors, densities: whatever takes a score.


def measured(device: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Measurements of images 4 × 4; what they hold is on the CPU, as those that make them leave it."""
    bottom = (torch.arange(4) >= 2)[None, :, None].expand(1, 4, 4)
    return {"masked": masked(bottom), "blurred": blurred(1.0), "downsampled": downsampled(2)}


# Training: noise, objectives, precisions, checkpoints.


NOISE = LogNormal(-1.0, 1.0, 5.0, 0.05)


def state(device: str, autocast: torch.dtype | None = None, *, seed: int | None = 3) -> State:
    return State(model(device, (1, 8, 8), autocast, 3), generator=seeded(device), seed=seed)


def training(begun: State, steps: int, device: str) -> Iterator[Progress]:
    x, labels = data("cpu", 40, 1, 8, 8), (torch.arange(40) % 3).to(device)
    loss = training_loss(NOISE, generator=begun.generator)
    stream = ncsn.batches(x.to(device), 8, labels, flip=True, generator=begun.generator)
    return train(begun, stream, loss, budget=Budget(steps=steps))


@path
def trained(device: str, folder: Path) -> None:
    """Trained there, saved, and resumed there and here."""
    first = state(device)
    *_, last = training(first, 3, device)
    there(last.losses, device)
    first.save(folder / "checkpoint.pt")
    for place in (device, "cpu"):
        again = state(place)
        again.load(folder / "checkpoint.pt")
        *_, last = training(again, 5, place)
        assert (again.step, last.step) == (5, 5)
        again.save(folder / "again.pt")
        back = state(device)
        back.load(folder / "again.pt")
        *_, last = training(back, 6, device)
        there(last.losses, device)


RECIPE = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 2}, shape=(2,), sampling=SAMPLING)


# Runs: from data to pictures.

ROWS = torch.randn(120, 3, generator=torch.Generator().manual_seed(2)) * torch.tensor([1.0, 50.0, 0.1])
BENT = ROWS[:, [0, 2]].exp()  # whose logarithms are learned


@cache
def learned_transform(*, bent: bool) -> Any:
    return ncsn.fit(BENT if bent else ROWS[:30, :2], steps=1, quiet=True, device="cpu").transform


def points(device: str, *, bent: bool = False) -> Run:
    return Run(score=model("cpu"), recipe=replace(RECIPE, transform=learned_transform(bent=bent))).to(device)


def pixels(device: str) -> Run:
    arguments: dict[str, Any] = {"image_channels": 1, "channels": (4,), "blocks": 1, "features": 4, "num_classes": 3}
    sampling = replace(SAMPLING, sigma_max=5.0, levels=3, guidance=1.0)
    shares = {"a": 0.5, "b": 0.25, "c": 0.25}
    recipe = Recipe(network="UNet", arguments=arguments, shape=(1, 4, 4), sampling=sampling, shares=shares)
    return Run(score=model("cpu", (1, 4, 4), classes=3), recipe=recipe).to(device)


@path
def sampled(device: str, folder: Path) -> None:
    """Of classes, guided, in blocks, on its way."""
    run = pixels(device)
    for label in ("any", "none", "b", torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2], device=device)):
        there(run.sample(3, label=label), device)
    there(run.sample(3, guidance=2.0), device)
    there(run.sample(3, seed=seeded(device)), device)
    assert [len(steps) for steps in run.blocks(3)] == [3]
    assert len(run.digest) == 64


@path
def log_densities(device: str, folder: Path) -> None:
    for run in (points(device), points(device, bent=True)):
        x = BENT[:3]
        for rows in (x.to(device), x, x.double(), x.double().numpy()):
            assert bool(run.log_prob(rows, tolerance=0.1).isfinite().all())
    assert bool(pixels(device).log_prob(data("cpu", 2, 1, 4, 4), probes=1, tolerance=0.1).isfinite().all())


@path
def posteriors(device: str, folder: Path) -> None:
    run, matrix, how = points(device), torch.tensor([[1.0], [0.5]]), dict[str, Any](levels=3)
    for at in (device, "cpu"):
        for y in ([0.5], [[0.5], [0.6], [0.7]]):
            measure = masked(torch.tensor([True, False], device=at))
            posterior = run.posterior(measure, torch.tensor(y, device=at), noise_std=0.1)
            for count in (1, 8):
                there(posterior.sample(3, particles=count, **how), device)
            there(posterior.sample(3, sampler="heun", **how), device)
    there(run.posterior(lambda x: x @ matrix.to(x), 0.5, noise_std=0.1).sample(3, **how), device)
    x = pixels(device).posterior(blurred(1.0), torch.rand(1, 4, 4), noise_std=0.1).sample(2, particles=1, **how)
    there(x, device)


@path
def imputed(device: str, folder: Path) -> None:
    rows = BENT[:4].double()
    rows[0, 0] = rows[1, 1] = rows[2] = torch.nan
    run = conditional_run(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    for bent in (False, True):
        recipe = replace(run.recipe, transform=points("cpu", bent=bent).transform)
        assert bool(replace(run, recipe=recipe).to(device).impute(rows.numpy(), 3).draws.isfinite().all())


def commanded(device: str, folder: Path, commands: str) -> None:
    for command in commands.strip().splitlines():
        run_ncsn(*(word.format(folder) for word in command.split()), "--device", device)


@path
def commands_of_images(device: str, folder: Path) -> None:
    np.savez(folder / "data.npz", images=arrays(400)[0], labels=arrays(400)[1])
    commands = """
train {0}/data.npz --out {0}/run --steps 2 SMALL --posterior-above 2 --flip
train {0}/data.npz --out {0}/run --steps 4 --resume
sample {0}/run -n 4 --out {0}/x.png
sample {0}/run -n 4 --class 1 --out {0}/x.npz
evaluate {0}/run -n 100 --features pixels --levels 3 --out {0}/judged
inpaint {0}/run -n 2 --levels 2 --out {0}/inpainted.png
inpaint {0}/run -n 2 --levels 2 --method replacement --out {0}/replaced.png
deblur {0}/run -n 2 --levels 2 --out {0}/deblurred.png
likelihood {0}/run -n 2 --tolerance 0.5 --probes 2
"""
    small = "--channels 4 4 --blocks 1 --batch-size 16 --levels 3 --samples 6 --no-compile"
    commanded(device, folder, commands.replace("SMALL", small))


@pytest.mark.parametrize(
    ("device", "name"),
    [
        pytest.param(kind, name, marks=[pytest.mark.slow] if kind == "cuda" or "commands" in name else [])
        for kind in ("mps", "cuda")
        for name in PATHS
    ],
)
def test_what_runs_on_the_processor_runs_on_a_gpu(name: str, device: str, tmp_path: Path, monkeypatch: Patch) -> None:
    """On a real one where there is one."""
    real = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    # A training draws a picture by it too, whose 200 evaluations would be most of the time.
    monkeypatch.setitem(SAMPLERS, "annealed", replace(SAMPLERS["annealed"], levels=10))
    with nullcontext() if real else Pretend(device):
        PATHS[name](device, tmp_path)


# What the pretended devices must see.


class Forgetful(nn.Module):
    """A network with a kernel, and a mean that is no buffer."""

    def __init__(self, *, kernel: bool, mean: bool) -> None:
        super().__init__()
        self.network = nn.Linear(2, 2)
        self.kernel = [torch.eye(2)] if kernel else []
        self.mean = torch.zeros(2) if mean else 0.0

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.network(x - self.mean)
        return value @ self.kernel[0] if self.kernel else value


PLANTED: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "nothing": (lambda at: Forgetful(kernel=False, mean=False).to(at)(data(at, 3, 2)).sum().backward(), ()),
    "a kernel on the CPU": (lambda at: Forgetful(kernel=True, mean=False).to(at)(data(at, 3, 2)), ("cuda", "mps")),
    "a mean that stays": (lambda at: Forgetful(kernel=False, mean=True).to(at)(data(at, 3, 2)), ("cuda", "mps")),
    "labels left behind": (lambda at: nn.Embedding(3, 2).to(at)(torch.arange(3)), ("cuda", "mps")),
    "double precision": (lambda at: data(at, 3).double().sum(), ("mps",)),
    "a missing operator": (lambda at: torch.linalg.eigh(torch.eye(2, device=at)), ("mps",)),
    "numpy": (lambda at: np.asarray(data(at, 3)), ("cuda", "mps")),
    "a generator of the CPU": (lambda at: torch.randn(3, device=at, generator=seeded("cpu")), ("cuda", "mps")),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_bugs_that_are_planted_are_seen(bug: str, device: str) -> None:
    run, refused = PLANTED[bug]
    if device in refused:
        with pytest.raises((RuntimeError, TypeError), match=r"device|float64|numpy|MPS"):
            run(device)
    else:
        run(device)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda at: ncsn.dsm(model(at), data(at, 3, 2), 0.5, generator=seeded("cpu")), r"torch.Generator\('"),
        (
            lambda at: posterior(model(at), lambda x: x @ torch.eye(2), data(at, 3, 2), 0.1)(data(at, 3, 2), 0.5),
            "matrix",
        ),
    ],
)
def test_what_is_elsewhere_is_refused_in_one_line(call: Callable[[str], object], message: str, device: str) -> None:
    if device == "cpu":
        call(device)
        return
    with pytest.raises(ValueError, match=message) as refusal:
        call(device)
    assert "\n" not in str(refusal.value)


# Waiting.


def waits_of(states: Iterator[Any], device: str, *, after: int) -> tuple[float, Any]:
    """How often the processor waits for the device in each of the states that come after some; and the last one."""
    for _ in range(after):
        next(states)
    before = active[-1].waits.total()
    rest = list(states)
    return (active[-1].waits.total() - before) / len(rest), rest[-1]


@on_gpus
@pytest.mark.parametrize(("precision", "objective"), [("bf16", "dsm"), ("fp32", "posterior_dsm")])
def test_at_most_one_of_ten_steps_waits(precision: str, objective: str, device: str) -> None:
    x, labels = data(device, 40, 1, 8, 8), (torch.arange(40) % 3).to(device)
    begun = state(device, torch.bfloat16 if precision == "bf16" else None)
    target: Any = dsm if objective == "dsm" else partial(posterior_dsm, data_score=Empirical(x, labels), above=0.3)
    loss = training_loss(NOISE, target, generator=begun.generator)
    stream = ncsn.batches(x, 8, labels, flip=True, generator=begun.generator)
    waits, _ = waits_of(train(begun, stream, loss, budget=Budget(steps=23)), device, after=3)
    assert waits <= 0.15  # and one at the end


@pytest.mark.parametrize("device", ["mps"], indirect=True)  # which has fewer operations than cuda
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_and_none_of_its_states_waits(name: str, device: str) -> None:
    sampling = replace(SAMPLING, sampler=name, levels=1 if name == "langevin" else 6, steps=5, eps=1e-5, guidance=1.0)
    score, generator = add_guidance(model(device), GaussianScore(0.0, 2.0), 1.5), seeded(device)
    like = "annealed" if sampling.spec.uniform else name  # uniform noise is for images
    start = replace(sampling, sampler=like).start(torch.zeros(1, 2, device=device), 6, generator=generator)
    waits, last = waits_of(sampling.follow(score, start, generator=generator), device, after=1)
    assert waits == 0
    there(last.x, device)


@on_gpus
@pytest.mark.parametrize("name", ["masked", "blurred", "downsampled"])
@pytest.mark.parametrize(
    ("kind", "most"), [("matching", {"cuda": 1.0, "mps": 3.0}), ("particles", {"cuda": 1.2, "mps": 12.0})]
)
def test_a_state_of_a_posterior_waits_for_its_eigenvectors_alone(
    kind: str, most: dict[str, float], name: str, device: str
) -> None:
    """On mps the small matrices go to the processor and come back."""
    shape, measure, generator = (1, 4, 4), measured(device)[name], seeded(device)
    score, start = model(device, shape), 5 * torch.randn(4, *shape, generator=generator, device=device)
    if kind == "matching":
        given = posterior(score, measure, measure(data(device, 4, *shape)), 0.1)
        waits, last = waits_of(replace(SAMPLING, levels=8).follow(given, start, generator=generator), device, after=1)
        there(last.x, device)
    else:
        run = Run.of(score, shape, sigma_max=5.0, sigma_min=0.05).to(device)
        of_run = run.posterior(measure, measure(data(device, 1, *shape)), noise_std=0.1)
        steps = of_run.steps(2, seed=generator, particles=4, levels=8)
        waits, _ = waits_of(islice(steps, len(steps) - 1), device, after=1)
        there(next(steps).x, device)
        assert next(steps, None) is None
        assert 0 < steps.effective <= 4
        assert 0 <= steps.disagreeing <= 2
    assert waits <= most[device]


def test_a_loss_that_is_not_finite_is_named_by_its_step_however_late_it_is_seen(device: str, tmp_path: Path) -> None:
    begun = state(device)
    good = training_loss(NOISE, generator=begun.generator)

    def loss(model: ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, sigmas = good(model, batch)
        return losses * (torch.nan if begun.step == 2 else 1.0), sigmas

    stream = ncsn.batches(data(device, 40, 1, 8, 8), 8, (torch.arange(40) % 3).to(device), generator=begun.generator)
    steps = train(begun, stream, loss, budget=Budget(steps=9))

    def save_at_five() -> None:
        for progress in steps:
            if progress.step == 5:
                begun.save(tmp_path / "checkpoint.pt")

    with pytest.raises(FloatingPointError, match="at step 2"):
        save_at_five()
    assert begun.step == (2 if device == "cpu" else 5)
