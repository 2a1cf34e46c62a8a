"""What people see of a run while it goes on."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from evoprune.cli.progress_display import LiveProgress, PlainProgress, make_progress
from evoprune.progress import GenerationSummary, Progress, SilentProgress, describe, duration

SUMMARY = GenerationSummary(
    generation=3,
    generations=8,
    evaluated=20,
    cached=4,
    feasible=18,
    candidates=24,
    best_cost=412,
    full_cost=1000,
    cost_name="macs",
    best_mcr=0.031,
    evaluations_per_second=8.34,
    seconds_left=80,
)


def report_everything(progress: Progress) -> None:
    progress.stage("baseline", "16C5-MP2-10")
    progress.epoch("baseline", 1, 2, 0.51234)
    progress.stage("search")
    progress.scored(3, 8, 12, 24)
    progress.generation(SUMMARY)
    progress.stage("retrain")
    progress.epoch("abc", 2, 2, 0.25)
    progress.stage("done")


def test_plain_progress_is_one_line_an_event() -> None:
    stream = io.StringIO()
    with PlainProgress(stream) as progress:
        report_everything(progress)
    assert stream.getvalue().splitlines() == [
        "baseline: 16C5-MP2-10",
        "  baseline: epoch 1/2, loss 0.5123",
        "search",
        "  generation 3/8: 20 scored, 4 known, 75% feasible, best macs 41.2% of the baseline at MCR 3.10%, "
        "8.3 evaluations/s, 1 min 20 s left",
        "retrain",
        "  abc: epoch 2/2, loss 0.2500",
        "done",
    ]


def test_silent_progress_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentProgress() as progress:
        report_everything(progress)
    assert capsys.readouterr() == ("", "")


def test_live_progress_shows_stage_and_generation() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    with LiveProgress(console) as progress:
        report_everything(progress)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for text in ("baseline", "epoch 1/2", "search", "generation 3/8, 75% feasible"):
        assert text in shown


def test_live_progress_stops_drawing_when_the_run_fails() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)

    def fail() -> None:
        with LiveProgress(console) as progress:
            progress.stage("search")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().endswith("\x1b[?25h")  # The cursor is shown again.


def test_a_generation_without_feasible_candidates_is_labelled() -> None:
    summary = replace(SUMMARY, feasible=0, best_cost=None, best_mcr=None, seconds_left=None)
    assert describe(summary) == "0% feasible, none feasible yet, 8.3 evaluations/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (7.6, "8 s"), (59.7, "1 min 00 s"), (65, "1 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_display_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress(False, io.StringIO()), PlainProgress)
    assert isinstance(make_progress(False, Terminal()), LiveProgress)
    assert isinstance(make_progress(True, Terminal()), SilentProgress)
