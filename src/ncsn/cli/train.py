"""``ncsn train``: ``fit`` with a folder, samples and pictures; ``training_MNIST.py`` tells the same story."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from ncsn.learn.settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn.data import Dataset


@dataclass(frozen=True, kw_only=True)
class Train(TrainSettings):
    """Learn the score of images with a small U-Net, or of a table with an MLP, by denoising score matching; sample it.

    What is not given follows from the data, the budget and the machine.

    Args:
        dataset: mnist (in the package), a folder or an archive (.zip, .tar) of images, an array (.npy, .npz), or a
            folder of .tar files, which are shards in WebDataset's format. A table of one row an example:
            .csv, .tsv, .parquet, or an array of two axes; it takes minutes (by default 1.5), steps, batch-size,
            sampler, seed and samples, and does not resume.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PLACE")] = field()

    def __call__(self) -> None:
        """Train, and draw."""
        import ncsn
        from ncsn.cli import console
        from ncsn.learn.record import BAND_NAMES, opened

        data, settings, record = opened(self)
        run = ncsn.fit(data, settings=settings, record=record)
        if record.writes:
            n = settings.samples * (10 if data.columns else 1)  # of points more can be seen
            drawn = console.draw(run, n, seed=settings.seed, keep=36)
            if data.units is not None:
                real = data.units.restore(data.validation[:n])
                if data.columns:
                    ncsn.plots.columns(real.numpy(), drawn.samples.numpy(), run.names, record.path("samples.png"))
                else:
                    rows = {"held out": real, "samples": drawn.samples}
                    ncsn.plots.signal_rows(rows, record.path("samples.png"))
            else:
                annealed = console.draw(run, min(settings.samples, 20), seed=settings.seed, sampler="annealed")
                ncsn.plots.image_grid(drawn.samples, record.path("samples.png"))
                ncsn.plots.image_grid(annealed.samples, record.path("samples_annealed.png"))
                ncsn.plots.evolution(drawn.path, record.path("evolution.png"))
                ncsn.plots.evolution_animation(drawn.path, record.path("evolution.gif"))
            ncsn.plots.loss_curves([vars(row) for row in record.rows], BAND_NAMES, record.path("loss.png"))
            record.results(run, drawn)
            for line in [] if data.units is not None else remarks(data, drawn.samples):
                print(line)
        record.group.broadcast()  # the others wait for the pictures, and end together


def remarks(data: "Dataset", samples: "Tensor") -> "Iterator[str]":
    """What a user should know about the samples and would not see: pixels at the ends of the range."""
    from ncsn.data.units import quantize, reals

    def clipped(pixels: "Tensor") -> float:
        return float(((pixels == 0) | (pixels == 255)).float().mean())

    ours, theirs = clipped(quantize(samples)), clipped(quantize(reals(data.train[: len(samples)])))
    if ours > theirs + 0.05:
        yield f"{ours:.0%} of the samples' pixels are black or white to the limit, of the images' {theirs:.0%}"
