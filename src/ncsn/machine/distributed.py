"""Communication between the processes that torchrun starts; a single process runs the same code with size 1."""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

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

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in single precision and one message."""
        if self.size == 1:
            return
        device = tensors[0].device
        flat = torch.cat([tensor.flatten().to(device, torch.float32) for tensor in tensors])
        with name_peer_errors():
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, content: bytes | None = None) -> bytes:
        """The main process's ``content``, on all processes."""
        if self.size == 1:
            return content or b""
        own = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
        with name_peer_errors():
            size = torch.tensor([len(own)])
            dist.broadcast(size, src=0, group=self.patient)
            data = own if self.is_main else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, src=0, group=self.patient)
        return data.numpy().tobytes()


@contextmanager
def name_peer_errors() -> Iterator[None]:
    """Within it, torch's errors about another process become PeerErrors of one line."""
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
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    return Group(rank=rank, size=size, patient=patient)
