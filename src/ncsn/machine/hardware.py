"""What this machine can do, and how to get it: devices, precision, compilation, threads, memory."""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from operator import attrgetter
from typing import TypeVar

import psutil
import torch
from torch import Tensor, nn

from ncsn.machine.interrupts import at_most
from ncsn.machine.messages import log
from ncsn.validation import one_line

T = TypeVar("T")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names for what mallopt sets, in malloc.h
FIRST_LOOK, LOOK = 0.2, 2.0  # seconds until the first look at who else computes, and between two others
TOLERATED = 0.4  # processors that other programs may use before a thread is given up
FIXED_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which a user, or torchrun, sets the number of threads
MAX_SMALL_WEIGHTS = 2**20  # of a network without convolutions that one thread computes


def keep_memory() -> None:
    """Let glibc keep the memory that tensors free, for the next tensors; does nothing with other C libraries.

    By default it returns large blocks to the system, and every training step pays for fresh, zeroed pages, which can
    take longer than the arithmetic of a small network.
    """
    if platform.libc_ver()[0] == "glibc":
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, 2**30)


def compile_network(network: nn.Module, trial: Callable[[], Tensor], *, seconds: float = 0.0) -> None:
    """Compile ``network`` in place with torch.compile; says how long that takes, or why this machine cannot.

    ``trial`` calls the network once, as it will be called afterwards, and compiles it on the way.  If that fails (no
    C++ compiler, say), or takes more than ``seconds`` (0 for no limit), the network runs as it did before, and others
    may still be compiled.
    """
    options = {
        "inplace_buffers": False,  # they break the backward pass of some widths (torch 2.13), and save no time
        "cpp.dynamic_threads": True,  # their number may change later, see ``Threads``
    }
    log.warning("compiling the network: up to a minute the first time, then seconds")
    try:
        with at_most(seconds):
            network.compile(dynamic=False, options=options)
            value = trial()
            if value.requires_grad:
                value.sum().backward()  # type: ignore[no-untyped-call]
                network.zero_grad()
    except Exception as error:  # whatever a missing toolchain or a bug of the compiler raises
        with suppress(RuntimeError):  # as torch says where it cannot compile at all, and there is nothing to undo
            network.compile(disable=True)
        lines: list[object] = [line for line in str(error).splitlines() if "error:" in line]  # the C++ compiler's own
        log.warning(
            f"torch.compile fails, and without it all is about 1.5 times slower: {one_line((lines or [error])[0])}"
        )


def stance(name: str) -> AbstractContextManager[None]:
    """Within it, compiled networks are treated so; see ``torch.compiler.set_stance``."""
    if "torch._dynamo" not in sys.modules:  # then nothing has been compiled, and half a second is saved
        return nullcontext()
    return torch.compiler.set_stance(name)  # type: ignore[no-any-return]


nothing_compiled = partial(stance, "eager_on_recompile")
"""Within it, nothing is compiled anew: for a few calls of another shape that would take longer than it saves."""
uncompiled = partial(stance, "force_eager")
"""Within it, networks run as if they were not compiled: torch compiles no gradients that are asked for repeatedly."""


def memory_of(device: torch.device) -> int:
    """How many bytes of memory the device has, for all who compute on it."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else int(psutil.virtual_memory().total)


def choose_device(name: str) -> torch.device:
    """The device of that name, as torch says it, or auto for cuda where there is one and else the cpu.

    Of several processes on a machine each has a GPU of its own.
    Raises ValueError if there is no such device here, or no GPU for this process.
    """
    if name.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"device is {name}; allowed are auto, cpu, cuda and mps")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        return torch.empty((), device=name).device
    except (RuntimeError, AssertionError) as error:  # by what torch was built with
        raise ValueError(f"device is {name}, which torch does not find here; --device cpu needs none") from error


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that autocast pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_precision(name: str, device: torch.device) -> str:
    """The precision of that name, or for auto the one that is fastest on the device.

    bf16, fp16: the network runs in 16 bits, its weights stay in 32, as with fp32.
    """
    if name != "auto":
        return name
    return "bf16" if fast_bfloat16(device) else "fp16" if device.type == "cuda" else "fp32"


def emulated(precision: str, device: torch.device) -> bool:
    """Whether the device is a processor that computes in these 16 bits by way of 32, or is faster in the other 16."""
    return device.type == "cpu" and precision not in ("fp32", choose_precision("auto", device))


def autocast_of(precision: str) -> torch.dtype | None:
    """What a network runs in, if not in the precision of its weights."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def allow_tf32(allowed: bool) -> None:
    """Whether NVIDIA's GPUs may round the factors of products of 32 bits to 19."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def preserve_settings() -> Iterator[None]:
    """Leave torch's settings as they were found, also after an error: TF32, threads, and the global random numbers.

    Within it, torch's default type is float32 and its default device the CPU, whatever the user has set.
    Torch keeps the precision of products twice, by its older and by its newer names, and each must be put back.
    """
    places = attrgetter("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul")(torch.backends)
    newer = [place.fp32_precision for place in places]
    matmul = older_setting(torch.get_float32_matmul_precision, "highest")
    cudnn = older_setting(lambda: torch.backends.cudnn.allow_tf32, True)
    threads, dtype, device = torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()
    elsewhere = device.type != "cpu"  # a default device, the CPU too, costs time at every call of torch
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_default_dtype(torch.float32)
            if elsewhere:
                torch.set_default_device(None)
            yield
        finally:
            torch.set_default_dtype(dtype)
            if elsewhere:
                torch.set_default_device(device)
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(matmul)
            torch.backends.cudnn.allow_tf32 = cudnn
            for place, precision in zip(places, newer, strict=True):
                place.fp32_precision = precision


def older_setting(read: Callable[[], T], default: T) -> T:
    """What ``read`` returns; torch's default where torch refuses, because the user has set the newer names only."""
    try:
        return read()
    except RuntimeError:
        return default


def is_small(score: object) -> bool:
    """Whether a score is a network without convolutions and with few weights, such as the package's MLPs."""
    weights = list(score.parameters()) if isinstance(score, nn.Module) else []
    return all(w.ndim <= 2 for w in weights) and 0 < sum(w.numel() for w in weights) <= MAX_SMALL_WEIGHTS


@contextmanager
def threads_for(score: object) -> Iterator[None]:
    """Within it, one thread computes if the score is a small network; afterwards as many as before.

    Several threads save such a network little time, and cost it a lot where another program needs their processors.
    A number of threads that the user has set in the environment stays.
    """
    usual = torch.get_num_threads()
    if is_small(score) and not any(name in os.environ for name in FIXED_BY):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def spare_seconds() -> float:
    """Seconds, over all processors, that other programs have left: idle ones, and those of this program."""
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0) + time.process_time())


STARTED = time.perf_counter(), spare_seconds()  # loading a model takes long enough to see who else computes


class Threads:
    """As many of torch's threads as other programs leave processors; a number that the user has set stays.

    Threads of one computation wait for each other thousands of times a second.  Where another program has one of their
    processors, each wait can take as long as the scheduler lets that program go on: on two processors of a Xeon under
    Linux 6.18 a training fell from 638 images/s to 6 beside one busy loop, and one thread has 353.
    """

    def __init__(self) -> None:
        self.most = self.number = torch.get_num_threads()
        self.before, self.next_look, self.announced = STARTED, STARTED[0] + FIRST_LOOK, False

    def beside(self, work: Iterable[T]) -> Iterator[T]:
        """Pass pieces of work on, each computed by as many threads as there is room for; afterwards by all again."""
        if any(name in os.environ for name in FIXED_BY):
            yield from work
            return
        try:
            self.follow()
            for piece in work:
                yield piece
                self.follow()
        finally:
            torch.set_num_threads(self.most)

    def follow(self) -> None:
        """Set the number of threads; every two seconds look who computes, and tell the user once."""
        now, (then, spare) = time.perf_counter(), self.before
        if now >= self.next_look:
            self.before, self.next_look = (now, spare_seconds()), now + LOOK
            free = (self.before[1] - spare) / (now - then)
            self.number = max(1, min(self.most, int(free + TOLERATED)))
            if self.number < self.most and not self.announced:
                self.announced = True
                log.warning(
                    f"other programs leave {free:.1f} processors free: ncsn uses {self.number} of {self.most} threads"
                )
        torch.set_num_threads(self.number)
