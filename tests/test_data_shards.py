"""Data in shards: every image is found, each step sees what it would on any number of processes, nothing grows."""

import io
import json
import sys
import tarfile
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import PROGRAM, done, same
from webdataset import TarWriter

from ncsn.data import Images, Reading, ahead, load_images, shards
from ncsn.data.ahead import batches_ahead, seen
from ncsn.data.options import short_name
from ncsn.data.origin import Origin
from ncsn.data.shards import index_of
from ncsn.evaluation.features import PIXELS
from ncsn.evaluation.report import Ruler
from ncsn.learn.images import resolve
from ncsn.learn.settings import Images as Settings
from ncsn.objectives import Batch
from ncsn.rng import Draws

EACH = 12  # images in a shard
TRAIN = (
    "train {data} --steps 24 --channels 8 --blocks 1 --batch-size 16 --levels 3 --samples 2 --guidance 1 --no-compile "
    "--device cpu --flip --out {out}"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache, where nothing is yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(value: int, mode: str = "L") -> bytes:
    """An image that is known again by its value; its last pixel is 255, so that no image is one colour alone."""
    pixels = np.full((8, 8), value, np.uint8)
    pixels[-1, -1] = 255
    packed = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(packed, "PNG")
    return packed.getvalue()


def sample(value: int) -> dict[str, object]:
    return {"__key__": f"{value:04}", "png": png(value), "cls": value % 3, "txt": f"this is {value}"}


def written(path: Path, samples: list[dict[str, object]]) -> Path:
    """A shard by the library's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path)) as writer:
        for one in samples:
            writer.write(one)
    return path


def made(folder: Path, shards: int = 6) -> str:
    """Shards of ``EACH`` images with three classes, and the pattern of their names."""
    for k in range(shards):
        written(folder / f"x-{k:03}.tar", [sample(EACH * k + i) for i in range(EACH)])
    return str(folder / f"x-{{000..{shards - 1:03}}}.tar")


def values(x: torch.Tensor) -> list[int]:
    """The images' values, bytes or dequantised; of mirrored ones, too."""
    return [int(v) for v in (x[:, 0, 0, 0] * (1 if x.dtype == torch.uint8 else 256)).floor()]


def test_the_last_shards_are_held_out_and_all_is_said(tmp_path: Path) -> None:
    images = load_images(made(tmp_path))
    assert images.shards is not None
    assert sorted(values(images.train)) == list(range(4 * EACH))
    assert sorted(values(images.validation)) == list(range(4 * EACH, 5 * EACH))
    assert sorted(values(images.test)) == list(range(5 * EACH, 6 * EACH))
    assert images.labels is not None
    assert images.labels.names == ("0", "1", "2")
    assert images.labels.train.tolist() == [value % 3 for value in values(images.train)]
    assert images.labels.counts.tolist() == [16, 16, 16]
    assert images.describe() == (
        "72 images, 8 × 8, grey, in 4 shards, x-005.tar for test, x-004.tar for validation, 3 classes; "
        "48 / 12 / 12 for training, validation, test"
    )
    assert images.said[0] == (
        "in 4 shards: of 48 training images 48 are looked at for rules and comparisons, the others as training goes on"
    )


def test_what_is_looked_at_is_bounded_and_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncsn.data.sharded.LOOKED_AT", 10)
    images = load_images(made(tmp_path))
    assert len(images.train) == len(images.validation) == len(images.test) == 10
    assert {value // EACH for value in values(images.train)} == {0, 1, 2, 3}
    assert images.n == 48
    assert images.labels is not None
    assert images.labels.counts.tolist() == [16, 16, 16]
    ruler = Ruler(images, PIXELS, 10)
    assert ruler.notes == ("of 48 training images, in shards, 10 are looked at: they are the training set",)


def test_a_folder_of_shards_and_its_parts_are_what_a_pattern_is(tmp_path: Path) -> None:
    by_name = load_images(made(tmp_path / "flat"))
    flat = load_images(str(tmp_path / "flat"))
    assert flat.digest == by_name.digest
    for k, part in enumerate(["train", "train", "train", "train", "val", "test"]):
        (tmp_path / "parts" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / "flat" / f"x-{k:03}.tar").rename(tmp_path / "parts" / part / f"x-{k:03}.tar")
    parts = load_images(str(tmp_path / "parts"))
    assert parts.digest == by_name.digest
    assert len(parts.said) == 1
    for k, name in enumerate(["train-0", "train-1", "train-2", "train-3", "val-0", "test-0"]):
        written(tmp_path / "train" / f"{name}.tar", [sample(EACH * k + i) for i in range(EACH)])
    named = load_images(str(tmp_path / "train"))
    assert sorted(values(named.test)) == sorted(values(by_name.test)), "a word of the name says more than the folder's"
    braces = f"{tmp_path}/parts/{{train/x-{{000..003}},val/x-004,test/x-005}}.tar"
    assert load_images(braces).digest == by_name.digest


def test_a_folder_of_images_with_a_tar_beside_them_is_one_of_images(tmp_path: Path) -> None:
    made(tmp_path, 1)
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(png(100 + i))
    images = load_images(str(tmp_path))
    assert images.shards is None
    assert min(values(images.train)) >= 100


@pytest.mark.parametrize(
    ("name", "short"),
    [("a/pets-{000..127}.tar", "pets"), ("a/{train,val}-{0..9}.tar", "a"), ("a.b/c_{train/x-{0..3},val/x-4}.tar", "c")],
)
def test_shards_are_called_by_what_their_names_begin_with(name: str, short: str) -> None:
    assert short_name(name) == short


def test_labels_are_in_json_too_and_must_be_whole(tmp_path: Path) -> None:
    for k in range(3):
        numbers = range(EACH * k, EACH * k + EACH)
        texts = [json.dumps({"label": ("cat", "dog")[i % 2], "score": 0.5}) for i in numbers]
        written(
            tmp_path / f"x-{k}.tar",
            [{"__key__": f"{i}", "json": text.encode(), "jpg": png(i)} for i, text in zip(numbers, texts, strict=True)],
        )
    images = load_images(f"{tmp_path}/x-{{0..2}}.tar")
    assert images.labels is not None
    assert images.labels.names == ("cat", "dog")
    assert images.labels.train.tolist() == [value % 2 for value in values(images.train)]
    written(tmp_path / "x-3.tar", [{"__key__": f"{i}", "png": png(i)} for i in range(EACH)])
    written(tmp_path / "x-4.tar", [{"__key__": f"{i}", "txt": "no image", "cls": 1} for i in range(EACH)])
    images = load_images(f"{tmp_path}/x-{{0,3,4,1,2}}.tar")
    assert images.labels is None
    assert "samples left out: 12 have no image" in images.said
    assert "labels left out: 12 of 48 images have none" in images.said


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(lambda counts: sum(counts) >= 4),
    size=st.integers(1, 4),
    seed=st.integers(0, 2**64),
)
def test_an_epoch_has_every_image_once_and_a_place_reads_on(counts: list[int], size: int, seed: int) -> None:
    every, length = np.array(counts), sum(counts) // size
    found = [seen(every, size, seed, step, range(size)) for step in range(length)]
    pairs = [(int(a), int(b)) for which, where in found for a, b in zip(which, where, strict=True)]
    assert len(set(pairs)) == len(pairs) == length * size
    assert all(b < counts[a] for a, b in pairs)
    for place in range(size):
        mine = [(which[place], where[place]) for which, where in found]
        assert all(b == (a[0], a[1] + 1) or b[1] == 0 for a, b in pairwise(mine))


def test_a_batch_that_is_larger_than_the_data_has_all_of_it_again() -> None:
    which, where = seen(np.array([3, 2]), 8, 0, 7, range(8))
    pairs = list(zip(which.tolist(), where.tolist(), strict=True))
    assert set(pairs) == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}
    assert pairs[5:] == pairs[:3]


def test_every_epoch_and_seed_has_its_own_order() -> None:
    counts = np.full(20, 5)
    orders = [tuple(seen(counts, 20, seed, step, range(20))[0]) for seed in (0, 1) for step in (0, 5, 10)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(20)) for order in orders)


def shared(images: Images, steps: range, processes: int, turns: int) -> list[Batch]:
    """What several processes have of a few batches, put together."""
    assert images.shards is not None
    parts: dict[int, list[Batch]] = {step: [] for step in steps}
    for rank in range(processes):
        draws = Draws(7, 16, rank=rank, processes=processes, turns=turns)
        batches = batches_ahead(images.shards, draws, labels=True, flip=True)
        for step in steps:
            parts[step] += [next(batches) for _ in draws.each_turn(step)]
    return [
        Batch(torch.cat([one.x for one in part]), torch.cat([one.label for one in part if one.label is not None]))
        for part in parts.values()
    ]


def same_batches(ones: list[Batch], others: list[Batch]) -> bool:
    return all(
        torch.equal(one.x, other.x) and one.label is not None and other.label is not None
        and torch.equal(one.label, other.label)
        for one, other in zip(ones, others, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize(("processes", "turns"), [(2, 1), (1, 3), (3, 2)])
def test_any_number_of_processes_and_turns_see_the_same(tmp_path: Path, processes: int, turns: int) -> None:
    images = load_images(made(tmp_path))
    one = shared(images, range(7), 1, 1)
    assert same_batches(shared(images, range(7), processes, turns), one)
    assert all(label == value % 3 for batch in one for label, value in zip(batch.label, values(batch.x), strict=True))  # type: ignore[arg-type]
    assert sorted(value for batch in one[:3] for value in values(batch.x)) == list(range(48)), "an epoch"


def test_what_goes_on_sees_what_it_would_have_seen(tmp_path: Path) -> None:
    images = load_images(made(tmp_path))
    whole = shared(images, range(40), 1, 1)
    for step in (1, 15, 16, 33):
        assert same_batches(shared(images, range(step, 40), 1, 1), whole[step:])


def test_blocks_of_any_length_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images(made(tmp_path))
    whole = shared(images, range(9), 1, 1)
    monkeypatch.setattr(ahead, "BLOCK", 0)
    monkeypatch.setattr(ahead, "GAP", 0)
    assert same_batches(shared(images, range(9), 1, 1), whole)


def test_memory_does_not_grow_with_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """48 MB of images, of which two blocks of two steps of eight are there at a time: 1.6 MB, and what is read."""
    monkeypatch.setattr(ahead, "BLOCK", 2**20)
    monkeypatch.setattr("ncsn.data.sharded.LOOKED_AT", 10)
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(noise).save(packed, "BMP")
    for k in range(12):
        written(tmp_path / f"x-{k:02}.tar", [{"__key__": f"{i}", "bmp": packed.getvalue()} for i in range(100)])
    images = load_images(f"{tmp_path}/x-{{00..11}}.tar")
    assert images.shards is not None
    draws = Draws(0, 8)
    batches = batches_ahead(images.shards, draws, labels=False, flip=False)
    tracemalloc.start()
    for step in range(len(images.shards) // 8):
        draws.begin(step)
        next(batches)
    batches.close()  # type: ignore[attr-defined]  # in some Pythons tracemalloc must not stop while threads ask for memory
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def changed(path: Path, at: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["cut", "header", "first", "compressed", "empty", "doubled"])
def test_a_damaged_shard_is_one_line(tmp_path: Path, how: str) -> None:
    pattern, path = made(tmp_path), tmp_path / "x-001.tar"
    with tarfile.open(path) as archive:
        third = archive.getmembers()[9]
    if how == "cut":
        path.write_bytes(path.read_bytes()[: third.offset_data + 10])
    if how in ("header", "first"):
        changed(path, third.offset + 5 if how == "header" else 5, b"\xff\xff")
    if how == "compressed":
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("a.png"))
    if how == "empty":
        path.write_bytes(b"")
    if how == "doubled":
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("a.png"))
            archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(
        ValueError, match=r"x-001\.tar cannot be read as a shard, an uncompressed tar archive \("
    ) as info:
        load_images(pattern)
    assert "\n" not in str(info.value)
    assert "None" not in str(info.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x-{000..009}.tar", r"stands for 10 shards; 4 are missing, such as .*x-006\.tar"),
        ("x-{000..003.tar", "cannot be understood .Unbalanced braces"),
        ("x-{000,001}.tar", "stands for 2 shards to train on; at least 3 are needed"),
        ("x-{0..99999999999}.tar", "stands for more than 1,000 shards"),
        ("{0..9999}{0..9999}{a,b}.tar", "stands for more than 1,000 shards"),
        ("{a,b}" * 30, "stands for more than 1,000 shards"),
    ],
)
def test_what_stands_for_no_shards_is_refused(
    tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.data.sharded.MOST", 1000)
    made(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_images(f"{tmp_path}/{name}")


def test_the_library_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = made(tmp_path)
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    for name in (pattern, str(tmp_path)):
        with pytest.raises(ValueError, match=r"pip install 'ncsn\[shards\]'"):
            load_images(name)


def test_shards_are_looked_into_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, paths, looked_up = made(tmp_path), [], shards.looked_up

    def counted(path: Path, stamp: str) -> shards.Index:
        paths.append(path.name)
        return looked_up(path, stamp)

    monkeypatch.setattr(shards, "looked_up", counted)
    digest = load_images(pattern).digest
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").rename(tmp_path / ".cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    for name in (pattern, Path(pattern).name, ".", str(tmp_path)):
        assert load_images(name).digest == digest
    assert len(paths) == 6
    stores = [*(tmp_path / ".cache" / "ncsn" / "store").glob("*/pixels.npy")]
    assert len(stores) == 2, "one by the pattern, one by the folder"
    written(tmp_path / "x-002.tar", [sample(200 + i) for i in range(EACH + 1)])
    assert load_images(pattern).digest != digest
    assert paths[6:] == ["x-002.tar"]


def test_a_broken_image_ends_training_or_the_next_one_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ncsn.data.sharded.LOOKED_AT", 10)
    pattern, path = made(tmp_path), tmp_path / "x-001.tar"
    images = load_images(pattern)
    index = index_of(path)
    changed(path, int(index.spans[7, 0]) + 40, bytes(20))
    with pytest.raises(ValueError, match=r"x-001\.tar image 7 cannot be read .*--max-broken allows 0") as info:
        shared(images, range(6), 1, 1)
    assert "\n" not in str(info.value)
    images = load_images(pattern, reading=Reading(max_broken=1))
    epochs = [value for batch in shared(images, range(6), 1, 1) for value in values(batch.x)]
    assert sorted(epochs) == sorted(2 * [*range(19), 20, 20, *range(21, 48)])
    assert capsys.readouterr().err.count("image 7 cannot be read") == 1


@pytest.mark.parametrize(("mode", "why"), [("RGB", "it is coloured"), ("I;16", "it has more than 8 bits")])
def test_an_image_of_another_kind_than_those_before_is_refused(
    tmp_path: Path, mode: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.data.sharded.LOOKED_AT", 10)
    pattern = made(tmp_path)
    packed = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels if mode == "RGB" else pixels[..., 0].astype(np.uint16)).save(packed, "PNG")
    written(tmp_path / "x-000.tar", [sample(i) | ({"png": packed.getvalue()} if i == 1 else {}) for i in range(EACH)])
    with pytest.raises(ValueError, match=f"x-000.tar image 1 cannot be read .{why}"):
        shared(load_images(pattern), range(3), 1, 1)


def test_shards_of_deep_images_are_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(packed, "PNG")
    for k in range(3):
        written(tmp_path / f"x-{k}.tar", [{"__key__": f"{i}", "png": packed.getvalue()} for i in range(EACH)])
    with pytest.raises(ValueError, match="holds images of more than 8 bits; images in shards may have 8"):
        load_images(f"{tmp_path}/x-{{0..2}}.tar")


def test_images_become_what_they_become_elsewhere(tmp_path: Path) -> None:
    """Equal channels are grey, other sizes are fitted: in what is looked at and in what is trained on."""
    for k in range(3):
        samples: list[dict[str, object]] = []
        for i in range(EACH * k, EACH * k + EACH):
            packed = io.BytesIO()
            Image.new("RGB", (10 + i % 3, 9), (i, i, i)).save(packed, "PNG")
            samples.append({"__key__": f"{i}", "png": packed.getvalue()})
        written(tmp_path / f"x-{k}.tar", samples)
    images = load_images(f"{tmp_path}/x-{{0..2}}.tar", reading=Reading(size="6"))
    assert images.shape == (1, 6, 6)
    assert images.shards is not None
    draws = Draws(0, 4)
    batch = next(batches_ahead(images.shards, draws, labels=False, flip=False))
    assert batch.x.shape == (4, 1, 6, 6)
    assert batch.label is None
    assert set(values(batch.x)) < set(range(EACH))
    assert [len({*row.flatten().mul(256).floor().tolist()}) for row in batch.x] == [1, 1, 1, 1]


def test_a_run_finds_its_shards_again(tmp_path: Path) -> None:
    pattern = made(tmp_path / "here")
    images = load_images(pattern)
    origin = Origin.of(pattern, None, Reading(), images)
    assert origin.load().digest == images.digest
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(ValueError, match="stands for 6 shards; 6 are missing"):
        origin.load()
    assert origin.load(str(tmp_path / "there")).digest == images.digest


def test_posterior_targets_are_off_and_a_batch_may_be_larger_than_what_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.data.sharded.LOOKED_AT", 10)
    images = load_images(made(tmp_path))
    settings = resolve(Settings(steps=3), images, torch.device("cpu"))
    assert settings.posterior_above == settings.sigma_max
    assert settings.batch_size == 48
    with pytest.raises(ValueError, match=r"posterior_above is 0\.5; it asks all training images"):
        resolve(Settings(steps=3, posterior_above=0.5), images, torch.device("cpu"))


@pytest.mark.slow
def test_two_processes_learn_the_same_and_one_goes_on(tmp_path: Path) -> None:
    """Of two, one is told to stop, and one process alone goes on: as one does that is never interrupted."""
    data = made(tmp_path, 20)
    program, stopping = tmp_path / "program.py", tmp_path / "stopping.py"
    program.write_text(PROGRAM.format(more=""))
    stopping.write_text(
        PROGRAM.format(
            more="""
import signal
from ncsn import training
step = training.State.update
def counted(self, rate):
    step(self, rate)
    if self.step == 12 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
training.State.update = counted
"""
        )
    )
    one, cut = tmp_path / "one", tmp_path / "cut"
    assert "error: terminated at step 13; " in done(2, stopping, TRAIN.format(data=data, out=cut)).stderr
    for out, more in ((cut, " --resume"), (one, "")):
        finished = done(1, program, TRAIN.format(data=data, out=out) + more)
        assert finished.returncode == 0, finished.stderr
        assert "in 18 shards" in finished.stdout
    same(one, cut)
