"""The report in a real browser: it loads without errors and without a network, and what is interactive works."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import evoprune as ep
from evoprune.report.write import write_joint_report, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no Chromium here: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(masked_run: ep.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(ep.load_run(shutil.copytree(masked_run.root, tmp_path_factory.mktemp("report") / "run")))


def opened(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> tuple[Page, list[str]]:
    """The page once it is drawn, and what went wrong so far or was asked of a network."""
    dark = scheme == "dark"
    page = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    ).new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url == path.as_uri() else wrong.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    return page, wrong


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (400, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(400, "light", marks=pytest.mark.slow),
    ],
)
def test_it_loads_without_errors_and_fits(browser: Browser, report: Path, width: int, scheme: str) -> None:
    page, wrong = opened(browser, report, width, scheme)
    assert wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".plot .main-svg").count() >= 7 * 2  # plotly draws each figure in more than one layer
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('#run0-front .xtick text')).fill")
    assert (background, ink) == {
        "light": ("rgb(255, 255, 255)", "rgb(27, 31, 36)"),
        "dark": ("rgb(20, 24, 29)", "rgb(230, 234, 238)"),
    }[scheme]
    page.context.close()


def test_hovering_shows_a_candidates_numbers(browser: Browser, report: Path) -> None:
    page, wrong = opened(browser, report)
    run = ep.load_run(report.parent)
    place = page.evaluate(
        """() => {
            const plot = document.getElementById("run0-front");
            const trace = plot._fullData.findIndex((each) => each.name === "feasible candidate");
            const [x, y] = [plot.data[trace].x[0], plot.data[trace].y[0]];
            plot.scrollIntoView();
            const box = plot.querySelector(".nsewdrag").getBoundingClientRect();
            const { xaxis, yaxis } = plot._fullLayout;
            return [box.left + xaxis.c2p(x), box.top + yaxis.c2p(y), plot.data[trace].customdata[0][0]];
        }"""
    )
    page.mouse.move(place[0], place[1])
    page.wait_for_selector("#run0-front .hovertext")
    text = page.locator("#run0-front .hovertext").first.text_content() or ""
    shown = run.candidates[[key in text for key in run.candidates["key"]]].iloc[0]
    assert f"generation {shown['generation']}" in text
    assert f"{shown['errors']} of {shown['images']}" in text
    assert "MACs" in text
    assert wrong == []
    page.context.close()


def test_tables_sort_by_number_and_back(browser: Browser, report: Path) -> None:
    page, wrong = opened(browser, report)
    run = ep.load_run(report.parent)

    def keys() -> list[str]:
        return page.locator("table.sortable").first.locator("tbody code").all_text_contents()

    head = page.locator("table.sortable").first.get_by_role("button", name="MCR search")
    by_mcr = run.survivors.sort_values("mcr_search", kind="stable")["key"].tolist()
    assert len(by_mcr) > 1
    head.click()
    assert keys() == by_mcr
    assert page.locator("th[aria-sort=ascending]").count() == 1
    head.click()
    assert keys() == by_mcr[::-1]
    page.locator("table.sortable").first.get_by_role("button", name="survivor").click()
    assert keys() == sorted(by_mcr)
    assert wrong == []
    page.context.close()


def test_closed_sections_are_drawn_on_opening_and_in_print(browser: Browser, report: Path) -> None:
    page, wrong = opened(browser, report, scheme="dark")
    drawn = page.locator(".plot .main-svg").count()
    page.locator("details:not([open]) > summary").first.click()
    page.wait_for_function(f"document.querySelectorAll('.plot .main-svg').length > {drawn}")
    assert page.pdf().startswith(b"%PDF")
    assert wrong == []
    page.context.close()


def test_several_runs_side_by_side(browser: Browser, masked_run: ep.Run, tiny_run: ep.Run, tmp_path: Path) -> None:
    page, wrong = opened(browser, write_joint_report([tiny_run, masked_run], tmp_path / "joint.html"), 400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator("#settings-survivors .main-svg").count() > 0
    assert page.locator("#run1-front .main-svg").count() == 0
    page.locator('a[href="#run1"]').click()
    page.wait_for_selector("#run1-front .main-svg")
    assert wrong == []
    page.context.close()
