"""Signals that ask a run to end: after the write that is under way; asked twice, at once."""

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
    """SIGTERM, which ends a run as Ctrl-C does."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside it, SIGTERM is as Ctrl-C, and a second one of either ends the process there and then.

    That is for whoever does not want to wait for workers to be told; a run folder bears it at any moment.
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
    """Ctrl-C and SIGTERM inside it take effect at its end; a second one at once.

    (Outside the main thread, where no signal arrives: nothing.)
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
    """Inside it, Ctrl-C and SIGTERM are only added to the list that it gives; a second one takes effect at once.

    For whoever looks there now and then: an exception that falls into a finaliser is lost, an entry is not.
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
