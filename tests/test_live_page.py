"""The page of a grid's folder while the grid is painted: when it is written, what it says, what it leaves."""

import time

import numpy as np
import pytest
from cells import CELL, cells_of, plain_picture
from page_tools import data_of, write_scores
from PIL import Image
from sample_tools import random_style
from script_tools import contents

from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.live_page import LivePage, title_of
from dreamstyler_jax.grids.page import NOT_YET, write_page

STYLES = {"gogh": random_style("gogh")}
CELLS = cells_of([CELL.prompt, "A boat {}"], range(4))


def paint(gallery, cells):
    for cell in cells:
        gallery.save(cell, plain_picture(cell.seed))


def live_page(gallery, todo=CELLS, **options):
    return LivePage(gallery, CELLS, todo, STYLES, **{"pause": 0.01, **options})


def painted(folder):
    """The seeds of the pictures that the page shows, and whether the page says that the painting goes on."""
    data = data_of(folder)
    seeds = [cell.seed for cell, shown in zip(CELLS, data["cells"], strict=True) if "file" in shown]
    return seeds, data["progress"] and data["progress"]["state"]


def until(folder, *wanted):
    """Waits until the page says this."""
    end = time.monotonic() + 60
    while not (folder / "index.html").exists() or painted(folder) != wanted:
        assert time.monotonic() < end, (wanted, painted(folder))
        time.sleep(0.005)


def test_the_page_is_there_from_the_beginning_and_shows_what_is_painted_by_now(tmp_path):
    gallery = Gallery(tmp_path)
    with live_page(gallery):
        until(tmp_path, [], "painting")
        waiting = data_of(tmp_path)
        assert waiting["title"] == "gogh" and all(cell["waiting"] for cell in waiting["cells"])
        assert waiting["progress"]["left"] is None
        paint(gallery, CELLS[:2])
        until(tmp_path, [0, 1], "painting")
        paint(gallery, CELLS[2:3])
        until(tmp_path, [0, 1, 2], "painting")
        assert data_of(tmp_path)["progress"]["left"] > 0
    now = data_of(tmp_path)
    assert (now["grid"], [cell["id"] for cell in now["cells"]]) == (waiting["grid"], [cell.id for cell in CELLS])
    assert now["axes"] == waiting["axes"], "the browser takes over no axes"
    assert now["axes"][-1] == {"name": "state", "values": ["painted", "failed", NOT_YET], "labels": []}
    for cell, later in zip(waiting["cells"], now["cells"], strict=True):
        assert cell["at"][:-1] == later["at"][:-1]


def test_it_leaves_no_trace_in_a_finished_grid(tmp_path):
    for folder, live in ((tmp_path / "live", True), (tmp_path / "other", False)):
        gallery = Gallery(folder)
        with live_page(gallery, live=live):
            if live:
                until(folder, [], "painting")
            paint(gallery, CELLS[::-1])
            if live:
                until(folder, [0, 1, 2, 3, 0, 1, 2, 3], "painting")
            assert (folder / "index.html").exists() == live
        gallery.finish(CELLS)
        write_page(folder, gallery.lines.values(), title=title_of(gallery.lines.values()))
        assert painted(folder) == ([0, 1, 2, 3, 0, 1, 2, 3], None)
    assert contents(tmp_path / "live") == contents(tmp_path / "other")


@pytest.mark.parametrize("live", [True, False])
def test_an_interrupted_grid_has_a_page_of_what_was_painted(tmp_path, live):
    gallery = Gallery(tmp_path)
    with pytest.raises(KeyboardInterrupt), live_page(gallery, live=live, pause=60):
        paint(gallery, CELLS[:3])
        gallery.fail(CELLS[3], "NaN")
        raise KeyboardInterrupt
    assert painted(tmp_path) == ([0, 1, 2], "stopped")
    states = [(cell.get("error"), cell.get("waiting")) for cell in data_of(tmp_path)["cells"]]
    assert states == [(None, None)] * 3 + [("NaN", None)] + [(NOT_YET, True)] * 4


def test_pictures_that_are_to_be_painted_again_are_not_shown(tmp_path):
    gallery = Gallery(tmp_path)
    paint(gallery, CELLS[:4])
    gallery.fail(CELLS[4], "NaN")
    other = cells_of(["Earlier {}"], [7])
    paint(gallery, other)
    (tmp_path / gallery.lines[CELLS[1].id]["file"]).write_bytes(b"damaged")
    gallery = Gallery(tmp_path)
    with pytest.raises(OSError, match="full"), live_page(gallery, gallery.missing(CELLS), live=False):
        paint(gallery, CELLS[5:6])
        raise OSError("full")
    cells = data_of(tmp_path)["cells"]
    assert [cell["id"] for cell in cells] == [cell.id for cell in (*other, *CELLS)], "as in the finished manifest"
    assert ["file" in cell for cell in cells] == [True, True, False, True, True, False, True, False, False]


def test_a_picture_is_read_once_for_all_pages(tmp_path):
    gallery = Gallery(tmp_path)
    with live_page(gallery):
        paint(gallery, CELLS[:1])
        until(tmp_path, [0], "painting")
        (tmp_path / gallery.lines[CELLS[0].id]["file"]).unlink()
        paint(gallery, CELLS[3:4])
        until(tmp_path, [0, 3], "painting")
    (atlas,) = (tmp_path / "atlas").iterdir()
    pixels = np.asarray(Image.open(atlas), int)
    for place in (0, 3):
        assert np.abs(pixels[8, place * 24 + 12] - (50, 50 + place, 100)).max() <= 3


def test_a_page_that_cannot_be_written_gives_a_warning_and_stops_nothing(tmp_path):
    gallery = Gallery(tmp_path)
    (tmp_path / "index.html").mkdir()
    with pytest.warns(UserWarning, match="cannot be written now.*index.html") as warned, live_page(gallery) as page:
        for cell in CELLS:
            paint(gallery, [cell])
            time.sleep(0.02)
    assert page is not None and len(warned) == 1 and len(gallery.lines) == 8


def test_scores_are_of_the_pictures_that_were_scored(tmp_path):
    gallery = Gallery(tmp_path)
    paint(gallery, CELLS)
    lines = list(gallery.lines.values())
    write_scores(tmp_path, lines, *({"text": seed / 3, "lpips": None} for seed in range(8)))
    other = plain_picture(99)
    gallery.save(CELLS[2], other)
    write_page(tmp_path, gallery.lines.values(), title="A grid")
    scores = [cell.get("scores") for cell in data_of(tmp_path)["cells"]]
    assert (
        scores == [{"text": 0.0}, {"text": 0.333333}, None, {"text": 1.0}, *scores[4:]] and scores[7]["text"] == 2.33333
    )
    with pytest.raises(KeyboardInterrupt), live_page(gallery, CELLS[4:], live=False):
        raise KeyboardInterrupt
    assert [cell.get("scores") for cell in data_of(tmp_path)["cells"]] == [*scores[:4], None, None, None, None]


@pytest.mark.parametrize("line", ['{"id": 1}', "[", '{"id": "a", "sha256": "b", "scores": {"text": "high"}}', "\0"])
def test_damaged_scores_are_left_out_with_a_warning(tmp_path, line):
    gallery = Gallery(tmp_path)
    paint(gallery, CELLS)
    (tmp_path / "scores.jsonl").write_text(f"\n{line}\n")
    with pytest.warns(UserWarning, match=r"no scores: line 2 of .*scores.jsonl"):
        write_page(tmp_path, gallery.lines.values(), title="A grid")
    assert not [cell for cell in data_of(tmp_path)["cells"] if "scores" in cell]
