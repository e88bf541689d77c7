"""Files that are damaged, or made to do harm: every one ends in what was written, or in a ValueError of one line."""

import copy
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ncsn
from ncsn import storage
from ncsn.data import load_images
from ncsn.evaluation import read_samples
from ncsn.files import parse_json
from ncsn.learn import images as experiment
from ncsn.learn.settings import ImageJob, Images, ResolvedImages, Toy
from ncsn.learn.toy import recalled
from ncsn.model import ScoreModel
from ncsn.networks import MLP
from ncsn.recipe import Recipe
from ncsn.samplers import Sampling
from ncsn.storage import digest, read_tensors, sealed
from ncsn.training import State
from ncsn.validation import validated

RECIPE = Recipe(
    network="UNet",
    arguments={"image_channels": 1, "channels": (4, 4), "blocks": 1, "features": 4},
    shape=(1, 8, 8),
    sampling=Sampling(sigma_max=5.0, sigma_min=0.01, sampler="dpmpp-sde", levels=4, steps=3, eps=5e-5),
)
SETTINGS = {
    name: value
    for name, value in {
        **vars(Images()),
        "batch_size": 8,
        "channels": (4, 4),
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


def refused(call: Callable[[], object], *, naming: str = "") -> str | None:
    """What a call is refused with, in one line that names the file; None if it succeeds.  Anything else passes on."""
    said = None
    try:
        call()
    except ValueError as error:
        said = str(error)
    assert said is None or (said and said.isprintable() and naming in said), said
    return said


def make_run(folder: Path) -> ScoreModel:
    torch.manual_seed(0)
    model = RECIPE.build(0.3, 0.5)
    storage.write_config(folder, "images", SETTINGS, RECIPE)
    storage.write_model(folder, model)
    return model


def resumed(folder: Path) -> Images:
    return experiment.recalled(Images(job=ImageJob(out=folder, resume=True)))


NONSENSE: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2.5, -0.5, 1e-300, 1e300, 10**9, 10**12, 2**63, 2**70, 10**399, float("nan")),
    *(float("inf"), "", "foo", "ü\n", "x" * 5000, "1", [], [1], [1, 2, 3], [True], ["a"], [1e9] * 11_000, [[[]]]),
    *({}, {"a": 1}, {"channels": 3}, {"sampler": "foo"}),
]
"""What stands somewhere in a config.json instead of what belongs there."""


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths to something in nested dictionaries and lists."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for name, item in inside for place in places(item, (*path, name)))]


def mutated(content: Any, place: tuple[Any, ...], value: Any, *, removed: bool) -> Any:
    """A copy of ``content`` with something else, or nothing, at a place."""
    if not place:
        return value
    content = copy.deepcopy(content)
    inside = content
    for name in place[:-1]:
        inside = inside[name]
    if removed:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return content


def read_all_of(folder: Path) -> None:
    """What sampling and resuming read of a run's config.json."""
    storage.read_model(folder, storage.read_config(folder).recipe)
    resumed(folder)


def test_a_config_with_nonsense_anywhere_is_refused_or_means_it(tmp_path: Path) -> None:
    """Something at every place: a wrong type, a missing name, a size that nothing could be built with."""
    make_run(tmp_path)
    path = tmp_path / "config.json"
    whole, chance, count = json.loads(path.read_text()), random.Random(0), 0
    for place in places(whole):
        for value in [None, "removed", *chance.sample(NONSENSE, 5)]:
            removed = value == "removed" and bool(place)
            path.write_text(json.dumps(mutated(whole, place, value, removed=removed)))
            said = refused(lambda: read_all_of(tmp_path), naming=str(tmp_path))
            count += 1
            if place[:1] == ("recipe",) and value is None:
                assert said is not None, place
    assert count > 400


def test_a_config_with_other_bytes_is_refused_or_read(tmp_path: Path) -> None:
    make_run(tmp_path)
    path, chance = tmp_path / "config.json", random.Random(0)
    whole = path.read_bytes()
    for _ in range(400):
        content = bytearray(whole)
        kind, at = chance.randrange(4), chance.randrange(len(whole))
        if kind == 0:
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            content[at:at] = chance.choice(
                [b"[" * 9999, b"9" * 400, b"NaN", b'"', b"{", b"1e999", b"-", b"\x00", b"\\"]
            )
        else:
            del content[at : at + chance.randrange(1, 60)]
        path.write_bytes(content)
        refused(lambda: read_all_of(tmp_path), naming=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arguments": {"channels": 3}}, r"recipe\.arguments: channels is 3; it should be an instance of Sequence"),
        ({"arguments": True}, r"recipe\.arguments is True; it should be an object"),
        ({"arguments": {"depth": 3}}, r"'depth' is given; allowed are image_channels, channels, blocks"),
        ({"arguments": {"blocks": 10**9}}, r"blocks is 1000000000; integers from 0 to 1,048,576 are needed"),
        ({"arguments": {"blocks": 10**5}}, r"2 resolutions of 100000 blocks are given; at most 12 and 100"),
        ({"arguments": {"channels": [2**20] * 2}}, r"UNet has [\d,]+ weights with these arguments; at most [\d,]+ fit"),
        ({"arguments": {"blocks": True}}, r"blocks is True; it should be a valid integer"),
        ({"network": "Sequential"}, "Sequential is no network of this package"),
        ({"shape": [1, 8, 10**6]}, r"shape is \(1, 8, 1000000\); sides from 1 to 9,999 are needed"),
        ({"shape": []}, r"shape is \(\); sides from 1"),
        ({"preconditioning": "none"}, "recipe.preconditioning is 'none'; it should be 'karras', 'scaled' or 'plain'"),
        ({"depth": {"dtype": "object"}}, "depth is 'object' from 0.0 to 256.0"),
        ({"sampling": {"levels": 10**12}}, "levels is 1,000,000,000,000; allowed are 1 to 10,000"),
        ({"sampling": {"levels": [5.0, 6.0]}}, "noise levels are 5, 6; numbers from 1e-18 to 1e18 are needed, desc"),
        ({"sampling": {"levels": []}}, "levels is 0"),
        ({"sampling": {"sampler": "foo"}}, "sampler is foo; allowed are annealed"),
        ({"sampling": {"sampler": "foo", "levels": [2.0, 1.0]}}, "sampler is foo; allowed are annealed"),
        ({"sampling": {"guidance": None}}, r"recipe\.sampling\.guidance is None; it should be a valid number"),
        ({"sampling": {"sigma_max": "10"}}, r"recipe\.sampling\.sigma_max is '10'; it should be a valid number"),
        ({"sampling": {"sigma_max": 1e300}}, "noise levels are 1e[+]300, 0.01; numbers from 1e-18 to 1e18"),
        ({"sampling": {"guided_between": [2.0, 1.0]}}, r"guided_between is \(2.0, 1.0\); two numbers are needed"),
        ({"sampling": {"churn": 1}}, r"recipe\.sampling\.churn is no field of it"),
    ],
)
def test_a_recipe_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    make_run(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for name, value in change.items():
        nested = isinstance(value, dict) and isinstance(content["recipe"][name], dict)
        content["recipe"][name] = content["recipe"][name] | value if nested else value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        ncsn.load(tmp_path)


def test_settings_are_validated_where_a_run_is_resumed(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert replace(resumed(tmp_path), job=ImageJob()) == ResolvedImages(**SETTINGS)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for change, message in [
        ({"channels": 3}, r"config\.json: settings: channels is 3; it should be a valid array"),
        ({"batch_size": -3}, "batch_size is -3; it should be greater than or equal to 1"),
        ({"colour": 1}, "colour is no field of it"),
        ({"sampler": "foo"}, "sampler is 'foo'; it should be 'annealed'"),
        ({"guidance": None}, "guidance is None; it should be a valid number or"),
    ]:
        path.write_text(json.dumps(content | {"settings": content["settings"] | change}))
        with pytest.raises(ValueError, match=message):
            resumed(tmp_path)
    path.write_text(json.dumps(content | {"settings": []}))
    with pytest.raises(ValueError, match=r"settings is .*; it should be an object"):
        ncsn.load(tmp_path)
    path.write_text(json.dumps(content | {"experiment": "toy"}))
    with pytest.raises(ValueError, match=r"config\.json: settings: view is "):
        recalled(Toy(job=replace(Toy().job, out=tmp_path, resume=True)))


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NaN is no finite number"):
        storage.write_config(tmp_path, "fit", {"rate": float("nan")}, RECIPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "cannot be read"),
        (b"[" * 30 + b"]" * 30, "nested more than 20 deep"),
        (b"[NaN]", "NaN is no finite number"),
        (b"-Infinity", "Infinity is no finite number"),
        (b"1e999", "1e999 is no finite number"),
        (b"9" * 5000, "is beyond 64 bits"),
        (b"0." + b"1" * 400, "is no finite number of at most 40 characters"),
        (b'{"a": 1, "a": 2}', "a name is given twice"),
        (b"\xff\xfe1", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_json_is_bounded(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^file .*{message}"):
        parse_json(text, "file")


def test_large_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b" " * (10**6 + 1))
    with pytest.raises(ValueError, match=r"config\.json has more than 1,000,000 bytes"):
        storage.read_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"null", b"{", b'{"a": NaN}', b"\xff", b"[" * 9999])
def test_results_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    assert refused(lambda: storage.read_results(tmp_path), naming="metrics.json")


@pytest.mark.parametrize("line", ["", "[]", "null", "{}", '{"step": "4"}', '{"step": true}', '{"step": NaN}', "\x00"])
def test_rows_end_before_the_first_that_is_damaged(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    assert storage.trim_rows(path, 5, dict) == [{"step": 1}]
    assert path.read_text() == '{"step": 1}\n'
    assert "metrics.jsonl, line 2" in capsys.readouterr().err


def flipped(whole: bytes, bit: int) -> bytes:
    content = bytearray(whole)
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


def same(a: ScoreModel, b: ScoreModel) -> bool:
    return digest(dict(a.state_dict())) == digest(dict(b.state_dict()))


def test_a_bit_that_flips_in_a_model_is_seen(tmp_path: Path) -> None:
    """Where it is loaded all the same, it is with the same weights: the bit was none of the content."""
    model = make_run(tmp_path)
    path, chance = tmp_path / "model.safetensors", random.Random(0)
    whole, refusals = path.read_bytes(), 0
    for _ in range(200):
        path.write_bytes(flipped(whole, chance.randrange(8 * len(whole))))
        if refused(lambda: storage.read_model(tmp_path, RECIPE), naming="model.safetensors"):
            refusals += 1
        else:
            assert same(storage.read_model(tmp_path, RECIPE)[0], model)
    assert refusals > 195
    # In the header, which is small.
    for bit in chance.sample(range(8 * 500), 300):
        path.write_bytes(flipped(whole, bit))
        if not refused(lambda: storage.read_model(tmp_path, RECIPE), naming="model.safetensors"):
            assert same(storage.read_model(tmp_path, RECIPE)[0], model)


def a_state(seed: int = 0) -> State:
    torch.manual_seed(seed)
    state = State(ScoreModel(MLP(2, width=8, layers=1), 0.0, 3.0), generator=torch.Generator().manual_seed(seed))
    for _ in range(2):
        state.model(torch.ones(4, 2), 1.0).square().sum().backward()
        state.update(1.0)
    return state


def content_of(state: State) -> str:
    optimizers = [optimizer.state_dict() for optimizer in state.optimizers]
    parts = [dict(state.model.state_dict()), dict(state.average.state_dict()), optimizers, state.generator.get_state()]
    return digest([*parts, state.step, state.seconds])


def test_a_bit_that_flips_in_a_checkpoint_is_seen_and_changes_nothing(tmp_path: Path) -> None:
    state, path = a_state(), tmp_path / "checkpoint.pt"
    state.save(path)
    whole, chance, refusals = path.read_bytes(), random.Random(0), 0
    saved, fresh = content_of(state), content_of(a_state(1))
    for _ in range(200):
        path.write_bytes(flipped(whole, chance.randrange(8 * len(whole))))
        other = a_state(1)
        said = refused(lambda other=other: other.load(path), naming="checkpoint.pt")  # type: ignore[misc]
        assert content_of(other) == (fresh if said else saved)
        refusals += said is not None
    assert refusals > 100  # the rest is padding


def change(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    inside: Any = content
    for name in place[:-1]:
        inside = inside[name]
    if value is KeyError:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return content


NO_WEIGHTS: list[Any] = [None, [], {}, {"a": torch.ones(1)}, {1: 2}]
NO_OPTIMIZERS: list[Any] = [None, {}, [], [{}], [{}, {}], [1, 2]]
SENSELESS: list[tuple[tuple[Any, ...], Any]] = [
    *(((name,), KeyError) for name in ("model", "average", "optimizers", "generator", "step", "seconds")),
    *(((name,), value) for name in ("model", "average") for value in NO_WEIGHTS),
    *((("optimizers",), value) for value in NO_OPTIMIZERS),
    *((("generator",), value) for value in (None, torch.zeros(3, dtype=torch.uint8), torch.ones(5056), "x")),
    *((("step",), value) for value in (None, -1, 1.5, "3", True, torch.tensor(3))),
    *((("seconds",), value) for value in (None, -1.0, float("nan"), float("inf"), "3", True)),
    *((("model", "data_std"), torch.tensor(value)) for value in (0.0, -1.0, float("nan"), float("inf"))),
    (("average", "network.output.bias"), torch.tensor([float("nan"), 0.0])),
    (("model", "network.output.bias"), torch.zeros(3)),
    (("model", "network.output.bias"), torch.zeros(2, dtype=torch.int64)),
    (("optimizers", 0, "state"), []),
    (("optimizers", 0, "state", 0), {}),
    (("optimizers", 0, "state", 0, "momentum"), torch.zeros(3)),
    (("optimizers", 0, "state", 99), {}),
    (("optimizers", 1, "state", 0, "exp_avg"), KeyError),
    (("optimizers", 1, "state", 0, "exp_avg"), "x"),
    (("optimizers", 1, "state", 0, "step"), 10**30),
    (("optimizers", 1, "state", 0, "exp_avg_sq"), torch.tensor(float("nan"))),
    (("optimizers", 1, "param_groups"), []),
    (("optimizers", 1, "param_groups", 0, "betas"), 3),
    (("optimizers", 1, "param_groups", 0, "betas"), ("a", "b")),
    (("optimizers", 1, "param_groups", 0, "lr"), float("nan")),
    (("optimizers", 1, "param_groups", 0, "lr"), KeyError),
    (("optimizers", 1, "param_groups", 0, "peak"), "high"),
    (("optimizers", 1, "param_groups", 0, "params"), [0]),
    (("optimizers", 1, "param_groups", 0, "new"), 1),
    (("more",), 1),
    (("version",), 2),
    (("version",), "1"),
    (("version",), KeyError),
]


@pytest.mark.parametrize("number", range(len(SENSELESS)))
def test_a_checkpoint_that_makes_no_sense_is_refused(tmp_path: Path, number: int) -> None:
    """Without a digest, as the version before wrote it: what is there must speak for itself."""
    a_state().save(tmp_path / "checkpoint.pt")
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del content["sha256"]
    torch.save(content, tmp_path / "checkpoint.pt")
    other = a_state(1)
    other.load(tmp_path / "checkpoint.pt")
    assert content_of(other) == content_of(a_state())
    torch.save(change(content, *SENSELESS[number]), tmp_path / "checkpoint.pt")
    other = a_state(1)
    before = content_of(other)
    assert refused(lambda: other.load(tmp_path / "checkpoint.pt"), naming="checkpoint.pt")
    assert content_of(other) == before


def test_a_checkpoint_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 1, "model": {"a": torch.zeros(1).expand(10**10)}}, path)
    assert "bytes" in (refused(lambda: a_state().load(path)) or "")
    a_state().save(path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for info in whole.infolist():
            small.writestr(info.filename, whole.read(info))
    assert "compressed" in (refused(lambda: a_state().load(tmp_path / "small.pt")) or "")
    torch.save([1, 2], path)
    assert "it holds a list" in (refused(lambda: a_state().load(path)) or "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_std": torch.tensor(0.0)}, "data_std positive"),
        ({"data_std": torch.tensor(float("nan"))}, "data_std has numbers that are not finite"),
        ({"data_std": None}, "missing are data_std"),
        ({"data_mean": None}, "missing are data_mean"),
        ({"data_mean": torch.zeros(3, 8, 8)}, "data_mean must be like an example"),
        ({"network.head.bias": torch.full((4,), float("inf"))}, "network.head.bias has numbers that are not finite"),
        ({"network.head.bias": torch.zeros(5)}, r"network.head.bias has shape \(5,\)"),
        ({"network.head.bias": torch.zeros(4, dtype=torch.int32)}, "torch.int32"),
        ({"more": torch.zeros(5)}, "unexpected are more"),
        ({"units.shift": torch.zeros(1, 8, 8)}, "units.shift and units.scale"),
        ({"units.shift": torch.zeros(8), "units.scale": torch.zeros(8)}, "the scale positive"),
    ],
)
@pytest.mark.parametrize("by_us", [True, False])
def test_weights_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str, by_us: bool
) -> None:
    from safetensors.torch import save

    make_run(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor for name, tensor in (read_tensors(path) | changes).items() if tensor is not None}
    path.write_bytes(sealed(tensors) if by_us else save(tensors))
    with pytest.raises(ValueError, match=rf"model\.safetensors is not the whole model .*{message}"):
        ncsn.load(tmp_path)


def test_weights_without_a_digest_are_still_read(tmp_path: Path) -> None:
    from safetensors.torch import save

    model = make_run(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = read_tensors(path)
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(save(tensors, metadata=metadata))
        assert same(storage.read_model(tmp_path, RECIPE)[0], model)
    path.write_bytes(save(tensors, metadata={"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: its tensors have not the digest"):
        storage.read_model(tmp_path, RECIPE)


def test_a_digest_is_of_everything_and_of_nothing_else() -> None:
    content = {"a": torch.arange(4.0), "b": [1, 2.5, None, True, "x"]}
    assert digest(content) == digest({"b": (1, 2.5, None, True, "x"), "a": torch.arange(8.0)[:4]})
    others: list[object] = [
        {**content, "a": torch.arange(4.0).view(2, 2)},
        {**content, "a": torch.arange(4.0).double()},
        {**content, "b": [1, 2.5, None, 1, "x"]},
        {**content, "b": [1, 2.5, None, True, "x", "y"]},
        {"A": content["a"], "b": content["b"]},
    ]
    assert len({digest(content), *map(digest, others)}) == 6
    with pytest.raises(ValueError, match="it holds a set"):
        digest({"a": {1}})


PIXELS = np.arange(120 * 4 * 4, dtype=np.uint8).reshape(120, 4, 4)


def an_npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def an_npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str, version: int = 1) -> bytes:
    """An .npy that says anything of itself."""
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode()


def npz_with(member: bytes, name: str = "samples.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, member)
    return buffer.getvalue()


HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 4)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-120, 4, 4)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 400 + ", 4, 4)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (120, 4, 0)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': 120}",
    "{'descr': '|u1', 'fortran_order': 3, 'shape': (120, 4, 4)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': 'nonsense', 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': '|S0', 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': '|V7', 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (120,)}",
    "{'descr': '|u1'}",
    "[" * 900,
    "(" * 9000,
    " " * 60_000,
    "import os",
    "",
]


def cases() -> dict[str, bytes]:
    """Files by the name .npz or .npy that are none, or not as they say."""
    data = PIXELS.tobytes()
    whole = an_npz(samples=PIXELS)
    npy = {f"header{i}.npy": header(text) + data for i, text in enumerate(HEADERS)}
    found = npy | {name.replace("npy", "npz"): npz_with(content) for name, content in npy.items()}
    found |= {"version9.npy": header(HEADERS[0], 9), "version2.npy": header(HEADERS[0], 2)}
    found |= {f"empty.{kind}": b"" for kind in ("npy", "npz")}
    found |= {"npy.npz": an_npy(PIXELS), "npz.npy": whole, "cut.npz": whole[:-30], "half.npy": an_npy(PIXELS)[:900]}
    found |= {"longer.npy": an_npy(PIXELS) + b"x"}
    found |= {"line.npz": npz_with(an_npy(PIXELS), "a\nb.npy"), "none.npz": npz_with(b"", "readme.txt")}
    found |= {"many.npz": an_npz(**{f"a{i}": np.zeros(1) for i in range(1100)})}
    found |= {f"labels{i}.npz": an_npz(x=PIXELS, y=array) for i, array in enumerate(odd_labels())}
    return found


def odd_labels() -> list[Any]:
    n = len(PIXELS)
    return [
        np.full(n, np.inf),
        np.full(n, np.nan),
        np.full(n, 1j),
        np.zeros(n, "M8[s]"),
        np.zeros(n, "V3"),
        np.zeros(n, "U0"),
        np.zeros(n, object),
    ]


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_arrays_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CASES[name])
    said = refused(lambda: load_images(str(path)), naming=name)
    assert said or name.startswith("labels")
    if name.endswith(".npz"):
        assert refused(lambda: read_samples(path), naming=name) or name.startswith("labels")


def test_what_inflates_to_much_is_refused_before_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of some kilobytes: one that tells the truth, and one that lies."""
    tracemalloc = pytest.importorskip("tracemalloc")
    monkeypatch.setattr(ncsn.machine, "memory", lambda: 2**28)
    shape = "{'descr': '|u1', 'fortran_order': False, 'shape': (10000, 100, 100)}\n"
    bomb, lie = tmp_path / "bomb.npz", tmp_path / "lie.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("samples.npy", "w") as member:
        member.write(header(shape))
        member.write(bytes(10**8))
    whole = npz_with(header(shape) + bytes(1000))
    size = struct.pack("<I", len(header(shape)) + 1000)
    assert whole.count(size) == 2
    lie.write_bytes(whole.replace(size, struct.pack("<I", len(header(shape)) + 10**8)))
    tracemalloc.start()
    assert "bytes; at most 67,108,864 fit here" in (refused(lambda: read_samples(bomb), naming="bomb.npz") or "")
    assert "cannot hold" in (refused(lambda: read_samples(lie), naming="lie.npz") or "")
    assert "cannot hold" in (refused(lambda: load_images(str(lie)), naming="lie.npz") or "")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


WHOLE = {
    "x.npz": an_npz(samples=PIXELS),
    "y.npz": an_npz(x=PIXELS, y=np.arange(120) % 3),
    "x.npy": an_npy(PIXELS),
}


@settings(max_examples=200, derandomize=True)
@given(
    name=st.sampled_from(sorted(WHOLE)),
    flips=st.lists(st.floats(0, 1, exclude_max=True), max_size=4),
    cut=st.none() | st.floats(0, 1),
    spliced=st.none() | st.tuples(st.floats(0, 1), st.binary(max_size=40)),
)
def test_arrays_with_other_bytes_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    flips: list[float],
    cut: float | None,
    spliced: tuple[float, bytes] | None,
) -> None:
    content = bytearray(WHOLE[name])
    for place in flips:
        bit = int(place * 8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    if spliced is not None:
        at = int(spliced[0] * len(content))
        content[at : at + len(spliced[1])] = spliced[1]
    if cut is not None:
        del content[int(cut * len(content)) :]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    refused(lambda: load_images(str(path)), naming=name)
    if name.endswith(".npz"):
        refused(lambda: read_samples(path), naming=name)


def test_a_bit_that_flips_in_samples_is_seen(tmp_path: Path) -> None:
    path, chance = tmp_path / "x.npz", random.Random(0)
    for _ in range(200):
        path.write_bytes(flipped(WHOLE["x.npz"], chance.randrange(8 * len(WHOLE["x.npz"]))))
        if refused(lambda: read_samples(path), naming="x.npz") is None:
            assert np.array_equal(read_samples(path)[0][:, 0].numpy(), PIXELS)


def test_dataclasses_are_validated_strictly() -> None:
    assert validated(ResolvedImages, SETTINGS, "here") == ResolvedImages(**SETTINGS)
    for name, value in {"batch_size": 8.0, "levels": "4", "flip": 1, "minutes": True, "channels": (4, "4")}.items():
        with pytest.raises(ValueError, match=rf"^here: {name}[.\d]* is .*it should be"):
            validated(ResolvedImages, SETTINGS | {name: value}, "here")
