"""The page of a grid in a browser: how it fills the window, what its headers say, and very many pictures."""

import pytest
from page_tools import a_line, png, titled, twelve, write, write_lines, write_pictures
from selenium.webdriver.common.keys import Keys

pytest_plugins = ["browser_tools"]

PLACES = ("in the snow by day", "by the sea at sunset", "in the desert at night", "in the forest by day")
LONG_PROMPTS = [f"A painting of an orange cat {place} in the style of {{}}" for place in PLACES]

FILLED = """
const view = document.getElementById("grid").getBoundingClientRect();
const tiles = [...document.querySelectorAll(".tile")].map((tile) => tile.getBoundingClientRect());
return [(Math.max(...tiles.map((tile) => tile.right)) - view.left) / view.width,
  (Math.max(...tiles.map((tile) => tile.bottom)) - view.top) / view.height];
"""


CUT = """
const isCut = (node) => node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1;
const texts = [...document.querySelectorAll(".corner span, .labels, .labels span")];
return texts.filter(isCut).map((node) => node.textContent);
"""


def unpainted(folder, *shape):
    """A page of prompts with so many seeds each, none of which is painted."""
    count, seeds = shape
    write_lines(
        folder,
        [
            a_line(f"{prompt} no {i}", seed)
            for i, prompt in enumerate((LONG_PROMPTS * count)[:count])
            for seed in range(seeds)
        ],
    )
    return write(folder)


# The first view


@pytest.mark.parametrize(
    ("shape", "window", "whole"),
    [
        ((3, 4), (2560, 1440), True),
        ((4, 72), (2560, 1440), True),
        ((72, 4), (2560, 1440), True),
        ((30, 2), (740, 360), False),
    ],
)
def test_the_first_view_fills_the_window(tmp_path, browser, shape, window, whole):
    browser.resize(*window)
    browser.open(unpainted(tmp_path, *shape))
    assert min(browser.script(FILLED)) > 0.75
    assert browser.script("return grid.root.scrollHeight <= grid.root.clientHeight") == whole
    if whole:
        assert len(browser.all(".tile")) == shape[0] * shape[1]


def test_ten_thousand_pictures_in_four_rows_fill_the_window_and_break_into_bands(tmp_path, browser):
    browser.resize(2560, 1440)
    browser.open(unpainted(tmp_path, 4, 2520))
    assert browser.count() == "10,080 pictures, 10,080 failed"
    assert min(browser.script(FILLED)) > 0.9
    columns = browser.script("return grid.geometry.columns")
    assert browser.texts(".band:first-child [role=columnheader]") == [str(seed) for seed in range(columns)]
    assert browser.texts(".band:nth-child(2) [role=columnheader]")[0] == str(columns)
    assert len(browser.texts(".band:first-child [role=rowheader]")) == 4
    browser.keys(*[Keys.ARROW_RIGHT] * columns)
    assert browser.current().startswith(f"{LONG_PROMPTS[0]} no 0, seed {columns}:")
    browser.keys(Keys.ARROW_UP)
    assert browser.current().startswith(f"{LONG_PROMPTS[3]} no 3, seed 0:")
    browser.keys(Keys.END)
    assert browser.current().startswith(f"{LONG_PROMPTS[3]} no 3, seed 2519:")
    assert browser.find(".tile.current").is_displayed()
    assert browser.script("return document.querySelectorAll('*').length") < 2500


def test_bands_are_about_as_long_as_each_other_and_divide_no_value_of_the_outer_axis(tmp_path, browser):
    lines = [a_line(prompt, seed, style) for prompt in LONG_PROMPTS[:2] for seed in range(6) for style in ("a", "b")]
    browser.open(write(write_pictures(tmp_path, lines)))
    browser.axis("seed")
    browser.press("Make it the outermost")
    browser.keys(Keys.ESCAPE)
    browser.size(100)
    assert browser.script("return [grid.geometry.bands, grid.geometry.columns]") == [2, 6]


def test_tiles_fit_the_window_until_the_user_chooses_a_size(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    fitted = browser.find("canvas").size
    browser.resize(800, 600)
    assert browser.find("canvas").size["width"] < fitted["width"]
    browser.size(300)
    browser.resize(1200, 800)
    assert browser.find("canvas").size["width"] == 300
    browser.click("#fit")
    assert browser.find("canvas").size == fitted


@pytest.mark.parametrize("shape", [(4, 4), (12, 3), (1, 5)])
def test_a_small_grid_fills_the_width_of_a_phone(tmp_path, browser, shape):
    browser.resize(390, 844)
    browser.open(unpainted(tmp_path, *shape))
    assert browser.script(FILLED)[0] > 0.9
    assert browser.script("return grid.root.scrollWidth <= grid.root.clientWidth")


# Headers


def test_headers_leave_out_what_all_values_share(tmp_path, browser):
    lines = [a_line(prompt, seed) for prompt in LONG_PROMPTS for seed in (0, 1)]
    browser.open(write(write_pictures(tmp_path, lines)))
    assert browser.texts("[role=rowheader]") == list(PLACES)
    assert browser.pairs("#shared")["prompt"] == "A painting of an orange cat … in the style of gogh"
    assert browser.current() == f"{LONG_PROMPTS[0]}, seed 0"
    browser.keys(Keys.ENTER)
    assert browser.find("#view-title").text == titled(LONG_PROMPTS[0])


def test_small_tiles_have_all_labels_whole(tmp_path, browser):
    """Four axes of the rows side by side, upright texts over narrow columns, and all names in the corner."""
    lines = [
        a_line(prompt, seed, style, scales={"style_scale": scale})
        for prompt in LONG_PROMPTS[:2] for style in ("sunflowers", "gogh") for seed in (0, 1) for scale in (0.5, 1)
    ]  # fmt: skip
    browser.open(write(write_pictures(tmp_path, lines)))
    browser.script(
        "places.rows = [...places.rows, ...places.columns]; places.columns = [places.rows.shift()]; update()"
    )
    browser.size(32)
    rows = browser.texts("[role=rowheader]")
    assert rows[:2] == ["sunflowers00.5", "sunflowers01"] and len(rows) == 8
    words = {word for place in PLACES[:2] for word in place.split()}
    assert {word for text in browser.texts("[role=columnheader]") for word in text.split()} == words
    assert browser.script(CUT) == []
    assert set(browser.texts(".corner span")) == {"prompt", "style", "seed", "style scale"}


@pytest.mark.parametrize("window", [(360, 640), (740, 360), (640, 360)])
def test_in_a_small_window_the_header_is_small_and_the_axes_are_named(tmp_path, browser, window):
    """The last one is a window of 1280 x 720 at a zoom of 200 %."""
    browser.resize(*window)
    browser.open(write(write_pictures(tmp_path, twelve())))
    assert browser.find("header").size["height"] < window[1] / 6
    names = {node.text for node in browser.all(".corner span") if node.is_displayed()}
    assert names == {"prompt", "seed"}
    assert not browser.find("#fit").is_displayed()
    browser.click("#menu")
    browser.axis("seed")
    browser.press("Only 3")
    browser.keys(Keys.ESCAPE)
    browser.click("#menu")
    assert browser.count() == "3 of 12 pictures" and not browser.find("#fit").is_displayed()


# Very many pictures


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory):
    """50 prompts in 4 styles with 50 seeds, each a picture of 4 x 4 pixels."""
    folder = tmp_path_factory.mktemp("many")
    names = [
        (f"Prompt {p} {{}}", seed, style) for p in range(50) for style in ("a", "b", "c", "d") for seed in range(50)
    ]
    lines = [a_line(*name) for name in names]
    write_lines(folder, lines)
    (folder / "images").mkdir()
    shades = [png((10, 120, 200 - i), (4, 4)) for i in range(40)]
    for i, line in enumerate(lines):
        (folder / line["file"]).write_bytes(shades[i // 256])
    return write(folder)


def test_a_page_of_ten_thousand_pictures_keeps_few_elements_and_loads_few_atlases(ten_thousand, browser):
    atlases = len(list((ten_thousand.parent / "atlas").iterdir()))
    assert atlases == 40
    browser.open(ten_thousand)
    assert browser.count() == "10,000 pictures"
    assert len([url for url in set(browser.requests()) if "/atlas/" in url]) < 8

    def has_few_elements():
        return browser.script("return document.querySelectorAll('*').length") < 1500

    assert has_few_elements()
    browser.script("const g = document.getElementById('grid'); g.scrollTo(g.scrollWidth, g.scrollHeight)")
    browser.wait(lambda: browser.all("#cell-49-199"))
    assert has_few_elements() and not browser.all("#cell-0-0")
    assert browser.find("#cell-49-199").get_attribute("aria-label") == "Prompt 49 {}, style d, seed 49"
    browser.is_coloured(browser.find("#cell-49-199 canvas"), (10, 120, 161))
    for top in range(0, 6000, 500):
        browser.script("document.getElementById('grid').scrollTo(9000, arguments[0])", top)
        browser.settle()
        assert has_few_elements()
    browser.chord(Keys.CONTROL, Keys.HOME)
    assert browser.current() == "Prompt 0 {}, style a, seed 0" and browser.find(".tile.current").is_displayed()


def test_a_flow_of_ten_thousand_pictures_keeps_few_elements(ten_thousand, browser):
    browser.open(ten_thousand)
    browser.axis("prompt")
    browser.choose("place", "columns")
    browser.keys(Keys.ESCAPE)
    browser.size(128)
    browser.script("document.getElementById('grid').focus()")
    browser.chord(Keys.CONTROL, Keys.END)
    assert browser.current() == "style d, seed 49, Prompt 49 {}"
    assert browser.script("return document.querySelectorAll('*').length") < 1500
    grid = browser.find("#grid")
    assert grid.get_attribute("aria-colcount") == "8" and grid.get_attribute("aria-rowcount") == "1250"
