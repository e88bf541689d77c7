"""What the commands do with each kind of data: draw the pictures of a training, write samples, judge them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ncsn.cli import console
from ncsn.data.sources import TABLES

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn import Run
    from ncsn.data import Dataset
    from ncsn.learn.record import Record
    from ncsn.run import Drawn


@dataclass(frozen=True)
class View:
    """How the commands show one kind of data.

    ``learned``: draws samples of a run that has been trained on a data set, and their pictures in the record's folder.
    ``files``: what samples can be written into, by suffix; a picture has a function that draws it.
    """

    learned: "Callable[[Run, Dataset, Record], Drawn]"
    files: "dict[str, Callable[[Drawn, Path], object] | None]"

    def check(self, run: "Run", out: Path) -> None:
        """Raises ValueError if samples of the run cannot be written into such a file."""
        if out.suffix not in self.files:
            noun = run.recipe.kind.noun
            raise ValueError(f"{out}: {noun} are written into {', '.join(self.files)}, and the run makes {noun}")


def finish(run: "Run", dataset: "Dataset", record: "Record") -> None:
    """The end of a training: samples, pictures, and numbers, in the record's folder."""
    import ncsn
    from ncsn.learn.record import BAND_NAMES

    if record.writes:
        drawn = VIEWS[dataset.kind.noun].learned(run, dataset, record)
        ncsn.plots.loss_curves([vars(row) for row in record.rows], BAND_NAMES, record.path("loss.png"))
        record.results(run, drawn)
    record.group.broadcast()  # the others wait for the pictures, and end together


def learned_images(run: "Run", dataset: "Dataset", record: "Record") -> "Drawn":
    """Noise becomes images on the way down the noise levels; also by the paper's Langevin dynamics."""
    import ncsn

    n, seed = run.settings["samples"], run.settings["seed"]
    drawn = console.draw(run, n, seed=seed, keep=36)
    annealed = console.draw(run, min(n, 20), seed=seed, sampler="annealed")
    ncsn.plots.image_grid(drawn.samples, record.path("samples.png"))
    ncsn.plots.image_grid(annealed.samples, record.path("samples_annealed.png"))
    ncsn.plots.evolution(drawn.path, record.path("evolution.png"))
    ncsn.plots.evolution_animation(drawn.path, record.path("evolution.gif"))
    for line in remarks(dataset, drawn.samples):
        print(line)
    return drawn


def learned_signals(run: "Run", dataset: "Dataset", record: "Record") -> "Drawn":
    """Held-out signals, and samples."""
    drawn = console.draw(run, run.settings["samples"], seed=run.settings["seed"])
    beside_signals(run, held_out(dataset, len(drawn.samples)), drawn.samples, record.path("samples.png"))
    return drawn


def learned_rows(run: "Run", dataset: "Dataset", record: "Record") -> "Drawn":
    """Marginals and pairs of columns, of held-out rows and of samples: of points more can be seen."""
    drawn = console.draw(run, 10 * run.settings["samples"], seed=run.settings["seed"])
    beside_rows(run, held_out(dataset, len(drawn.samples)), drawn.samples, record.path("samples.png"))
    return drawn


def beside_signals(run: "Run", real: "Tensor", samples: "Tensor", out: Path) -> None:
    """The first real signals above the first samples."""
    import ncsn

    ncsn.plots.signal_rows({"held out": real, "samples": samples}, out)


def beside_rows(run: "Run", real: "Tensor", samples: "Tensor", out: Path) -> None:
    """Marginals and pairs of columns, of real rows and of samples."""
    import ncsn

    ncsn.plots.columns(real.numpy(), samples.numpy(), run.names, out)


def held_out(dataset: "Dataset", n: int) -> "Tensor":
    """Validation examples in the user's units, ``n`` at most."""
    assert dataset.units is not None
    return dataset.units.restore(dataset.validation[:n])


def remarks(dataset: "Dataset", samples: "Tensor") -> Iterator[str]:
    """What a user should know about the samples and would not see: pixels at the ends of the range."""
    from ncsn.data.units import quantize, reals

    def clipped(pixels: "Tensor") -> float:
        return float(((pixels == 0) | (pixels == 255)).float().mean())

    ours, theirs = clipped(quantize(samples)), clipped(quantize(reals(dataset.train[: len(samples)])))
    if ours > theirs + 0.05:
        yield f"{ours:.0%} of the samples' pixels are black or white to the limit, of the images' {theirs:.0%}"


def grid(drawn: "Drawn", out: Path) -> None:
    """Samples side by side."""
    import ncsn

    n = len(drawn.samples)
    ncsn.plots.image_grid(drawn.samples, out, columns=min(n, max(8, round(n**0.5))))


def animation(drawn: "Drawn", out: Path) -> None:
    """Their way out of the noise."""
    import ncsn

    ncsn.plots.evolution_animation(drawn.path, out)


def lines(drawn: "Drawn", out: Path) -> None:
    """The first signals."""
    import ncsn

    ncsn.plots.signal_rows({"samples": drawn.samples}, out)


ARRAYS: "dict[str, Callable[[Drawn, Path], object] | None]" = {".npz": None, ".npy": None}
BESIDE = {"signals": beside_signals, "rows": beside_rows}
VIEWS = {
    "images": View(learned_images, {".png": grid, ".gif": animation, **ARRAYS}),
    "signals": View(learned_signals, {".png": lines, **ARRAYS}),
    "rows": View(learned_rows, {**dict.fromkeys(TABLES), **ARRAYS}),
}
SUFFIXES = tuple(dict.fromkeys(suffix for view in VIEWS.values() for suffix in view.files))
