"""The scripts' stories, followed from inside: what each training sees, and what the pictures show."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import ncsn
from ncsn import plots
from ncsn.cli import train
from ncsn.data import Images as Pictures
from ncsn.data import Labels
from ncsn.distributed import ALONE, Group
from ncsn.learn.settings import ImageJob, Images
from ncsn.objectives import Batch
from ncsn.samplers import METHODS
from ncsn.training import Budget, Loss, Progress, State

ROOT = Path(__file__).parent.parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_network_and_guide_learn_from_training_images_and_are_sampled_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training images are grey: 10, and their class more; no other image is as dark."""
    monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _: False)
    labels, bright = torch.arange(60) % 3, torch.full((9, 1, 8, 8), 200, dtype=torch.uint8)
    dark = (10 + labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    named = Labels(train=labels, validation=labels[:9], test=labels[:9], names=("a", "b", "c"))
    data = Pictures(dark, bright, bright, named)
    monkeypatch.setattr("ncsn.learn.images.load_images", lambda *_, reading: data)
    monkeypatch.setitem(METHODS, "annealed", replace(METHODS["annealed"], levels=9))  # 100 take their time
    shown: dict[str, Any] = {}
    for name in ("image_grid", "evolution", "evolution_animation"):
        monkeypatch.setattr(plots, name, lambda x, path: shown.update({path.name: x}))
    monkeypatch.setattr(plots, "loss_curves", lambda rows, names, path: shown.update({path.name: rows}))
    seen: list[tuple[State, list[Batch], Budget]] = []
    learn = ncsn.train

    def spied(
        state: State, batches: Iterator[Batch], loss: Loss, *, budget: Budget, group: Group, signals: list[int]
    ) -> Iterator[Progress]:
        assert group == ALONE
        batch: list[Batch] = []
        seen.append((state, batch, budget))

        def told() -> Iterator[Batch]:
            for one in batches:
                batch.append(one)
                yield one

        return learn(state, told(), loss, budget=budget, signals=signals)

    monkeypatch.setattr(ncsn, "train", spied, raising=False)
    folder = tmp_path / "run"
    job = ImageJob(out=folder, device="cpu")
    settings = Images(
        channels=(8,),
        blocks=1,
        batch_size=5,
        steps=5,
        levels=4,
        samples=4,
        seed=3,
        classes=False,
        guidance=2.0,
        compile=False,
        job=job,
    )
    assert script("training_MNIST").learn is train.learn
    train.learn(settings)

    (guide, guides, guide_budget), (state, batches, budget) = seen
    assert (budget, guide_budget) == (Budget(steps=5), Budget(steps=1))
    assert (state.step, guide.step) == (5, 1)
    assert [len(guides), len(batches)] == [1, 5]
    for batch in (*guides, *batches):
        grey = (batch.x.amin((1, 2, 3)) * 256).floor().long()
        assert batch.x.shape == (5, 1, 8, 8)
        assert bool(((grey >= 10) & (grey <= 12)).all())
        assert batch.label is None
    assert sum(p.numel() for p in guide.model.parameters()) < sum(p.numel() for p in state.model.parameters())

    run = ncsn.load(folder, device="cpu")
    assert run.guide is not None
    x = run.sample(4, seed=3)
    assert torch.equal(shown["samples.png"], x)
    assert not torch.equal(shown["samples.png"], run.sample(4, seed=3, guidance=1.0))
    assert torch.equal(shown["samples_annealed.png"], run.sample(4, seed=3, sampler="annealed"))
    for name in ("evolution.png", "evolution.gif"):
        path = list(run.steps(4, seed=3))
        assert [step.sigma for step in shown[name]] == [step.sigma for step in path]
        assert all(torch.equal(a.x, b.x) for a, b in zip(shown[name], path, strict=True))
    found = json.loads((folder / "metrics.json").read_text())
    steps, annealed = run.steps(4), run.steps(4, sampler="annealed")
    for taken in (steps, annealed):
        list(taken)
    assert (found["nfe"], found["guide_nfe"], found["annealed_nfe"]) == (steps.nfe, steps.guide_nfe, annealed.nfe)
    assert (found["images_seen"], found["samples"], found["step"]) == (25, 4, 5)
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [vars(row) for row in shown["loss.png"]] == rows
    # Held-out images are far brighter than what is learned, so their losses are far larger.
    assert all(row["validation_loss"] > 10 * row["loss"] for row in rows)


def test_the_toys_story_is_of_its_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncsn.learn.settings import Job, Toy

    fields: list[tuple[Any, ...]] = []
    panels: list[Any] = []
    monkeypatch.setattr(plots, "score_field", lambda *given, view: fields.append(given))
    monkeypatch.setattr(plots, "scatter_panels", lambda rows, path, view: panels.append(rows))
    monkeypatch.setattr(plots, "trajectories", lambda way, path, view: panels.append(way))
    folder = tmp_path / "run"
    settings = Toy(
        generator="gaussian",
        view="both",
        steps=40,
        batch_size=64,
        width=8,
        layers=1,
        levels=8,
        langevin_steps=5,
        samples=400,
        seed=2,
        job=Job(out=folder, device="cpu"),
    )
    script("training_toy").main(settings)
    run = ncsn.load(folder, device="cpu")
    score, truth, sigmas, data, *_ = fields[0]
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(score(x, 1.0), run.score(x, 1.0))
    assert sigmas == pytest.approx([0.1, 20 * (0.1 / 20) ** (3 / 7)])
    found = json.loads((folder / "metrics.json").read_text())
    assert [len(found["levels"]), found["seed"], found["generator"]] == [8, 2, "gaussian"]
    noised = truth.sample(20_000, generator=torch.Generator().manual_seed(9))
    noised = noised + 20 * torch.randn(noised.shape, generator=torch.Generator().manual_seed(8))
    error: Tensor = (run.score(noised, 20.0) - truth(noised, 20.0)).square().sum() / truth(noised, 20.0).square().sum()
    assert found["levels"][0]["relative_error_on_noised_data"] == pytest.approx(float(error), rel=0.15)
    samplers = found["samplers"]
    assert (samplers["langevin_learned"]["nfe"], samplers["annealed_learned"]["nfe"]) == (41, 41)
    # The exact score, annealed, is nearer to the data than what never leaves the smallest noise level.
    distance = {name: samplers[name]["sliced_wasserstein_over_floor"] for name in ("annealed_exact", "langevin_exact")}
    assert distance["annealed_exact"] < distance["langevin_exact"]
    (above, below), way = panels
    assert [name.split("\n")[0] for name, _ in above] == ["data", "langevin, learned score", "annealed, learned score"]
    assert [name.split("\n")[0] for name, _ in below] == ["start", "langevin, exact score", "annealed, exact score"]
    assert torch.equal(way[-1][1], above[2][1])
    assert data.shape == (100_000, 2)
