"""Scores on the page of a grid in a browser: marks on tiles, the order of axes, the range that is shown."""

import re

import pytest
from page_tools import PROMPTS, png, shade, twelve, write, write_pictures, write_scores
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

pytest_plugins = ["browser_tools"]

# of each prompt, and of its seeds: those of the last prompt are the highest
TEXT = [20.0 + 10 * (i // 4) + (3, 0, 1, 2)[i % 4] for i in range(12)]


@pytest.fixture
def page(tmp_path, browser):
    """The page of twelve pictures with scores, the last of which was painted again after that."""
    lines = twelve()
    folder = write_pictures(tmp_path, lines)
    write_scores(
        folder, lines, *({"text": score, "lpips": None if i == 1 else i / 100} for i, score in enumerate(TEXT))
    )
    (folder / lines[11]["file"]).write_bytes(png("red"))
    return browser.open(write(folder))


def choose(browser, name):
    Select(browser.find("#scores select")).select_by_visible_text(name)
    browser.settle()


def limit(browser, word, value):
    field = browser.find(f"#scores input[aria-label$='{word}']")
    field.clear()
    field.send_keys(value, Keys.ENTER)
    browser.settle()


def badges(browser):
    return browser.texts(".tile .score")


def test_a_page_without_scores_has_no_controls_for_them(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    assert not browser.find("#scores").is_displayed()


def test_a_score_marks_the_tiles_of_the_pictures_that_were_scored(page):
    assert [o.text for o in Select(page.find("#scores select")).options] == ["none", "text", "lpips"]
    assert not badges(page) and not page.all(".scored")
    choose(page, "text")
    assert badges(page) == [f"{score:.1f}" for score in TEXT[:11]]
    assert page.find("#cell-0-1").get_attribute("aria-label") == f"{PROMPTS[0]}, seed 1, text 20.0"
    assert page.find("#cell-2-3").get_attribute("aria-label") == f"{PROMPTS[2]}, seed 3"
    colour = "return getComputedStyle(document.querySelector(arguments[0])).outlineColor"
    share = "return document.querySelector(arguments[0]).style.getPropertyValue('--score')"
    places = [f"#cell-{place} .frame" for place in ("0-1", "1-1", "2-0")]
    assert [page.script(share, place) for place in places][::2] == ["0%", "100%"]
    assert len({page.script(colour, place) for place in places}) == 3
    assert page.find("#scores input").get_attribute("placeholder") == "20.0"
    choose(page, "lpips")
    assert badges(page)[:3] == ["0.000", "0.020", "0.030"]
    page.script("setSize(32)")
    assert len(page.all(".scored")) == 10 and not badges(page), "no room for numbers"
    choose(page, "none")
    assert not page.all(".scored")


def test_choosing_a_score_moves_nothing(page):
    places = "return [...document.querySelectorAll('.tile')].map((tile) => tile.getBoundingClientRect().toJSON())"
    before = page.script(places)
    choose(page, "text")
    assert page.script(places) == before and page.find("#scores input").is_displayed()
    width = page.find("[data-axis=seed]").size["width"]
    page.axis("seed")
    page.choose("order", "highest score")
    assert page.find("[data-axis=seed] .arrow").is_displayed() and page.find("[data-axis=seed]").size["width"] == width


def test_axes_are_sorted_by_the_mean_score_of_what_is_shown(page):
    choose(page, "text")
    page.axis("prompt")
    page.choose("order", "highest score")
    assert page.texts("[role=rowheader]") == PROMPTS[::-1]
    page.keys(Keys.ESCAPE)
    page.axis("seed")
    page.choose("order", "lowest score")
    assert page.texts("[role=columnheader]") == ["3", "1", "2", "0"], "the best of seed 3 is without a score"
    page.keys(Keys.ESCAPE)
    page.axis("prompt")
    page.press(f"Only {PROMPTS[2]}")
    page.keys(Keys.ESCAPE)
    assert page.texts("[role=columnheader]") == ["1", "2", "0", "3"], "of what is shown"
    choose(page, "none")
    assert page.texts("[role=columnheader]") == ["0", "1", "2", "3"]
    assert page.find("[data-axis=seed]").text.split("\n") == ["seed", "4"]


def test_pictures_are_filtered_by_the_range_of_a_score(page):
    choose(page, "text")
    limit(page, "from", "31")
    assert page.count() == "6 of 12 pictures"
    limit(page, "to", "33")
    assert page.count() == "3 of 12 pictures" and badges(page) == ["33.0", "31.0", "32.0"]
    page.driver.refresh()
    page.settle()
    assert page.count() == "3 of 12 pictures" and badges(page) == ["33.0", "31.0", "32.0"]
    assert [field.get_attribute("value") for field in page.all("#scores input")] == ["31", "33"]
    limit(page, "from", "99")
    assert page.count() == "0 of 12 pictures"
    page.click("#clear")
    assert page.count() == "12 pictures" and len(badges(page)) == 11
    limit(page, "from", "31")
    page.click("#reset")
    assert page.count() == "12 pictures"


def test_the_dialogs_show_all_scores(page):
    page.keys(Keys.ARROW_RIGHT, Keys.ENTER)
    shown = page.pairs("#view-details")
    assert shown["text"] == "20.0" and "lpips" not in shown
    page.keys(Keys.ESCAPE)
    page.keys("c", Keys.ARROW_RIGHT, "c")
    rows = [row.text for row in page.all("#compare tbody tr")]
    assert rows == ["seed 1 2", "text 20.0 21.0", "lpips \N{EN DASH} 0.020"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_can_be_told_apart_in_both_colour_schemes(page, scheme):
    page.scheme(scheme)
    choose(page, "text")
    assert page.is_coloured(page.find("#cell-1-1 canvas"), shade(5)), "the mark leaves the picture free"
    badge = page.find(".tile .score")
    ink, ground = (badge.value_of_css_property(name) for name in ("color", "background-color"))
    assert contrast(ink, ground) >= 4.5
    for control in page.all("#scores select, #scores input"):
        assert control.accessible_name


def contrast(*colours):
    values = []
    for colour in colours:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        values.append(sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    low, high = sorted(values)
    return (high + 0.05) / (low + 0.05)
