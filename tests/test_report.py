"""``dreamstyler report``: one page about a run, finished or not."""

import re
import shutil

import numpy as np
import pytest
from run_folders import write_run
from script_tools import refusal, run
from selenium.webdriver.common.keys import Keys

from dreamstyler_jax.commands import report
from dreamstyler_jax.commands.reporting.curves import Curve, chart
from dreamstyler_jax.commands.reporting.document import write_report
from dreamstyler_jax.style import FILE_NAME

pytest_plugins = ["browser_tools"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "boat"
    write_run(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(finished, tmp_path / "boat")


def test_the_page_in_a_browser(finished, browser):
    browser.open(write_report(finished))
    assert browser.driver.title == browser.find("h1").text == "Style boat"
    assert browser.find("header p").text == (
        "30 steps · 2 stages with 1 vector each · model mini · 8 pictures per second"
    )
    assert browser.texts("h2") == [
        "Learned from", "What it paints", "Commands", "Loss since the start", "Norms of the vectors",
        "Where the time went", "Settings", "Started and resumed",
    ]  # fmt: skip
    assert browser.find(".pictures figcaption").text.startswith("A <b>red</b> boat in the style of {}\n")
    legends = browser.texts(".legend li")
    assert legends[:2] == ["stage 0 (detail) +0.0 %", "stage 1 (structure) -36.3 %"]  # smoothed
    assert legends[3:] == ["stage 0 (detail) 1.00", "stage 1 (structure) 2.00"]
    assert browser.pairs("#settings ~ dl")["stages"] == "2"
    assert "--styles" in browser.texts("pre")[0] and "boat-again" in browser.texts("pre")[1]
    assert browser.script("return [...document.images].every(image => image.naturalWidth > 0)")


def test_the_slider_shows_one_checkpoint_at_a_time(finished, browser):
    browser.open(write_report(finished))

    def shown():
        (picture,) = [picture for picture in browser.all("#previews img") if picture.is_displayed()]
        (number,) = np.flatnonzero(np.array(browser.colour(picture)) > 100)
        return browser.find("#at").text, ("red", "green", "blue")[number]

    slider = browser.find("#step")
    assert shown() == ("step 30", "blue")
    slider.send_keys(Keys.HOME)
    assert shown() == ("step 10", "red") and slider.get_attribute("aria-valuetext") == "step 10"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert shown() == ("step 20", "green")
    browser.resize(360, 700)
    assert browser.script("return document.documentElement.scrollWidth") <= 360


def test_a_run_that_was_interrupted_says_how_to_go_on(tmp_path, capsys):
    write_run(tmp_path / "boat", steps=20)
    run(report, tmp_path)
    assert f"Open it in a browser: {tmp_path / 'boat' / 'report.html'}" in capsys.readouterr().out
    page = (tmp_path / "boat/report.html").read_text()
    assert "20 of 30 steps, not finished" in page
    assert re.search(r"<h3>Continue</h3><pre>dreamstyler train [^<]*--resume[^<]*</pre>", page)
    assert "Paint with it" not in page


def test_a_run_that_has_just_begun_has_a_report(folder):
    for part in ("steps", "previews", "checkpoints"):
        shutil.rmtree(folder / part)
    for name in (FILE_NAME, "metrics.jsonl", "sessions.jsonl"):
        (folder / name).unlink()
    page = write_report(folder).read_text()
    assert "0 of 30 steps, not finished" in page and 'alt="The picture' in page
    assert "<h2" in page and "Loss since" not in page and "Norms" not in page


def test_a_training_picture_that_is_another_one_by_now_is_shown_as_it_was(finished, tmp_path):
    folder = shutil.copytree(finished.parent, tmp_path / "moved") / "boat"
    before = write_report(folder).read_text()
    (finished.parent / "boat.png").rename(tmp_path / "elsewhere.png")
    after = write_report(folder).read_text()
    (tmp_path / "elsewhere.png").rename(finished.parent / "boat.png")
    assert after.count("data:image/jpeg") == before.count("data:image/jpeg")


def test_a_damaged_preview_is_left_out(folder):
    (folder / "previews/step_000020.png").write_bytes(b"x")
    assert re.findall(r'data-step="(\d+)"', write_report(folder).read_text()) == ["10", "30"]


def test_a_folder_without_a_run_is_named(tmp_path, capfd):
    assert f"there is no run in {tmp_path}" in refusal(capfd, report, tmp_path)
    assert f"there is no folder {tmp_path / 'nowhere'}" in refusal(capfd, report, tmp_path / "nowhere")
    assert "give the folder of a run" in refusal(capfd, report)


def test_a_curve_is_drawn_to_scale():
    steps = np.array([10.0, 20, 30])
    figure = chart(steps, [Curve("a & b", np.array([0.0, np.nan, 4.0]), "red")], "", "{:.1f}".format)
    ticks = {label: float(y) - 4 for y, label in re.findall(r' y="([\d.]+)" text-anchor="end">([\d.]+)<', figure)}
    ((x1, y1, x2, y2),) = re.findall(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" fill="none"', figure)
    assert [float(y1), float(y2)] == pytest.approx([ticks["0.0"], ticks["4.0"]], abs=0.1)
    assert float(x2) > float(x1) and "a &amp; b <b>4.0</b>" in figure and "nan" in figure


def test_a_constant_is_a_flat_curve():
    figure = chart(np.array([1.0, 2.0]), [Curve("a", np.ones(2), "red")], "", "{:.2f}".format, line=1.0)
    ((_, y1, _, y2),) = re.findall(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" fill="none"', figure)
    assert y1 == y2
