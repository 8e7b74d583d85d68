"""The page of a grid in a browser: what it says of the settings that all pictures share, and of one picture."""

from page_tools import PROMPTS, a_line, titled, write, write_pictures

from dreamstyler_jax.grids.cells import ABSENT

pytest_plugins = ["browser_tools"]


def a_page(folder, browser, prompts=PROMPTS, styles=("gogh",), **more):
    """The page of prompts with four seeds each, in which no further parameter has been set, except ``more``."""
    settings = {**ABSENT, "height": 96, "width": 64, **more}
    lines = [
        a_line(prompt, seed, style, **settings)
        for prompt in prompts for style in styles for seed in range(4)
    ]  # fmt: skip
    return browser.open(write(write_pictures(folder, lines)))


def test_the_settings_that_a_painter_asks_for_are_below_the_title(tmp_path, browser):
    a_page(tmp_path, browser)
    shown = browser.pairs("#shared .settings > dl")
    assert shown == {
        "model": "mini", "guidance": "paper, null scale 5, style scale 1", "solver": "dpmpp_2m", "steps": "25",
        "size": "64 \N{MULTIPLICATION SIGN} 96", "seeds": "0 to 3",
    }  # fmt: skip
    assert all(node.is_displayed() for node in browser.all("#shared .settings > dl dd"))


def test_others_are_listed_only_if_they_say_something(tmp_path, browser):
    a_page(tmp_path, browser, clip_skip=1, negative_prompt="blurry, {gogh}", content="", controlnets=[])
    assert not browser.find("#more dl").is_displayed()
    assert browser.pairs("#more").keys() == {"style", "styles", "dtype", "model hash", "clip skip"}
    assert browser.pairs("#shared .settings > dl")["negative prompt"] == "blurry, {gogh}"
    browser.click("#more summary")
    assert browser.find("#more dl").is_displayed()
    browser.click("#cell-0-0")
    listed = browser.pairs("#view-details")
    unset = {name.replace("_", " ") for name in ABSENT} - {"clip skip"}
    assert listed["clip skip"] == "1" and not unset & listed.keys()


def test_the_words_that_all_prompts_share_are_among_them(tmp_path, browser):
    prompts = ["A painting of a house in the style of {}", "A painting of a boat in the style of {}"]
    a_page(tmp_path / "one", browser, prompts)
    assert browser.pairs("#shared")["prompt"] == "A painting of a … in the style of gogh"
    a_page(tmp_path / "two", browser, prompts, styles=("gogh", "monet"))
    assert browser.pairs("#shared")["prompt"] == "A painting of a … in the style of …"
    browser.axis("prompt")
    assert browser.texts("#axis li .text") == ["house", "boat"], "as in front of the rows"


def test_the_title_of_a_picture_names_its_style(tmp_path, browser):
    styles = {"gogh": "12", "monet": "34"}
    lines = [
        a_line("A {} boat", 0, "gogh"),
        a_line("A {} boat", 0, "$& monet"),
        a_line("A {} {cup} like {monet}", 0, "gogh", styles=styles),
        a_line("A {gogh} house", 0, "", styles={"gogh": "12"}),
    ]
    browser.open(write(write_pictures(tmp_path, lines)))
    titles = browser.script("return data.cells.map(titleOf)")
    assert titles == ["A gogh boat", "A $& monet boat", "A gogh {cup} like monet", "A gogh house"]
    browser.script("openView(data.cells[0])")
    assert browser.find("#view-title").text == titled("A {} boat")
    assert browser.find("#view-stage img").get_attribute("alt").startswith("A gogh boat")
