"""What ncsn reads of a user's files: for each kind of file an original, how it is damaged, and how it is read."""

import io
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from attacks import damage
from attacks.forks import forked
from attacks.ground import SIZE, Ground, ncsn
from attacks.jobs import hashed
from ncsn.files import atomic

Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A kind of file.

    ``original``: one that is whole.  ``name``: where a damaged one is put, in a folder that ``prepare`` has filled.
    ``damage``: what knows its structure, used with probability ``structured``.  ``read``: what ncsn makes of it, as
    something that can be compared.  ``exact``: whether no other content may be read from a file with damaged bytes.
    ``command``: the command that reads it.
    """

    original: Path
    name: str
    damage: Damage
    read: Callable[[Path], Any]
    command: str
    structured: float = 0.5
    exact: bool = False
    prepare: Callable[[Path], None] = lambda _: None

    def target(self, folder: Path) -> Path:
        """Where a damaged file is put."""
        return (folder / self.name).absolute()


def content_of(value: Any) -> Any:
    """Nested content in a form that can be compared: tensors by their digests."""
    if isinstance(value, dict):
        return {str(name): content_of(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [content_of(item) for item in value]
    return hashed(value) if isinstance(value, torch.Tensor) else value


def copied(run: Path, folder: Path) -> None:
    """A copy of a run in a folder."""
    shutil.copytree(run, folder / "run", dirs_exist_ok=True)


def config(ground: Ground) -> list[Reader]:
    """config.json, as it is loaded, shown and resumed."""

    def read(path: Path) -> Any:
        from ncsn.cli.info import Info

        import ncsn
        from ncsn.learn.images import recalled
        from ncsn.learn.settings import ImageJob, Images

        run = ncsn.load(path.parent, device="cpu")
        Info(run=path.parent, device="cpu")()
        if run.experiment == "images":
            recalled(Images(job=ImageJob(out=path.parent, resume=True)))
        return asdict(run.recipe)

    return [
        Reader(
            original=ground.run / "config.json",
            name="run/config.json",
            damage=damage.json_text,
            structured=0.8,
            read=read,
            prepare=partial(copied, ground.run),
            command="ncsn info run",
        )
    ]


def weights(ground: Ground) -> list[Reader]:
    """model.safetensors."""

    def read(path: Path) -> Any:
        from ncsn import storage

        model, units = storage.read_model(path.parent, storage.read_config(path.parent).recipe)
        found = dict(model.state_dict()) | ({} if units is None else {"shift": units.shift})
        if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
            raise AssertionError("weights that are not finite are read")
        return content_of(found)

    return [
        Reader(
            original=ground.run / "model.safetensors",
            name="run/model.safetensors",
            damage=damage.safetensors,
            structured=0.3,
            exact=True,
            read=read,
            prepare=partial(copied, ground.run),
            command="ncsn info run",
        )
    ]


def checkpoints(ground: Ground) -> list[Reader]:
    """checkpoint.pt."""
    from ncsn import storage
    from ncsn.optim import muon_and_adam
    from ncsn.rng import Draws
    from ncsn.training import State

    recipe = storage.read_config(ground.run).recipe

    def read(path: Path) -> Any:
        model = recipe.build(0.0, 1.0)
        state = State(model, muon_and_adam(model), generator=Draws(1, 8))
        state.load(path)
        tensors = [*state.model.state_dict().values(), *state.average.state_dict().values()]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise AssertionError("weights that are not finite are read")
        if type(state.step) is not int or not 0 <= state.seconds < 1e12 or not 0 <= state.step < 10**12:
            raise AssertionError(f"step {state.step!r} and seconds {state.seconds!r} are read")
        optimizers = [optimizer.state_dict()["state"] for optimizer in state.optimizers]
        generator = hashed(state.generator.get_state())
        weights = [state.model.state_dict(), state.average.state_dict()]
        return content_of([*weights, optimizers, state.step, generator])

    def changed(data: bytes, chance: random.Random) -> bytes:
        content = damage.changed(torch.load(io.BytesIO(data), weights_only=True), chance, tensors_too())
        packed = io.BytesIO()
        torch.save(content, packed)
        return packed.getvalue()

    return [
        Reader(
            original=ground.run / "checkpoint.pt",
            name="checkpoint.pt",
            damage=changed,
            structured=0.3,
            exact=True,
            read=read,
            command="ncsn train DATA --out run --resume",
        )
    ]


def tensors_too() -> tuple[Any, ...]:
    """What makes no sense in a checkpoint."""
    return (
        *damage.NONSENSE,
        torch.zeros(3),
        torch.tensor(float("nan")),
        torch.zeros(0),
        torch.zeros(5056, dtype=torch.uint8),
    )


def arrays(ground: Ground) -> list[Reader]:
    """Samples in an .npz file."""
    path = ground.folder / "samples.npz"
    if not path.exists():
        with np.load(ground.arrays) as there:
            np.savez_compressed(path, samples=there["x_train"])
    large = bomb()

    def read(path: Path) -> Any:
        from ncsn import evaluation

        samples, _ = evaluation.read_samples(path)
        return hashed(samples)

    def changed(data: bytes, chance: random.Random) -> bytes:
        if chance.random() < 0.003:
            return large
        if chance.random() < 0.02:
            return chance.choice(
                (b"", b"PK\x05\x06" + bytes(18), zipfile.ZipFile(io.BytesIO(data)).read("samples.npy"))
            )
        return damage.in_zip(data, chance, damage.array)

    return [
        Reader(
            original=path,
            name="samples.npz",
            damage=changed,
            exact=True,
            read=read,
            command="ncsn evaluate samples.npz",
        )
    ]


def bomb() -> bytes:
    """An .npz of 1.5 GB of zeros, in one and a half megabytes."""
    packed = io.BytesIO()
    header = io.BytesIO()
    shape = (1_500_000, 1000)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(packed, "w", 8, compresslevel=1) as archive, archive.open("samples.npy", "w") as member:
        member.write(header.getvalue())
        block = bytes(10**7)
        for _ in range(150):
            member.write(block)
    return packed.getvalue()


def images(ground: Ground) -> list[Reader]:
    """Images alone and in archives, and arrays of them."""
    from ncsn import data
    from ncsn.data.ahead import batches_ahead
    from ncsn.rng import Draws

    def example(path: Path) -> None:
        x = data.read_example(str(path), (1, SIZE, SIZE))
        if x.shape != (1, SIZE, SIZE) or not bool(x.isfinite().all()):
            raise AssertionError("an image that is not finite, or of another shape, is read")

    def data_set(path: Path) -> None:
        if not bool(data.load_images(str(path)).train[:100].float().isfinite().all()):
            raise AssertionError("images that are not finite are read")

    found = []
    for suffix, (content, damager) in originals(ground).items():
        path = ground.folder / f"whole{suffix}"
        if not path.exists():  # another process may be reading it
            with atomic(path) as temporary:
                temporary.write_bytes(content)
        one = suffix in (".png", ".jpg", ".tif")
        command = f"ncsn denoise RUN --input it{suffix}" if one else f"ncsn train it{suffix}"
        read = example if one else data_set
        found.append(Reader(original=path, name=f"it{suffix}", damage=damager, read=read, command=command))
    shards, (content, damager) = ground.folder / "shards", originals(ground)[".tar"]
    whole(shards, content)

    def others(folder: Path) -> None:
        shutil.copytree(shards, folder / "shards", dirs_exist_ok=True)

    def batch(path: Path) -> None:
        found = data.load_images(str(path.parent)).shards
        assert found is not None
        if not bool(next(batches_ahead(found, Draws(0, 8), labels=False, flip=False)).x.isfinite().all()):
            raise AssertionError("images that are not finite are trained on")

    name, original, command = "shards/train.tar", shards / "train.tar", "ncsn train shards"
    found.append(Reader(original=original, name=name, damage=damager, read=batch, prepare=others, command=command))
    return found


def whole(shards: Path, content: bytes) -> None:
    """Three shards of one ``content``."""
    shards.mkdir(exist_ok=True)
    for name in ("train", "val", "test"):
        path = shards / f"{name}.tar"
        if not path.exists():  # another process may be reading it
            with atomic(path) as temporary:
                temporary.write_bytes(content)


def originals(ground: Ground) -> dict[str, tuple[bytes, Damage]]:
    """A whole file of every kind, and what damages it."""
    files = sorted(ground.images.rglob("*.png"))
    encoded = {}
    with Image.open(files[0]) as image:
        for suffix, kind in ((".png", "PNG"), (".jpg", "JPEG"), (".tif", "TIFF")):
            packed = io.BytesIO()
            image.save(packed, kind)
            encoded[suffix] = packed.getvalue()
    zipped, tarred, array, both = (io.BytesIO() for _ in range(4))
    with zipfile.ZipFile(zipped, "w") as archive, tarfile.open(fileobj=tarred, mode="w") as tar:
        for path in files[:12]:
            name = str(path.relative_to(ground.images))
            archive.write(path, name)
            tar.add(path, name)
    with np.load(ground.arrays) as there:
        np.save(array, there["x_train"][:20])
        np.savez_compressed(both, x_train=there["x_train"][:20], y_train=np.arange(20) % 3)
    return {
        ".png": (encoded[".png"], damage.png),
        ".jpg": (encoded[".jpg"], damage.damaged),
        ".tif": (encoded[".tif"], damage.swapped),
        ".zip": (zipped.getvalue(), partial(damage.in_zip, member=damage.png)),
        ".tar": (tarred.getvalue(), partial(damage.in_tar, member=damage.png)),
        ".npy": (array.getvalue(), damage.array),
        ".npz": (both.getvalue(), partial(damage.in_zip, member=damage.array)),
    }


def evaluated(ground: Ground) -> Path:
    """The evaluation.json of a copy of the run; its numbers do not matter."""
    from ncsn import load, storage
    from ncsn.evaluation import Evaluation, Metric

    folder = ground.folder / "evaluated"
    path = folder / "evaluation.json"
    if not path.exists():  # another process may be reading it
        shutil.copytree(ground.run, folder, dirs_exist_ok=True)
        numbers = Metric(generated=3.25, held_out=0.5, training=0.25, ratio=6.5, ratio_to_training=13.0)
        found = Evaluation(
            n=100, comparable=False, features="pixels", dimensions=64, digest="", accuracy=None,
            metrics={"pixel_wasserstein": numbers}, classes=("a", "b"), generated_histogram=[0.5, 0.5],
            held_out_histogram=[0.5, 0.5], training_histogram=[0.5, 0.5], notes=("few",),
        )  # fmt: skip
        about = {"run_digest": load(folder, device="cpu").digest, "data": "images", "sampler": "heun", "seed": 0}
        storage.write_json(path, about | found.report())
    return path


def tables(ground: Ground) -> list[Reader]:
    """metrics.jsonl, metrics.json and evaluation.json."""

    def rows(path: Path) -> None:
        from ncsn import storage
        from ncsn.learn.journal import Row
        from ncsn.validation import validated

        for row in storage.trim_rows(path, 10**6, lambda row: validated(Row, row, str(path))):
            row.loss + row.step + row.validation_loss

    def results(path: Path) -> None:
        from ncsn.cli.info import Info

        Info(run=path.parent, device="cpu")()

    def card(path: Path) -> None:
        import ncsn
        from ncsn.card import shared

        shared(ncsn.load(path.parent, device="cpu"), path.parent, "user/model")

    reader = partial(Reader, prepare=partial(copied, ground.run), structured=0.7)
    return [
        reader(
            original=ground.run / "metrics.jsonl",
            name="run/metrics.jsonl",
            damage=damage.json_lines,
            read=rows,
            command="ncsn train DATA --out run --resume",
        ),
        reader(
            original=ground.run / "metrics.json",
            name="run/metrics.json",
            damage=damage.json_text,
            read=results,
            command="ncsn info run",
        ),
        reader(
            original=evaluated(ground),
            name="run/evaluation.json",
            damage=damage.json_text,
            read=card,
            command="ncsn push run user/model --dry-run out",
        ),
    ]


def exports(ground: Ground) -> list[Reader]:
    """What an exported file says of itself."""
    from ncsn.exporting import read

    path = ground.folder / "whole.onnx"
    if not path.exists():
        ended = forked(ncsn(f"export {ground.run} {path}"), ground.folder)
        if ended.status:
            raise RuntimeError(f"{path} could not be made: {ended.error}")

    def changed(data: bytes, chance: random.Random) -> bytes:
        model = onnx.ModelProto.FromString(data)
        said = model.metadata_props[0]
        said.value = damage.json_text(said.value.encode(), chance).decode(errors="replace")
        return bytes(model.SerializeToString())

    return [
        Reader(
            original=path,
            name="it.onnx",
            damage=changed,
            read=lambda path: asdict(read(path)),
            command="ncsn.exporting.read('it.onnx')",
        )
    ]


READERS: dict[str, Callable[[Ground], list[Reader]]] = {
    "config": config,
    "weights": weights,
    "checkpoints": checkpoints,
    "arrays": arrays,
    "images": images,
    "tables": tables,
    "exports": exports,
}
