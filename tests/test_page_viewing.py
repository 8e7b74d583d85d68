"""The page of a grid in a browser: turning, moving and enlarging pictures, playing an axis, and wiping."""

import time

from page_tools import PROMPTS, titled, twelve, write, write_pictures
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys

pytest_plugins = ["browser_tools"]


def touch(browser, *steps):
    """Moves fingers: each step is a list of (x, y), one for each finger; then all are lifted."""
    for kind, points in zip(["touchStart"] + ["touchMove"] * (len(steps) - 1), steps, strict=True):
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    browser.settle()


def test_pictures_are_turned_over_moved_and_enlarged(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve(), size=(64, 64))))
    browser.click("#cell-0-3")
    browser.click("#view-next")
    assert browser.find("#view-title").text == titled(PROMPTS[1]) and browser.pairs("#view-details")["seed"] == "0"
    browser.keys(Keys.PAGE_UP)
    assert browser.find("#view-title").text == titled(PROMPTS[0]) and browser.pairs("#view-details")["seed"] == "3"
    stage = browser.find("#view-stage")
    x, y = (stage.rect[side] + stage.rect[length] / 2 for side, length in (("x", "width"), ("y", "height")))
    touch(browser, [(x, y)], [(x + 40, y)], [(x + 120, y + 5)])
    assert browser.pairs("#view-details")["seed"] == "2"
    touch(browser, [(x, y)], [(x - 120, y)])
    assert browser.pairs("#view-details")["seed"] == "3"
    image = browser.find("#view-stage img")
    fitted = image.size["width"]
    touch(browser, [(x - 50, y), (x + 50, y)], [(x - 100, y), (x + 100, y)], [(x - 150, y), (x + 150, y)])
    assert 2.5 * fitted < image.size["width"] < 3.5 * fitted
    assert abs(image.rect["x"] + image.size["width"] / 2 - x) < 20  # what was between the fingers still is
    before = image.rect["x"]
    touch(browser, [(x, y)], [(x - 60, y)])
    assert abs(before - 60 - image.rect["x"]) < 3 and browser.pairs("#view-details")["seed"] == "3"
    ActionChains(browser.driver).move_to_element(stage).click_and_hold().move_by_offset(30, 0).release().perform()
    assert abs(before - 30 - image.rect["x"]) < 3
    browser.keys("0")
    ActionChains(browser.driver).scroll_from_origin(ScrollOrigin.from_element(stage), 0, -300).perform()
    browser.settle()
    assert 1.9 * fitted < image.size["width"] < 2.1 * fitted
    browser.keys(Keys.ESCAPE)
    assert browser.current() == f"{PROMPTS[0]}, seed 3"


def test_both_compared_pictures_are_enlarged_and_one_wipes_over_the_other(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve(), size=(64, 64))))
    browser.keys("c", Keys.ARROW_RIGHT, "c")
    assert browser.texts("#compare .side span") == ["seed 0", "seed 1"]
    browser.keys("+", "+")
    assert len({tuple(image.size.values()) for image in browser.all("#compare .stage img")}) == 1
    left, right = browser.all("#compare .stage")
    browser.script("arguments[0].scrollTo(70, 50)", left)
    browser.settle()
    assert browser.script("return [arguments[0].scrollLeft, arguments[0].scrollTop]", right) == [70, 50]
    browser.keys("w", "0")
    (stage,) = browser.all("#compare .stage")
    under, over = browser.all("#compare .stage img")
    assert under.rect == over.rect and under.rect["width"] <= stage.rect["width"]
    browser.script("const w = document.getElementById('wipe'); w.value = 25; w.dispatchEvent(new Event('input'))")
    assert over.value_of_css_property("clip-path") == "inset(0px 0px 0px 25%)"
    browser.press("☆ Star", "#compare .side:last-child")
    browser.keys(Keys.ESCAPE)
    assert browser.current().endswith("seed 1, starred")


def test_an_axis_plays_until_it_is_paused(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    browser.axis("seed")
    browser.click("#axis li:nth-child(2) input")  # seed 1 stays out
    browser.keys(Keys.ESCAPE)
    browser.script("document.getElementById('grid').focus()")
    browser.keys(Keys.ARROW_DOWN, Keys.ENTER)
    browser.script("""
      window.played = [];
      const note = () => played.push(document.getElementById("play-value").textContent);
      new MutationObserver(note).observe(document.getElementById("play-value"), { childList: true });
    """)
    assert browser.find("#play-axis").get_property("value") == "seed" and browser.find("#play").text == "Play"
    browser.keys(" ")
    browser.wait(lambda: len(browser.script("return played")) >= 4)
    browser.keys(" ")
    played = browser.script("return played")
    assert played[:4] == [f"seed {seed} ({i} of 3)" for seed, i in ((2, 2), (3, 3), (0, 1), (2, 2))]
    assert browser.find("#view-title").text == titled(PROMPTS[1])
    time.sleep(1)
    assert browser.script("return played") == played
    browser.script(
        "const p = document.getElementById('play-axis'); p.value = 'prompt'; p.dispatchEvent(new Event('change'))"
    )
    browser.script(
        "const p = document.getElementById('play-position'); p.value = 2; p.dispatchEvent(new Event('input'))"
    )
    assert browser.find("#view-title").text == titled(PROMPTS[2])
