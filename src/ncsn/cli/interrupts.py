"""Ctrl-C and SIGTERM: before the program is there, while it works, and in the middle of a step; torch is not needed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
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
    """Ctrl-C and SIGTERM end what is being done, once: a second signal ends the process at once.

    Raises Interrupted or Terminated, also where a library that was struck says something else instead: that a file is
    damaged, for one.
    """
    received: list[int] = []

    def receive(number: int, _: Any) -> NoReturn:
        received.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda again, _: os._exit(128 + again))
        raise meaning(number)

    with received_by(receive):
        try:
            yield
        except Exception as error:
            if received:
                raise meaning(received[0]) from error
            raise


def meaning(number: int) -> KeyboardInterrupt:
    """What a signal is to the program."""
    return Terminated() if number == signal.SIGTERM else Interrupted()


@contextmanager
def received_by(receive: Callable[[int, Any], None]) -> Iterator[None]:
    """Within it, both signals are ``receive``'s to answer; does nothing in a thread, where they cannot be received."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
