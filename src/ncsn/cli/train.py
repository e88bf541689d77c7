"""``ncsn train``: ``fit`` with a folder, samples and pictures; ``training_MNIST.py`` tells the same story."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from ncsn.cli import console
from ncsn.learn.settings import TrainSettings

if TYPE_CHECKING:
    from ncsn import Run
    from ncsn.kinds import Dataset
    from ncsn.learn.record import Record


@dataclass(frozen=True, kw_only=True)
class Train(TrainSettings):
    """Learn the score of images with a small U-Net, or of a table with an MLP, by denoising score matching; sample it.

    What is not given follows from the data, the budget and the machine.

    Args:
        dataset: mnist (in the package), a folder or an archive (.zip, .tar) of images, an array (.npy, .npz), or a
            folder of .tar files, which are shards in WebDataset's format. A table of one row an example:
            .csv, .tsv, .parquet, or an array of two axes.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PLACE")] = field()

    def __call__(self) -> None:
        from ncsn.learn.fit import train
        from ncsn.learn.opening import open_run

        data, plan, record = open_run(self)
        finish(train(plan, data, record), data, record)


def finish(run: "Run", data: "Dataset", record: "Record") -> None:
    """The end of a training: samples, pictures, and numbers, in the record's folder."""
    from ncsn import plots
    from ncsn.learn.record import BAND_NAMES

    if record.writes:
        kind, n, seed = data.kind, run.settings["samples"], run.settings["seed"]
        drawn = console.draw(run, kind.shown * n, seed=seed, keep=kind.kept)
        kind.show(run, data, drawn.samples, drawn.path, record.path())
        plots.loss_curves([vars(row) for row in record.rows], BAND_NAMES, record.path("loss.png"))
        record.results(run, drawn)
    record.group.broadcast()  # the others wait for the pictures, and end together
