"""A short soak: `python -m tests.pipeline.soak --seconds 3600` is the long one."""

from pathlib import Path

import pytest

from tests.pipeline import soak


@pytest.mark.slow
def test_a_minute_of_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "MORE_GENERATIONS", 10)
    monkeypatch.setitem(soak.OPTIONS, "search.generations", 10)
    lines: list[str] = []
    done = soak.soak(tmp_path, 40, seed=1, report=lines.append)
    assert sum(done.values()) >= 2
    assert lines[-1] == "the tables are those of an undisturbed run"
