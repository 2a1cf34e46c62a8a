"""The thread that brings a run's changes to its store while the run goes on, whatever the store does."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from evoprune.errors import RunFolderError, shown
from evoprune.progress import GenerationSummary, Progress
from evoprune.record.copies import LocalCopy, OvertakenError, Sighting
from evoprune.record.lease import LeaseError

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between two tries to reach a store that does not answer: the pause doubles each time."""

LAST_TRIES = 3
"""The number of tries at the end of a run."""

Listing = Mapping[str, Sighting]

_log = logging.getLogger(__name__)


class Pusher:
    """Pushes the newest listing of the copy, from its construction until `close`.

    push: brings the copy to the store as it was listed. Raises RunFolderError, and OvertakenError if it has changed.
    """

    def __init__(self, url: str, copy: LocalCopy, push: Callable[[Listing], None]):
        self._url = url
        self._copy = copy
        self._push = push
        self._newest: Listing = {}
        self._handled: Listing = self._newest
        self._failure: BaseException | None = None  # what the thread ended with
        self._is_away = False
        self._marked = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="evoprune-push", daemon=True)
        self._thread.start()

    def mark(self) -> None:
        """Lets the thread bring the copy to the store as it is now. To be called while nothing is being written.

        Raises:
            RunFolderError: the run was taken over by another machine.
        """
        if self._failure is not None:
            raise self._failure
        listing = self._copy.listing()
        with self._marked:
            self._newest = listing
            self._marked.notify()

    def close(self, tries: int = LAST_TRIES) -> RunFolderError | None:
        """Ends the thread and brings the rest to the store. Returns why the store does not have all of it, if so."""
        self._closing.set()
        with self._marked:
            self._marked.notify()
        self._thread.join()  # soon: every call to the store is bounded in time
        if isinstance(self._failure, RunFolderError):
            return self._failure
        if self._failure is not None:
            raise self._failure
        for left in reversed(range(tries)):
            try:
                self._push(self._copy.listing())
                self._answers()
                return None
            except LeaseError as error:
                return self._taken_over(error)
            except (RunFolderError, OvertakenError) as error:
                unfinished = error
            if left:
                time.sleep(FIRST_PAUSE_S * 2 ** (tries - 1 - left))
        return RunFolderError(
            f"{unfinished}; all of the run is in {self._copy.root}, and `evoprune resume {self._url}` brings it there "
            "once the store answers"
        )

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            with self._marked:
                self._marked.wait_for(lambda: self._newest is not self._handled or self._closing.is_set())
                listing = self._newest
            if self._closing.is_set():
                return
            try:
                self._push(listing)
            except OvertakenError:  # a newer listing is on its way
                self._handled = listing
            except LeaseError as error:
                self._failure = self._taken_over(error)
                return
            except RunFolderError as error:
                self._does_not_answer(error)
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except BaseException as error:  # a fault of ours: the run's thread raises it
                self._failure = error
                return
            else:
                self._handled, pause = listing, FIRST_PAUSE_S
                self._answers()

    def _answers(self) -> None:
        if self._is_away:
            self._is_away = False
            _log.warning("%s answers again, and has what the run has written by now", shown(self._url))

    def _does_not_answer(self, error: RunFolderError) -> None:
        if not self._is_away:  # once an outage
            self._is_away = True
            _log.warning("%s; the run goes on here, and what it writes is brought there later", error)

    def _taken_over(self, error: LeaseError) -> LeaseError:
        return LeaseError(f"{error}; what this run has computed stays in {self._copy.root}")


class PushingProgress:
    """Passes everything on to `progress`, and marks what has been written by then for the store."""

    def __init__(self, progress: Progress, pusher: Pusher):
        self._progress = progress
        self._pusher = pusher

    def stage(self, name: str, detail: str = "") -> None:
        """Passes on that a stage begins."""
        self._pusher.mark()
        self._progress.stage(name, detail)

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        """Passes on an epoch."""
        self._pusher.mark()
        self._progress.epoch(what, epoch, epochs, loss)

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        """Passes on the number of candidates; no file is complete then, so that nothing is marked."""
        self._progress.scored(generation, generations, done, total)

    def generation(self, summary: GenerationSummary) -> None:
        """Passes on a generation's summary."""
        self._pusher.mark()
        self._progress.generation(summary)
