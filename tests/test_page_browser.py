"""The page of a grid in a browser: what it shows and how it arranges pictures, whatever the manifest holds."""

import contextlib
import itertools
import re
import time

import pytest
from cells import cells_of, plain_picture
from page_tools import PROMPTS, a_line, png, shade, titled, twelve, write, write_pictures
from PIL import Image
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.keys import Keys

from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.page import write_page

pytest_plugins = ["browser_tools"]


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


def test_tiles_show_the_atlases_and_only_enlarged_ones_the_pictures(tmp_path, browser):
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


def test_pictures_keep_their_aspect(tmp_path, browser):
    lines = [a_line(seed=0), a_line(seed=1)]
    folder = write_pictures(tmp_path, lines)
    for i, size in enumerate([(40, 20), (20, 40)]):
        (folder / lines[i]["file"]).write_bytes(png(shade(i), size))
    browser.open(write(folder)).size(128)
    sizes = [(c.size["width"], c.size["height"]) for c in browser.all("canvas")]
    assert sizes == [(128, 64), (64, 128)]


def test_shared_parameters_are_listed_once(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    assert not {"prompt", "seed", "id", "file", "sha256"} & browser.pairs("#shared").keys()
    assert [b.get_attribute("data-axis") for b in browser.all("#axes button")] == ["prompt", "seed"]


def test_pictures_with_one_axis_flow_and_have_captions(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, [a_line(seed=seed) for seed in range(30)]))).size(128)
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
    assert browser.find("#view-title").text == titled(PROMPTS[0])


def test_any_other_field_becomes_an_axis(tmp_path, browser):
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
    ]  # flip groups the pictures as the weight does
    assert browser.count() == "16 pictures" and len(browser.tiles()) == 16
    browser.keys(Keys.ENTER)
    assert browser.pairs("#view-details")["flip"] == "true"
    browser.keys(Keys.ESCAPE)
    browser.axis("checkpoint")
    browser.press("Only 20")
    assert browser.count() == "8 of 16 pictures"


def test_pictures_with_the_same_row_and_column_stand_side_by_side(tmp_path, browser):
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
    assert browser.texts("[role=rowheader]")[:2] == [f"{PROMPTS[0]}gogh", f"{PROMPTS[0]}monet"]
    browser.press("Make it the outermost")
    assert browser.texts("[role=rowheader]")[:2] == [f"gogh{PROMPTS[0]}", f"gogh{PROMPTS[1]}"]
    browser.is_coloured(browser.find("#cell-3-1 canvas"), shade(3))  # monet, the first prompt, seed 8
    browser.keys(Keys.ESCAPE)
    browser.click("#transpose")
    assert browser.texts("[role=rowheader]") == ["7", "8"]
    browser.click("#reset")
    assert browser.texts("[role=rowheader]") == PROMPTS


def test_a_prompt_in_two_styles_is_one_value(tmp_path, browser):
    lines = [a_line(f"A dog in {{{style}}}", seed, style) for style in ("gogh", "monet") for seed in (0, 1)]
    browser.open(write(write_pictures(tmp_path, lines)))
    assert browser.texts("[role=rowheader]") == ["gogh", "monet"]
    assert browser.pairs("#shared")["prompt"] == "A dog in …"
    browser.keys(Keys.ENTER)
    assert "A dog in {gogh}" in browser.find("#view code").text


def test_filters_show_only_the_ticked_values(tmp_path, browser):
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


def test_axes_sort_numbers_as_numbers_and_missing_values_last(tmp_path, browser):
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


def test_a_reload_keeps_the_arrangement_and_the_filters(tmp_path, browser):
    folder = write_pictures(tmp_path, twelve())
    browser.open(write(folder))
    browser.axis("seed")
    browser.press("Only 3")
    browser.click("#axis li:nth-child(1) input")
    browser.choose("order", "descending")
    browser.keys(Keys.ESCAPE)
    browser.click("#transpose")
    write(write_pictures(folder, [*twelve(), *(a_line(prompt, 9) for prompt in PROMPTS)]))  # painted in the meantime
    browser.driver.refresh()
    browser.settle()
    assert browser.texts("[role=rowheader]") == ["9", "3", "0"]
    assert browser.texts("[role=columnheader]") == PROMPTS


# Failures and hostile input


def test_failed_and_missing_pictures_are_shown_as_such(tmp_path, browser):
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


def test_hostile_texts_do_no_harm_and_are_shown_unchanged(tmp_path, browser):
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
        style_pictures=[(EVIL, Image.new("RGB", (8, 8)))],
    )
    assert len(re.findall(rb"<script", path.read_bytes())) == len(re.findall(rb"</script", path.read_bytes())) == 2
    browser.open(path)
    assert browser.texts("h1") == [EVIL] and browser.script("return document.title") == EVIL
    titles = [node.get_attribute("title") for node in browser.all("[role=rowheader]")]
    assert titles == [f"{EVIL}0", f"{EVIL}1"]
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


def test_the_page_runs_no_script_but_its_own(tmp_path, browser):
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


def test_the_page_of_a_gallery_opens(browser, tmp_path):
    """Of lines as they are really written, with parameters that no picture has."""
    cells = cells_of(["A house in the style of {}", "A boat in the style of {}"], range(3))
    gallery = Gallery(tmp_path)
    for number, cell in enumerate(cells):
        gallery.save(cell, plain_picture(number))
    gallery.close()
    browser.open(write_page(tmp_path, gallery.lines.values(), title="A grid"))
    assert len(browser.tiles()) == 6
    assert "weak_styles" in gallery.lines[cells[0].id] and gallery.lines[cells[0].id]["weak_styles"] is None
