"""The page of a grid: what is written, and what a browser makes of it, driven as a user would."""

import contextlib
import hashlib
import io
import itertools
import json
import re
import shutil
import time

import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from dreamstyler_jax.grids import page
from dreamstyler_jax.grids.gallery import Gallery

PROMPTS = ["A red house {}", "A blue fish {}", "An orange cat {}"]
PATIENCE = 60  # seconds: on a busy machine


# Folders of pictures


def a_line(prompt=PROMPTS[0], seed=0, style="gogh", **more):
    """A line of a manifest as grid.py writes it; ``more`` replaces fields or adds some."""
    line = {
        "prompt": prompt, "style": style, "negative_prompt": "", "seed": seed, "guidance": "paper",
        "scales": {"null_scale": 5.0, "style_scale": 1.0}, "solver": "dpmpp_2m", "steps": 25, "height": 8, "width": 8,
        "dtype": "float32", "styles": {style: style_hash(style)}, "model": "mini",
        "model_hash": "ba9876543210", "command": f"python sample.py --prompts '{prompt}' --seeds {seed}", **more,
    }  # fmt: skip
    id = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:16]
    return {"id": id, "file": f"images/{id}.png", "sha256": 4 * id, **line}


def style_hash(style="gogh"):
    return hashlib.sha256(style.encode()).hexdigest()[:12]


def png(colour, size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def shade(i):
    """A colour of its own for each of the first 216 pictures."""
    return (i % 6 * 51, i // 6 % 6 * 51, i // 36 % 6 * 51)


def write_lines(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_pictures(folder, lines, size=(8, 8)):
    """The manifest, and a picture of its own shade for each line that names a file below ``images``."""
    write_lines(folder, lines)
    (folder / "images").mkdir(exist_ok=True)
    for i, line in enumerate(lines):
        if str(line.get("file", "")).startswith("images/"):
            (folder / line["file"]).write_bytes(png(shade(i), size))
    return folder


def write(folder, **more):
    return page.write_page(folder, Gallery(folder).lines.values(), **{"title": "A grid", **more})


def twelve():
    return [a_line(prompt, seed) for prompt in PROMPTS for seed in range(4)]


# The browser


class Browser:
    """A window of Chromium, asked about what it shows."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path):
        """Shows a page for the first time, as far as it knows."""
        self.driver.get(path.as_uri())
        self.script("window.sessionStorage.clear()")
        self.driver.get(path.as_uri())
        self.settle()
        return self

    def script(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def settle(self):
        """Waits for what a scroll or a change of size sets off in the next frames."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)));"
        )

    def wait(self, condition):
        end = time.monotonic() + PATIENCE
        while not (result := condition()):
            assert time.monotonic() < end, "the page does not come to it"
            time.sleep(0.05)
        return result

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector):
        self.find(selector).click()
        self.settle()

    def keys(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()
        self.settle()

    def chord(self, modifier, key):
        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()
        self.settle()

    def texts(self, selector):
        """What stands in the elements, in or out of view, in the order of the document."""
        return self.script("return [...document.querySelectorAll(arguments[0])].map(n => n.textContent)", selector)

    def tiles(self):
        """The names of all tiles that show a picture or a failure, in the order of the document."""
        return self.script(
            "return [...document.querySelectorAll('[role=gridcell]:not(.missing)')].map(n => n.ariaLabel)"
        )

    def current(self):
        """The name of the tile that the keys act upon."""
        return self.script(
            "return document.getElementById(document.getElementById('grid').getAttribute('aria-activedescendant'))"
            "?.ariaLabel"
        )

    def count(self):
        return self.find("#count").text

    def axis(self, name):
        """Opens the panel of an axis."""
        self.find(f'#axes button[data-axis="{name}"]').click()
        self.wait(lambda: self.find("#axis").is_displayed() and self.find("#axis-name").text == name)

    def choose(self, name, value):
        """Chooses a place or an order in the open panel."""
        self.click(f'#axis input[name="{name}"][value="{value}"] + span')

    def press(self, text, within="#axis"):
        """Clicks a button by its text or its accessible name."""
        button = next(b for b in self.all(f"{within} button") if text in (b.text, b.get_attribute("aria-label")))
        button.click()
        self.settle()

    def pairs(self, selector):
        """The names and values of lists of terms."""
        return dict(zip(self.texts(f"{selector} dt"), self.texts(f"{selector} dd"), strict=True))

    def colour(self, element):
        """The colour in the middle of an element on the screen."""
        picture = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
        return picture.getpixel((picture.width // 2, picture.height // 2))

    def is_coloured(self, element, wanted, tolerance=3):
        return self.wait(
            lambda: max(abs(a - b) for a, b in zip(self.colour(element), wanted, strict=True)) <= tolerance
        )

    def traffic(self, method):
        """What the browser reports about its requests since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message["params"] for message in messages if message["method"] == method]

    def requests(self):
        """The addresses of everything asked for since the last call."""
        return [entry["request"]["url"] for entry in self.traffic("Network.requestWillBeSent")]

    def complaints(self):
        """What the console holds since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def resize(self, width, height, ratio=1):
        size = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.settle()

    def scheme(self, name):
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Chromium without a window, started once."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    helper = shutil.which("chromedriver")
    assert browser and helper, "these tests need chromium and chromedriver; apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "lang=en-GB",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.set_capability("unhandledPromptBehavior", "ignore")
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    started.set_script_timeout(PATIENCE)
    yield started
    started.quit()


@pytest.fixture
def browser(driver):
    """A window of 1200 x 800; afterwards nothing was asked of the network, and the console is empty."""
    browser = Browser(driver)
    driver.get("about:blank")
    browser.resize(1200, 800)
    browser.scheme("light")
    browser.requests(), browser.complaints()
    yield browser
    schemes = {url.partition(":")[0] for url in browser.requests()}
    assert schemes <= {"file", "data", "about"}, schemes
    assert browser.complaints() == []


# What is shown


def test_it_opens_from_the_disk_with_every_picture(tmp_path, browser):
    lines = twelve()
    browser.open(write(write_pictures(tmp_path, lines)))
    assert browser.driver.title == browser.find("h1").text == "A grid"
    assert browser.count() == "12 pictures"
    assert len(browser.all("[role=gridcell] canvas")) == 12
    assert browser.texts("[role=rowheader]") == PROMPTS
    assert browser.texts("[role=columnheader]") == ["0", "1", "2", "3"]
    for i in (0, 5, 11):
        browser.is_coloured(browser.find(f"#cell-{i // 4}-{i % 4} canvas"), shade(i))


def test_thumbnails_come_from_the_atlases_alone_until_they_are_enlarged(tmp_path, browser):
    folder = write_pictures(tmp_path, twelve(), size=(48, 32))
    path = write(folder)
    for file in (folder / "images").iterdir():
        file.write_bytes(png("white", (48, 32)))
    browser.open(path)
    browser.script("setSize(32)")
    browser.is_coloured(browser.find("#cell-2-3 canvas"), shade(11))
    browser.requests()
    time.sleep(0.5)
    assert not [url for url in browser.requests() if "/images/" in url]
    browser.script("setSize(192)")
    browser.is_coloured(browser.find("#cell-1-1 canvas"), (255, 255, 255))


def test_pictures_of_other_shapes_keep_theirs(tmp_path, browser):
    lines = [a_line(seed=0), a_line(seed=1)]
    folder = write_pictures(tmp_path, lines)
    for i, size in enumerate([(40, 20), (20, 40)]):
        (folder / lines[i]["file"]).write_bytes(png(shade(i), size))
    browser.open(write(folder))
    sizes = [(c.size["width"], c.size["height"]) for c in browser.all("canvas")]
    assert sizes == [(128, 64), (64, 128)]


def test_what_all_pictures_share_stands_once_in_a_line(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    shared = browser.pairs("#shared")
    assert shared["guidance"] == "paper" and shared["null_scale"] == "5" and shared["style_scale"] == "1"
    assert shared["negative_prompt"] == "(empty)" and shared["styles"] == "gogh" and shared["model"] == "mini"
    assert not {"prompt", "seed", "id", "file", "sha256"} & shared.keys()
    assert [b.get_attribute("data-axis") for b in browser.all("#axes button")] == ["prompt", "seed"]
    assert browser.pairs("#shared")["style"] == "gogh"
    assert browser.find("#shared dl").is_displayed()


def test_one_axis_flows_and_says_what_is_what(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, [a_line(seed=seed) for seed in range(30)])))
    assert browser.texts(".caption")[:3] == ["seed 0", "seed 1", "seed 2"]
    tops = {tile.location["y"] for tile in browser.all("[role=gridcell]")}
    assert len(tops) == 4  # eight in a row
    browser.keys(*[Keys.ARROW_RIGHT] * 8)
    assert browser.current() == "seed 8"
    browser.keys(Keys.ARROW_UP)
    assert browser.current() == "seed 0"


def test_a_single_picture_makes_a_page(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, [a_line()])))
    assert browser.count() == "1 picture"
    browser.keys(Keys.ENTER)
    assert browser.find("#view-title").text == PROMPTS[0]


def test_further_fields_are_axes_without_more_ado(tmp_path, browser):
    lines = [
        a_line(seed=seed, content=content, checkpoint=checkpoint, weights={"gogh": weight}, flip=flip)
        for seed, content, checkpoint, (weight, flip) in itertools.product(
            (0, 1), ("city.png", "dog.png"), (100, 20), ((0.5, True), (1.5, False))
        )
    ]
    browser.open(write(write_pictures(tmp_path, lines)))
    names = [b.get_attribute("data-axis") for b in browser.all("#axes button")]
    assert names == [
        "content",
        "checkpoint",
        "seed",
        "gogh",
    ]  # flip goes with the weight, and needs neither place nor filter
    assert browser.count() == "16 pictures" and len(browser.tiles()) == 16
    browser.keys(Keys.ENTER)
    assert browser.pairs("#view-details")["flip"] == "true"
    browser.keys(Keys.ESCAPE)
    browser.axis("checkpoint")
    browser.press("Only 20")
    assert browser.count() == "8 of 16 pictures"


def test_pictures_that_nothing_tells_apart_stand_beside_each_other(tmp_path, browser):
    lines = twelve()
    browser.open(write(write_pictures(tmp_path, lines)))
    browser.axis("seed")
    browser.choose("place", "neither")
    assert browser.count() == "12 pictures" and len(browser.tiles()) == 12
    browser.choose("place", "rows")
    browser.keys(Keys.ESCAPE)
    assert len(browser.tiles()) == 12
    browser.axis("prompt")
    browser.choose("place", "columns")
    assert browser.texts("[role=rowheader]") == ["0", "1", "2", "3"]
    assert len(browser.tiles()) == 12


# Rows, columns, filters, order


def test_any_axis_can_be_rows_or_columns(tmp_path, browser):
    lines = [a_line(prompt, seed, style) for prompt in PROMPTS for style in ("gogh", "monet") for seed in (7, 8)]
    browser.open(write(write_pictures(tmp_path, lines)))
    assert browser.texts(".level:nth-of-type(2) [role=columnheader]") == ["gogh", "monet"]
    assert browser.texts(".level:nth-of-type(3) [role=columnheader]") == ["7", "8", "7", "8"]
    browser.axis("style")
    browser.choose("place", "rows")
    assert browser.texts("[role=columnheader]") == ["7", "8"]
    assert browser.texts("[role=rowheader]")[:2] == [f"{PROMPTS[0]}style gogh", f"{PROMPTS[0]}style monet"]
    browser.press("Make it the outermost")
    assert browser.texts("[role=rowheader]")[:2] == [f"style gogh{PROMPTS[0]}", f"style gogh{PROMPTS[1]}"]
    browser.is_coloured(browser.find("#cell-3-1 canvas"), shade(3))  # monet, the first prompt, seed 8
    browser.keys(Keys.ESCAPE)
    browser.click("#transpose")
    assert browser.texts("[role=rowheader]") == ["7", "8"]
    browser.click("#reset")
    assert browser.texts("[role=rowheader]") == PROMPTS


def test_a_prompt_is_the_same_in_two_styles(tmp_path, browser):
    lines = [a_line(f"A dog in {{{style}}}", seed, style) for style in ("gogh", "monet") for seed in (0, 1)]
    browser.open(write(write_pictures(tmp_path, lines)))
    assert browser.texts("[role=rowheader]") == ["gogh", "monet"]
    assert browser.pairs("#shared")["prompt"] == "A dog in {}"
    browser.keys(Keys.ENTER)
    assert "A dog in {gogh}" in browser.find("#view code").text


def test_filters_leave_what_is_ticked(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    browser.axis("seed")
    browser.click("#axis li:nth-child(2) input")
    assert browser.count() == "9 of 12 pictures"
    assert browser.texts("[role=columnheader]") == ["0", "2", "3"]
    assert browser.find('[data-axis="seed"] .number').text == "3 of 4"
    browser.is_coloured(browser.find("#cell-1-2 canvas"), shade(7))
    browser.press("Only 3")
    assert browser.texts("[role=columnheader]") == ["3"]
    browser.press("None")
    assert browser.find("#nothing").is_displayed() and not browser.tiles()
    browser.press("All")
    assert browser.count() == "12 pictures" and not browser.find("#nothing").is_displayed()
    browser.press("None")
    browser.keys(Keys.ESCAPE)
    browser.click("#clear")
    assert len(browser.tiles()) == 12


def test_a_long_list_of_values_can_be_searched(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, [a_line(seed=seed) for seed in range(250)])))
    browser.axis("seed")
    assert len(browser.all("#axis li")) == 201 and "50 more" in browser.texts("#axis .more")[0]
    browser.keys("24")
    assert browser.texts("#axis li .text") == ["24", "124", "224", *map(str, range(240, 250))]
    browser.press("Only these")
    assert browser.count() == "13 of 250 pictures"
    assert browser.tiles()[:3] == ["seed 24", "seed 124", "seed 224"]


def test_every_axis_sorts_numbers_as_numbers_and_what_has_none_last(tmp_path, browser):
    lines = [
        a_line(prompt, scales={"style_scale": scale} if scale else {})
        for prompt in ("b {}", "a10 {}", "a9 {}")
        for scale in (10.0, 9.5, None, 100.0)
    ]
    browser.open(write(write_pictures(tmp_path, lines)))
    assert browser.texts("[role=columnheader]") == ["9.5", "10", "100", "(none)"]
    assert browser.texts("[role=rowheader]") == ["b {}", "a10 {}", "a9 {}"]
    browser.axis("style_scale")
    browser.choose("order", "descending")
    assert browser.texts("[role=columnheader]") == ["100", "10", "9.5", "(none)"]
    browser.keys(Keys.ESCAPE)
    browser.is_coloured(browser.find("#cell-0-0 canvas"), shade(3))
    browser.axis("prompt")
    browser.choose("order", "ascending")
    assert browser.texts("[role=rowheader]") == ["a9 {}", "a10 {}", "b {}"]
    browser.keys(Keys.ESCAPE)
    browser.is_coloured(browser.find("#cell-0-0 canvas"), shade(11))


def test_a_reload_shows_the_same_part(tmp_path, browser):
    folder = write_pictures(tmp_path, twelve())
    browser.open(write(folder))
    browser.axis("seed")
    browser.press("Only 3")
    browser.choose("order", "descending")
    browser.keys(Keys.ESCAPE)
    browser.click("#transpose")
    write(write_pictures(folder, [*twelve(), *(a_line(prompt, 9) for prompt in PROMPTS)]))  # painted meanwhile
    browser.driver.refresh()
    browser.settle()
    assert browser.texts("[role=rowheader]") == ["9", "3"]
    assert browser.texts("[role=columnheader]") == PROMPTS


# One picture


def test_the_slider_and_the_keys_change_the_size_of_tiles(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    assert browser.find("canvas").size == {"width": 128, "height": 128}
    browser.script("const s = document.getElementById('size'); s.value = 64; s.dispatchEvent(new Event('input'))")
    assert browser.find("canvas").size == {"width": 64, "height": 64}
    assert browser.find("#cell-1-0").location["y"] - browser.find("#cell-0-0").location["y"] < 80
    browser.keys("+")
    assert browser.find("canvas").size == {"width": 80, "height": 80}
    browser.keys("-", "-")
    assert browser.find("canvas").size == {"width": 48, "height": 48}


def test_the_full_view_enlarges_by_whole_factors_and_crisply(tmp_path, browser):
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


def test_a_large_picture_is_fitted_in_smoothly(tmp_path, browser):
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
    assert browser.find("#view-title").text == PROMPTS[0]
    shown = browser.pairs("#view-details")
    assert shown == {
        "seed": "1", "seconds": "0.125", "negative_prompt": "(empty)", "guidance": "paper", "null_scale": "5",
        "style_scale": "1", "solver": "dpmpp_2m", "steps": "25", "height": "8", "width": "8", "dtype": "float32",
        "style": "gogh", "styles": f"gogh {style_hash()}", "model": "mini", "model_hash": "ba9876543210",
        "id": lines[1]["id"],
        "size": "8 \N{MULTIPLICATION SIGN} 8 pixels", "file": lines[1]["file"],
    }  # fmt: skip
    assert browser.texts("#view code") == ["paint --seed 1 'a  b'"]
    assert browser.find("#view dd a").get_attribute("href") == (tmp_path / lines[1]["file"]).as_uri()


def test_the_command_can_be_copied(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    browser.keys(Keys.ARROW_RIGHT, Keys.ENTER)
    browser.click("#view .copy")
    browser.wait(lambda: browser.find("#view .copy").text == "Copied")
    browser.script("const t = document.createElement('textarea'); document.querySelector('#view').append(t); t.focus()")
    browser.chord(Keys.CONTROL, "v")
    assert browser.find("#view textarea").get_property("value") == twelve()[1]["command"]


def test_the_picture_of_a_style_is_shown_where_the_style_is(tmp_path, browser):
    Image.new("RGB", (1200, 600), (200, 30, 60)).save(tmp_path / "gogh.png")
    lines = [a_line(prompt, 0, style) for prompt in PROMPTS for style in ("gogh", "monet")]
    pictures = {"gogh": tmp_path / "gogh.png", "monet": tmp_path / "lost.png"}
    with pytest.warns(UserWarning, match="the style monet is left out.*lost.png"):
        path = write(write_pictures(tmp_path / "out", lines), style_pictures=pictures)
    (tmp_path / "gogh.png").unlink()
    browser.open(path)
    browser.is_coloured(browser.find("[role=columnheader] img"), (200, 30, 60))
    assert len(browser.all("[role=columnheader] img")) == 1
    browser.keys(Keys.ENTER)
    image = browser.find("#view figure img")
    browser.is_coloured(image, (200, 30, 60))
    assert browser.script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image) == [512, 256]
    assert browser.find("#view figcaption").text == "Learned from gogh"
    browser.keys(Keys.ARROW_RIGHT)
    assert browser.pairs("#view-details")["style"] == "monet" and not browser.all("#view figure")


def test_a_mix_shows_the_pictures_of_all_its_styles(tmp_path, browser):
    for name, colour in (("gogh", "red"), ("monet", "blue"), ("house", "lime")):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{name}.png")
    lines = [
        a_line(prompt, 0, style) for prompt in ("A house {}", "A dog {}") for style in ("gogh:5-3,monet:2-0", "monet")
    ]
    pictures = {name: tmp_path / f"{name}.png" for name in ("gogh", "monet", "house")}
    browser.open(write(write_pictures(tmp_path / "out", lines), style_pictures=pictures))
    assert len(browser.all("[role=columnheader]:first-child img")) == 2
    assert not browser.all("[role=rowheader] img")  # a prompt that happens to hold the name of a style
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
    assert same["prompt"] == PROMPTS[1] and same["solver"] == "dpmpp_2m" and "seed" not in same
    browser.keys("s")
    assert browser.texts("#compare tbody tr") == ["seed10"]
    browser.keys(Keys.ARROW_UP)  # of the right one, which is now the picture of seed 0
    assert browser.texts("#compare tbody tr") == [f"prompt{PROMPTS[1]}{PROMPTS[0]}", "seed10"]
    browser.keys(Keys.ESCAPE)
    assert not browser.find("#compare").is_displayed() and not browser.all(".tile .badge")


def test_comparison_by_mouse_and_from_the_full_view(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    browser.click("#cell-0-1")
    browser.click("#view-compare")
    assert not browser.find("#view").is_displayed()
    browser.click("#cell-2-1")
    assert browser.texts("#compare tbody tr") == [f"prompt{PROMPTS[0]}{PROMPTS[2]}"]
    browser.press("Details", "#compare figure:nth-child(2)")
    assert browser.find("#view-title").text == PROMPTS[2]
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


def test_keys_move_open_and_close(tmp_path, browser):
    lines = [a_line(prompt, seed) for prompt in PROMPTS for seed in range(40)]
    browser.open(write(write_pictures(tmp_path, lines)))
    assert browser.current() == f"{PROMPTS[0]}, seed 0"
    for keys, prompt, seed in [
        ([Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN], 1, 2), ([Keys.ARROW_LEFT], 1, 1), ([Keys.END], 1, 39),
        ([Keys.ARROW_RIGHT], 1, 39), ([Keys.PAGE_DOWN], 2, 39), ([Keys.HOME], 2, 0), ([Keys.ARROW_UP], 1, 0),
    ]:  # fmt: skip
        browser.keys(*keys)
        assert browser.current() == f"{PROMPTS[prompt]}, seed {seed}"
    browser.chord(Keys.CONTROL, Keys.END)
    assert browser.current() == f"{PROMPTS[2]}, seed 39"
    tile, grid = browser.find(".tile.current").rect, browser.find("#grid").rect
    assert grid["x"] <= tile["x"] and tile["x"] + tile["width"] <= grid["x"] + grid["width"]  # it came into view
    browser.keys(Keys.ENTER)
    assert browser.pairs("#view-details")["seed"] == "39"
    browser.keys(Keys.ARROW_LEFT, Keys.ARROW_UP)
    assert browser.pairs("#view-details")["seed"] == "38" and browser.find("#view-title").text == PROMPTS[1]
    browser.keys(Keys.ESCAPE)
    assert browser.driver.switch_to.active_element.get_attribute("id") == "grid"
    assert browser.current() == f"{PROMPTS[1]}, seed 38"
    browser.keys("t")
    assert browser.texts("[role=columnheader]") == PROMPTS and browser.current() == f"seed 38, {PROMPTS[1]}"
    browser.keys("?")
    assert "compare" in browser.find("#help").text
    browser.keys(Keys.ESCAPE)
    assert not browser.find("#help").is_displayed()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    browser.keys(Keys.ARROW_RIGHT)
    ringed = browser.find(".tile.current .frame").value_of_css_property("box-shadow")
    seen = []
    browser.script("document.querySelector('#shared summary').focus()")
    for _ in range(7):
        browser.keys(Keys.TAB)
        element = browser.driver.switch_to.active_element
        seen.append(element.get_attribute("id") or element.get_attribute("data-axis") or element.tag_name)
        if element.get_attribute("id") != "grid":
            assert element.value_of_css_property("outline-style") != "none", seen
    assert seen == ["prompt", "seed", "size", "transpose", "reset", "help-button", "grid"]
    browser.script("document.activeElement.blur()")
    assert browser.find(".tile.current .frame").value_of_css_property("box-shadow") != ringed
    browser.find('[data-axis="seed"]').send_keys(Keys.ENTER)
    browser.wait(lambda: browser.find("#axis").is_displayed())
    browser.keys(Keys.ESCAPE)
    assert browser.driver.switch_to.active_element.get_attribute("data-axis") == "seed"


# What went wrong


def test_pictures_that_failed_or_are_missing_are_shown_as_such(tmp_path, browser):
    lines = twelve()
    del lines[1]["file"]
    lines[1]["error"] = "NaN in the picture"
    lines[4]["file"] = "../outside.png"
    del lines[11]
    folder = write_pictures(tmp_path / "out", lines)
    (tmp_path / "outside.png").write_bytes(png("red"))
    (folder / lines[2]["file"]).unlink()
    (folder / lines[3]["file"]).write_bytes(png("red")[:-20])
    browser.open(write(folder))
    assert browser.count() == "11 pictures, 4 failed"
    labels = [browser.find(f"#cell-{place}").get_attribute("aria-label") for place in ("0-1", "0-2", "0-3", "1-0")]
    assert labels[0] == f"{PROMPTS[0]}, seed 1: failed, NaN in the picture"
    assert "file is missing" in labels[1] and "cannot be read" in labels[2] and "outside of its folder" in labels[3]
    assert len(browser.all(".tile.failed")) == 4 and len(browser.all("canvas")) == 7
    missing = browser.find("#cell-2-3")
    assert missing.get_attribute("aria-label") == f"{PROMPTS[2]}, 3: not painted"
    missing.click()
    assert not browser.find("#view").is_displayed()
    browser.click("#cell-0-1")
    assert "NaN in the picture" in browser.find("#view-stage").text
    assert browser.texts("#view code") == [lines[1]["command"]]
    browser.keys(Keys.ESCAPE)
    browser.axis("state")
    browser.press("Only failed")
    assert browser.count() == "4 of 11 pictures, 4 failed"
    assert not [url for url in browser.requests() if "outside" in url]


EVIL = (
    "<script>window.hurt = 1; alert(1)</script></script><!--<script><img src=x onerror='window.hurt=1'>"
    "\"'`${1}&lt;&amp;</title></style>]]>{{script}}\u2028\u2029\\u003c \N{SKULL} \U0001f600 \u202e"
)


def test_hostile_texts_do_no_harm_and_are_shown_as_they_are(tmp_path, browser):
    Image.new("RGB", (8, 8)).save(tmp_path / "style.png")
    lines = [
        a_line(
            EVIL + str(i),
            seed,
            EVIL,
            command=EVIL,
            **{EVIL: EVIL * seed, "__proto__": {"hurt": seed}, "mix": ["<b>", None]},
        )
        for i in range(2)
        for seed in range(2)
    ]
    lines[3] = {**lines[3], "id": EVIL, "error": EVIL}
    folder = tmp_path / "a <b>'\"& folder"
    path = write(
        write_pictures(folder, lines),
        title=EVIL,
        style_pictures={EVIL: tmp_path / "style.png"},
    )
    assert len(re.findall(rb"<script", path.read_bytes())) == len(re.findall(rb"</script", path.read_bytes())) == 2
    browser.open(path)
    assert browser.texts("h1") == [EVIL] and browser.script("return document.title") == EVIL
    assert browser.texts("[role=rowheader]") == [f"{EVIL}0", f"{EVIL}1"]
    browser.chord(Keys.CONTROL, Keys.END)
    browser.keys(Keys.ENTER)
    assert browser.texts("#view-title") == [f"{EVIL}1"] and browser.texts("#view code") == [EVIL]
    assert browser.texts("#view .error") == [EVIL] and browser.texts("#view figcaption b") == [EVIL]
    shown = browser.pairs("#view-details")
    assert shown[EVIL] == EVIL and shown["hurt"] == "1" and shown["id"] == EVIL and shown["style"] == EVIL
    browser.keys("c", Keys.HOME, "c")
    assert len(browser.texts("#compare tbody tr")) == 4
    browser.keys(Keys.ESCAPE)
    for axis in browser.all("#axes button"):
        axis.click()
        browser.settle()
        browser.keys(Keys.ESCAPE)
    assert browser.script("return window.hurt ?? ({}).hurt ?? null") is None
    assert len(browser.all("script")) == 2 and not browser.all("[onerror], [src=x], dialog b b, h1 *")
    with contextlib.suppress(Exception):
        browser.driver.switch_to.alert.dismiss()
        pytest.fail("a dialog opened")


def test_the_page_may_run_its_own_script_alone(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    attempts = [
        "document.body.innerHTML = '<img src=x onerror=\"window.hurt = 1\">'",
        "const s = document.createElement('script'); s.append('window.hurt = 1'); document.body.append(s)",
        "document.body.setAttribute('onclick', 'window.hurt = 1'); document.body.click()",
        "fetch('https://example.org/').catch(() => {})",
        "new Image().src = 'https://example.org/'",
    ]
    for attempt in attempts:
        with contextlib.suppress(JavascriptException):
            browser.script(attempt)
    time.sleep(0.3)
    assert browser.script("return window.hurt ?? null") is None
    blocked = [entry.get("blockedReason") for entry in browser.traffic("Network.loadingFailed")]
    assert set(blocked) == {"csp"} and len(browser.complaints()) >= len(attempts)


# Very many


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


def test_ten_thousand_pictures_stay_light(ten_thousand, browser):
    atlases = len(list((ten_thousand.parent / "atlas").iterdir()))
    assert atlases == 40
    browser.open(ten_thousand)
    assert browser.count() == "10,000 pictures"
    assert len([url for url in set(browser.requests()) if "/atlas/" in url]) < 8

    def is_light():
        return browser.script("return document.querySelectorAll('*').length") < 1500

    assert is_light()
    browser.script("const g = document.getElementById('grid'); g.scrollTo(g.scrollWidth, g.scrollHeight)")
    browser.wait(lambda: browser.all("#cell-49-199"))
    assert is_light() and not browser.all("#cell-0-0")
    assert browser.find("#cell-49-199").get_attribute("aria-label") == "Prompt 49 {}, style d, seed 49"
    browser.is_coloured(browser.find("#cell-49-199 canvas"), (10, 120, 161))
    for top in range(0, 6000, 500):
        browser.script("document.getElementById('grid').scrollTo(9000, arguments[0])", top)
        browser.settle()
        assert is_light()
    browser.chord(Keys.CONTROL, Keys.HOME)
    assert browser.current() == "Prompt 0 {}, style a, seed 0" and browser.find(".tile.current").is_displayed()


def test_ten_thousand_pictures_in_a_flow_stay_light(ten_thousand, browser):
    browser.open(ten_thousand)
    browser.axis("prompt")
    browser.choose("place", "columns")
    browser.keys(Keys.ESCAPE)
    browser.script("document.getElementById('grid').focus()")
    browser.chord(Keys.CONTROL, Keys.END)
    assert browser.current() == "style d, seed 49, Prompt 49 {}"
    assert browser.script("return document.querySelectorAll('*').length") < 1500
    grid = browser.find("#grid")
    assert grid.get_attribute("aria-colcount") == "8" and grid.get_attribute("aria-rowcount") == "1250"


# For everyone


def test_roles_and_names_are_those_of_a_grid(tmp_path, browser):
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
    assert browser.find("#view").accessible_name == PROMPTS[0]
    assert browser.find("#view-stage img").get_attribute("alt") == f"{PROMPTS[0]}, seed 0"


def luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


CONTRAST = """
const seen = (n) => n.checkVisibility() && [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
const ground = (n) => {
  for (; n; n = n.parentElement) {
    const colour = getComputedStyle(n).backgroundColor;
    if (colour !== 'rgba(0, 0, 0, 0)') return colour;
  }
};
return [...document.querySelectorAll('body *')].filter(seen)
  .map((n) => [n.textContent.slice(0, 40), getComputedStyle(n).color, ground(n)]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground_in_both_schemes(tmp_path, browser, scheme):
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
    for text, ink, ground in found:
        low, high = sorted([luminance(ink), luminance(ground)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ink, ground)


@pytest.mark.parametrize("size", [(360, 640, 2), (820, 500, 1), (2560, 1440, 1)])
def test_it_fits_windows_of_any_size(tmp_path, browser, size):
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
    for stage, image in zip(browser.all("#compare .stage"), browser.all("#compare img"), strict=True):
        assert image.rect["width"] <= stage.rect["width"] <= size[0] / 2


# What is written


def files(folder):
    """The page and its atlases, by name."""
    paths = [folder / page.FILE_NAME, *(folder / page.ATLAS_FOLDER).iterdir()]
    return {path.name: path.read_bytes() for path in paths}


def test_equal_input_gives_equal_bytes(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "style.png")
    for name in "ab":
        write(write_pictures(tmp_path / name, twelve()), style_pictures={"gogh": tmp_path / "style.png"})
    assert files(tmp_path / "a") == files(tmp_path / "b")
    write(tmp_path / "a", style_pictures={"gogh": tmp_path / "style.png"})
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_only_atlases_of_changed_pictures_are_made_anew(tmp_path):
    lines = [a_line(seed=seed) for seed in range(600)]
    folder = write_pictures(tmp_path, lines)
    write(folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "atlas").iterdir()}
    assert len(before) == 3
    write(folder, title="Another title")
    assert before == {path.name: path.stat().st_mtime_ns for path in (folder / "atlas").iterdir()}
    (folder / lines[300]["file"]).write_bytes(png("red"))
    (folder / lines[5]["file"]).unlink()  # its place stays, and those after it
    write(folder)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "atlas").iterdir()}
    assert len(after) == 3 and len(before.items() & after.items()) == 1


def test_what_is_written_is_there_in_full_or_not_at_all(tmp_path, monkeypatch):
    path = write(write_pictures(tmp_path, twelve()))
    before = files(tmp_path)

    def broken(path, content):
        raise RuntimeError

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(page, "write_atomic", broken)
        write(write_pictures(tmp_path, [*twelve(), a_line(seed=9)]))
    assert before.items() <= files(tmp_path).items() and path.exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_other_files_are_left_alone(tmp_path):
    folder = write_pictures(tmp_path, twelve())
    (folder / "atlas").mkdir()
    (folder / "atlas" / "mine.jpg").write_bytes(b"mine")
    write(folder)
    assert (folder / "atlas" / "mine.jpg").read_bytes() == b"mine"


# Axes


def axes_of(lines):
    return {axis.name: axis for axis in page.find_axes(lines, [None] * len(lines))}


def test_axes_of_numbers_texts_and_objects():
    axes = axes_of([
        {"id": "1", "file": "f", "seed": 1, "scales": {"a": 1.0, "seed": 2}, "styles": {"x": "12"}, "list": [1, 2]},
        {"id": "2", "error": "e", "seed": 1, "scales": {"a": 1.5}, "styles": {"x": "12", "y": "34"}, "big": 2**60},
        {"id": "3", "seed": 1.0, "scales": None, "styles": {"y": "34"}, "list": [], "big": float("nan")},
    ])  # fmt: skip
    assert list(axes) == ["seed", "a", "scales.seed", "styles", "list", "big"]
    assert axes["seed"].values == [1] and axes["seed"].at == [0, 0, 0]
    assert axes["a"].values == [1, 1.5, None] and axes["scales.seed"].values == [2, None]
    assert axes["styles"].labels == ["x", "x, y", "y"] and axes["styles"].at == [0, 1, 2]
    assert axes["list"].labels[0] == "1, 2"
    assert axes["big"].values == [None, str(2**60), "nan"]


def test_styles_of_the_same_name_are_told_apart_by_their_hashes():
    axes = axes_of([{"styles": {"x": "12"}}, {"styles": {"x": "34"}}])
    assert axes["styles"].labels == ["x 12", "x 34"]


def places_of(**columns):
    lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    axes = page.find_axes(lines, [None] * len(lines))
    return tuple([axes[i].name for i in place] for place in page.default_places(axes))


def test_axes_take_the_places_that_tell_pictures_apart():
    grid = list(itertools.product("pq", (0, 1), (0.5, 1.5)))
    prompts, seeds, scales = (list(column) for column in zip(*grid, strict=True))
    seconds = [i / 7 for i in range(8)]
    assert places_of(scale=scales, seed=seeds, prompt=prompts) == (["prompt"], ["seed", "scale"])
    assert places_of(seconds=seconds, prompt=prompts, seed=seeds, scale=scales) == (["prompt"], ["seed", "scale"])
    assert places_of(prompt=["p"] * 8, seed=seeds, scale=scales)[0] == ["seed"]
    assert places_of(model=["m", "n"], model_hash=["1", "2"]) == ([], ["model"])
    assert places_of(seed=[1, 1]) == ([], [])
