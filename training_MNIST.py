"""Train a noise conditional score network on images, and draw samples from it.

python ./training_MNIST.py                  # about ten minutes on two cores
python ./training_MNIST.py --minutes 60     # better digits
"""

import sys

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

from ncsn import console, plots
from ncsn.experiments import journal
from ncsn.experiments.images import ANNEALED, Study, recalled
from ncsn.experiments.results import write_results
from ncsn.experiments.settings import Images


def main(given: Images) -> None:
    """Data, noise, model, training, samples, pictures."""
    # Data: images as bytes.  Some are held out: those for validation show how learning goes, those for testing judge.
    given = recalled(given)
    pictures = ncsn.load_images(given.dataset, given.job.data_dir)
    study = Study.of(given, pictures)
    settings, folder = study.settings, study.folder

    # Noise: Gaussian noise of every size between σ_min and σ_max hides the images; the network learns to see through.
    noise = study.noise

    # Model: a U-Net that preconditioning makes a score.  The guide is a smaller one, to move samples away from.
    state, guide = study.states()
    if settings.job.compile:
        console.compile_network(state.model.network, study.trial(state))
    budget, guide_budget = study.budgets()

    # Train: denoising score matching; at high noise, its target is the mean of all images that could be meant.
    if guide is not None:
        batches = ncsn.batches(study.pixels, settings.batch_size, generator=guide.generator)
        loss = ncsn.training_loss(noise, study.objective, generator=guide.generator)
        progress = ncsn.train(guide, batches, loss, budget=guide_budget)
        for _ in console.watch(progress, guide, folder / "guide", what="guide   "):
            pass
    batches = ncsn.batches(study.pixels, settings.batch_size, study.labels, generator=state.generator)
    loss = ncsn.training_loss(noise, study.objective, generator=state.generator)
    progress = ncsn.train(state, batches, loss, budget=budget)
    rows = journal.keep(study, state, guide, console.watch(progress, state, folder))

    # Sample: noise becomes digits on the way down the noise levels; beside ours, by the paper's Langevin dynamics.
    run = study.run(state, guide)
    drawn = console.draw(run, settings.samples, seed=settings.seed, keep=settings.samples)
    annealed = console.draw(run, min(settings.samples, ANNEALED), seed=settings.seed, sampler="annealed")

    # Draw
    plots.image_grid(drawn.samples, folder / "samples.png")
    plots.image_grid(annealed.samples, folder / "samples_annealed.png")
    plots.evolution(drawn.path, folder / "evolution.png")
    plots.evolution_animation(drawn.path, folder / "evolution.gif")
    plots.loss_curves(rows, journal.BAND_NAMES, folder / "loss.png")
    write_results(study, state, rows, drawn, annealed)
    print(f"{folder / 'samples.png'}: {drawn.cost}")
    print(f"{folder / 'samples_annealed.png'}: {annealed.cost}")
    print(f"{folder}: also evolution.png, evolution.gif, loss.png, metrics.json; more with `ncsn sample {folder}`")


if __name__ == "__main__":
    console.run(main, Images)
