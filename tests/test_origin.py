"""A run finds the images again that it has learned from, and is not fooled by others."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import GaussianScore
from PIL import Image

import ncsn
from ncsn.data import Reading, load_images, mnist
from ncsn.data.origin import Origin
from ncsn.pixels import Depth
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.samplers import Sampling

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.1, sampler="heun", levels=3, steps=1, eps=0.001)
RECIPE = Recipe(network="UNet", arguments={"channels": (4,), "blocks": 1}, shape=(1, 6, 6), sampling=SAMPLING)


def pictures(folder: Path, *, seed: int = 0) -> Path:
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 255, (30, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_a_run_finds_its_images_where_they_were_and_where_they_are_now(tmp_path: Path) -> None:
    place = pictures(tmp_path / "here")
    reading = Reading(size="6", fit="stretch")
    images = load_images(str(place), reading=reading)
    run = Run(
        score=RECIPE.build(),
        recipe=replace(RECIPE, depth=Depth("uint16", 0.0, 4096.0)),
        origin=Origin.of(str(place), None, reading, images),
    )
    run.save(tmp_path / "run")
    again = ncsn.load(tmp_path / "run", device="cpu")
    assert again.recipe == run.recipe
    assert again.origin == run.origin
    found = again.data()
    assert found.shape == (1, 6, 6)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(found, part), getattr(images, part))
    shutil.move(place, tmp_path / "there")
    with pytest.raises(ValueError, match=r"the images are not at .*here; --data PLACE"):
        again.data()
    assert torch.equal(again.data(str(tmp_path / "there")).test, images.test)
    other = pictures(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="other holds other images than those that the run has learned from"):
        again.data(str(other))


def test_only_digits_are_taken_for_digits_without_being_told() -> None:
    sampling = replace(RECIPE, shape=(1, 28, 28))
    digits = Run(score=GaussianScore(0.0, 1.0), recipe=sampling, settings={"dataset": "mnist"})
    assert torch.equal(digits.data().test[:9], mnist().test[:9])
    letters = replace(digits, settings={"dataset": "letters"})
    with pytest.raises(ValueError, match="does not say which images it has learned from"):
        letters.data()


def test_named_sets_stay_named_and_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = mnist()
    named = Origin.of("mnist", None, Reading(), images)
    assert (named.dataset, named.folder, named.split) == ("mnist", None, (50_000, 10_000, 10_000))
    monkeypatch.chdir(tmp_path)
    path = Origin.of("pictures", Path("files"), Reading(), images)
    assert (path.dataset, path.folder) == (str(tmp_path / "pictures"), str(tmp_path / "files"))
