"""evoprune: evolutionary structured pruning of convolutional networks.

The public names are imported when they are first used, so that `import evoprune` is quick.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from evoprune.errors import UserError

if TYPE_CHECKING:
    from evoprune.notebook import evolve
    from evoprune.pipeline import resume, run
    from evoprune.record.gather import load_candidates, load_runs
    from evoprune.record.runs import Run, load_run
    from evoprune.space.cost import cost
    from evoprune.space.discovery import SearchSpace
    from evoprune.surgery.compaction import compact
    from evoprune.surgery.compensation import gram_statistics
    from evoprune.surgery.lowering import lower
    from evoprune.surgery.masking import mask

    __version__: str

__all__ = [
    "Run",
    "SearchSpace",
    "UserError",
    "__version__",
    "compact",
    "cost",
    "evolve",
    "gram_statistics",
    "load_candidates",
    "load_run",
    "load_runs",
    "lower",
    "mask",
    "resume",
    "run",
]

_HOMES = {
    "Run": "evoprune.record.runs",
    "SearchSpace": "evoprune.space.discovery",
    "compact": "evoprune.surgery.compaction",
    "cost": "evoprune.space.cost",
    "evolve": "evoprune.notebook",
    "gram_statistics": "evoprune.surgery.compensation",
    "load_candidates": "evoprune.record.gather",
    "load_run": "evoprune.record.runs",
    "load_runs": "evoprune.record.gather",
    "lower": "evoprune.surgery.lowering",
    "mask": "evoprune.surgery.masking",
    "resume": "evoprune.pipeline",
    "run": "evoprune.pipeline",
}


if not TYPE_CHECKING:  # Type checkers shall complain about names that there are not.

    def __getattr__(name: str) -> object:
        """Imports a public name from its home on first use (PEP 562)."""
        if name == "__version__":
            return version("evoprune")
        if name not in _HOMES:
            raise AttributeError(f"module 'evoprune' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
