"""Made-up survivors."""

from tests.record.conftest import survivor

__all__ = ["survivor"]
