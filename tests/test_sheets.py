"""Contact sheets: which picture goes where, how a large grid is divided, and what happens to missing pictures."""

import dataclasses
import itertools

import numpy as np
import pytest
from cells import CELL, cells_of, plain_picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dreamstyler_jax.grids.cells import Cell, Repaint
from dreamstyler_jax.grids.sheets import Sheet, axes, layout, write_sheets
from dreamstyler_jax.runtime import images
from dreamstyler_jax.style import Style

TABLE = np.ones((1, 1, 4))
STYLES = {"gogh": Style("gogh", {"clip_l": TABLE})}


def product_of(**values):
    """Cells of every combination; a name may be a scale's."""
    cells = []
    for combination in itertools.product(*values.values()):
        given = dict(zip(values, combination, strict=True))
        scales = {name: given.pop(name, value) for name, value in CELL.scales.items()}
        cells.append(dataclasses.replace(CELL, scales=scales, **given))
    return cells


def cells_on(sheet: Sheet) -> list[list[Cell]]:
    """The rows of cells on a sheet without gaps."""
    rows = [[cell for cell in row if cell] for row in sheet.cells]
    assert rows == sheet.cells
    return rows


def saved(folder, cells):
    """The files of plain pictures, each of another colour."""
    files = {}
    for number, cell in enumerate(cells):
        files[cell.id] = folder / f"{cell.id}.png"
        images.save_png(files[cell.id], images.to_image(plain_picture(number)))
    return files


def places(sheet, colours):
    """Where the colours are on a sheet: left, top, right and bottom; None for those that are missing."""
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    pixels = (pixels[..., 0] * 256 + pixels[..., 1]) * 256 + pixels[..., 2]
    found = []
    for red, green, blue in colours:
        ys, xs = np.nonzero(pixels == (red * 256 + green) * 256 + blue)
        found.append((xs.min(), ys.min(), xs.max(), ys.max()) if len(xs) else None)
    return found


def colours_of(files, cells):
    return [images.load(files[cell.id]).getpixel((0, 0)) for cell in cells]


# What varies, and where it goes


def test_negative_prompts_are_an_axis_unless_each_prompt_has_its_own():
    (sheet,) = layout(product_of(negative_prompt=["", "fog"], seed=[0, 1]), "title")
    assert (sheet.rows, sheet.columns) == (["no negative prompt", "negative: fog"], ["seed 0", "seed 1"])
    assert [[cell.negative_prompt for cell in row] for row in cells_on(sheet)] == [["", ""], ["fog", "fog"]]
    cells = product_of(prompt=["a {}", "b {}"], negative_prompt=["rain", "fog"], seed=[0, 1])
    assert [(sheet.title, sheet.rows) for sheet in layout(cells, "title")] == [
        ("negative: rain", ["a {}", "b {}"]),
        ("negative: fog", ["a {}", "b {}"]),
    ]
    own = [cell for cell in cells if (cell.prompt == "a {}") == (cell.negative_prompt == "fog")]
    (sheet,) = layout(own, "title")
    assert (sheet.title, sheet.rows, sheet.columns) == ("title", ["a {}", "b {}"], ["seed 0", "seed 1"])


def test_pictures_with_few_of_all_combinations_have_a_row_each():
    """As where each seed has drawn its prompt, or each line of a list has settings of its own."""
    drawn = [dataclasses.replace(CELL, prompt=f"a {word} {{}}", seed=seed) for seed, word in enumerate("abcd")]
    (sheet,) = layout(drawn, "title")
    assert sheet == Sheet("title", [f"a {w} {{}}, seed {s}" for s, w in enumerate("abcd")], [""], [[c] for c in drawn])
    listed = [dataclasses.replace(cell, steps=10 + cell.seed, height=8 * cell.seed) for cell in drawn]
    (sheet,) = layout(listed, "title")
    assert sheet.rows[2] == "a c {}, steps 12, seed 2" and cells_on(sheet) == [[cell] for cell in listed]
    most = [dataclasses.replace(cell, seed=(cell.seed + more) % 4) for cell in drawn for more in range(3)]
    assert [len(sheet.columns) for sheet in layout(most, "title")] == [4], "more than half of them are there"
    many = [dataclasses.replace(CELL, prompt=str(seed), seed=seed) for seed in range(44)]
    assert [len(sheet.rows) for sheet in layout(many, "title")] == [20, 20, 4]


def test_contents_with_prompts_or_seeds_of_their_own_are_rows():
    """As where pictures of a grid are painted again, larger."""
    repaints = {
        (name, strength): Repaint(f"{name}.png", name * 12, strength, (), 0.0, 0.0, 1.0, False)
        for name in "ab"
        for strength in (0.3, 0.5)
    }
    cells = [
        dataclasses.replace(CELL, prompt=f"a {name} {{}}", seed=ord(name), repaint=repaint)
        for (name, _), repaint in repaints.items()
    ]
    columns = ["strength 0.3", "strength 0.5"]
    assert layout(cells, "title") == [
        Sheet("title", ["a a {}, seed 97", "a b {}, seed 98"], columns, [cells[:2], cells[2:]])
    ]
    same_prompt = [dataclasses.replace(cell, prompt="a {}") for cell in cells]
    assert layout(same_prompt, "title")[0].rows == ["seed 97", "seed 98"]
    (sheet,) = layout(cells[::2], "title")
    assert (sheet.columns, cells_on(sheet)) == (["strength 0.3"], [cells[:1], cells[2:3]])
    (sheet,) = layout([dataclasses.replace(cell, prompt="a {}", seed=0) for cell in cells], "title")
    assert (sheet.rows, sheet.columns) == (["content a.png", "content b.png"], columns), "nothing of their own"


def test_the_axes_are_what_varies():
    assert axes([CELL]) == []
    assert axes(cells_of("ab", (0, 1))) == ["prompt", "seed"]
    every = {
        "seed": (0, 1), "context_scale": (1.0, 2.0), "null_scale": (1.0, 2.0), "steps": (3, 4),
        "solver": ("ddim", "unipc"), "style": ("gogh", "wave"), "prompt": "ab",
    }  # fmt: skip
    expected = ["prompt", "style", "solver", "steps", "null_scale", "context_scale", "seed"]
    assert axes(product_of(**every)) == expected


def test_loras_are_called_by_their_files_names():
    cells = product_of(seed=(0, 1), loras=("none", "some/gogh.safetensors*0.5"))
    (sheet,) = layout(cells, "")
    assert (sheet.rows, sheet.columns) == (["loras none", "loras gogh*0.5"], ["seed 0", "seed 1"])


VALUES = {
    "prompt": ("a", "b", "c"), "style": ("gogh", "wave"), "steps": (3, 4), "null_scale": (1.0, 2.0), "seed": (5, 6, 7)
}  # fmt: skip


@given(st.sets(st.sampled_from(list(VALUES))), st.integers(1, 3))
def test_every_cell_is_on_one_sheet_under_its_labels(names, count):
    """With any combination of axes."""
    cells = product_of(**{name: VALUES[name][:count] for name in VALUES if name in names})
    sheets = layout(cells, "all")
    seen = []
    for sheet in sheets:
        assert len(sheet.cells) == len(sheet.rows)
        for side, row in zip(sheet.rows, cells_on(sheet), strict=True):
            for head, cell in zip(sheet.columns, row, strict=True):
                seen.append(cell.id)
                labels = {side, head, *sheet.title.split(", ")}
                spelt = {
                    axis: f"{axis} {getattr(cell, axis, cell.scales.get(axis))}".removesuffix(".0")
                    for axis in axes(cells)
                }
                spelt |= {"prompt": cell.prompt} if "prompt" in spelt else {}
                assert set(spelt.values()) <= labels
    assert sorted(seen) == sorted(cell.id for cell in cells), "without gaps or duplicates"


@pytest.mark.parametrize(
    ("axis", "values", "rows", "columns"),
    [
        ("prompt", ("a", "b", "c"), ["a", "b", "c"], ["seed 0"]),
        ("seed", (4, 5, 6), [CELL.prompt], ["seed 4", "seed 5", "seed 6"]),
        ("style", ("gogh", "wave"), ["style gogh", "style wave"], [CELL.prompt]),
        ("style_scale", (0.5, 2.0), [CELL.prompt], ["style_scale 0.5", "style_scale 2"]),
    ],
)
def test_a_single_axis(axis, values, rows, columns):
    (sheet,) = layout(product_of(**{axis: values}), "title")
    assert sheet[:3] == ("title", rows, columns)


def test_with_a_single_prompt_the_first_other_axis_is_the_rows():
    (sheet,) = layout(product_of(style_scale=(1.0, 2.0), context_scale=(3.0, 4.0, 5.0)), "title")
    assert sheet.rows == ["style_scale 1", "style_scale 2"]
    assert sheet.columns == ["context_scale 3", "context_scale 4", "context_scale 5"]
    assert [[cell.scales["context_scale"] for cell in row] for row in cells_on(sheet)] == [[3.0, 4.0, 5.0]] * 2


def test_each_combination_of_the_other_axes_has_its_own_sheet():
    cells = product_of(prompt="ab", style=("gogh", "wave"), steps=(3, 4), seed=(0, 1, 2))
    sheets = layout(cells, "title")
    titles = [f"style {style}, steps {steps}" for style in ("gogh", "wave") for steps in (3, 4)]
    assert [sheet.title for sheet in sheets] == titles
    for sheet, (style, steps) in zip(sheets, itertools.product(("gogh", "wave"), (3, 4)), strict=True):
        assert sheet[1:3] == (["a", "b"], ["seed 0", "seed 1", "seed 2"])
        shown = {(cell.style, cell.steps) for row in cells_on(sheet) for cell in row}
        assert shown == {(style, steps)}


def test_prompts_that_name_their_styles_leave_gaps_among_others():
    """They do not vary along the axis of styles."""
    cells = product_of(prompt=["by {}"], style=("gogh", "wave")) + product_of(prompt=["by {gogh}, {wave}"], style=[""])
    (sheet,) = layout(cells, "title")
    assert (sheet.rows, sheet.columns) == (
        ["style gogh", "style wave", "styles by name"],
        ["by {}", "by {gogh}, {wave}"],
    )
    assert sheet.cells == [[cells[0], None], [cells[1], None], [None, cells[2]]]


# Large grids


@pytest.mark.parametrize(
    ("prompts", "seeds", "sizes"),
    [
        (20, 16, [(20, 16)]),
        (21, 16, [(20, 16), (1, 16)]),
        (20, 17, [(20, 16), (20, 1)]),
        (41, 33, [(20, 16), (20, 16), (20, 1)] * 2 + [(1, 16), (1, 16), (1, 1)]),
    ],
)
def test_a_sheet_has_at_most_20_rows_and_16_columns(prompts, seeds, sizes):
    cells = cells_of([f"prompt {i}" for i in range(prompts)], range(seeds))
    sheets = layout(cells, "title")
    assert [(len(sheet.rows), len(sheet.columns)) for sheet in sheets] == sizes
    assert [cells_on(sheet)[0][0].prompt for sheet in sheets] == [sheet.rows[0] for sheet in sheets]
    assert {cell.id for sheet in sheets for row in cells_on(sheet) for cell in row} == {cell.id for cell in cells}
    for sheet in sheets:
        assert [f"seed {cell.seed}" for cell in cells_on(sheet)[-1]] == sheet.columns


def test_several_sheets_are_numbered_and_those_of_an_earlier_grid_are_removed(tmp_path):
    cells = product_of(style=("gogh", "wave"), prompt="ab", seed=(0, 1))
    files = saved(tmp_path / "images", cells)
    folder = tmp_path / "out"
    mine = folder / "grid of mine.png"
    assert write_sheets(folder, cells[:4], files, STYLES) == [folder / "grid.png"]
    mine.write_text("mine")
    several = [folder / "grid_001.png", folder / "grid_002.png"]
    assert write_sheets(folder, cells, files, STYLES) == several
    assert sorted(folder.iterdir()) == [mine, *several]
    for sheet, shown in zip(several, (cells[:4], cells[4:]), strict=True):
        found = places(sheet, colours_of(files, cells))
        assert [place is not None for place in found] == [cell in shown for cell in cells]
    write_sheets(folder, cells[:4], files, STYLES)
    assert sorted(folder.iterdir()) == [mine, folder / "grid.png"]


# The pictures


def test_every_picture_is_in_its_place(tmp_path):
    cells = cells_of("abc", range(4))
    files = saved(tmp_path, cells)
    (sheet,) = write_sheets(tmp_path, cells[::-1], files, STYLES)
    found = places(sheet, colours_of(files, cells))
    lefts, tops = ([place[i] for place in found] for i in (0, 1))
    size = {(right - left, bottom - top) for left, top, right, bottom in found}
    assert size == {(239, 159)}, "24 x 16 pixels, ten times as large"
    for row in range(3):
        assert len({*tops[row * 4 : row * 4 + 4]}) == 1
        assert lefts[row * 4 : row * 4 + 4] == lefts[:4]
    assert lefts[:4] == sorted(lefts[:4], reverse=True) and tops[::4] == sorted(tops[::4], reverse=True)


def test_a_missing_picture_leaves_a_gap(tmp_path):
    cells = cells_of("ab", (0, 1))
    files = saved(tmp_path, cells)
    colours = colours_of(files, cells)
    (whole,) = write_sheets(tmp_path / "whole", cells, files, STYLES)
    expected = places(whole, colours)
    for number, cell in enumerate(cells):
        left = {id: file for id, file in files.items() if id != cell.id}
        (sheet,) = write_sheets(tmp_path / "gap", cells, left, STYLES)
        assert places(sheet, colours) == [None if i == number else place for i, place in enumerate(expected)]
    (sheet,) = write_sheets(tmp_path / "nothing", cells, {}, STYLES)
    assert Image.open(sheet).width > 100


def test_the_training_picture_of_a_single_style_comes_first(tmp_path):
    Image.new("RGB", (40, 30), (200, 30, 40)).save(tmp_path / "stars.png")
    style = Style("gogh", {"clip_l": TABLE}, {"images": [str(tmp_path / "stars.png")]})
    styles = {"gogh": style, "wave": style}
    cells = cells_of("ab", (0, 1))
    files = saved(tmp_path, cells)

    def learned_from(cells):
        (sheet,) = write_sheets(tmp_path, cells, files, styles)
        return places(sheet, [(200, 30, 40), colours_of(files, cells)[0]])

    original, first = learned_from(cells)
    assert original[2] < first[0] and original[1] < first[1] + 30
    with_three = [dataclasses.replace(cell, styles={"gogh": "0", "wave": "0", "hokusai": "0"}) for cell in cells]
    files |= saved(tmp_path, with_three)
    assert learned_from(with_three)[0] is None
    (tmp_path / "stars.png").write_bytes(b"no longer a picture")
    assert learned_from(cells)[0] is None


def test_the_training_picture_of_each_row_comes_first(tmp_path):
    styles = {}
    for number, name in enumerate(("gogh", "wave", "hokusai")):
        Image.new("RGB", (30, 30), (200, 30, number)).save(tmp_path / f"{name}.png")
        styles[name] = Style(name, {"clip_l": TABLE}, {"images": [str(tmp_path / f"{name}.png")]})
    cells = [
        dataclasses.replace(cell, styles={cell.style: "0"}) for cell in product_of(style=tuple(styles), prompt="ab")
    ]
    files = saved(tmp_path, cells)
    (sheet,) = write_sheets(tmp_path, cells, files, styles)
    originals = places(sheet, [(200, 30, number) for number in range(3)])
    painted = places(sheet, colours_of(files, cells))
    for original, *row in zip(originals, painted[::2], painted[1::2], strict=True):
        assert original[2] < row[0][0] < row[1][0]
        assert abs(original[1] + original[3] - row[0][1] - row[0][3]) < 4, "in the middle of its own row"


def test_the_training_pictures_of_two_styles_are_side_by_side(tmp_path):
    styles = {}
    for number, name in enumerate(("cat", "gogh")):
        Image.new("RGB", (30, 30), (200, 30, number)).save(tmp_path / f"{name}.png")
        styles[name] = Style(name, {"clip_l": TABLE}, {"images": [str(tmp_path / f"{name}.png")]})
    cells = [dataclasses.replace(cell, styles={"cat": "0", "gogh": "0"}) for cell in cells_of("ab", (0, 1))]
    files = saved(tmp_path, cells)
    (sheet,) = write_sheets(tmp_path, cells, files, styles)
    cat, gogh, first = places(sheet, [(200, 30, 0), (200, 30, 1), colours_of(files, cells)[0]])
    assert cat[2] < gogh[0] < gogh[2] < first[0]


def test_the_picture_that_a_row_repaints_comes_first(tmp_path):
    cells = []
    for number, name in enumerate(("one", "two")):
        Image.new("RGB", (40, 30), (200, 30, number)).save(tmp_path / f"{name}.png")
        repaint = Repaint(str(tmp_path / f"{name}.png"), "0", 0.8, (), 0.0, 0.0, 1.0, False)
        cells += [dataclasses.replace(cell, repaint=repaint) for cell in cells_of("a", (0, 1))]
    files = saved(tmp_path, cells)
    (sheet,) = write_sheets(tmp_path, cells, files, STYLES)
    one, two, *painted = places(sheet, [(200, 30, 0), (200, 30, 1), *colours_of(files, cells)])
    assert one[2] < painted[0][0] < painted[1][0] and abs(one[1] - painted[0][1]) < 30
    assert two[2] < painted[2][0] and two[1] > one[3]
    (tmp_path / "two.png").unlink()
    write_sheets(tmp_path, cells, files, STYLES)
    assert places(sheet, [(200, 30, 0)]) == [None]
