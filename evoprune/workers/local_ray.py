"""A Ray cluster on this machine for one run: private, watched, and stopped with everything that belongs to it.

Private: its processes listen on the loopback interface only, and ask for a token that is drawn for this start; there is
no dashboard and no usage report. These settings are environment variables, which versions that lack them ignore.
"""

import atexit
import logging
import os
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from evoprune.errors import WorkerError, is_utf8, type_and_first_line
from evoprune.workers import ray_guard
from evoprune.workers.ray_connection import RayConnection, own_sigterm_handler

CORE_PROCESSES = ("gcs_server", "raylet")
"""Names of the processes without which Ray cannot work."""

ENDED = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
"""States of a process that does not run any more."""

CHECK_SECONDS = 0.05
"""Shortest interval between two looks at Ray's processes."""

STOPPED_SECONDS = 5.0
"""Time that one of Ray's processes may be stopped (SIGSTOP) before the run ends."""

IDLE_SECONDS = 5.0
"""Time that the last call into Ray has to end before Ray is left to the guard."""

TRIAL_SECONDS = 90.0
"""Time that Ray has to start in a trial."""

GIB = 2**30


class LocalRay:
    """The processes of a Ray session that this process has started.

    Args:
        session: The session's folder, below /tmp/ray.
    """

    def __init__(self, session: Path):
        self._session = session
        names = {child: child.name().split(".")[0] for child in _children()}
        self._core = {process: name for process, name in names.items() if name in CORE_PROCESSES}
        self._checked = float("-inf")
        self._stopped_since: float | None = None
        script = str(Path(ray_guard.__file__))
        self._guard = subprocess.Popen(
            [sys.executable, "-P", script, str(os.getpid()), str(session)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the driver's
        )

    def check(self) -> None:
        """Looks at Ray's processes, at most every `CHECK_SECONDS`.

        Raises:
            WorkerError: One of them has ended, or has been stopped for `STOPPED_SECONDS`.
        """
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked, states = now, {name: _status(process) for process, name in self._core.items()}
        for name, status in states.items():
            if status in ENDED:
                raise WorkerError(
                    f"Ray's {name} ended (killed, or out of memory): see {self._session}/logs, then go on "
                    "with `evoprune resume` and the run's folder"
                )
        stopped = [name for name, status in states.items() if status == psutil.STATUS_STOPPED]
        if not stopped:
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now
        elif now - self._stopped_since > STOPPED_SECONDS:
            raise WorkerError(
                f"Ray's {stopped[0]} has been stopped for {STOPPED_SECONDS:g} seconds (SIGSTOP): go on with "
                "`evoprune resume` and the run's folder"
            )

    def stop(self, connection: RayConnection) -> None:
        """Stops Ray, in whatever state it is, and ends all its processes.

        If a call into Ray does not return, Ray's processes are left to the guard, because Ray terminates a process in
        whose calls it fails; so the interpreter's own exit, in which Ray would block, is left out, too.
        """
        states = {process: _status(process) for process in self._core}
        for process, status in states.items():
            if status == psutil.STATUS_STOPPED:
                with suppress(psutil.Error):
                    process.resume()  # or Ray's shutdown would wait for it
        if not connection.becomes_idle(IDLE_SECONDS):
            self._leave_to_guard()
            return
        if not ENDED.isdisjoint(states.values()):
            ray_guard.end_processes(ray_guard.session_processes(self._session))
        if not connection.shutdown():
            self._leave_to_guard()
            return
        ray_guard.end_processes(ray_guard.session_processes(self._session))
        self._guard.kill()
        self._guard.wait()

    def _leave_to_guard(self) -> None:
        self._guard.terminate()  # silences it
        atexit.register(_exit_at_once)


def _status(process: psutil.Process) -> str:
    try:
        status: str = process.status()
    except psutil.Error:
        return str(psutil.STATUS_DEAD)
    return status


def _exit_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


@contextmanager
def local_ray(ray: Any) -> Iterator[RayConnection]:
    """Starts Ray on this machine, and stops it at the end of the context.

    Args:
        ray: The module `ray`, not connected.

    Raises:
        WorkerError: Ray does not start, or fails within the context.
    """
    if not is_utf8(os.getcwd()):
        raise WorkerError(
            f"workers.backend: Ray starts only in a folder whose path is in UTF-8, not {os.getcwd()}; start from "
            "another folder, or set it to serial"
        )
    with _environment(ray):
        _try_in_limited_memory()
        session = _start(ray)
        local = LocalRay(session)
        connection = RayConnection(ray, local.check)
        try:
            yield connection
        finally:
            local.stop(connection)


def _start(ray: Any) -> Path:
    """Starts Ray and returns the session's folder."""
    before, context = _children(), None
    try:
        with own_sigterm_handler(ray):
            context = ray.init(
                address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
    except Exception as error:  # a plain Exception if Ray's processes take too long
        raise WorkerError(not_started(type_and_first_line(error))) from error
    finally:
        if context is None:
            started = [child for child in _children() if child not in before]
            below = [process for child in started for process in child.children(recursive=True)]
            ray_guard.end_processes(started + below)
    if context is None:
        raise WorkerError(not_started("it was terminated"))
    return Path(context.address_info["session_dir"])


def _children() -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process().children()
    return children


def not_started(reason: str) -> str:
    """The message for a Ray that does not start."""
    return (
        f"workers.backend: Ray does not start on this machine ({reason}); see that there is memory, and disk space for "
        "its logs below /tmp/ray, or set it to serial"
    )


@contextmanager
def _environment(ray: Any) -> Iterator[None]:
    """Sets Ray's environment variables for a private cluster, and puts them back at the end.

    `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` is Ray's switch, on any system, for a cluster that no other machine joins: its
    address is 127.0.0.1 and its servers bind to it. A user's own settings of authentication hold.
    """
    private = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        private["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    before = {name: os.environ.get(name) for name in private}
    os.environ.update({name: value for name, value in private.items() if before[name] is None})
    _read_environment_again(ray)
    try:
        yield
    finally:
        _restore(before)
        _read_environment_again(ray)


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _read_environment_again(ray: Any) -> None:
    """Makes an imported Ray use the present values of these variables, of which older versions lack some."""
    with suppress(AttributeError):
        constants = ray._private.ray_constants
        constants.ENABLE_RAY_CLUSTER = constants.env_bool("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", sys.platform == "linux")
    with suppress(AttributeError):
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
        ray._raylet.Config.initialize("")


def _try_in_limited_memory() -> None:
    """Lets another process start Ray first if the address space is limited (ulimit -v).

    Ray aborts the process whose memory it cannot map, which no exception shows.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    program = (
        "import torch, ray; ray.init('local', include_dashboard=False, log_to_driver=False); "
        "ray.put(bytes(2**24)); ray.shutdown()"
    )
    trial = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        started = trial.wait(TRIAL_SECONDS) == 0
    except subprocess.TimeoutExpired:
        started = False
    finally:
        with suppress(psutil.Error):
            ray_guard.end_processes([*psutil.Process(trial.pid).children(recursive=True), psutil.Process(trial.pid)])
        trial.wait()
    if not started:
        raise WorkerError(not_started(f"`ulimit -v` leaves it {limit / GIB:.3g} GiB of address space"))
