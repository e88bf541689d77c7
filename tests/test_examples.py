"""The examples: a student is a run like any other, and intervals are as wide as they are called."""

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ncsn
from ncsn.batching import centres
from ncsn.cli import console
from ncsn.images import Images
from ncsn.settings import TrainSettings

ROOT = Path(__file__).parent.parent


def example(name: str) -> Any:
    return import_module(f"examples.{name}")


@pytest.mark.parametrize(("first", "share"), [(1, "90.0%"), (5, "50.0%")])
def test_uniform_ranks_are_covered_as_often_as_an_interval_says(first: int, share: str) -> None:
    assert example("calibration").coverage(torch.arange(20).repeat(9), first).startswith(share)


def test_ranks_of_a_learned_table_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = example("calibration")
    monkeypatch.setattr(calibration, "MEASUREMENTS", 4)
    found, passes = calibration.ranks(calibration.learned(20), 1)
    assert passes > 100
    assert all(0 <= int(rank.min()) <= int(rank.max()) <= calibration.DRAWS for rank in found)
    turned = found.turned != found.hidden
    assert torch.equal(found.turned[turned], calibration.DRAWS - found.hidden[turned])


def test_the_pages_decibels_are_of_what_was_hidden_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = example("paper")
    digits = torch.full((2, 1, 28, 28), 128, dtype=torch.uint8)
    off = centres(digits)
    off[:, :, 14:] += 0.1  # by 20 dB where it is hidden, by 23 over all
    monkeypatch.setattr(paper, "draw", lambda *_, **__: SimpleNamespace(samples=off.repeat_interleave(8, 0)))
    monkeypatch.setattr(paper, "sign", lambda *_: None)
    (tmp_path / "paper").mkdir()
    found = paper.inpainting(paper.Paper(inpainted=2, out=tmp_path), SimpleNamespace(test=digits))
    assert [found[name] for name in ("replacement", "posterior_mean")] == pytest.approx([20, 20], abs=1e-3)


@pytest.mark.parametrize(("known", "missing"), [({}, "losses toys single"), ({"near": 0.1}, "losses single")])
def test_parts_alone_need_the_numbers_of_the_others(tmp_path: Path, known: dict[str, float], missing: str) -> None:
    paper = example("paper")
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "numbers.json").write_text(json.dumps(known))
    with pytest.raises(SystemExit, match=f"--parts: {missing}$"):
        paper.main(paper.Paper(parts=("digits", "inpainting"), out=tmp_path))


def test_rows_of_the_ladder_change_one_thing_and_stand_on_its_page(tmp_path: Path) -> None:
    """Each trained row has options that training accepts, and the last one none; each has its commands on the page."""
    ladder = example("ladder")
    page = (ROOT / "docs" / "tutorials" / "ladder.md").read_text(encoding="utf-8")
    settings = {}
    for number, rung in ladder.LADDER.items():
        settings[number] = vars(console.parse(TrainSettings, rung.options.split()))
        assert rung.idea in page
        if rung.weights is None and rung.options:
            assert f"`{rung.options}`" in page
    assert settings[8] == vars(TrainSettings())
    for earlier, later, changed in (
        (5, 6, {"optimizer", "adam_rate", "schedule"}),
        (6, 7, {"class_conditional"}),
        (7, 8, {"guidance"}),
    ):
        assert {name for name in settings[8] if settings[earlier][name] != settings[later][name]} == changed
    assert ladder.Ladder(out=tmp_path).run_of(7) == ladder.Ladder(out=tmp_path).run_of(8)
    with pytest.raises(ValueError, match="rows is"):
        ladder.Ladder(rows=(9,))


def test_a_student_learns_and_is_a_run_like_any_other(tmp_path: Path) -> None:
    distill = example("distill")
    few = {"minutes": 0.02, "batch_size": 2, "samples": 2, "restarts": 1, "seed": 3, "device": "cpu"}
    student = distill.main(distill.Distill(run="mnist", out=tmp_path / "run", **few))
    loaded = ncsn.load(tmp_path / "run", device="cpu")
    assert loaded.recipe.sampling.levels == pytest.approx((10, 2.289, 0.524, 0.12, 0.524, 0.12), abs=1e-3)
    steps = loaded.steps(3, seed=1)
    *_, last = steps
    assert (steps.nfe, steps.guide_nfe) == (5, 0)
    assert torch.equal(last.x, student.sample(3, seed=1))
    before = ncsn.load("mnist", device="cpu").model.state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in loaded.model.state_dict().items())
    assert (tmp_path / "run" / "student.png").read_bytes() != (tmp_path / "run" / "teacher.png").read_bytes()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "teacher.png").write_text("precious")
    for place in ("run", "pictures"):
        with pytest.raises(ValueError, match="overwrite"):
            distill.main(distill.Distill(run="mnist", out=tmp_path / place, **few))


def test_the_picture_of_the_idea_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idea, budget = example("idea"), ncsn.Budget(steps=2)
    monkeypatch.setattr(ncsn, "Budget", lambda **_: budget)
    monkeypatch.setattr(idea, "PICTURE", tmp_path / "idea.png")
    idea.main()
    assert (tmp_path / "idea.png").stat().st_size > 10_000


def test_encoding_is_the_flow_the_other_way() -> None:
    """Of N(0, 1) the flow multiplies x by the standard deviation of the noised data."""
    sigmas, x = ncsn.Karras(5.0, 0.05, 200).sigmas(), torch.tensor([[0.3, -2.0]])
    encoded = example("interpolation").encode(ncsn.GaussianMixture(torch.zeros(1, 2)), x, sigmas)
    torch.testing.assert_close(encoded, x * ((1 + 5.0**2) / (1 + 0.05**2)) ** 0.5, rtol=1e-4, atol=0)


def test_slerp_walks_at_one_pace_along_the_great_circle() -> None:
    """Between two examples of one length, at an angle of 0.4 in one pair and of 2 in the other."""
    generator = torch.Generator().manual_seed(0)
    pairs = 5 * torch.linalg.qr(torch.randn(2, 12, 2, generator=generator))[0].mT.view(2, 2, 3, 4)
    angle = torch.tensor([0.4, 2.0])[:, None, None]
    weights = torch.tensor([0.0, 0.1, 0.5, 1.0])
    ends = pairs[:, 0], pairs[:, 0] * angle.cos() + pairs[:, 1] * angle.sin()
    walks = example("interpolation").slerp(*ends, weights)
    for weight, x in zip(weights, walks.unbind(1), strict=True):
        torch.testing.assert_close(x, pairs[:, 0] * (weight * angle).cos() + pairs[:, 1] * (weight * angle).sin())


def test_walks_end_at_the_images_that_were_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpolation = example("interpolation")
    for name, value in {"PICTURE": tmp_path / "walks.png", "GENERATED": 1, "REAL": 1, "POINTS": 3}.items():
        monkeypatch.setattr(interpolation, name, value)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(ncsn.plots, "image_grid", lambda x, *_, **__: seen.append(x))
    interpolation.main()
    (walks,) = seen
    assert walks.shape == (6, 1, 28, 28)
    images = centres(ncsn.load_dataset("mnist").test[:2])
    assert float((walks[[3, 5]] - images).square().mean()) < 0.01 < float((walks[3] - walks[5]).square().mean()) / 4


def test_a_refinenet_is_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refinenet, digits = example("refinenet"), ncsn.load_dataset("mnist")
    few = Images(digits.train[:300], digits.validation[:50], digits.test[:50])
    monkeypatch.setattr(ncsn, "load_dataset", lambda _: few)
    judged: list[torch.Tensor] = []
    monkeypatch.setattr(refinenet, "Ruler", lambda *_, **__: SimpleNamespace(judge=judged.append))
    refinenet.main(minutes=0.001, width=2, n=2, out=tmp_path / "run")
    run = ncsn.load(tmp_path / "run", device="cpu", network=refinenet.NCSN(width=2, features=128, rescale=False))
    assert (run.recipe.network, run.recipe.preconditioning) == ("examples.refinenet.NCSN", "edm")
    assert judged[0].shape == (2, 1, 28, 28)
    assert (tmp_path / "run" / "samples.png").exists()


def test_privacy_attacks_find_copies_and_find_nothing_in_samples_of_their_own() -> None:
    """Of a table whose secret no other column knows; a copied row also gives its category away."""
    privacy, rng = example("privacy"), np.random.default_rng(0)
    x = rng.standard_normal((1200, 3)) * [1.0, 1000.0, 0.01]
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": rng.choice(["x", "y"], 1200), "d": x[:, 2]})
    members, kept, others = (table[i : i + 400] for i in (0, 400, 800))
    copies = privacy.attack(members, kept, members.sample(frac=1, random_state=0), "c")
    assert (copies["closer"], copies["member"]) == (1, 1)
    assert copies["secret"] == pytest.approx(0.5, abs=0.1)
    assert privacy.attack(members, kept, members, "d")["secret"] > 0.8
    for secret in "cd":
        independent = privacy.attack(members, kept, others, secret)
        assert list(independent.values()) == pytest.approx([0.5, 0.5, 0.0], abs=0.1)


def test_privacy_of_a_trained_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((120, 2)), columns=["a", "b"])
    frame.to_csv(tmp_path / "x.csv", index=False)
    found = example("privacy").main(tmp_path / "x.csv", secret="a", steps=2)
    assert all(0 <= found[name] <= 1 for name in ("closer", "member"))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-3:]] == ["closer", "member", "secret"]
