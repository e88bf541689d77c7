import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ncsn
from ncsn import storage
from ncsn.model import ScoreModel
from ncsn.networks import MLP
from ncsn.recipe import Recipe
from ncsn.samplers import Sampling

RECIPE = Recipe(
    network="MLP",
    arguments={"dimensions": 2, "width": 8, "layers": 1},
    shape=(2,),
    sampling=Sampling(sigma_max=5.0, sigma_min=0.5, sampler="annealed", levels=4, steps=3, eps=0.05),
)


def make_run(folder: Path) -> ScoreModel:
    torch.manual_seed(0)
    model = RECIPE.build(torch.tensor([1.0, -2.0]), 3.0)
    torch.nn.init.normal_(model.network.output.weight)  # type: ignore[union-attr, arg-type]
    storage.write_config(folder, "toy", {"generator": "circle"}, RECIPE)
    storage.write_model(folder, model)
    return model


def test_a_run_is_rebuilt_from_its_folder_alone(tmp_path: Path) -> None:
    model, x = make_run(tmp_path), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert storage.read_config(tmp_path).recipe == RECIPE
    assert torch.equal(ncsn.load(tmp_path).score(x, 0.7), model(x, 0.7))


def test_a_run_is_saved_with_a_guide_of_another_size(tmp_path: Path) -> None:
    (tmp_path / "run" / "guide").mkdir(parents=True)
    make_run(tmp_path / "run")
    smaller = replace(RECIPE, arguments=RECIPE.arguments | {"width": 4})
    storage.write_config(tmp_path / "run" / "guide", "toy", {}, smaller)
    storage.write_model(tmp_path / "run" / "guide", smaller.build(0.0, 1.0))
    run = ncsn.load(tmp_path / "run", device="cpu")
    run.save(tmp_path / "copy")
    copy = ncsn.load(tmp_path / "copy", device="cpu")
    assert copy.digest == run.digest
    assert copy.guide_parameters < copy.parameters
    replace(run, guide=RECIPE.build(0.0, 1.0)).save(tmp_path / "other")  # as large as the network
    assert ncsn.load(tmp_path / "other", device="cpu").guide_parameters == run.parameters
    with pytest.raises(ValueError, match="the guide is another network than the run's"):
        replace(run, guide=smaller.build(0.0, 1.0), folder=None).save(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_model_in_the_package_is_small_and_loads() -> None:
    folder = storage.find("mnist")
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 7_000_000, "two networks"
    model = ncsn.load("mnist").model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert model(x, torch.tensor(1.0)).shape == x.shape
    assert "job" not in storage.read_config(folder).settings


def test_a_run_of_ones_own_goes_before_the_one_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert storage.find("mnist") != Path("mnist")
    make_run(tmp_path / "mnist")
    assert storage.find("mnist") == Path("mnist")


def test_the_guide_of_a_run_is_a_run_in_its_folder(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert ncsn.load(tmp_path).guide is None
    (tmp_path / "guide").mkdir()
    guide, x = make_run(tmp_path / "guide"), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    found = ncsn.load(tmp_path).guide
    assert found is not None
    assert torch.equal(found(x, 0.7), guide(x, 0.7))
    assert storage.find("mnist").is_dir()


def test_what_is_overwritten_is_gone(tmp_path: Path) -> None:
    """An old checkpoint would be continued by the new run, and an old guide would guide it."""
    make_run(tmp_path)
    (tmp_path / "guide").mkdir()
    make_run(tmp_path / "guide")
    for name in ("checkpoint.pt", "guide/checkpoint.pt", "metrics.json", "metrics.jsonl"):
        (tmp_path / name).write_text("{}")
    for name in ("evaluation.json", "evaluation.npz", "samples_000300.png", "samples_mine.png", "evaluation.txt"):
        (tmp_path / name).write_text("of the old run")
    storage.claim(tmp_path, overwrite=True)
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {".lock", ".lock-holder", "samples_mine.png", "evaluation.txt"}


def test_in_a_folder_that_is_no_run_only_what_a_run_writes_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("the user's own")
    storage.claim(tmp_path, overwrite=True)
    assert (tmp_path / "evaluation.json").read_text() == "the user's own"


def test_claim_guards_another_run(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    storage.claim(folder)
    make_run(folder)
    (folder / "mine.txt").write_text("the user's own")
    with pytest.raises(ValueError, match="holds another run; give --overwrite"):
        storage.claim(folder)
    assert (folder / "model.safetensors").exists()
    storage.claim(folder, overwrite=True)
    assert {p.name for p in folder.iterdir()} == {"mine.txt", ".lock", ".lock-holder"}
    with pytest.raises(ValueError, match="at most one"):
        storage.claim(folder, resume=True, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        storage.claim(folder / "mine.txt")


@pytest.mark.parametrize("part", ["", "guide"])
def test_a_run_without_a_checkpoint_is_not_begun_anew_by_resume(part: str, tmp_path: Path) -> None:
    """Its weights would be replaced by some that have learned nothing."""
    make_run(tmp_path)
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / storage.MODEL).touch()
    for place in (tmp_path, tmp_path / "guide"):
        (place / storage.CHECKPOINT).touch()
    storage.claim(tmp_path, resume=True).release()
    (tmp_path / part / storage.CHECKPOINT).unlink()
    with pytest.raises(ValueError, match=r"has weights, but no checkpoint\.pt to go on from; put it there, or give"):
        storage.claim(tmp_path, resume=True)
    (tmp_path / part / storage.MODEL).unlink()  # as after a kill before the first checkpoint
    storage.claim(tmp_path, resume=True).release()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no run"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"version": 7}', "version 7; this program reads version 3"),
        ('{"version": 3}', r"config\.json: experiment is missing"),
        ('{"version": 3, "experiment": "toy", "recipe": {"noise": {}}, "settings": {}}', r"recipe\.network is missing"),
    ],
)
def test_folders_that_are_no_runs(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        ncsn.load(tmp_path)


def test_bad_weights_are_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged: "):
            ncsn.load(tmp_path)
    storage.write_model(tmp_path, ScoreModel(MLP(2, 16, 1), 0.0, 1.0))
    with pytest.raises(ValueError, match="is not the whole model"):
        ncsn.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        ncsn.load(tmp_path)


def test_an_unknown_network_is_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["recipe"]["network"] = "Transformer"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"Transformer is no network of this package .*UNet"):
        ncsn.load(tmp_path)


def test_rows_beyond_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 9}\n{"st')
    assert storage.trim_rows(path, 5, dict) == [{"step": 1}, {"step": 5}]
    assert path.read_text() == '{"step": 1}\n{"step": 5}\n'
    assert storage.trim_rows(tmp_path / "new.jsonl", 5, dict) == []


def test_settings_come_back_with_tuples_and_without_the_job(tmp_path: Path) -> None:
    settings = {"width": 7, "channels": (2, 3), "data": Path("there"), "job": {"out": "there"}}
    storage.write_config(tmp_path, "toy", storage.plain(settings), RECIPE)
    assert storage.read_settings(tmp_path, "toy") == {"width": 7, "channels": (2, 3), "data": "there"}
    with pytest.raises(ValueError, match="a run of toy, not of images"):
        storage.read_settings(tmp_path, "images")


def test_one_process_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    """And the second says who does; a kill lets go of it."""
    code = "import sys, time; from pathlib import Path; from ncsn import storage\n"
    hold = f"{code}lock = storage.claim(Path(sys.argv[1]), resume=True); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"is being written by process {first.pid} on "):
            storage.claim(tmp_path, resume=True)
        first.kill()
    lock = storage.claim(tmp_path, resume=True)
    again = storage.claim(tmp_path, resume=True)  # the same process may
    assert lock.is_locked
    assert again.is_locked


def test_a_kill_while_an_old_run_is_removed_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    """Its config.json goes last; and what has no config.json is nobody's run, and is not replaced unasked."""
    make_run(tmp_path)
    (tmp_path / "guide").mkdir()
    make_run(tmp_path / "guide")
    removed: list[Path] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        removed.append(path)
        unlink(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", noted)
        storage.claim(tmp_path, overwrite=True)
    gone = [path for path in removed if not path.name.startswith(".")]
    assert gone[-1] == tmp_path / "config.json"
    parts = [tmp_path / "guide", tmp_path / "student"]
    assert {path.parent for path in gone[: 2 * len(gone) // 3]} == set(parts)
    mine = tmp_path / "other"
    mine.mkdir()
    (mine / "checkpoint.pt").write_text("somebody's")
    with pytest.raises(ValueError, match=r"is no run, but has a checkpoint\.pt"):
        storage.claim(mine)
    assert (mine / "checkpoint.pt").read_text() == "somebody's"
    (mine / "checkpoint.pt").rename(mine / "samples.png")
    with pytest.raises(ValueError, match=r"is no run, but has a samples\.png"):
        storage.claim(mine, pictures=("samples.png",))
    storage.claim(mine)
