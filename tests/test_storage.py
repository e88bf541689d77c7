"""What is written is whole or not there; what is damaged, foreign or made to do harm ends in one line."""

import copy
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec, patch

import huggingface_hub
import numpy as np
import pytest
import torch
from helpers import SAMPLING, Patch, Printed, refusal, refused
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn
from torch.utils._pytree import tree_leaves

import ncsn
from ncsn import MLP, Recipe, Run, ScoreModel, State, plots

MODEL, CHECKPOINT = "model.safetensors", "checkpoint.pt"
RECIPE = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,), sampling=SAMPLING)
SCORE = ScoreModel(MLP(2, 8, 1), 0.0, 3.0)
RUN = Run(score=SCORE, recipe=RECIPE)
IMAGES = torch.zeros(3, 1, 4, 4)


def a_state(seed: int = 0) -> State:
    torch.manual_seed(seed)
    state = State(ScoreModel(MLP(2, width=8, layers=1), 0.0, 3.0), generator=torch.Generator().manual_seed(seed))
    for _ in range(2 + seed):
        state.model(torch.ones(4, 2), 1.0).square().sum().backward()
        state.update(1.0)
    return state


def content_of(state: State) -> list[Any]:
    saved = [state.model.state_dict(), state.average.state_dict(), *(each.state_dict() for each in state.optimizers)]
    leaves = tree_leaves([saved, state.generator.get_state(), state.step, state.seconds])
    return [leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with a guide, and a checkpoint of both."""
    for place in (tmp_path / "run", tmp_path / "run" / "guide"):
        RUN.save(place)
        a_state().save(str(place / CHECKPOINT))
    return tmp_path / "run"


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: Patch) -> None:
    """When the disk is told to keep the new file, it is whole, and the old one still has the name; then it moves."""
    path = tmp_path / f"{'😀' * 58}.png"
    path.write_bytes(b"old")
    path.chmod(0o600)
    old, synced, real = path.stat().st_ino, [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, path.read_bytes()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    plots.image_grid(IMAGES, path)
    assert path.stat().st_ino != old
    assert path.stat().st_mode & 0o777 == 0o600
    assert synced == [(path.stat().st_ino, path.stat().st_size, b"old")]
    assert [*tmp_path.iterdir()] == [path]


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint.pt": lambda path: State(SCORE, generator=torch.Generator()).save(path),
    "samples.png": lambda path: plots.image_grid(IMAGES, path),
    "field.svg": lambda path: plots.scatter_panels([[("a", torch.zeros(3, 2))]], path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_leaves_the_previous_file_whole(name: str, tmp_path: Path) -> None:
    """Those of runs are in test_attacks."""
    (tmp_path / name).write_bytes(b"previous")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with patch("os.fsync", side_effect=full), pytest.raises(OSError, match=rf"No space left on device: '[^']*/{name}'"):
        WRITERS[name](tmp_path / name)
    assert files_in(tmp_path) == {tmp_path / name: b"previous"}
    WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() != b"previous"


def test_one_process_at_a_time_writes_and_what_its_kill_leaves_is_swept(tmp_path: Path) -> None:
    """A kill lets go of the folder, and so does the end of a save."""
    code = "import os, sys, time, ncsn\n"
    code += "os.fsync = lambda _: (print(1, flush=True), time.sleep(60))\n"
    code += "ncsn.load(sys.argv[1], device='cpu').save(sys.argv[2])"
    place = tmp_path / "new"
    RUN.save(tmp_path / "old")
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "old", place], stdout=subprocess.PIPE) as ended:
        assert ended.stdout is not None
        assert ended.stdout.readline() == b"1\n"
        assert "another process" in refused(lambda: RUN.save(place))
        ended.kill()
    unfinished = {path.name for path in place.iterdir()} - {".lock"}
    assert len(unfinished) == 1
    others = [".grid.partial.mine.png", ".thesis.partial.tex"]  # of other programs
    for name in (*others, ".grid.partial.00ff00ff00ff00ff.png"):
        (place / name).touch()
    (place / ".link.partial.00ff00ff00ff00ff").symlink_to(tmp_path / "old")
    RUN.save(place)
    with (place / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    files = {file.name for file in place.iterdir() if not file.is_symlink()}
    assert files == {".lock", "config.json", MODEL, *others}
    assert (place / ".link.partial.00ff00ff00ff00ff").is_symlink()


def test_only_regular_files_are_replaced(folder: Path, tmp_path: Path, capsys: Printed) -> None:
    mine, gone = tmp_path / "mine.npy", tmp_path / "gone" / "x.png"
    mine.write_text("precious")
    (tmp_path / "link.npy").symlink_to(mine)
    (tmp_path / "dangling.npy").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "fifo.npy")
    sample = ["sample", str(folder), "--device", "cpu", "--out"]
    for name in ("link", "dangling", "folder", "fifo"):
        assert name in refusal(capsys, *sample, f"{tmp_path}/{name}.npy", "--overwrite")
        (tmp_path / f"{name}.npy").rename(tmp_path / f"{name}.png")
        with pytest.raises(ValueError, match=name):
            plots.image_grid(IMAGES, tmp_path / f"{name}.png")
    assert "mine.npy exists" in refusal(capsys, *sample, str(mine))
    assert mine.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert "gone" in refusal(capsys, *sample, str(gone.with_suffix(".npy")))
    with pytest.raises(OSError, match=r"No such file or directory: '[^']*gone/x\.png'"):
        plots.image_grid(IMAGES, gone)
    for write in (RUN.save, lambda path: plots.image_grid(IMAGES, path)):  # safetensors couldn't read such a run
        with pytest.raises(ValueError, match="is not UTF-8"):
            write(tmp_path / os.fsdecode(b"\xff.png"))


def test_what_is_overwritten_is_gone_and_nothing_else(folder: Path) -> None:
    """An old checkpoint would be continued by the new run; config.json goes last, for a kill may come between."""
    users = {"samples_mine.png", "evaluation.txt", ".x.partial.half", "student"}
    for name in ("metrics.json", "metrics.jsonl", "evaluation.json", *users):
        (folder / name).write_text("{}")
        (folder / "guide" / name).write_text("{}")
    before = files_in(folder)
    gone: list[Path] = []

    def unlink(path: Path, **_: bool) -> None:
        if path.exists():
            gone.append(path)
            path.rename(path.with_name("gone"))

    with patch.object(Path, "unlink", unlink):
        RUN.save(folder, overwrite=True)
    (folder / "gone").unlink()
    (folder / "guide" / "gone").unlink()
    assert {path.name for path in files_in(folder)} == users | {".lock", "config.json", MODEL}
    assert {path.name for path in files_in(folder / "guide")} - {".lock"} == users
    assert {*gone} == {path for path in before if path.name not in users | {".lock"}}
    assert gone[-1] == folder / "config.json"


RUN_FILES = ("config.json", MODEL, CHECKPOINT)
UNASKED = [
    ({}, "holds another run", (), ""),
    ({"resume": True}, "run has weights, but no checkpoint", (CHECKPOINT,), ""),
    ({"resume": True}, "guide has weights, but no checkpoint", (f"guide/{CHECKPOINT}",), ""),
    ({"resume": True}, "guide is a link", (), "guide"),
    ({"overwrite": True}, f"{CHECKPOINT} is a link", (), f"guide/{CHECKPOINT}"),
    ({"resume": True}, "is not a run, but has a checkpoint.pt", RUN_FILES, CHECKPOINT),
    ({}, "is not a run, but has a evaluation.json", RUN_FILES, "evaluation.json"),
    ({}, "is not a run, but has a samples.png", RUN_FILES, "samples.png"),
    ({}, "is not a run, but has a guide/", RUN_FILES, ""),
]


@pytest.mark.parametrize(("how", "what", "gone", "there"), UNASKED)
def test_a_run_and_what_is_no_run_are_not_replaced_unasked(
    folder: Path, how: dict[str, Any], what: str, gone: tuple[str, ...], there: str, capsys: Printed
) -> None:
    for name in gone:
        (folder / name).unlink()
    if "link" in what:
        (folder / there).symlink_to((folder / there).rename(folder.parent / "elsewhere"))
    elif there:
        (folder / there).touch()
    np.save(rows := folder.parent / "rows.npy", np.random.default_rng(0).normal(size=(40, 2)))
    before = files_in(folder.parent)
    message = refusal(capsys, "train", str(rows), "--steps", "1", "--out", str(folder), *(f"--{name}" for name in how))
    assert str(folder) in message
    assert what in message
    if "resume" not in how:
        assert what in refused(lambda: RUN.save(folder, **how), naming=str(folder))
    assert files_in(folder.parent) == before


def test_the_model_in_the_package_is_small_and_loads(folder: Path, here: Path) -> None:
    place = ncsn.load("mnist", device="cpu").folder
    assert place is not None
    assert sum(path.stat().st_size for path in place.rglob("*.safetensors")) <= 3_500_000
    assert {p.dtype for p in ncsn.load("mnist", device="cpu").model.parameters()} == {torch.float32}
    (here / "mnist").mkdir()
    assert ncsn.load("mnist", device="cpu").folder == place
    shutil.copytree(folder, here / "mnist", dirs_exist_ok=True)
    assert ncsn.load("mnist", device="cpu").folder == Path("mnist"), "a run of one's own goes first"


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("place", [0.0, 0.001, 0.01, 0.03, 0.2, 0.5, 0.8, 0.97])
def test_a_model_or_checkpoint_with_a_flipped_bit_or_a_cut_is_refused_or_the_same(
    folder: Path, place: float, cut: bool
) -> None:
    """And nothing of the state has changed then."""
    state = a_state(1)
    state.load(folder / CHECKPOINT)
    whole = content_of(state)
    weights = ncsn.load(folder, device="cpu").digest
    for name in (MODEL, CHECKPOINT):
        content = bytearray((folder / name).read_bytes())
        at = int(place * len(content))
        content[at] ^= 1 << at % 8
        (folder / name).write_bytes(content[:at] if cut else content)
    if not refused(lambda: ncsn.load(folder, device="cpu"), naming=MODEL):
        assert ncsn.load(folder, device="cpu").digest == weights
    other = a_state(1)
    before = content_of(other)
    if refused(lambda: other.load(folder / CHECKPOINT), naming=CHECKPOINT):
        assert content_of(other) == before
    else:  # the bit is one of those that fill the space between the numbers
        assert not cut
        assert content_of(other) == whole


FOREIGN: dict[str, Any] = {
    **dict.fromkeys(("model", "average", "optimizers", "generator", "step", "seconds", "parts")),
    "model.network.output.bias": torch.zeros(3),
    "optimizers": [],
    "generator": torch.zeros(3, dtype=torch.uint8),
    "parts.some": {},
    "more": torch.load,  # code, and so not unpickled, though nobody asks for it
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_checkpoint_of_foreign_structure_is_refused(folder: Path, name: str) -> None:
    path, other = folder / CHECKPOINT, a_state(1)
    content = torch.load(path, weights_only=True)
    part, _, tensor = name.partition(".")
    value = content[part] | {tensor: FOREIGN[name]} if tensor else FOREIGN[name]
    torch.save(content | {part: value}, path)
    message = refused(lambda: other.load(path), naming=CHECKPOINT)
    assert message
    assert "weights_only" not in message, "torch's advice to load whatever a file holds is not passed on"
    torch.save(content, path)
    other.load(path)
    assert content_of(other) == content_of(a_state())


DAMAGED: list[tuple[str, object]] = [
    (MODEL, b""),
    (MODEL, b"x" * 100),
    (MODEL, save({}, metadata={"sha256": "0" * 64})),
    (MODEL, save({"a": torch.tensor([1.0, float("inf")])})),
    (MODEL, torch.nan),
    (CHECKPOINT, [1, 2]),
    (CHECKPOINT, {"version": 99}),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_files_that_are_missing_or_damaged_are_refused(folder: Path, name: str, content: object) -> None:
    path, state = folder / name, a_state()
    before = content_of(state)

    def read() -> None:
        if name == MODEL:
            ncsn.load(folder, device="cpu")
        else:
            state.load(path)

    path.unlink()
    assert refused(read, naming=name), "nothing is there"
    if content is torch.nan:  # in the weights of a run
        spoiled = copy.deepcopy(SCORE)
        spoiled.data_mean.fill_(torch.nan)
        Run(score=spoiled, recipe=RECIPE).save(folder, overwrite=True)
    else:
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert refused(read, naming=name)
    assert content_of(state) == before


class Held(nn.Module):
    """A network that holds these tensors."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


def held(**tensors: torch.Tensor) -> Run:
    return Run(score=ScoreModel(Held(**tensors)), recipe=replace(RECIPE, network="Held", arguments={}))


def test_the_digest_in_a_file_is_of_everything(folder: Path) -> None:
    """Of names, numbers, their types and shapes, in any order."""
    path = folder / MODEL
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    whole, weight, run = load_file(path), "network.output.weight", ncsn.load(folder, device="cpu")
    path.write_bytes(save(dict(reversed(whole.items())), metadata=metadata))
    assert ncsn.load(folder, device="cpu").digest == run.digest
    a = whole.pop(weight)
    for other in (a.view(-1), a.view(torch.int32), a.double(), a.flip(1)):
        path.write_bytes(save(whole | {weight: other}, metadata=metadata))
        assert "its digest is that of other tensors" in refused(lambda: ncsn.load(folder, device="cpu"))
    for tensors in (whole, whole | {"network.output.Weight": a}):
        path.write_bytes(save(tensors, metadata=metadata))
        assert "its digest is that of other tensors" in refused(lambda: ncsn.load(folder, device="cpu"))


def test_weights_that_two_layers_share_are_written_for_both(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    held(a=weight, b=weight, c=weight[:1]).save(tmp_path / "run")
    written = load_file(tmp_path / "run" / MODEL)
    tensors = {name: written[f"network.{name}"] for name in "abc"}
    torch.testing.assert_close(tensors, {"a": weight, "b": weight, "c": weight[:1]}, rtol=0, atol=0)


# Runs on Hugging Face's hub.


@pytest.mark.parametrize("name", ["hf://ada/pets", "hf://ada/pets@refs/pr/1"])
def test_only_parts_of_a_run_are_fetched_of_the_revision_that_is_named(
    name: str, folder: Path, monkeypatch: Patch
) -> None:
    download = create_autospec(huggingface_hub.snapshot_download, return_value=str(folder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert ncsn.load(Path(name) if "@" in name else name).digest == ncsn.load(folder).digest
    revision = "refs/pr/1" if "@" in name else None
    (model,), options = download.call_args
    assert (model, options["revision"]) == ("ada/pets", revision)
    parts = ["config.json", MODEL, "guide/config.json", f"guide/{MODEL}", "metrics.json"]
    others = [CHECKPOINT, f"guide/{CHECKPOINT}", "samples.png", "model.py", "pytorch_model.bin"]
    assert [name for name in parts + others if any(map(partial(fnmatch, name), options["allow_patterns"]))] == parts


@pytest.mark.parametrize("model", ["ada/cars", "ada/pets@v2", "ada/pets/guide", "ada--x/pets", "../../run"])
def test_what_cannot_be_fetched_is_one_line(model: str, tmp_path: Path, monkeypatch: Patch, capsys: Printed) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"hf://{model.partition('@')[0]}: " in refusal(capsys, "sample", f"hf://{model}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'ncsn[hub]'" in refusal(capsys, "sample", f"hf://{model}")
