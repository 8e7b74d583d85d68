"""The page of a grid in a browser: stars and notes, what it exports, links to a view, and colours that are chosen."""

import json

import numpy as np
import pytest
from page_tools import PROMPTS, a_line, png, shade, twelve, write, write_pictures
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

pytest_plugins = ["browser_tools"]


@pytest.fixture
def downloads(tmp_path, browser):
    """The folder that the browser saves to."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    return folder


def saved(browser, folder, name):
    """The file of a name, once the browser has saved it."""
    browser.wait(lambda: (folder / name).exists())
    return folder / name


def starred(browser):
    """The names of the tiles with a star."""
    return [name for name in browser.tiles() if ", starred" in name]


def test_stars_and_notes_stay_when_the_page_is_written_anew(tmp_path, browser):
    path = write(write_pictures(tmp_path, twelve()))
    browser.open(path)
    browser.keys("s", Keys.ARROW_DOWN, Keys.ENTER, "s", "n")
    browser.keys("too dark")
    browser.keys(Keys.ESCAPE)
    ActionChains(browser.driver).move_to_element(browser.find("#cell-2-3")).perform()
    browser.click("#cell-2-3 .star")
    assert starred(browser) == [f"{PROMPTS[i]}, seed {seed}, starred" for i, seed in ((0, 0), (1, 0), (2, 3))]
    browser.keys("s")
    assert browser.find("#starred-count").text == "2"
    write(write_pictures(tmp_path, [a_line("First {}", 0), *twelve()]))
    browser.driver.get(path.as_uri())
    browser.settle()
    assert starred(browser) == [f"{PROMPTS[i]}, seed 0, starred" for i in (0, 1)]
    browser.click("#starred")
    assert browser.count() == "2 of 13 pictures" and browser.texts("[role=rowheader]") == PROMPTS[:2]
    browser.script("document.getElementById('grid').focus()")
    browser.keys(Keys.ARROW_DOWN, Keys.ENTER)
    assert browser.find("#view-note").get_property("value") == "too dark"
    assert browser.find("#view-star").text == "★ Starred"
    browser.click("#view-star")
    browser.keys(Keys.ESCAPE)
    assert browser.count() == "1 of 13 pictures"
    browser.driver.refresh()
    browser.settle()
    assert browser.count() == "1 of 13 pictures"
    browser.click("#starred")
    assert browser.count() == "13 pictures"


def test_the_selection_is_a_list_and_commands(tmp_path, browser, downloads):
    folder, lines = tmp_path / "it's a grid", twelve()
    browser.open(write(write_pictures(folder, lines)))
    browser.keys("e")
    assert "No picture has a star yet" in browser.find("#export-count").text
    assert not browser.find("#export-list").is_enabled() and not browser.texts("#export-commands code")
    browser.keys(Keys.ESCAPE)
    browser.keys(Keys.ARROW_RIGHT, "s", Keys.ARROW_DOWN, "s", Keys.ENTER, "n")
    browser.keys('a "good" one')
    browser.keys(Keys.ESCAPE)
    browser.keys("e")
    browser.click("#export-list")
    exported = [json.loads(line) for line in saved(browser, downloads, "starred.jsonl").read_text().splitlines()]
    assert exported == [
        {"id": lines[1]["id"], "file": lines[1]["file"], "note": ""},
        {"id": lines[5]["id"], "file": lines[5]["file"], "note": 'a "good" one'},
    ]
    quoted = "'" + str(folder).replace("'", "'\\''")
    assert browser.texts("#export-commands code") == [
        f"dreamstyler pick {quoted}' --cells starred.jsonl --output starred",
        f"dreamstyler enlarge {quoted}' --cells starred.jsonl",
    ]
    unknown = {"id": "0" * 16, "file": "images/none.png", "note": ""}
    (tmp_path / "list.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in [*exported, unknown]))
    browser.open(folder / "index.html")  # which forgets all stars
    assert not starred(browser)
    browser.keys("e")
    browser.find("#export-load").send_keys(str(tmp_path / "list.jsonl"))
    browser.wait(lambda: browser.find("#export-status").text)
    assert browser.find("#export-status").text == "2 starred, 1 line names no picture of this page."
    browser.keys(Keys.ESCAPE)
    assert len(starred(browser)) == 2


def test_the_view_is_saved_as_one_picture(tmp_path, browser, downloads):
    """From the disk the page may not read its own pictures: the user chooses the folder."""
    lines = [a_line(prompt, seed, style) for prompt in PROMPTS for style in ("gogh", "monet") for seed in (0, 1)]
    folder = write_pictures(tmp_path / "grid", lines)
    browser.open(write(folder, style_pictures=[("gogh", Image.new("RGB", (40, 20), (0, 99, 0)))])).size(64)
    browser.keys("e")
    browser.click("#picture-save")
    browser.wait(lambda: browser.find("#picture-folder-box").is_displayed())
    (downloads / "other.txt").touch()
    browser.find("#picture-folder").send_keys(str(downloads))
    browser.wait(lambda: "lacks" in browser.find("#picture-status").text)
    assert str(folder) in browser.find("#picture-status").text
    browser.find("#picture-folder").send_keys(str(folder))
    with Image.open(saved(browser, downloads, "A-grid.png")) as image:
        width, height = image.size
        assert browser.find("#picture-size").text.split()[::2] == [str(width), str(height)]
        colours = image.convert("RGB").getcolors(width * height) or []
        for i in range(12):  # thumbnails are JPEG files
            near = sum(count for count, colour in colours if np.abs(np.subtract(colour, shade(i))).max() <= 3)
            assert near > 0.9 * 64 * 64
        assert sum(count for count, colour in colours if np.abs(np.subtract(colour, (0, 99, 0))).max() <= 3) > 600
        assert image.convert("RGB").getpixel((width - 1, 0)) == (251, 250, 247)


@pytest.mark.parametrize("colour", ["black", "white"])
def test_a_star_shows_over_any_picture_in_the_picture_of_the_view(tmp_path, browser, downloads, colour):
    lines = [a_line(seed=seed) for seed in range(2)]
    folder = write_pictures(tmp_path / "grid", lines)
    for line in lines:
        (folder / line["file"]).write_bytes(png(colour))
    browser.open(write(folder)).size(64)
    browser.keys("s", "e")
    browser.click("#picture-save")
    browser.find("#picture-folder").send_keys(str(folder))
    with Image.open(saved(browser, downloads, "A-grid.png")) as image:
        pixels = np.asarray(image.convert("RGB"), int)
    golden = np.abs(pixels - (255, 209, 102)).max(2) < 30
    assert 20 < golden.sum() < 200
    rows, columns = np.nonzero(golden)
    beside = pixels[rows.mean().astype(int), columns.max() + 2]
    assert beside.max() < 130, "the disc behind the star is dark on a bright picture, too"


def test_a_link_opens_the_same_view(tmp_path, browser):
    lines = [a_line(prompt, seed, style) for prompt in PROMPTS for style in ("a & b", "c=d") for seed in range(4)]
    path = write(write_pictures(tmp_path, lines))
    browser.open(path)
    assert "#" not in browser.driver.current_url
    browser.click("#transpose")
    browser.axis("style")
    browser.press("Only c=d")
    browser.choose("place", "neither")
    browser.keys(Keys.ESCAPE)
    browser.axis("seed")
    browser.choose("order", "descending")
    browser.keys(Keys.ESCAPE)
    browser.size(90)
    browser.click("#cell-0-1")
    title, link, tiles = browser.find("#view-title").text, browser.driver.current_url, browser.tiles()
    browser.open(path)
    assert browser.count() == "24 pictures"
    browser.driver.get(link)
    browser.settle()
    assert browser.find("#view-title").text == title and browser.tiles() == tiles
    browser.keys(Keys.ESCAPE)
    assert browser.find("canvas").size["width"] == 90 and "picture=" not in browser.driver.current_url
    assert browser.texts("[role=rowheader]") == ["3", "2", "1", "0"]
    browser.click("#reset")
    assert browser.driver.current_url == path.as_uri() and browser.count() == "24 pictures"
    browser.script("window.location.hash = arguments[0]", link.partition("#")[2])
    browser.wait(lambda: browser.tiles() == tiles)


def test_the_chosen_colours_are_kept(tmp_path, browser):
    browser.open(write(write_pictures(tmp_path, twelve())))
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = browser.script(colour)
    browser.click("#theme")
    dark = browser.script(colour)
    assert dark != light and browser.find("#theme").accessible_name == "Light colours"
    browser.driver.refresh()
    browser.settle()
    assert browser.script(colour) == dark
    browser.keys("d")
    assert browser.script(colour) == light
