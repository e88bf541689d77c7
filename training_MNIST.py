"""Train a noise conditional score network on images, and draw samples from it.

python ./training_MNIST.py                          # about ten minutes on two cores
python ./training_MNIST.py --minutes 60             # better digits
python ./training_MNIST.py --dataset my/pictures    # what `ncsn train my/pictures` does

The run is written to runs/mnist, where it replaces the previous one; with --out it is written to a folder of yours.
"""

import sys

try:
    from ncsn.cli import console, quit_on_signals
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

if __name__ == "__main__":
    quit_on_signals()
from dataclasses import replace

from ncsn.cli.train import finish
from ncsn.learn.fit import folder_of, open_run, train
from ncsn.machine.messages import log
from ncsn.run.folder import has_own_run
from ncsn.settings import TrainSettings

PICTURES = {
    "samples.png": "samples by the default sampler",
    "samples_annealed.png": "samples by annealed Langevin dynamics, the paper's sampler",
    "evolution.png": "how samples emerge from noise",
    "evolution.gif": "the same as an animation",
    "loss.png": "training loss and held-out loss, and the latter for each range of noise levels",
}


def main(given: TrainSettings) -> None:
    """Train on images, sample, and plot."""
    # Data: validation images select the checkpoint, test images are for evaluation.  The plan has all settings,
    # including those that follow from the data.  The record writes the training to the run's folder.
    if given.job.out is None and not given.job.resume and has_own_run(folder_of(given)):
        given = replace(given, job=replace(given.job, overwrite=True))
    data, plan, record = open_run(given)
    if data.noun != "images":
        raise ValueError(f"this script trains on images; for {data.noun}, use `ncsn train {given.dataset}`")

    # Noise: Gaussian, with σ drawn from plan.noise, between σ_min and σ_max.
    #
    # Model: a U-Net, preconditioned to return a score (plan.recipe).  Sampling is guided by the same network without
    # the class, or by a smaller network if there are no classes.
    #
    # Training: denoising score matching.  At high noise the target is the mean of all images that the noisy image could
    # come from.  Held-out images select the average of the weights, and then the guidance scale.
    with record.resumable():
        run = train(plan, data, record)

        # Samples by the default sampler and the paper's annealed Langevin dynamics; pictures of both and of the losses.
        finish(run, data, record)
    if record.writes:
        for name, content in PICTURES.items():
            log.info(f"{record.path(name)}: {content}")


if __name__ == "__main__":
    console.run(main, TrainSettings)
