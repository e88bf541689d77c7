"""``ncsn train``: ``fit`` with a folder, samples and pictures; ``training_MNIST.py`` tells the same story."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ncsn.learn.settings import TrainSettings


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
        import ncsn
        from ncsn.cli.kinds import finish
        from ncsn.learn.record import opened

        dataset, settings, record = opened(self)
        run = ncsn.fit(dataset, settings=settings, record=record)
        finish(run, dataset, record)
