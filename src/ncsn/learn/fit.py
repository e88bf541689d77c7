"""The one maker of runs: data, noise, model, training, the best average, guidance."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ncsn.data import Dataset, Reading, batches
from ncsn.data.dataset import from_arrays, images_of, rows_of, signals_of, stream
from ncsn.data.tables import table_of
from ncsn.data.units import reals
from ncsn.distributions import Empirical
from ncsn.evaluation import metrics
from ncsn.learn import guidance, rules
from ncsn.learn.record import BANDS, LEARNING, Record, left, verdict
from ncsn.learn.settings import Job, ResolvedSettings, TrainSettings
from ncsn.machine import hardware
from ncsn.noise import Proposal
from ncsn.objectives import Batch, Objective, dsm, posterior_dsm, training_loss
from ncsn.run import Recipe, Run, plain, write_model
from ncsn.training import Budget, Progress, Row, State, muon_and_adam, train
from ncsn.validation import DeviceName

DataFrame: TypeAlias = Any  # pandas', which is not needed here
Classes = Tensor | np.ndarray | Sequence[int | str] | None
Losses = tuple[Float[Tensor, "v"], Float[Tensor, "v"]]


def fit(
    data: "Tensor | np.ndarray | Dataset | DataFrame",
    *,
    minutes: float | None = None,
    steps: int | None = None,
    labels: Classes = None,
    network: nn.Module | None = None,
    objective: Objective | None = None,
    noise: Proposal | None = None,
    sampler: str | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    device: DeviceName = "auto",
    signals: bool = False,
    settings: TrainSettings | None = None,
    record: Record | None = None,
) -> Run:
    """Learn the score of data; returns a run that samples, measures and saves itself.

    It learns as ``ncsn train`` does.  A tenth of the examples says which average of the weights is the best; another
    tenth is left, to judge samples by.  It standardises points column by column (``Units``).  The run remembers how,
    so samples, log densities and posteriors are in the units of the data.  Images have their classes, a guide, and the
    guidance that the held-out images choose.

    ``data``: points (n, d) or a DataFrame, of which rows with blanks and columns that do not vary are left out; or
    images (n, c, h, w), (n, h, w, c) or (n, h, w): bytes, or numbers in [0, 1]; a tensor, an array or a list; or a data
    set, as ``load_images`` returns it.
    ``minutes``: how long to train, samples and pictures included; one minute by default, with ``settings`` theirs.
    ``steps``: how many steps to train instead.
    ``labels``: the class of each image, a number or a name: better samples, and ``run.sample(label=...)``.
    ``network``: one of your own, network(x, c) → like x with c = ¼ ln σ; by default an MLP, or a U-Net.
    ``objective``: how scores are trained, see ``training_loss``; by default ``dsm``.
    ``noise``: where training draws its noise levels, in standard deviations of points.  Samples descend from its
    ``sigma_max`` to its ``sigma_min``, if it has them.
    ``sampler``: a name in ``SAMPLERS``; by default dpmpp-sde.
    ``batch_size``: by default 512 points, or what suits images; at most all examples.
    ``seed``: the same one gives the same run on one machine, if it trains by steps; by default 0.
    ``device``: auto, cpu, cuda or mps.
    ``signals``: the array holds signals (n, channels, length), or (n, length) of one channel, or volumes (n, channels,
    d, h, w): real numbers, whose location and scale the run remembers for each channel.
    ``settings``: those of ``ncsn train``.  An argument that is given beside them wins.
    ``record``: a folder that keeps the training, see ``Record``; by default nothing is written.
    Raises ValueError for data that has no density to learn: another shape, fewer than ten examples, a constant column,
    numbers that are not finite; and for two budgets, or a sampler that is not known.

    >>> data = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1000.0])
    >>> run = ncsn.fit(data, steps=50)  # doctest: +ELLIPSIS
    1,000 rows, 2 columns, ...
    >>> run.sample(100).shape
    torch.Size([100, 2])
    """
    options = {"minutes": minutes, "steps": steps, "sampler": sampler, "batch_size": batch_size, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    # Gradients are on, and what is drawn from torch's global generator on the way is the user's again afterwards.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        if isinstance(data, Dataset):
            dataset = data
        else:
            dataset = data_of(data, labels, signals=signals or (settings is not None and settings.signals))
        settings = settings or TrainSettings(minutes=1.0, job=Job(device=device))
        name = {} if record else {"dataset": dataset.name}  # a record says where they are
        budget = {"minutes": None, "steps": None} if {"minutes", "steps"} & given.keys() else {}
        ends = {name: getattr(noise, name) for name in ("sigma_max", "sigma_min") if hasattr(noise, name)}
        chosen = replace(settings, **name | budget | ends | given, signals=dataset.noun == "signals")
        return fit_images(dataset, chosen, network, objective, noise, record or Record())


def data_of(data: "Tensor | np.ndarray | DataFrame", labels: Classes, *, signals: bool) -> Dataset:
    """The data set that a file of them would be.  Raises ValueError for labels of others."""
    if np.ma.is_masked(data):
        raise ValueError("data has masked values; leave these examples out, or fill them")
    x: Any = data
    if not hasattr(data, "columns"):
        tensor = data.detach() if isinstance(data, Tensor) else torch.as_tensor(np.ascontiguousarray(data))
        x = tensor.cpu().numpy()
    if x.ndim == 2 and not (signals and isinstance(x, np.ndarray)):
        if labels is not None:
            raise ValueError("labels are for images; a column of a table may be a class")
        return rows_of("data", table_of(x))
    arrays = {"images": x}
    if labels is not None:
        arrays["labels"] = np.asarray(labels)
        if arrays["labels"].shape != x.shape[:1]:
            raise ValueError(f"labels has shape {arrays['labels'].shape}; one for each of {len(x)} images is needed")
    return signals_of("data", arrays) if signals else images_of("data", from_arrays("data", arrays), Reading())


def fit_images(
    dataset: Dataset,
    given: TrainSettings,
    network: nn.Module | None,
    objective: Objective | None,
    noise: Proposal | None,
    record: Record,
) -> Run:
    """The run of a data set."""
    device, group = hardware.choose_device(given.job.device), record.group
    # In one dimension a processor is no faster in 16 bits.
    wish = "fp32" if dataset.units is not None and given.job.precision == "auto" else given.job.precision
    precision = hardware.choose_precision(wish, device)
    if hardware.emulated(precision, device):
        print(f"precision {precision}: this processor may emulate it, many times slower than fp32")
    hardware.allow_tf32(precision != "fp32")
    # Large products beside the network are in 16 bits, too; float16's numbers end too early for them.
    products = torch.bfloat16 if precision == "bf16" else torch.float32

    # Data, and noise: what is not given follows from the images.
    for line in (dataset.describe(), *dataset.said):
        print(line)
    settings = rules.resolve(given, dataset, device)
    noise = noise or rules.noise_of(settings)
    train_labels = validation_labels = None
    if settings.class_conditional and dataset.labels is not None:
        train_labels, validation_labels = dataset.labels.train.to(device), dataset.labels.validation.to(device)
    shares = group.size * settings.accumulate
    if shares > settings.batch_size:
        raise ValueError(f"batch_size is {settings.batch_size}; at least {shares} are needed, one for each share")
    # Every process takes its shares of a batch, all of one size; a batch may so become a little larger.
    size = -(-settings.batch_size // shares)

    # Model: a network and its guide.  What could not be trained or sampled ends here, before anything is written.
    recipe, smaller = rules.recipes(settings, dataset, network)
    recipe.sampling.but(sampler="annealed")
    recipe.build(network=network)(torch.zeros(1, *recipe.shape), 1.0)
    generator = torch.Generator(device).manual_seed(settings.seed)
    torch.default_generator.manual_seed(settings.seed)  # for initial weights; every step has numbers of its own

    def beginning(recipe: Recipe, network: nn.Module | None = None) -> State:
        mean, std = dataset.statistics
        centre = 0.0 if recipe.preconditioning == "scaled" else mean  # NCSNv2's network centres pixels itself
        model = recipe.build(centre, std, network=network, autocast=hardware.autocast_of(precision)).to(device)
        rates = {"muon_rate": settings.muon_rate, "adam_rate": settings.adam_rate}
        return State(model, muon_and_adam(model, **rates, products=products), generator=generator, seed=settings.seed)

    state = beginning(recipe, network)
    guide = None if smaller is None else beginning(smaller)
    run = Run(
        score=state.average,
        recipe=recipe,
        guide=None if guide is None else guide.average,
        guide_recipe=smaller,
        units=dataset.units,
        device=device,
        folder=record.folder,
        settings=plain(asdict(settings)),
        origin=record.origin,
    )
    record.begin(run, state)
    long = rules.takes_long(settings)
    if long and settings.compile:
        shown, sigma = torch.zeros(size, *recipe.shape, device=device), torch.ones(size, device=device)
        # Compiling takes minutes beside a busy program: a quarter of the budget at most.
        quarter = 15 * (settings.minutes or 0.0)
        hardware.compile_network(state.model.network, lambda: state.model(shown, sigma), seconds=quarter)
    chooses = group.is_main and settings.guidance == "chosen" and (smaller is not None or recipe.num_classes > 0)
    features = guidance.suited(dataset, device, thorough=long) if chooses else None

    # Training, by the leading process' clock: the guide, then the network.
    examples, target = training_set(dataset, train_labels, settings, device, products)
    elapsed = float(group.broadcast(repr(time.perf_counter() - record.began).encode()))
    budget, guide_budget = rules.budgets(settings, elapsed, guided=guide is not None)
    if budget.fraction(state.step, state.seconds) >= 1:
        print(f"nothing is left to train after {state.step:,} steps; a longer --steps or --minutes goes on")

    def steps(state: State, budget: Budget) -> Iterator[Progress]:
        classes = train_labels if state.model.num_classes else None
        if dataset.shards is None:
            drawn = batches(examples, size, classes, flip=settings.flip, generator=generator)
        else:
            known = classes is not None
            drawn = stream(dataset, settings.reading, size, generator, labels=known, flip=settings.flip)
        loss = training_loss(noise, objective or target, generator=generator)
        accumulate = settings.accumulate
        progress = train(state, drawn, loss, budget=budget, group=group, accumulate=accumulate, signals=record.signals)
        # By steps the number of threads stays, for then the result is the same to the byte.
        return progress if budget.seconds is None else hardware.Threads().beside(progress)

    if guide is not None and smaller is not None:
        record.begin(replace(run, recipe=smaller), guide, "guide")
        for _ in record.watch(steps(guide, guide_budget), guide, part="guide"):
            pass
    held_out = Batch(dataset.validation.to(device), validation_labels)
    # Rows cost little, and few of them are soon learned by heart.
    sizes, rows, slack = ((4096,), 100, 0.0) if dataset.columns else ((256, 256), 10, LEARNING)
    judge = partial(held_out_losses, state, held_out, noise, sizes)
    learn(steps(state, budget), state, judge, record, rows=rows, slack=slack)
    if group.is_main:
        print(verdict(state.rows, dataset.n))

    # Guidance: how far samples move away from the guide, by held-out images.
    if features is not None:
        seen = state.step * settings.batch_size
        weight = guidance.chosen_weight(run, dataset, features, seen=seen, seed=settings.seed)
        run = replace(run, recipe=replace(recipe, sampling=recipe.sampling.but(guidance=weight)))
        record.describe(run)
    return run


def training_set(
    dataset: Dataset, labels: Tensor | None, settings: ResolvedSettings, device: torch.device, products: torch.dtype
) -> tuple[Shaped[Tensor, "n c *d"], Objective]:
    """What a network learns from images: denoising, at high noise towards the score of the whole training set."""
    # Where they would take much of the device's memory, they stay where they are.
    there = dataset.train.nbytes <= hardware.memory_of(device) // 4
    train = dataset.train.to(device) if there else dataset.train
    if settings.posterior_above >= settings.sigma_max:
        return train, dsm
    images = reals(train)
    if settings.flip:
        images, labels = torch.cat([images, images.flip(-1)]), None if labels is None else labels.repeat(2)
    everything = Empirical(images, labels, dtype=products)
    return train, partial(posterior_dsm, data_score=everything, above=settings.posterior_above)


@torch.no_grad()
def held_out_losses(state: State, examples: Batch, noise: Proposal, sizes: Sequence[int]) -> Losses:
    """Denoising losses of the average on held-out examples, always with the same noise, and their noise levels."""
    generator = torch.Generator(examples.x.device).manual_seed(0)
    loss = training_loss(noise, drop_label=0.0, generator=generator)
    with hardware.nothing_compiled():
        parts = [loss(state.average, next(batches(examples.x, n, examples.label, generator=generator))) for n in sizes]
    losses, sigmas = zip(*parts, strict=True)
    return torch.cat(losses).cpu(), torch.cat(sigmas).cpu()


def learn(
    progress: Iterable[Progress], state: State, judge: Callable[[], Losses], record: Record, rows: int, slack: float
) -> None:
    """Train, and note ``rows`` rows: of the losses since the last one, and of held-out examples.

    ``judge``: the losses of ``state.average`` on held-out examples, and their noise levels.
    In the end ``state.average`` is the average of the weights that was best on held-out examples, if their loss has
    risen by a share of ``slack`` since: with few examples it does, once the network knows the others by heart.
    The sum for the next row and the best average are in the checkpoint, as the rows are: a kill changes nothing.
    """
    weights = state.average.state_dict()
    best = {name: state.kept.setdefault(f"best.{name}", tensor.clone()) for name, tensor in weights.items()}
    total = state.kept.setdefault("total", torch.zeros(2).double())  # of the losses, and how many they are
    record.rows, done = state.rows, -1
    for p in record.watch(progress, state):
        if done < 0:  # a run that goes on has some of its budget behind it
            done = int(rows * min(1.0, p.fraction) * (p.step - 1) / p.step + 1e-9)
        total += torch.tensor([p.losses.double().sum().item(), len(p.losses)])
        if p.fraction < min(1.0, (done + 1) / rows):
            continue
        done += 1
        losses, sigmas = judge()
        row = Row(
            step=p.step,
            loss=(total[0] / total[1]).item(),
            validation_loss=losses.mean().item(),
            validation_bands=metrics.binned(losses, sigmas, BANDS),
            seconds=p.seconds,
        )
        total.zero_()
        state.rows.append(row)
        record.write_rows()
        if row.validation_loss <= min(row.validation_loss for row in state.rows):
            for name, tensor in weights.items():
                best[name].copy_(tensor)
    if state.rows and left(state.rows, slack) is not state.rows[-1]:
        state.average.load_state_dict(best)
        if record.writes:
            write_model(record.path(), state.average, record.units, origin=record.origin)
