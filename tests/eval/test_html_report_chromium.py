"""The report in a real browser: it opens, searches and sorts, and runs no injected script."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.html_report import html_report
from tests.browser import watched_page
from tests.eval.report_data import RECIPE, SCRIPT, TRAINING, report_data

LOOKS = [(1400, "light"), (390, "dark")]
SHOWN = "#list > details:not([hidden])"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html_report(report_data(), TRAINING, RECIPE), "utf-8")
    return path


@pytest.fixture(params=LOOKS, ids=str)
def page(browser: Any, path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The open page; after the test it has logged no error and fetched nothing but itself."""
    with watched_page(browser, path.as_uri(), *request.param) as (page, requests):
        yield page
        assert requests == [path.as_uri()]
        assert page.evaluate("window.pwned") is None


def test_page_fits_its_width_and_its_charts_are_legible(page: Any) -> None:
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = "all => all.map(one => one.getBoundingClientRect().height)"
    heights = page.eval_on_selector_all("svg.chart text", small)
    assert min(heights) >= 10  # pixels: a font size of at least 9
    inside = """all => all.every(one => {
        const box = one.getBoundingClientRect()
        const own = one.closest("svg").getBoundingClientRect()
        return box.left >= own.left - 1 && box.right <= own.right + 1 && box.bottom <= own.bottom
    })"""
    assert page.eval_on_selector_all("svg.chart text, svg.chart rect", inside)
    assert page.locator("svg.chart").count() == 6


def test_the_first_table_shows_p_and_says_if_it_scrolls(page: Any) -> None:
    width = page.evaluate("innerWidth")
    right = "one => one.getBoundingClientRect().right"
    assert page.get_by_role("columnheader", name="p", exact=True).evaluate(right) < width
    says = "one => getComputedStyle(one, '::before').content.includes('scroll')"
    assert page.locator("#result .scroll").first.evaluate(says) == (width == 390)
    assert page.locator(".picks .body").first.is_visible()


def test_a_button_copies_the_table(page: Any) -> None:
    page.get_by_role("button", name="LaTeX").click()
    page.get_by_text("LaTeX copied").wait_for(timeout=3000)


def test_search_narrows_the_list_and_says_how_many(page: Any) -> None:
    total = report_data().scores.examples
    assert page.locator("#count").inner_text() == f"{total} dialogues"
    for term, found in (("LUDVIG biscuit", "a-046"), ("привет", "words-of-the-world")):
        page.get_by_label("Search in ids and texts").fill(term)
        assert page.locator("#count").inner_text() == f"1 of {total} dialogues"
        assert page.locator(f"{SHOWN} .id").all_inner_texts() == [found]
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function(
        "([shown, total]) => document.querySelectorAll(shown).length === total", arg=[SHOWN, total]
    )


def test_sort_puts_worst_regressions_or_best_gains_first(page: Any) -> None:
    def sorted_by(label: str, value: str) -> list[float]:
        page.get_by_label("Sort").select_option(label=label)
        return page.eval_on_selector_all(SHOWN, f"all => all.map(one => +one.dataset.{value})")

    found = sorted_by("Worst regressions first", "difference")
    assert found == sorted(found) and found[0] < 0 and len(found) == report_data().scores.examples
    assert sorted_by("Best gains first", "difference") == found[::-1]
    words = [len(dialogue.split()) for dialogue in report_data().corpus.dialogues or []]
    assert sorted_by("Longest dialogue first", "words") == sorted(words, reverse=True)


def test_filters_show_the_dialogues_that_their_labels_say(page: Any) -> None:
    unknown = report_data().scores.systems["tuned"].mistakes["unknown_name"] or 0
    mistake = page.get_by_label("Mistake", exact=True)
    mistake.select_option(label=f"tuned: unknown name ({unknown})")
    assert page.locator(SHOWN).count() == unknown > 0
    mistake.select_option(label="All dialogues")
    page.get_by_label("Leaked only").check()
    assert page.locator(SHOWN).count() == (report_data().scores.leaked or 0) > 0


def test_an_example_opens_by_keyboard_and_shows_markup_as_text(page: Any) -> None:
    page.get_by_label("Search in ids and texts").fill("nasty")
    body = page.locator(f"{SHOWN} .body")
    assert not body.is_visible()
    page.locator(f"{SHOWN} summary").focus()
    page.keyboard.press("Enter")
    assert SCRIPT in body.inner_text()
    page.keyboard.press("Enter")
    assert not body.is_visible()


def test_tab_reaches_all_controls(page: Any) -> None:
    reached: list[str] = []
    while "SUMMARY" not in reached[-1:] or "search" not in reached:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert len(reached) < 60
    controls = ["search", "sort", "mistake", "leaked"]
    assert [name for name in reached if name in controls] == controls


def test_without_scripts_the_examples_still_open(browser: Any, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert not page.locator("#controls").is_visible()
    page.locator("#list summary").first.click()
    assert page.locator("#list .body").first.is_visible()
    context.close()
