"""``ncsn train``: the whole story, from images to samples; ``training_MNIST.py`` tells the same one."""

from dataclasses import dataclass

import tyro

from ncsn.cli import console, drawing
from ncsn.learn.settings import Images

SHOWN = 36  # samples on their way out of the noise


@dataclass(frozen=True, kw_only=True)
class Train(Images):
    """Learn the score of images with a small U-Net by denoising score matching, and sample it.

    What is not given follows from the data, the budget and the machine.
    """

    dataset: tyro.conf.Positional[str]
    """mnist (in the package), fashion-mnist, kmnist, cifar10 (downloaded), a folder or an archive (.zip, .tar) of
    images, an array (.npy, .npz), or shards in WebDataset's format: a folder of .tar files, or
    'shards-{0000..0127}.tar'."""

    def __call__(self) -> None:
        """Train, and draw."""
        learn(self)


def learn(given: Images) -> None:
    """Data, noise, model, training, samples, pictures."""
    from functools import partial

    import ncsn
    from ncsn import distributed, plots
    from ncsn.learn import budgets, guidance, journal, results
    from ncsn.learn.study import Study
    from ncsn.machine import Threads
    from ncsn.progress import Clock

    # Data: some images are held out: those for validation show how learning goes, those for testing judge.
    group = distributed.join()
    clock = Clock()
    study = Study.shared(given, group, clock=clock)
    settings, folder = study.settings, study.folder

    # Noise: Gaussian noise of every size between σ_min and σ_max hides the images; the network learns to see through.
    noise = study.noise

    # Model: a U-Net that preconditioning makes a score.  Samples will move away from a guide: the same network without
    # the class, or where there are no classes a smaller one.
    state, guide = study.states()
    clock.lap("start-up")
    if study.compiles:
        console.compile_network(state.model.network, study.trial(state))
        clock.lap("compiling")
    threads = Threads() if settings.steps is None else None  # by steps, it is the same to the byte
    console.tell(threads)
    plan = budgets.planned(study, state)
    budget, guide_budget = budgets.left(study, plan)

    # Train: denoising score matching; at high noise, its target is the mean of all images that could be meant.
    signals: list[int] = []
    loss = ncsn.training_loss(noise, study.objective, generator=study.draws)
    train = partial(ncsn.train, loss=loss, group=group, signals=signals)
    watch = partial(console.watch, signals=signals, group=group, threads=threads, clock=clock)
    clock.lap("start-up")
    if guide is not None:
        progress = train(guide, study.batches(guide.model), budget=guide_budget)
        for _ in watch(progress, guide, folder / "guide", what="guide   "):
            pass
    progress = train(state, study.batches(state.model), budget=budget)
    written = journal.keep(study, state, guide, watch(progress, state, folder))
    if threads is not None:
        threads.release()
    if not group.leads:
        group.share()  # all that follows is one process' work, and ends with a word to the others
        return

    # Guide: how far samples move away from it, held-out images decide; not at all, if that makes them worse.
    run = study.run(state, guide)
    if study.chooses and not plan.trials:
        print("guidance 1: there is too little time, or too few held-out images, to choose another")
    if plan.trials:
        tried = guidance.trials(run, study.held_out, study.features, plan.trials, seed=settings.seed)
        trials = list(console.bar(tried, "choosing guidance", total=1 + len(guidance.weights(run.recipe))))
        choice = guidance.best(trials)
        print(guidance.said(choice, trials, plan.trials, study.features))
        run = study.with_guidance(run, choice)
        clock.lap("choosing guidance")

    # Sample: noise becomes images on the way down the noise levels; beside ours, by the paper's Langevin dynamics.
    drawn = drawing.draw(run, settings.samples, seed=settings.seed, keep=min(settings.samples, SHOWN))
    annealed = drawing.draw(run, plan.annealed, seed=settings.seed, sampler="annealed")
    clock.lap("samples")

    # Draw
    plots.image_grid(drawn.samples, folder / "samples.png")
    plots.image_grid(annealed.samples, folder / "samples_annealed.png")
    plots.evolution(drawn.path, folder / "evolution.png")
    plots.evolution_animation(drawn.path, folder / "evolution.gif")
    plots.loss_curves(written.rows, journal.BAND_NAMES, folder / "loss.png")
    clock.lap("pictures")
    results.write_results(study, state, written, drawn, annealed)
    for remark in results.remarks(study, state, drawn):
        print(remark)
    print(f"{folder / 'samples.png'}: {drawn.cost}")
    print(f"{folder / 'samples_annealed.png'}: {annealed.cost}")
    print(f"{folder}: also evolution.png, evolution.gif, loss.png, metrics.json; more with `ncsn sample {folder}`")
    group.share()
