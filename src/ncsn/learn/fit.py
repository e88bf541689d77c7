"""The one maker of runs: data, noise, model, training, the best average, guidance."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from ncsn.conditional import ConditionalModel
from ncsn.data import Dataset, Reading, batches
from ncsn.data.dataset import SIGNALS, from_arrays, rows_of, stream
from ncsn.data.units import reals
from ncsn.distributions import Empirical
from ncsn.evaluation import metrics
from ncsn.evaluation.features import Features
from ncsn.learn import guidance, rules
from ncsn.learn.masks import masked, masked_batches
from ncsn.learn.mixture import fit_mixture
from ncsn.learn.record import BANDS, Record, left, until_spoiled, verdict
from ncsn.learn.settings import Job, ResolvedSettings, TrainSettings
from ncsn.machine import hardware
from ncsn.machine.distributed import Group
from ncsn.machine.messages import log, quieter
from ncsn.noise import Proposal
from ncsn.objectives import Batch, Objective, dsm, posterior_dsm, training_loss
from ncsn.run import Recipe, Run, load, plain, write_model
from ncsn.run.folder import CHECKPOINT
from ncsn.score import ScoreModel
from ncsn.training import Budget, Progress, Row, State, muon_and_adam, train
from ncsn.validation import DeviceName

DataFrame: TypeAlias = Any  # pandas', which is not needed here
Classes = Tensor | np.ndarray | Sequence[int | str] | None
OF_COLOURS_AND_CLASSES = ("stem.", "head.", "labels.")  # layers of a network
UNSETTLED = 100  # steps whose losses are on a GPU, at most
ONE_AT_A_TIME = threading.RLock()  # initial weights are drawn from torch's global generator


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
    device: DeviceName | None = None,
    signals: bool = False,
    settings: TrainSettings | None = None,
    start: Run | None = None,
    record: Record | None = None,
    quiet: bool = False,
) -> Run:
    """Learn the score of data; returns a run that samples, measures and saves itself.

    It learns as ``ncsn train`` does.  A tenth of the examples says which average of the weights is the best; another
    tenth is left, to judge samples by.  It standardises points column by column (``Units``).  The run remembers how,
    so samples, log densities and posteriors are in the units of the data.  Images have their classes, a guide, and the
    guidance that the held-out images choose.

    ``data``: points (n, d) or a DataFrame, with NaN for missing cells, whose columns that do not vary are left out; or
    images (n, c, h, w), (n, h, w, c) or (n, h, w): bytes, or numbers in [0, 1]; a tensor, an array or a list; or a data
    set, as ``load_dataset`` returns it.
    ``minutes``: how long to train, samples and pictures included; one minute by default, with ``settings`` theirs.
    ``steps``: how many steps to train instead.  A training of points ends earlier once the loss on held-out ones lies a
    quarter above its least.
    ``labels``: the class of each image, a number or a name: better samples, and ``run.sample(label=...)``; a data set
    has its own.
    ``network``: one of your own, network(x, c) → like x with c = ¼ ln σ; by default an MLP, or a U-Net.  Your own
    learns the joint density of points only, so it needs complete rows, and ``impute`` needs the package's.
    ``objective``: how scores are trained, see ``training_loss``; by default ``dsm``.
    ``noise``: where training draws its noise levels, in standard deviations of points.  Samples descend from its
    ``sigma_max`` to its ``sigma_min``, if it has them.
    ``sampler``: a name in ``SAMPLERS``; by default dpmpp-sde.
    ``batch_size``: by default 512 points, or what suits images; at most all examples.
    ``seed``: the same one gives the same run on one machine, if it trains by steps; by default 0.
    ``device``: auto, cpu, cuda or mps; by default that of the settings, which is auto.
    ``signals``: the array holds signals (n, channels, length), or (n, length) of one channel, or volumes (n, channels,
    d, h, w): real numbers, whose location and scale the run remembers for each channel.
    ``settings``: those of ``ncsn train``.  An argument that is given beside them wins.
    ``start``: a run whose weights training begins with, and whose network it takes, unless the settings say otherwise;
    of images or signals.  Layers that other colours or classes need begin anew.
    ``record``: a folder that keeps the training, see ``Record``; by default nothing is written.
    ``quiet``: print nothing, and show no progress bar; ``logging.getLogger("ncsn")`` does so for all of the package.
    Raises ValueError for data that has no density to learn: another shape, fewer than ten examples, a constant column,
    numbers that are not finite; and for two budgets, a sampler that is not known, labels of a data set, signals that
    are none, guidance of a network of one's own, or a run to start from whose network does not fit.

    >>> data = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1000.0])
    >>> run = ncsn.fit(data, steps=50)  # doctest: +ELLIPSIS
    1,000 rows, 2 columns, ...
    >>> run.sample(100).shape
    torch.Size([100, 2])
    """
    options = {"minutes": minutes, "steps": steps, "sampler": sampler, "batch_size": batch_size, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    given |= {"minutes": None, "steps": None} | given if {"minutes", "steps"} & given.keys() else {}
    base = TrainSettings(minutes=1.0) if settings is None else settings
    job = base.job if device is None else replace(base.job, device=device)
    ends = {name: getattr(noise, name) for name in ("sigma_max", "sigma_min") if hasattr(noise, name)}
    # Gradients are on, and what is drawn from torch's global generator on the way is the user's again afterwards.
    with (
        ONE_AT_A_TIME,
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
        quieter(logging.ERROR) if quiet else nullcontext(),
    ):
        dataset = dataset_of(data, labels, signals=signals or base.signals)
        place = {} if record else {"dataset": dataset.name}  # a record says where they are
        chosen = replace(base, **place | ends | given, job=job, signals=signals or base.signals)
        chosen = chosen if start is None else rules.like(chosen, start.settings)
        if start is not None and "start" in dataset.kind.refused:
            raise ValueError(f"start is given, which means nothing for {dataset.kind.noun}; leave it out")
        folder = record.folder if record is not None and job.resume else None
        goes_on = folder is not None and (folder / CHECKPOINT).exists()  # which has weights of its own
        if chosen.start is not None and start is None and not goes_on:
            start = load(chosen.start, device=job.device)
        return run_of(dataset, chosen, OwnParts(network, objective, noise, start), record or Record())


def dataset_of(data: "Tensor | np.ndarray | Dataset | DataFrame", labels: Classes, *, signals: bool) -> Dataset:
    """The data set that a file of them would be.  Raises ValueError for labels of others."""
    if isinstance(data, Dataset):
        if labels is not None:
            raise ValueError("labels are given beside a data set, which has its own; leave them out")
        if signals and data.kind is not SIGNALS:
            raise ValueError(f"signals is given, and the data set has {data.kind.noun}; leave it out")
        return data
    if np.ma.is_masked(data):
        raise ValueError("data has masked values; leave these examples out, or fill them")
    frame = hasattr(data, "columns")
    if frame and signals:
        raise ValueError("signals is given, and the data is a table; leave it out")
    x = np.empty((0, 0)) if frame else array_of(data)
    if labels is not None and x.ndim == 2 and not signals:
        raise ValueError("labels are for images; a column of a table may be a class")
    if frame:
        return rows_of("data", data)
    arrays = {"images": x}
    if labels is not None:
        arrays["labels"] = array_of(labels)
        if arrays["labels"].shape != x.shape[:1]:
            raise ValueError(f"labels has shape {arrays['labels'].shape}; one for each of {len(x)} images is needed")
    return from_arrays("data", arrays, Reading(signals=signals))


def array_of(data: Any) -> np.ndarray:
    """A tensor on any device, an array or a list, as an array."""
    if isinstance(data, Tensor):
        data = data.detach().cpu()
        data = (data.float() if data.dtype == torch.bfloat16 else data).numpy()  # numpy has no such numbers
    return np.ascontiguousarray(data)


@dataclass(frozen=True)
class OwnParts:
    """What a user gives instead of the package's own: each may be None."""

    network: nn.Module | None = None
    objective: Objective | None = None
    noise: Proposal | None = None
    start: Run | None = None

    def described(self, settings: ResolvedSettings) -> dict[str, Any]:
        """The settings as config.json keeps them, with the names of these parts, and without what they replace."""
        facts = plain(asdict(settings))
        if self.network is not None:
            facts |= {"network": rules.name_of(self.network), "channels": None, "blocks": None}
        if self.objective is not None:
            facts["objective"] = getattr(self.objective, "__qualname__", repr(self.objective))
        if self.noise is not None and self.noise != rules.noise_of(settings):
            facts |= {"proposal": repr(self.noise), "log_sigma_mean": None, "log_sigma_std": None}
        if self.start is not None and settings.start is None:
            facts["start"] = str(self.start.folder or "a run in memory")
        return facts


@dataclass(frozen=True)
class Lesson:
    """What the network and its guide are trained with: data, noise, objective, and where they compute."""

    dataset: Dataset
    settings: ResolvedSettings
    own: OwnParts
    record: Record
    device: torch.device
    precision: str
    generator: torch.Generator
    share: int  # of a batch: examples that a process learns from at a time

    @property
    def products(self) -> torch.dtype:
        """What large products beside the network are in; float16's numbers end too early for them."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def noise(self) -> Proposal:
        """Where noise levels are drawn from."""
        return self.own.noise or rules.noise_of(self.settings)

    @cached_property
    def labels(self) -> tuple[Tensor | None, Tensor | None]:
        """The classes of the training examples and of those for validation, if they are learned."""
        labels = self.dataset.labels
        if labels is None or not self.settings.class_conditional:
            return None, None
        return labels.train.to(self.device), labels.validation.to(self.device)

    @cached_property
    def examples(self) -> Shaped[Tensor, "n *d"]:
        """What is learned from; where it would take much of the device's memory, it stays where it is."""
        train = self.dataset.train
        return train.to(self.device) if train.nbytes <= hardware.memory_of(self.device) // 4 else train

    @cached_property
    def held_out(self) -> Batch:
        """What shows how the training goes."""
        return Batch(self.dataset.validation.to(self.device), self.labels[1])

    @cached_property
    def objective(self) -> Objective:
        """The user's, or denoising, at high noise towards the score of the whole training set."""
        settings, labels = self.settings, self.labels[0]
        if self.own.objective is not None:
            return self.own.objective
        if settings.posterior_above >= settings.sigma_max:
            return dsm
        examples = reals(self.examples)
        if settings.flip:
            examples = torch.cat([examples, examples.flip(-1)])
            labels = None if labels is None else labels.repeat(2)
        everything = Empirical(examples, labels, dtype=self.products)
        return partial(posterior_dsm, data_score=everything, above=settings.posterior_above)

    def state(self, recipe: Recipe, network: nn.Module | None = None, start: Run | None = None) -> State:
        """A model of the recipe at the beginning of its training, with the weights of ``start``."""
        mean, std = self.dataset.statistics
        centre: float | Tensor = mean
        how: dict[str, Any] = {"network": network, "autocast": hardware.autocast_of(self.precision)}
        if recipe.preconditioning == "scaled":  # NCSNv2's network centres pixels itself
            centre = 0.0
        elif recipe.preconditioning == "conditional":
            how["mixture"] = fit_mixture(self.dataset.train, self.dataset.validation)
        model = recipe.build(centre, std, **how).to(self.device)
        if start is not None:
            take_weights(model, start)
        rates = {"muon_rate": self.settings.muon_rate, "adam_rate": self.settings.adam_rate}
        optimizers = muon_and_adam(model, **rates, products=self.products)
        return State(model, optimizers, generator=self.generator, seed=self.settings.seed)

    def progress(self, state: State, budget: Budget, run: Run) -> Iterator[Progress]:
        """The training of a state; ``run``: what it is to become."""
        settings, labels = self.settings, self.labels[0] if state.model.num_classes else None
        how: dict[str, Any] = {"flip": settings.flip, "generator": self.generator}
        if self.dataset.shards is None:
            drawn = batches(self.examples, self.share, labels, **how)
        else:
            drawn = stream(self.dataset, settings.reading, self.share, labels=labels is not None, **how)
        if isinstance(state.model, ConditionalModel):
            drawn = masked_batches(state.model, drawn, self.dataset.n, self.generator)
        loss = training_loss(self.noise, self.objective, generator=self.generator)
        together: dict[str, Any] = {"group": self.record.group, "accumulate": settings.accumulate}
        progress = train(state, drawn, loss, budget=budget, signals=self.record.signals, **together)
        # By steps the number of threads stays, for then the result is the same to the byte.
        return progress if budget.seconds is None else hardware.Threads().beside(progress)


def run_of(dataset: Dataset, given: TrainSettings, own: OwnParts, record: Record) -> Run:
    """The run of a data set."""
    device = hardware.choose_device(given.job.device)
    if not isinstance(given, ResolvedSettings):  # else who resolved them has said it
        dataset.say()
    precision = precision_for(dataset, given.job, device)
    # What is not given follows from the data.
    settings = rules.resolve(given, dataset, device)
    share = share_of(settings, record.group)

    # Model: a network and its guide.  What could not be trained or sampled ends here, before anything is written.
    recipe, smaller = rules.recipes(settings, dataset, own.network)
    if own.network is not None and bool(dataset.train.isnan().any()):
        raise ValueError("the rows have missing cells, which a network of your own cannot learn from; leave them out")
    recipe.sampling.but(sampler="annealed")
    recipe.build(network=own.network)(torch.zeros(1, *recipe.shape), 1.0)
    generator = torch.Generator(device).manual_seed(settings.seed)
    lesson = Lesson(dataset, settings, own, record, device, precision, generator, share)
    torch.default_generator.manual_seed(settings.seed)  # for initial weights; every step has numbers of its own
    state = lesson.state(recipe, own.network, own.start)
    guide = None if smaller is None else lesson.state(smaller)
    run = Run(
        score=state.average,
        recipe=recipe,
        guide=None if guide is None else guide.average,
        guide_recipe=smaller,
        units=dataset.units,
        device=device,
        folder=record.folder,
        settings=own.described(settings),
        origin=record.origin,
    )
    record.begin(run, state)
    features = prepared(lesson, run, state)
    train_both(lesson, run, state, guide)

    # Guidance: how far samples move away from the guide, by held-out images.
    if features is not None:
        seen = state.step * share * record.group.size * settings.accumulate
        weight = guidance.chosen_weight(run, dataset, features, seen=seen, seed=settings.seed)
        run = replace(run, recipe=replace(recipe, sampling=recipe.sampling.but(guidance=weight)))
        record.describe(run)
    return run


def take_weights(model: ScoreModel, start: Run) -> None:
    """Give a network the weights of a run, but for layers of other colours and classes.

    Raises ValueError if other layers differ.
    """
    own, theirs = model.network.state_dict(), start.model.network.state_dict()
    fitting = {name: theirs[name] for name in own.keys() & theirs.keys() if own[name].shape == theirs[name].shape}
    if other := [name for name in own if name not in fitting and not name.startswith(OF_COLOURS_AND_CLASSES)]:
        where = start.folder or "the run to start from"
        raise ValueError(f"{where} has another network, to judge by {other[0]}; leave out --network and its sizes")
    model.network.load_state_dict(own | fitting)


def share_of(settings: ResolvedSettings, group: Group) -> int:
    """How many examples of a batch a process learns from at a time; a batch may so become a little larger.

    Raises ValueError if there are fewer examples than shares.
    """
    shares = group.size * settings.accumulate
    if shares > settings.batch_size:
        raise ValueError(f"batch_size is {settings.batch_size}; at least {shares} are needed, one for each share")
    return -(-settings.batch_size // shares)


def precision_for(dataset: Dataset, job: Job, device: torch.device) -> str:
    """What the network computes in: as the job says, or what is fastest for this kind of data on the device."""
    wish = dataset.kind.precision if job.precision == "auto" else job.precision
    precision = hardware.choose_precision(wish, device)
    if hardware.emulated(precision, device):
        log.info(f"precision {precision}: this processor may emulate it, many times slower than fp32")
    hardware.allow_tf32(precision != "fp32")
    return precision


def prepared(lesson: Lesson, run: Run, state: State) -> Features | None:
    """Compile the network where that pays; returns the features by which guidance is chosen, if it is."""
    settings, size = lesson.settings, lesson.share
    long = rules.takes_long(settings)
    if long and settings.compile:
        example = torch.zeros(size, *run.recipe.shape, device=lesson.device)
        sigma = torch.ones(size, device=lesson.device)
        # Compiling takes minutes beside a busy program: a quarter of the budget at most.
        quarter = 15 * (settings.minutes or 0.0)
        hardware.compile_network(state.model.network, lambda: state.model(example, sigma), seconds=quarter)
    guided = run.guide is not None or run.recipe.num_classes > 0
    if not (lesson.record.group.is_main and settings.guidance == "chosen" and guided):
        return None
    return guidance.suited(lesson.dataset, lesson.device, thorough=long)


def train_both(lesson: Lesson, run: Run, state: State, guide: State | None) -> None:
    """Train the guide, if there is one, and then the network, by the leading process' clock."""
    record, settings = lesson.record, lesson.settings
    _ = lesson.objective, lesson.held_out  # which may take seconds, and are a part of the budget
    elapsed = float(record.group.broadcast(repr(time.perf_counter() - record.began).encode()))
    budget, guide_budget = rules.budgets(settings, elapsed, guided=guide is not None)
    if budget.fraction(state.step, state.seconds) >= 1:
        log.info(f"nothing is left to train after {state.step:,} steps; a longer --steps or --minutes goes on")
    if guide is not None and run.guide_recipe is not None:
        record.begin(replace(run, recipe=run.guide_recipe), guide, "guide")
        for _ in record.watch(lesson.progress(guide, guide_budget, run), guide, part="guide"):
            pass
    kind, progress = lesson.dataset.kind, lesson.progress(state, budget, run)
    if not kind.slack:
        progress = until_spoiled(progress, state.rows, record.group)
    judge = partial(held_out_losses, state, held_out_batch(lesson, state), lesson.noise, kind.held_out)
    learn(progress, state, judge, record, rows=kind.reports, slack=kind.slack)
    if record.group.is_main:
        log.info(verdict(state.rows, lesson.dataset.n))


class Judged(NamedTuple):
    """Losses of the average on held-out examples, their noise levels, and which of a table's are of conditionals."""

    losses: Float[Tensor, "v"]
    sigmas: Float[Tensor, "v"]
    conditional: Bool[Tensor, "v"] | None = None


def held_out_batch(lesson: Lesson, state: State) -> Batch:
    """The examples that measure the average; of a table, half for the joint density and half for conditionals."""
    examples = lesson.held_out if state.model.num_classes else Batch(lesson.held_out.x)
    if not isinstance(state.average, ConditionalModel):
        return examples
    generator = torch.Generator(examples.x.device).manual_seed(1)
    rows = next(batches(examples.x, sum(lesson.dataset.kind.held_out), generator=generator)).x
    return masked(state.average, rows, generator, joint=0.5)


@torch.no_grad()
def held_out_losses(state: State, examples: Batch, noise: Proposal, sizes: Sequence[int]) -> Judged:
    """Denoising losses of the average on held-out examples, always with the same noise, and their noise levels.

    ``sizes``: of batches that are drawn from the examples; those of a table are taken as they are.
    """
    generator = torch.Generator(examples.x.device).manual_seed(0)
    loss = training_loss(noise, drop_label=0.0, generator=generator)
    with hardware.nothing_compiled():
        if examples.given is not None:
            losses, sigmas = loss(state.average, examples)
            return Judged(losses.cpu(), sigmas.cpu(), examples.given.observed.any(1).cpu())
        parts = [loss(state.average, next(batches(examples.x, n, examples.label, generator=generator))) for n in sizes]
    losses, sigmas = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return Judged(losses, sigmas)


def kept(state: State, weights: dict[str, Tensor], record: Record) -> tuple[Tensor, dict[str, Tensor]]:
    """What a checkpoint keeps for ``learn``: the sum of losses and how many they are, and the best average.

    Raises ValueError if a checkpoint has something else there.
    """
    best = {name: state.kept.setdefault(f"best.{name}", tensor.clone()) for name, tensor in weights.items()}
    total = state.kept.setdefault("total", torch.zeros(2).double())
    shapes = {name: getattr(tensor, "shape", None) for name, tensor in (("", total), *best.items())}
    if shapes != {"": (2,)} | {name: tensor.shape for name, tensor in weights.items()}:
        where = record.folder or "the state"
        raise ValueError(f"{where}: {CHECKPOINT} keeps other numbers than a training's; begin anew")
    return total, best


def learn(
    progress: Iterable[Progress], state: State, judge: Callable[[], Judged], record: Record, rows: int, slack: float
) -> None:
    """Train, and note ``rows`` rows: of the losses since the last one, and of held-out examples.

    Without ``slack`` also one before the first step, whose losses are of held-out examples alone; and rows are denser
    at first, for a network that knows few examples by heart soon does.
    ``judge``: the losses of ``state.average`` on held-out examples, and their noise levels.
    In the end ``state.average`` is the average of the weights that was best on held-out examples, if their loss has
    risen by a share of ``slack`` since: with few examples it does, once the network knows the others by heart.
    The sum for the next row and the best average are in the checkpoint, as the rows are: a kill changes nothing.
    """
    weights = state.average.state_dict()
    total, best = kept(state, weights, record)
    record.rows, done, pending = state.rows, -1, list[Tensor]()

    def settle() -> None:
        """Add the losses so far to the sum, and see whether they are finite: a GPU is waited for."""
        state.check()
        for losses in pending:
            total.add_(torch.tensor([losses.cpu().double().sum().item(), len(losses)]))
        pending.clear()

    def look(step: int, seconds: float) -> None:
        """Note a row, and keep the average if none was better."""
        losses, sigmas, conditional = judge()
        held_out = losses.mean().item()
        row = Row(
            step=step,
            loss=(total[0] / total[1]).item() if step else held_out,
            validation_loss=held_out,
            validation_bands=metrics.binned(losses, sigmas, BANDS),
            joint_loss=None if conditional is None else losses[~conditional].mean().item(),
            conditional_loss=None
            if conditional is None or not conditional.any()
            else losses[conditional].mean().item(),
            seconds=seconds,
        )
        total.zero_()
        state.rows.append(row)
        record.write_rows()
        if row.validation_loss <= min(row.validation_loss for row in state.rows):
            for name, tensor in weights.items():
                best[name].copy_(tensor)

    power = 1 if slack else 2
    if not (slack or state.step):
        look(0, 0.0)
    for p in record.watch(progress, state, settle=settle):
        if done < 0:  # a run that goes on has some of its budget behind it
            done = int(rows * (min(1.0, p.fraction) * (p.step - 1) / p.step) ** (1 / power) + 1e-9)
        pending.append(p.losses)
        if p.losses.device.type == "cpu" or len(pending) == UNSETTLED:
            settle()
        if p.fraction < min(1.0, ((done + 1) / rows) ** power):
            continue
        done += 1
        settle()
        look(p.step, p.seconds)
    if state.rows and left(state.rows, slack) is not state.rows[-1]:
        state.average.load_state_dict(best)
        if record.writes:
            write_model(record.path(), state.average, record.units, origin=record.origin)
