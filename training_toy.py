"""Learn the score of a distribution in the plane, look at it, and sample from it.

python ./training_toy.py --generator circle      # where is a learned score right, and where is it wrong?
python ./training_toy.py --generator gaussian    # why Langevin dynamics needs many noise levels
"""

import sys

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

from ncsn.cli.interrupts import quit_on_signals

quit_on_signals()
from ncsn import plots
from ncsn.cli import console, drawing
from ncsn.learn import toy
from ncsn.learn.results import write_toy_results
from ncsn.learn.settings import Toy
from ncsn.learn.toy import VIEW, Study


def main(given: Toy) -> None:
    """Data, noise, model, training, samples, pictures."""
    # Data: points in the plane, of a distribution whose score is known exactly at every noise level.
    study = Study.of(given)
    settings, truth, folder = study.settings, study.truth, study.folder

    # Noise: a ladder of levels; at its top noise joins all modes, at its bottom it does not matter.
    noise = study.noise

    # Model: a multilayer perceptron that preconditioning makes a score.
    state = study.state()

    # Train: by denoising score matching, or by an objective that needs no noise.
    batches = ncsn.batches(study.data, settings.batch_size, generator=state.generator)
    loss = ncsn.training_loss(noise, study.objective, generator=state.generator)
    signals: list[int] = []
    progress = ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=settings.steps), signals=signals)
    for _ in console.watch(progress, state, folder, signals):
        pass
    run = study.run(state)

    # Look: is the score right near the data, and where there is none?
    numbers: dict[str, object] = {}
    if settings.view in ("field", "both"):
        sigmas = noise.sigmas().tolist()
        shown = list(dict.fromkeys([sigmas[-1], sigmas[settings.levels * 3 // 8]]))
        plots.score_field(run.score, truth, shown, study.data, folder / "score_field.png", view=VIEW)
        numbers["levels"] = toy.score_errors(study, run, plots.plane(VIEW, 120, device=study.device)[1])

    # Sample: Langevin dynamics on the smallest noise level, and annealed down the ladder with as many steps.
    if settings.view in ("samples", "both"):
        compared = toy.compare_samplers(study, run, drawing.draw)
        order = [
            ["data", "langevin, learned score", "annealed, learned score"],
            ["start", "langevin, exact score", "annealed, exact score"],
        ]
        panels = [[toy.titled(name, compared.panels[name], truth) for name in row] for row in order]
        plots.scatter_panels(panels, folder / "samples.png", view=VIEW)
        plots.trajectories(compared.way, folder / "trajectories.gif", view=VIEW)
        numbers["samplers"] = compared.numbers

    write_toy_results(study, state, numbers)
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir() if p.suffix in ('.png', '.gif', '.json')))}")


if __name__ == "__main__":
    console.run(main, Toy)
