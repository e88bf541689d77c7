"""Ctrl-C and SIGTERM: before the program is there, while it works, and in the middle of a step; torch is not needed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, by a name of our own: Python ends itself by the signal if its own name passes through ``exec``."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler or a shutdown sends it."""


def quit_on_signals() -> None:
    """From now on Ctrl-C and SIGTERM end the process at once, in one line and with status 130 or 143.

    Imports that Ctrl-C interrupts would print a traceback.
    """

    def end(number: int, frame: Any) -> NoReturn:
        os.write(2, b"error: terminated\n" if number == signal.SIGTERM else b"error: interrupted\n")
        os._exit(128 + number)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is being done, once: a second signal ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be received
        yield
        return

    def receive(number: int, _: Any) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda again, _: os._exit(128 + again))
        raise Terminated if number == signal.SIGTERM else Interrupted

    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def deferred_interrupts(received: list[int]) -> Iterator[None]:
    """Collect Ctrl-C and termination signals in a list, so that a step is never cut in half; a second one is obeyed."""
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be received
        yield
        return

    def receive(number: int, _: Any) -> None:
        if received:
            raise Terminated if number == signal.SIGTERM else Interrupted
        received.append(number)

    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
