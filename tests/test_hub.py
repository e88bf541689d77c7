"""Runs on Hugging Face's hub: what is fetched is read as any run."""

import sys
from pathlib import Path
from unittest.mock import create_autospec

import huggingface_hub
import pytest
from helpers import DIGITS, Patch, Printed, refusal
from huggingface_hub import constants

import ncsn
from ncsn.run.folder import DOWNLOADED
from ncsn.run.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a guide."""
    folder = tmp_path / "run"
    Run(score=DIGITS.build({"data_mean": 0.13, "data_std": 0.31}), recipe=DIGITS, guide=DIGITS.build()).save(folder)
    return folder


def test_only_parts_of_a_run_are_fetched_of_the_revision_that_is_named(run: Path, monkeypatch: Patch) -> None:
    download = create_autospec(huggingface_hub.snapshot_download, return_value=str(run))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert ncsn.load("hf://ada/pets").digest == ncsn.load(run).digest
    download.assert_called_with("ada/pets", revision=None, allow_patterns=DOWNLOADED)
    assert ncsn.load(Path("hf://ada/pets@refs/pr/1")).digest == ncsn.load(run).digest
    download.assert_called_with("ada/pets", revision="refs/pr/1", allow_patterns=DOWNLOADED)


@pytest.mark.parametrize("model", ["ada/cars", "ada/pets@v2", "ada/pets/guide", "ada--x/pets", "../../run"])
def test_what_cannot_be_fetched_is_one_line(model: str, tmp_path: Path, monkeypatch: Patch, capsys: Printed) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"hf://{model.partition('@')[0]}: " in refusal(capsys, "sample", f"hf://{model}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'ncsn[hub]'" in refusal(capsys, "sample", f"hf://{model}")
