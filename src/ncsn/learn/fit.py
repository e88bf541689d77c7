"""``fit`` learns the score of any data: a plan follows from it, and ``Training`` carries it out."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ncsn import metrics, training
from ncsn.batching import Batch, batches, reals
from ncsn.data.dataset import Curriculum, Dataset, Origin, absolute, short_name
from ncsn.distributions import Empirical
from ncsn.evaluation.images import Features
from ncsn.learn import rules
from ncsn.learn.guidance import choose_weight, features_for
from ncsn.learn.history import BANDS, History, Row, best_row, until_overfitted, verdict
from ncsn.learn.plan import Plan, make_plan, storable_settings
from ncsn.learn.record import Record
from ncsn.learn.start import build_model
from ncsn.loading import Classes, Examples, dataset_of, load_dataset, run_class
from ncsn.machine import hardware
from ncsn.machine.messages import log, quieter
from ncsn.noise import Proposal
from ncsn.objectives import Objective, dsm, posterior_dsm, training_loss
from ncsn.run.folder import check_folder, has_own_run, has_run, read_config
from ncsn.run.run import Run
from ncsn.score import ScoreModel
from ncsn.settings import Changes, TrainSettings
from ncsn.signals import SignalRun, Signals
from ncsn.tables.learning import Table
from ncsn.tables.run import TableRun
from ncsn.training import Budget, Progress, State
from ncsn.validation import DeviceName, Json, check_type, counted, plain, refuse_options

if TYPE_CHECKING:
    import pandas

CHANCE = 3.0  # standard errors of a rise of the held-out loss; few, because small tables show a row several times
FEW_STEPS = 300  # with fewer in a training by the clock, a message says so
FIGURE_SECONDS = 6.0  # that figures take on an idle processor
ONE_AT_A_TIME = threading.RLock()  # initial weights are drawn from torch's global generator


class FitOptions(Changes, total=False):
    """The keywords of ``fit``, so that its overloads needn't repeat them."""

    settings: TrainSettings | None
    labels: Classes
    network: nn.Module | None
    objective: Objective | None
    noise: Proposal | None
    start: Run | str | None
    device: DeviceName | None
    record: Record | None
    quiet: bool


@overload
def fit(data: Signals, **options: Unpack[FitOptions]) -> SignalRun: ...
@overload
def fit(data: Table, **options: Unpack[FitOptions]) -> TableRun: ...
@overload
def fit(data: Tensor | np.ndarray | Dataset | str | Path, **options: Unpack[FitOptions]) -> Run: ...
@overload
def fit(data: "pandas.DataFrame | Mapping[str, object]", **options: Unpack[FitOptions]) -> TableRun: ...
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
    ``start``: a run of images or signals, or its folder, to start training from: its network and weights are taken
    over, except for what belongs to classes.  By default, this is "prior", a small network in the package, for up to
    10,000 images of 8 to 64 pixels and at most ten minutes, unless you set ``channels`` or ``blocks``.  "none" starts
    from random weights.
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
    check_type("settings", settings, TrainSettings, type(None))
    check_type("record", record, Record, type(None))
    check_type("network", network, nn.Module, type(None))
    check_type("objective", objective, Callable, type(None))
    check_type("noise", noise, Proposal, type(None))
    check_type("start", start, Run, str, type(None))
    base = TrainSettings(minutes=1.0) if settings is None else settings
    values = {name: plain(value) for name, value in changes.items() if value is not None}
    if noise is not None:
        values = noise_range(noise) | values
    if isinstance(start, str):
        values["start"] = start
    if device is not None:
        values["job"] = replace(base.job, device=device)
    settings = base.but(values)
    with training_lock(), quieter(logging.ERROR) if quiet else nullcontext():
        dataset = dataset_of(data, labels, reading=settings.reading)
        if record is None:  # a record says where the data is
            settings = replace(settings, dataset=dataset.name)
        first = start if isinstance(start, Run) else None
        plan = make_plan(dataset, settings, network=network, objective=objective, noise=noise, start=first)
        return train(plan, dataset, record or Record())


def noise_range(noise: Proposal) -> Json:
    """The settings of the largest and the smallest noise level, if the proposal has them."""
    return {name: getattr(noise, name) for name in ("sigma_max", "sigma_min") if hasattr(noise, name)}


@contextmanager
def training_lock() -> Iterator[None]:
    """Within it, no other thread trains and gradients are enabled; afterwards torch's settings are restored."""
    with ONE_AT_A_TIME, torch.inference_mode(False), torch.enable_grad(), hardware.preserve_settings():
        yield


def train(plan: Plan, data: Dataset, record: Record) -> Run:
    """Carry out a plan: train the guide and the network, keep the best average, choose the guidance."""
    with training_lock():
        # For initial weights; every training step is seeded separately.
        torch.default_generator.manual_seed(plan.settings.seed)
        model = build_model(plan, data, record)
        generator = torch.Generator(plan.device).manual_seed(plan.settings.seed)
        optimizers = plan.optimizers(model)
        state = State(model, optimizers, schedule=plan.schedule, generator=generator, seed=plan.settings.seed)
        return Training(plan, data, record, state).run_to_end()


class Training:
    """A training of a network, and first of its guide, if it has one; ``run_to_end`` does all of it.

    ``state``: of the network; ``guide``: of the guide.
    ``history``: a part of the state, so that a resumed training continues with its rows, sum and best average.
    ``examples``: the training examples, on the device unless they would take much of its memory.
    ``labels``: the classes of the training examples, if the model is class-conditional.
    ``held_out``: the validation examples.
    ``share``: the number of examples of a batch that this process learns from at a time.
    ``objective``: the user's, or denoising score matching, with posterior targets at high noise.
    ``budget``, ``guide_budget``: how long to train, known once the training has begun.
    ``run``: what is made of it.
    """

    budget: Budget
    guide_budget: Budget

    def __init__(self, plan: Plan, data: Dataset, record: Record, state: State) -> None:
        self.plan, self.data, self.record, self.settings, self.state = plan, data, record, plan.settings, state
        device = plan.device
        fits = data.train.nbytes <= hardware.memory_of(device) // 4
        self.examples = data.train.to(device) if fits else data.train
        labels = data.labels if self.settings.class_conditional else None
        self.labels = None if labels is None else labels.train.to(device)
        self.held_out = Batch(data.validation.to(device), None if labels is None else labels.validation.to(device))
        self.share = record.group.share(self.settings.batch_size)
        self.guide = self.guide_state()
        self.objective = self.choose_objective()
        self.history = History(state.average)
        state.parts["ledger"] = self.history  # its name in checkpoints
        self.features: Features | None = None
        self.run = run_class(plan.recipe.shape)(
            score=state.average,
            recipe=plan.recipe,
            guide=None if self.guide is None else self.guide.average,
            guide_recipe=plan.guide_recipe,
            device=device,
            settings=plan.facts(),
            origin=record.origin,
        )

    def choose_objective(self) -> Objective:
        """The user's objective, or denoising score matching.

        Its targets at high noise are the score of the whole training set, where there is time for it.
        """
        settings = self.settings
        if self.plan.objective is not None:
            return self.plan.objective
        if settings.posterior_above >= settings.sigma_max:
            return dsm
        examples, labels = reals(self.examples), self.labels
        if settings.flip:
            examples = torch.cat([examples, examples.flip(-1)])
            labels = None if labels is None else labels.repeat(2)
        data_score = Empirical(examples, labels, dtype=self.plan.products)
        return partial(posterior_dsm, data_score=data_score, above=settings.posterior_above)

    def guide_state(self) -> State | None:
        """The initial state of the guide, a smaller network."""
        recipe = self.plan.guide_recipe
        if recipe is None:
            return None
        beginning = self.data.start(recipe.preconditioning)
        model = recipe.build(beginning, autocast=self.plan.autocast).to(self.plan.device)
        optimizers = self.plan.optimizers(model)
        schedule, generator = self.plan.schedule, self.state.generator
        return State(model, optimizers, schedule=schedule, generator=generator, seed=self.settings.seed)

    def run_to_end(self) -> Run:
        """Train, keep the best average, and choose the guidance."""
        self.begin()
        self.train_guide()
        self.train_network()
        self.choose_guidance()
        return self.finish()

    def begin(self) -> None:
        """Load the last checkpoint or write a first one, compile, and divide the time that is left."""
        record = self.record
        record.begin(self.run, self.state)
        record.rows = self.history.rows  # to which this session adds
        self.run = replace(self.run, folder=record.folder)
        slowness = (time.perf_counter() - record.began) / time.process_time()  # by other programs
        self.compile()
        self.features = self.choose_features()
        self.budget, self.guide_budget = self.budgets(FIGURE_SECONDS * max(1.0, slowness))
        if self.budget.fraction(self.state.step, self.state.seconds) >= 1:
            steps = f"{self.state.step:,} steps"
            log.info(f"nothing is left to train after {steps}; increase --steps or --minutes to continue")

    def compile(self) -> None:
        """Compile the network if that pays off."""
        settings, device, model = self.settings, self.plan.device, self.state.model
        if settings.compile and rules.pays_to_compile(settings):
            example = torch.zeros(self.share, *self.plan.recipe.shape, device=device)
            sigma = torch.ones(self.share, device=device)
            seconds = rules.compiling_seconds(settings)
            hardware.compile_network(model.network, lambda: model(example, sigma), seconds=seconds)

    def choose_features(self) -> Features | None:
        """The features by which guidance is chosen after training, in the leading process, if it is to be chosen."""
        guided = self.run.guide is not None or self.plan.recipe.num_classes > 0
        if not (guided and self.settings.guidance == "chosen" and self.record.group.is_main):
            return None
        seconds, effort = rules.classifier_seconds(self.settings), rules.guidance_effort(self.settings)
        return features_for(self.data, self.plan.device, seconds=seconds, effort=effort)

    def budgets(self, figure_seconds: float) -> tuple[Budget, Budget]:
        """How long to train the network and its guide: the time that is left, minus that for figures.

        The main process measures the time for all processes.
        """
        settings, record = self.settings, self.record
        elapsed = time.perf_counter() - record.began + figure_seconds
        elapsed = float(record.group.broadcast(repr(elapsed).encode()))
        # An evaluation takes a third as long as learning from an example, and the figures have samples of their own.
        evaluations = self.data.shown * settings.samples * self.plan.recipe.sampling.guided_nfe
        after = 2 / 3 * evaluations / settings.batch_size
        return rules.budgets(settings, elapsed, guided=self.guide is not None, after=after)

    def steps(self, state: State, budget: Budget) -> Iterator[Progress]:
        """Train a state until its budget is spent."""
        generator = state.generator
        labels = self.labels if state.model.num_classes else None
        drawn = batches(self.examples, self.share, labels, flip=self.settings.flip, generator=generator)
        curriculum = self.data.curriculum(state.model, self.settings.hidden)
        loss = curriculum.loss(training_loss(self.plan.noise, self.objective, generator=generator))
        examples, record = curriculum.batches(drawn, generator), self.record
        return training.train(state, examples, loss, budget=budget, group=record.group, signals=record.signals)

    def train_guide(self) -> None:
        """Train the guide, if there is one."""
        if self.guide is not None and self.plan.guide_recipe is not None:
            self.record.begin(replace(self.run, recipe=self.plan.guide_recipe), self.guide, "guide")
            for _ in self.record.watch(self.steps(self.guide, self.guide_budget), self.guide, subfolder="guide"):
                pass

    def train_network(self) -> None:
        """Train the network, evaluate it as often as the data says, and keep the best average."""
        state, history = self.state, self.history
        if self.data.evaluates_start and not state.step:
            self.add_row(0, 0.0, 0.0)
        steps = self.steps(state, self.budget)
        steps = until_overfitted(steps, history, self.data.patience, self.record.group)
        for progress in self.record.watch(steps, state):
            history.note(progress.losses)
            if history.is_due(progress, self.data):
                self.add_row(progress.step, progress.seconds, progress.fraction)
        self.keep_best()

    def add_row(self, step: int, seconds: float, fraction: float) -> None:
        """Evaluate the average, and keep it if it is the best so far."""
        self.history.add(self.evaluate(step, seconds), self.state.average, fraction)
        self.record.report()

    @cached_property
    def curriculum(self) -> Curriculum:
        """The held-out batches and the loss by which the averaged weights are evaluated."""
        return self.data.curriculum(self.state.average, self.settings.hidden)

    @cached_property
    def draw_held_out(self) -> Callable[[torch.Generator], Iterator[Batch]]:
        """Batches of held-out examples, see ``Curriculum.held_out``."""
        examples = self.held_out if self.state.average.num_classes else Batch(self.held_out.x)
        return self.curriculum.held_out(examples)

    @torch.no_grad()
    def held_out_losses(self, model: ScoreModel) -> tuple[Tensor, Tensor, dict[str, list[Tensor]]]:
        """The losses of held-out examples, always with the same noise, by a model.

        Returns the losses, their noise levels, and the losses of parts of the examples, by name.
        """
        generator = torch.Generator(self.held_out.x.device).manual_seed(0)
        measure = self.curriculum.loss(training_loss(self.plan.noise, drop_label=0.0, generator=generator))
        all_losses: list[Tensor] = []
        all_sigmas: list[Tensor] = []
        parts: dict[str, list[Tensor]] = {}
        with hardware.nothing_compiled(), hardware.threads_for(model, steady=self.settings.steps is not None):
            for batch in self.draw_held_out(generator):
                losses, sigmas = measure(model, batch)
                all_losses.append(losses)
                all_sigmas.append(sigmas)
                for name, belongs in self.curriculum.parts(batch).items():
                    parts.setdefault(name, []).append(losses[belongs].cpu())
        return torch.cat(all_losses).cpu(), torch.cat(all_sigmas).cpu(), parts

    def evaluate(self, step: int, seconds: float) -> Row:
        """The metrics of the average on held-out examples, and the training loss since the last evaluation.

        Raises NonFiniteLossError if that isn't finite.
        """
        self.state.check()
        losses, sigmas, parts = self.held_out_losses(self.state.average)
        held_out_loss = losses.mean().item()
        history = self.history
        return Row(
            step=step,
            loss=float(history.sum) / history.count if step else held_out_loss,
            validation_loss=held_out_loss,
            validation_bands=metrics.mean_by_bin(losses, sigmas, BANDS),
            parts={name: torch.cat(part).mean().item() for name, part in parts.items() if sum(map(len, part))},
            seconds=seconds,
        )

    def is_worse_than(self, best: ScoreModel) -> bool:
        """Whether the held-out losses of the average are larger than those of ``best``, beyond chance."""
        losses, *_ = self.held_out_losses(self.state.average)
        best_losses, *_ = self.held_out_losses(best)
        rise = (losses - best_losses).double()
        return bool(rise.mean() > CHANCE * rise.std() / math.sqrt(len(rise)))

    def keep_best(self) -> None:
        """Restore the best average, if the held-out loss has risen since by more than the tolerance and chance.

        Then say what was kept, and whether more training would help.
        """
        state, record, rows = self.state, self.record, self.history.rows
        if rows:
            best, record.kept = best_row(rows, self.data.tolerance), rows[-1]
            if best is not rows[-1] and self.is_worse_than(self.history.best):
                record.kept = best
                state.average.load_state_dict(self.history.best.state_dict())
                record.write_weights(state.average)
            if record.group.is_main:
                log.info(verdict(rows, record.kept, self.data.n))
        if record.group.is_main and self.settings.steps is None and state.step < FEW_STEPS:
            log.info(f"training took only {counted(state.step, 'step')}; more minutes give better samples")

    def choose_guidance(self) -> None:
        """Choose the guidance scale by samples at several scales, if it is to be chosen, in the leading process."""
        if self.features is None:
            return
        seen = self.state.step * self.share * self.record.group.size
        effort, seed = rules.guidance_effort(self.settings), self.settings.seed
        weight = choose_weight(self.run, self.data, self.features, seen=seen, seed=seed, effort=effort)
        sampling = self.plan.recipe.sampling.but(guidance=weight)
        self.run = replace(self.run, recipe=replace(self.plan.recipe, sampling=sampling))

    def finish(self) -> Run:
        """The trained run; config.json gets its guidance and, for a table, the measured coverage of intervals."""
        if isinstance(self.run, TableRun) and self.record.group.is_main:
            self.run = replace(self.run, measured=self.run.measure_coverage(self.data))
        self.record.describe(self.run)
        return self.run


def folder_of(given: TrainSettings) -> Path:
    """The folder that a training writes its run to."""
    return given.job.out or Path("runs") / short_name(given.dataset)


def replace_own_run(given: TrainSettings) -> TrainSettings:
    """The same settings, with which a run replaces one in its default folder that ncsn has written there."""
    if given.job.out is None and not given.job.resume and has_own_run(folder_of(given)):
        return replace(given, job=replace(given.job, overwrite=True))
    return given


def open_run(given: TrainSettings) -> tuple[Dataset, Plan, Record]:
    """The data to train on, the plan for it, and a record of the training in the run's folder.

    With ``--resume`` the settings are the run's own.  The budget begins with the command.  Every process reads
    it, the leading one first, because it may have to be downloaded.
    Raises ValueError if the data cannot be read, does not suit the settings, or differs from the run's or from the
    leading process's; and if the folder holds another run.
    """
    group = hardware.join()
    main_facts = b"" if group.is_main else group.broadcast()  # once the leading process has read the data
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
        plan = make_plan(data, given, saved=saved)
    facts = json.dumps([storable_settings(plan.settings), origin.digest]).encode()
    if facts != (group.broadcast(facts) if group.is_main else main_facts):
        raise ValueError(f"process {group.rank} has other data or settings than process 0; they must be the same")
    record = Record(folder=folder, job=given.job, origin=origin, group=group, began=given.job.began)
    return data, plan, record


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
