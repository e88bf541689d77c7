"""Ctrl-C and SIGTERM, during imports, during work and in the middle of a training step; without importing torch."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

STOPS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """Signal ``number`` has stopped the program; the message says where.

    This isn't KeyboardInterrupt itself because Python kills its own process if that passes through ``exec``.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


def quit_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end the process at once, with one line and status 130 or 143.

    Otherwise, interrupting an import would print a traceback.
    """

    def end(number: int, frame: object) -> NoReturn:
        os.write(2, b"error: terminated\n" if number == signal.SIGTERM else b"error: interrupted\n")
        os._exit(128 + number)

    for number in STOPS:
        signal.signal(number, end)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM raise Stopped; a second signal ends the process at once.

    Raises Stopped even if an interrupted library raises something else, such as that a file is damaged.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> NoReturn:
        received.append(number)
        quit_on_signals()
        raise Stopped(number)

    with handle_signals(receive):
        try:
            yield
        except Exception as error:
            if received:
                raise Stopped(received[0]) from error
            raise


@contextmanager
def limit_seconds(seconds: float) -> Iterator[None]:
    """Within it, raise TimeoutError after so many seconds; never if they are 0, or outside the main thread.

    Libraries may swallow an error that is raised in the middle of them, so it is raised again after as many seconds.
    """

    def strike(number: int, frame: object) -> NoReturn:
        raise TimeoutError(f"it took more than {seconds:g} s")

    with handle_signals(strike, (signal.SIGALRM,)):
        try:
            if signal.getsignal(signal.SIGALRM) is strike:  # only in the main thread
                signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


@contextmanager
def handle_signals(receive: Callable[[int, object], None], numbers: Sequence[int] = STOPS) -> Iterator[None]:
    """Within it, ``receive`` handles signals; does nothing outside the main thread, which can't receive them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
