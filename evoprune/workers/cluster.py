"""Whether a Ray cluster answers at an address, found out in seconds: Ray itself waits for minutes."""

import socket
import subprocess
import sys

from evoprune.errors import WorkerError

CONNECT_SECONDS = 10
"""How long somebody has to listen at the address of a cluster."""

ANSWER_SECONDS = 25
"""How long a cluster has to answer, the start of a Python that asks included."""

_QUESTION = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"


def check_answers(address: str) -> None:
    """Raises WorkerError where nobody listens at host:port, or it is no Ray cluster that does."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise WorkerError(no_answer(address, error.strerror or str(error))) from None
    ask = [sys.executable, "-c", _QUESTION, address]
    try:  # in another process, because Ray itself waits for minutes and cannot be told to stop
        subprocess.run(ask, timeout=ANSWER_SECONDS, capture_output=True, text=True, check=True)
    except subprocess.TimeoutExpired:
        raise WorkerError(no_answer(address, f"nothing of Ray's within {ANSWER_SECONDS} seconds")) from None
    except subprocess.CalledProcessError as error:
        reasons = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise WorkerError(no_answer(address, reasons[-1])) from None


def no_answer(address: str, reason: str) -> str:
    return (
        f"workers.address: no Ray cluster answers at {address} ({reason}); "
        "start one with `ray start --head`, or set it to null"
    )


def not_started(reason: str) -> str:
    return (
        f"workers.backend: Ray does not start on this machine ({reason}); see that there is memory, and disk space for "
        "its logs below /tmp/ray, or set it to serial"
    )
