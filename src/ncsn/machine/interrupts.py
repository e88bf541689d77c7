"""Ctrl-C and SIGTERM: before the program is there, while it works, and in the middle of a step; torch is not needed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

STOPS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal has ended the program; ``number``: which one.  The message says where.

    Ctrl-C has a name of our own because Python ends itself by the signal if its own passes through ``exec``.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


def quit_on_signals() -> None:
    """From now on Ctrl-C and SIGTERM end the process at once, in one line and with status 130 or 143.

    Imports that Ctrl-C interrupts would print a traceback.
    """

    def end(number: int, frame: object) -> NoReturn:
        os.write(2, b"error: terminated\n" if number == signal.SIGTERM else b"error: interrupted\n")
        os._exit(128 + number)

    for number in STOPS:
        signal.signal(number, end)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is being done, once: a second signal ends the process at once.

    Raises Stopped, also where a library that was struck says something else instead: that a file is damaged, for one.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> NoReturn:
        received.append(number)
        quit_on_signals()
        raise Stopped(number)

    with received_by(receive):
        try:
            yield
        except Exception as error:
            if received:
                raise Stopped(received[0]) from error
            raise


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError within it after so many seconds; never if they are 0, nor in a thread."""

    def strike(number: int, frame: object) -> NoReturn:
        raise TimeoutError(f"it takes more than {seconds:g} s")

    with received_by(strike, (signal.SIGALRM,)):
        try:
            if signal.getsignal(signal.SIGALRM) is strike:  # not in a thread
                signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


@contextmanager
def received_by(receive: Callable[[int, object], None], numbers: Sequence[int] = STOPS) -> Iterator[None]:
    """Within it, signals are ``receive``'s to answer; does nothing in a thread, where they cannot be received."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
