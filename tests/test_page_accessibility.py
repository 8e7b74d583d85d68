"""What axe, the usual checker of accessibility, finds on the page of a grid: nothing, in both colour schemes."""

import importlib.util
from pathlib import Path

import pytest
from page_tools import twelve, write, write_pictures
from PIL import Image
from selenium.webdriver.common.keys import Keys

pytest_plugins = ["browser_tools"]

RUN = """
const done = arguments[0];
const list = ({ id, nodes }) => [id, ...nodes.map(({ html, failureSummary }) => `${html}: ${failureSummary}`)];
axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => done(violations.map(list)));
"""


def axe_script():
    """The script of axe, which comes with a package for another driver of browsers."""
    found = importlib.util.find_spec("axe_playwright_python")
    assert found and found.origin, "these tests need axe: pip install axe-playwright-python"
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(tmp_path, browser, scheme):
    lines = twelve()
    lines[1]["error"] = "NaN"
    picture = Image.new("RGB", (20, 20), "red")
    browser.scheme(scheme)
    browser.open(write(write_pictures(tmp_path, lines, size=(64, 64)), style_pictures=[("gogh", picture)]))
    browser.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe_script()})
    found = {}

    def check(name):
        found[name] = browser.driver.execute_async_script(RUN)

    browser.keys("s")
    check("grid")
    browser.axis("seed")
    check("axis")
    browser.keys(Keys.ESCAPE)
    browser.script("document.getElementById('grid').focus()")
    for name, key in [("help", "?"), ("export", "e"), ("view", Keys.ENTER)]:
        browser.keys(key)
        check(name)
        browser.keys(Keys.ESCAPE)
    browser.keys("c", Keys.ARROW_DOWN, "c")
    check("compare")
    browser.keys("w", "+", "+")
    check("wipe")
    browser.keys(Keys.ESCAPE)
    browser.resize(360, 640)
    browser.click("#menu")
    check("menu")
    assert not any(found.values()), found
