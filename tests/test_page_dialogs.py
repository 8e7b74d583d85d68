"""The page of a grid in a browser: its dialogs, its keys, and access for everyone."""

import re

import pytest
from page_tools import PROMPTS, a_line, shade, style_hash, titled, twelve, write, write_pictures
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytest_plugins = ["browser_tools"]


# One picture


def test_the_slider_and_the_keys_change_the_size_of_tiles(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve()))).size(128)
    assert browser.find("canvas").size == {"width": 128, "height": 128}
    browser.script("const s = document.getElementById('size'); s.value = 64; s.dispatchEvent(new Event('input'))")
    assert browser.find("canvas").size == {"width": 64, "height": 64}
    assert browser.find("#cell-1-0").location["y"] - browser.find("#cell-0-0").location["y"] < 80
    browser.keys("+")
    assert browser.find("canvas").size == {"width": 80, "height": 80}
    browser.keys("-", "-")
    assert browser.find("canvas").size == {"width": 48, "height": 48}


def test_the_full_view_enlarges_by_whole_factors_without_smoothing(tmp_path, browser):
    folder = write_pictures(tmp_path, twelve(), size=(64, 64))
    browser.open(write(folder))
    browser.click("#cell-1-2")
    image = browser.find("#view-stage img")
    browser.wait(lambda: browser.script("return arguments[0].naturalWidth", image) == 64)
    stage = browser.find("#view-stage").size
    width = image.size["width"]
    assert width % 64 == 0 and min(stage.values()) - 24 - 64 < width <= min(stage.values()) - 24
    assert image.value_of_css_property("image-rendering") == "pixelated"
    browser.is_coloured(image, shade(6), tolerance=0)
    browser.keys("+")
    assert image.size["width"] > width
    browser.keys("0")
    assert image.size["width"] == width
    browser.keys(*"-" * 12)
    assert image.size["width"] == 8 and browser.find("#view-zoom").text == "13 %"
    browser.click("#view-fit")
    assert image.size["width"] == width


def test_a_large_picture_is_reduced_smoothly(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, [a_line(seed=0), a_line(seed=1)], size=(1600, 1200))))
    browser.keys(Keys.ENTER)
    image, stage = browser.find("#view-stage img"), browser.find("#view-stage").size
    assert image.size["width"] <= stage["width"] and image.size["height"] <= stage["height"]
    assert abs(image.size["width"] / image.size["height"] - 4 / 3) < 0.02
    assert image.value_of_css_property("image-rendering") == "auto"


def test_the_full_view_shows_every_parameter_and_the_command(tmp_path, browser):
    lines = [a_line(seed=seed, seconds=seed / 8, command=f"paint --seed {seed} 'a  b'") for seed in range(3)]
    browser.open(write(write_pictures(tmp_path, lines)))
    browser.keys(Keys.ARROW_RIGHT, Keys.ENTER)
    assert browser.find("#view-title").text == titled(PROMPTS[0])
    shown = browser.pairs("#view-details")
    assert shown == {
        "seed": "1", "seconds": "0.125", "model": "mini", "guidance": "paper, null scale 5, style scale 1",
        "solver": "dpmpp_2m", "steps": "25", "dtype": "float32", "style": "gogh", "styles": f"gogh {style_hash()}",
        "model hash": "ba9876543210", "id": lines[1]["id"],
        "size": "8 \N{MULTIPLICATION SIGN} 8 pixels", "file": lines[1]["file"],
    }  # fmt: skip
    assert browser.texts("#view code") == ["paint --seed 1 'a  b'"]
    assert browser.find("#view dd a").get_attribute("href") == (tmp_path / lines[1]["file"]).as_uri()


def test_the_command_can_be_copied(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    browser.keys(Keys.ARROW_RIGHT, Keys.ENTER)
    browser.click("#view .copy")
    browser.wait(lambda: browser.find("#view .copy").text == "Copied")
    browser.click("#view-note")
    browser.chord(Keys.CONTROL, "v")
    assert browser.find("#view-note").get_property("value") == twelve()[1]["command"]


def test_the_training_picture_of_a_style_is_shown_with_the_style(tmp_path, browser):
    lines = [a_line(prompt, 0, style) for prompt in PROMPTS for style in ("gogh", "monet")]
    pictures = {"gogh": Image.new("RGB", (1200, 600), (200, 30, 60))}
    browser.open(write(write_pictures(tmp_path / "out", lines), style_pictures=pictures.items()))
    browser.is_coloured(browser.find("[role=columnheader] img"), (200, 30, 60))
    assert len(browser.all("[role=columnheader] img")) == 1
    browser.keys(Keys.ENTER)
    image = browser.find("#view figure img")
    browser.is_coloured(image, (200, 30, 60))
    assert browser.script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image) == [512, 256]
    assert browser.find("#view figcaption").text == "Training picture of the style gogh"
    browser.keys(Keys.ARROW_RIGHT)
    assert browser.pairs("#view-details")["style"] == "monet" and not browser.all("#view figure")


def test_a_mix_shows_the_training_pictures_of_all_its_styles(tmp_path, browser):
    lines = [
        a_line(prompt, 0, style) for prompt in ("A house {}", "A dog {}") for style in ("gogh:5-3,monet:2-0", "monet")
    ]
    colours = {"gogh": "red", "monet": "blue", "house": "lime"}
    pictures = {name: Image.new("RGB", (20, 20), colour) for name, colour in colours.items()}
    browser.open(write(write_pictures(tmp_path / "out", lines), style_pictures=pictures.items()))
    assert len(browser.all("[role=columnheader]:first-child img")) == 2
    assert not browser.all("[role=rowheader] img")  # although a prompt holds the name of a style
    browser.keys(Keys.ENTER)
    assert browser.texts("#view figcaption b") == ["gogh", "monet"]


# Two pictures


def test_two_pictures_are_compared_side_by_side(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve(), size=(64, 64))))
    browser.keys(Keys.ARROW_DOWN, "c")
    assert browser.find("#cell-1-0 .badge").text == "A"
    assert "Now choose the other" in browser.find("#picking").text
    browser.keys(Keys.ARROW_RIGHT, "c")
    left, right = browser.all("#compare .stage img")
    browser.is_coloured(left, shade(4)), browser.is_coloured(right, shade(5))
    assert left.size == right.size and left.size["width"] % 64 == 0 and left.location["x"] < right.location["x"]
    assert browser.texts("#compare tbody tr") == ["seed01"]
    same = browser.pairs("#compare details")
    assert same["prompt"] == titled(PROMPTS[1]) and same["solver"] == "dpmpp_2m" and "seed" not in same
    browser.keys("x")
    assert browser.texts("#compare tbody tr") == ["seed10"]
    browser.keys(Keys.ARROW_UP)  # from the right picture, which now has seed 0
    assert browser.texts("#compare tbody tr") == [f"prompt{titled(PROMPTS[1])}{titled(PROMPTS[0])}", "seed10"]
    browser.keys(Keys.ESCAPE)
    assert not browser.find("#compare").is_displayed() and not browser.all(".tile .badge")


def test_comparison_by_mouse_and_from_the_full_view(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    browser.click("#cell-0-1")
    browser.click("#view-compare")
    assert not browser.find("#view").is_displayed()
    browser.click("#cell-2-1")
    assert browser.texts("#compare tbody tr") == [f"prompt{titled(PROMPTS[0])}{titled(PROMPTS[2])}"]
    browser.press("Details", "#compare .side:last-child")
    assert browser.find("#view-title").text == titled(PROMPTS[2])
    browser.keys(Keys.ESCAPE)
    for tile in ("#cell-1-1", "#cell-1-3"):
        ActionChains(browser.driver).key_down(Keys.SHIFT).click(browser.find(tile)).key_up(Keys.SHIFT).perform()
    assert browser.texts("#compare tbody tr") == ["seed13"]
    browser.keys(Keys.ESCAPE)
    browser.keys("c")
    assert browser.find("#picking").is_displayed()
    browser.click("#picking-cancel")
    assert not browser.find("#picking").is_displayed()


# Keys


def test_keys_move_the_cursor_open_and_close(tmp_path, browser):
    lines = [a_line(prompt, seed) for prompt in PROMPTS for seed in range(40)]
    browser.open(write(write_pictures(tmp_path, lines))).size(256)  # so that the columns do not break
    assert browser.current() == f"{PROMPTS[0]}, seed 0"
    assert browser.find(".tile.current .frame").value_of_css_property("box-shadow") == "none", "before the first key"
    for keys, prompt, seed in [
        ([Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN], 1, 2), ([Keys.ARROW_LEFT], 1, 1), ([Keys.END], 1, 39),
        ([Keys.ARROW_RIGHT], 1, 39), ([Keys.PAGE_DOWN], 2, 39), ([Keys.HOME], 2, 0), ([Keys.ARROW_UP], 1, 0),
    ]:  # fmt: skip
        browser.keys(*keys)
        assert browser.current() == f"{PROMPTS[prompt]}, seed {seed}"
    browser.chord(Keys.CONTROL, Keys.END)
    assert browser.current() == f"{PROMPTS[2]}, seed 39"
    tile, grid = browser.find(".tile.current").rect, browser.find("#grid").rect
    assert grid["x"] <= tile["x"] and tile["x"] + tile["width"] <= grid["x"] + grid["width"]  # it scrolled into view
    browser.keys(Keys.ENTER)
    assert browser.pairs("#view-details")["seed"] == "39"
    browser.keys(Keys.ARROW_LEFT, Keys.ARROW_UP)
    assert browser.pairs("#view-details")["seed"] == "38" and browser.find("#view-title").text == titled(PROMPTS[1])
    browser.keys(Keys.ESCAPE)
    assert browser.driver.switch_to.active_element.get_attribute("id") == "grid"
    assert browser.current() == f"{PROMPTS[1]}, seed 38"
    browser.keys("t")
    assert browser.texts("[role=columnheader]") == PROMPTS and browser.current() == f"seed 38, {PROMPTS[1]}"
    browser.keys("?")
    assert "compare" in browser.find("#help").text
    browser.keys(Keys.ESCAPE)
    assert not browser.find("#help").is_displayed()


def test_the_tab_key_reaches_every_control_and_the_focus_is_visible(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    browser.keys(Keys.ARROW_RIGHT)
    ringed = browser.find(".tile.current .frame").value_of_css_property("box-shadow")
    seen = []
    browser.script("document.querySelector('#shared summary').focus()")
    for _ in range(11):
        browser.keys(Keys.TAB)
        element = browser.driver.switch_to.active_element
        seen.append(element.get_attribute("id") or element.get_attribute("data-axis") or element.tag_name)
        if element.get_attribute("id") != "grid":
            assert element.value_of_css_property("outline-style") != "none", seen
    tools = ["size", "fit", "transpose", "reset", "starred", "export-button", "theme", "help-button"]
    assert seen == ["prompt", "seed", *tools, "grid"]
    browser.script("document.activeElement.blur()")
    assert browser.find(".tile.current .frame").value_of_css_property("box-shadow") != ringed
    browser.find('[data-axis="seed"]').send_keys(Keys.ENTER)
    browser.wait(lambda: browser.find("#axis").is_displayed())
    browser.keys(Keys.ESCAPE)
    assert browser.driver.switch_to.active_element.get_attribute("data-axis") == "seed"


# Accessibility


def test_elements_have_the_roles_and_names_of_a_grid(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    grid = browser.find("[role=grid]")
    assert grid.get_attribute("aria-rowcount") == "4" and grid.get_attribute("aria-colcount") == "5"
    cell = browser.find("#cell-1-2")
    assert cell.get_attribute("aria-colindex") == "4"
    assert cell.find_element(By.XPATH, "..").get_attribute("aria-rowindex") == "3"
    assert browser.find("[role=columnheader]").get_attribute("aria-colindex") == "2"
    for control in browser.all("button, input"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    assert browser.find("#count").aria_role == "status" and browser.find("html").get_attribute("lang") == "en"
    browser.keys(Keys.ENTER)
    assert browser.find("#view").accessible_name == titled(PROMPTS[0])
    assert browser.find("#view-stage img").get_attribute("alt") == f"{titled(PROMPTS[0])}, seed 0"


def luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


CONTRAST = """
const isVisible = (n) => n.checkVisibility() && [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
const backgroundOf = (n) => {
  for (; n; n = n.parentElement) {
    const colour = getComputedStyle(n).backgroundColor;
    if (colour !== 'rgba(0, 0, 0, 0)') return colour;
  }
};
return [...document.querySelectorAll('body *')].filter(isVisible)
  .map((n) => [n.textContent.slice(0, 40), getComputedStyle(n).color, backgroundOf(n)]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast_in_both_colour_schemes(tmp_path, browser, scheme):
    lines = twelve()
    lines[1]["error"] = "NaN"
    browser.scheme(scheme)
    browser.open(write(write_pictures(tmp_path, lines)))
    dark = luminance(browser.find("body").value_of_css_property("background-color")) < 0.1
    assert dark == (scheme == "dark")
    browser.axis("seed")
    found = browser.script(CONTRAST)
    browser.keys(Keys.ESCAPE)
    browser.script("document.getElementById('grid').focus()")
    browser.keys(Keys.ARROW_RIGHT, Keys.ENTER)
    found += browser.script(CONTRAST)
    browser.keys("c", Keys.ARROW_DOWN, "c")
    found += browser.script(CONTRAST)
    assert len(found) > 60
    for text, colour, background in found:
        low, high = sorted([luminance(colour), luminance(background)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, colour, background)


@pytest.mark.parametrize("size", [(360, 640, 2), (820, 500, 1), (2560, 1440, 1)])
def test_the_page_fits_windows_of_any_size(tmp_path, browser, size):
    browser.resize(*size)
    browser.open(write(write_pictures(tmp_path, twelve())))
    assert browser.script("return document.documentElement.scrollWidth") <= size[0]
    assert browser.find("#grid").size["height"] > 0.4 * size[1]
    for button in browser.all("header button"):
        assert button.rect["x"] >= 0 and button.rect["x"] + button.rect["width"] <= size[0]
    browser.keys(Keys.ENTER)
    stage, image = browser.find("#view-stage").rect, browser.find("#view-stage img").rect
    assert image["x"] >= stage["x"] and image["x"] + image["width"] <= stage["x"] + stage["width"]
    browser.keys("c", Keys.ARROW_RIGHT, "c")
    stages = browser.all("#compare .stage")
    for stage, image in zip(stages, browser.all("#compare img"), strict=True):
        assert image.rect["width"] <= stage.rect["width"] <= size[0]
    assert (stages[0].rect["y"] < stages[1].rect["y"]) == (size[0] < 720)  # one above the other on a phone
