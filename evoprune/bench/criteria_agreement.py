"""Agreement of criteria with the oracle: Spearman's rank correlation, layer by layer and over all layers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from scipy.stats import spearmanr

from evoprune.config.choices import CriterionName
from evoprune.config.schema import Config
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.importance import merge_layers, normalised
from evoprune.criteria.importance_by_name import find_criterion
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
"""Values of the column `layer`: all maps of all layers ranked together; the mean of the layers' correlations."""

LEAST_MAPS = 3
"""Fewest maps for which a rank correlation is computed."""


@dataclass(frozen=True)
class CorrelationRow:
    """The agreement of one criterion with the oracle on one layer, or on all.

    Attributes:
        network: name of the network.
        criterion: name of the criterion.
        layer: the layer, the layers of one group, `ALL` or `MEAN`.
        maps: number of maps that the criterion values.
        images: number of images that oracle and criteria looked at.
        spearman: correlation of the criterion's values with the oracle's; None if all values are equal.
        spearman_normalised: that of its values over each layer's L2 norm, which changes the comparison of layers only.
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

    Args:
        config: names a trained network and its data.
        out: file of the table, CSV.
        report: receives a line for each criterion.

    Raises:
        ConfigError: the config names no trained weights, or no maps may be pruned.

    References:
        Molchanov et al. 2017, section 3.1 and table 1.
    """
    if not config.space.feature_maps:
        raise ConfigError("space.feature_maps must be true for this benchmark, not false: the oracle removes maps")
    problem = pose(config)
    data, device = load_data(config.data, config.seed, problem.task), resolve_device(config.device)
    with open_worker_pool(config.workers, device) as pool:
        workers = pool.workers(problem)
        context = criterion_context(problem, workers, data.calibration, config.seed, device, gram_bytes(config.workers))
        report(f"oracle: {problem.space.maps} maps, {len(context.images)} images, {workers.count} workers")
        oracle = _raw(ORACLE, context)
    rows: list[CorrelationRow] = []
    for name in get_args(CriterionName):
        if name == ORACLE:
            continue
        found = correlations(problem.space, _raw(name, context), oracle)
        rows += [
            CorrelationRow(config.model.network, name, layer, maps, len(context.images), _rounded(raw), _rounded(even))
            for layer, maps, raw, even in found
        ]
        report(f"{name}: over all layers {rows[-2].spearman}, normalised {rows[-2].spearman_normalised}")
    write_csv(out, [asdict(row) for row in rows])
    return rows


def correlations(
    space: SearchSpace, importance: np.ndarray, oracle: np.ndarray
) -> list[tuple[str, int, float | None, float | None]]:
    """Correlations of each group with enough maps, of `ALL`, and their `MEAN`.

    Args:
        space: search space of the maps.
        importance: float (maps,), NaN for maps that the criterion does not value.
        oracle: float (maps,).

    Returns:
        (layer, number of maps, correlation, correlation after normalisation) of each row.
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
    """A criterion's values of all maps, not normalised; NaN for maps without one."""
    criterion = find_criterion(name)
    try:
        return merge_layers(context.space, criterion.maps(context), "none", criterion.additive)
    except ConfigError:  # the criterion does not go with this network
        return np.full(context.space.maps, np.nan)


def _spearman(importance: np.ndarray, oracle: np.ndarray) -> float | None:
    known = ~np.isnan(importance)
    one, other = importance[known], oracle[known]
    if len(one) < LEAST_MAPS or not np.ptp(one) or not np.ptp(other):
        return None
    return float(spearmanr(one, other).statistic)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
