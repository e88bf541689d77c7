"""The methods of the papers, by one option; whatever else is given replaces their defaults."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Printed, command, refusal
from learning import pictures

import ncsn
from ncsn.learn.plan import make_plan
from ncsn.noise import largest_distance, level_ratio
from ncsn.settings import Job, ResolvedSettings, TrainSettings

TINY: dict[str, Any] = {"steps": 1, "channels": (4, 4), "blocks": 1, "compile": False, "device": "cpu", "quiet": True}
PAPER = {
    "preconditioning": "plain",
    "optimizer": "adam",
    "adam_rate": 1e-3,
    "schedule": "constant",
    "proposal": "geometric",
    "sampler": "ncsn",
    "guidance": 1.0,
    "sigma_max": 1.0,
    "sigma_min": 0.01,
    "levels": 10,
    "langevin_steps": 100,
    "eps": 2e-5,
    "class_conditional": False,
    "posterior_above": 1.0,
    "start": None,
}


def learn(**given: Any) -> ncsn.Run:
    run: ncsn.Run = ncsn.fit(pictures(), **TINY, **given)
    return run


def test_the_papers_method_has_its_settings_and_samples_as_it_does() -> None:
    """Song & Ermon 2019, section 5: ten levels from 1 to 0.01, T = 100, ε = 2e-5, no labels, Adam at 1e-3."""
    run = learn(method="ncsn")
    assert {name: run.settings[name] for name in PAPER} == PAPER
    assert (run.guide, run.recipe.num_classes, run.recipe.sampling.nfe) == (None, 0, 1000)
    torch.testing.assert_close(run.recipe.sampling.ladder(), torch.from_numpy(np.geomspace(1, 0.01, 10)).float())
    *_, last = steps = list(run.steps(3, seed=1))
    assert len(steps) == 10
    assert last.sigma == pytest.approx(0.01), "not denoised"
    # The network's output is the score: untransformed, at every noise level.
    model = run.model
    model.autocast = None  # bfloat16, where a machine is fast with it
    x = torch.rand(2, *run.recipe.shape)
    for sigma in (1.0, 0.05):
        output = model.network(x - model.data_mean, torch.tensor([sigma]).log() / 4)
        torch.testing.assert_close(run.score(x, sigma), output)


def test_the_papers_method_needs_more_images_per_channel() -> None:
    """In ten minutes, half the width of today's method on any processor; in ten hours, the same."""
    data = ncsn.load_dataset("mnist")
    for minutes, ratio in ((10, 2), (600, 1)):
        usual = TrainSettings(minutes=minutes, posterior_above=1.0, sigma_max=10.0)  # whose choice takes seconds
        today, paper = (make_plan(data, replace(usual, method=method)) for method in ("edm", "ncsn"))
        widths = today.settings.channels, paper.settings.channels
        assert [wide // narrow for wide, narrow in zip(*widths, strict=True)] == [ratio, ratio]


def test_sampling_starts_from_uniform_noise() -> None:
    sampling = ncsn.Sampling.of("ncsn", 1.0, 0.01)
    start = sampling.start(torch.full((1, 1, 8, 8), 7.0), 4000, generator=torch.Generator().manual_seed(0))
    assert 0 <= float(start.min()) < 0.001 < 0.999 < float(start.max()) <= 1
    quantiles = start.flatten().quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quantiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.005, rtol=0)
    with pytest.raises(ValueError, match="uniform noise in \\[0, 1\\], for images; use annealed"):
        sampling.start(torch.zeros(1, 2), 3, generator=torch.Generator())


def test_techniques_1_to_4_follow_from_the_data() -> None:
    """Song & Ermon 2020: the largest distance, the ratio of levels in that dimension, and s = F/σ."""
    run = learn(method="ncsnv2")
    sampling, images = run.recipe.sampling, pictures().train.float() / 255
    assert sampling.sigma_max == pytest.approx(largest_distance(images), rel=0.02)
    ratio = (sampling.sigma_max / sampling.sigma_min) ** (1 / (sampling.count - 1))
    assert 1 < ratio <= level_ratio(images[0].numel())
    assert (run.recipe.preconditioning, run.settings["optimizer"]) == ("scaled", "adam")
    *_, last = run.steps(1, levels=3)
    assert last.sigma == 0, "denoised"


GIVEN = [
    {"sampler": "heun"},
    {"sigma_max": 2.0},
    {"levels": 7},
    {"preconditioning": "edm"},
    {"optimizer": "muon"},
    {"schedule": "linear"},
    {"adam_rate": 0.5},
    {"proposal": "loguniform"},
    {"eps": 1e-5},
    {"posterior_above": 0.5},
    {"guidance": 1.5},
]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("method", ["ncsn", "ncsnv2"])
def test_what_is_given_replaces_the_defaults_of_the_method(method: Any, given: dict[str, Any]) -> None:
    plan = make_plan(pictures(), TrainSettings(method=method, channels=(4, 4), job=Job(device="cpu"), **given))
    assert {name: getattr(plan.settings, name) for name in given} == given
    assert plan.recipe.sampling.sampler == given.get("sampler", method)


def test_runs_from_before_methods_are_todays() -> None:
    """config.json of earlier runs lacks these settings."""
    run = learn()
    missing = {"method", "preconditioning", "optimizer", "schedule"}
    earlier = {name: value for name, value in run.settings.items() if name not in missing}
    resolved = ResolvedSettings(**earlier)
    assert {name: getattr(resolved, name) for name in missing} == {name: run.settings[name] for name in missing}
    assert {name: run.settings[name] for name in missing} == {
        "method": "edm",
        "preconditioning": "edm",
        "optimizer": "muon",
        "schedule": "linear",
    }


def test_methods_are_for_images(capsys: Printed) -> None:
    frame = np.random.default_rng(0).normal(size=(60, 2))
    np.save("rows.npy", frame)
    assert "method doesn't apply to rows" in refusal(capsys, "train", "rows.npy", "--method", "ncsn", "--steps", "1")


@pytest.fixture(autouse=True)
def here(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_command_trains_and_resumes_it(capsys: Printed) -> None:
    np.savez("data.npz", x=pictures().train.numpy())
    options = "--channels 4 4 --blocks 1 --no-compile --samples 2 --langevin-steps 2 --out run"
    command(f"train data.npz --method ncsn --steps 2 {options}")
    command("train data.npz --resume --steps 3 --out run")
    run = ncsn.load("run")
    assert (run.settings["method"], run.settings["steps"], run.recipe.preconditioning) == ("ncsn", 3, "plain")
    assert "2 samples by ncsn, 20 evaluations each" in capsys.readouterr().out
