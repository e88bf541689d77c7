"""A run's folder: what is written comes back, and whatever is damaged, foreign or made to do harm ends in one line."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch.utils._pytree import tree_leaves

import ncsn
from ncsn import run as runs
from ncsn import storage
from ncsn.learn.settings import ImageJob, Images, ResolvedImages, recalled
from ncsn.machine import hardware
from ncsn.networks import MLP
from ncsn.run import CONFIG_VERSION, Recipe
from ncsn.samplers import Sampling
from ncsn.score import ScoreModel
from ncsn.storage import CHECKPOINT, MODEL, digest, read_tensors, sealed
from ncsn.training import State

RECIPE = Recipe(
    network="UNet",
    arguments={"image_channels": 1, "channels": (4, 8), "blocks": 1, "features": 4, "classes": 2},
    shape=(1, 8, 8),
    sampling=Sampling(sigma_max=5.0, sigma_min=0.01, sampler="dpmpp-sde", levels=4, steps=3, eps=5e-5),
    shares={"cats": 0.25, "dogs": 0.75},
)
RESOLVED = {"batch_size": 8, "channels": (4, 8), "sigma_max": 5.0, "sigma_min": 0.01, "log_sigma_mean": -0.4}
RESOLVED |= {"posterior_above": 5.0, "levels": 4, "langevin_steps": 3, "eps": 5e-5, "steps": 10}
SETTINGS = runs.plain(vars(Images()) | RESOLVED)


def make_run(folder: Path, seed: int = 0) -> ScoreModel:
    torch.manual_seed(seed)
    model = RECIPE.build(0.3, 0.5)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    folder.mkdir(exist_ok=True)
    runs.write_config(folder, "images", SETTINGS, RECIPE)
    runs.write_model(folder, model)
    return model


def a_state(seed: int = 0) -> State:
    torch.manual_seed(seed)
    state = State(ScoreModel(MLP(2, width=8, layers=1), 0.0, 3.0), generator=torch.Generator().manual_seed(seed))
    for _ in range(2 + seed):
        state.model(torch.ones(4, 2), 1.0).square().sum().backward()
        state.update(1.0)
    return state


def content_of(state: State) -> list[Any]:
    optimizers = [optimizer.state_dict() for optimizer in state.optimizers]
    weights = [state.model.state_dict(), state.average.state_dict()]
    leaves = tree_leaves([weights, optimizers, state.generator.get_state(), state.step, state.seconds])
    return [leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make_run(folder)
    make_run(folder / "guide", seed=1)
    a_state().save(folder / CHECKPOINT)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of a run with a guide and a checkpoint."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def refused(call: Callable[[], object], *, naming: str = "") -> str | None:
    """What a call is refused with, in one line that names the file; None if it succeeds.  Anything else passes on."""
    try:
        call()
    except ValueError as error:
        message = str(error)
        assert message.isprintable()
        assert naming in message
        return message
    return None


def resumed(folder: Path) -> Images:
    given = Images(job=ImageJob(out=folder, resume=True))
    return recalled(given, ResolvedImages, folder, runs.read_settings(folder, "images"))


def read_all_of(folder: Path) -> None:
    """What sampling and resuming read of a run's config.json."""
    runs.read_model(folder, runs.read_config(folder).recipe)
    resumed(folder)


def test_a_run_is_rebuilt_from_its_folder_alone(folder: Path, tmp_path: Path) -> None:
    x, label = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    run = ncsn.load(folder, device="cpu")
    assert (run.recipe, run.folder, run.experiment) == (RECIPE, folder, "images")
    assert isinstance(run.guide, ScoreModel)
    for seed, loaded in enumerate((run.model, run.guide)):
        loaded.autocast = None
        assert torch.equal(loaded(x, 0.7, label), make_run(tmp_path / "again", seed)(x, 0.7, label))
    assert replace(resumed(folder), job=ImageJob()) == ResolvedImages(**SETTINGS)
    assert runs.plain({"data": Path("there"), "job": 1}) == {"data": "there"}
    with pytest.raises(ValueError, match="is a run of images, not of toy"):
        runs.read_settings(folder, "toy")


def test_the_model_in_the_package_is_small_and_loads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = storage.find("mnist")
    assert sum(path.stat().st_size for path in place.rglob("*.safetensors")) <= 3_500_000
    assert {p.dtype for p in ncsn.load("mnist", device="cpu").model.parameters()} == {torch.float32}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert storage.find("mnist") == place
    folder.rename(tmp_path / "mnist")
    assert storage.find("mnist") == Path("mnist"), "a run of one's own goes first"


def test_a_run_of_the_version_that_is_written_samples_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/data/runs/v3 was trained on MNIST at 8 × 8 pixels for 20 steps, and has drawn expected.npz."""
    place = Path(__file__).parent / "data" / "runs" / f"v{CONFIG_VERSION}"
    monkeypatch.setattr(hardware, "fast_bfloat16", lambda _: False)
    run = ncsn.load(place, device="cpu")
    assert run.guide is not None
    with np.load(place / "expected.npz") as expected:
        # Other machines add in another order; what is seen is 1/256.
        assert torch.allclose(run.sample(4, seed=0), torch.from_numpy(expected["samples"]), atol=1e-3)


def test_what_is_overwritten_is_gone_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old checkpoint would be continued by the new run; config.json goes last, for a kill may come between."""
    users = {"samples_mine.png", "evaluation.txt", ".x.partial.half", "student"}
    for name in ("checkpoint.pt", "metrics.json", "metrics.jsonl", "evaluation.json", "samples_000300.png", *users):
        (folder / name).write_text("{}")
        (folder / "guide" / name).write_text("{}")
    removed: list[Path] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        removed.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    storage.claim(folder, overwrite=True).release()
    assert {path.name for path in folder.rglob("*") if path.is_file()} - {".lock"} == users
    assert removed[-1] == folder / "config.json"


def prepared(folder: Path, what: str) -> None:
    """Change a folder in which a run may not write then."""
    if what == "guide is a link":
        (folder / "guide").rename(folder.parent / "elsewhere")
        (folder / "guide").symlink_to(folder.parent / "elsewhere")
    if what == "guide is a file":
        shutil.rmtree(folder / "guide")
        (folder / "guide").write_text("")
    if "no checkpoint" in what:
        (folder / ("guide" if "guide" in what else ".") / CHECKPOINT).unlink()
    if "is a folder" in what:
        (folder / CHECKPOINT).unlink()
        (folder / CHECKPOINT).mkdir()
    if "is no run" in what:
        (folder / "config.json").unlink()
        kept = what.removeprefix("is no run, but has a ")
        for path in [path for path in folder.iterdir() if path.is_file()]:
            path.rename(folder / kept) if path.name == MODEL else path.unlink()


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({}, "holds another run"),
        ({"resume": True}, "run has weights, but no checkpoint"),
        ({"resume": True}, "guide has weights, but no checkpoint"),
        ({"overwrite": True}, "guide is a link"),
        ({"overwrite": True}, "guide is a file"),
        ({"overwrite": True}, "checkpoint.pt is a folder"),
        ({"resume": True}, "is no run, but has a checkpoint.pt"),
        ({}, "is no run, but has a evaluation.json"),
        ({}, "is no run, but has a mine.png"),
    ],
)
def test_a_run_and_what_is_no_run_are_not_replaced_unasked(folder: Path, how: dict[str, Any], what: str) -> None:
    shutil.copy(folder / CHECKPOINT, folder / "guide")
    storage.claim(folder, resume=True).release()
    prepared(folder, what)
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    message = refused(lambda: storage.claim(folder, pictures=("mine.png",), **how), naming=str(folder))
    assert what in (message or "")
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before


def test_one_process_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    """A kill lets go of it."""
    code = "import sys, time; from pathlib import Path; from ncsn import storage\n"
    hold = f"{code}lock = storage.claim(Path(sys.argv[1]), resume=True); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is writing"):
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


# What stands somewhere in a config.json instead of what belongs there; each in another place.
NONSENSE: list[Any] = [None, True, -1, 2.5, 1e300, 10**12, 10**399, float("nan"), "x" * 5000, "ü\n"]
NONSENSE += [[], [1e9] * 11_000, [[[]]], {}]


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths to something in nested dictionaries and lists."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for name, item in inside for place in places(item, (*path, name)))]


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of ``content`` with another value at a place, or with nothing there if it is KeyError."""
    content = inside = copy.deepcopy(content)
    for name in place[:-1]:
        inside = inside[name]
    if value is KeyError:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return content


def test_a_config_with_nonsense_anywhere_is_refused_or_means_it(folder: Path) -> None:
    path = folder / "config.json"
    content = path.read_bytes()
    for number, place in enumerate(places(json.loads(content))[1:]):
        for value in (None, KeyError, NONSENSE[number % len(NONSENSE)]):
            path.write_text(json.dumps(changed(json.loads(content), place, value)))
            message = refused(lambda: read_all_of(folder), naming=str(folder))
            assert message or place[0] != "recipe" or value is not None, place
        for spliced in (b"", b"[" * 9999, b"9" * 400, b"NaN", b'"', b"\x00", b"\\", b"\xff", b" " * 10**6):
            at = (number + 1) * len(content) // 60
            path.write_bytes(content[:at] + spliced + content[at + number % 4 :])
            refused(lambda: read_all_of(folder), naming=str(folder))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("version", 7, "version is 7; it should be 3"),
        ("experiment", KeyError, r"config\.json: experiment is missing"),
        ("settings", [], r"settings is \[\]; it should be"),
        ("settings.channels", 3, r"config\.json: settings: channels is 3; it should be a valid array"),
        ("settings.batch_size", -3, "batch_size is -3; it should be greater than or equal to 1"),
        ("settings.colour", 1, "colour is 1; Extra inputs"),
        ("recipe.arguments", True, r"recipe\.arguments is True; it should be"),
        ("recipe.arguments.channels", 3, r"channels is 3; it should be an instance of Sequence"),
        ("recipe.arguments.depth", 3, r"depth is 3; Extra inputs are not permitted"),
        ("recipe.arguments.blocks", 10**9, r"blocks is 1000000000.0; it should be a valid integer"),
        ("recipe.arguments.blocks", 10**5, "blocks is 100000; .*100"),
        ("recipe.arguments.channels", [2**20] * 2, r"UNet has [\d,]+ weights with these arguments"),
        ("recipe.network", "Sequential", "Sequential is no network of this package"),
        ("recipe.shape", [], r"recipe\.shape is \[\]"),
        ("recipe.shape", [1, 0, 8], r"recipe\.shape\.1 is 0"),
        ("recipe.preconditioning", "none", "recipe.preconditioning is 'none'; it should be 'karras', 'scaled'"),
        ("recipe.depth.dtype", "object", "depth is 'object' from 0.0 to 256.0"),
        ("recipe.shares.dogs", KeyError, "one for each of 2 classes is needed"),
        ("recipe.sampling.sampler", "foo", "sampler is foo; allowed are annealed"),
        ("recipe.sampling.sampler", "fast", "sampler is fast, .* but no run's own"),
        ("recipe.sampling.sigma_max", "10", r"recipe\.sampling\.sigma_max is '10'; it should be a valid num"),
    ],
)
def test_what_a_config_must_not_say_is_named(folder: Path, place: str, value: Any, message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), tuple(place.split(".")), value)))
    with pytest.raises(ValueError, match=message):
        read_all_of(folder)


def test_a_config_that_could_not_be_read_again_is_not_written_unnoticed(tmp_path: Path) -> None:
    recipe = replace(
        RECIPE, arguments=RECIPE.arguments | {"classes": 60_000}, shares={f"{i}": 1e-5 for i in range(60_000)}
    )
    with pytest.raises(ValueError, match=r"config\.json has more than 1,000,000 bytes"):
        runs.write_config(tmp_path, "images", SETTINGS, recipe)
    with pytest.raises(ValueError, match="is no run: it has no config"):
        runs.read_config(tmp_path / "none")
    assert storage.read_results(tmp_path) == {}
    (tmp_path / "metrics.json").write_text("[]")
    assert refused(lambda: storage.read_results(tmp_path), naming="metrics.json")


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("place", [0.0, 0.001, 0.01, 0.03, 0.2, 0.5, 0.8, 0.97])
def test_a_model_or_checkpoint_with_a_flipped_bit_or_a_cut_is_refused_or_the_same(
    folder: Path, place: float, cut: bool
) -> None:
    """And nothing of the state has changed then."""
    tensors = digest(read_tensors(folder / MODEL))
    for name in (MODEL, CHECKPOINT):
        content = bytearray((folder / name).read_bytes())
        at = int(place * len(content))
        content[at] ^= 1 << at % 8
        (folder / name).write_bytes(content[:at] if cut else content)
    if not refused(lambda: runs.read_model(folder, RECIPE), naming=MODEL):
        assert digest(read_tensors(folder / MODEL)) == tensors
    other = a_state(1)
    before = content_of(other)
    assert refused(lambda: other.load(folder / CHECKPOINT), naming=CHECKPOINT)
    assert content_of(other) == before


@pytest.mark.parametrize("network", [torch.load, torch.save])
def test_nothing_is_unpickled_that_is_more_than_weights(tmp_path: Path, network: Any) -> None:
    path = tmp_path / CHECKPOINT
    torch.save({"version": 1, "call": network}, path)
    assert "weights" in (refused(lambda: a_state().load(path), naming=CHECKPOINT) or "").lower()
    torch.save([1, 2], path)
    assert "it holds a list" in (refused(lambda: a_state().load(path)) or "")
    assert refused(lambda: a_state().load(tmp_path / "none.pt"), naming="none.pt")


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
def test_a_checkpoint_of_foreign_structure_is_refused(folder: Path, place: tuple[Any, ...], value: Any) -> None:
    path, other = folder / CHECKPOINT, a_state(1)
    content = torch.load(path, weights_only=True)
    storage.save_checkpoint(changed(content, place, value), path)
    assert refused(lambda: other.load(path), naming=CHECKPOINT)
    torch.save(content, path)  # without a digest, as torch writes it
    other.load(path)
    assert content_of(other) == content_of(a_state())


HEAD = "network.head.bias"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_std": torch.tensor(0.0)}, "data_std"),
        ({"data_std": None}, "data_std"),
        ({"data_mean": torch.zeros(3, 8, 8)}, "expand"),
        ({HEAD: torch.full((4,), float("inf"))}, "network.head.bias has numbers that are not finite"),
        ({HEAD: torch.zeros(5)}, r"network.head.bias is torch.float32 of shape \(5,\)"),
        ({HEAD: torch.zeros(4, dtype=torch.int32)}, "torch.int32"),
        ({"more": torch.zeros(5)}, "more is unexpected"),
        ({HEAD: None}, "network.head.bias is missing"),
        ({"units.shift": torch.zeros(1, 8, 8)}, "units.scale"),
        ({"units.shift": torch.zeros(7), "units.scale": torch.ones(7)}, "size"),
    ],
)
@pytest.mark.parametrize("by_us", [True, False])
def test_weights_that_make_no_sense_are_refused(
    folder: Path, changes: dict[str, torch.Tensor | None], message: str, by_us: bool
) -> None:
    path = folder / MODEL
    tensors = {name: tensor for name, tensor in (read_tensors(path) | changes).items() if tensor is not None}
    path.write_bytes(sealed(tensors) if by_us else save(tensors, metadata={"format": "pt"}))
    with pytest.raises(ValueError, match=rf"model\.safetensors is not the whole model .*{message}"):
        ncsn.load(folder)


@pytest.mark.parametrize("content", [None, b"", b"x" * 100, save({}, metadata={"sha256": "0" * 64})])
def test_weights_that_are_missing_or_damaged_are_named(folder: Path, content: bytes | None) -> None:
    (folder / MODEL).unlink() if content is None else (folder / MODEL).write_bytes(content)
    with pytest.raises(ValueError, match=r"has no model\.safetensors|model\.safetensors is damaged: "):
        ncsn.load(folder)


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
