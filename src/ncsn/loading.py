"""Loading: data of any kind, from files or from memory, as a dataset; and runs from their folders."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ncsn import images
from ncsn.data.arrays import Arrays, read_arrays
from ncsn.data.dataset import Dataset, short_name
from ncsn.run.folder import find, has_run, read_config, read_model
from ncsn.run.run import Run
from ncsn.settings import AS_THEY_ARE, TABLES, Reading
from ncsn.signals import SignalRun, Signals, read_signals
from ncsn.tables.read import check_frame, frame_in, read_table, rows_of, table_of_array, table_of_frame
from ncsn.tables.run import TableRun
from ncsn.validation import as_numbers, check_type, require_utf8

if TYPE_CHECKING:
    import pandas


Examples: TypeAlias = "Tensor | np.ndarray | Dataset | pandas.DataFrame | Mapping[str, object] | str | Path"
Classes: TypeAlias = Tensor | np.ndarray | Sequence[int | str] | None


def load_dataset(name: str | Path, *, reading: Reading = AS_THEY_ARE) -> Dataset:
    """The dataset in a folder of images, a .zip or .tar of one, an array, a table, or MNIST.

    ``name``: mnist, or a path.  An .npy or .npz holds images, a table (n, d) or signals; a .csv, .tsv or .parquet is a
    table.  The images in an .npy of bytes beyond 4 GiB are read as needed.
    ``reading``: how files are converted to pixels, or that an array holds signals.
    Raises ValueError if there is no such dataset, or if it can't be read as requested; OSError for a folder without
    read permission.

    >>> images = ncsn.load_dataset("mnist")
    >>> images.train.shape, images.labels.names[7]
    (torch.Size([50000, 1, 28, 28]), '7')
    """
    check_type("name", name, str, Path)
    check_type("reading", reading, Reading)
    dataset = replace(read(str(name), reading), name=short_name(str(name)))
    for text in (str(name), *(dataset.labels.names if dataset.labels else ())):  # config.json has them
        require_utf8(text)
    return dataset


def read(name: str, reading: Reading) -> Dataset:
    """The dataset at a path.  Raises ValueError as ``load_dataset`` does."""
    path = Path(name)
    suffix = path.suffix.lower()
    if reading.signals and suffix not in (".npy", ".npz"):
        raise ValueError(f"signals is given, but {name} is not an .npy or .npz; signals are read from these")
    if name == "mnist":
        return images.read_images(name, reading)
    if not path.exists():
        neighbours = ["mnist", *(str(neighbour) for neighbour in path.parent.glob("[!.]*"))]
        similar = get_close_matches(str(path), neighbours, n=1)
        raise ValueError(f"{name} does not exist{''.join(f'; did you mean {match}?' for match in similar)}")
    is_archive = suffix in (".zip", ".tgz") or ".tar" in path.suffixes[-2:]
    if (name and path.is_dir()) or (is_archive and path.is_file()):
        return images.read_images(name, reading)
    if suffix in TABLES:
        return read_table(name)
    if path.is_file() and suffix in (".npy", ".npz"):
        return from_arrays(name, read_arrays(path), reading)
    raise ValueError(f"{name} is not a dataset; give mnist, a folder, .zip, .tar, .npy, .npz, .csv, .tsv or .parquet")


def from_arrays(name: str, content: Arrays, reading: Reading) -> Dataset:
    """The dataset in arrays: signals if the reading says so, a table for one array (n, d), otherwise images.

    Raises ValueError as those three do, and for one long series.
    """
    only = next(iter(content.values())) if len(content) == 1 else None
    if only is not None and is_series(only, signals=reading.signals):
        cut = "numpy.lib.stride_tricks.sliding_window_view(series, 128)[::128]"
        raise ValueError(f"{name} is one long series of shape {only.shape}; cut it into windows, such as with {cut}")
    if reading.signals:
        return read_signals(name, content)
    if only is not None and only.ndim == 2:
        rows = rows_of(name, table_of_array(only, name))
        note = "read as a table: if each row is a signal, pass signals=True (in a shell: --signals)"
        return replace(rows, notes=(note, *rows.notes))
    notes = []
    if any(array.ndim == 3 for array in content.values()):
        shape = "(channels, length)"
        notes.append(f"read as grey images: if each is a signal {shape}, pass signals=True (in a shell: --signals)")
    return images.from_arrays(name, content, notes, reading)


def is_series(array: np.ndarray, *, signals: bool) -> bool:
    """Whether an array holds one long series of numbers: (n,), or a single row (1, n) or signal (1, ...)."""
    single = array.shape[:1] == (1,) and (signals or array.ndim == 2)
    return array.dtype.kind in "buif" and (single or array.ndim == 1)


def dataset_of(data: Examples, labels: Classes = None, *, reading: Reading = AS_THEY_ARE) -> Dataset:
    """Examples in memory, or at a path, as a dataset.

    ``reading``: whether an array holds signals.
    Raises ValueError for data without examples, and for labels of anything but images.
    """
    if isinstance(data, str | Path):
        data = load_dataset(data, reading=reading)
    if isinstance(data, Dataset):
        if labels is not None:
            raise ValueError("labels are given, but the dataset has its own; leave them out")
        if reading.signals and not isinstance(data, Signals):
            raise ValueError(f"signals is given, but the dataset has {data.noun}; leave it out")
        return data
    if np.ma.is_masked(data):
        raise ValueError("data has masked values; leave those examples out, or fill them in")
    if (frame := frame_in(data)) is not None:
        if reading.signals or labels is not None:
            option = "signals" if reading.signals else "labels"
            raise ValueError(f"{option} is given, but the data is a table; leave it out, and pass classes as a column")
        return rows_of("data", table_of_frame(check_frame(frame), "data"))
    x = array_of(data)  # type: ignore[arg-type]
    if x.dtype.kind not in "buif":
        allowed = "expected a tensor, an array, a DataFrame, a dataset or a path"
        raise ValueError(f"data is a {type(data).__name__} of {x.dtype}; {allowed}")
    if labels is None:
        return from_arrays("data", {"": x}, reading)
    if x.ndim == 2 and not reading.signals:
        raise ValueError("labels are for images; in a table, pass classes as a column")
    classes = array_of(labels)
    if classes.shape != x.shape[:1]:
        raise ValueError(f"labels has shape {classes.shape}; expected one label for each of {len(x)} images")
    return from_arrays("data", {"": x, "labels": classes}, reading)


def array_of(data: Tensor | np.ndarray | Sequence[int | str]) -> np.ndarray:
    """Convert a tensor on any device, an array or a list to an array."""
    if isinstance(data, Tensor):
        data = as_numbers("data", data).detach().cpu()
        data = (data.float() if str(data.dtype) == "torch.bfloat16" else data).numpy()  # numpy has no bfloat16
    array = np.ascontiguousarray(data)
    is_text = array.dtype == object and all(isinstance(value, str) for value in array.flat)
    return array.astype(str) if is_text else array


RUNS: dict[int, type[Run]] = {1: TableRun, 3: images.ImageRun}


def run_class(shape: tuple[int, ...]) -> type[Run]:
    """The class of runs of such examples: (d,) are rows, (c, h, w) images; (c, l) and (c, d, h, w) signals."""
    return RUNS.get(len(shape), SignalRun)


@torch.inference_mode(False)
def load(run: str | Path, *, device: str = "auto", network: nn.Module | None = None) -> Run:
    """Load a run from a folder, from the package or from the Hugging Face hub.

    ``run``: a run's folder; "mnist" or "prior", which come with the package; or "hf://user/model@revision" (by default
    main), which ``huggingface_hub`` (the extra ``hub``) downloads unless it is in its cache.
    ``device``: auto (CUDA if available, otherwise the CPU), cpu, cuda or mps.
    ``network``: if the run was trained with your own network, a network that was built in the same way.
    Raises ValueError if the folder isn't a run, if its weights are missing, damaged or from another network, if there
    is no such device, or if the hub has no such run or can't be reached.

    >>> run = ncsn.load("mnist", device="cpu")
    >>> run.recipe.shape, run.parameters > 10**6
    ((1, 28, 28), True)
    """
    check_type("run", run, str, Path)
    folder = find(run)
    config = read_config(folder)
    model = read_model(folder, config, network=network)
    guide, guide_recipe = None, None
    sampling = config.recipe.sampling
    needs_guide = sampling.guidance != 1 and sampling.guide == "smaller" and not config.recipe.num_classes
    if needs_guide or has_run(folder / "guide"):
        guide_config = read_config(folder / "guide")
        guide, guide_recipe = read_model(folder / "guide", guide_config), guide_config.recipe
    loaded = run_class(config.recipe.shape)(
        score=model,
        recipe=config.recipe,
        guide=guide,
        guide_recipe=guide_recipe,
        folder=folder,
        settings=config.settings,
        origin=config.data,
        measured=config.measured,
    )
    return loaded.to(device)
