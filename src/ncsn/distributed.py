"""One process or many: what they must agree on, by PyTorch's own engine.

``torchrun`` starts the processes and says to each of them, in its environment, who it is.  One process is the case
N = 1, of the same code: what it would tell the others, it tells itself.
"""

import atexit
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

TIMEOUT = 600.0  # seconds that a process waits for the others' share of the work
MEETING = timedelta(minutes=5)  # that processes wait for each other to come
PATIENCE = timedelta(days=1)  # that it waits for what the leading one does alone; its death is noticed at once


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
    def leads(self) -> bool:
        """Whether this is the process that speaks, reads and writes for all."""
        return self.rank == 0

    def add_(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over all processes, in single precision, by one message to each."""
        if self.size == 1:
            return
        device = tensors[0].device
        flat = torch.cat([tensor.flatten().to(device, torch.float32) for tensor in tensors])
        with answered():
            dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def share(self, content: bytes | None = None) -> bytes:
        """The leading process' ``content``, on all of them; the others' does not matter."""
        if self.size == 1:
            return content or b""
        own = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
        with answered():
            size = torch.tensor([len(own)])
            dist.broadcast(size, src=0, group=self.patient)
            data = own if self.leads else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, src=0, group=self.patient)
        return data.numpy().tobytes()

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Everybody's tensors, of one shape, in order, for the leading process; for the others none."""
        if self.size == 1:
            return [tensor]
        own = tensor.cpu().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)] if self.leads else None
        with answered():
            dist.gather(own, parts, dst=0, group=self.patient)
        return parts or []


@contextmanager
def answered() -> Iterator[None]:
    """Within it, what torch says of a peer that is gone becomes a PeerError, in one line."""
    try:
        yield
    except RuntimeError as error:
        # What torch says, without where in its source, and without its advice.
        what = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).split(". ")[0]
        raise PeerError(f"another process has ended or cannot be reached ({what})") from error


ALONE = Group()


def processes() -> int:
    """How many processes there are, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def job() -> str | None:
    """Which job of torchrun's this process belongs to; the same after torchrun has started it again.  None without."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    agent = os.getppid()
    started = ""
    with suppress(OSError, IndexError):  # /proc is Linux's
        started = Path(f"/proc/{agent}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return f"{name} {socket.gethostname()} {agent} {started}"


def fresh(store: Store, rank: int, size: int) -> PrefixStore:
    """A part of torchrun's ``store`` that is new to these very processes.

    torchrun keeps its store when it starts processes again, and there they would find the addresses of the dead.  So
    the first process gives the part a name by chance, and every other one asks for it by a word of its own.
    Raises RuntimeError if somebody does not come in time.
    """
    word = secrets.token_hex(8)
    if rank > 0:
        store.set(f"asks {rank}", word)
        store.wait([f"told {word}"], MEETING)
        name = store.get(f"told {word}").decode()
        store.set(f"knows {name} {rank}", "")
        return PrefixStore(name, store)
    missing, deadline = set(range(1, size)), time.monotonic() + MEETING.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"asks {other}"]):  # it may be the word of one that is dead, before the other's comes
                store.set(f"told {store.get(f'asks {other}').decode()}", word)
            if store.check([f"knows {word} {other}"]):
                missing.discard(other)
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(missing)} of {size} processes have not come")
        time.sleep(0.02)
    return PrefixStore(word, store)


def notice_silence(seconds: float) -> None:
    """Have the kernel ask, on every connection of this process, whether the other machine is still there.

    A wire that is cut says nothing, and who only waits for a message would wait as long as its group allows.  From now
    on a connection is broken after ``seconds`` without an answer, or up to a fifth sooner.  Does nothing but on Linux.
    """
    between = max(1, round(seconds / 60))
    for number in Path("/proc/self/fd").glob("*"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(number.name))) as end:  # OSError: it is none
            if end.family in (socket.AF_INET, socket.AF_INET6) and end.type == socket.SOCK_STREAM:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, between)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, between)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(800 * seconds))  # milliseconds


def join(*, timeout: float | None = None) -> Group:
    """Meet the other processes that torchrun has started, if it has.

    ``timeout``: seconds that each waits for another's share of the work, ``TIMEOUT`` by default.
    Raises PeerError if they do not come.
    """
    if processes() == 1:
        return ALONE
    backend = "gloo"
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number < torch.cuda.device_count():
        torch.cuda.set_device(number)
        backend = "cpu:gloo,cuda:nccl"  # messages of the CPU's go by gloo, those between GPUs by NCCL
    with answered():
        store, rank, size = next(iter(rendezvous("env://")))
        own = fresh(store, rank, size)
        wait = timedelta(seconds=TIMEOUT if timeout is None else timeout)
        dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=wait)
        # Python must not end before the groups' threads have, or they ask a dead interpreter for its lock and abort.
        atexit.register(dist.destroy_process_group)
        # What the leading process does alone, such as to read a large data set, may take its time.
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        notice_silence(wait.total_seconds())
    return Group(rank=dist.get_rank(), size=dist.get_world_size(), patient=patient)
