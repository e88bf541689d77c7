"""What this machine can do, and how to get it: bfloat16, compilation, memory."""

import ctypes
import platform
from collections.abc import Callable

import torch
from torch import Tensor, nn


def keep_memory() -> None:
    """Tell glibc to keep the memory that tensors free, for the next tensors; does nothing elsewhere.

    By default it returns large blocks to the system, and every step pays for fresh, zeroed pages, which can take longer
    than the arithmetic of a small network.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        for parameter in (trim_threshold, mmap_threshold):
            libc.mallopt(parameter, 2**30)


def compile_network(network: nn.Module, trial: Callable[[], Tensor]) -> str | None:
    """Compile ``network`` in place with torch.compile; returns why not, if this machine cannot (no C++ compiler, say).

    ``trial`` calls the network once, as it will be called afterwards, and compiles it on the way: up to a minute the
    first time, seconds from torch's cache.  If that fails, for whatever reason, the network runs as it did before.
    """
    try:
        network.compile(dynamic=False)
        value = trial()
        if value.requires_grad:
            value.sum().backward()  # type: ignore[no-untyped-call]
            network.zero_grad()
    except Exception as error:  # whatever a missing toolchain or a bug of the compiler raises
        torch.compiler.set_stance("force_eager")
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None


def choose_device(name: str) -> torch.device:
    """The device to train on: cpu, cuda, or auto for cuda where there is one.

    Raises ValueError if cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees none here; allowed are cpu and auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that autocast pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def slow(device: torch.device) -> bool:
    """Whether the device is a CPU without bfloat16: a tenth of the arithmetic of one that has it."""
    return device.type == "cpu" and not fast_bfloat16(device)
