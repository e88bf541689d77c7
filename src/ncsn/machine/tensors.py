"""Tensors in the precision and on the device where they are needed, with as few copies as possible."""

import torch
from torch import Tensor

from ncsn.validation import check_floats


def float64(x: Tensor) -> Tensor:
    """``x`` in double precision, moved to the CPU if its device (one of Apple's GPUs) has none."""
    check_floats("x", x)
    return x.cpu().double() if x.device.type == "mps" else x.double()


def move_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device; float64 becomes float32 on Apple's GPUs, which have no double precision."""
    single = device.type == "mps" and tensor.dtype == torch.float64
    return (tensor.float() if single else tensor).to(device)


class Copies:
    """Tensors with one cached copy per device, because every copy synchronises.

    Apple's GPUs have no double precision, so float64 tensors are copied there as float32.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.by_device = {tensors[0].device: tensors}

    @torch.inference_mode(False)
    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The tensors on this device."""
        if device not in self.by_device:
            first = next(iter(self.by_device.values()))
            self.by_device[device] = tuple(move_to(tensor, device) for tensor in first)
        return self.by_device[device]
