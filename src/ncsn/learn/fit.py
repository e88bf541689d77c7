"""The one maker of runs: data, noise, model, training, the best average, guidance."""

import copy
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ncsn import plots
from ncsn.data import Images as Pictures
from ncsn.data import Reading, batches, shards
from ncsn.data.images import images_of
from ncsn.data.pixels import reals
from ncsn.data.sources import from_arrays
from ncsn.distributions import Empirical
from ncsn.evaluation import as_bytes, metrics
from ncsn.learn import guidance, rules
from ncsn.learn.record import BANDS, LEARNING, Record, Tally, left, verdict
from ncsn.learn.settings import ImageJob, Images, ResolvedImages
from ncsn.machine import hardware
from ncsn.noise import Proposal
from ncsn.objectives import Batch, Objective, dsm, posterior_dsm, training_loss
from ncsn.run import Recipe, Run, Units, plain, write_model
from ncsn.score import ScoreModel
from ncsn.training import Budget, Progress, Row, State, muon_and_adam, train
from ncsn.validation import DeviceName

FEW = 1000  # examples, below which what is learned may be the examples themselves
PREVIEW = 3  # rows after each of which images are drawn, into the run's folder
FIGURES = 4  # seconds that they take
BEST = "best."  # how the names of the best average's weights begin in a checkpoint
Losses = tuple[Float[Tensor, "v"], Float[Tensor, "v"]]
PICTURES = ("samples.png", "samples_annealed.png", "evolution.png", "evolution.gif", "loss.png")


def fit(
    data: "Tensor | np.ndarray | Pictures",
    *,
    minutes: float | None = None,
    steps: int | None = None,
    labels: "Tensor | np.ndarray | Sequence[int | str] | None" = None,
    network: nn.Module | None = None,
    recipes: tuple[Recipe, Recipe | None] | None = None,
    objective: Objective | None = None,
    noise: Proposal | None = None,
    sampler: str | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    device: DeviceName = "auto",
    settings: Images | None = None,
    record: Record | None = None,
) -> Run:
    """Learn the score of ``data``; returns a run that samples, measures and saves itself.

    A tenth of the examples is held out, and of all averages of the weights on the way the one is kept that is best on
    them.  Points are standardised coordinate by coordinate, which the run remembers, so that samples, log densities and
    posteriors are in the units of the data.  Images are learned as ``ncsn train`` learns them: with their classes, a
    guide, and the guidance that held-out images choose.

    ``data``: points (n, d), or images (n, c, h, w), (n, h, w, c) or (n, h, w): bytes, or numbers in [0, 1]; a tensor,
    an array or a list; or a data set of images, as ``load_images`` returns it.
    ``minutes``, ``steps``: how long to train; one minute by default.
    ``labels``: the class of each image, a number or a name: better samples, and ``run.sample(label=...)``.
    ``network``: one of your own, network(x, c) → like x with c = ¼ ln σ; by default an MLP, or a U-Net.
    ``recipes``: of images instead, how the network and its guide are built; by default what ``settings`` say.
    ``objective``: how scores are trained, see ``training_loss``.  ``noise``: where training draws its noise levels, in
    standard deviations of points; samples descend from its ``sigma_max`` to its ``sigma_min``, if it has them.
    ``sampler``: a name in ``METHODS``, by default dpmpp-sde.  ``batch_size``: by default 512 points, or what suits
    images; at most all.  ``seed``: the same one gives the same run on one machine, if it goes by steps; by default 0.
    ``device``: auto, cpu, cuda or mps.
    ``settings``: of a training on images, those of ``ncsn train``; what is given beside them counts.
    ``record``: a folder that keeps the training, see ``Record``; by default nothing is written.
    Raises ValueError for data that has no density to learn: another shape, fewer than ten examples, a constant column,
    numbers that are not finite; and for two budgets, or a sampler that is not known.
    """
    options = {"minutes": minutes, "steps": steps, "sampler": sampler, "batch_size": batch_size, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    record = Record() if record is None else record
    # Gradients are on, and what is drawn from torch's global generator on the way is the user's again afterwards.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        x = data if isinstance(data, Pictures) else checked(data)
        if isinstance(x, Tensor) and x.ndim == 2:
            if labels is not None or settings is not None or record.folder is not None:
                raise ValueError("labels, settings and record are for images; run.save(FOLDER) keeps what points gave")
            return fit_points(x, hardware.choose_device(device), network, objective, noise, record, **given)
        budget = {"minutes": None, "steps": None} if {"minutes", "steps"} & given.keys() else {}
        chosen = replace(settings or Images(job=ImageJob(device=device)), **budget | given)
        pictures = pictures_of(x.cpu().numpy(), labels) if isinstance(x, Tensor) else x
        if record.folder is None:  # which says where images are, and else their name is known at most
            chosen = replace(chosen, dataset=pictures.name)
        return fit_images(pictures, chosen, network, recipes, objective, noise, record)


def checked(data: "Tensor | np.ndarray") -> Tensor:
    """Data as bytes or as reals.  Raises ValueError for what has no density to learn."""
    x = data.detach() if isinstance(data, Tensor) else torch.as_tensor(np.ascontiguousarray(data))
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"data has shape {tuple(x.shape)}; points (n, d) or images (n, c, h, w) are needed")
    if len(x) < 10:
        raise ValueError(f"data holds {len(x)} examples; at least 10 are needed, and a thousand to learn much")
    if x.is_complex():
        raise ValueError("data is complex; real numbers are needed: give real and imaginary parts as two columns")
    if x.ndim > 2 and x.dtype == torch.uint8:
        return x
    x = x if x.dtype in (torch.float32, torch.float64) else x.double()
    wrong = int((~x.isfinite()).sum())
    if wrong:
        raise ValueError(f"data has {wrong} numbers that are NaN or infinite; remove or fill in their rows")
    low, high = float(x.min()), float(x.max())
    if x.ndim > 2 and (low < 0 or high > 1):
        raise ValueError(f"data has pixels from {low:g} to {high:g}; bytes, or numbers from 0 to 1, are needed")
    return x if x.ndim == 2 else x.float()


def fit_points(
    x: Float[Tensor, "n d"],
    device: torch.device,
    network: nn.Module | None,
    objective: Objective | None,
    noise: Proposal | None,
    record: Record,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    sampler: str = "dpmpp-sde",
    batch_size: int = 512,
    seed: int = 0,
) -> Run:
    """The run of a table of numbers."""
    minutes = 1.0 if minutes is None and steps is None else minutes
    budget = Budget(steps=steps, seconds=None if minutes is None else 60 * minutes)
    if len(x) < FEW:
        warnings.warn(f"{len(x)} examples are few: samples may be copies of them", stacklevel=3)
    generator = torch.Generator(device).manual_seed(seed)
    order = torch.randperm(len(x), generator=generator, device=device).to(x.device)
    held_out, rest = order[: len(x) // 10], order[len(x) // 10 :]
    units = Units.of(x[rest])
    z = units.standardise(x).float().to(device)
    recipe = rules.recipe_of_points(z[rest], network, noise, sampler)
    noise = rules.noise_of_points(recipe) if noise is None else noise
    torch.default_generator.manual_seed(seed)  # for the initial weights; everything else draws from the generator
    state = State(recipe.build(network=network).to(device), generator=generator)
    stream = batches(z[rest], min(batch_size, len(rest)), generator=generator)
    progress = train(state, stream, training_loss(noise, objective or dsm, generator=generator), budget=budget)
    judge = partial(held_out_losses, examples=Batch(z[held_out]), noise=noise, sizes=(4096,))
    for _ in learn(progress, state, judge, record, rows=40, slack=0.0):
        pass
    print(f"{verdict(record.rows, len(x))}; {state.step} steps, {record.passed:.0f} s", file=sys.stderr)
    settings = {"minutes": minutes, "steps": steps, "seed": seed, "examples": len(x)}
    return Run(score=state.average, recipe=recipe, units=units, experiment="fit", settings=settings).to(device)


def pictures_of(x: Shaped[np.ndarray, "n ..."], labels: "Tensor | np.ndarray | Sequence[int | str] | None") -> Pictures:
    """Images as the data set that a file of them would be.  Raises ValueError for labels of other images."""
    arrays = {"images": x}
    if labels is not None:
        arrays["labels"] = np.asarray(labels)
        if arrays["labels"].shape != x.shape[:1]:
            raise ValueError(
                f"labels has shape {arrays['labels'].shape} for {len(x)} images; a class for each is needed"
            )
    return images_of("data", from_arrays("data", arrays), Reading())


def fit_images(
    pictures: Pictures,
    given: Images,
    network: nn.Module | None,
    recipes: tuple[Recipe, Recipe | None] | None,
    objective: Objective | None,
    noise: Proposal | None,
    record: Record,
) -> Run:
    """The run of a data set of images."""
    device, group = hardware.choose_device(given.job.device), record.group
    precision = hardware.choose_precision(given.job.precision, device)
    if hardware.emulated(precision, device):
        print(f"precision {precision}: this processor may emulate it, many times slower than fp32")
    if given.minutes is None and given.steps is None:
        given = replace(given, minutes=1.0)
    if noise is not None:
        known = {name: getattr(noise, name) for name in ("sigma_max", "sigma_min") if hasattr(noise, name)}
        given = replace(given, **known)
    settings = rules.resolve(given, pictures, device)
    record.settings = record.settings or settings
    noise = rules.noise_of(settings) if noise is None else noise
    recipe, smaller = recipes or rules.recipes(settings, pictures, network)
    # Large products beside the network are in 16 bits, too; float16's numbers end too early for them.
    products = torch.bfloat16 if precision == "bf16" else torch.float32
    examples, target = training_set(settings, pictures, products)
    turns, shares = settings.accumulate, group.size * settings.accumulate
    if shares > settings.batch_size:
        raise ValueError(f"batch_size is {settings.batch_size}; {group.size} processes of {turns} turns need {shares}")
    # Every process takes its shares of a batch, all of one size; a batch may so become a little larger.
    size = -(-settings.batch_size // shares)
    generator = torch.Generator(device).manual_seed(settings.seed)

    # What could not be trained or sampled ends here, before anything is written.
    recipe.sampling.but(sampler="annealed")
    recipe.build(network=network)(torch.zeros(1, *recipe.shape), 1.0)
    for line in (pictures.describe(), *pictures.said):
        print(line)
    if len(pictures.train) < FEW:
        print(f"{len(pictures.train)} images are few to train on: samples may be copies of them")
    record.claim(given.job, PICTURES)

    hardware.allow_tf32(precision != "fp32")
    torch.default_generator.manual_seed(settings.seed)  # for initial weights; every step has numbers of its own

    def begun(recipe: Recipe, network: nn.Module | None = None, part: str = "") -> State:
        mean, std = pictures.statistics
        centre = 0.0 if recipe.preconditioning == "scaled" else mean  # NCSNv2's network centres pixels itself
        model = recipe.build(centre, std, network=network, autocast=hardware.autocast_of(precision)).to(device)
        rates = {"muon_rate": settings.muon_rate, "adam_rate": settings.adam_rate}
        optimizers = muon_and_adam(model, **rates, products=products)
        state = State(model, optimizers, generator=generator, seed=settings.seed)
        record.begin(state, recipe, part)
        return state

    def steps(state: State, budget: Budget) -> Iterator[Progress]:
        labels = examples.label if state.model.classes else None
        if pictures.shards is None:
            stream = batches(examples.x, size, labels, flip=settings.flip, generator=generator)
        else:
            known = labels is not None
            stream = shards.stream(pictures, settings.reading, size, generator, labels=known, flip=settings.flip)
        loss = training_loss(noise, objective or target, generator=generator)
        progress = train(state, stream, loss, budget=budget, group=group, turns=turns, signals=record.signals)
        # By steps the number of threads stays, for then the result is the same to the byte.
        return progress if budget.seconds is None else hardware.Threads().beside(progress)

    state, guide = begun(recipe, network), None if smaller is None else begun(smaller, part="guide")
    if rules.compiles(settings):
        shown, sigma = torch.zeros(size, *recipe.shape, device=device), torch.ones(size, device=device)
        hardware.compile_network(state.model.network, lambda: state.model(shown, sigma))
    run = Run(
        score=state.average,
        recipe=recipe,
        guide=None if guide is None else guide.average,
        guide_recipe=smaller,
        device=device,
        folder=record.folder,
        experiment="images",
        settings=plain(asdict(settings)),
        origin=record.origin,
    )
    chooses = group.leads and settings.guidance == "chosen" and (smaller is not None or recipe.classes > 0)
    features = guidance.suited(pictures, device, thorough=rules.thorough(settings, device)) if chooses else None
    elapsed = record.passed + (FIGURES if record.writes else 0)
    elapsed = float(group.share(repr(elapsed).encode()).decode())  # by the leading clock
    budget, guide_budget = rules.budgets(settings, elapsed, guided=guide is not None)
    if guide is not None:
        for _ in record.watch(steps(guide, guide_budget), guide, part="guide", what="guide   "):
            pass
    labels = pictures.labels.validation.to(device) if settings.classes and pictures.labels is not None else None
    held_out = Batch(pictures.validation.to(device), labels)
    judge = partial(held_out_losses, examples=held_out, noise=noise, sizes=(256, 256))
    for row in learn(steps(state, budget), state, judge, record, rows=10, slack=LEARNING):
        if record.writes and len(record.rows) % PREVIEW == 0:
            with hardware.nothing_compiled():
                x = run.sample(20, seed=settings.seed)
            plots.image_grid(x.cpu(), record.path(f"samples_{row.step:06}.png"))
    if record.rows and group.leads:
        print(verdict(record.rows, pictures.n))
    if features is None:
        return run
    weight = guidance.chosen_weight(run, settings, as_bytes(pictures.validation), features)
    run = replace(run, recipe=replace(recipe, sampling=recipe.sampling.but(guidance=weight)))
    record.describe(run.recipe)
    return run


def training_set(settings: ResolvedImages, pictures: Pictures, products: torch.dtype) -> tuple[Batch, Objective]:
    """What a network learns from images: denoising, at high noise towards the score of the whole training set."""
    device = hardware.choose_device(settings.job.device)
    # Where they would take much of the device's memory, they stay where they are.
    there = pictures.train.nbytes <= hardware.memory_of(device) // 4
    train = pictures.train.to(device) if there else pictures.train
    classes = pictures.labels.train.to(device) if settings.classes and pictures.labels is not None else None
    if settings.posterior_above >= settings.sigma_max:
        return Batch(train, classes), dsm
    images, every = reals(train), classes
    if settings.flip:
        images, every = torch.cat([images, images.flip(-1)]), None if classes is None else classes.repeat(2)
    everything = Empirical(images, every, dtype=products)
    return Batch(train, classes), partial(posterior_dsm, data_score=everything, above=settings.posterior_above)


@torch.no_grad()
def held_out_losses(model: ScoreModel, *, examples: Batch, noise: Proposal, sizes: Sequence[int]) -> Losses:
    """Denoising losses on batches of held-out examples, always with the same noise, and their noise levels."""
    generator = torch.Generator(examples.x.device).manual_seed(0)
    loss = training_loss(noise, drop_label=0.0, generator=generator)
    with hardware.nothing_compiled():
        parts = [loss(model, next(batches(examples.x, n, examples.label, generator=generator))) for n in sizes]
    losses, sigmas = zip(*parts, strict=True)
    return torch.cat(losses).cpu(), torch.cat(sigmas).cpu()


def learn(
    progress: Iterable[Progress],
    state: State,
    judge: Callable[[ScoreModel], Losses],
    record: Record,
    *,
    rows: int,
    slack: float,
) -> Iterator[Row]:
    """Train, and yield ``rows`` rows, of losses averaged since the last one.

    ``judge``: the losses of a model on held-out examples, and their noise levels.
    In the end ``state.average`` is the average of the weights that was best on held-out examples, if their loss has
    risen by a share of ``slack`` since: with few examples it does, once the network knows the others by heart.
    What a row needs of the steps before it, and the best average, are kept in the checkpoint.
    """
    best = copy.deepcopy(state.average)
    weights = {name.removeprefix(BEST): tensor for name, tensor in state.kept.items() if name.startswith(BEST)}
    if weights and record.rows:
        best.load_state_dict(weights)
    state.kept |= {BEST + name: tensor for name, tensor in best.state_dict().items()}
    tally, done = Tally(state.kept), -1
    for p in record.watch(progress, state):
        if done < 0:  # a run that goes on has some of its budget behind it
            done = int(rows * min(1.0, p.fraction) * (p.step - 1) / p.step + 1e-9)
        tally.add(p.losses, p.sigmas)
        if p.fraction < min(1.0, (done + 1) / rows):
            continue
        done += 1
        losses, sigmas = judge(state.average)
        mean, bands = tally.close()
        row = Row(
            step=p.step,
            loss=mean,
            bands=bands,
            validation_loss=losses.mean().item(),
            validation_bands=metrics.binned(losses, sigmas, BANDS),
            seconds=p.seconds,
            images_per_second=p.examples_per_second,
        )
        record.write(row)
        if row.validation_loss <= min(row.validation_loss for row in record.rows):
            best.load_state_dict(state.average.state_dict())
        yield row
    if record.rows and left(record.rows, slack) is not record.rows[-1]:
        state.average.load_state_dict(best.state_dict())
        if record.writes:
            write_model(record.path(), state.average)
