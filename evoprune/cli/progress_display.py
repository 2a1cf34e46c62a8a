"""The display of progress: bars that are redrawn on a terminal, lines elsewhere."""

from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from evoprune.errors import shown
from evoprune.progress import GenerationSummary, SilentProgress, describe


class PlainProgress:
    """Prints one line per event, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()

    def stage(self, name: str, detail: str = "") -> None:
        """Prints the stage that begins."""
        self._line(f"{name}: {detail}" if detail else name)

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        """Prints an epoch and its loss."""
        self._line(f"  {what}: {_epoch_text(epoch, epochs, loss)}")

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        """Prints nothing: a line per candidate would bury the others."""

    def generation(self, summary: GenerationSummary) -> None:
        """Prints a generation's summary."""
        counts = f"{summary.evaluated} scored, {summary.cached} known"
        title = f"generation {summary.generation}/{summary.generations}"
        self._line(f"  {title}: {counts}, {describe(summary)}")

    def _line(self, text: str) -> None:
        self._stream.write(shown(text) + "\n")
        self._stream.flush()


class LiveProgress:
    """Draws one bar per stage and, below it, one per network in training."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=20)),
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[state]}", table_column=Column(ratio=1)),  # the only column that folds long text
            console=console,
            expand=True,
        )
        self._stage: TaskID | None = None
        self._stage_name = ""
        self._training: dict[str, TaskID] = {}
        self._last_summary = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish_stage()
        self._bars.stop()

    def stage(self, name: str, detail: str = "") -> None:
        """Completes the bar of the stage before, and draws one for the stage that begins."""
        self._finish_stage()
        self._stage_name = name
        if name != "done":
            self._stage = self._bars.add_task(escape(shown(name)), total=None, state=escape(shown(detail)))

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        """Advances the bar of a network in training."""
        task = self._stage if what == self._stage_name else self._training.get(what)
        if task is None:
            task = self._training[what] = self._bars.add_task(f"  {escape(shown(what))}", total=epochs, state="")
        self._bars.update(task, total=epochs, completed=epoch, state=_epoch_text(epoch, epochs, loss))

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        """Advances the bar of the search by a part of a generation."""
        self._search(generation, generations, done / max(total, 1))

    def generation(self, summary: GenerationSummary) -> None:
        """Advances the bar of the search by a generation, and shows its summary."""
        self._last_summary = describe(summary)
        self._search(summary.generation, summary.generations, 1.0)

    def _search(self, generation: int, generations: int, share_done: float) -> None:
        if self._stage is not None:
            state = f"generation {generation}/{generations}"
            self._bars.update(
                self._stage,
                total=generations + 1,
                completed=generation + share_done,
                state=f"{state}, {self._last_summary}" if self._last_summary else state,
            )

    def _finish_stage(self) -> None:
        """Fills the bar of the stage that ends and removes the bars below it."""
        for task in self._training.values():
            self._bars.remove_task(task)
        self._training = {}
        if self._stage is not None:
            self._bars.update(self._stage, total=1, completed=1)
        self._stage = None


def make_progress(quiet: bool, stream: TextIO) -> LiveProgress | PlainProgress | SilentProgress:
    """The display for a stream: bars on a terminal, lines elsewhere, nothing if quiet."""
    if quiet:
        return SilentProgress()
    console = Console(file=stream)
    return LiveProgress(console) if console.is_terminal else PlainProgress(stream)


def _epoch_text(epoch: int, epochs: int, loss: float) -> str:
    return f"epoch {epoch}/{epochs}, loss {loss:.4f}"
