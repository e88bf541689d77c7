"""``ncsn train``: train a run in a folder, and draw samples and figures.  ``training_MNIST.py`` shows how."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from ncsn.cli import console
from ncsn.settings import TrainSettings

if TYPE_CHECKING:
    from ncsn import Run
    from ncsn.data.dataset import Dataset
    from ncsn.learn.record import Record


@dataclass(frozen=True, kw_only=True)
class Train(TrainSettings):
    """Train a U-Net on images or signals, or an MLP on a table, by denoising score matching, and draw samples.

    Settings that you don't give follow from the method, the data, the budget and the machine.

    Args:
        dataset: mnist (in the package), a folder or archive (.zip, .tar) of images, or an array (.npy, .npz). For a
            table, a .csv, .tsv or .parquet, or an array with two axes.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = field()

    def __call__(self) -> None:
        from ncsn.learn.fit import open_run, train

        data, plan, record = open_run(self)
        with record.resumable():
            finish(train(plan, data, record), data, record)


def finish(run: "Run", data: "Dataset", record: "Record") -> None:
    """Write samples, figures and metrics to the record's folder."""
    from ncsn import plots
    from ncsn.evaluation.output import ANIMATED, show
    from ncsn.learn.history import BAND_NAMES

    if record.writes:
        n, seed = run.settings["samples"], run.settings["seed"]
        drawn = console.draw(run, data.shown * n, seed=seed, keep=ANIMATED if data.guided else 0)
        show(run, data, drawn.samples, drawn.path, record.path())
        plots.loss_curves([vars(row) for row in record.rows], BAND_NAMES, record.path("loss.png"))
        record.write_results(run, drawn)
    record.group.broadcast()  # the other processes wait for the figures, so that all end together
