"""Signals that end a run: the first one after the write in progress, the second one at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """Raised for SIGTERM, which ends a run as Ctrl-C does."""


@contextmanager
def stoppable() -> Iterator[None]:
    """A context in which SIGTERM acts as Ctrl-C, and a second signal of either kind ends the process at once.

    The second one does not wait for workers; a run folder is intact at any moment.
    """
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"interrupted twice: ended at once\n")
            os._exit(128 + number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    with _handled_by(stop):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A context in which Ctrl-C and SIGTERM take effect at its end, and a second one at once.

    Does nothing outside of the main thread, where no signal arrives.
    """
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt

    with _handled_by(remember):
        yield
    if caught:
        signal.raise_signal(caught[0])


@contextmanager
def noticed() -> Iterator[list[int]]:
    """A context in which Ctrl-C and SIGTERM are only appended to the list that it yields; a second one acts at once.

    For code that checks the list regularly: an exception raised inside a finaliser is lost, an entry is not.
    """
    asked: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    with _handled_by(notice):
        yield asked


@contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in ENDING}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, signal.SIG_DFL if handler_before is None else handler_before)
