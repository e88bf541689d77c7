"""Runs on Hugging Face's hub: what is sent and what is not, and that what is fetched is read as any run."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, create_autospec

import huggingface_hub
import pytest
import torch
from helpers import DIGITS, refusal
from huggingface_hub import HfApi, constants
from pictures import write

import ncsn
from ncsn import run as runs
from ncsn import storage
from ncsn.cli import main as cli
from ncsn.kinds import Origin, Reading
from ncsn.kinds.tables.columns import learn_columns
from ncsn.run import Run
from ncsn.run.folder import SHARED

SENT = {"README.md", "config.json", "model.safetensors", "metrics.json", "evaluation.json"}
SENT |= {"guide/config.json", "guide/model.safetensors"}

LISTS = {"columns": ["km/h", "/home/secret/it"], "more": [["C:\\secret\\it", {"place": "secret/it"}], "../secret/it"]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a guide, its data, its numbers, settings that name places, and files that are nobody's business."""
    score, guide = DIGITS.build({"data_mean": 0.13, "data_std": 0.31}), DIGITS.build()
    settings = {"dataset": "~/secret/pets", "more": "../secret/cats.zip", "other": "C:\\secret\\dogs", "size": "8x8"}
    folder = tmp_path / "run"
    data = Origin(dataset="/home/secret/pets.zip", reading=Reading(), digest="01ab", split=(30, 4, 5))
    it = Run(score=score, recipe=DIGITS, guide=guide, settings=settings, origin=data)
    it.save(folder)
    for name in ("checkpoint.pt", "samples.png", "it.py", "README.md"):
        (folder / name).write_bytes(b"secret")
    storage.write_json(folder / "metrics.json", {"step": 1200, "bands": [1.0], "made_in": "runs/secret/it", **LISTS})
    judged = {"run_digest": it.digest, "data": "/home/secret/pets", "n": 400}
    storage.write_json(folder / "evaluation.json", judged)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The library's own interface, in which ada/pets is private, and ada/open public; ``sent`` holds uploaded files."""
    models = {"ada/pets": True, "ada/open": False}
    api: Mock = create_autospec(HfApi, instance=True)

    def create(model: str, *, private: bool, exist_ok: bool) -> None:
        if model == "ada/broken":
            raise RuntimeError("500 Server Error\n\nThe hub is down")
        assert exist_ok
        models.setdefault(model, private)

    def upload(*, folder_path: str, **_: Any) -> SimpleNamespace:
        files = (path for path in Path(folder_path).rglob("*") if path.is_file())
        api.sent = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files}
        return SimpleNamespace(oid="c0ffee")

    api.create_repo.side_effect = create
    api.model_info.side_effect = lambda model: SimpleNamespace(private=models[model])
    api.upload_folder.side_effect = upload
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *, token: api if token else None)
    return api


def test_a_push_sends_a_run_privately_and_nothing_else_and_replaces_another(
    hub: Mock, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["push", str(run), "ada/new"])
    assert set(capsys.readouterr().out.strip().split(": ")[1].split(", ")) == {*SENT, "private"}
    assert hub.create_repo.call_args.kwargs["private"]
    assert hub.sent.keys() == set(SHARED) == SENT
    for name in ("model.safetensors", "guide/model.safetensors"):
        assert hub.sent[name] == (run / name).read_bytes()
    assert not [name for name, content in hub.sent.items() if b"secret" in content]
    card = hub.sent["README.md"].decode()
    assert huggingface_hub.ModelCard(card).data.to_dict() == {"library_name": "ncsn"}
    assert "hf://ada/new" in card
    numbers = json.loads(hub.sent["metrics.json"])
    assert (numbers["columns"], numbers["more"]) == (["km/h", "it"], [["it", {"place": "it"}], "it"])
    here, there = ncsn.load(run, device="cpu"), ncsn.load(write(tmp_path / "there", hub.sent), device="cpu")
    assert there.digest == here.digest
    assert there.settings == {"dataset": "pets", "more": "cats.zip", "other": "dogs", "size": "8x8"}
    assert here.origin is not None
    assert there.origin == replace(here.origin, dataset="pets.zip")
    runs.write_model(run, DIGITS.build())  # training goes on: the evaluation is of other weights
    cli.main(["push", str(run), "ada/open", "--public"])
    assert not hub.create_repo.call_args.kwargs["private"]
    asked = hub.upload_folder.call_args.kwargs
    assert (asked["repo_id"], asked["allow_patterns"], asked["delete_patterns"]) == ("ada/open", SHARED, SHARED)
    assert hub.sent.keys() == SENT - {"evaluation.json", "metrics.json"}
    assert "evaluation.json is left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "content", "part"),
    [
        ("ada/pets --public", None, "private"),
        ("ada/open", None, "private"),
        ("ada/broken", None, "hf://ada/broken: 500 Server Error The hub is down"),
        ("ada/pets", "[]", "evaluation.json"),
        ("ada/pets", "3", "evaluation.json"),
    ],
)
def test_a_push_that_is_refused_is_one_line_and_sends_nothing(
    hub: Mock, run: Path, capsys: pytest.CaptureFixture[str], words: str, content: str | None, part: str
) -> None:
    if content is not None:
        (run / "evaluation.json").write_text(content)
    assert part in refusal(capsys, "push", str(run), *words.split())
    assert not hub.upload_folder.called


@pytest.mark.parametrize("name", ["metrics.json", "model.safetensors", "guide", "guide/config.json"])
def test_no_link_is_followed_to_what_is_not_meant(
    hub: Mock, run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).rename(run.parent / "elsewhere")
    (run / name).symlink_to(run.parent / "elsewhere")
    assert str(run / name) in refusal(capsys, "push", str(run), "ada/pets")
    assert not hub.upload_folder.called


def test_of_a_guide_that_was_not_read_nothing_is_sent(hub: Mock, run: Path) -> None:
    (run / "guide" / "config.json").unlink()
    cli.main(["push", str(run), "ada/pets"])
    assert hub.sent.keys() == {name for name in SENT if "guide" not in name} - {"evaluation.json"}


def test_only_parts_of_a_run_are_fetched_of_the_revision_that_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = create_autospec(huggingface_hub.snapshot_download, return_value=str(run))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert ncsn.load("hf://ada/pets").digest == ncsn.load(run).digest
    download.assert_called_with("ada/pets", revision=None, allow_patterns=SHARED)
    assert ncsn.load(Path("hf://ada/pets@refs/pr/1")).digest == ncsn.load(run).digest
    download.assert_called_with("ada/pets", revision="refs/pr/1", allow_patterns=SHARED)


@pytest.mark.parametrize("model", ["ada/cars", "ada/pets@v2", "ada/pets/guide", "ada--x/pets", "../../run"])
def test_what_cannot_be_fetched_is_one_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"hf://{model.partition('@')[0]}: " in refusal(capsys, "sample", f"hf://{model}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'ncsn[hub]'" in refusal(capsys, "sample", f"hf://{model}")


def test_texts_of_a_table_are_no_paths(hub: Mock, tmp_path: Path) -> None:
    texts: dict[str, tuple[str, ...]] = {"/a/x": ("/home", "/shop/home", "/cart")}
    recipe = replace(DIGITS, network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,))
    rows = torch.tensor([[0.0, 1], [1, 2], [2, 4], [0, 5]]).double()
    recipe = replace(recipe, transform=learn_columns(rows, ("/a/x", "b"), texts))
    Run(score=recipe.build(), recipe=recipe).save(tmp_path / "table")
    cli.main(["push", str(tmp_path / "table"), "ada/new"])
    assert ncsn.load(write(tmp_path / "there", hub.sent), device="cpu").recipe == recipe
