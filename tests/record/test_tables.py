from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.fronts import Corner
from evoprune.record.tables import (
    CANDIDATE_DTYPES,
    GENERATION_DTYPES,
    SURVIVOR_DTYPES,
    SurvivorRow,
    candidates_frame,
    candidates_of,
    generations_frame,
    read_candidates,
    read_survivors,
    survivors_frame,
)
from evoprune.scoring.candidate import Candidate, Score

DESIGN_CANDIDATES = [
    *("generation", "key", "genome", "mcr", "errors", "images_seen", "images", "feasible", "exact"),
    *("macs", "params", "bytes", "eval_seconds", "cached"),
]
ADDED = ["predicted_latency_ms", "failed", "divergence"]
DESIGN_SURVIVORS = [
    *("key", "mcr_search", "mcr_retrained", "mcr_test", "baseline_mcr_test", "macs", "macs_ratio"),
    *("params", "params_ratio", "latency_ms", "baseline_latency_ms", "weights"),
]

COUNTS = st.integers(0, 2**40)
SCORES = st.builds(
    Score,
    errors=COUNTS,
    images_seen=COUNTS,
    images=st.integers(1, 2**40),
    feasible=st.sampled_from([True, False, None]),
    exact=st.booleans(),
    macs=COUNTS,
    params=COUNTS,
    bytes=COUNTS,
    eval_seconds=st.floats(0, 1e6),
    other_costs=st.just({}) | st.builds(lambda ms: {"predicted_latency_ms": ms}, st.floats(0, 1e6)),
    divergence=st.none() | st.floats(0, 1e6),
)
CANDIDATES = st.builds(
    Candidate,
    generation=st.integers(0, 10_000),
    key=st.text("0123456789abcdef", min_size=1, max_size=16),
    genome=st.lists(st.integers(0, 255), max_size=9).map(lambda genes: np.array(genes, np.uint8)),
    score=SCORES,
    cached=st.booleans(),
)


def plain(candidates: list[Candidate]) -> list[tuple[object, ...]]:
    return [(c.generation, c.key, c.genome.tolist(), c.genome.dtype, c.score, c.cached) for c in candidates]


class TestCandidates:
    @given(candidates=st.lists(CANDIDATES, max_size=5))
    def test_come_back_exactly(self, candidates: list[Candidate]) -> None:
        assert plain(candidates_of(candidates_frame(candidates))) == plain(candidates)

    @pytest.mark.parametrize("size", [1, 2])
    def test_files_keep_every_type(self, tmp_path: Path, candidate: Callable[..., Candidate], size: int) -> None:
        frame = candidates_frame([candidate(0, "a", 3, 10), candidate(0, "b", 4, 10, feasible=None)][:size])
        folder = RunFolder(tmp_path)
        files.write_parquet(folder.candidates(0), frame)
        read = read_candidates(folder)
        pd.testing.assert_frame_equal(read, frame)
        assert list(read) == [*DESIGN_CANDIDATES, *ADDED]
        assert dict(read.dtypes) == {name: pd.api.types.pandas_dtype(d) for name, d in CANDIDATE_DTYPES.items()}
        assert object not in set(read.dtypes)

    def test_unknown_values_are_missing(self, candidate: Callable[..., Candidate]) -> None:
        frame = candidates_frame([candidate(0, "a", 3, 10), candidate(0, "b", 4, 10, feasible=None)])
        assert frame["mcr"].tolist() == [0.03, pd.NA]
        assert frame["feasible"].tolist() == [True, pd.NA]

    def test_generations_are_read_in_their_order(self, tmp_path: Path, candidate: Callable[..., Candidate]) -> None:
        folder = RunFolder(tmp_path)
        for generation in (10_000, 9_999, 2):
            rows = [candidate(generation, "b", 1, 1), candidate(generation, "a", 1, 1)]
            files.write_parquet(folder.candidates(generation), candidates_frame(rows))
        read = read_candidates(folder)
        assert read["generation"].tolist() == [2, 2, 9_999, 9_999, 10_000, 10_000]
        assert read["key"].tolist() == ["b", "a"] * 3

    def test_added_columns_stay(self, tmp_path: Path, candidate: Callable[..., Candidate]) -> None:
        folder = RunFolder(tmp_path)
        files.write_parquet(folder.candidates(0), candidates_frame([candidate(0, "a", 1, 1)]).assign(age=3))
        assert list(read_candidates(folder)) == [*DESIGN_CANDIDATES, *ADDED, "age"]

    def test_runs_of_before_have_neither_predicted_latency_nor_failures_nor_divergence(
        self, tmp_path: Path, candidate: Callable[..., Candidate]
    ) -> None:
        """Nor do the first generations of one that goes on with this version."""
        folder = RunFolder(tmp_path)
        frame = candidates_frame([candidate(0, "a", 1, 1)]).drop(columns=ADDED)
        files.write_parquet(folder.candidates(0), frame)
        read = read_candidates(folder)
        assert read["predicted_latency_ms"].isna().all()
        assert read["failed"].tolist() == [False]
        files.write_parquet(folder.candidates(1), candidates_frame([candidate(1, "a", 1, 1)]).assign(failed=True))
        assert read_candidates(folder)["failed"].tolist() == [False, True]
        score = candidates_of(read)[0].score
        assert (score.other_costs, score.divergence) == ({}, None)

    def test_a_missing_column_is_named(self, tmp_path: Path, candidate: Callable[..., Candidate]) -> None:
        folder = RunFolder(tmp_path)
        frame = candidates_frame([candidate(0, "a", 1, 1)])
        files.write_parquet(folder.candidates(0), frame.drop(columns="macs"))
        with pytest.raises(RunFolderError, match="lacks the column macs"):
            read_candidates(folder)

    def test_a_column_of_another_type_is_named(self, tmp_path: Path, candidate: Callable[..., Candidate]) -> None:
        folder = RunFolder(tmp_path)
        files.write_parquet(folder.candidates(0), candidates_frame([candidate(0, "a", 1, 1)]).assign(macs="many"))
        with pytest.raises(RunFolderError, match="wrong type"):
            read_candidates(folder)

    def test_a_run_just_begun_has_no_generations(self, tmp_path: Path) -> None:
        read = read_candidates(RunFolder(tmp_path))
        assert len(read) == 0
        assert list(read) == [*DESIGN_CANDIDATES, *ADDED]


class TestGenerations:
    def test_values_by_hand(self, candidate: Callable[..., Candidate]) -> None:
        frame = generations_frame(
            candidates_frame(
                [
                    # generation 1: two feasible, one not, one stopped early
                    candidate(1, "a", 30, 500),
                    candidate(1, "b", 10, 900, cached=True),
                    candidate(1, "c", 80, 100, feasible=False),
                    candidate(1, "d", 20, 50, feasible=None),
                    # generation 0: nothing feasible, nothing exact
                    candidate(0, "e", 39, 70, feasible=None),
                ]
            ),
            Corner("macs", 1000, 0.2),
        )
        assert frame.to_dict("records") == [
            {
                "generation": 0,
                "evaluated": 1,
                "cached": 0,
                "feasible_share": 0.0,
                "best_feasible_macs": None,
                "best_feasible_mcr": None,
                "median_mcr": None,
                "eval_seconds": 0.5,
                "diversity": 0.0,  # of one candidate
                "hypervolume": 0.0,
            },
            {
                "generation": 1,
                "evaluated": 3,
                "cached": 1,
                "feasible_share": 0.5,
                "best_feasible_macs": 500,
                "best_feasible_mcr": 0.1,
                "median_mcr": 0.3,
                "eval_seconds": 1.5,
                "diversity": pytest.approx(4 / 6),  # one gene, 1 0 1 0: of six pairs, four differ
                # in the box of 1,000 MACs and an MCR of 0.2: 900 at 0.1, while 500 at 0.3 lies outside
                "hypervolume": pytest.approx(100 * 0.1 / (1000 * 0.2)),
            },
        ]

    @pytest.mark.parametrize("size", [0, 1])
    def test_types_do_not_depend_on_the_rows(self, candidate: Callable[..., Candidate], size: int) -> None:
        frame = generations_frame(candidates_frame([candidate(0, "a", 1, 1)][:size]))
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == GENERATION_DTYPES


class TestSurvivors:
    @pytest.mark.parametrize("size", [0, 2])
    def test_files_keep_every_type(self, tmp_path: Path, survivor: Callable[..., SurvivorRow], size: int) -> None:
        frame = survivors_frame([survivor("a", 400, 0.12), survivor("b", 600, 0.11)][:size])
        folder = RunFolder(tmp_path)
        files.write_parquet(folder.survivors_table, frame)
        pd.testing.assert_frame_equal(read_survivors(folder), frame)
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == SURVIVOR_DTYPES

    def test_columns_are_the_designs_and_more(self, survivor: Callable[..., SurvivorRow]) -> None:
        frame = survivors_frame([survivor("a", 400, 0.12)])
        assert list(frame)[: len(DESIGN_SURVIVORS)] == DESIGN_SURVIVORS
        assert frame.loc[0, "macs_ratio"] == 0.4
        assert frame["latency_ms"].isna().all()
