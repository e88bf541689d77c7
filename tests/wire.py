"""Two machines on one: two network namespaces, and a wire between them that is slow and can be cut.  Root's alone.

Neither namespace knows another network than this wire, so nothing else can be reached from there.  The wire is a thread
that carries packets between two TUN devices, for the kernel's own slow wire (netem) is missing from many a kernel.
All of it, programs included, hangs on open files of this process, and is gone with them, however it ends.
"""

import fcntl
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from processes import WITHIN, environment

RATE = 1e9  # bits a second, each way
DELAY = 0.005  # seconds, each way
MTU = 9000  # bytes of a packet at most: "jumbo frames", of which a thread of Python carries enough
HOSTS = {"one": "10.77.0.1", "two": "10.77.0.2"}  # the machines' names and addresses, of theirs alone
NAMESPACES = ["--net", "--uts", "--mount", "--pid"]
TUN = Path("/dev/net/tun")
SET_INTERFACE, IS_TUN, BARE_PACKETS = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h: TUNSETIFF, IFF_TUN, IFF_NO_PI


def missing() -> str | None:
    """Why there can be no two machines here, if so."""
    try:
        os.close(device()[0])
    except OSError as error:
        return f"two machines on one need Linux, root and {TUN}: {error}"
    if absent := [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]:
        return f"two machines on one need the program {absent[0]} (Debian's packages iproute2 and util-linux)"
    words = ["unshare", *NAMESPACES, "--fork", "mount", "-t", "proc", "proc", "/proc"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Machine:
    """What has a network, a name and programs of its own, as long as the process ``holder`` lives, but no files."""

    name: str
    holder: int

    def there(self, words: Sequence[str]) -> list[str]:
        """The command that runs ``words`` on this machine."""
        return ["nsenter", f"--target={self.holder}", *NAMESPACES, "--", *words]


@dataclass
class Wire:
    """What carries the packets.  ``whole``: whether those that go in come out again."""

    ends: list[int]
    whole: bool = True
    ended: bool = False
    thread: threading.Thread = field(init=False)

    def __enter__(self) -> "Wire":
        self.thread = threading.Thread(target=self.carry)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self.thread.join()

    def cut(self) -> None:
        self.whole = False

    def mend(self) -> None:
        self.whole = True

    def carry(self) -> None:
        """Hand every packet out at the other end: after all before it have gone in, at the rate, and the delay."""
        there = dict(zip(self.ends, reversed(self.ends), strict=True))
        under_way: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in self.ends}
        free = dict.fromkeys(self.ends, 0.0)  # from when on the next packet can go in
        while not self.ended:
            now = time.monotonic()
            for end, packets in under_way.items():
                while packets and packets[0][0] <= now:
                    _, packet = packets.popleft()
                    if self.whole:
                        with suppress(OSError):  # nobody listens yet, or any more
                            os.write(end, packet)
            due = min((packets[0][0] for packets in under_way.values() if packets), default=now + 0.05)
            for end in select.select(self.ends, [], [], max(0.0, due - time.monotonic()))[0]:
                packet = os.read(end, MTU)
                free[end] = max(free[end], time.monotonic()) + 8 * len(packet) / RATE
                under_way[there[end]].append((free[end] + DELAY, packet))


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[list[Machine], Wire]]:
    """Two machines, by the names in ``HOSTS``, and the wire between them; a file of theirs lies in the ``folder``."""
    hosts = folder / "hosts"
    hosts.write_text("".join(f"{address} {name}\n" for name, address in (HOSTS | {"localhost": "127.0.0.1"}).items()))
    with ExitStack() as stack:
        machines, ends = [], []
        for name, address in HOSTS.items():
            machine = Machine(name, stack.enter_context(namespace(name, hosts)))
            end, interface = device()
            stack.callback(os.close, end)
            subprocess.run(["ip", "link", "set", interface, "netns", str(machine.holder), "name", "wire"], check=True)
            for words in ("link set lo up", f"address add {address}/30 dev wire", f"link set wire mtu {MTU} up"):
                subprocess.run(machine.there(["ip", *words.split()]), check=True)
            machines.append(machine)
            ends.append(end)
        yield machines, stack.enter_context(Wire(ends))


@contextmanager
def namespace(name: str, hosts: Path) -> Iterator[int]:
    """The process that holds a machine's namespaces: who starts it can end it, and with it all there."""
    script = """
        read -r self rest < /proc/self/stat &&  # by the number that it has outside
        mount -t proc proc /proc && mount --bind "$1" /etc/hosts && echo "$0" > /proc/sys/kernel/hostname &&
        echo "$self" && exec cat
    """
    words = ["unshare", *NAMESPACES, "--fork", "sh", "-c", script, name, str(hosts)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        yield int(holder.stdout.readline())


def device() -> tuple[int, str]:
    """A new TUN device: the file in which its packets are, and its name."""
    end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    asked = struct.pack("16sH22x", b"wire%d", IS_TUN | BARE_PACKETS)
    return end, fcntl.ioctl(end, SET_INTERFACE, asked)[:16].rstrip(b"\0").decode()


class Job:
    """A ``program`` that torchrun starts on every machine, ``processes`` on each, and what each machine says of it."""

    def __init__(self, machines: Sequence[Machine], program: Path, words: str = "", *, processes: int = 1) -> None:
        run = (
            f"-m torch.distributed.run --nnodes {len(machines)} --nproc-per-node {processes} --rdzv-id test "
            f"--rdzv-backend c10d --rdzv-endpoint {machines[0].name}:29400 --rdzv-conf read_timeout=900"
        )
        given = environment()
        del given["GLOO_SOCKET_IFNAME"]  # the machines' names say which
        self.logs = [program.with_name(f"{program.stem}-{machine.name}.log") for machine in machines]
        self.agents = []
        for machine, log in zip(machines, self.logs, strict=True):
            command = machine.there([sys.executable, *run.split(), str(program), *words.split()])
            with log.open("w") as file:
                self.agents.append(subprocess.Popen(command, stdout=file, stderr=file, env=given))

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()

    @property
    def said(self) -> list[str]:
        return [log.read_text() for log in self.logs]

    def until(self, what: Callable[[], bool], seconds: float = WITHIN) -> float:
        """Wait for ``what`` to become true; how many seconds that took."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() - began < seconds, "\n".join(self.said)
            time.sleep(0.1)
        return time.monotonic() - began

    def ended(self) -> list[int]:
        """All exit statuses, when they are there."""
        self.until(lambda: all(agent.poll() is not None for agent in self.agents))
        return [agent.returncode for agent in self.agents]


SUM = """
import statistics, sys, time
from pathlib import Path
import torch
from ncsn import distributed

def carried():
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "wire:" in line)
    received, sent = (int(line.split()[column]) for column in (1, 9))
    return received + sent

group = distributed.join()
numbers, times = torch.ones(int(sys.argv[1])), int(sys.argv[2])
group.add_([numbers])
before, seconds = carried(), []
for _ in range(times):
    began = time.perf_counter()
    group.add_([numbers])
    seconds.append(time.perf_counter() - began)
if group.leads:
    print((carried() - before) / times, statistics.median(seconds))
"""


def cost_of_a_sum(numbers: int, folder: Path, *, times: int = 20) -> tuple[float, float]:
    """What adding up so many ``numbers``, as a step does with its gradients, takes two processes on two machines.

    Returns the bytes on the wire, both ways together, and the seconds, the median of so many ``times``.
    """
    program = folder / "sum.py"
    program.write_text(SUM)
    with two_machines(folder) as (machines, _), Job(machines, program, f"{numbers} {times}") as job:
        assert job.ended() == [0, 0], job.said
        size, seconds = (float(number) for number in job.said[0].split())
    return size, seconds
