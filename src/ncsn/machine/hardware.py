"""Devices, precision, compilation, threads and memory of this machine, and the processes that torchrun starts."""

import atexit
import ctypes
import logging
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ncsn.machine.messages import is_shown, limit_seconds, log
from ncsn.validation import one_line

T = TypeVar("T")
R = TypeVar("R")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names for what mallopt sets, in malloc.h
FIRST_CHECK, CHECK_INTERVAL = 0.2, 2.0  # of other programs' load, in seconds
TOLERATED_LOAD = 0.4  # processors that other programs may use before ncsn drops a thread
FIXED_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # users and torchrun set the number of threads by these
MAX_SMALL_WEIGHTS = 2**20  # of a network without convolutions that one thread computes


def keep_memory() -> None:
    """Let glibc keep freed memory for the next tensors; does nothing with other C libraries.

    By default glibc returns large blocks to the system, and every training step gets fresh, zeroed pages, which can
    take longer than the arithmetic of a small network.
    """
    if platform.libc_ver()[0] == "glibc":
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, 2**30)


def compile_network(network: nn.Module, trial: Callable[[], Tensor], *, seconds: float = 0.0) -> None:
    """Compile ``network`` in place with torch.compile.

    ``trial`` calls the network as it will be called later, which compiles it.  If that fails, for example without a C++
    compiler, or takes more than ``seconds`` (0 for no limit), a warning says why and the network stays uncompiled.
    """
    options = {
        "inplace_buffers": False,  # they break the backward pass for some widths (torch 2.13), and save no time
        "cpp.dynamic_threads": True,  # ``threads_for`` may change their number later
    }
    log.warning("compiling the network: this takes up to a minute the first time, and seconds afterwards")
    began = time.perf_counter()
    try:
        # All blocks of all networks share one piece of code, which torch would compile for eight shapes only.
        with limit_seconds(seconds), warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=100):
            warnings.simplefilter("ignore")  # torch has several lines about each error
            network.compile(dynamic=False, options=options)
            value = trial()
            if value.requires_grad:
                value.sum().backward()  # type: ignore[no-untyped-call]
                network.zero_grad()
    except Exception as error:  # a missing toolchain and compiler bugs raise many kinds
        with suppress(RuntimeError):  # raised where torch can't compile at all, so that there is nothing to undo
            network.compile(disable=True)
        if 0 < seconds <= time.perf_counter() - began:
            failure = f"it took more than {seconds:g} s"
        else:
            message, _, _ = str(error).partition("\n\nSet TORCH")  # torch's advice for its developers
            lines = [line for line in message.splitlines() if "error:" in line]  # the C++ compiler's own
            failure = one_line(lines[0] if lines else message or type(error).__name__)
        log.warning(f"torch.compile failed, so everything takes about 1.5 times as long: {failure}")


def stance(name: str) -> AbstractContextManager[None]:
    """``torch.compiler.set_stance``, within a block."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and the import would take half a second
        return nullcontext()
    untyped_name: Any = name  # versions of torch declare different types
    return cast("AbstractContextManager[None]", torch.compiler.set_stance(untyped_name))


# Within it, calls with new shapes run uncompiled: for a few calls, compiling takes longer than it saves.
nothing_compiled = partial(stance, "eager_on_recompile")
# Within it, networks run uncompiled: torch can't compile repeated gradients.
uncompiled = partial(stance, "force_eager")


def memory_of(device: torch.device) -> int:
    """The device's total memory, in bytes."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else int(psutil.virtual_memory().total)


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is CUDA if available, otherwise the CPU.

    Each of several processes on a machine gets a GPU of its own.
    Raises ValueError if this machine has no such device, or no GPU for this process.
    """
    name = str(name)  # a user's may be a torch.device
    if name.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"device is {name}; it must be auto, cpu, cuda or mps")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        return torch.empty((), device=name).device
    except (RuntimeError, AssertionError) as error:  # depending on how torch was built
        raise ValueError(f"device {name} is not available; use --device cpu") from error


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that autocast pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast for bf16, fp32 or auto, the faster of the two on the device; None for fp32.

    With bf16 the network computes in 16 bits, but its weights stay in 32.
    """
    fast = fast_bfloat16(device)
    if precision == "bf16" and device.type == "cpu" and not fast:
        log.info("precision bf16: this processor may emulate it, which is many times slower than fp32")
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and fast) else None


@contextmanager
def preserve_settings() -> Iterator[None]:
    """Within it, the default dtype is float32 and the default device is the CPU.

    Afterwards they and the random state are as before.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    has_device = device.type != "cpu"  # setting a default device, even the CPU, slows down every call of torch
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_default_dtype(torch.float32)
            if has_device:
                torch.set_default_device(None)
            yield
        finally:
            torch.set_default_dtype(dtype)
            if has_device:
                torch.set_default_device(device)


def is_small(score: object) -> bool:
    """Whether a score is a network without convolutions and with few weights, such as the package's MLPs."""
    weights = list(score.parameters()) if isinstance(score, nn.Module) else []
    return all(w.ndim <= 2 for w in weights) and 0 < sum(w.numel() for w in weights) <= MAX_SMALL_WEIGHTS


def spare_seconds() -> float:
    """Processor seconds not used by other programs: idle time, and this program's own."""
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0) + time.process_time())


class Load:
    """How many processors other programs leave free, measured at most every two seconds."""

    def __init__(self) -> None:
        self.checked, self.spare = time.perf_counter(), spare_seconds()
        self.next_check = self.checked + FIRST_CHECK
        self.free = math.inf
        self.announced = False

    def threads(self, most: int) -> int:
        """The number of threads, at most ``most``, for which there is a processor; logs once if it is lower."""
        now = time.perf_counter()
        if now >= self.next_check:
            spare = spare_seconds()
            self.free = (spare - self.spare) / (now - self.checked)
            self.checked, self.spare = now, spare
            self.next_check = now + CHECK_INTERVAL
        number = max(1, int(min(most, self.free + TOLERATED_LOAD)))
        if number < most and not self.announced and is_shown(logging.WARNING):
            self.announced = True
            log.warning(f"other programs leave {self.free:.1f} processors free; ncsn uses {number} of {most} threads")
        return number


LOAD = Load()  # of the process; importing the rest and loading a model take long enough for a first look


@contextmanager
def threads_for(score: object = None, *, steady: bool = False) -> Iterator[None]:
    """Within it, torch computes with as many threads as there are free processors; afterwards with as many as before.

    The threads of a computation wait for each other thousands of times a second.  If another program occupies one of
    their processors, each wait can last a whole time slice: on two cores of a Xeon under Linux 6.18, training next to a
    busy loop fell from 638 images/s to 6 with two threads, but only to 353 with one.

    If ``score`` is a small network, there is one thread, since several would save little time.
    ``steady``: don't adapt to the load, for results that must be the same to the byte.
    A number of threads that the user has set in the environment stays.
    """
    threads = torch.get_num_threads()
    if not any(name in os.environ for name in FIXED_BY):
        if is_small(score):
            torch.set_num_threads(1)
        elif not steady:
            torch.set_num_threads(LOAD.threads(threads))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def free_threads(device: torch.device) -> int:
    """How many computations to do at once: one, except on a CPU, where each free processor does one."""
    threads = torch.get_num_threads()
    if device.type != "cpu":
        return 1
    return threads if any(name in os.environ for name in FIXED_BY) else LOAD.threads(threads)


def in_parallel(work: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[R]:
    """Yield ``work(item)`` for each item, in order; ``at_once`` of them are computed at a time, by one thread each.

    They share nothing, so they don't wait for each other as the threads of a single computation do, and results don't
    depend on ``at_once``.  torch's modes, such as ``no_grad``, belong to a thread, so ``work`` must set them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(at_once)
    try:
        yield from pool.map(work, items) if at_once > 1 else map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


TIMEOUT = timedelta(minutes=10)  # for the other processes' share of the work
PATIENCE = timedelta(hours=6)  # for what only the main process does, such as reading a large dataset


class PeerError(RuntimeError):
    """Another process has ended or can't be reached; that process reports the cause."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes that share the work: ``size`` of them, and this one is number ``rank``, from 0.

    ``patient``: torch's process group with a long timeout.
    All processes must call the same methods in the same order.  Methods raise PeerError if another process has ended or
    doesn't respond in time.
    """

    rank: int = 0
    size: int = 1
    patient: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reads, writes and prints."""
        return self.rank == 0

    def share(self, n: int) -> int:
        """How many of ``n`` examples each process learns from, rounded up."""
        return -(-n // self.size)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in single precision and one message."""
        if self.size == 1:
            return
        device = tensors[0].device
        flat = torch.cat([tensor.flatten().to(device, torch.float32) for tensor in tensors])
        with name_peer_errors():
            dist.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view_as(tensor))

    def broadcast(self, content: bytes | None = None) -> bytes:
        """The main process's ``content``, on all processes."""
        contents = [content or b""]
        if self.size > 1:
            with name_peer_errors():
                dist.broadcast_object_list(contents, src=0, group=self.patient, device=torch.device("cpu"))
        return contents[0]

    def agree(self, answer: bool) -> bool:
        """The main process's answer, on all processes, because those of others may differ in the last digits."""
        return self.broadcast(b"yes" if answer else b"no") == b"yes"


@contextmanager
def name_peer_errors() -> Iterator[None]:
    """Turn torch's errors about another process into PeerErrors of one line, within a block."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"another process has ended or can't be reached ({str(error).splitlines()[0]})") from error


ALONE = Group()


def join() -> Group:
    """Connect to the other processes, if torchrun has started any.  Raises PeerError if that fails."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    backend = "gloo"
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number < torch.cuda.device_count():
        torch.cuda.set_device(number)
        backend = "cpu:gloo,cuda:nccl"  # gloo for tensors on the CPU, NCCL for those on GPUs
    with name_peer_errors():
        store, rank, size = next(iter(rendezvous("env://")))
        # When torchrun restarts processes, its store still holds the addresses of the old ones.
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        # The groups' threads must end before Python does, or they abort when they ask for the interpreter's lock.
        atexit.register(dist.destroy_process_group)
        patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    return Group(rank=rank, size=size, patient=patient)
