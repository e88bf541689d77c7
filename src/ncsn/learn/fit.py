"""Training runs: a plan follows from the data, the settings and the machine, and ``train`` carries it out."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import InstanceOf
from torch import Tensor, nn
from typing_extensions import Unpack

from ncsn import metrics, training
from ncsn.batching import Batch, batches, reals
from ncsn.data.dataset import Dataset, Origin, absolute
from ncsn.distributions import Empirical
from ncsn.learn import rules
from ncsn.learn.guidance import choose_weight, features_for
from ncsn.learn.record import BANDS, Ledger, Record, Row, best_row, until_spoiled, verdict
from ncsn.loading import Classes, Examples, dataset_of, load, load_dataset, run_class, short_name
from ncsn.machine import hardware
from ncsn.machine.messages import log, quieter
from ncsn.noise import Proposal
from ncsn.objectives import Objective, dsm, posterior_dsm, training_loss
from ncsn.optimizers import muon_and_adam
from ncsn.run.folder import CHECKPOINT, check_folder, has_run, read_config, write_model
from ncsn.run.recipe import Recipe
from ncsn.run.run import Run, config_of
from ncsn.score import ScoreModel
from ncsn.settings import Changes, ResolvedSettings, TrainSettings
from ncsn.tables.run import TableRun
from ncsn.training import Budget, Progress, State
from ncsn.validation import DeviceName, Json, check_ranges, check_type, counted, plain, refuse_options

COLOUR_AXES = {"stem.weight": 1, "head.weight": 0, "head.bias": 0}  # of the U-Net's first and last layers
CHANCE = 3.0  # standard errors of a rise of the held-out loss; few, because small tables show a row several times
FEW_STEPS = 300  # with fewer in a training by the clock, a message says so
FIGURES = 6.0  # seconds that they take on an idle processor
ONE_AT_A_TIME = threading.RLock()  # initial weights are drawn from torch's global generator


def fit(
    data: Examples,
    *,
    settings: TrainSettings | None = None,
    labels: Classes = None,
    network: nn.Module | None = None,
    objective: Objective | None = None,
    noise: Proposal | None = None,
    start: Run | str | None = None,
    device: DeviceName | None = None,
    record: Record | None = None,
    quiet: bool = False,
    **changes: Unpack[Changes],
) -> Run:
    """Learn the score of data, as ``ncsn train`` does; returns a run, which can be sampled, evaluated and saved.

    A tenth of the examples selects the best average of the weights; another tenth is held out for evaluation.  Samples,
    log densities and posteriors are in the units of the data, for images in those of pixels in [0, 1], to which other
    ranges are mapped.

    ``data``: points (n, d) or a DataFrame, with NaN for missing values (constant columns are left out); or
    images (n, c, h, w), (n, h, w, c) or (n, h, w); a tensor, an array or a list; or a dataset as ``load_dataset``
    returns it, or a path that it accepts.
    ``minutes``: the time budget, including samples and pictures; by default one minute, or that of ``settings``.
    ``steps``: the number of training steps, instead of minutes.  A training of points ends earlier once the held-out
    loss rises.
    ``seed``: the same seed gives the same run on one machine if training is by steps; by default 0.
    ``signals``: the array holds signals (n, channels, length), or (n, length) of one channel, or volumes (n, channels,
    d, h, w), of real numbers.
    ``changes``: these and other settings of ``ncsn train``, such as ``channels`` and ``guidance``, by their names in
    ``ncsn.settings.TrainSettings``.  They take precedence over ``settings``.
    ``settings``: all of the settings of ``ncsn train``.
    ``labels``: the class of each image, a number or a name, for better samples and ``run.sample(label=...)``; a dataset
    has its own.
    ``network``: your own network(x, c), which keeps the shape of x, with c = ¼ ln σ; by default an MLP or a U-Net.
    Your own network learns only the joint density of points, so it needs complete rows and cannot ``impute``.
    ``objective``: the training objective, see ``training_loss``; by default ``dsm``, for images and signals at high
    noise ``posterior_dsm``.
    ``noise``: the distribution of noise levels in training, in standard deviations of points.  Sampling descends from
    its ``sigma_max`` to its ``sigma_min``, if it has them.
    ``start``: a run of images or signals, or its folder, whose network and weights training starts from; only what it
    knows of classes is learned anew.  By default up to 10,000 images of 8 to 64 pixels, with at most ten minutes, start
    from "prior", a small network in the package, unless ``channels`` or ``blocks`` are given; "none"
    starts from random weights.
    ``device``: auto, cpu, cuda or mps; by default that of the settings, which is auto.
    ``record``: where ``ncsn train`` stores a training; by default nothing is written.  To keep a run, use ``Run.save``.
    ``quiet``: print nothing and show no progress bar; ``logging.getLogger("ncsn")`` controls this for the whole
    package.
    Raises ValueError for data without a density to learn (a wrong shape, fewer than ten examples, only constant
    columns, numbers that are not finite), and for settings or parts that don't fit the data or each other.

    >>> data = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1000.0])
    >>> run = ncsn.fit(data, steps=50)  # doctest: +ELLIPSIS
    1,000 rows, 2 columns, ...
    >>> run.sample(100).shape
    torch.Size([100, 2])
    """
    refuse_options("fit", changes.keys() - Changes.__annotations__.keys())
    named = {"start": start} if isinstance(start, str) else {}
    own = OwnParts(network=network, objective=objective, noise=noise, start=None if isinstance(start, str) else start)
    check_type("settings", settings, TrainSettings, type(None))
    check_type("record", record, Record, type(None))
    base = TrainSettings(minutes=1.0) if settings is None else settings
    job = base.job if device is None else replace(base.job, device=device)
    ends = {name: getattr(noise, name) for name in ("sigma_max", "sigma_min") if hasattr(noise, name)}
    given = {name: plain(value) for name, value in changes.items() if value is not None}
    chosen = base.but(ends | named | given | {"job": job})
    with training_lock(), quieter(logging.ERROR) if quiet else nullcontext():
        dataset = dataset_of(data, labels, reading=chosen.reading)
        if record is None:  # a record says where the data is
            chosen = replace(chosen, dataset=dataset.name)
        return train(plan(dataset, chosen, own), dataset, record or Record())


@contextmanager
def training_lock() -> Iterator[None]:
    """Within it, no other thread trains and gradients are enabled; afterwards torch's settings are restored."""
    with ONE_AT_A_TIME, torch.inference_mode(False), torch.enable_grad(), hardware.preserve_settings():
        yield


@dataclass(frozen=True, kw_only=True)
class OwnParts:
    """What a user provides instead of the package's own parts."""

    network: nn.Module | None = None
    objective: Objective | None = None
    noise: Proposal | None = None
    start: InstanceOf[Run] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training will do.

    ``settings``: including those that follow from the data and the machine.
    ``recipe``, ``guide_recipe``: the models to train, and how to sample them.
    ``noise``: the distribution of noise levels.
    ``own``: the user's own parts.
    ``effort``: the budget, and what it leaves time for.
    ``device``, ``autocast``: of the network, see ``ScoreModel``.
    """

    settings: ResolvedSettings
    recipe: Recipe
    guide_recipe: Recipe | None
    noise: Proposal
    own: OwnParts
    effort: rules.Effort
    device: torch.device
    autocast: torch.dtype | None

    def facts(self) -> Json:
        """The settings for config.json, with the names of the user's own parts instead of the settings they replace."""
        settings, own = self.settings, self.own
        facts = storable_settings(asdict(settings))
        if own.network is not None:
            facts |= {"network": rules.name_of(own.network), "channels": None, "blocks": None}
        if own.objective is not None:
            facts["objective"] = getattr(own.objective, "__qualname__", repr(own.objective))
        if own.noise is not None and own.noise != rules.noise_of(settings):
            facts |= {"proposal": repr(own.noise), "log_sigma_mean": None, "log_sigma_std": None}
        return facts


def storable_settings(settings: Json) -> Json:
    """Settings as config.json stores them: without the job, which is a new one when the run is resumed."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items() if name != "job"}


ALL_OURS = OwnParts()


def plan(data: Dataset, given: TrainSettings, own: OwnParts = ALL_OURS, *, saved: Json | None = None) -> Plan:
    """Plan a training on this data, and print a description of the data.

    ``saved``: the settings of a run to resume, which take precedence over those that are given.
    Raises ValueError for options that don't apply to the data, and for models that can't be built or sampled.
    """
    if given.hidden and own.network is not None:
        raise ValueError("hidden doesn't apply to a network of your own, which learns all columns together")
    if own.start is not None:
        given = replace(given, start=str(own.start.folder or "a run in memory"))
    elif own.network is not None and given.start is None and data.prior is not None:
        given = replace(given, start="none")
    if saved is None:
        rules.check_options(given, data)  # before anything is printed
    data.announce()  # before anything that takes seconds
    device, start = hardware.choose_device(given.job.device), None if own.start is None else config_of(own.start)
    settings = rules.resolve(given, data, device, start) if saved is None else rules.recall(given, saved)
    recipe, guide_recipe = rules.recipes(settings, data, own.network)
    recipe.sampling.but(sampler="annealed")
    recipe.build(network=own.network)(torch.zeros(1, *recipe.shape), 1.0)
    precision = data.precision if given.job.precision == "auto" else given.job.precision
    return Plan(
        settings=settings,
        recipe=recipe,
        guide_recipe=guide_recipe,
        noise=own.noise or rules.noise_of(settings),
        own=own,
        effort=rules.Effort.of(settings, data),
        device=device,
        autocast=hardware.choose_autocast(precision, device),
    )


def train(plan: Plan, data: Dataset, record: Record) -> Run:
    """Carry out a plan: train the guide and the network, keep the best average, choose the guidance."""
    with training_lock():
        return Training(plan, data, record).run()


class Training:
    """A training: what the network and its guide learn from, their states, and how far they are.

    ``share``: the number of examples of a batch that this process learns from at a time.
    ``labels``: the classes of the training examples, if the model is class-conditional.
    ``examples``: the training examples, on the device unless they would take much of its memory.
    ``held_out``: the validation examples.
    ``products``: the dtype of large products outside of the network.
    ``objective``: the user's, or denoising score matching, with posterior targets at high noise.
    ``ledger``: a part of the state, so that a resumed run continues with its rows, sum and best average.
    """

    def __init__(self, plan: Plan, data: Dataset, record: Record) -> None:
        self.plan, self.data, self.record, self.settings = plan, data, record, plan.settings
        device, labels = plan.device, data.labels if plan.settings.class_conditional else None
        self.generator = torch.Generator(device).manual_seed(self.settings.seed)
        self.share = record.group.share(self.settings.batch_size)
        self.labels = None if labels is None else labels.train.to(device)
        small = data.train.nbytes <= hardware.memory_of(device) // 4
        self.examples = data.train.to(device) if small else data.train
        self.held_out = Batch(data.validation.to(device), None if labels is None else labels.validation.to(device))
        self.products = plan.autocast or torch.float32
        self.objective: Objective = plan.own.objective or dsm
        if plan.own.objective is None and self.settings.posterior_above < self.settings.sigma_max:
            self.objective = self.posterior_objective()
        start = self.start()
        # For initial weights; every training step is seeded separately.
        torch.default_generator.manual_seed(self.settings.seed)
        self.state = self.initial_state(plan.recipe, plan.own.network, start)
        self.guide = None if plan.guide_recipe is None else self.initial_state(plan.guide_recipe)
        self.ledger = Ledger(self.state.average)
        self.state.parts["ledger"] = self.ledger

    def posterior_objective(self) -> Objective:
        """Denoising score matching whose targets at high noise are the score of the whole training set."""
        examples, labels = reals(self.examples), self.labels
        if self.settings.flip:
            examples = torch.cat([examples, examples.flip(-1)])
            labels = None if labels is None else labels.repeat(2)
        everything = Empirical(examples, labels, dtype=self.products)
        return partial(posterior_dsm, data_score=everything, above=self.settings.posterior_above)

    def start(self) -> Run | None:
        """The run whose weights training starts from; a resumed run has weights of its own."""
        record, start = self.record, self.plan.own.start
        goes_on = record.folder is not None and record.job.resume and (record.folder / CHECKPOINT).exists()
        if self.settings.start is None or start is not None or goes_on:
            return start
        return load(self.settings.start, device=self.settings.job.device)

    def initial_state(self, recipe: Recipe, network: nn.Module | None = None, start: Run | None = None) -> State:
        """The initial state of training a recipe's model, with the weights of ``start``."""
        beginning = self.data.start(recipe.preconditioning)
        model = recipe.build(beginning, network=network, autocast=self.plan.autocast).to(self.plan.device)
        if start is not None:
            take_weights(model, start, recipe.shape[0])
        rates = {"muon_rate": self.settings.muon_rate, "adam_rate": self.settings.adam_rate}
        optimizers = muon_and_adam(model, **rates, products=self.products)
        return State(model, optimizers, generator=self.generator, seed=self.settings.seed)

    def run(self) -> Run:
        """Train, keep the best average, and choose the guidance."""
        plan, record = self.plan, self.record
        run = run_class(plan.recipe.shape)(
            score=self.state.average,
            recipe=plan.recipe,
            guide=None if self.guide is None else self.guide.average,
            guide_recipe=plan.guide_recipe,
            device=plan.device,
            settings=plan.facts(),
            origin=record.origin,
        )
        record.begin(run, self.state)
        run = replace(run, folder=record.folder)
        slowness = (time.perf_counter() - record.began) / time.process_time()  # by other programs
        choose_guidance = self.prepare(run)
        budget, guide_budget = self.budgets(run, FIGURES * max(1.0, slowness))
        if self.guide is not None and plan.guide_recipe is not None:
            record.begin(replace(run, recipe=plan.guide_recipe), self.guide, "guide")
            for _ in record.watch(self.progress(self.guide, guide_budget), self.guide, part="guide"):
                pass
        self.learn(budget)
        if choose_guidance is not None:
            weight = choose_guidance(run, self.state.step * self.share * record.group.size, self.settings.seed)
            run = replace(run, recipe=replace(plan.recipe, sampling=plan.recipe.sampling.but(guidance=weight)))
        if record.group.is_main:
            self.report()
            measured = run.measure_coverage(self.data) if isinstance(run, TableRun) else {}
            run = replace(run, measured=measured)
        record.describe(run)
        return run

    def prepare(self, run: Run) -> Callable[[Run, int, int], float] | None:
        """Compile the network if that pays off; return what chooses the guidance, if it is to be chosen."""
        settings, effort, data, device = self.settings, self.plan.effort, self.data, self.plan.device
        if effort.compiled and settings.compile:
            model, example = self.state.model, torch.zeros(self.share, *run.recipe.shape, device=device)
            sigma = torch.ones(self.share, device=device)
            hardware.compile_network(model.network, lambda: model(example, sigma), seconds=effort.compiling)
        guided = run.guide is not None or run.recipe.num_classes > 0
        if not (self.record.group.is_main and settings.guidance == "chosen" and guided):
            return None
        features = features_for(data, device, seconds=effort.classifying, effort=effort.share)
        return lambda run, seen, seed: choose_weight(run, data, features, seen=seen, seed=seed, effort=effort.share)

    def budgets(self, run: Run, figures: float) -> tuple[Budget, Budget]:
        """Those of the network and its guide; the leading process keeps the time.

        ``figures``: the seconds that figures will take.
        """
        record, settings, state = self.record, self.settings, self.state
        elapsed = float(record.group.broadcast(repr(time.perf_counter() - record.began + figures).encode()))
        # An evaluation takes a third as long as learning from an example, and the figures have samples of their own.
        evaluations = self.data.shown * settings.samples * run.recipe.sampling.guided_nfe
        after = 2 / 3 * evaluations / settings.batch_size
        budgets = self.plan.effort.budgets(elapsed, guided=self.guide is not None, after=after)
        if budgets[0].fraction(state.step, state.seconds) >= 1:
            log.info(f"nothing is left to train after {state.step:,} steps; increase --steps or --minutes to continue")
        return budgets

    def progress(self, state: State, budget: Budget) -> Iterator[Progress]:
        """The training of a state."""
        settings, labels = self.settings, self.labels if state.model.num_classes else None
        drawn = batches(self.examples, self.share, labels, flip=settings.flip, generator=self.generator)
        curriculum = self.data.curriculum(state.model, settings.hidden)
        loss = curriculum.loss(training_loss(self.plan.noise, self.objective, generator=self.generator))
        examples, record = curriculum.batches(drawn, self.generator), self.record
        return training.train(state, examples, loss, budget=budget, group=record.group, signals=record.signals)

    def learn(self, budget: Budget) -> None:
        """Train the network, and report the training and held-out losses as often as the data says.

        If the held-out loss has risen by more than the tolerance and by more than chance, which is overfitting, the
        best earlier average is restored at the end.
        """
        state, record, ledger, reports, done = self.state, self.record, self.ledger, self.data.reports, -1
        held_out = HeldOut(self)
        record.rows = ledger.rows

        def look(step: int, seconds: float) -> None:
            """Add a row, and keep the average if it is the best so far."""
            state.check()
            loss = float(ledger.sum) / ledger.count if step else None
            ledger.add(held_out.report(step, loss, seconds), state.average)
            record.write_rows()
            record.draw_samples()

        if reports.from_start and not state.step:
            look(0, 0.0)
        progress = until_spoiled(self.progress(state, budget), ledger.rows, reports.patience, record.group)
        for p in record.watch(progress, state):
            last = ledger.rows[-1].step if ledger.rows else 0
            if done < 0:  # a resumed run already has some of its reports
                done = reports.due(p.fraction * last / p.step)
            ledger.note(p.losses)
            if reports.due(p.fraction) > done and (p.step >= last + reports.spacing or p.fraction >= 1):
                done = reports.due(p.fraction)
                look(p.step, p.seconds)
        if not ledger.rows:
            return
        best, record.kept = best_row(ledger.rows, reports.tolerance), ledger.rows[-1]
        if best is not record.kept and held_out.is_worse_than(ledger.best):
            record.kept = best
            state.average.load_state_dict(ledger.best.state_dict())
            if record.writes:
                write_model(record.path(), state.average, origin=record.origin)

    def report(self) -> None:
        """Say what was kept, and whether more training would help."""
        if self.record.kept is not None:
            log.info(verdict(self.ledger.rows, self.record.kept, self.data.n))
        if self.plan.effort.steps is None and self.state.step < FEW_STEPS:
            log.info(f"training took only {counted(self.state.step, 'step')}; more minutes give better samples")


class HeldOut:
    """Measures the loss of a training's average on held-out examples, always with the same noise."""

    def __init__(self, training: Training) -> None:
        self.average, self.noise = training.state.average, training.plan.noise
        self.steady = training.plan.effort.steps is not None
        examples = training.held_out
        examples = examples if self.average.num_classes else Batch(examples.x)
        self.curriculum, self.device = (
            training.data.curriculum(self.average, training.settings.hidden),
            examples.x.device,
        )
        self.batches = self.curriculum.held_out(examples)

    @torch.no_grad()
    def losses(self, model: ScoreModel) -> tuple[Tensor, Tensor, dict[str, list[Tensor]]]:
        """The losses of a model, their noise levels, and those of parts of the examples."""
        generator = torch.Generator(self.device).manual_seed(0)
        measure = self.curriculum.loss(training_loss(self.noise, drop_label=0.0, generator=generator))
        found: list[tuple[Tensor, Tensor]] = []
        parts: dict[str, list[Tensor]] = {}
        with hardware.nothing_compiled(), hardware.threads_for(model, steady=self.steady):
            for batch in self.batches(generator):
                found.append(measure(model, batch))
                for name, chosen in self.curriculum.parts(batch).items():
                    parts.setdefault(name, []).append(found[-1][0][chosen].cpu())
        losses, sigmas = (torch.cat(column).cpu() for column in zip(*found, strict=True))
        return losses, sigmas, parts

    def is_worse_than(self, best: ScoreModel) -> bool:
        """Whether the losses of the average are larger than those of ``best``, beyond chance."""
        rise = (self.losses(self.average)[0] - self.losses(best)[0]).double()
        return bool(rise.mean() > CHANCE * rise.std() / math.sqrt(len(rise)))

    def report(self, step: int, loss: float | None, seconds: float) -> Row:
        """A row of metrics; ``loss``: the training loss, by default the held-out one."""
        losses, sigmas, parts = self.losses(self.average)
        held_out = losses.mean().item()
        means = {name: torch.cat(part).mean().item() for name, part in parts.items() if sum(map(len, part))}
        return Row(
            step=step,
            loss=held_out if loss is None else loss,
            validation_loss=held_out,
            validation_bands=metrics.mean_by_bin(losses, sigmas, BANDS),
            parts=means,
            seconds=seconds,
        )


def take_weights(model: ScoreModel, start: Run, colours: int) -> None:
    """Copy the weights of a run, except for those of classes, and fit those of colours to the number of colours.

    Raises ValueError if other layers differ.
    """
    own, theirs = model.network.state_dict(), dict(start.model.network.state_dict())
    for name in COLOUR_AXES.keys() & own.keys() & theirs.keys():
        if own[name].shape != theirs[name].shape:
            theirs[name] = of_other_colours(theirs[name], COLOUR_AXES[name], start.recipe.shape, colours)
    fitting = {name: theirs[name] for name in own.keys() & theirs.keys() if own[name].shape == theirs[name].shape}
    if other := [name for name in own if name not in fitting and not name.startswith("labels.")]:
        where = start.folder or "the run to start from"
        raise ValueError(f"{where} has a different network ({other[0]} differs); leave out --channels and --blocks")
    model.network.load_state_dict(own | fitting)


def of_other_colours(weights: Tensor, axis: int, shape: tuple[int, ...], colours: int) -> Tensor:
    """Weights of the first layer (axis 1) or the last (axis 0) of a network of that shape for other colours.

    Colours beyond the network's three begin without influence; any other number sees the mean colour, and predicts it.
    """
    parts = torch.unflatten(weights, axis, (shape[0], -1)).movedim(axis, 0)
    if colours > len(parts) > 1:
        parts = torch.cat([parts, parts.new_zeros(colours - len(parts), *parts.shape[1:])])
    else:
        merged = parts.sum(0) / colours if axis else parts.mean(0)
        parts = merged.expand(colours, *merged.shape)
    return parts.movedim(0, axis).flatten(axis, axis + 1)


def folder_of(given: TrainSettings) -> Path:
    """The folder that a training writes its run to."""
    return given.job.out or Path("runs") / short_name(given.dataset)


def open_run(given: TrainSettings) -> tuple[Dataset, Plan, Record]:
    """The data to train on, the plan for it, and a record of the training in the run's folder.

    With ``--resume`` the settings are the run's own.  The budget begins with the command.  Every process reads
    it, the leading one first, because it may have to be downloaded.
    Raises ValueError if the data cannot be read, does not suit the settings, or differs from the run's or from the
    leading process's; and if the folder holds another run.
    """
    group = hardware.join()
    first = b"" if group.is_main else group.broadcast()
    folder = folder_of(given)
    if group.is_main:
        check_folder(folder, overwrite=given.job.overwrite, resume=given.job.resume)
        if given.dataset != "mnist" and Path(given.dataset).resolve() in (folder / "run").resolve().parents:
            raise ValueError(f"{folder} is inside the data, so its pictures would become data; choose another --out")
    with training_lock():
        if given.job.resume and has_run(folder):
            data, saved, origin = reopen(folder, given)
        else:
            if given.job.resume:
                log.info(f"{folder} holds no run to resume; starting a new one")
            data, saved = load_dataset(given.dataset, reading=given.reading), None
            origin = Origin.of(given.dataset, given.reading, data)
        planned = plan(data, given, saved=saved)
    here = json.dumps([storable_settings(asdict(planned.settings)), origin.digest]).encode()
    if here != (group.broadcast(here) if group.is_main else first):
        raise ValueError(f"process {group.rank} has other data or settings than process 0; they must be the same")
    record = Record(folder=folder, job=given.job, origin=origin, group=group, began=given.job.began)
    return data, planned, record


def reopen(folder: Path, given: TrainSettings) -> tuple[Dataset, Json, Origin]:
    """The data of a resumed run, which may be at a new place, its settings, and where the data is now."""
    config = read_config(folder)
    origin = config.data
    if origin is None:
        raise ValueError(f"{folder / 'config.json'} does not say which data the run was trained on")
    default = {field.name: field.default for field in fields(given)}["dataset"]  # a command has none, a script has
    if given.dataset != default:
        origin = replace(origin, dataset=absolute(given.dataset))
    data = load_dataset(origin.place(), reading=origin.reading)
    origin.check(data, origin.dataset)
    return data, config.settings, origin
