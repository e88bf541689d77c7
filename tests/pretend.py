"""An accelerator that is not there: tests find what would fail on a GPU, on a machine that has none.

Within ``pretend("cuda")`` or ``pretend("mps")`` tensors can be on that device.  Such a ``Remote`` looks empty to torch,
as tensors on "meta" do, and has its numbers in another tensor, ``here``, on the CPU: there each operation runs, so
results are the CPU's.  What the device would refuse is refused: tensors of two devices in one operation, numpy, a
generator that is elsewhere; on mps double precision and what torch's list of native functions has no kernel for.
``waits`` says where the processor would have to wait for the device.

Nothing is seen of speed, memory, kernels and their rounding, streams, compiled networks, other threads and processes.
"""

# mypy: allow-untyped-calls, disable-error-code="import-untyped, override"

import sys
from collections import Counter
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
import torchgen
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchgen.gen import parse_native_yaml
from torchgen.model import DeviceCheckType, DispatchKey

HOST, STAND_IN = torch.device("cpu"), torch.device("meta")  # the latter is what torch takes the device for
COPIES = ("_to_copy", "copy_")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # with indices that may be on the CPU
# Whose results CUDA looks at before it goes on, beside those that torch tags as dependent on data.
WAITING = ("_linalg_eigh", "_linalg_svd", "_linalg_eig", "_linalg_solve_ex", "_linalg_check_errors", "multinomial")
# On mps, of torch 2.9, which is allowed; later ones have some of them.
MISSING = ("_linalg_eigh", "_linalg_svd", "linalg_qr", "special_ndtri", "special_log_ndtr", "kthvalue")
# What autocast computes in 16 bits.
PRODUCTS = ["matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d", "linear"]
active: list["Pretend"] = []  # the innermost is the last


class Remote(torch.Tensor):
    """A tensor on the device that is pretended."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> "Remote":
        shape = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        self: Remote = torch.Tensor._make_wrapper_subclass(cls, here.shape, device=STAND_IN, **shape)  # type: ignore
        self.here = here
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return active[-1].run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    device: Any = property(lambda self: active[-1].device)
    is_cuda: Any = property(lambda self: active[-1].device.type == "cuda")
    is_meta: Any = False
    is_mps: Any = property(lambda self: active[-1].device.type == "mps")

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> Any:
        return self.here.untyped_storage()

    def __format__(self, spec: str) -> str:
        return format(self.detach().cpu(), spec)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.here!r} on {self.device}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.here.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remote":
        if id(self) not in memo:
            new = Remote(self.here.detach().clone()).requires_grad_(self.requires_grad)
            memo[id(self)] = torch.nn.Parameter(new, self.requires_grad) if hasattr(self, "_is_param") else new
        return cast(Remote, memo[id(self)])


class AnyGenerator(type(torch.Generator)):  # type: ignore[misc]
    """What takes the place of the class of generators has them all as instances."""

    def __instancecheck__(cls, thing: object) -> bool:
        return issubclass(type(thing), torch._C.Generator)


class Generator(torch._C.Generator, metaclass=AnyGenerator):
    """A generator on either device; the state of one there has 16 bytes, as CUDA's."""

    away = False
    states: list[torch.Tensor] = []

    def __new__(cls, device: Any = HOST) -> "Generator":
        self = super().__new__(cls, HOST)  # type: ignore[call-arg]
        self.away = torch.device(device).type == active[-1].device.type
        return self

    device: Any = property(lambda self: active[-1].device if self.away and active else HOST)

    def get_state(self) -> torch.Tensor:
        state = super().get_state()
        if not self.away:
            return state
        self.states.append(state)
        return torch.tensor([len(self.states) - 1, 0]).view(torch.uint8)

    def set_state(self, state: torch.Tensor) -> "Generator":
        if self.away and state.numel() != 16:
            raise RuntimeError("RNG state is wrong size")
        super().set_state(self.states[int(state.view(torch.int64)[0])] if self.away else state)
        return self


@cache
def native_functions() -> tuple[dict[str, Any], Any]:
    """Torch's own functions by their names, and which of them have a kernel for mps."""
    folder = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native"
    parsed = parse_native_yaml(str(folder / "native_functions.yaml"), str(folder / "tags.yaml"))
    return {str(f.func.name): f for f in parsed.native_functions}, parsed.backend_indices[DispatchKey.MPS]


def native(func: Any) -> Any:
    """What torch says of an operation; None for one that is not its own."""
    return native_functions()[0].get(func._schema.name[6:] + f".{func._overloadname}".removesuffix(".default"))


@cache
def on_mps(func: Any) -> bool:
    """Whether mps has an operation."""
    f = native(func)
    if func._schema.name[6:] in MISSING:
        return False
    composite = f is None or f.has_composite_kernel
    delegate = None if composite or f.structured_delegate is None else native_functions()[0][str(f.structured_delegate)]
    return composite or any(native_functions()[1].has_kernel(g) for g in (f, delegate) if g is not None)


class Names(TorchFunctionMode):
    """Python's calls: the device's name becomes that of its stand-in, generators are checked, autocast lowers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, active[-1].device.type

        def translated(value: Any) -> Any:
            there = isinstance(value, str | torch.device) and str(value) in (name, f"{name}:0")
            return STAND_IN if there else value

        if func is torch.device:
            return func(*args, **kwargs)
        args, kwargs = tuple(map(translated, args)), {key: translated(value) for key, value in kwargs.items()}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") == STAND_IN:
            made = args[0] if isinstance(args[0], Remote) else func(*args, **kwargs | {"device": HOST})
            return made.to(STAND_IN, kwargs.get("dtype", made.dtype))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)  # torch would make tensors of its lists there
            args = (args[0], tuple(torch.tensor(i) if isinstance(i, list) else i for i in index), *args[2:])
        if getattr(func, "__name__", "").strip("_") in PRODUCTS and torch.is_autocast_enabled(name):
            args, kwargs = mapped(partial(lowered, torch.get_autocast_dtype(name)), (args, kwargs))
        generator = kwargs.get("generator")
        if generator is not None:
            place = kwargs.get("device") or next((t.device for t in args if isinstance(t, torch.Tensor)), HOST)
            place = active[-1].device if place == STAND_IN else torch.device(place)
            if place.type != generator.device.type:
                raise RuntimeError(f"Expected a '{place.type}' device type for generator, found '{generator.device}'")
        return func(*args, **kwargs)


def mapped(change: Any, value: Any) -> Any:
    """``value`` with everything in its tuples, lists and dictionaries changed."""
    if isinstance(value, dict):
        return {key: mapped(change, one) for key, one in value.items()}
    return type(value)(mapped(change, one) for one in value) if type(value) in (tuple, list) else change(value)


def lowered(dtype: torch.dtype, value: Any) -> Any:
    """A floating-point tensor on the device in 16 bits."""
    return value.to(dtype) if isinstance(value, Remote) and value.is_floating_point() else value


class Pretend(TorchDispatchMode):
    """Within it there is a device of that name.  ``waits``: how often the processor waits for it, by place and why."""

    device: torch.device

    def __init__(self, name: str, memory: int = 2**34) -> None:
        super().__init__()
        self.device, self.waits, self.stack = torch.device(name, 0), Counter[str](), ExitStack()
        state = torch.zeros(16, dtype=torch.uint8)
        cuda: dict[str, Any] = {
            "is_available": True,
            "device_count": 1,
            "is_bf16_supported": True,
            "mem_get_info": (memory, memory),
            "get_rng_state": state,
            "set_rng_state": None,
        }
        self.patches: dict[str, Any] = {"torch.Generator": Generator}
        if name == "cuda":
            self.patches |= {f"torch.cuda.{key}": lambda *_, value=value, **__: value for key, value in cuda.items()}

    def __enter__(self) -> "Pretend":
        active.append(self)
        for target, value in self.patches.items():
            self.stack.enter_context(patch(target, value))
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # another kind of tensor is another parameter
        self.stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        self.stack.enter_context(Names())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.stack.close()
        active.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation, wherever its tensors are."""
        remote, host, asked = list[Any](), list[torch.Tensor](), kwargs.get("device")
        both = {True: remote, False: host}
        mapped(lambda t: both[isinstance(t, Remote)].append(t) if isinstance(t, torch.Tensor) else None, (args, kwargs))
        there = bool(remote) if asked is None else asked.type == "meta"
        if not (remote or there):
            return func(*args, **kwargs)
        name = func._schema.name[6:]
        self.refuse(func, name, args, host, crossing=asked is not None or name in COPIES)
        self.count(func, name, args, asked)

        def bare(value: Any) -> Any:
            return value.here if isinstance(value, Remote) else HOST if isinstance(value, torch.device) else value

        result = func(*mapped(bare, args), **mapped(bare, kwargs))
        if any(t.shape != t.here.shape for t in remote):
            raise NotImplementedError(f"{func} changes a shape in place")
        own = {id(t.here): t for t in remote} | {id(t): t for t in host}

        def placed(value: Any) -> Any:
            if not there or not isinstance(value, torch.Tensor) or id(value) in own:
                return own.get(id(value), value)
            if self.device.type == "mps" and value.dtype in (torch.float64, torch.complex128):
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype, which MPS does not support")
            return Remote(value)

        return mapped(placed, result)

    def refuse(self, func: Any, name: str, args: Any, host: list[torch.Tensor], *, crossing: bool) -> None:
        """Raise what torch does for an operation without a kernel, and for tensors that are not on the device."""
        if self.device.type == "mps" and not on_mps(func):
            raise NotImplementedError(f"The operator 'aten::{name}' is not currently implemented for the MPS device")
        free = [id(t) for t in args[1]] if name in INDEXING and isinstance(args[0], Remote) else []
        for t in [] if crossing else host:
            f, written = native(func), t is args[0] and name.endswith("_")
            # Torch takes single numbers from anywhere, if the function says so.
            single = f and t.ndim == 0 and f.device_check == DeviceCheckType.NoCheck and not written
            if id(t) not in free and not single:
                raise RuntimeError(f"Expected all tensors to be on the same device, {self.device} and cpu: {func}")

    def count(self, func: Any, name: str, args: Any, asked: torch.device | None) -> None:
        """Note what the processor waits for: copies from one device to the other, and results that it looks at."""
        if name in COPIES:
            target = isinstance(args[0], Remote) if asked is None else asked.type == "meta"
            source = isinstance(args[0 if name == "_to_copy" else 1], Remote)
            waits = target != source
        elif name in INDEXING:
            indices = [t for t in args[1] if t is not None]
            waits = any(t.dtype == torch.bool or not isinstance(t, Remote) for t in indices)
        else:
            tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
            waits = name in WAITING or bool(tags & {*func.tags})
        if waits:
            frame = sys._getframe(1)
            while frame.f_back and ("torch" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
                frame = frame.f_back
            self.waits[f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {name}"] += 1
