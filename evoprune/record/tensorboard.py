"""Scalars for TensorBoard: a `Progress` that writes them and passes everything on."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from evoprune.config.schema import Config
from evoprune.errors import ConfigError
from evoprune.progress import GenerationSummary, Progress
from evoprune.record.folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def check_tensorboard(config: Config) -> None:
    """Raises ConfigError if the config asks for scalars and the package that writes them is missing."""
    if config.record.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(
            "record.tensorboard is true, and the package tensorboard is not installed; "
            "pip install 'evoprune[tensorboard]', or set it to false"
        )


@contextmanager
def with_scalars(progress: Progress, config: Config, folder: RunFolder) -> Iterator[Progress]:
    """Yields the given progress, or one that also writes scalars if the config asks for them."""
    if not config.record.tensorboard:
        yield progress
        return
    scalars = ScalarProgress(progress, folder)
    try:
        yield scalars
    finally:
        scalars.close()


class ScalarProgress:
    """Passes everything on to `progress`, and writes a generation's and an epoch's numbers into the run folder.

    Tags: search/... a generation, loss/<network> an epoch; those of a round begin with its number.
    """

    def __init__(self, progress: Progress, folder: RunFolder):
        self._progress = progress
        self._folder = folder
        self._prefix = ""
        self._writer: SummaryWriter | None = None

    def stage(self, name: str, detail: str = "") -> None:
        """Passes on that a stage begins; a round's number becomes part of the tags."""
        if name == "round":
            self._prefix = f"round {detail.split()[0]}/"
        self._progress.stage(name, detail)

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        """Writes the loss of an epoch."""
        self._write({f"loss/{what}": loss}, epoch)
        self._progress.epoch(what, epoch, epochs, loss)

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        """Passes on the number of candidates; scalars are those of whole generations."""
        self._progress.scored(generation, generations, done, total)

    def generation(self, summary: GenerationSummary) -> None:
        """Writes the numbers of a generation."""
        scalars = {
            "evaluated": summary.evaluated,
            "cached": summary.cached,
            "feasible_share": summary.feasible / max(summary.candidates, 1),
            "evaluations_per_second": summary.evaluations_per_second,
            f"best_{summary.cost_name}": summary.best_cost,
            f"best_{summary.cost_name}_ratio": summary.best_cost and summary.best_cost / summary.full_cost,
            "best_mcr": summary.best_mcr,
        }
        self._write(
            {f"search/{name}": value for name, value in scalars.items() if value is not None}, summary.generation
        )
        self._progress.generation(summary)

    def close(self) -> None:
        """Closes the file, if one was opened."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, scalars: dict[str, float], step: int) -> None:
        if self._writer is None:  # made with the first value: before, the folder may still be cleared
            from torch.utils.tensorboard import SummaryWriter

            # the library opens the file itself, so a name that nobody can know keeps it from following a link
            self._writer = SummaryWriter(str(self._folder.tensorboard), filename_suffix=f".{secrets.token_hex(8)}")
        for tag, value in scalars.items():
            self._writer.add_scalar(self._prefix + tag, value, step)
        self._writer.flush()
