"""Runs on Hugging Face's hub: what is sent and what is not, and that what is fetched is read as any run."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import filter_repo_objects

import ncsn
from ncsn import storage
from ncsn.cli import main as cli
from ncsn.hub import SHARED
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.samplers import Sampling

SENT = {"README.md", "config.json", "model.safetensors", "metrics.json", "evaluation.json"}
SENT |= {"guide/config.json", "guide/model.safetensors"}
RECIPE = Recipe(
    network="UNet",
    arguments={"image_channels": 1, "channels": (8, 8), "blocks": 1, "features": 8, "classes": 2},
    shape=(1, 8, 8),
    sampling=Sampling(sigma_max=5.0, sigma_min=0.01, sampler="dpmpp-sde", levels=5, steps=1, eps=5e-5, guidance=2.0),
    shares={"cats_|<b>": 0.75, "dogs": 0.25},
)
SHA = [digit * 40 for digit in "abc"]


def made(seed: int, *, guided: bool = True) -> Run:
    """A run of random weights, whose settings name places of all kinds."""
    torch.manual_seed(seed)
    score, guide = (RECIPE.build(0.13, 0.31).requires_grad_(False).eval() for _ in range(2))
    for parameter in (*score.parameters(), *guide.parameters()):
        parameter.normal_(std=0.1)
    settings = {"dataset": "~/secret/pets", "more": "../secret/cats.zip", "other": "C:\\secret\\dogs", "size": "8x8"}
    return Run(score=score, recipe=RECIPE, guide=guide if guided else None, experiment="images", settings=settings)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a guide, its data, its numbers, and files that are nobody's business."""
    folder = tmp_path / "run"
    made(0).save(folder)
    config = json.loads((folder / "config.json").read_text())
    reading = {"size": "8", "fit": "crop", "background": "white", "max_broken": 0}
    data = {
        "dataset": "/home/secret/pets.zip",
        "folder": None,
        "reading": reading,
        "digest": "01ab",
        "split": [30, 4, 5],
    }
    storage.write_json(folder / "config.json", config | {"data": data})
    for name in ("checkpoint.pt", "samples.png", "it.py", "README.md"):
        (folder / name).write_bytes(b"secret")
    storage.write_json(folder / "metrics.json", {"step": 1200, "bands": [1.0], "made_in": "runs/secret/it"})
    evaluation: dict[str, Any] = {"run_digest": ncsn.load(folder).digest, "data": "/home/secret/pets", "n": 400}
    evaluation |= {"comparable": False, "features": "classifier", "notes": ["features know [two] classes, and/or one"]}
    evaluation["metrics"] = {
        "distance": {"generated": 3.25, "held_out": 0.5, "training": 0.4, "ratio": 6.5},
        "confident": {"generated": 0.8, "held_out": 0.99, "training": 0.98},
    }
    storage.write_json(folder / "evaluation.json", evaluation)
    return folder


class Hub:
    """As much of the library's ``HfApi`` as ``ncsn push`` calls: models, as whether they are private, and files."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}

    def __call__(self, *, token: bool) -> HfApi:
        """One that refuses what the library's own would not take."""
        assert token
        api = create_autospec(HfApi, instance=True)
        for name in ("repo_exists", "create_repo", "model_info", "upload_folder"):
            getattr(api, name).side_effect = getattr(self, name)
        return api

    def put(self, model: str, files: dict[str, bytes], *, private: bool = True) -> None:
        self.private[model], self.files[model] = private, files

    def repo_exists(self, model: str) -> bool:
        return model in self.private

    def create_repo(self, model: str, *, private: bool, exist_ok: bool) -> None:
        if model == "ada/broken":
            raise RuntimeError("500 Server Error\n\nThe hub is down")
        assert exist_ok
        if model not in self.private:
            self.put(model, {}, private=private)

    def model_info(self, model: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private[model])

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: Any, delete_patterns: Any, commit_message: str
    ) -> SimpleNamespace:
        files = self.files[repo_id]
        for name in list(filter_repo_objects(files, allow_patterns=delete_patterns)):
            del files[name]
        sent = contents(folder_path)
        files |= {name: sent[name] for name in filter_repo_objects(sent, allow_patterns=allow_patterns)}
        return SimpleNamespace(oid=SHA[0])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(huggingface_hub, "HfApi", instance := Hub())
    return instance


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run ``ncsn`` with arguments that must be refused; returns the line that says why."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.main(list(args))
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    return printed.err


def test_a_push_sends_a_run_privately_and_nothing_else(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["push", str(run), "ada/pets", "--dry-run", str(tmp_path / "look")])
    assert not hub.private
    cli.main(["push", str(run), "ada/pets"])
    assert f"hf://ada/pets@{SHA[0]}" in capsys.readouterr().out
    files = hub.files["ada/pets"]
    assert hub.private["ada/pets"]
    assert files.keys() == set(SHARED) == SENT
    assert contents(tmp_path / "look") == files
    for name in ("model.safetensors", "guide/model.safetensors"):
        assert files[name] == (run / name).read_bytes()
    assert not [name for name, content in files.items() if b"secret" in content]
    here, there = ncsn.load(run, device="cpu"), ncsn.load(tmp_path / "look", device="cpu")
    assert (there.digest, there.experiment) == (here.digest, "images")
    assert torch.equal(there.sample(3, seed=1), here.sample(3, seed=1))
    places = {"dataset": "pets", "more": "cats.zip", "other": "dogs", "size": "8x8"}
    assert there.settings == places
    assert here.origin is not None
    assert there.origin == replace(here.origin, dataset="pets.zip")


def test_the_card_runs_and_has_numbers_beside_their_floors_but_of_other_weights(
    run: Path, tmp_path: Path, fetched: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["push", str(run), "ada/pets", "--dry-run", str(tmp_path / "look"), "--licence", "mit"])
    card = (tmp_path / "look" / "README.md").read_text()
    assert huggingface_hub.ModelCard(card).data.to_dict() == {
        "library_name": "ncsn",
        "license": "mit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["score-matching", "ncsn"],
    }
    for words in (
        "# pets",
        "pets.zip, examples of shape 1 × 8 × 8",
        r"2 classes: cats\_\|\<b\> (75.0%), dogs (25.0%).",
        "400 samples, too few to be comparable, seen by classifier:",
        "| distance | 3.25 | 0.5 | 0.4 |",
        "| confident | 0.8 | 0.99 | 0.98 |",
        r"- features know \[two\] classes, and/or one",
    ):
        assert words in card
    fetched(main=tmp_path / "look")
    drawn: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], drawn)
    assert drawn["x"].shape == (16, 1, 8, 8)
    storage.write_model(run, made(1).model)  # training goes on: the evaluation is of other weights
    cli.main(["push", str(run), "ada/pets", "--dry-run", str(tmp_path / "later")])
    assert "evaluation.json is left out" in capsys.readouterr().err
    assert contents(tmp_path / "later").keys() == SENT - {"evaluation.json"}
    later = contents(tmp_path / "later")["README.md"]
    assert b"Not evaluated." in later
    assert b"license" not in later


def test_overwriting_leaves_nothing_of_the_old_run_and_everything_else(hub: Hub, run: Path, tmp_path: Path) -> None:
    cli.main(["push", str(run), "ada/pets", "--public"])
    hub.files["ada/pets"]["notes.txt"] = b"mine"
    made(1, guided=False).save(tmp_path / "other")
    cli.main(["push", str(tmp_path / "other"), "ada/pets", "--public", "--overwrite"])
    assert not hub.private["ada/pets"]
    assert hub.files["ada/pets"].keys() == {"README.md", "config.json", "model.safetensors", "notes.txt"}
    assert hub.files["ada/pets"]["model.safetensors"] == (tmp_path / "other" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ada/pets", "it is there already; give --overwrite"),
        ("ada/pets --overwrite --public", "it is private"),
        ("ada/open --overwrite", "it is public"),
        ("ada/broken", "hf://ada/broken: 500 Server Error The hub is down"),
        ("pets", "user/model is needed"),
        ("../x", "user/model is needed"),
        ("ada/new --licence My", "a name like mit"),
        ("ada/new --dry-run .", "--dry-run needs a new folder"),
    ],
)
def test_a_push_that_is_refused_is_one_line_and_sends_nothing(
    hub: Hub, run: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    hub.put("ada/pets", {"config.json": b"precious"})
    hub.put("ada/open", {}, private=False)
    assert said in refusal(capsys, "push", str(run), *words.split())
    assert hub.files == {"ada/pets": {"config.json": b"precious"}, "ada/open": {}}


@pytest.mark.parametrize("change", [{"n": None}, {"metrics": {"x": {"generated": 1.0}}}, {"notes": 3}, []])
def test_a_broken_evaluation_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, change: Any
) -> None:
    content = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(content | change if change else change))
    assert "evaluation.json" in refusal(capsys, "push", str(run), "ada/pets", "--dry-run", str(tmp_path / "look"))
    assert not (tmp_path / "look").exists()


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts folders into the library's cache as revisions of ada/pets; the hub itself cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "cache" / "models--ada--pets"
    (place / "refs").mkdir(parents=True)

    def put(**revisions: Path) -> None:
        for sha, (name, folder) in zip(SHA, revisions.items(), strict=False):
            (place / "refs" / name).write_text(sha)
            shutil.copytree(folder, place / "snapshots" / sha)

    return put


def test_branch_tag_and_commit_are_heard_and_come_from_the_cache_offline(
    run: Path, tmp_path: Path, fetched: Callable[..., None]
) -> None:
    made(1).save(tmp_path / "old")
    fetched(main=run, v1=tmp_path / "old")
    new, old = (ncsn.load(folder, device="cpu").digest for folder in (run, tmp_path / "old"))
    assert new != old
    for place, digest in {"": new, "@main": new, "@v1": old, f"@{SHA[1]}": old, f"@{SHA[0]}": new}.items():
        assert ncsn.load(f"hf://ada/pets{place}").digest == digest
        assert ncsn.load(Path(f"hf://ada/pets{place}")).digest == digest


def test_only_parts_of_a_run_are_fetched(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(model: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (model, revision) == ("ada/pets", "refs/pr/1")
        there = [*SENT, "it.py", "a.pkl", "guide/a.pkl", "pytorch_model.bin", "more/config.json", "a.json"]
        assert set(filter_repo_objects(there, allow_patterns=allow_patterns)) == SENT
        return str(run)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert ncsn.load("hf://ada/pets@refs/pr/1").digest == ncsn.load(run).digest


@pytest.mark.parametrize(
    ("place", "name", "content", "said"),
    [
        ("ada/pets", "config.json", b'{"architectures": ["Bert"]}', "config.json: version is missing"),
        ("ada/pets", "config.json", None, "is no run: it has no config.json"),
        ("ada/pets", "model.safetensors", b"\x80\x04pickle", "model.safetensors is damaged"),
        ("ada/pets", "guide/config.json", b"{}", "guide/config.json: version is missing"),
        ("ada/cars", "", None, "hf://ada/cars: "),
        ("ada/pets@v2", "", None, "hf://ada/pets: "),
        ("ada/pets/guide", "", None, "hf://ada/pets/guide: "),
        ("ada--x/pets", "", None, "hf://ada--x/pets: "),
        ("../../run", "", None, "hf://../../run: "),
    ],
)
def test_what_cannot_be_fetched_or_is_no_run_is_one_line(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    fetched: Callable[..., None],
    place: str,
    name: str,
    content: bytes | None,
    said: str,
) -> None:
    if name:
        (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    fetched(main=run)
    assert said in refusal(capsys, "info", f"hf://{place}")


def test_without_the_library_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'ncsn[hub]'" in refusal(capsys, "info", "hf://ada/pets")
