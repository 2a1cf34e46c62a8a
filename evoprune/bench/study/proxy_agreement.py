"""The agreement of proxies with the result of training: which of them ranks shapes as training does."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from evoprune.errors import ConfigError
from evoprune.record.csv_tables import write_csv

LEAST_SHAPES = 5
"""Fewest shapes of a network for which an agreement is computed."""


@dataclass(frozen=True)
class AgreementRow:
    """The agreement of one proxy with the result.

    Attributes:
        network: name of the network in the study.
        proxy: what is known of a shape before its training ends.
        passes: over the training images, before the proxy is known.
        shapes: number of shapes.
        spearman: rank correlation with the cross entropy on test images after the whole schedule. Proxies of several
            quantities are linear regressions, each shape predicted from the others.
        regret: by how much the shape that the proxy ranks first is above the best one, in nats.
    """

    network: str
    proxy: str
    passes: float
    shapes: int
    spearman: float
    regret: float


def agreements(table: Path) -> list[AgreementRow]:
    """The agreement of every proxy on every network.

    Args:
        table: written by `bench_proxies`.

    Raises:
        ConfigError: a network has fewer than `LEAST_SHAPES` shapes.
    """
    frame = pd.read_csv(table)
    rows = []
    for network, of_network in frame.groupby("network", sort=False):
        shapes = shape_table(of_network)
        if len(shapes) < LEAST_SHAPES:
            raise ConfigError(
                f"{table} has {len(shapes)} shapes of {network}; {LEAST_SHAPES} are the fewest to compare"
            )
        result = shapes["result"].to_numpy()
        for proxy, (values, passes) in proxies_of(shapes).items():
            spearman = float(spearmanr(values, result).statistic)
            regret = float(result[int(np.argmin(values))] - result.min())
            rows.append(AgreementRow(str(network), proxy, passes, len(shapes), round(spearman, 3), round(regret, 5)))
    return rows


def write_agreements(out: Path, rows: Sequence[AgreementRow]) -> None:
    """Writes the table of agreements, CSV."""
    write_csv(out, [asdict(row) for row in rows])


def shape_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each shape of one network: what was known early, and the result.

    Args:
        frame: the rows of `bench_proxies` for one network.

    Returns:
        Columns divergence and params, `short N` and `long N` for the validation cross entropy after N passes over the
        training images, of a schedule that ends there and of the longest one, and `result`, the test cross entropy at
        the end of the longest.
    """
    shapes = []
    for _, points in frame.groupby("key", sort=False):
        longest = points["schedule_units"].max()
        shape = {"divergence": points["divergence"].iloc[0], "params": points["params"].iloc[0]}
        for row in points.to_dict("records"):
            kind = "long" if row["schedule_units"] == longest else "short"
            if row["units"] == longest:
                shape["result"] = row["cross_entropy_test"]
            elif row["units"]:
                passes = round(4 * row["units"] * row["target"] / row["macs_ratio"]) / 4
                shape[f"{kind} {passes:g}"] = row["cross_entropy_validation"]
        shapes.append(shape)
    return pd.DataFrame(shapes)


def proxies_of(shapes: pd.DataFrame) -> Mapping[str, tuple[np.ndarray, float]]:
    """The proxies of a table of shapes: name -> (predicted loss of each shape, passes over the training images)."""
    divergence, params = np.log(shapes["divergence"].to_numpy()), np.log(shapes["params"].to_numpy())
    result = shapes["result"].to_numpy()
    found = {
        "divergence": (divergence, 0.0),
        "fewer parameters": (params, 0.0),
        "more parameters": (-params, 0.0),
        "divergence and log parameters": (left_one_out([divergence, params], result), 0.0),
    }
    for column in (name for name in shapes.columns if name.startswith(("short ", "long "))):
        kind, passes = column.split()
        schedule = "schedule ends there" if kind == "short" else "schedule goes on"
        words = f"cross entropy after {passes} passes, {schedule}"
        early = shapes[column].to_numpy()
        found[words] = (early, float(passes))
        found[f"{words}; divergence and log parameters"] = (
            left_one_out([early, divergence, params], result),
            float(passes),
        )
    return found


def left_one_out(features: Sequence[np.ndarray], result: np.ndarray) -> np.ndarray:
    """Each shape's result, predicted by a linear regression on the others.

    Args:
        features: of the shapes, float (shapes,) each.
        result: float (shapes,).

    Returns:
        float64 (shapes,).
    """
    inputs = np.column_stack([np.ones(len(result)), *features])
    predicted = np.empty(len(result))
    for place in range(len(result)):
        others = np.arange(len(result)) != place
        weights, *_ = np.linalg.lstsq(inputs[others], result[others], rcond=None)
        predicted[place] = inputs[place] @ weights
    return predicted
