"""The guard: a small process that ends a Ray session once the process that started it is gone, however that ended.

Run as a script, with the standard library and psutil only: `python ray_guard.py DRIVER_PID SESSION_FOLDER`. The driver
ends the guard with SIGKILL after it has stopped Ray itself, and silences it with SIGTERM if its user has been given
the reason for the end. A driver that dies without either was killed, or terminated by Ray's own native code.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

POLL_SECONDS = 0.2
"""Interval between two looks at whether the driver is alive."""

END_SECONDS = 5.0
"""Time that processes have to end after SIGTERM, before they get SIGKILL."""

MESSAGE = (
    "the run ended at once: its process or Ray's was killed, for example for lack of memory; "
    "go on with `evoprune resume` and the run's folder"
)


def session_processes(session: Path) -> list[psutil.Process]:
    """The processes of a Ray session besides this one: those that write to a file in the session's folder."""
    return list(_writers_into(session))


def _writers_into(session: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            written = [file.path for file in process.open_files() if getattr(file, "mode", "a") != "r"]
        except (psutil.Error, OSError):  # ended, or another user's
            continue
        if process.pid != os.getpid() and any(Path(path).is_relative_to(session) for path in written):
            yield process


def end_processes(processes: list[psutil.Process]) -> None:
    """Terminates processes, and kills those that do not end within `END_SECONDS`. Stopped ones are killed at once."""
    for process in processes:
        try:
            if process.status() == psutil.STATUS_STOPPED:
                process.kill()
            else:
                process.terminate()
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in alive:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(alive, timeout=END_SECONDS)


def main(driver: int, session: Path) -> None:
    """Waits for the end of the driver, which is the parent process; then reports it and ends the session."""
    silenced: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: silenced.append(number))
    while os.getppid() == driver:  # a dead driver that nobody has waited for yet is no parent any more
        time.sleep(POLL_SECONDS)
    if not silenced:
        print(MESSAGE, file=sys.stderr, flush=True)
    end_processes(session_processes(session))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
