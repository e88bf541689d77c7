"""``ncsn train``: ``fit`` with a folder, samples and pictures; ``training_MNIST.py`` tells the same story."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from ncsn.learn.settings import Images

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn.data import Images as Pictures

SHOWN = 36  # samples on their way out of the noise
CLIPPED = 0.05  # more of the samples' pixels than of the data's at an end of the range is worth a line
FEWEST_HELD_OUT = 100  # images, below which a percentile of them says nothing


@dataclass(frozen=True, kw_only=True)
class Train(Images):
    """Learn the score of images with a small U-Net by denoising score matching, and sample it.

    What is not given follows from the data, the budget and the machine.

    Args:
        dataset: mnist (in the package), fashion-mnist, kmnist, cifar10 (downloaded), a folder or an archive (.zip,
            .tar) of images, an array (.npy, .npz), or shards in WebDataset's format: a folder of .tar files, or
            'shards-{0000..0127}.tar'.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = field()

    def __call__(self) -> None:
        """Train, and draw."""
        import ncsn
        from ncsn import plots
        from ncsn.cli import console
        from ncsn.learn.record import BAND_NAMES, opened

        data, settings, record = opened(self)
        run = ncsn.fit(data, settings=settings, record=record)
        if record.writes:
            shown = min(settings.samples, SHOWN)
            drawn = console.draw(run, settings.samples, seed=settings.seed, keep=shown)
            annealed = console.draw(run, min(settings.samples, 20), seed=settings.seed, sampler="annealed")
            plots.image_grid(drawn.samples, record.path("samples.png"))
            plots.image_grid(annealed.samples, record.path("samples_annealed.png"))
            plots.evolution(drawn.path, record.path("evolution.png"))
            plots.evolution_animation(drawn.path, record.path("evolution.gif"))
            plots.loss_curves([vars(row) for row in record.rows], BAND_NAMES, record.path("loss.png"))
            record.results(drawn, annealed)
            for line in remarks(data, drawn.samples):
                print(line)
        record.close()


def remarks(data: "Pictures", samples: "Tensor") -> "Iterator[str]":
    """What a user should know about the samples and would not see, or not see why."""
    from ncsn.data.pixels import quantize, reals
    from ncsn.evaluation import as_bytes, at_8_bits, nearest

    def clipped(pixels: "Tensor") -> float:
        return float(((pixels == 0) | (pixels == 255)).float().mean())

    ours, theirs = clipped(quantize(samples)), clipped(quantize(reals(data.train[: len(samples)])))
    if ours > theirs + CLIPPED:
        yield f"{ours:.0%} of the samples' pixels are black or white to the limit, of the images' {theirs:.0%}"
    if len(data.train) < 1000 and len(data.validation) >= FEWEST_HELD_OUT:
        train = at_8_bits(data).train
        near, _ = nearest(quantize(samples), train)
        usual, _ = nearest(as_bytes(data.validation), train)
        copies = float((near <= usual.quantile(0.01)).float().mean())
        yield f"{copies:.0%} of the samples are nearer to a training image than 99 % of the held-out images are"
