"""What this machine can do, and how to get it: devices, bfloat16, compilation."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ncsn import compiled

USUAL_MEMORY = 2**34  # bytes, where a system does not say


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


def compile_network(network: nn.Module, trial: Callable[[], Tensor]) -> str | None:
    """Compile ``network`` in place with torch.compile; returns why not, if this machine cannot (no C++ compiler, say).

    ``trial`` calls the network once, as it will be called afterwards, and compiles it on the way: up to a minute the
    first time, then seconds (see ``ncsn.compiled``).  If that fails, the network runs as it did before.
    """
    # Results that overwrite their inputs break the backward pass of some widths (torch 2.13), and save no time.
    # Threads may become fewer on the way, see ``ncsn.threads``.
    options = {"inplace_buffers": False, "cpp.dynamic_threads": True}
    if shutil.which("openssl") is None:  # which tells compiled headers apart; without headers it takes twice as long
        options["cpp_cache_precompile_headers"] = False
    try:
        network.compile(dynamic=False, options=options)
        with compiled.whole():
            value = trial()
            if value.requires_grad:
                value.sum().backward()  # type: ignore[no-untyped-call]
                network.zero_grad()
    except Exception as error:  # whatever a missing toolchain or a bug of the compiler raises
        torch.compiler.set_stance("force_eager")
        return in_one_line(error)
    return None


def in_one_line(error: Exception) -> str:
    """What an error of torch's compiler says first, and of a C++ compiler's many lines the first that is an error."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return "; ".join([first, *[line for line in rest if "error:" in line][:1]])


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


class Results(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, the bytes of what operations make are counted: of ``all``, and of the ``largest``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked, and count what it makes anew."""
        made = func(*args, **(kwargs or {}))
        if not (func.is_view or func._schema.is_mutable):
            sizes = [value.nbytes for value in tree_leaves(made) if isinstance(value, Tensor)]
            self.all += sum(sizes)
            self.largest = max([self.largest, *sizes])
        return made


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


def check_memory(needed: int, device: torch.device, what: str) -> None:
    """Raises ValueError if ``what`` needs more bytes than the device has."""
    there = memory_of(device)
    if needed > there:
        raise ValueError(f"{what} would need about {needed / 1e9:,.0f} GB of memory; there are {there / 1e9:,.0f} GB")


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
