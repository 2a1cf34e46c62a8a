"""Signals that arrive while something is written."""

import signal
import subprocess
import sys

import pytest

from evoprune.record.interrupts import Terminated, stoppable, uninterrupted


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_waits_for_the_end_of_a_write(number: signal.Signals, kind: type[BaseException]) -> None:
    written: list[str] = []

    def write() -> None:
        with stoppable():
            with uninterrupted():
                signal.raise_signal(number)
                written.append("all of it")
            written.append("what comes after")

    with pytest.raises(kind):
        write()
    assert written == ["all of it"]


def test_a_second_signal_does_not_wait() -> None:
    written: list[str] = []

    def write() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            written.append("half of it")
            signal.raise_signal(signal.SIGINT)
            written.append("the other half")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert written == ["half of it"]


def test_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), stoppable(), uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


TWICE = """
import signal, sys
from evoprune.record.interrupts import stoppable
with stoppable():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("answering the first one", flush=True)
        signal.raise_signal(signal.{second})
    finally:
        print("not reached")
"""


@pytest.mark.parametrize(("second", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_second_signal_ends_the_process_during_the_first(second: str, status: int) -> None:
    done = subprocess.run([sys.executable, "-c", TWICE.format(second=second)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "answering the first one\n")
    assert done.stderr == "interrupted twice: ended at once\n"
