"""One training step, as the default run takes it: its seconds and its peak memory.

python benchmarks/step.py --batch-size 128                                   # on this device, random images
torchrun --nproc-per-node=2 benchmarks/step.py --batch-size 128 --compile    # shared by two processes
python benchmarks/step.py --compile --limit                                  # next to what a matrix product reaches

The leading process prints one line of JSON.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
import tyro
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ncsn
from ncsn.distributions import Empirical
from ncsn.machine import hardware
from ncsn.machine.hardware import ALONE, Group
from ncsn.noise import LogNormal
from ncsn.training import Progress

NOISE = LogNormal(-1.6, 1.2, 33.0, 0.01)  # what the rules choose for CIFAR-10
ABOVE = 1.5  # and there, where posterior targets begin
SIDE = 4096  # of the matrices that show what a device can do
SETTLING = 2  # first steps, which do not count


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is trained, and how: random colour images, the default network and optimisers."""

    batch_size: int = 128
    """Images in a batch, of all processes together."""
    channels: tuple[int, ...] = (64, 128)
    """The network's width at each resolution."""
    side: int = 32
    """Height and width of an image."""
    examples: int = 2000
    """Images in the data set."""
    posterior: bool = False
    """Targets that ask the whole data set at high noise."""
    compile: bool = False
    """Compile the network, as trainings of five minutes and more do."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the network runs in; auto: the device's fastest."""
    seconds: float = 2.0
    """How long to train; four steps at least."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA where there is one, else the CPU."""
    limit: bool = False
    """Also print what matrix products reach on this device, and which share of it training and sampling reach."""


def model_of(step: Step, device: torch.device) -> ncsn.ScoreModel:
    """A new network, as a training begins with it."""
    torch.manual_seed(0)
    network = ncsn.UNet(3, step.channels, features=step.channels[0])
    autocast = hardware.autocast_of(hardware.choose_precision(step.precision, device))
    return ncsn.ScoreModel(network, 0.5, 0.25, autocast=autocast).to(device)


def progress_of(step: Step, group: Group = ALONE) -> tuple[ncsn.State, Iterator[Progress]]:
    """A training, and its steps."""
    device = hardware.choose_device(step.device)
    size, generator = -(-step.batch_size // group.size), torch.Generator(device).manual_seed(0)
    model, precision = model_of(step, device), hardware.choose_precision(step.precision, device)
    products = torch.bfloat16 if precision == "bf16" else torch.float32
    hardware.allow_tf32(precision != "fp32")
    state = ncsn.State(model, ncsn.muon_and_adam(model, products=products), generator=generator, seed=0)
    pixels = torch.randint(
        256, (step.examples, 3, step.side, step.side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).to(device)
    objective = ncsn.dsm
    if step.posterior:
        objective = partial(ncsn.posterior_dsm, data_score=Empirical(pixels / 256, dtype=products), above=ABOVE)
    if step.compile:
        example, sigma = torch.zeros(size, *pixels.shape[1:], device=device), torch.ones(size, device=device)
        hardware.compile_network(state.model.network, lambda: state.model(example, sigma))
    batches = ncsn.batches(pixels, size, generator=generator)
    loss = ncsn.training_loss(NOISE, objective, generator=generator)
    return state, ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=10**6), group=group)


def seconds_of(step: Step, progress: Iterator[Progress], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """How long each step takes, by a ``clock``; on every process as many, for what ends it is the leading one's."""
    times: list[float] = []
    at = clock()
    for p in progress:
        now = clock()
        times.append(now - at)
        at = now
        if len(times) >= SETTLING + 2 and p.seconds > step.seconds:
            break
    return times[SETTLING:]


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had so far; on a GPU those of tensors, there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def time_of(call: Callable[[], Tensor], device: torch.device, *, repeats: int = 7) -> float:
    """The median seconds of a call, once it has settled."""
    times = []
    for _ in range(SETTLING + repeats):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[SETTLING:])


def limits(step: Step, model: ncsn.ScoreModel, step_seconds: float) -> dict[str, Any]:
    """Matrix products, training and sampling in GFLOP/s, and the latter two over the products in their precision.

    Operations are those that torch's FlopCounterMode counts: products and convolutions.
    """
    device, rates = model.data_std.device, {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        if name == "fp32" or device.type != "cpu" or hardware.fast_bfloat16(device):
            matrix = torch.randn(SIDE, SIDE, device=device).to(dtype)
            rates[name] = 2 * SIDE**3 / time_of(partial(torch.mm, matrix, matrix), device) / 1e9
    x, sigma = torch.randn(step.batch_size, 3, step.side, step.side, device=device), torch.tensor(1.0, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, hardware.uncompiled():
        model(x, sigma)
    once = counter.get_total_flops()
    with torch.no_grad():
        sampling = once / time_of(partial(model, x, sigma), device) / 1e9
    training = 3 * once / step_seconds / 1e9  # a backward pass takes two forward ones
    limit = rates[hardware.choose_precision(step.precision, device)]
    shares = {"training_share": training / limit, "sampling_share": sampling / limit}
    return {"products": rates, "training": training, "sampling": sampling} | shares


def main(step: Step) -> None:
    """Measure, and print."""
    hardware.keep_memory()
    torch.set_flush_denormal(True)
    group = hardware.join()
    state, progress = progress_of(step, group)
    times = seconds_of(step, progress)
    found: dict[str, Any] = {
        "seconds": statistics.median(times),
        "steps": len(times),
        "images_per_second": step.batch_size / statistics.median(times),
        "peak_memory": peak_memory(state.generator.device),
        "processes": group.size,
        "threads": torch.get_num_threads(),
    }
    if step.limit:
        found["gflops"] = limits(step, state.model, found["seconds"])
    if group.is_main:
        print(json.dumps(found | {"of": asdict(step)}))


if __name__ == "__main__":
    main(tyro.cli(Step))
