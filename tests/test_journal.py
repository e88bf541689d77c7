"""A study of images: what it trains on, what it is judged by, what it samples with; told apart by brightness."""

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import z_score
from safetensors.torch import load_file
from torch import Tensor

from ncsn import storage
from ncsn.data import Images as Pictures
from ncsn.data import Labels, Origin, Reading
from ncsn.data.pixels import centres
from ncsn.distributions import Empirical
from ncsn.drawn import Drawn
from ncsn.learn import guidance, journal, results
from ncsn.learn.results import write_results
from ncsn.learn.settings import ImageJob, Images
from ncsn.learn.study import Study
from ncsn.model import ScoreModel
from ncsn.noise import LogUniform
from ncsn.objectives import Batch, posterior_dsm
from ncsn.progress import Clock
from ncsn.samplers import Sampling
from ncsn.training import Progress, State

TRAINED, HELD_OUT = 10, 200  # the grey of training images (and their class more), and of those for validation


def pictures() -> Pictures:
    labels = torch.arange(60) % 3
    named = Labels(train=labels, validation=labels[:9], test=labels[:9], names=("0", "1", "2"))
    train = (TRAINED + labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    held_out = torch.full((9, 1, 8, 8), HELD_OUT, dtype=torch.uint8)
    return Pictures(train, held_out, torch.full((9, 1, 8, 8), 90, dtype=torch.uint8), named)


def study(out: Path, *, resume: bool = False, **given: Any) -> Study:
    settings: dict[str, Any] = {
        "channels": (8,),
        "blocks": 1,
        "batch_size": 4,
        "steps": 6,
        "levels": 4,
        "samples": 4,
        "guidance": 2.0,
        "posterior_above": 0.6,
        "sigma_max": 10.0,
        "compile": False,
        "classes": False,
    } | given
    job = ImageJob(out=out, resume=resume, device="cpu")
    return Study.of(Images(job=job, **settings), pictures(), where(pictures()), clock=Clock())


def where(data: Pictures) -> Origin:
    return Origin.of("somewhere", None, Reading(), data)


def trained(begun: Study) -> tuple[State, State]:
    """A network and its guide, whose averages differ from their weights, and from each other."""
    state, guide = begun.states()
    assert guide is not None
    for seed, part in enumerate((state.model, state.average, guide.model, guide.average)):
        torch.manual_seed(seed)
        for p in part.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return state, guide


def test_held_out_losses_are_those_of_held_out_images() -> None:
    """Of a network that says nothing, on images that are all one grey: F* is known, and so is its mean square."""
    grey, mean, std = 200, 0.2, 0.3
    model = ScoreModel(torch.nn.Identity(), mean, std)
    model.network.forward = lambda x, c: torch.zeros_like(x)
    images = torch.full((7, 1, 8, 8), grey, dtype=torch.uint8)
    losses, sigmas = journal.validate(model, Batch(images), LogUniform(10.0, 0.01))
    assert losses.shape == sigmas.shape == (512,)
    # F* = (σ²(x₀ − μ) − σσ_d² z)/(σσ_d√(σ² + σ_d²)), with x₀ a grey within a 256th.
    away = ((grey + 0.5) / 256 - mean) ** 2 + 1 / (12 * 256**2)
    expected = (sigmas**2 * away + std**4) / (std**2 * (sigmas**2 + std**2))
    assert abs(z_score(losses / expected, 1.0)) < 4
    again, _ = journal.validate(model, Batch(images), LogUniform(10.0, 0.01))
    assert torch.equal(losses, again)


def test_the_average_is_judged_on_held_out_images_and_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = study(tmp_path / "run")
    state, guide = trained(begun)
    seen: list[Tensor] = []
    monkeypatch.setattr("ncsn.plots.image_grid", lambda x, path: seen.append(x))

    def progress(step: int, grey: float) -> Progress:
        losses, sigmas = torch.tensor([grey, 3.0]), torch.tensor([0.01, 2.0])
        return Progress(
            step=step, fraction=step / 10, seconds=7.0 * step, losses=losses, sigmas=sigmas, examples_per_second=5.0
        )

    rows, paces = journal.keep(begun, state, guide, [progress(step, float(step)) for step in range(1, 11)])
    written = [json.loads(row) for row in (tmp_path / "run" / "pace.jsonl").read_text().splitlines()]
    assert written == [vars(pace) for pace in paces]
    assert vars(paces[3]) == {"step": 4, "seconds": 28.0, "images_per_second": 5.0}
    assert [row.step for row in rows] == list(range(1, 11))
    assert [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [
        vars(row) for row in rows
    ]
    fourth = rows[3]
    assert (fourth.loss, fourth.bands) == (3.5, [4, None, None, None, 3])
    losses, sigmas = journal.validate(state.average, begun.validation, begun.noise)
    assert fourth.validation_loss == pytest.approx(float(losses.mean()))
    assert fourth.validation_bands[3] == pytest.approx(float(losses[(sigmas >= 0.4) & (sigmas < 1)].mean()))
    assert len(seen) == 3  # after the third, sixth and ninth row
    run = begun.run(state, guide)
    assert (run.score, run.guide) == (state.average, guide.average)
    assert torch.equal(seen[0], run.sample(20, seed=0))


def test_the_average_that_was_best_on_held_out_images_is_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step moves the average; held-out images are lost on it after the fourth."""
    begun = study(tmp_path / "run")
    state, guide = trained(begun)
    losses = iter([1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
    monkeypatch.setattr(journal, "validate", lambda *_: (torch.full((2,), next(losses)), torch.ones(2)))
    bias = dict(state.average.named_parameters())["network.head.bias"]

    def progress() -> Iterator[Progress]:
        for step in range(1, 11):
            state.step = step
            bias.fill_(float(step))
            noise = torch.ones(2)
            yield Progress(
                step=step, fraction=step / 10, seconds=1.0, losses=noise, sigmas=noise, examples_per_second=5.0
            )

    rows, _ = journal.keep(begun, state, guide, progress())
    assert rows[3].validation_loss == 0.5
    assert bool((bias == 4).all())
    assert bool((load_file(begun.folder / "model.safetensors")["network.head.bias"] == 4).all())
    assert journal.kept(rows) == rows[3]
    said = capsys.readouterr().out
    assert "held-out loss 0.5000, at step 4, then it rose to 1.1000: 60 examples are too few for more training" in said


def test_the_best_of_an_earlier_session_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first session ends with the best average; the second, to twice as many steps, is worse throughout."""
    begun = study(tmp_path / "run")
    state, guide = trained(begun)
    bias = dict(state.average.named_parameters())["network.head.bias"]

    def session(losses: list[float], first: int, last: int) -> list[journal.Row]:
        found = iter(losses)
        monkeypatch.setattr(journal, "validate", lambda *_: (torch.full((2,), next(found)), torch.ones(2)))

        def progress() -> Iterator[Progress]:
            for step in range(first, last + 1):
                state.step = step
                bias.fill_(float(step))
                noise = torch.ones(2)
                yield Progress(
                    step=step, fraction=step / last, seconds=1.0, losses=noise, sigmas=noise, examples_per_second=5.0
                )

        return journal.keep(begun, state, guide, progress()).rows

    assert len(session([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 1, 10)) == 10
    rows = session([0.5, 0.4, 0.3, 0.25, 0.2], 11, 20)
    assert [row.step for row in rows] == [*range(1, 11), 12, 14, 16, 18, 20], "a tenth of the new total each"
    assert bool((bias == 10).all())
    assert journal.kept(rows).step == 10
    assert "at step 10, then it rose to 0.2000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "compiles"),
    [({"minutes": 3.9}, False), ({"minutes": 4.0}, True), ({"steps": 5}, True), ({"compile": False}, False)],
)
def test_short_trainings_are_not_compiled(given: dict[str, Any], compiles: bool, tmp_path: Path) -> None:
    job = ImageJob(out=tmp_path / "run", device="cpu")
    begun = Study.of(Images(channels=(8,), job=job, **given), pictures(), where(pictures()), clock=Clock())
    assert begun.compiles == compiles


def test_what_a_user_would_not_see_is_said(tmp_path: Path) -> None:
    begun = study(tmp_path / "run")
    state, _ = begun.states()
    state.step = 6
    grey = torch.full((8, 1, 8, 8), (TRAINED + 0.5) / 256)

    def remarks(x: Tensor) -> list[str]:
        sampling = begun.recipe.sampling
        return list(
            results.remarks(
                begun,
                state,
                Drawn(samples=x, path=[], sampling=sampling, sampler=sampling.sampler, nfe=1, guide_nfe=0, seconds=1.0),
            )
        )

    few, copies = remarks(grey)
    assert "6 steps of training are few" in few
    assert copies.startswith("100% of the samples are nearer to a training image than 99 %")
    black = grey.clone()
    black[:, :, :2] = -0.1
    few, clipped, copies = remarks(black)
    assert clipped == "25% of the samples' pixels are black or white to the limit, of the images' 0%"
    assert copies.startswith("100%"), "nearer than held-out images, which are bright"
    assert remarks(torch.full_like(grey, 0.99))[-1].startswith("0%")
    state.step = 10_000
    assert len(remarks(grey)) == 1


def test_the_weight_that_is_chosen_becomes_the_runs_own(tmp_path: Path) -> None:
    begun = study(tmp_path / "run", guidance="chosen", classes=True)
    state, guide = begun.states()
    assert begun.chooses
    run = begun.run(state, guide)
    assert run.recipe.sampling.guidance == 1
    choice = guidance.Trial(weight=1.5, features=None, pixels=0.0)
    chosen = begun.with_guidance(run, choice)
    assert (chosen.recipe.sampling.guidance, chosen.recipe.sampling.guide) == (1.5, "unconditional")
    assert storage.read_config(begun.folder).recipe.sampling.guidance == 1.5
    assert storage.read_config(begun.folder).data == begun.origin
    assert storage.read_settings(begun.folder, "images")["guidance"] == "chosen"
    state.save(begun.folder / "checkpoint.pt")
    again = study(tmp_path / "run", resume=True, guidance="chosen")
    again.states()
    assert storage.read_config(begun.folder).recipe.sampling == chosen.recipe.sampling, "until another one is chosen"
    assert not study(tmp_path / "other", guidance=1.0).chooses


def test_mirrored_images_are_learned_and_averaged_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are dark on the left; mirrored, on the right: half of a batch is, and the target knows both."""
    monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _: False)
    data = pictures()
    data.train[..., 4:] = 250
    settings = Images(
        channels=(8,),
        batch_size=20,
        steps=2,
        flip=True,
        posterior_above=0.6,
        sigma_max=10.0,
        compile=False,
        job=ImageJob(out=tmp_path / "run", device="cpu"),
    )
    begun = Study.of(settings, data, where(data), clock=Clock())
    state, _ = begun.states()
    shown, left = begun.batches(state.model), []
    for step in range(20):
        begun.draws.begin(step)
        left.append(next(shown).x[:, 0, 0, 0] < 0.5)
    assert abs(z_score(torch.cat(left).float(), 0.5)) < 4
    both = torch.cat([data.train, data.train.flip(-1)])
    x, sigma = centres(data.train[:5]), torch.full((5,), 2.0)
    losses, expected = (
        loss(state.model, x, sigma, generator=torch.Generator().manual_seed(1))
        for loss in (begun.objective, partial(posterior_dsm, data_score=Empirical(centres(both)), above=0.6))
    )
    torch.testing.assert_close(losses, expected)


def test_a_study_learns_towards_the_score_of_each_class_at_high_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _: False)
    begun = study(tmp_path / "run", classes=True)
    assert begun.labels is not None
    assert torch.equal(begun.pixels[:, 0, 0, 0], TRAINED + begun.labels)
    state, _ = begun.states()
    x, label = centres(begun.pixels[:8]), torch.tensor([0, 1, 2, 0, 1, 2, -1, -1])
    sigma = torch.tensor([0.3, 0.59, 0.61, 0.9, 1.5, 3.0, 0.3, 0.9])
    labels = pictures().labels
    assert labels is not None
    truth = Empirical(centres(pictures().train), labels.train)
    given = {"label": label}
    losses = begun.objective(state.model, x, sigma, generator=torch.Generator().manual_seed(0), **given)
    expected = posterior_dsm(
        state.model, x, sigma, data_score=truth, above=0.6, generator=torch.Generator().manual_seed(0), **given
    )
    torch.testing.assert_close(losses, expected)


def test_a_study_that_is_resumed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    begun = study(tmp_path / "run")
    state, guide = trained(begun)
    for part, folder, step in ((state, begun.folder, 4), (guide, begun.folder / "guide", 2)):
        part.step, part.seconds = step, 1.5
        part.save(folder / "checkpoint.pt")
    again = study(tmp_path / "run", resume=True, steps=9)
    assert (again.settings.steps, again.settings.batch_size) == (9, 4)
    for old, new in zip((state, guide), again.states(), strict=True):
        assert new is not None
        assert (new.step, new.seconds) == (old.step, 1.5)
        for was, now in ((old.model, new.model), (old.average, new.average)):
            weights = was.state_dict()
            assert all(torch.equal(weights[name], w) for name, w in now.state_dict().items())
    fresh, _ = study(tmp_path / "other").states()
    assert fresh.step == 0


def test_results_say_what_training_saw_and_what_sampling_cost(tmp_path: Path) -> None:
    begun = study(tmp_path / "run")
    state, _ = begun.states()
    state.step, state.seconds = 6, 2.5
    sampling = Sampling(sigma_max=5.0, sigma_min=0.1, sampler="heun", levels=3, steps=1, eps=0.001)
    x = torch.zeros(3, 1, 8, 8)
    ours = Drawn(samples=x, path=[], sampling=sampling, sampler=sampling.sampler, nfe=31, guide_nfe=11, seconds=0.5)
    theirs = Drawn(samples=x, path=[], sampling=sampling, sampler=sampling.sampler, nfe=201, guide_nfe=0, seconds=1.25)
    row = journal.Row(
        step=6,
        loss=0.4,
        bands=[0.1, None],
        validation_loss=0.5,
        validation_bands=[0.2, None],
    )
    pace = journal.Pace(step=6, seconds=2.0, images_per_second=3.0)
    begun.clock.lap("start-up")
    write_results(begun, state, journal.Journal([row, row], [pace, pace]), ours, theirs)
    found = json.loads((begun.folder / "metrics.json").read_text())
    assert 0 < found.pop("seconds_of")["start-up"] < found.pop("seconds") < math.inf
    assert found == {
        "step": 6,
        "images_per_second": 3.0,
        "loss": 0.4,
        "bands": [0.1, None],
        "validation_loss": 0.5,
        "validation_bands": [0.2, None],
        "training_seconds": 2.5,
        "images_seen": 24,
        "guidance": 1.0,
        "samples": 3,
        "sampling_seconds": 0.5,
        "nfe": 31,
        "guide_nfe": 11,
        "annealed_seconds": 1.25,
        "annealed_nfe": 201,
    }
