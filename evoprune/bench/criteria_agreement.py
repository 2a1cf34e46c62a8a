"""How well criteria agree with the oracle: Spearman's rank correlation, layer by layer and over all layers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from scipy.stats import spearmanr

from evoprune.config.schema import Config, CriterionName
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.importance import merge_layers, normalised
from evoprune.criteria.registry import CRITERIA
from evoprune.data.load import load_data
from evoprune.errors import ConfigError
from evoprune.pipeline.posing import criterion_context, pose
from evoprune.record.csv_tables import write_csv
from evoprune.scoring.batching import gram_bytes
from evoprune.space.search_space import SearchSpace
from evoprune.training.devices import resolve_device
from evoprune.workers.workers import open_worker_pool

ORACLE: CriterionName = "oracle"
ALL, MEAN = "all", "mean"
"""In the column `layer`: all maps of all layers ranked together; the mean of the single layers' correlations."""

LEAST_MAPS = 3
"""Of fewer maps a rank correlation says nothing."""


@dataclass(frozen=True)
class CorrelationRow:
    """One criterion on one layer (or group of layers whose maps go together), or on all.

    maps: of which the criterion says something. images: that oracle and criteria looked at. spearman: of the
    criterion's own values with the oracle's; spearman_normalised: of its values over each layer's L2 norm, which
    changes only how layers compare. None where all values are alike.
    """

    network: str
    criterion: str
    layer: str
    maps: int
    images: int
    spearman: float | None
    spearman_normalised: float | None


def bench_criteria(config: Config, out: Path, report: Callable[[str], None]) -> list[CorrelationRow]:
    """Compares every criterion with the oracle on the config's trained network, and writes the table.

    report: receives a line a criterion. Raises ConfigError where the config names no trained weights, or no maps may
    go. Molchanov et al. 2017, section 3.1 and table 1.
    """
    if not config.space.feature_maps:
        raise ConfigError("space.feature_maps must be true for this benchmark, not false: the oracle removes maps")
    problem = pose(config)
    data, device = load_data(config.data, config.seed), resolve_device(config.device)
    with open_worker_pool(config.workers, device) as pool:
        workers = pool.workers(problem)
        context = criterion_context(problem, workers, data.calibration, config.seed, device, gram_bytes(config.workers))
        report(f"oracle: {problem.space.maps} maps, {len(context.labels)} images, {workers.count} workers")
        oracle = _raw(ORACLE, context)
    rows: list[CorrelationRow] = []
    for name in get_args(CriterionName):
        if name == ORACLE:
            continue
        found = correlations(problem.space, _raw(name, context), oracle)
        rows += [
            CorrelationRow(config.model.network, name, layer, maps, len(context.labels), _rounded(raw), _rounded(even))
            for layer, maps, raw, even in found
        ]
        report(f"{name}: over all layers {rows[-2].spearman}, normalised {rows[-2].spearman_normalised}")
    write_csv(out, [asdict(row) for row in rows])
    return rows


def correlations(
    space: SearchSpace, importance: np.ndarray, oracle: np.ndarray
) -> list[tuple[str, int, float | None, float | None]]:
    """(layer, maps, correlation, correlation after normalisation): each group with enough maps, ALL, MEAN.

    importance: float (maps,), NaN where the criterion says nothing. oracle: float (maps,).
    """
    even = importance.copy()
    for group in space.groups:
        if not np.isnan(even[group.genes]).any():
            even[group.genes] = normalised(even[group.genes], "l2")
    rows = []
    for group in space.groups:
        known = int((~np.isnan(importance[group.genes])).sum())
        if known >= LEAST_MAPS:
            value = _spearman(importance[group.genes], oracle[group.genes])
            rows.append(("+".join(group.layers), known, value, value))
    single = [value for _, _, value, _ in rows if value is not None]
    mean = float(np.mean(single)) if single else None
    maps = int((~np.isnan(importance)).sum())
    together = (ALL, maps, _spearman(importance, oracle), _spearman(even, oracle))
    return [*rows, together, (MEAN, maps, mean, mean)]


def _raw(name: CriterionName, context: CriterionContext) -> np.ndarray:
    """What a criterion says of every map, not normalised; NaN where nothing."""
    criterion = CRITERIA[name]
    try:
        return merge_layers(context.space, criterion.maps(context), "none", criterion.additive)
    except ConfigError:  # a network without what it looks at
        return np.full(context.space.maps, np.nan)


def _spearman(importance: np.ndarray, oracle: np.ndarray) -> float | None:
    known = ~np.isnan(importance)
    one, other = importance[known], oracle[known]
    if len(one) < LEAST_MAPS or not np.ptp(one) or not np.ptp(other):
        return None
    return float(spearmanr(one, other).statistic)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
