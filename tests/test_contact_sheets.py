"""Contact sheets: every picture in its place, labels that fit."""

import numpy as np
import pytest
from PIL import Image

from dreamstyler_jax.runtime import contact_sheets
from dreamstyler_jax.runtime.contact_sheets import contact_sheet, fit_label

RED = (255, 0, 0)


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def find(sheet, tile):
    """The places (y, x) at which the sheet holds the picture ``tile``, pixel for pixel."""
    sheet, tile = np.asarray(sheet), np.asarray(tile)
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], tile.shape[:2])
    places = np.argwhere((windows[..., 0, 0] == tile[0, 0, 0]) & (windows[..., -1, -1] == tile[-1, -1, 0]))
    height, width = tile.shape[:2]
    return [(y, x) for y, x in places.tolist() if np.array_equal(sheet[y : y + height, x : x + width], tile)]


def test_every_picture_is_in_its_place():
    rows = [[noise(8, 8, 10 * i + j) for j in range(3)] for i in range(2)]
    sheet = contact_sheet(rows, ["one", "two"], ["a", "b", "c"], "title", tile_size=32)
    assert sheet.mode == "RGB"
    places = [[find(sheet, t.resize((32, 32), Image.Resampling.NEAREST)) for t in row] for row in rows]
    assert all(len(place) == 1 for row in places for place in row)
    ys, xs = np.array(places)[:, :, 0, 0], np.array(places)[:, :, 0, 1]
    assert (ys == ys[:, :1]).all() and (xs == xs[:1]).all()
    assert (np.diff(xs[0]) > 32).all() and np.diff(ys[:, 0]) > 32


def test_large_pictures_are_reduced_small_ones_enlarged_by_whole_factors():
    tall, wide, small = noise(100, 50), noise(30, 60), noise(3, 2)
    sheet = contact_sheet([[tall, wide], [None], [small, None]], tile_size=50)
    assert find(sheet, tall.resize((25, 50), Image.Resampling.LANCZOS))
    assert find(sheet, wide.resize((50, 25), Image.Resampling.LANCZOS))
    assert find(sheet, small.resize((32, 48), Image.Resampling.NEAREST))


@pytest.mark.parametrize(("longest", "shown"), [(24, 48), (26, 52), (28, 56), (29, 29), (50, 50)])
def test_a_picture_of_little_more_than_half_a_tile_is_doubled(longest, shown):
    small = noise(8, longest)
    sheet = contact_sheet([[small]], tile_size=50)
    assert find(sheet, small.resize((shown, 8 * shown // longest), Image.Resampling.NEAREST))


def test_tiles_are_reduced_on_a_sheet_of_very_many():
    many = contact_sheet([[noise(3, 2)] * 2] * 400, ["row"] * 400, tile_size=256)
    assert max(many.size) <= contact_sheets.MAX_SIDE
    assert np.prod(contact_sheet([[noise(4, 4)] * 40] * 40).size) < 1.3 * contact_sheets.MAX_AREA


def test_labels_stay_inside_the_sheet_and_off_the_pictures():
    rows = [[Image.new("RGB", (64, 64), RED)] * 2] * 2
    plain = contact_sheet(rows, tile_size=128)
    long = "a very long description of a sailing boat at sea " * 12 + "x" * 200
    labelled = contact_sheet(rows, [long, "b"], [long, "c"], long, tile_size=128)
    assert labelled.width < plain.width + 12 * 22 and labelled.height < plain.height + 500
    pixels = np.asarray(labelled)
    assert (pixels[:20] == 255).all() and (pixels[-20:] == 255).all()
    assert (pixels[:, :20] == 255).all() and (pixels[:, -20:] == 255).all()
    assert (pixels == RED).all(-1).sum() == 4 * 128 * 128


def test_labels_that_do_not_match_the_pictures_are_refused():
    with pytest.raises(ValueError, match="labels for 1 x 0 pictures, not 2 x 1"):
        contact_sheet([[noise(2, 2)], [noise(2, 2)]], ["one"])
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])


def test_a_sheet_may_be_empty():
    assert contact_sheet([[None]], tile_size=64).mode == "RGB"


def test_a_label_that_does_not_fit_ends_in_dots():
    label = fit_label("word " * 50, 12, 100, 40)
    assert len(label.lines) == 2 and label.lines[-1].endswith("...") and label.width <= 100


def test_a_label_breaks_at_spaces_and_inside_words_longer_than_a_line():
    label = fit_label("x" * 40, 12, 100, 400)
    assert label.width <= 100 and len(label.lines) > 1 and "".join(label.lines) == "x" * 40
    assert fit_label("two words", 12, 400, 40).lines == ["two words"]
    assert fit_label("two words", 12, fit_label("words", 12, 400, 40).width, 40).lines == ["two", "words"]


def test_the_height_of_a_label_is_that_of_its_lines():
    assert fit_label("", 12, 100, 40).height == fit_label("", 12, 100, 40).width == 0
    assert fit_label("a b", 12, 10, 40).height == 2 * fit_label("a", 12, 10, 40).height


@pytest.mark.parametrize("text", ["кот", "γάτα", "gehen: кит"])
def test_letters_that_the_usual_font_lacks_are_drawn_in_another(text):
    label = fit_label(text, 20, 400, 40)
    letters = [bytes(label.font.getmask(letter)) for letter in dict.fromkeys(text) if letter != " "]
    assert bytes(label.font.getmask("\U0010ffff")) not in letters and len(set(letters)) == len(letters)
    assert fit_label("plain", 20, 400, 40).font.getname() != label.font.getname()


def test_letters_of_no_font_are_said():
    with pytest.warns(UserWarning, match="no font for '猫'"):
        fit_label("a 猫", 20, 400, 40)
