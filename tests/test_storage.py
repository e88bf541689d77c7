"""What is written is whole or not there; what is damaged, foreign or made to do harm ends in one line."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec, patch

import huggingface_hub
import pytest
import torch
from helpers import SAMPLING, Patch, Printed, refusal, refused
from huggingface_hub import constants
from safetensors.torch import load, save
from torch.utils._pytree import tree_leaves

import ncsn
from ncsn import MLP, Run, ScoreModel, State, plots
from ncsn.machine.storage import atomic, check_out, digest, read_tensors, seal, write_json
from ncsn.run.folder import CHECKPOINT, DOWNLOADED, MODEL, claim, find, write_model
from ncsn.run.recipe import Recipe

RECIPE = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,), sampling=SAMPLING)
SCORE = ScoreModel(MLP(2, 8, 1), 0.0, 3.0)


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
        Run(score=SCORE, recipe=RECIPE).save(place)
        a_state().save(str(place / CHECKPOINT))
    return tmp_path / "run"


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: Patch) -> None:
    """When the disk is told to keep the new file, it is whole, and the old one still has the name; then it moves."""
    path = tmp_path / f"{'😀' * 58}.txt"
    path.write_text("old")
    path.chmod(0o600)
    old, synced, real = path.stat().st_ino, [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, path.read_text()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(path) as temporary:
        temporary.write_text("the new one")
        assert temporary.parent == path.parent  # a rename goes no farther
    assert path.read_text() == "the new one"
    assert path.stat().st_ino != old
    assert path.stat().st_mode & 0o777 == 0o600
    assert synced == [(path.stat().st_ino, len("the new one"), "old")]
    assert [*tmp_path.iterdir()] == [path]


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint.pt": lambda path: State(SCORE, generator=torch.Generator()).save(path),
    "model.safetensors": lambda path: write_model(path.parent, SCORE),
    "metrics.json": lambda path: write_json(path, {"loss": 1.0}),
    "samples.png": lambda path: plots.image_grid(torch.zeros(3, 1, 4, 4), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_leaves_the_previous_file_whole(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"previous")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with patch("os.fsync", side_effect=full), pytest.raises(OSError, match=rf"No space left on device: '[^']*/{name}'"):
        WRITERS[name](tmp_path / name)
    assert files_in(tmp_path) == {tmp_path / name: b"previous"}
    WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() != b"previous"


def test_one_process_at_a_time_writes_and_what_its_kill_leaves_is_swept(tmp_path: Path) -> None:
    """A kill lets go of the folder, and so does the end of a ``with``."""
    code = "import sys, time; from pathlib import Path\n"
    code += "from ncsn.machine import storage; from ncsn.run.folder import claim\n"
    code += "lock = claim(Path(sys.argv[1]).parent, resume=True)\n"
    code += "with storage.atomic(Path(sys.argv[1])) as t: t.write_text('new'); print(1, flush=True); time.sleep(60)"
    path = tmp_path / "x.txt"
    path.write_text("old")
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as ended:
        assert ended.stdout is not None
        assert ended.stdout.readline() == "1\n"
        assert "another process" in refused(lambda: claim(tmp_path, resume=True))
        ended.kill()
    assert path.read_text() == "old"
    assert len([*tmp_path.iterdir()]) == 3
    others = [".grid.partial.mine.png", ".thesis.partial.tex"]  # of other programs
    for name in (*others, ".grid.partial.00ff00ff00ff00ff.png"):
        (tmp_path / name).touch()
    (tmp_path / ".link.partial.00ff00ff00ff00ff").symlink_to(path)
    with claim(tmp_path, resume=True):
        assert claim(tmp_path, resume=True).is_locked, "the same process may"
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert {file.name for file in tmp_path.iterdir() if not file.is_symlink()} == {".lock", "x.txt", *others}


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    mine, gone = tmp_path / "mine.txt", tmp_path / "gone" / "x.txt"
    mine.write_text("precious")
    (tmp_path / "link.png").symlink_to(mine)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    for path in tmp_path.glob("*.png"):
        with pytest.raises(ValueError, match=path.stem):
            check_out(path, overwrite=True)
        with pytest.raises(ValueError, match=path.stem), atomic(path) as temporary:
            temporary.write_bytes(b"x")
    assert "mine.txt exists" in refused(lambda: check_out(mine, overwrite=False))
    assert mine.read_text() == "precious"
    assert refused(lambda: check_out(gone, overwrite=False), naming="gone")
    with pytest.raises(OSError, match=r"No such file or directory: '[^']*gone/x\.txt'"), atomic(gone):
        pass
    for place in (lambda path: check_out(path, overwrite=True), claim):  # safetensors couldn't read such a run
        with pytest.raises(ValueError, match="is not UTF-8"):
            place(tmp_path / os.fsdecode(b"\xff"))


def test_what_is_overwritten_is_gone_and_nothing_else(folder: Path) -> None:
    """An old checkpoint would be continued by the new run; config.json goes last, for a kill may come between."""
    users = {"samples_mine.png", "evaluation.txt", ".x.partial.half", "student"}
    for name in ("metrics.json", "metrics.jsonl", "evaluation.json", *users):
        (folder / name).write_text("{}")
        (folder / "guide" / name).write_text("{}")
    claim(folder, resume=True).release()
    claim(folder, overwrite=True, keep=True).release()
    assert len([*folder.rglob("metrics.json")]) == 2
    with patch.object(Path, "unlink", autospec=True, side_effect=Path.unlink) as unlink:
        claim(folder, overwrite=True).release()
    assert {path.name for path in files_in(folder)} - {".lock"} == users
    assert unlink.call_args.args[0] == folder / "config.json"


RUN = ("config.json", MODEL, CHECKPOINT)
UNASKED = [
    ({}, "holds another run", (), ""),
    ({"resume": True}, "run has weights, but no checkpoint", (CHECKPOINT,), ""),
    ({"resume": True}, "guide has weights, but no checkpoint", (f"guide/{CHECKPOINT}",), ""),
    ({"resume": True}, "guide is a link", (), "guide"),
    ({"overwrite": True}, f"{CHECKPOINT} is a link", (), f"guide/{CHECKPOINT}"),
    ({"resume": True}, "is not a run, but has a checkpoint.pt", RUN, CHECKPOINT),
    ({}, "is not a run, but has a evaluation.json", RUN, "evaluation.json"),
    ({}, "is not a run, but has a samples.png", RUN, "samples.png"),
    ({}, "is not a run, but has a guide/", RUN, ""),
]


@pytest.mark.parametrize(("how", "what", "gone", "there"), UNASKED)
def test_a_run_and_what_is_no_run_are_not_replaced_unasked(
    folder: Path, how: dict[str, Any], what: str, gone: tuple[str, ...], there: str
) -> None:
    claim(folder, resume=True).release()
    for name in gone:
        (folder / name).unlink()
    if "link" in what:
        (folder / there).symlink_to((folder / there).rename(folder.parent / "elsewhere"))
    elif there:
        (folder / there).touch()
    before = files_in(folder.parent)
    message = refused(lambda: claim(folder, **how), naming=str(folder))
    assert what in message
    assert files_in(folder.parent) == before


def test_the_model_in_the_package_is_small_and_loads(folder: Path, here: Path) -> None:
    place = find("mnist")
    assert sum(path.stat().st_size for path in place.rglob("*.safetensors")) <= 3_500_000
    assert {p.dtype for p in ncsn.load("mnist", device="cpu").model.parameters()} == {torch.float32}
    (here / "mnist").mkdir()
    assert find("mnist") == place
    shutil.copytree(folder, here / "mnist", dirs_exist_ok=True)
    assert find("mnist") == Path("mnist"), "a run of one's own goes first"


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("place", [0.0, 0.001, 0.01, 0.03, 0.2, 0.5, 0.8, 0.97])
def test_a_model_or_checkpoint_with_a_flipped_bit_or_a_cut_is_refused_or_the_same(
    folder: Path, place: float, cut: bool
) -> None:
    """And nothing of the state has changed then."""
    state = a_state(1)
    state.load(folder / CHECKPOINT)
    whole = content_of(state)
    tensors = digest(read_tensors(folder / MODEL))
    for name in (MODEL, CHECKPOINT):
        content = bytearray((folder / name).read_bytes())
        at = int(place * len(content))
        content[at] ^= 1 << at % 8
        (folder / name).write_bytes(content[:at] if cut else content)
    if not refused(lambda: read_tensors(folder / MODEL), naming=MODEL):
        assert digest(read_tensors(folder / MODEL)) == tensors
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
    (MODEL, seal({"a": torch.tensor(float("nan"))})),
    (CHECKPOINT, [1, 2]),
    (CHECKPOINT, {"version": 99}),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_files_that_are_missing_or_damaged_are_refused(tmp_path: Path, name: str, content: object) -> None:
    path, state = tmp_path / name, a_state()
    read, before = read_tensors if name == MODEL else state.load, content_of(state)
    assert refused(lambda: read(path), naming=name), "nothing is there"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert refused(lambda: read(path), naming=name)
    assert content_of(state) == before


def test_a_digest_is_of_everything() -> None:
    a, b = torch.arange(4.0), torch.ones(2, 2)
    like_a = a.view(2, 2), a.view(torch.int32), a.double(), a.flip(0)
    others: list[dict[str, torch.Tensor]] = [{"a": other, "b": b} for other in like_a]
    assert digest({"a": a, "b": b}) == digest({"b": torch.ones(2, 2), "a": torch.arange(8.0)[:4]})
    assert len({digest(each) for each in [{"a": a, "b": b}, *others, {"A": a, "b": b}, {"a": a}]}) == 7


def test_weights_that_two_layers_share_are_written_for_both() -> None:
    weight = torch.arange(6.0).view(2, 3)
    given = {"a": weight, "b": weight, "c": weight[:1]}
    torch.testing.assert_close(load(seal(given)), given, rtol=0, atol=0)


# Runs on Hugging Face's hub.


@pytest.mark.parametrize("name", ["hf://ada/pets", "hf://ada/pets@refs/pr/1"])
def test_only_parts_of_a_run_are_fetched_of_the_revision_that_is_named(
    name: str, folder: Path, monkeypatch: Patch
) -> None:
    download = create_autospec(huggingface_hub.snapshot_download, return_value=str(folder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert ncsn.load(Path(name) if "@" in name else name).digest == ncsn.load(folder).digest
    revision = "refs/pr/1" if "@" in name else None
    download.assert_called_with("ada/pets", revision=revision, allow_patterns=DOWNLOADED)


@pytest.mark.parametrize("model", ["ada/cars", "ada/pets@v2", "ada/pets/guide", "ada--x/pets", "../../run"])
def test_what_cannot_be_fetched_is_one_line(model: str, tmp_path: Path, monkeypatch: Patch, capsys: Printed) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"hf://{model.partition('@')[0]}: " in refusal(capsys, "sample", f"hf://{model}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'ncsn[hub]'" in refusal(capsys, "sample", f"hf://{model}")
