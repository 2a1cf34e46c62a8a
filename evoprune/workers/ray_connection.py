"""Calls into Ray that always return: with a result, with an exception, or when Ray has failed."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from evoprune.errors import WorkerError, type_and_first_line

LOOK_SECONDS = 0.25
"""Interval between two looks at Ray's health while a call lasts, and longest wait for results in one call."""

ANSWER_SECONDS = 45.0
"""Longest duration of one call. After 60 seconds without its GCS, Ray would terminate this process."""

SHUTDOWN_SECONDS = 10.0
"""Longest duration of Ray's shutdown, which takes about 5 seconds if Ray's processes are gone."""

_Request = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]
"""The future that gets the result, the function, and its arguments."""


class RayConnection:
    """Ray's API, called in a thread of its own.

    A call can block forever in Ray's native code if Ray's processes are stopped, and Python handles no signal in the
    meantime. With the call in another thread, the calling thread notices Ctrl-C and failures of Ray at once.

    Args:
        ray: The module `ray`, connected to a cluster.
        check_health: Raises WorkerError if Ray cannot work any more. Called before and during each call.
    """

    def __init__(self, ray: Any, check_health: Callable[[], None] = lambda: None):
        self.ray = ray
        self._check_health = check_health
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._last: Future[Any] | None = None
        threading.Thread(target=self._serve, name="ray calls", daemon=True).start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function that uses Ray, and returns its result.

        Raises:
            WorkerError: Ray failed, or did not answer within `ANSWER_SECONDS`.
        """
        self._check_health()  # Ray terminates this process in some calls that need a process of its own that is gone
        result = self._submit(function, *arguments)
        for _ in range(round(ANSWER_SECONDS / LOOK_SECONDS)):  # counted, because a clock runs on in a suspended process
            if wait([result], LOOK_SECONDS).done:
                try:
                    return result.result()
                except (self.ray.exceptions.RayError, ConnectionError) as error:
                    self._check_health()
                    raise WorkerError(
                        f"Ray failed ({type_and_first_line(error)}); see that its machines run and have memory, then "
                        "go on with `evoprune resume` and the run's folder"
                    ) from error
            self._check_health()
        raise WorkerError(
            f"Ray has not answered for {ANSWER_SECONDS:g} seconds; see that all its machines run, then go on with "
            "`evoprune resume` and the run's folder"
        )

    def becomes_idle(self, seconds: float) -> bool:
        """Whether the thread has ended all calls within this time."""
        return self._last is None or bool(wait([self._last], seconds).done)

    def shutdown(self) -> bool:
        """Disconnects from Ray, and stops it if it was started here. Returns whether that ended in time."""
        ended = self._submit(self.ray.shutdown)
        self.close()
        return bool(wait([ended], SHUTDOWN_SECONDS).done)

    def close(self) -> None:
        """Ends the thread after the present calls."""
        self._requests.put(None)

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        self._last = Future()
        self._requests.put((self._last, function, arguments))
        return self._last

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            future, function, arguments = request
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
            del request, future, function, arguments  # or they would live until the next request


@contextmanager
def own_sigterm_handler(ray: Any) -> Iterator[None]:
    """Keeps this process's handler of SIGTERM while Ray connects within the context.

    Ray sets a handler that raises SystemExit. A signal that arrives under it is handled by the handler before.
    """
    handler, terminated = signal.getsignal(signal.SIGTERM), False
    try:
        yield
    except SystemExit:
        terminated = True
        ray.shutdown()
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)
