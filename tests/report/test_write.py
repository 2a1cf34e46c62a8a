"""The report as text: what it says, what it links to, and that nothing in a run can become markup or code."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects
import pytest
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.config.loading import config_from_dict, dump_config
from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import clear
from evoprune.record.tables import SurvivorRow, survivors_frame
from evoprune.report import write as report
from evoprune.report.comparison import Comparison
from evoprune.report.write import RunSection, report_html, write_report
from tests import tiny_runs


class Page(HTMLParser):
    """The words, links and scripts of a page. Its scripts are not words."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.sources: list[str] = []
        self._words: list[str] = []
        self._inside = ""
        self.feed(text)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag == "script":
            self.scripts.append("")
        self.sources += [value or "" for name, value in values.items() if name in ("src", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self._words.append(data)


@pytest.fixture(autouse=True, scope="module")
def without_the_library() -> Iterator[None]:
    """Leaves out the five megabytes of plotly, which `test_browser` runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "get_plotlyjs", str)
        yield


@pytest.fixture(scope="module")
def page(masked_run: ep.Run) -> Page:
    return Page(report_html([masked_run], masked_run.root))


def copied(run: ep.Run, folder: Path) -> ep.Run:
    return ep.load_run(shutil.copytree(run.root, folder))


def test_the_answer_comes_first(page: Page, masked_run: ep.Run) -> None:
    cheapest = masked_run.survivors.iloc[0]
    answer = page.words.index(f"{cheapest['mcr_test']:.2%} misclassified on the test set")
    assert answer < page.words.index("of the parameters") < page.words.index("Survivors")
    assert f"{cheapest['macs_ratio']:.1%} of the MACs" in page.words
    assert f"{cheapest['baseline_latency_ms'] / cheapest['latency_ms']:.2f} times as fast" in page.words
    assert "feature maps, kernels, taps inside kernels" in page.words
    assert "24 candidates in 4 generations" in page.words


def test_config_and_environment_are_all_there(page: Page) -> None:
    assert "search.tolerance 0.4" in page.words
    assert "data.root null" in page.words
    assert re.search(r"torch \d", page.words)


def test_links_lead_to_files(masked_run: ep.Run, tmp_path: Path) -> None:
    run = copied(masked_run, tmp_path / "a run #1")
    path = write_report(run)
    links = [unquote(link) for link in Page(path.read_text()).links]
    assert {f"survivors/{key}.safetensors" for key in run.survivors["key"]} <= set(links)
    assert {"plots/front.png", "plots/stride_masks.svg"} <= set(links)
    assert all((run.root / link).is_file() for link in links)
    elsewhere = Page(report_html([run], tmp_path / "reports"))
    assert all((tmp_path / "reports" / unquote(link)).resolve().is_file() for link in elsewhere.links)


def test_the_page_loads_nothing(page: Page) -> None:
    assert page.sources == []


def test_figures_are_valid_plotly(page: Page) -> None:
    figures = json.loads(page.scripts[0])
    assert {"run0-front", "run0-moving-front", "run0-kept", "run0-rate"} <= set(figures)
    for figure in figures.values():
        plotly.graph_objects.Figure(figure)  # it refuses what it does not know
        assert "NaN" not in json.dumps(figure)


def test_the_best_survivor_is_the_cheapest_within_the_tolerance(
    tmp_path: Path, masked_run: ep.Run, survivor: Callable[..., SurvivorRow]
) -> None:
    # tolerance 0.4, baseline 0.09 on the validation set, the made-up survivors 0.11
    run = copied(masked_run, tmp_path / "run")
    keys = list(dict.fromkeys(run.candidates["key"]))[:3]
    rows = [survivor(key, macs, 0.1) for key, macs in zip(keys, (100, 200, 300), strict=True)]
    frame = survivors_frame(rows).assign(mcr_retrained=[0.5, 0.4, 0.1])
    files.write_parquet(RunFolder(run.root).survivors_table, frame)
    best = RunSection(ep.load_run(run.root), run.root, "run0").best
    assert best is not None
    assert best.row["key"] == keys[1]
    files.write_parquet(RunFolder(run.root).survivors_table, frame.assign(mcr_retrained=0.9))
    best = RunSection(ep.load_run(run.root), run.root, "run0").best
    assert best is not None
    assert best.row["key"] == keys[0]  # none within it


HOSTILE = "</script><img src=x onerror=alert(1)>&\"'{{ 7 * 7 }}"


def test_survivors_above_the_front_are_explained(masked_run: ep.Run, tmp_path: Path) -> None:
    """The picture shows errors, by which this search did not compare candidates."""
    run = copied(masked_run, tmp_path / "run")
    settings = run.config.model_dump(mode="json")
    settings["search"]["fitness"] = "divergence"
    files.write_text(RunFolder(run.root).config, dump_config(config_from_dict(settings)))
    note = "survivors may lie above the front"
    assert note in Page(report_html([ep.load_run(run.root)], tmp_path)).words
    assert note not in Page(report_html([masked_run], tmp_path)).words


def test_nothing_in_a_run_becomes_markup(masked_run: ep.Run, tmp_path: Path) -> None:
    run = copied(masked_run, tmp_path / "<img src=x>")
    settings = run.config.model_dump(mode="json")
    settings["model"]["network"] = HOSTILE
    files.write_text(RunFolder(run.root).config, dump_config(config_from_dict(settings)))
    environment = files.read_json(RunFolder(run.root).environment)
    files.write_json(RunFolder(run.root).environment, {**environment, "cpu": HOSTILE, HOSTILE: 1})
    files.write_parquet(
        RunFolder(run.root).layers_table, run.layers.assign(layer="<b>" + run.layers["layer"] + HOSTILE)
    )
    hostile = ep.load_run(run.root)
    joint = report_html([hostile, masked_run], tmp_path)
    for page in (Page(report_html([hostile], tmp_path)), Page(joint)):
        assert page.sources == []  # no image came to be
        assert HOSTILE in page.words
        assert "{{ 7 * 7 }}" in page.words
        figures = page.scripts[0]
        assert "<" not in figures
        names = [
            name for figure in json.loads(figures).values() for trace in figure["data"] for name in trace.get("y", [])
        ]
        assert not any("<" in name for name in names if isinstance(name, str))


@pytest.mark.parametrize("content", [{}, {"cores": None, "x": 1}])
def test_an_environment_with_missing_entries_is_shown(content: object, masked_run: ep.Run, tmp_path: Path) -> None:
    run = copied(masked_run, tmp_path / "run")
    files.write_json(RunFolder(run.root).environment, content)
    assert "Machine: - cores of" in Page(report_html([ep.load_run(run.root)], tmp_path)).words


@pytest.mark.parametrize("content", [[], None, {"cpu": ["a"]}, {"x": {"y": 1}}])
def test_an_environment_of_another_form_is_named(content: object, masked_run: ep.Run, tmp_path: Path) -> None:
    run = copied(masked_run, tmp_path / "run")
    files.write_json(RunFolder(run.root).environment, content)
    with pytest.raises(RunFolderError, match=r"environment\.json is damaged"):
        report_html([ep.load_run(run.root)], tmp_path)


def test_secrets_in_urls_are_masked(masked_run: ep.Run, tmp_path: Path) -> None:
    run = copied(masked_run, tmp_path / "run")
    settings = run.config.model_dump(mode="json")
    settings["data"]["root"] = "sftp://me:SECRET@host/digits"
    files.write_text(RunFolder(run.root).config, dump_config(config_from_dict(settings)))
    environment = files.read_json(RunFolder(run.root).environment)
    files.write_json(RunFolder(run.root).environment, {**environment, "index": "https://h/simple?token=SECRET"})
    text = report_html([ep.load_run(run.root)], tmp_path)
    assert "SECRET" not in text
    assert "data.root sftp://me:***@host/digits" in Page(text).words


def test_an_unfinished_run_is_labelled(tiny_run: ep.Run, tmp_path: Path) -> None:
    run = copied(tiny_run, tmp_path / "run")
    (run.root / "survivors.parquet").unlink()
    assert (
        "There are no survivors: the run is not finished" in Page(report_html([ep.load_run(run.root)], tmp_path)).words
    )
    (run.root / "candidates" / "gen-0003.parquet").unlink()
    assert "The search has reached generation 2 of 3" in Page(report_html([ep.load_run(run.root)], tmp_path)).words
    for path in (run.root / "candidates").iterdir():
        path.unlink()
    assert "The search has not finished a generation yet" in Page(report_html([ep.load_run(run.root)], tmp_path)).words


class TestSeveral:
    @pytest.fixture
    def runs(self, tmp_path: Path, tiny_run: ep.Run, masked_run: ep.Run) -> list[ep.Run]:
        """Two seeds of one setting and one of another."""
        other = copied(tiny_run, tmp_path / "seed1")
        config = RunFolder(other.root).config
        config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
        table = RunFolder(other.root).survivors_table
        files.write_parquet(table, tiny_run.survivors.assign(mcr_test=tiny_run.survivors["mcr_test"] + 0.02))
        return [tiny_run, masked_run, ep.load_run(other.root)]

    def test_seeds_of_one_setting_have_a_mean_and_a_spread(self, runs: list[ep.Run]) -> None:
        comparison = Comparison(runs)
        [one, other] = comparison.spreads
        assert comparison.counts == {one: 2, other: 1}
        first = runs[0].survivors["mcr_test"].iloc[0]
        assert comparison.spreads[one]["mcr_test"].mean == pytest.approx(first + 0.01)
        assert comparison.spreads[one]["mcr_test"].deviation == pytest.approx(0.02 / 2**0.5)
        assert comparison.spreads[other]["mcr_test"].deviation is None
        assert "space.strides True" in comparison.differences[other]

    def test_settings_are_named_by_the_few_keys_that_differ(self, runs: list[ep.Run]) -> None:
        assert set(Comparison([runs[0], runs[2]]).settings) == {"all alike"}
        config = RunFolder(runs[2].root).config
        config.write_text(config.read_text().replace("tolerance: 0.1", "tolerance: 0.05"))
        changed = ep.load_run(runs[2].root)
        assert Comparison([runs[0], changed]).settings.tolist() == ["search.tolerance 0.1", "search.tolerance 0.05"]

    def test_all_of_them_are_on_one_page(self, runs: list[ep.Run], tmp_path: Path) -> None:
        page = Page(report_html(runs, tmp_path))
        assert [link for link in page.links if link.startswith("#")] == ["#run0", "#run1", "#run2"]
        assert {"settings-survivors", "run0-front", "run2-front"} <= set(json.loads(page.scripts[0]))
        assert all(str(run.root) in page.words for run in runs)

    def test_a_run_without_survivors_takes_part(self, runs: list[ep.Run], tmp_path: Path) -> None:
        (runs[2].root / "survivors.parquet").unlink()
        comparison = Comparison([runs[0], ep.load_run(runs[2].root)])
        assert comparison.table["mcr_test"].isna().tolist() == [False, True]
        assert comparison.spreads["all alike"]["mcr_test"].deviation is None
        assert "There are no survivors" in Page(report_html(comparison.runs, tmp_path)).words

    def test_no_run_at_all_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match="at least one run"):
            report_html([], tmp_path)


class TestCommand:
    def call(self, *arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["report", *map(str, arguments)])
        return result.exit_code, result.output

    def test_the_report_of_one_run_is_in_its_folder(self, tiny_run: ep.Run, tmp_path: Path) -> None:
        run = copied(tiny_run, tmp_path / "run")
        assert self.call(run.root) == (0, f"{run.root / 'report.html'}\n")
        assert (run.root / "plots" / "front.png").is_file()

    def test_the_report_of_several_runs_needs_a_path(self, tiny_run: ep.Run, tmp_path: Path) -> None:
        for name in ("one", "two"):
            copied(tiny_run, tmp_path / "runs" / name)
        code, text = self.call(tmp_path / "runs")
        assert code == 2
        assert text == "error: 2 runs need a file for their joint report: --out FILE\n"
        before = tiny_runs.state_of(tmp_path / "runs")
        assert self.call(tmp_path / "runs", "--out", tmp_path / "joint.html") == (0, f"{tmp_path / 'joint.html'}\n")
        assert (tmp_path / "joint.html").is_file()
        assert tiny_runs.state_of(tmp_path / "runs") == before

    @pytest.mark.parametrize("name", ["missing", "empty"])
    def test_a_folder_without_runs_is_named(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        code, text = self.call(tmp_path / name)
        assert code == 2
        assert text.startswith(f"error: {tmp_path / name}")
        assert text.count("\n") == 1


def test_a_run_ends_with_its_report_and_clearing_removes_it(tmp_path: Path) -> None:
    run = tiny_runs.run(tmp_path / "run", {"record.report": True, "search.generations": 1, "retrain.epochs": 0})
    assert (run.root / "report.html").is_file()
    assert (run.root / "plots" / "front.svg").is_file()
    (run.root / "plots" / "mine.txt").write_text("kept")
    clear(RunFolder(run.root))
    left = {path.name for path in run.root.rglob("*") if path.is_file()}
    assert left == {"mine.txt", "lock"}  # whoever clears it holds the lock
