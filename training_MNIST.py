"""Train a noise conditional score network on images, and draw samples from it.

python ./training_MNIST.py                          # about ten minutes on two cores
python ./training_MNIST.py --method ncsn            # by the paper's own method
python ./training_MNIST.py --dataset my/pictures    # what `ncsn train my/pictures` does

The run is written to runs/mnist, where it replaces the previous one; with --out it is written to a folder of yours.
"""

import sys

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

from ncsn.cli import console, quit_on_signals

if __name__ == "__main__":
    quit_on_signals()
import torch

from ncsn.evaluation.output import ANIMATED, report_clipping
from ncsn.learn.fit import Training, open_run, replace_own_run
from ncsn.learn.history import BAND_NAMES
from ncsn.learn.start import build_model
from ncsn.machine.messages import bar, log
from ncsn.settings import TrainSettings

PICTURES = {
    "samples.png": "samples by {}",
    "samples_annealed.png": "samples by annealed Langevin dynamics, the paper's sampler",
    "evolution.png": "how samples emerge from noise",
    "evolution.gif": "the same as an animation",
    "loss.png": "training loss and held-out loss, and the latter for each range of noise levels",
}


def main(given: TrainSettings) -> None:
    """Train on images, sample, and plot."""
    # Data: training images; validation images, which select the weights; and test images, which are for evaluation.
    # The plan has all settings, also those that follow from the data.  The record writes the training to a folder.
    data, plan, record = open_run(replace_own_run(given))
    if data.noun != "images":
        raise ValueError(f"this script trains on images; for {data.noun}, use `ncsn train {given.dataset}`")
    with record.resumable():
        # Network: a U-Net, preconditioned to return a score; its weights are random, or those of another run (--from).
        settings, seed = plan.settings, plan.settings.seed
        torch.manual_seed(seed)
        model = build_model(plan, data, record)  # ncsn.ScoreModel(ncsn.UNet(…), …)
        generator = torch.Generator(plan.device).manual_seed(seed)
        optimizers, schedule = plan.optimizers(model), plan.schedule  # of the learning rate
        state = ncsn.State(model, optimizers, schedule=schedule, generator=generator, seed=seed)
        training = Training(plan, data, record, state)

        # Noise: Gaussian, with σ drawn from a log-normal distribution, unless --proposal names another one.
        noise = plan.noise

        # Loss: denoising score matching; at high noise, towards the mean of all images that the noisy one may be from.
        loss = ncsn.training_loss(noise, training.objective, generator=generator)
        examples, labels = training.examples, training.labels
        batches = ncsn.batches(examples, training.share, labels, flip=settings.flip, generator=generator)

        # Training: every step changes the weights and updates their average.  Validation images say which average was
        # the best.  If there are no classes, a smaller network that guides sampling is trained before.
        training.begin()  # or continue
        training.train_guide()
        history = training.history
        steps = ncsn.train(state, batches, loss, budget=training.budget, group=record.group, signals=record.signals)
        for progress in record.watch(steps, state):
            history.note(progress.losses)
            if history.is_due(progress, data):
                row = training.evaluate(progress.step, progress.seconds)
                history.add(row, state.average, progress.fraction)
                record.report()
        training.keep_best()

        # Guidance: how far to move away from the same network without the class, or from the smaller network.
        training.choose_guidance()
        run = training.finish()
        if record.writes:
            # Samples by the run's own sampler and by the paper's annealed Langevin dynamics; pictures of both.
            drawn = console.draw(run, settings.samples, seed=seed, keep=ANIMATED)
            states = run.steps(min(settings.samples, 10), seed=seed, sampler="annealed")
            for step in bar(states, f"{states.n} samples", total=len(states)):
                annealed = step.x.cpu()
            ncsn.plots.image_grid(drawn.samples, record.path("samples.png"))
            ncsn.plots.image_grid(annealed, record.path("samples_annealed.png"))
            ncsn.plots.evolution(drawn.path, record.path("evolution.png"))
            ncsn.plots.evolution_animation(drawn.path, record.path("evolution.gif"))
            report_clipping(drawn.samples, data)
            ncsn.plots.loss_curves([vars(row) for row in history.rows], BAND_NAMES, record.path("loss.png"))
            record.write_results(run, drawn)
            for name, content in PICTURES.items():
                log.info(f"{record.path(name)}: {content.format(settings.sampler)}")
        record.group.broadcast()  # the other processes wait for the pictures, so that all end together


if __name__ == "__main__":
    console.run(main, TrainSettings)
