"""Train a noise conditional score network on images, and draw samples from it.

python ./training_MNIST.py                          # about ten minutes on two cores
python ./training_MNIST.py --minutes 60             # better digits
python ./training_MNIST.py --dataset my/pictures    # what `ncsn train my/pictures` does
"""

import sys

try:
    from ncsn.cli import console, quit_on_signals
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

if __name__ == "__main__":
    quit_on_signals()
from ncsn.cli.train import finish
from ncsn.learn.fit import train
from ncsn.learn.opening import open_run
from ncsn.learn.settings import TrainSettings


def main(given: TrainSettings) -> None:
    """Data, noise, model, training, samples, pictures."""
    # Data: some images are held out: those for validation show how learning goes, those for testing judge.  The plan
    # says what follows from the data where a setting is not given.  The record keeps the training in the run's folder.
    data, plan, record = open_run(given)
    if data.kind.noun != "images":
        raise ValueError(f"this script tells the story of images; `ncsn train {given.dataset}` learns {data.kind.noun}")

    # Noise: Gaussian noise of every size between σ_min and σ_max hides the images; the network learns to see through
    # it.  plan.noise draws the sizes.
    #
    # Model: a U-Net that preconditioning makes a score, and how it is sampled: plan.recipe.  Samples will move away
    # from a guide: the same network without the class, or, where there are no classes, a smaller one.
    #
    # Training: denoising score matching.  At high noise the target is the mean of all images that could be meant.  Of
    # the averages of the weights, the one is left that is best on held-out images; these choose the guidance, too.
    run = train(plan, data, record)

    # Sampling: noise becomes images on the way down the noise levels; also by the paper's Langevin dynamics.
    #
    # Pictures: samples, how they came out of the noise, and how the losses fell on every noise level.
    finish(run, data, record)


if __name__ == "__main__":
    console.run(main, TrainSettings)
