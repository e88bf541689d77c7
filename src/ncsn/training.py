"""Training: a state that survives a crash, and a loop that returns control after every step.

``train`` is an iterator of ``Progress``; progress bars, logs, pictures and checkpoints are up to its caller.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.batching import Batch
from ncsn.machine.hardware import ALONE, Group, threads_for
from ncsn.machine.messages import STOPS, log
from ncsn.machine.storage import atomic, read_checkpoint
from ncsn.optimizers import muon_and_adam
from ncsn.score import ScoreModel
from ncsn.validation import Json, one_line, real, whole

CHECK_STEPS, CHECK_SECONDS = 10, 1.0  # a GPU's losses are checked only after both have passed

# What ``train`` minimises: (model, batch) → the losses and the noise levels, one of each per example.
Loss = Callable[[ScoreModel, Batch], tuple[Float[Tensor, "b"], Float[Tensor, "b"]]]


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the message names the step."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train.

    ``steps``: the number of steps.
    ``seconds``: seconds of wall clock, including whatever happens between the steps.
    ``after``: how many steps' worth of these seconds to leave for what follows training, at most half of them.
    Raises ValueError unless exactly one of ``steps`` and ``seconds`` is given and it is positive, and for a negative
    ``after``.
    """

    steps: int | None = None
    seconds: float | None = None
    after: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if (self.steps is None) == (self.seconds is None):
            raise ValueError(f"steps is {self.steps}, seconds is {self.seconds}; expected exactly one of them")
        if self.steps is not None:
            whole("steps", self.steps, 1)
        else:
            real("seconds", self.seconds, above=0)
        real("after", self.after, 0)

    def fraction(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent, ≥ 1 when it is used up.

        ``step``: the number of steps so far.
        ``seconds``: how long they took.
        """
        if self.steps is not None:
            return step / self.steps
        whole = self.seconds or math.inf
        return seconds / max(whole / 2, whole - self.after * seconds / max(1, step))


def linear_decay(fraction: float, step: int) -> float:
    """The learning rate relative to its peak: a linear warm-up over 50 steps, then a linear decay to zero."""
    return min(1.0, (step + 1) / 50) * max(0.0, 1 - fraction)


def constant(fraction: float, step: int) -> float:
    """A learning rate that stays at its peak, as in NCSN (Song & Ermon 2019)."""
    return 1.0


Schedule = Callable[[float, int], float]
"""The learning rate relative to its peak, given the share of the budget that is spent and the number of steps."""


class Stateful(Protocol):
    """An object whose state a checkpoint can keep, such as torch's modules and optimizers.

    The state is a dictionary of tensors, numbers and text, which may be nested in lists and dictionaries.  Loading a
    state that does not fit raises ValueError, RuntimeError, TypeError or KeyError.
    """

    def state_dict(self) -> Json: ...
    def load_state_dict(self, state: Json, /) -> object: ...


class State:
    """Everything that training changes: the model, its running average, the optimisers, the step and the randomness.

    The attribute ``average`` is the result: the same model with an exponential moving average of the weights.
    Its window is about the last tenth of the steps: decay 1 − 10/(t + 10) at step t, the power function profile of
    Karras et al. 2024 (arXiv:2312.02696, equation 1).
    The attribute ``parts`` holds whatever else the caller wants in checkpoints, by name, see ``Stateful``.

    ``model``: the model to train.
    ``optimizers``: the optimisers of the model's parameters, by default ``muon_and_adam``, with peak learning rates.
    ``schedule``: the learning rates relative to their peaks: ``linear_decay``, ``constant``, or a function of the share
    of the budget that is spent and the number of steps.
    ``generator``: draws batches and losses; saved with the rest.
    ``seed``: reseed the generator at every step from this seed, the step and the process; by default the generator runs
    on.
    """

    def __init__(
        self,
        model: ScoreModel,
        optimizers: Sequence[torch.optim.Optimizer] | None = None,
        *,
        schedule: Schedule = linear_decay,
        generator: torch.Generator,
        seed: int | None = None,
    ) -> None:
        self.schedule = schedule
        self.model = model.requires_grad_().train()
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimizers = muon_and_adam(model) if optimizers is None else list(optimizers)
        self.generator, self.seed = generator, seed
        self.step = 0
        self.seconds = 0.0
        self.noted: list[tuple[int, Tensor]] = []
        self.parts: dict[str, Stateful] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]

    def update(self, rate: float) -> None:
        """Take one optimiser step at ``rate`` times the peak learning rates, and update the average."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        weights = [p.detach() for p in self.model.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), weights, 10 / (self.step + 10))

    def note(self, losses: Float[Tensor, "b"]) -> None:
        """Remember for ``check`` whether the losses of this step are finite, without synchronising."""
        self.noted.append((self.step, losses.isfinite().all()))

    def check(self) -> None:
        """Raise NonFiniteLossError, which names the first step since the last check whose losses are not finite.

        This synchronises a GPU, so it is called before a report or a checkpoint, not at every step.
        """
        noted, self.noted = self.noted, []
        finite = torch.stack([flag for _, flag in noted]).tolist() if noted else [True]
        if not all(finite):
            raise NonFiniteLossError(f"the loss is not finite at step {noted[finite.index(False)][0]}")

    def save(self, path: str | Path) -> None:
        """Write a checkpoint atomically: a kill or a full disk at any moment leaves the previous one intact.

        ``path``: the path of the checkpoint.
        Raises NonFiniteLossError if a weight or a loss is not finite, and OSError if the disk is full; the previous
        checkpoint stays in both cases.
        """
        self.check()
        if not bool(torch.stack([p.isfinite().all() for p in self.model.parameters()]).all()):
            raise NonFiniteLossError(f"the weights are not finite at step {self.step}")
        content: Json = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            # With a seed, the step determines the random numbers, and the generator's state is not needed.
            "generator": self.generator.get_state() if self.seed is None else torch.zeros(0, dtype=torch.uint8),
            "step": self.step,
            "seconds": self.seconds,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        try:
            with atomic(Path(path)) as temporary:
                torch.save(content, temporary)
        except RuntimeError as error:  # torch's error for a full disk
            raise OSError(f"{path} could not be written; is the disk full? ({str(error).splitlines()[0]})") from error

    def load(self, path: str | Path) -> None:
        """Continue from a checkpoint that ``save`` wrote.

        ``path``: the path of the checkpoint.
        Raises ValueError if the file is missing, damaged, of another network or version, or keeps other parts.
        """
        saved = read_checkpoint(Path(path))
        try:
            for model, weights in ((self.model, saved["model"]), (self.average, saved["average"])):
                model.load_state_dict(weights)
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            for name in {*self.parts, *saved["parts"]}:
                self.parts[name].load_state_dict(saved["parts"][name])
            self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
            if self.seed is None:  # with a seed, every step reseeds the generator
                self.restore_generator(saved["generator"])
        except (ValueError, RuntimeError, TypeError, KeyError) as error:  # torch's errors for what does not fit
            where = "it is from another network or version"
            raise ValueError(f"{path} does not fit config.json; {where} ({one_line(error)})") from error

    def restore_generator(self, numbers: Tensor) -> None:
        """Continue a checkpoint's random numbers, or reseed if it comes from another kind of device."""
        try:
            self.generator.set_state(numbers)
        except RuntimeError:
            if numbers.numel() < 16:  # the shortest state of any device
                raise
            self.generator.manual_seed(self.step)
            log.warning(f"the checkpoint is from another device; random numbers restart from seed {self.step}")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What one step did, and how much of the budget is spent.

    ``step``: the number of steps so far.
    ``fraction``: the share of the budget that is spent.
    ``seconds``: how long the training has taken so far.
    ``losses``: the loss of each example of the batch, (b,).
    ``sigmas``: the noise level of each example, (b,).
    ``stop``: the number of a signal that some process received, after which all of them end; 0 for none.
    """

    step: int
    fraction: float
    seconds: float
    losses: Float[Tensor, "b"]
    sigmas: Float[Tensor, "b"]
    stop: int = 0


def step_seed(seed: int, step: int, rank: int, processes: int) -> int:
    """The seed of one process at one step; no two seeds of a training are the same.

    Seeds count up from step to step, as in EDM2's loop, because a CPU generator has only 2³² of them.
    """
    return (seed * 0x9E3779B1 + step * processes + rank) % 2**32


class Session:
    """What surrounds the steps of a training: its clock, the other processes, and the signals that end it."""

    def __init__(self, state: State, group: Group, signals: Sequence[int]) -> None:
        self.state, self.group, self.signals = state, group, signals
        self.began = time.monotonic() - state.seconds
        self.checked = state.seconds

    def reseed(self) -> None:
        """Begin the random numbers of this process's next step, if the state has a seed."""
        state, group = self.state, self.group
        if state.seed is not None:
            state.generator.manual_seed(step_seed(state.seed, state.step, group.rank, group.size))

    def exchange(
        self, losses: Float[Tensor, "b"], sigmas: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], int]:
        """Add up the gradients of all processes, and set the state's clock to that of the leading one.

        One message carries all that processes must agree on: gradients, losses, the clock, and signals to stop.
        Returns the losses and the noise levels of all processes, and the number of a signal that one of them has
        received, or 0.
        """
        group = self.group
        gathered = torch.zeros(2, group.size, len(losses), device=losses.device)
        gathered[:, group.rank] = torch.stack([losses.detach(), sigmas])
        clock = time.monotonic() - self.began if group.is_main else 0.0
        received = [float(number in self.signals) for number in STOPS]
        facts = torch.tensor([clock, *received], dtype=torch.float64)
        gradients = [p.grad for p in self.state.model.parameters() if p.grad is not None]
        group.all_reduce([*gradients, gathered, facts])
        self.state.seconds, *counts = facts.tolist()
        stop = next((number for number, count in zip(STOPS, counts, strict=True) if count), 0)
        all_losses, all_sigmas = gathered.flatten(1)
        return all_losses, all_sigmas, stop

    def note(self, losses: Float[Tensor, "b"]) -> None:
        """Note whether losses are finite, and check them at once where this is free."""
        self.state.note(losses)
        if losses.device.type == "cpu":
            self.state.check()

    def check(self, *, last: bool) -> None:
        """Check the losses that were noted, at the end or now and then."""
        state = self.state
        if last or (len(state.noted) >= CHECK_STEPS and state.seconds - self.checked > CHECK_SECONDS):
            state.check()
            self.checked = state.seconds


def train(
    state: State,
    batches: Iterator[Batch],
    loss: Loss,
    *,
    budget: Budget,
    group: Group = ALONE,
    signals: Sequence[int] = (),
) -> Iterator[Progress]:
    """Train until the budget is spent; yields its progress after every step, and can be abandoned at any of them.

    ``progress.step`` counts steps, ``progress.fraction`` is the share of the budget that is spent, and
    ``progress.losses`` and ``progress.sigmas`` are the loss and the noise level of each example of the batch.

    ``state``: what to train; ``state.average`` is the result.
    ``batches``: endless batches, see ``ncsn.batches``; with several processes, this one's share of each.
    ``loss``: a loss for each example of a batch, see ``training_loss``.
    ``budget``: how long to train.
    ``group``: the processes that train together; by default only this one.  With several, the state needs a seed, and
    the leading process keeps the time.
    ``signals``: the numbers of the signals (SIGINT, SIGTERM) that this process has received, as they arrive.
    Raises NonFiniteLossError if the loss is NaN or infinite in any process: on a CPU before the weights change; on a
    GPU, which is not synchronised at every step, at the latest before a checkpoint and at the end.
    Raises PeerError if another process has ended.

    >>> from ncsn.noise import LogUniform
    >>> g = torch.Generator().manual_seed(0)
    >>> data = torch.randn(1000, 2, generator=g)
    >>> state = ncsn.State(ncsn.ScoreModel(ncsn.MLP(2), data.mean(0), data.std()), generator=g)
    >>> loss = ncsn.training_loss(LogUniform(sigma_max=10, sigma_min=0.1), generator=g)
    >>> for progress in ncsn.train(state, ncsn.batches(data, 64, generator=g), loss, budget=ncsn.Budget(steps=20)):
    ...     pass
    >>> progress.step, progress.fraction
    (20, 1.0)
    """
    session = Session(state, group, signals)
    while (fraction := budget.fraction(state.step, state.seconds)) < 1:
        with threads_for(state.model, steady=budget.seconds is None):
            session.reseed()
            losses, sigmas = loss(state.model, next(batches))
            (losses.mean() / group.size).backward()  # type: ignore[no-untyped-call]
            losses, sigmas, stop = session.exchange(losses, sigmas)
            session.note(losses)
            state.update(state.schedule(fraction, state.step))
        fraction = budget.fraction(state.step, state.seconds)
        session.check(last=fraction >= 1)
        yield Progress(
            step=state.step, fraction=fraction, seconds=state.seconds, losses=losses, sigmas=sigmas, stop=stop
        )
