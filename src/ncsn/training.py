"""Training: a state that survives a crash, and a loop that returns control after every step.

``train`` is an iterator of ``Progress``; progress bars, logs, pictures and checkpoints are up to its caller.

``Muon``'s update is that of ``torch.optim.Muon``, with all matrices of one shape in one product: a small network has
many small matrices, and one product for each costs more in overhead than in arithmetic.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncsn.batching import Batch
from ncsn.machine.hardware import ALONE, Group, fast_bfloat16, threads_for
from ncsn.machine.messages import STOPS, log
from ncsn.machine.storage import atomic, read_checkpoint
from ncsn.score import ScoreModel
from ncsn.validation import Json, one_line, real, whole

LOOK_STEPS, LOOK_SECONDS = 10, 1.0  # a GPU's losses are checked only after both have passed

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
    ``optimizers``: of the model's parameters; by default ``muon_and_adam``.  Their learning rates are peak values.
    ``generator``: draws batches and losses; saved with the rest.
    ``seed``: reseed the generator at every step from this seed, the step and the process; by default the generator runs
    on.
    """

    def __init__(
        self,
        model: ScoreModel,
        optimizers: Sequence[torch.optim.Optimizer] | None = None,
        *,
        generator: torch.Generator,
        seed: int | None = None,
    ) -> None:
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

        ``path``: of the file.
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

        ``path``: of the file.
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
    ``sigmas``: their noise levels, (b,).
    ``stop``: the number of a signal that some process received, after which all of them end; 0 for none.
    """

    step: int
    fraction: float
    seconds: float
    losses: Float[Tensor, "b"]
    sigmas: Float[Tensor, "b"]
    stop: int = 0


def schedule(fraction: float, step: int) -> float:
    """The learning rate relative to its peak: a linear warm-up over 50 steps, then a linear decay to zero."""
    return min(1.0, (step + 1) / 50) * max(0.0, 1 - fraction)


def step_seed(seed: int, step: int, rank: int, processes: int) -> int:
    """The seed of one process at one step; no two seeds of a training are the same.

    Seeds count up from step to step, as in EDM2's loop, because a CPU generator has only 2³² of them.
    """
    return (seed * 0x9E3779B1 + step * processes + rank) % 2**32


def add_gradients(state: State, batches: Iterator[Batch], loss: Loss, group: Group) -> Float[Tensor, "2 b"]:
    """Add the gradients of a batch; return its losses and noise levels, with zeros for those of other processes."""
    if state.seed is not None:
        state.generator.manual_seed(step_seed(state.seed, state.step, group.rank, group.size))
    losses, sigmas = loss(state.model, next(batches))
    (losses.mean() / group.size).backward()  # type: ignore[no-untyped-call]
    whole = torch.zeros(2, group.size, len(losses), device=losses.device)
    whole[:, group.rank] = torch.stack([losses.detach(), sigmas])
    return whole.flatten(1)


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
    began, looked = time.monotonic() - state.seconds, state.seconds
    while (fraction := budget.fraction(state.step, state.seconds)) < 1:
        with threads_for(state.model, steady=budget.seconds is None):
            whole = add_gradients(state, batches, loss, group)
            # One message carries all that processes must agree on: gradients, losses, the clock, and signals to stop.
            clock = time.monotonic() - began if group.is_main else 0.0
            facts = torch.tensor([clock, *(float(number in signals) for number in STOPS)], dtype=torch.float64)
            group.all_reduce([*(p.grad for p in state.model.parameters() if p.grad is not None), whole, facts])
            state.note(whole[0])
            if whole.device.type == "cpu":  # where this is free
                state.check()
            state.update(schedule(fraction, state.step))
            state.seconds, *told = facts.tolist()
            after = budget.fraction(state.step, state.seconds)
            if after >= 1 or (len(state.noted) >= LOOK_STEPS and state.seconds - looked > LOOK_SECONDS):
                state.check()
                looked = state.seconds
        yield Progress(
            step=state.step,
            fraction=after,
            seconds=state.seconds,
            losses=whole[0],
            sigmas=whole[1],
            stop=next((number for number, count in zip(STOPS, told, strict=True) if count), 0),
        )


COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that brings singular values close to 1 in five iterations
EDGES = ("stem", "head")  # layers of these names see the pixels, whose few channels have no directions to balance


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that act as matrices between hidden features: linear and convolutional layers, except ``EDGES``.

    Embeddings are excluded, because a step of Muon would also change the rows of classes that are not in the batch.
    """
    found: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        matrix = isinstance(weight, nn.Parameter) and weight.ndim in (2, 4) and not isinstance(module, nn.Embedding)
        if matrix and name.rsplit(".", 1)[-1] not in EDGES:
            found[id(weight)] = weight  # type: ignore[assignment]
    return [p for p in model.parameters() if id(p) in found]


def muon_and_adam(
    model: nn.Module, *, muon_rate: float = 0.02, adam_rate: float = 2e-3, products: torch.dtype | None = None
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, Adam for everything else: biases, gains, embeddings, and the layers called stem and head.

    Stem and head are the first and last layers of a U-Net.  Muon also trains those of an MLP, and of a network of your
    own in which they have other names.

    ``model``: the model whose parameters they change.
    ``muon_rate``: the peak learning rate of the matrices, above 0.
    ``adam_rate``: the peak learning rate of everything else, above 0.
    ``products``: the dtype of Muon's matrix products, bfloat16 or float32; by default the faster one on this device.
    """
    matrices = hidden_matrices(model)
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    muon = [Muon(matrices, lr=muon_rate, products=products)] if matrices else []
    adam = [torch.optim.Adam(others, lr=adam_rate, betas=(0.9, 0.99), fused=True)] if others else []
    return [*muon, *adam]


def orthogonalize(matrices: Float[Tensor, "k m n"], products: torch.dtype | None = None) -> Float[Tensor, "k m n"]:
    """Bring the singular values of each matrix to about 1 (0.7 to 1.2), by five steps of Newton–Schulz iteration.

    ``products``: the dtype of the products; by default bfloat16 if the hardware has it, else float32, because emulating
    bfloat16 makes training take twice as long.
    Jordan 2024, https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    if products is None:
        products = torch.bfloat16 if fast_bfloat16(matrices.device) else torch.float32
    x = (matrices.mT if tall else matrices).to(products)
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose singular values are set to one, so that all directions of a layer learn at the same speed.

    ``params``: matrices, or kernels (outputs, inputs, h, w), which are treated as matrices with one row per output.
    ``lr``: the singular values of a step for matrices that are wider than tall; √(rows/columns) times that for others.
    ``products``: the dtype of the products, bfloat16 or float32; by default the faster one on this device.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, products: torch.dtype | None = None
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.products = products

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient are unchanged."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(tuple(p.shape), []).append(p)
            for shape, weights in shapes.items():
                self.update(shape, weights, group["lr"], group["momentum"])

    def update(self, shape: tuple[int, ...], weights: list[Tensor], lr: float, momentum: float) -> None:
        """Take one step for all parameters of one shape."""
        gradients = torch.stack([p.grad for p in weights if p.grad is not None])
        averages = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in weights]
        torch._foreach_lerp_(averages, list(gradients), 1 - momentum)
        update = orthogonalize(gradients.lerp(torch.stack(averages), momentum).flatten(2), products=self.products)
        rows, columns = update.shape[1:]
        scale = lr * max(1, rows / columns) ** 0.5
        torch._foreach_sub_(weights, list((scale * update).view(len(weights), *shape)))
