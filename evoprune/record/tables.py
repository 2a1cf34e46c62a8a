"""The tables of a run as pandas frames. Every column has a type, a nullable one if a value may be missing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from evoprune.record import files
from evoprune.record.columns import checked, empty, typed
from evoprune.record.costs import own_columns
from evoprune.record.file_errors import damaged
from evoprune.record.folder import RunFolder
from evoprune.record.fronts import Corner, diversity, hypervolumes
from evoprune.scoring.candidate import Candidate, Score

CANDIDATE_DTYPES: dict[str, Any] = {
    "generation": "int64",
    "key": "str",
    "genome": pd.ArrowDtype(pa.binary()),  # the bytes of the uint8 vector
    "mcr": "Float64",  # missing where scoring stopped early
    "errors": "int64",  # float64 if errors are shares
    "images_seen": "int64",
    "images": "int64",
    "feasible": "boolean",  # missing where scoring stopped before it was known
    "exact": "bool",
    "macs": "int64",
    "params": "int64",
    "bytes": "int64",
    "eval_seconds": "float64",
    "cached": "bool",
    "predicted_latency_ms": "Float64",  # missing where the search does not ask for it
    "failed": "bool",
    "divergence": "Float64",  # missing in tables that are older
}
GENERATION_DTYPES: Mapping[str, Any] = {
    "generation": "int64",
    "evaluated": "int64",
    "cached": "int64",
    "feasible_share": "float64",
    "best_feasible_macs": "Int64",
    "best_feasible_mcr": "Float64",
    "median_mcr": "Float64",
    "eval_seconds": "float64",
    "diversity": "float64",
    "hypervolume": "Float64",
}
SURVIVOR_DTYPES: dict[str, Any] = {
    "key": "str",
    "mcr_search": "float64",
    "mcr_retrained": "float64",
    "mcr_test": "float64",
    "baseline_mcr_test": "float64",
    "macs": "int64",
    "macs_ratio": "float64",
    "params": "int64",
    "params_ratio": "float64",
    "latency_ms": "Float64",
    "baseline_latency_ms": "Float64",
    "weights": "str",
    "baseline_mcr_validation": "float64",
    "bytes": "int64",
    "bytes_ratio": "float64",
    "predicted_latency_ms": "Float64",
    "worst_class_recall": "Float64",  # missing if the task has no classes, and in older tables
    "baseline_worst_class_recall": "Float64",
    "class_recalls": "str",
    "baseline_class_recalls": "str",
}

_OTHER_COSTS = ("predicted_latency_ms",)
"""Columns of built-in costs that only the candidates and survivors of a search that minimises them have."""


@dataclass(frozen=True)
class SurvivorRow:
    """The measurements of one survivor. Each `mcr` is a fraction, each `ratio` is this network over the baseline.

    Attributes:
        key: the key of its phenotype.
        mcr_search: on the validation set, as scored in the search.
        mcr_retrained: on the validation set, after retraining.
        mcr_test: on the test set, after retraining.
        baseline_mcr_test, baseline_mcr_validation, baseline_latency_ms: of the unpruned network, on the same images.
        macs, params, bytes: the cost, and as `*_ratio` its share of the baseline's.
        latency_ms: milliseconds of a forward pass of one image; missing if it was not measured.
        weights: the path of the safetensors file, relative to the run folder.
        other_costs: by column, the cost that the search minimised if it is none of these.
        worst_class_recall: the least of the recalls of the classes, on the test set, or on the validation set if there
            is none; missing if the task has no classes.
        class_recalls: the recall of each class by label, as `recalls_to_text`.
        baseline_worst_class_recall, baseline_class_recalls: of the unpruned network, on the same images.
    """

    key: str
    mcr_search: float
    mcr_retrained: float
    mcr_test: float
    baseline_mcr_test: float
    macs: int
    macs_ratio: float
    params: int
    params_ratio: float
    latency_ms: float | None
    baseline_latency_ms: float | None
    weights: str
    baseline_mcr_validation: float
    bytes: int
    bytes_ratio: float
    other_costs: Mapping[str, float] = field(default_factory=dict)
    worst_class_recall: float | None = None
    baseline_worst_class_recall: float | None = None
    class_recalls: str = ""
    baseline_class_recalls: str = ""


def recalls_to_text(recalls: Sequence[float]) -> str:
    """Recalls of the classes as a text: `0.98 1 - 0.5`, with four digits, and a dash for a class without images."""
    return " ".join("-" if math.isnan(recall) else f"{recall:.4g}" for recall in recalls)


def candidates_frame(candidates: Sequence[Candidate]) -> pd.DataFrame:
    """One row for each candidate, in their order; the columns of CANDIDATE_DTYPES."""
    scores = [candidate.score for candidate in candidates]
    columns: dict[str, list[Any]] = {
        "generation": [candidate.generation for candidate in candidates],
        "key": [candidate.key for candidate in candidates],
        "genome": [candidate.genome.astype(np.uint8, casting="safe").tobytes() for candidate in candidates],
        "mcr": [score.mcr for score in scores],
        "errors": [score.errors for score in scores],
        "images_seen": [score.images_seen for score in scores],
        "images": [score.images for score in scores],
        "feasible": [score.feasible for score in scores],
        "exact": [score.exact for score in scores],
        "macs": [score.macs for score in scores],
        "params": [score.params for score in scores],
        "bytes": [score.bytes for score in scores],
        "eval_seconds": [score.eval_seconds for score in scores],
        "cached": [candidate.cached for candidate in candidates],
        "failed": [score.failed for score in scores],
        "divergence": [score.divergence for score in scores],
    }
    shares = any(isinstance(score.errors, float) for score in scores)
    dtypes = _of_shares(CANDIDATE_DTYPES) if shares else CANDIDATE_DTYPES
    return _with_other_costs(columns, dtypes, [score.other_costs for score in scores])


def _of_shares(dtypes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The types of columns if errors are shares, not numbers of images."""
    return {**dtypes, "errors": "float64"} if "errors" in dtypes else dtypes


def _with_other_costs(
    columns: Mapping[str, Sequence[Any]], dtypes: Mapping[str, Any], costs: Sequence[Mapping[str, float]]
) -> pd.DataFrame:
    """A frame with a column for each of the costs, after those of `dtypes`; columns of `dtypes` that lack are empty."""
    names = list(dict.fromkeys(name for row in costs for name in row))
    lacking = [name for name in dtypes if name not in columns]
    others = {name: [row.get(name) for row in costs] for name in dict.fromkeys((*lacking, *names))}
    return typed({**columns, **others}, {**dtypes, **dict.fromkeys(names, "Float64")})


def candidates_of(frame: pd.DataFrame, own_costs: Sequence[str] = ()) -> list[Candidate]:
    """The candidates of a frame that `candidates_frame` made, exactly and in their order.

    Args:
        frame: as it was read.
        own_costs: columns of costs of the user's own.
    """
    names = [name for name in (*_OTHER_COSTS, *own_costs) if name in frame]
    costs = frame[names].astype("Float64").to_dict("records") if names else [{}] * len(frame)
    rows: Iterable[Any] = frame.itertuples(index=False)
    return [
        Candidate(
            generation=row.generation,
            key=row.key,
            genome=np.frombuffer(row.genome, dtype=np.uint8).copy(),
            score=Score(
                errors=row.errors,
                images_seen=row.images_seen,
                images=row.images,
                feasible=None if row.feasible is pd.NA else bool(row.feasible),
                exact=row.exact,
                macs=row.macs,
                params=row.params,
                bytes=row.bytes,
                eval_seconds=row.eval_seconds,
                other_costs={str(name): float(value) for name, value in others.items() if not pd.isna(value)},
                failed=getattr(row, "failed", False),
                divergence=_optional(getattr(row, "divergence", None)),
            ),
            cached=row.cached,
        )
        for row, others in zip(rows, costs, strict=True)
    ]


def _optional(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def read_candidates(folder: RunFolder, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The candidates of all generations on disk, in order.

    Args:
        folder: the run folder.
        columns: the columns to read, out of CANDIDATE_DTYPES; None: all that the files have.

    Raises:
        RunFolderError: a column is missing.
        DamagedFileError: names the file, or the folder if the tables do not fit each other.
    """
    generations = folder.candidate_generations()
    dtypes = {name: CANDIDATE_DTYPES[name] for name in columns or CANDIDATE_DTYPES}
    if columns is None:
        dtypes |= _own_dtypes(folder)
    if not generations:
        return empty(dtypes)
    return _read(folder, generations, dtypes, columns)


def read_generation(folder: RunFolder, generation: int) -> pd.DataFrame:
    """The candidates of one generation. Raises as `read_candidates`."""
    return _read(folder, [generation], CANDIDATE_DTYPES | _own_dtypes(folder))


def _read(
    folder: RunFolder, generations: Sequence[int], dtypes: Mapping[str, Any], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    paths = [folder.candidates(generation) for generation in generations]
    source = paths[0] if len(paths) == 1 else paths[0].parent
    read = files.read_parquet(paths, columns)
    shares = "errors" in read and pd.api.types.is_float_dtype(read["errors"])
    frame = checked(read, _of_shares(dtypes) if shares else dtypes, source)
    if "generation" in dtypes and frame["generation"].unique().tolist() != [*generations]:
        raise damaged(source, "a table has another generation than its file's name")
    if {"errors", "images_seen", "images"} <= dtypes.keys():
        most = frame["images"] if shares else frame["images_seen"]  # a weighted error may be above 1
        ordered = (frame["errors"] <= most) & (frame["images_seen"] <= frame["images"])
        if not ordered.all():
            raise damaged(source, "a candidate has more errors than images seen, or saw more than there are")
    if "genome" in dtypes and frame["genome"].map(len, na_action="ignore").nunique(dropna=False) != 1:
        raise damaged(source, "its genomes are of several lengths")
    return frame


def generations_frame(candidates: pd.DataFrame, corner: Corner | None = None) -> pd.DataFrame:
    """Figures of every generation, ascending.

    Args:
        candidates: the frame of candidates.
        corner: of the box that hypervolumes are shares of; None: no hypervolumes.

    Returns:
        One row for each generation:

        - generation
        - evaluated: number of candidates that were scored in it
        - cached: number of candidates whose score was known before
        - feasible_share: share of its candidates that are known to be within the tolerance (0..1)
        - best_feasible_macs: fewest MACs of its feasible candidates; missing if it has none
        - best_feasible_mcr: lowest MCR of its feasible candidates (not always the same one); likewise
        - median_mcr: over the candidates scored on all images; missing if there are none
        - eval_seconds: time of its evaluations, summed over workers
        - diversity: share of genes in which two of its candidates differ, mean over all pairs (0..1)
        - hypervolume: of the front of all candidates so far (`fronts.hypervolume`); missing without a corner
    """
    feasible = candidates["feasible"].fillna(False).astype(bool)
    evaluated = ~candidates["cached"]
    prepared = pd.DataFrame(
        {
            "generation": candidates["generation"],
            "evaluated": evaluated,
            "cached": candidates["cached"],
            "feasible_share": feasible,
            "best_feasible_macs": candidates["macs"].astype("Int64").where(feasible),
            "best_feasible_mcr": candidates["mcr"].where(feasible),
            "median_mcr": candidates["mcr"],
            "eval_seconds": candidates["eval_seconds"].where(evaluated, 0.0),
        }
    )
    frame = prepared.groupby("generation", as_index=False).agg(
        {
            "evaluated": "sum",
            "cached": "sum",
            "feasible_share": "mean",
            "best_feasible_macs": "min",
            "best_feasible_mcr": "min",
            "median_mcr": "median",
            "eval_seconds": "sum",
        }
    )
    frame["diversity"] = candidates.groupby("generation")["genome"].agg(diversity).to_numpy(dtype="float64")
    frame["hypervolume"] = hypervolumes(candidates, corner) if corner else pd.NA
    return frame.astype(dict(GENERATION_DTYPES))


def survivors_frame(rows: Sequence[SurvivorRow]) -> pd.DataFrame:
    """One row for each survivor, in their order; the columns of SURVIVOR_DTYPES."""
    records = [asdict(row) for row in rows]
    measured = {name: [record[name] for record in records] for name in SURVIVOR_DTYPES if name not in _OTHER_COSTS}
    return _with_other_costs(measured, SURVIVOR_DTYPES, [row.other_costs for row in rows])


def read_survivors(folder: RunFolder) -> pd.DataFrame:
    """The survivors; no rows before the run is finished. Raises RunFolderError, DamagedFileError."""
    path = folder.survivors_table
    if not path.is_file():
        return survivors_frame([])
    return checked(files.read_parquet([path]), SURVIVOR_DTYPES | _own_dtypes(folder), path)


def _own_dtypes(folder: RunFolder) -> dict[str, Any]:
    """The column of the run's cost if it is the user's own, and its type."""
    return dict.fromkeys(own_columns(folder), "Float64")
