"""TensorBoard reads back what a run wrote."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evoprune.errors import ConfigError
from evoprune.record import tensorboard
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import clear
from tests import tiny_runs


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events: Any = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_of_every_generation_and_epoch(tmp_path: Path) -> None:
    run = tiny_runs.run(tmp_path / "run", {"record.tensorboard": True})
    written = scalars(run.root / "tensorboard")
    generations = run.generations
    steps = list(enumerate(generations["feasible_share"]))
    assert written["search/feasible_share"] == [(step, pytest.approx(share)) for step, share in steps]
    assert [value for _, value in written["search/evaluated"]] == generations["evaluated"].tolist()
    best = generations["best_feasible_macs"].cummin()
    assert [value for _, value in written["search/best_macs"]] == best.tolist()
    assert [value for _, value in written["search/best_macs_ratio"]] == pytest.approx(
        [macs / tiny_runs.WHOLE_MACS for macs in best]
    )
    assert {"loss/baseline", *(f"loss/{key}" for key in run.survivors["key"])} <= set(written)
    clear(RunFolder(run.root))
    assert not RunFolder(run.root).tensorboard.exists()


def test_without_the_package_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"record\.tensorboard is true.*pip install 'evoprune\[tensorboard\]'"):
        tiny_runs.run(tmp_path / "run", {"record.tensorboard": True})
    assert not (tmp_path / "run").exists()
