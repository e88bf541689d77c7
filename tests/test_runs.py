import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ncsn import runs
from ncsn.networks import MLP
from ncsn.recipe import Recipe
from ncsn.score import ScoreModel

RECIPE = Recipe(
    network="MLP",
    arguments={"dimensions": 2, "width": 8, "layers": 1},
    shape=(2,),
    sigma_max=5.0,
    sigma_min=0.5,
    sampler="annealed",
    levels=4,
    steps=3,
    eps=0.05,
)


def make_run(folder: Path) -> ScoreModel:
    torch.manual_seed(0)
    model = RECIPE.build(torch.tensor([1.0, -2.0]), 3.0)
    torch.nn.init.normal_(model.network.output.weight)  # type: ignore[union-attr, arg-type]
    runs.write_config(folder, "toy", {"generator": "circle", "out": folder}, RECIPE)
    runs.save_model(folder, model)
    return model


def test_a_run_is_rebuilt_from_its_folder_alone(tmp_path: Path) -> None:
    model, x = make_run(tmp_path), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert runs.read_recipe(tmp_path) == RECIPE
    assert torch.equal(runs.load(tmp_path)(x, torch.tensor(0.7)), model(x, torch.tensor(0.7)))


def test_the_model_in_the_package_is_small_and_loads() -> None:
    folder = runs.find("mnist")
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 4_000_000
    model = runs.load("mnist")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert model(x, torch.tensor(1.0)).shape == x.shape
    assert not str(runs.read_config(folder)["settings"]["out"]).startswith("/")


def test_a_run_of_ones_own_goes_before_the_one_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert runs.find("mnist") != Path("mnist")
    make_run(tmp_path / "mnist")
    assert runs.find("mnist") == Path("mnist")


def test_the_guide_of_a_run_is_a_run_in_its_folder(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert runs.load_guide(tmp_path) is None
    (tmp_path / "guide").mkdir()
    guide, x = make_run(tmp_path / "guide"), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    found = runs.load_guide(tmp_path)
    assert found is not None
    assert torch.equal(found(x, torch.tensor(0.7)), guide(x, torch.tensor(0.7)))
    assert runs.find("mnist/guide").is_dir()
    runs.claim(tmp_path, overwrite=True)
    assert runs.load_guide(tmp_path) is None


def test_claim_guards_another_run(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    runs.claim(folder)
    make_run(folder)
    (folder / "mine.txt").write_text("the user's own")
    with pytest.raises(ValueError, match="holds another run; give --overwrite"):
        runs.claim(folder)
    assert (folder / "model.safetensors").exists()
    runs.claim(folder, overwrite=True)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match=r"has no checkpoint\.pt"):
        runs.claim(folder, resume=True)
    with pytest.raises(ValueError, match="at most one"):
        runs.claim(folder, resume=True, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        runs.claim(folder / "mine.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no run"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"version": 7}', "version 7; this program reads version 2"),
        ('{"version": 2}', "no whole recipe"),
        ('{"version": 2, "recipe": {"noise": {}}}', "no whole recipe"),
    ],
)
def test_folders_that_are_no_runs(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        runs.load(tmp_path)


def test_bad_weights_are_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors is not the whole model"):
            runs.load(tmp_path)
    runs.save_model(tmp_path, ScoreModel(MLP(2, 16, 1), 0.0, 1.0))
    with pytest.raises(ValueError, match="is not the whole model"):
        runs.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        runs.load(tmp_path)


def test_an_unknown_network_is_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["recipe"]["network"] = "Transformer"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="Transformer is no network; allowed are MLP, RefineNet, UNet"):
        runs.load(tmp_path)


def test_rows_beyond_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 9}\n{"st')
    assert runs.trim_rows(path, 5) == [{"step": 1}, {"step": 5}]
    assert path.read_text() == '{"step": 1}\n{"step": 5}\n'
    assert runs.trim_rows(tmp_path / "new.jsonl", 5) == []


@dataclass(frozen=True, kw_only=True)
class Settings:
    width: int = 1
    channels: tuple[int, ...] = (1,)
    out: str = "here"


def test_continued_takes_the_old_settings_but_for_the_new_ones(tmp_path: Path) -> None:
    runs.write_config(tmp_path, "toy", {"width": 7, "channels": (2, 3), "out": "there"}, RECIPE)
    assert runs.continued(Settings(), "toy", tmp_path, {"out"}) == Settings(width=7, channels=(2, 3), out="here")
    with pytest.raises(ValueError, match="a run of toy, not of images"):
        runs.continued(Settings(), "images", tmp_path, {"out"})
