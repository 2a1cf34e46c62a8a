"""Made-up runs, small enough to know every number of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evoprune.config.loading import config_from_dict, dump_config
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import create
from evoprune.record.tables import SurvivorRow, candidates_frame, survivors_frame
from evoprune.scoring.candidate import Candidate, Score


def _candidate(
    generation: int, key: str, errors: int, macs: int, feasible: bool | None = True, cached: bool = False
) -> Candidate:
    """A candidate scored on 100 images; if `feasible` is missing, scoring stopped after 40."""
    exact = feasible is not None
    score = Score(errors, 100 if exact else 40, 100, feasible, exact, macs, macs // 2, macs * 2, 0.5)
    return Candidate(generation, key, np.frombuffer(key.encode(), np.uint8) % 2, score, cached)


def _survivor(key: str, macs: int, mcr_test: float) -> SurvivorRow:
    return SurvivorRow(
        key=key,
        mcr_search=0.12,
        mcr_retrained=0.11,
        mcr_test=mcr_test,
        baseline_mcr_test=0.1,
        macs=macs,
        macs_ratio=macs / 1000,
        params=macs // 2,
        params_ratio=0.5,
        latency_ms=None,
        baseline_latency_ms=1.5,
        weights=f"survivors/{key}.safetensors",
        baseline_mcr_validation=0.09,
        bytes=macs * 2,
        bytes_ratio=0.5,
    )


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    return _candidate


@pytest.fixture
def survivor() -> Callable[..., SurvivorRow]:
    return _survivor


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """A folder of a finished run below tmp_path, with two generations and the given survivors."""

    def make(name: str, survivors: list[SurvivorRow], tolerance: float = 0.02) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        create(folder)
        config = config_from_dict({"name": folder.root.name, "search": {"tolerance": tolerance}})
        files.write_text(folder.config, dump_config(config))
        first = [_candidate(0, "aa00", 10, 1000), _candidate(0, "ab11", 50, 400, feasible=False)]
        second = [_candidate(1, "aa00", 10, 1000, cached=True), _candidate(1, "bb22", 12, 600)]
        files.write_parquet(folder.candidates(0), candidates_frame(first))
        files.write_parquet(folder.candidates(1), candidates_frame(second))
        files.write_parquet(folder.survivors_table, survivors_frame(survivors))
        return folder

    return make
