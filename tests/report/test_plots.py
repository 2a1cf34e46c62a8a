"""Pictures draw what the frames say: the numbers on the axes are compared, and files are real pictures."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

import evoprune as ep
from evoprune.report import pictures, plots
from evoprune.report.tap_plots import plot_stride_masks, taps


@pytest.fixture
def axis() -> Axes:
    axis = Figure().subplots()
    assert isinstance(axis, Axes)
    return axis


def labelled(axis: Axes, label: str) -> Any:
    return next(artist for artist in axis.get_children() if artist.get_label() == label)


CANDIDATES = pd.DataFrame(
    {
        "generation": [0, 0, 0, 1, 1],
        "key": ["a", "b", "c", "d", "a"],
        "mcr": pd.array([0.1, 0.2, 0.5, None, 0.1], dtype="Float64"),
        "feasible": pd.array([True, True, False, None, True], dtype="boolean"),
        "macs": [100, 50, 40, 30, 100],
    }
)
SURVIVORS = pd.DataFrame({"macs": [50], "mcr_search": [0.2], "mcr_retrained": [0.15]})


def test_the_front_with_all_candidates_behind_it(axis: Axes) -> None:
    assert plots.plot_front(CANDIDATES, SURVIVORS, axis, plots.MACS, (120, 0.08)) is axis
    expected = {
        "feasible candidate": [[100, 0.1], [50, 0.2]],
        "candidate beyond the tolerance": [[40, 0.5]],
        "survivor before retraining": [[50, 0.2]],
        "survivor after retraining": [[50, 0.15]],
    }
    assert {label: labelled(axis, label).get_offsets().tolist() for label in expected} == expected
    assert labelled(axis, "unpruned network").get_offsets().tolist() == [[120, 0.08]]
    assert labelled(axis, "front").get_xydata().tolist() == [[50, 0.2], [100, 0.1]]
    legend = axis.get_legend()
    assert legend is not None
    assert legend.get_title().get_text().startswith("not drawn: 1 candidates whose scoring stopped early")
    assert axis.get_xlabel() == "MACs of one image"


def test_the_sample_of_many_candidates_is_fixed() -> None:
    many = pd.DataFrame({"macs": range(plots.MOST_DRAWN + 5)})
    assert len(plots.drawn(many)) == plots.MOST_DRAWN
    assert plots.drawn(many).equals(plots.drawn(many))
    assert plots.drawn(many).index.is_monotonic_increasing
    assert plots.drawn(many[:5]).equals(many[:5])


def test_fronts_of_up_to_six_generations(axis: Axes) -> None:
    rows = [CANDIDATES.assign(generation=generation, macs=CANDIDATES["macs"] - generation) for generation in range(20)]
    plots.plot_moving_front(pd.concat(rows), axis)
    fronts = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axis.get_lines()}
    assert list(fronts) == [f"generation {number}" for number in (0, 4, 8, 11, 15, 19)]
    assert fronts["generation 4"] == [[46, 0.2], [96, 0.1]]
    assert len({str(line.get_linestyle()) + str(line.get_color()) for line in axis.get_lines()}) == 6


def test_generations_as_lines() -> None:
    frame = pd.DataFrame(
        {
            "generation": [0, 1],
            "evaluated": [6, 0],
            "eval_seconds": [3.0, 0.0],
            "feasible_share": [0.5, 1.0],
            "diversity": [0.4, 0.3],
            "hypervolume": pd.array([0.1, None], dtype="Float64"),
        }
    )
    expected = {
        plots.plot_feasible_share: [0.5, 1.0],
        plots.plot_diversity: [0.4, 0.3],
        plots.plot_rate: [2.0, np.nan],
        plots.plot_hypervolume: [0.1, np.nan],
    }
    for plot, values in expected.items():
        axis = Figure().subplots()
        plot(frame, axis)
        np.testing.assert_equal(np.asarray(axis.get_lines()[0].get_ydata(), dtype=float), values)
        assert axis.get_xlabel() == "generation"
        assert axis.get_title()
        assert axis.get_ylabel()


def test_kept_shares_as_a_heat_map(axis: Axes) -> None:
    kept = pd.DataFrame(
        {"generation": [0, 0, 1, 1], "layer": ["z", "a", "z", "a"], "kept_fraction": [1.0, 0.9, 0.5, 0.4]}
    )
    plots.plot_kept_by_generation(kept, axis)
    [mesh] = [artist for artist in axis.get_children() if isinstance(artist, QuadMesh)]
    assert np.asarray(mesh.get_array()).tolist() == [[1.0, 0.5], [0.9, 0.4]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["z", "a"]  # in the order of the forward pass


LAYERS = pd.DataFrame(
    {
        "key": ["0123456789abcdef"] * 2,
        "layer": ["conv1", "fc"],
        **{"maps": [4, 10], "maps_kept": [1, 10], "kernels": [8, 20], "kernels_kept": [2, 5]},
        **{"taps": [72, 20], "taps_kept": [9, 5]},
        "latency_ms": pd.array([0.5, None], dtype="Float64"),
        "baseline_latency_ms": pd.array([2.0, 1.0], dtype="Float64"),
    }
)


def widths(axis: Axes, label: str) -> list[float]:
    return [bar.get_width() for container in axis.containers if container.get_label() == label for bar in container]


def test_a_survivors_layers_as_bars(axis: Axes) -> None:
    plots.plot_layers(LAYERS, axis)
    assert {what: widths(axis, what) for what in ("maps", "kernels", "weights")} == {
        "maps": [0.25, 1.0],
        "kernels": [0.25, 0.25],
        "weights": [0.125, 0.25],
    }
    assert axis.get_title().endswith("survivor 01234567")


def test_layer_times_before_and_after(axis: Axes) -> None:
    plots.plot_layer_times(LAYERS, axis)
    assert widths(axis, "unpruned network") == [2.0, 1.0]
    np.testing.assert_equal(widths(axis, "survivor"), [0.5, np.nan])
    assert "(ms)" in axis.get_xlabel()


def stride_masks(rows: list[tuple[str, int, int, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["layer", "start", "stride", "masks"])
    return frame.assign(key="0123456789abcdef", kernel_height=3, kernel_width=3)


def test_masks_are_drawn_as_the_taps_that_stay(axis: Axes) -> None:
    masks = stride_masks([("conv1", 0, 1, 1), ("conv2", 1, 3, 2), ("conv2", 0, 4, 5)])
    assert taps(masks.iloc[1]).tolist() == [[False, True, False]] * 3
    assert taps(masks.iloc[2]).tolist() == np.eye(3, dtype=bool).tolist()
    plot_stride_masks(masks, axis)
    hollow, filled = axis.collections
    assert (len(hollow.get_paths()), len(filled.get_paths())) == (6 + 6, 9 + 3 + 3)
    assert [text.get_text() for text in axis.texts] == ["0:1, 1", "0:4, 5", "1:3, 2"]  # the most frequent first
    assert [label.get_text() for label in axis.get_yticklabels()] == ["conv1", "conv2"]


def test_masks_that_are_not_drawn_are_counted(axis: Axes) -> None:
    plot_stride_masks(stride_masks([("conv", start, 9, 20 - start) for start in range(9)]
                                   + [("conv", start, 8, 1) for start in range(4)]), axis)  # fmt: skip
    assert axis.texts[-1].get_text() == "and 3 more"


class TestOfARun:
    def test_a_run_with_masks_has_every_picture(self, masked_run: ep.Run, tmp_path: Path) -> None:
        run = ep.load_run(shutil.copytree(masked_run.root, tmp_path / "run"))
        pictures.write_pictures(run)
        names = ["front", "generations", "kept_by_generation", "layer_times", "layers", "search", "stride_masks"]
        files = sorted((run.root / "plots").iterdir())
        assert [file.name for file in files] == [f"{name}.{form}" for name in names for form in ("png", "svg")]
        assert all(file.read_bytes().startswith(b"\x89PNG") for file in files if file.suffix == ".png")
        assert all("</svg>" in file.read_text()[-20:] for file in files if file.suffix == ".svg")
        before = {file: file.read_bytes() for file in files}
        pictures.write_pictures(run)
        assert {file: file.read_bytes() for file in files} == before

    def test_every_axis_has_a_title_and_units(self, masked_run: ep.Run) -> None:
        for name, figure in pictures.figures(masked_run).items():
            for axis in figure.axes:
                if axis.get_label() != "<colorbar>":
                    assert axis.get_title(), name
                    assert axis.get_xlabel(), name

    def test_a_run_that_is_not_done_has_the_pictures_of_the_search(self, masked_run: ep.Run, tmp_path: Path) -> None:
        copy = shutil.copytree(masked_run.root, tmp_path / "run")
        (copy / "survivors.parquet").unlink()
        assert list(pictures.figures(ep.load_run(copy))) == ["front", "generations", "search", "kept_by_generation"]
        shutil.rmtree(copy / "candidates")
        assert pictures.figures(ep.load_run(copy)) == {}
