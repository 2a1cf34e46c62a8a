"""Plots of stride masks, as the taps that they keep."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from evoprune.report.plots import BLUE
from evoprune.space.masks import StrideMask

MOST_MASKS = 10
"""The largest number of masks drawn per layer, the most frequent first."""

GAP = 0.6


def taps(mask: pd.Series) -> np.ndarray:
    """The taps that a row of `Run.stride_masks` keeps: bool (height, width)."""
    size = int(mask["kernel_height"]), int(mask["kernel_width"])
    stays = np.zeros(size[0] * size[1], dtype=bool)
    stays[list(StrideMask(int(mask["start"]), int(mask["stride"])).taps(size))] = True
    return stays.reshape(size)


def plot_stride_masks(masks: pd.DataFrame, axis: Axes) -> Axes:
    """One row per layer: its masks as small kernels in which kept taps are filled, with the number of each mask.

    Args:
        masks: one survivor's rows of `Run.stride_masks`. The ten most frequent masks of a layer are drawn; a label
            gives the number of the others.
        axis: the axis to draw on.
    """
    layers = list(dict.fromkeys(masks["layer"]))
    filled: list[Rectangle] = []
    hollow: list[Rectangle] = []
    for row, layer in enumerate(layers):
        of_layer = masks[masks["layer"] == layer].sort_values("masks", ascending=False, kind="stable")
        for column, (_, mask) in enumerate(of_layer[:MOST_MASKS].iterrows()):
            stays = taps(mask)
            side = 1 / max(stays.shape)
            left, top = column * (1 + GAP), row * (1 + 2 * GAP)
            for (y, x), stay in np.ndenumerate(stays):
                square = Rectangle((left + x * side, top + y * side), side, side)
                (filled if stay else hollow).append(square)
            text = f"{mask['start']}:{mask['stride']}, {mask['masks']}"
            axis.text(left + 0.5, top + 1.1, text, ha="center", va="top", fontsize="x-small")
        left_out = len(of_layer) - MOST_MASKS
        if left_out > 0:
            place = MOST_MASKS * (1 + GAP), row * (1 + 2 * GAP) + 0.5
            axis.text(*place, f"and {left_out} more", va="center", fontsize="x-small")
    axis.add_collection(PatchCollection(hollow, facecolor="white", edgecolor="#BBBBBB", linewidth=0.6))
    axis.add_collection(PatchCollection(filled, facecolor=BLUE, edgecolor="white", linewidth=0.6))
    widest = min(max((int((masks["layer"] == layer).sum()) for layer in layers), default=1), MOST_MASKS + 1)
    axis.set_xlim(-GAP, widest * (1 + GAP))
    axis.set_ylim(len(layers) * (1 + 2 * GAP), -GAP)
    axis.set_aspect("equal")
    axis.set_yticks([row * (1 + 2 * GAP) + 0.5 for row in range(len(layers))], layers)
    axis.set_xticks([])
    axis.set_xlabel("start:stride over the row-major taps, number of such masks in the layer")
    key = str(masks["key"].iloc[0])[:8] if len(masks) else "-"
    axis.set_title(f"Kept taps of survivor {key}")
    for side_of in axis.spines.values():
        side_of.set_visible(False)
    axis.tick_params(length=0)
    return axis
