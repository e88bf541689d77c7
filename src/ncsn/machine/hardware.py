"""What this machine can do, and how to get it: devices, precision, compilation, threads, memory."""

import ctypes
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import platformdirs
import psutil
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

T = TypeVar("T")
USUAL_MEMORY = 2**34  # bytes, where a system does not say
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names for what mallopt sets, in malloc.h
GLIBC = platform.libc_ver()[0] == "glibc"

BUSY = 0.4  # processors that other programs use: from there on fewer threads are tried
CLEARLY = 1.05  # times the speed that makes fewer threads worth it
LOOK, AGAIN = 2.0, 20.0  # seconds between two looks at the load, and between two trials
TRIAL = 0.1  # seconds that a trial of a number of threads takes
SIDE = 384  # of a trial's matrices: their product takes a millisecond or two, as the parts of a network do
FIXED_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which a user, or torchrun, sets the number of threads


def memory() -> int:
    """How many bytes of memory this process may have: the machine's, or fewer if the process is limited to them."""
    found = USUAL_MEMORY
    with suppress(AttributeError, ValueError, OSError):
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(ImportError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        found = found if limit == resource.RLIM_INFINITY else min(found, limit)
    return found


def refresh_interval() -> float:
    """Seconds between updates of a progress bar: a terminal wants many, a log file few."""
    return 0.3 if sys.stderr.isatty() else 30.0


def say(line: str) -> None:
    """Tell the user something above any progress bar; of several processes the first speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(line, file=sys.stderr)


def keep_memory() -> None:
    """Let glibc keep the memory that tensors free, for the next tensors; does nothing with other C libraries.

    By default it returns large blocks to the system, and every training step pays for fresh, zeroed pages, which can
    take longer than the arithmetic of a small network.
    """
    if GLIBC:
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, 2**30)


def return_memory() -> None:
    """Give the memory that ``keep_memory`` has kept back to the system, before work of another kind."""
    if GLIBC:
        ctypes.CDLL(None).malloc_trim(0)


def keep_compiled_code() -> None:
    """Let torch keep compiled code in the user's cache folder instead of the temporary one, unless the user chose.

    So nothing is compiled twice, also after a restart of the system.
    """
    with suppress(RuntimeError, OSError):  # a user without a home, or a folder that cannot be written
        folder = platformdirs.user_cache_path("ncsn", appauthor=False, ensure_exists=True) / "compiled"
        if " " not in str(folder):  # which torch's compiler does not take
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def compile_network(network: nn.Module, trial: Callable[[], Tensor]) -> str | None:
    """Compile ``network`` in place with torch.compile; returns why not, if this machine cannot (no C++ compiler, say).

    ``trial`` calls the network once, as it will be called afterwards, and compiles it on the way: up to a minute the
    first time, then seconds.  If that fails, the network runs as it did before.
    """
    # Results that overwrite their inputs break the backward pass of some widths (torch 2.13), and save no time.
    # The number of threads may change later, see ``Threads``.
    options = {"inplace_buffers": False, "cpp.dynamic_threads": True}
    if shutil.which("openssl") is None:  # torch tells precompiled headers apart by it; without them it takes longer
        options["cpp_cache_precompile_headers"] = False
    try:
        network.compile(dynamic=False, options=options)
        value = trial()
        if value.requires_grad:
            value.sum().backward()  # type: ignore[no-untyped-call]
            network.zero_grad()
    except Exception as error:  # whatever a missing toolchain or a bug of the compiler raises
        torch.compiler.set_stance("force_eager")
        first, *rest = str(error).strip().splitlines() or [type(error).__name__]
        return "; ".join([first, *[line for line in rest if "error:" in line][:1]])  # the compiler's own first error
    return None


def say_compiled(compile_it: Callable[[], str | None]) -> None:
    """Call what compiles a network, between the two lines that a user needs to know."""
    say("compiling the network: up to a minute the first time, then seconds")
    if reason := compile_it():
        say(f"going on without torch.compile, about 1.5 times slower: {reason}")


@contextmanager
def stance(name: str) -> Iterator[None]:
    """Within it, torch treats what is compiled so; see ``torch.compiler.set_stance``."""
    if "torch._dynamo" not in sys.modules:  # then nothing has been compiled, and half a second is saved
        yield
        return
    with torch.compiler.set_stance(name):
        yield


nothing_compiled = partial(stance, "eager_on_recompile")
"""Within it, nothing is compiled anew: for a few calls of another shape that would take longer than it saves."""
uncompiled = partial(stance, "force_eager")
"""Within it, networks run as if they were not compiled: torch compiles no gradients that are asked for repeatedly."""


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Within it, results below 10⁻³⁸ are zero, in this thread and in those that it begins: enter before torch computes.

    Processors are slow at them, and an activation makes them wherever it needs e⁻ˣ of an x beyond 87: a fifth of a
    training step.  Afterwards this thread computes with them again.  Does nothing where the processor cannot.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory_of(device: torch.device) -> int:
    """How many bytes of memory the device has, for all who compute on it."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory()


def onto(device: torch.device, x: Tensor) -> Tensor:
    """``x``, of any shape, on the device.

    A GPU fetches it itself, from memory that stays where it is, while the program goes on.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


DEVICES: dict[str, Callable[[], bool]] = {
    "cpu": lambda: True,
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}


def choose_device(name: str) -> torch.device:
    """The device of that name: cpu, cuda or mps, or auto for cuda where there is one and else the cpu.

    Of several processes on a machine each has a GPU of its own.
    Raises ValueError if there is no such device here, naming those that there are, or no GPU for this process.
    """
    here = [device for device, is_there in DEVICES.items() if is_there()]
    if name == "auto":
        name = "cuda" if "cuda" in here else "cpu"
    if name == "cuda" and "cuda" in here and "LOCAL_RANK" in os.environ:
        number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= there:
            raise ValueError(f"there are {there} GPUs here for {number + 1} processes or more; --device cpu needs none")
        return torch.device("cuda", number)
    if name.split(":")[0] not in here:
        raise ValueError(f"device is {name}; there are auto, {', '.join(here)} here")
    return torch.device(name)


def processor_has(*capabilities: str) -> bool:
    """Whether this processor has one of these, by torch's names of them."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name) for name in capabilities)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that autocast pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return processor_has("avx512_bf16", "amx_bf16")


def slow(device: torch.device) -> bool:
    """Whether the device is a CPU without bfloat16: a tenth of the arithmetic of one that has it."""
    return device.type == "cpu" and not fast_bfloat16(device)


def choose_precision(name: str, device: torch.device) -> str:
    """The precision of that name, or for auto the one that is fastest on the device.

    bf16, fp16: the network runs in 16 bits, its weights stay in 32.  tf32: NVIDIA's products, in 19 bits.
    Raises ValueError if the device has no such precision.
    """
    here, gpu = ["bf16", "fp16", "fp32"], device.type == "cuda"
    if gpu and fast_bfloat16(device):  # both came with the same generation
        here.append("tf32")
    if name == "auto":
        return "bf16" if fast_bfloat16(device) else "fp16" if gpu else "fp32"
    if name not in here:
        raise ValueError(f"precision is {name}; {device.type} has {', '.join(here)}")
    return name


def emulated(precision: str, device: torch.device) -> bool:
    """Whether the device is a processor that computes in 16 bits by way of 32, many times slower than in 32."""
    if device.type != "cpu" or precision not in ("bf16", "fp16"):
        return False
    return not (processor_has("avx512_fp16", "amx_fp16") if precision == "fp16" else fast_bfloat16(device))


def autocast_of(precision: str) -> torch.dtype | None:
    """What a network runs in, if not in the precision of its weights."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def allow_tf32(allowed: bool) -> None:
    """Whether NVIDIA's GPUs may round the factors of products of 32 bits to 19."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@dataclass(frozen=True, kw_only=True)
class Load:
    """Seconds until now: of the clock, of this process' arithmetic, and how long each processor was busy."""

    wall: float
    own: float
    busy: list[float]

    @classmethod
    def now(cls) -> "Load":
        """Measure it."""
        return cls(wall=time.perf_counter(), own=time.process_time(), busy=busy_seconds())

    def others_since(self, before: "Load") -> float:
        """How many of this process' processors other programs have used since then, on average."""
        whole = sum(self.busy) - sum(before.busy)
        return max(0.0, (whole - (self.own - before.own)) / (self.wall - before.wall))


def busy_seconds() -> list[float]:
    """How long each processor that this process may use has been busy so far; empty where the system does not say."""
    try:
        processors = psutil.cpu_times(percpu=True)
    except OSError:  # some containers and telephones do not say
        return []
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(processors))
    # The time of virtual guests is counted in user and nice already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return [
        sum(seconds for name, seconds in processors[number]._asdict().items() if name not in idle)
        for number in sorted(allowed)
    ]


STARTED = Load.now()  # loading a model afterwards takes long enough to see who else computes


class Threads:
    """The number of torch's threads that is fastest beside other programs; a number that the user has set stays.

    Threads of one computation wait for each other thousands of times a second.  Where another program has one of their
    processors, each wait can take as long as the scheduler lets that program go on: on two processors of a Xeon under
    Linux 6.18 a training fell from 638 images/s to 6 beside one busy loop, and one thread has 353.  But beside a
    program of the lowest priority two threads are faster.  So a trial of a fifth of a second decides.

    Call ``follow`` before the first piece of work and after every one, from the thread that computes.
    """

    def __init__(self) -> None:
        self.fixed = any(name in os.environ for name in FIXED_BY)
        self.most = torch.get_num_threads()
        self.looked, self.first = STARTED, True
        self.next_trial = 0.0
        self.announced = False

    def follow(self) -> str | None:
        """Change the number of threads if that helps; returns what to tell the user, once."""
        if self.fixed or (not self.first and time.perf_counter() < self.looked.wall + LOOK):
            return None
        before, self.looked, self.first = self.looked, Load.now(), False
        others = self.looked.others_since(before)
        if others < BUSY or self.most == 1:
            torch.set_num_threads(self.most)
            self.next_trial = 0.0
        elif time.perf_counter() >= self.next_trial:
            free = int(len(self.looked.busy) - others + 1 - BUSY)
            fewer = max(1, min(self.most - 1, free))
            faster = speed(fewer) > CLEARLY * speed(self.most)
            torch.set_num_threads(fewer if faster else self.most)
            self.next_trial = time.perf_counter() + AGAIN
        if self.announced or torch.get_num_threads() == self.most:
            return None
        self.announced = True
        return (
            f"other programs keep {others:.1f} of {len(self.looked.busy)} processors busy: "
            f"fewer threads than {self.most} are faster now (OMP_NUM_THREADS sets their number)"
        )

    def tell(self) -> None:
        """The same, and the user is told."""
        if line := self.follow():
            say(line)

    def beside(self, work: Iterable[T]) -> Iterator[T]:
        """Pass pieces of work on, with the number of threads that is fastest for each; in the end all compute again."""
        self.tell()
        try:
            for piece in work:
                yield piece
                self.tell()
        finally:
            self.release()

    def release(self) -> None:
        """Let all threads compute again."""
        torch.set_num_threads(self.most)


def speed(threads: int) -> float:
    """How many matrix products a second so many threads manage just now."""
    torch.set_num_threads(threads)
    matrix = torch.ones(SIDE, SIDE, device="cpu")
    product = matrix @ matrix  # the first one starts the threads
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + TRIAL:
        torch.mm(matrix, matrix, out=product)
        count += 1
    return count / (time.perf_counter() - began)
