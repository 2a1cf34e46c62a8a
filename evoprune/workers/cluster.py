"""Checks that a Ray cluster answers at an address, within seconds: Ray itself waits for minutes."""

import socket
import subprocess
import sys

from evoprune.errors import WorkerError

CONNECT_SECONDS = 10
"""Time that a server has to accept a connection at the cluster's address."""

ANSWER_SECONDS = 25
"""Time that the cluster has to answer, including the start of the Python that asks."""

_PROGRAM = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"


def check_answers(address: str) -> None:
    """Checks that a Ray cluster answers.

    Args:
        address: host:port, with or without `ray://`, or `auto`.

    Raises:
        WorkerError: Nothing listens at the address, or no Ray cluster does.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise WorkerError(no_answer(address, error.strerror or str(error))) from None
    connect = [sys.executable, "-c", _PROGRAM, address]
    try:  # in another process, because Ray waits for minutes and cannot be stopped
        subprocess.run(connect, timeout=ANSWER_SECONDS, capture_output=True, text=True, check=True)
    except subprocess.TimeoutExpired:
        raise WorkerError(no_answer(address, f"no answer of Ray's within {ANSWER_SECONDS} seconds")) from None
    except subprocess.CalledProcessError as error:
        reasons = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise WorkerError(no_answer(address, reasons[-1])) from None


def no_answer(address: str, reason: str) -> str:
    """The message for a cluster that does not answer."""
    return (
        f"workers.address: no Ray cluster answers at {address} ({reason}); "
        "start one with `ray start --head`, or set it to null"
    )
