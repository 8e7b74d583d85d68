"""The page of a grid in a browser while the grid is painted: pictures appear, and nothing else changes."""

import time

import pytest
from page_tools import PROMPTS, a_line, data_of, png, twelve, write, write_lines, write_pictures
from selenium.webdriver.common.keys import Keys

from dreamstyler_jax.grids.page import NOT_YET

pytest_plugins = ["browser_tools"]


def write_unfinished(folder, lines, painted, state="painting", pause=0.1, at=None, **more):
    """Writes the page of a grid of which the pictures with these numbers are painted."""
    write_pictures(folder, lines)
    now = [line if i in painted else waiting(line) for i, line in enumerate(lines)]
    write_lines(folder, now)
    progress = {"state": state, "at": at or time.time(), "left": 754.2, "pause": pause}
    return write(folder, progress=progress, trust=True, **more)


def waiting(line):
    return {name: value for name, value in line.items() if name not in ("file", "sha256")} | {"error": NOT_YET}


def progress(browser):
    return browser.texts("#live span")[0]


def states(browser):
    names = ("waiting", "failed", "missing")
    tiles = browser.script("return [...document.querySelectorAll('[role=gridcell]')].map(n => n.className)")
    return [next((name for name in names if name in tile), "painted") for tile in tiles]


def test_pictures_that_are_still_to_be_painted_are_shown_as_such(tmp_path, browser):
    lines = twelve()
    lines[1]["error"] = "NaN"
    browser.open(write_unfinished(tmp_path, lines, {0, 1, 2}, state="stopped"))
    assert states(browser) == ["painted", "failed", "painted"] + ["waiting"] * 9
    assert browser.count() == "12 pictures, 1 failed"
    assert progress(browser).startswith("2 of 12 painted; stopped at ")
    assert browser.find("#cell-0-3").get_attribute("aria-label") == f"{PROMPTS[0]}, seed 3: not yet painted"
    browser.click("#cell-0-3")
    assert browser.find("#view-stage").text == "Not yet painted" and not browser.all("#view .error")
    browser.keys(Keys.ESCAPE)
    browser.axis("state")
    assert browser.texts("#axis li .number") == ["2", "1", "9"]
    browser.press("Only painted")
    assert browser.count() == "2 of 12 pictures"


def test_new_pictures_appear_and_nothing_else_changes(tmp_path, browser):
    lines = [a_line(prompt, seed) for prompt in PROMPTS for seed in range(40)]
    browser.open(write_unfinished(tmp_path, lines, {0}))
    assert "1 of 120 painted, 12:34 left" in progress(browser)
    browser.script("setSize(128); window.marker = 1; grid.root.scrollLeft = 2000")
    browser.keys(*[Keys.ARROW_RIGHT] * 5)
    browser.click("#cell-0-2")
    assert browser.find("#view-stage").text == "Not yet painted"
    browser.script("window.first = document.querySelector('#cell-0-0')")
    write_unfinished(tmp_path, lines, {0, 2, 41, 43})
    browser.wait(lambda: "4 of 120 painted" in progress(browser))
    assert browser.find("#view-stage img").is_displayed(), "the picture that is open was painted"
    browser.keys(Keys.ESCAPE)
    assert browser.script("return window.marker") == 1, "nothing was reloaded"
    assert browser.script("return window.first === document.querySelector('#cell-0-0')"), "nor made again"
    assert states(browser)[:4] == ["painted", "waiting", "painted", "waiting"]
    assert browser.current() == f"{PROMPTS[0]}, seed 2"
    browser.script("grid.root.scrollLeft = 2000")
    write_unfinished(tmp_path, lines, set(range(100)))
    browser.wait(lambda: "100 of 120 painted" in progress(browser))
    assert browser.script("return grid.root.scrollLeft") == 2000
    write_unfinished(tmp_path, lines, {*range(120)} - {7})
    browser.axis("state")
    browser.press("Only not yet painted")
    browser.wait(lambda: browser.count() == "1 of 120 pictures")
    write_pictures(tmp_path, lines)
    write(tmp_path)
    browser.wait(lambda: progress(browser) == "Finished" and browser.count() == "0 of 120 pictures")
    assert not browser.all("iframe")
    browser.requests()
    time.sleep(0.5)
    assert not browser.requests(), "it does not look any more"


def test_only_a_page_whose_painting_goes_on_offers_to_pause(tmp_path, browser):
    browser.open(write_unfinished(tmp_path, twelve(), {0}))
    assert browser.find("#live button").is_displayed()
    write_unfinished(tmp_path, twelve(), {0, 1}, state="stopped")
    browser.wait(lambda: "stopped" in progress(browser))
    assert not browser.find("#live button").is_displayed()
    write_unfinished(tmp_path, twelve(), {0, 1, 2})
    browser.wait(lambda: browser.find("#live button").is_displayed())
    write_pictures(tmp_path, twelve())
    write(tmp_path)
    browser.wait(lambda: progress(browser) == "Finished")
    assert not browser.find("#live button").is_displayed()


def test_tiles_of_new_pictures_show_them(tmp_path, browser):
    lines = twelve()
    browser.open(write_unfinished(tmp_path, lines, {0}))
    write_unfinished(tmp_path, lines, {0, 5})
    tile = browser.wait(lambda: browser.all("#cell-1-1 canvas"))[0]
    browser.is_coloured(tile, (5 * 51, 0, 0))
    browser.is_coloured(browser.find("#cell-0-0 canvas"), (0, 0, 0))


def test_a_page_looks_less_often_while_nothing_is_new_and_not_at_all_if_it_is_told_to(tmp_path, browser):
    browser.open(write_unfinished(tmp_path, twelve(), {0}, pause=0.05))
    browser.wait(lambda: browser.script("return live.pause") >= 0.4)
    assert [url for url in browser.requests() if "?news=" in url]
    write_unfinished(tmp_path, twelve(), {0, 1}, pause=0.05)
    browser.wait(lambda: "2 of 12 painted" in progress(browser) and browser.script("return live.pause") < 0.4)
    browser.press("Pause updates", within="#live")
    browser.wait(lambda: not browser.script("return live.frame"))
    write_unfinished(tmp_path, twelve(), {0, 1, 2}, pause=0.05)
    browser.requests()
    time.sleep(0.3)
    assert not browser.requests() and "2 of 12" in progress(browser)
    browser.press("Go on", within="#live")
    browser.wait(lambda: "3 of 12 painted" in progress(browser))


def test_a_page_takes_no_news_of_another_grid(tmp_path, browser):
    browser.open(write_unfinished(tmp_path, twelve(), {0}))
    write_unfinished(tmp_path, [*twelve(), a_line(seed=9)], {0, 1})
    browser.wait(lambda: browser.texts("#live") == ["This is the page of an earlier grid: reload it."])
    assert states(browser).count("painted") == 1


def test_the_data_go_only_to_a_page_that_knows_the_grid(tmp_path, browser):
    page = write_unfinished(tmp_path, twelve(), {0}, state="stopped", pause=300)
    frames = "".join(f"<iframe src='{page.name}?news={key}'></iframe>" for key in ("guess", data_of(tmp_path)["grid"]))
    (tmp_path / "spy.html").write_text(f"<script>got = []; onmessage = (e) => got.push(e.data)</script>{frames}")
    browser.driver.get((tmp_path / "spy.html").as_uri())
    got = browser.wait(lambda: (found := browser.script("return got")) and len(found) == 2 and found)
    assert sorted(len(answer) for answer in got) == [0, 4]


@pytest.mark.parametrize("painted", [{0}, set()])
def test_thumbnails_that_are_gone_are_replaced_by_the_pictures(tmp_path, browser, painted):
    """The page on the disk was written again, and its old atlases were removed."""
    lines = [{**line, "width": 128, "height": 128} for line in twelve()]  # as large as tiles, which are not sharpened
    path = write_unfinished(tmp_path, lines, painted, pause=300)
    for atlas in (tmp_path / "atlas").glob("*"):
        atlas.unlink()
    (tmp_path / lines[0]["file"]).write_bytes(png((0, 200, 0), (128, 128)))
    browser.open(path)
    for tile in browser.all("#cell-0-0 canvas"):
        browser.is_coloured(tile, (0, 200, 0))
    assert len(browser.all("canvas")) == len(painted)
    assert all("ERR_FILE_NOT_FOUND" in complaint for complaint in browser.complaints())
