"""A run's folder: what is written comes back, and whatever is damaged, foreign or made to do harm ends in one line."""

import copy
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import ncsn
from ncsn import storage
from ncsn.learn.settings import ImageJob, Images, ResolvedImages, recalled
from ncsn.model import ScoreModel
from ncsn.networks import MLP
from ncsn.recipe import Recipe
from ncsn.samplers import Sampling
from ncsn.storage import CHECKPOINT, MODEL, digest, read_tensors, sealed
from ncsn.training import State

RECIPE = Recipe(
    network="UNet",
    arguments={"image_channels": 1, "channels": (4, 8), "blocks": 1, "features": 4, "classes": 2},
    shape=(1, 8, 8),
    sampling=Sampling(sigma_max=5.0, sigma_min=0.01, sampler="dpmpp-sde", levels=4, steps=3, eps=5e-5),
    shares={"cats": 0.25, "dogs": 0.75},
)
SETTINGS = {
    name: value
    for name, value in {
        **vars(Images()),
        "batch_size": 8,
        "channels": (4, 8),
        "sigma_max": 5.0,
        "sigma_min": 0.01,
        "log_sigma_mean": -0.4,
        "posterior_above": 5.0,
        "levels": 4,
        "langevin_steps": 3,
        "eps": 5e-5,
        "steps": 10,
    }.items()
    if name != "job"
}


def make_run(folder: Path, seed: int = 0) -> ScoreModel:
    torch.manual_seed(seed)
    model = RECIPE.build(0.3, 0.5)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    folder.mkdir(exist_ok=True)
    storage.write_config(folder, "images", SETTINGS, RECIPE)
    storage.write_model(folder, model)
    return model


def a_state(seed: int = 0) -> State:
    torch.manual_seed(seed)
    state = State(ScoreModel(MLP(2, width=8, layers=1), 0.0, 3.0), generator=torch.Generator().manual_seed(seed))
    for _ in range(2 + seed):
        state.model(torch.ones(4, 2), 1.0).square().sum().backward()
        state.update(1.0)
    return state


def numbers(content: Any) -> Any:
    """Nested dictionaries and lists with lists in the place of tensors."""
    if isinstance(content, dict):
        return {name: numbers(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [numbers(value) for value in content]
    return content.tolist() if isinstance(content, torch.Tensor) else content


def content_of(state: State) -> Any:
    optimizers = [optimizer.state_dict() for optimizer in state.optimizers]
    weights = [state.model.state_dict(), state.average.state_dict()]
    return numbers([weights, optimizers, state.generator.get_state(), state.step, state.seconds])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint, of which tests make their copies."""
    folder = tmp_path_factory.mktemp("whole")
    make_run(folder)
    a_state().save(folder / CHECKPOINT)
    return folder


def refused(call: Callable[[], object], *, naming: str = "") -> str | None:
    """What a call is refused with, in one line that names the file; None if it succeeds.  Anything else passes on."""
    try:
        call()
    except ValueError as error:
        message = str(error)
        assert message
        assert message.isprintable()
        assert naming in message
        return message
    return None


def resumed(folder: Path) -> Images:
    given = Images(job=ImageJob(out=folder, resume=True))
    return recalled(given, ResolvedImages, folder, storage.read_settings(folder, "images"))


def read_all_of(folder: Path) -> None:
    """What sampling and resuming read of a run's config.json."""
    storage.read_model(folder, storage.read_config(folder).recipe)
    resumed(folder)


def test_a_run_is_rebuilt_from_its_folder_alone(tmp_path: Path) -> None:
    model = make_run(tmp_path)
    x, label = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    run = ncsn.load(tmp_path, device="cpu")
    assert (run.recipe, run.guide, run.folder, run.experiment) == (RECIPE, None, tmp_path, "images")
    run.model.autocast = None
    assert torch.equal(run.model(x, 0.7, label), model(x, 0.7, label))
    guide, guided = make_run(tmp_path / "guide", seed=1), ncsn.load(tmp_path, device="cpu").guide
    assert isinstance(guided, ScoreModel)
    guided.autocast = None
    assert torch.equal(guided(x, 0.7, label), guide(x, 0.7, label))
    assert not torch.equal(guided(x, 0.7, label), model(x, 0.7, label))
    assert replace(resumed(tmp_path), job=ImageJob()) == ResolvedImages(**SETTINGS)
    with pytest.raises(ValueError, match="is a run of images, not of toy"):
        storage.read_settings(tmp_path, "toy")


def test_the_model_in_the_package_is_small_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = storage.find("mnist")
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 3_500_000
    assert {p.dtype for p in ncsn.load("mnist", device="cpu").model.parameters()} == {torch.float32}
    assert "job" not in storage.read_config(folder).settings
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert storage.find("mnist") == folder
    make_run(tmp_path / "mnist")
    assert storage.find("mnist") == Path("mnist"), "a run of one's own goes first"


def test_the_job_is_not_kept(tmp_path: Path) -> None:
    kept = storage.plain({"width": 7, "data": Path("there"), "job": {"out": "there"}})
    assert kept == {"width": 7, "data": "there"}


@pytest.mark.parametrize("place", [".", "guide"])
def test_what_is_overwritten_is_gone_and_nothing_else(tmp_path: Path, place: str) -> None:
    """An old checkpoint would be continued by the new run; config.json goes last, for a kill may come between."""
    make_run(tmp_path)
    make_run(tmp_path / "guide")
    own = ("checkpoint.pt", "metrics.json", "metrics.jsonl", "evaluation.json", "samples_000300.png")
    users = ("samples_mine.png", "evaluation.txt", ".x.partial.half", "student")
    for name in (*own, *users):
        (tmp_path / place / name).write_text("{}")
    removed: list[Path] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        removed.append(path)
        unlink(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", noted)
        storage.claim(tmp_path, overwrite=True).release()
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {".lock"} == {".lock-holder", *users}
    assert [path for path in removed if not path.name.startswith(".lock")][-1] == tmp_path / "config.json"


def test_what_is_no_run_is_not_replaced_unasked(tmp_path: Path) -> None:
    for name in ("checkpoint.pt", "samples.png"):
        (tmp_path / name).write_text("somebody's")
        with pytest.raises(ValueError, match=f"is no run, but has a {name}"):
            storage.claim(tmp_path, pictures=("samples.png",))
        assert (tmp_path / name).read_text() == "somebody's"
        (tmp_path / name).unlink()
    (tmp_path / "evaluation.json").write_text("somebody's")
    storage.claim(tmp_path, overwrite=True).release()
    assert (tmp_path / "evaluation.json").read_text() == "somebody's"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "holds another run; give --overwrite"),
        ({"resume": True}, r"has weights, but no checkpoint\.pt to go on from"),
        ({"overwrite": True, "link": True}, "guide is a link"),
        ({"overwrite": True, "file": True}, "guide is a file"),
        ({"overwrite": True, "folder": True}, r"checkpoint\.pt is a folder; only regular files"),
    ],
)
def test_a_run_is_guarded(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    make_run(tmp_path / "run")
    guide, elsewhere = tmp_path / "run" / "guide", tmp_path / "elsewhere"
    make_run(elsewhere)
    if how.pop("link", False):
        guide.symlink_to(elsewhere)
    if how.pop("file", False):
        guide.write_text("")
    if how.pop("folder", False):
        (tmp_path / "run" / CHECKPOINT).mkdir()
    with pytest.raises(ValueError, match=message):
        storage.claim(tmp_path / "run", **how)
    assert (tmp_path / "run" / MODEL).exists()
    assert (elsewhere / MODEL).exists()
    if "resume" in how:
        (tmp_path / "run" / CHECKPOINT).touch()
        storage.claim(tmp_path / "run", resume=True).release()
        guide.mkdir()
        (guide / MODEL).touch()
        with pytest.raises(ValueError, match=message):
            storage.claim(tmp_path / "run", resume=True)


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


@pytest.mark.parametrize("line", ["", "[]", "null", "{}", '{"step": "4"}', '{"step"', "\x00", '{"step": 2, "bad": 1}'])
def test_rows_end_before_the_first_that_is_damaged_or_beyond_the_checkpoint(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(row: dict[str, Any]) -> dict[str, Any]:
        if "bad" in row:
            raise ValueError("bad")
        return row

    path = tmp_path / "metrics.jsonl"
    assert storage.trim_rows(path, 5, made) == []
    path.write_text(f'{{"step": 1}}\n{{"step": 9}}\n{{"step": 5}}\n{line}\n{{"step": 3}}\n')
    assert storage.trim_rows(path, 5, made) == [{"step": 1}, {"step": 5}]
    assert path.read_text() == '{"step": 1}\n{"step": 5}\n'
    assert "metrics.jsonl, line 4" in capsys.readouterr().err


NONSENSE: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2.5, -0.5, 1e-300, 1e300, 10**9, 10**12, 2**63, 10**399, float("nan")),
    *(float("inf"), "", "foo", "ü\n", "x" * 5000, "1", [], [1], [1, 2, 3], [True], ["a"], [1e9] * 11_000, [[[]]]),
    *({}, {"a": 1}, {"channels": 3}, {"sampler": "foo"}),
]
"""What stands somewhere in a config.json instead of what belongs there."""


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths to something in nested dictionaries and lists."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for name, item in inside for place in places(item, (*path, name)))]


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of ``content`` with another value at a place, or with nothing there if it is KeyError."""
    content = copy.deepcopy(content)
    inside = content
    for name in place[:-1]:
        inside = inside[name]
    if value is KeyError:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return content


def test_a_config_with_nonsense_anywhere_is_refused_or_means_it(tmp_path: Path) -> None:
    make_run(tmp_path)
    path, chance = tmp_path / "config.json", random.Random(0)
    whole = json.loads(path.read_text())
    for place in places(whole)[1:]:
        for value in (None, KeyError, chance.choice(NONSENSE)):
            path.write_text(json.dumps(changed(whole, place, value)))
            message = refused(lambda: read_all_of(tmp_path), naming=str(tmp_path))
            assert message or place[0] != "recipe" or value is not None, place


@settings(max_examples=60, derandomize=True)
@given(
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    spliced=st.sampled_from([b"", b"[" * 9999, b"9" * 400, b"NaN", b'"', b"{", b"1e999", b"\x00", b"\\", b" " * 10**6]),
    cut=st.integers(0, 60) | st.just(10**6),
)
def test_a_config_with_other_bytes_is_refused_or_read(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, spliced: bytes, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(whole / MODEL, folder)
    content = bytearray((whole / "config.json").read_bytes())
    at = int(place * len(content))
    content[at] ^= 1 << bit
    content[at : at + cut] = spliced
    (folder / "config.json").write_bytes(content)
    refused(lambda: read_all_of(folder), naming=str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "is no run"),
        ({"version": 7}, "version is 7; it should be 3"),
        ({"experiment": KeyError}, r"config\.json: experiment is missing"),
        ({"settings": []}, r"settings is \[\]; it should be an object"),
        ({"recipe": {"arguments": {"channels": 3}}}, r"channels is 3; it should be an instance of Sequence"),
        ({"recipe": {"arguments": True}}, r"recipe\.arguments is True; it should be an object"),
        ({"recipe": {"arguments": {"depth": 3}}}, r"depth is 3; Extra inputs are not permitted"),
        ({"recipe": {"arguments": {"blocks": 10**9}}}, r"blocks is 1000000000.0; it should be a valid integer"),
        ({"recipe": {"arguments": {"blocks": 10**5}}}, r"2 resolutions of 100000 blocks are given; at most 12 and 100"),
        ({"recipe": {"arguments": {"channels": [2**20] * 2}}}, r"UNet has [\d,]+ weights with these arguments"),
        ({"recipe": {"arguments": {"channels": [4] * 10_001}}}, r"channels is .*at most 10000 items"),
        ({"recipe": {"network": "Sequential"}}, "Sequential is no network of this package"),
        ({"recipe": {"shape": [1, 10**5, 10**5]}}, "at most 1,000,000,000 numbers"),
        ({"recipe": {"shape": []}}, r"recipe\.shape is \[\]"),
        ({"recipe": {"preconditioning": "none"}}, "recipe.preconditioning is 'none'; it should be 'karras', 'scaled'"),
        ({"recipe": {"depth": {"dtype": "object"}}}, "depth is 'object' from 0.0 to 256.0"),
        ({"recipe": {"shares": {"dogs": KeyError}}}, "one for each of 2 classes is needed"),
        ({"recipe": {"sampling": {"levels": 10**12}}}, "levels is 1,000,000,000,000; allowed are 1 to 10,000"),
        ({"recipe": {"sampling": {"sampler": "foo"}}}, "sampler is foo; allowed are annealed"),
        ({"recipe": {"sampling": {"sampler": "fast"}}}, "sampler is fast, .* but no run's own"),
        (
            {"recipe": {"sampling": {"sigma_max": "10"}}},
            r"recipe\.sampling\.sigma_max is '10'; it should be a valid num",
        ),
        ({"recipe": {"sampling": {"churn": 1}}}, r"recipe\.sampling\.churn is 1; Unexpected keyword argument"),
        ({"settings": {"channels": 3}}, r"config\.json: settings: channels is 3; it should be a valid array"),
        ({"settings": {"batch_size": -3}}, "batch_size is -3; it should be greater than or equal to 1"),
        ({"settings": {"colour": 1}}, "colour is 1; Unexpected keyword argument"),
        ({"settings": {"guidance": None}}, "guidance is None; it should be a valid number or"),
    ],
)
def test_what_a_config_must_not_say_is_named(tmp_path: Path, change: dict[str, Any] | None, message: str) -> None:
    make_run(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())

    def merged(old: Any, new: Any) -> Any:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return new
        return {
            name: merged(old.get(name), new.get(name, old.get(name)))
            for name in old | new
            if new.get(name) is not KeyError
        }

    path.write_text(json.dumps(merged(content, change)))
    if change is None:
        path.unlink()
    with pytest.raises(ValueError, match=message):
        read_all_of(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b" " * (10**6 + 1))
    with pytest.raises(ValueError, match=r"config\.json has more than 1,000,000 bytes"):
        storage.read_config(tmp_path)
    many = {"classes": 60_000, **{name: value for name, value in RECIPE.arguments.items() if name != "classes"}}
    recipe = replace(RECIPE, arguments=many, shares={str(i): 1 / 60_000 for i in range(60_000)})
    with pytest.raises(ValueError, match="would be too long to be read: 60000 classes"):
        storage.write_config(tmp_path, "images", SETTINGS, recipe)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"null", b"{", b"\xff", b"[" * 9999])
def test_results_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    assert storage.read_results(tmp_path) == {}
    (tmp_path / "metrics.json").write_bytes(content)
    assert refused(lambda: storage.read_results(tmp_path), naming="metrics.json")


def damaged(whole: bytes, place: float, bit: int, *, cut: bool) -> bytes:
    content = bytearray(whole)
    at = int(place * len(content))
    content[at] ^= 1 << bit
    return bytes(content[:at] if cut else content)


@settings(max_examples=100, derandomize=True)
@given(place=st.floats(0, 1, exclude_max=True) | st.floats(0, 0.1), bit=st.integers(0, 7), cut=st.booleans())
def test_a_model_or_checkpoint_with_a_flipped_bit_or_a_cut_is_refused_or_the_same(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, cut: bool
) -> None:
    """And nothing of the state has changed then."""
    folder = tmp_path_factory.mktemp("run")
    for name in (MODEL, CHECKPOINT):
        (folder / name).write_bytes(damaged((whole / name).read_bytes(), place, bit, cut=cut))
    if not refused(lambda: storage.read_model(folder, RECIPE), naming=MODEL):
        assert digest(read_tensors(folder / MODEL)) == digest(read_tensors(whole / MODEL))
    other = a_state(1)
    before = content_of(other)
    if refused(lambda: other.load(folder / CHECKPOINT), naming=CHECKPOINT):
        assert content_of(other) == before
    else:
        assert content_of(other) == content_of(a_state())
        assert place > 0.99, "nothing but the name of the digest at the end"


def test_weights_of_another_run_are_refused_and_those_of_a_kill_are_not(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    model = make_run(first)
    make_run(second, seed=1)
    ours = (first / MODEL).read_bytes()
    (first / MODEL).write_bytes((second / MODEL).read_bytes())
    with pytest.raises(ValueError, match=r"model\.safetensors has the weights of another run"):
        ncsn.load(first)
    # A kill after the new digest is noted, and before the file has its name.
    for seed in (2, 3):
        make_run(first, seed=seed)
    (first / MODEL).write_bytes(ours)
    with pytest.raises(ValueError, match="of another run"):
        ncsn.load(first)
    storage.write_model(first, model)
    old = (first / MODEL).read_bytes()
    make_run(first, seed=4)
    (first / MODEL).write_bytes(old)
    assert digest(ncsn.load(first, device="cpu").model.state_dict()) == digest(model.state_dict())
    (second / ".weights").unlink()
    (second / MODEL).write_bytes(ours)
    assert digest(ncsn.load(second, device="cpu").model.state_dict()) == digest(model.state_dict()), "nobody knows"


@pytest.mark.parametrize("network", [torch.load, torch.save])
def test_nothing_is_unpickled_that_is_more_than_weights(tmp_path: Path, network: Any) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 1, "call": network}, path)
    assert "weights" in (refused(lambda: a_state().load(path), naming="checkpoint.pt") or "").lower()


FOREIGN: list[tuple[tuple[Any, ...], Any]] = [
    *(((name,), KeyError) for name in ("version", "model", "average", "optimizers", "generator", "step", "seconds")),
    (("version",), 2),
    (("model",), {}),
    (("model", "network.output.bias"), torch.zeros(3)),
    (("average", "network.output.bias"), torch.tensor([float("nan"), 0.0])),
    (("optimizers",), []),
    (("generator",), torch.zeros(3, dtype=torch.uint8)),
    (("step",), None),
]


@pytest.mark.parametrize(("place", "value"), FOREIGN)
def test_a_checkpoint_of_foreign_structure_is_refused(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    path, state, other = tmp_path / "checkpoint.pt", a_state(), a_state(1)
    state.save(path)
    content = torch.load(path, weights_only=True)
    storage.save_checkpoint(changed(content, place, value), path)
    assert refused(lambda: other.load(path), naming="checkpoint.pt")
    torch.save(content, path)  # without a digest, as by the version before
    other.load(path)
    assert content_of(other) == content_of(state)


def test_a_checkpoint_that_inflates_or_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    a_state().save(path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for info in whole.infolist():
            small.writestr(info.filename, whole.read(info))
    assert "compressed" in (refused(lambda: a_state().load(tmp_path / "small.pt")) or "")
    torch.save([1, 2], path)
    assert "it holds a list" in (refused(lambda: a_state().load(path)) or "")
    shared: list[Any] = [1]
    for _ in range(60):  # 2⁶⁰ numbers for whoever walks through all of it
        shared = [shared, shared]
    torch.save({"version": 1, "model": shared}, path)
    assert refused(lambda: a_state().load(path))
    assert refused(lambda: a_state().load(tmp_path / "none.pt"), naming="none.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_std": torch.tensor(0.0)}, "data_std"),
        ({"data_std": torch.tensor(float("nan"))}, "data_std"),
        ({"data_std": None}, "data_std"),
        ({"data_mean": None}, "data_mean"),
        ({"data_mean": torch.zeros(3, 8, 8)}, "expand"),
        ({"network.head.bias": torch.full((4,), float("inf"))}, "network.head.bias has numbers that are not finite"),
        ({"network.head.bias": torch.zeros(5)}, r"network.head.bias is torch.float32 of shape \(5,\)"),
        ({"network.head.bias": torch.zeros(4, dtype=torch.int32)}, "torch.int32"),
        ({"more": torch.zeros(5)}, "more is unexpected"),
        ({"network.head.bias": None}, "network.head.bias is missing"),
        ({"units.shift": torch.zeros(1, 8, 8)}, "units.scale"),
        ({"units.shift": torch.zeros(7), "units.scale": torch.ones(7)}, "must match the size"),
    ],
)
@pytest.mark.parametrize("by_us", [True, False])
def test_weights_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str, by_us: bool
) -> None:
    make_run(tmp_path)
    (tmp_path / ".weights").unlink()
    path = tmp_path / MODEL
    tensors = {name: tensor for name, tensor in (read_tensors(path) | changes).items() if tensor is not None}
    path.write_bytes(sealed(tensors) if by_us else save(tensors, metadata={"format": "pt"}))
    with pytest.raises(ValueError, match=rf"model\.safetensors is not the whole model .*{message}"):
        ncsn.load(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"x" * 100, save({}, metadata={"sha256": "0" * 64})])
def test_weights_that_are_missing_or_damaged_are_named(tmp_path: Path, content: bytes | None) -> None:
    make_run(tmp_path)
    (tmp_path / MODEL).unlink() if content is None else (tmp_path / MODEL).write_bytes(content)
    with pytest.raises(ValueError, match=r"has no model\.safetensors|model\.safetensors is damaged: "):
        ncsn.load(tmp_path)


def test_a_digest_is_of_everything() -> None:
    content = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}
    others = [
        {**content, "a": torch.arange(4.0).view(2, 2)},
        {**content, "a": torch.arange(4.0).double()},
        {**content, "a": torch.arange(4.0).flip(0)},
        {"A": content["a"], "b": content["b"]},
        {"a": content["a"]},
    ]
    assert digest(content) == digest({"b": torch.ones(2, 2), "a": torch.arange(8.0)[:4]})
    assert len({digest(content), *map(digest, others)}) == 6
