"""One process or many: what they must agree on, by PyTorch's own engine.

``torchrun`` starts the processes and says to each of them, in its environment, who it is.  One process is the case
N = 1, of the same code: what it would tell the others, it tells itself.
"""

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

TIMEOUT = timedelta(minutes=10)  # that a process waits for the others' share of the work
PATIENCE = timedelta(hours=6)  # that it waits for what the leading one does alone, such as to read a large data set


class PeerError(RuntimeError):
    """Another process has ended, or cannot be reached; what went wrong is said there."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes that work on one thing: this one's ``rank``, from 0, and their number, ``size``.

    ``patient``: torch's group of all of them in which they wait as long as it takes.
    Every method is called by all of them, in the same order.  It raises PeerError where one of them is gone, or has not
    answered in time.
    """

    rank: int = 0
    size: int = 1
    patient: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks, reads and writes for all."""
        return self.rank == 0

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over all processes, in single precision, by one message to each."""
        if self.size == 1:
            return
        device = tensors[0].device
        flat = torch.cat([tensor.flatten().to(device, torch.float32) for tensor in tensors])
        with answered():
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, content: bytes | None = None) -> bytes:
        """The leading process' ``content``, on all of them; the others' does not matter."""
        if self.size == 1:
            return content or b""
        own = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
        with answered():
            size = torch.tensor([len(own)])
            dist.broadcast(size, src=0, group=self.patient)
            data = own if self.is_main else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, src=0, group=self.patient)
        return data.numpy().tobytes()

    def barrier(self) -> None:
        """Wait until all of them are here."""
        if self.size > 1:
            with answered():
                dist.barrier(group=self.patient)


@contextmanager
def answered() -> Iterator[None]:
    """Within it, what torch says of a peer that is gone becomes a PeerError, in one line."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"the processes cannot meet, or one has ended ({str(error).splitlines()[0]})") from error


ALONE = Group()


def join() -> Group:
    """Meet the other processes that torchrun has started, if it has.  Raises PeerError if they do not come."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    backend = "gloo"
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number < torch.cuda.device_count():
        torch.cuda.set_device(number)
        backend = "cpu:gloo,cuda:nccl"  # the CPU's messages go by gloo, those between GPUs by NCCL
    with answered():
        store, rank, size = next(iter(rendezvous("env://")))
        # torchrun keeps its store when it restarts processes, which would find the addresses of the dead in it.
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        # Python must not end before the groups' threads have, or they ask a dead interpreter for its lock and abort.
        atexit.register(dist.destroy_process_group)
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    return Group(rank=rank, size=size, patient=patient)
