"""``dreamstyler verify``: what it finds wrong with runs, grids and styles, and that it changes nothing."""

import dataclasses
import json
import shlex
import shutil

import pytest
from painted_tools import HOUSE, cells_of, noise, write_style
from run_folders import write_run
from script_tools import contents, refusal, run, write_picture

from dreamstyler_jax.commands import verify
from dreamstyler_jax.commands.models import hash_of_model
from dreamstyler_jax.grids.cells import definition
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.page import write_page
from dreamstyler_jax.grids.unfinished import note_begun
from dreamstyler_jax.style import FILE_NAME, Style, step_file


def found(capsys, path):
    """The exit status and the lines that are printed; nothing on the disk has changed."""
    folder = path if path.is_dir() else path.parent
    before, status = contents(folder), 0
    capsys.readouterr()
    try:
        run(verify, path)
    except SystemExit as end:
        status = end.code
    assert contents(folder) == before
    return status, capsys.readouterr().out.splitlines()


def only_finding(capsys, path):
    """The only line beside the last one, which says that one thing is wrong."""
    status, (finding, summary) = found(capsys, path)
    assert status == 3 and finding.startswith("wrong: ") and summary.endswith(": 1 wrong")
    return finding


# Runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "boat"
    write_run(folder, model_hash=hash_of_model("mini"))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "boat")


def test_all_is_well_with_a_run_and_with_a_folder_of_runs(folder, capsys):
    assert found(capsys, folder) == (0, [f"{folder}, a run: all is well"])
    assert found(capsys, folder.parent) == (0, [f"{folder}, a run: all is well"])


def edit(path, change):
    path.write_text(change(path.read_text()))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def other_style(path):
    style = Style.load(path)
    Style(style.name, {"clip_l": style.tables["clip_l"] + 1}, style.metadata).save(path)


def without_line(text):
    return "".join(line for line in text.splitlines(keepends=True) if '"step": 15,' not in line)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: other_style(at / FILE_NAME), "not the style that the checkpoint of step 30 holds"),
        (lambda at: other_style(step_file(at, 20)), "step_000020.safetensors: not the style that the checkpoint holds"),
        (lambda at: flip(step_file(at, 10)), "step_000010.safetensors: the file is damaged"),
        (lambda at: step_file(at, 10).unlink(), "step_000010.safetensors missing"),
        (lambda at: (at / "previews/step_000020.png").unlink(), "there is no picture"),
        (lambda at: flip(next((at / "checkpoints/20").rglob("d/*"))), "checkpoints/20: damaged, or of other settings"),
        (lambda at: edit(at / "metrics.jsonl", without_line), "there is no line of 1 steps: 15"),
        (lambda at: edit(at / "metrics.jsonl", lambda text: text.replace("0.3", "NaN", 1)), "line 1 of"),
        (lambda at: edit(at / "config.yaml", lambda text: text.replace("seed: 0", "seed: 7")), "seed differ"),
        (lambda at: edit(at / "sessions.jsonl", lambda text: "{" + text), "line 1 of"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_run(folder, capsys, damage, message):
    damage(folder)
    assert message in only_finding(capsys, folder)


def test_a_training_picture_may_move_but_not_change(tmp_path, capsys):
    folder = tmp_path / "boat"
    write_run(folder)
    picture = write_picture(tmp_path / "boat.png", 1)
    assert "its training picture has changed" in only_finding(capsys, folder)
    picture.unlink()
    status, (finding, _) = found(capsys, folder)
    assert status == 0 and finding.startswith("note: ") and "has moved" in finding


def test_another_model_is_named(tmp_path, capsys):
    write_run(tmp_path / "boat", model_hash="0" * 12)
    assert "the model mini is not the one that learned the style" in only_finding(capsys, tmp_path / "boat")


def test_a_run_that_is_not_finished_is_neither_well_nor_wrong(tmp_path, capsys):
    folder = tmp_path / "boat"
    write_run(folder, steps=20)
    status, (finding, summary) = found(capsys, folder)
    assert status == 4 and finding.startswith(f"unfinished: {folder}: not finished, 20 of 30 steps are saved; to ")
    assert "to continue: dreamstyler train" in finding and " --resume " in finding
    assert summary.endswith("a run: not finished, all that is there is well")
    flip(step_file(folder, 10))
    status, lines = found(capsys, folder)
    assert status == 3 and lines[-1].endswith("1 wrong, and not finished")


def test_a_run_without_a_checkpoint_is_not_finished(tmp_path, capsys):
    write_run(tmp_path / "boat", steps=0)
    status, (finding, _) = found(capsys, tmp_path / "boat")
    assert status == 4 and "not finished, none of 30 steps is saved; to continue: dreamstyler train" in finding


# Styles


def test_files_of_styles(finished, tmp_path, capsys):
    file = shutil.copy(finished / FILE_NAME, tmp_path)
    assert found(capsys, tmp_path / FILE_NAME) == (0, [f"{file}, a style: all is well"])
    style = Style.load(file)
    long = style.tables["clip_l"] * 100
    Style("long", {"clip_l": long}, style.metadata).save(file)
    status, (finding, _) = found(capsys, tmp_path / FILE_NAME)
    assert status == 0 and "times as long as words" in finding
    Style("zero", {"clip_l": 0 * long}, style.metadata).save(file)
    assert "a vector of it is zero" in only_finding(capsys, tmp_path / FILE_NAME)
    flip(tmp_path / FILE_NAME)
    assert "the file is damaged" in only_finding(capsys, tmp_path / FILE_NAME)


# Grids


@pytest.fixture
def grid(tmp_path):
    """Two pictures with their page, and the style that painted them."""
    runs = write_style(tmp_path / "runs/gogh", "gogh")
    arrays, hash = noise(2), Style.load(runs / FILE_NAME).hash
    cells = cells_of("mini", [(HOUSE + " {}", 0), (HOUSE + " {}", 1)], {"gogh": hash}, arrays)
    cells = [dataclasses.replace(cell, model_hash=hash_of_model("mini")) for cell in cells]
    command = shlex.join(["dreamstyler", "sample", "--styles", str(runs), "--prompts", HOUSE + " {}"])
    gallery = Gallery(tmp_path / "out", note=lambda cell: {"command": command})
    gallery.begin()
    for cell, array in zip(cells, arrays, strict=True):
        gallery.save(cell, array)
    gallery.define(definition(cells))
    gallery.finish(cells)
    write_page(gallery.folder, gallery.lines.values(), title="gogh")
    return gallery.folder


def pictures_of(grid):
    return sorted((grid / "images").iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: pictures_of(at)[0].unlink(), "1 pictures are missing: images/"),
        (lambda at: flip(pictures_of(at)[1]), "1 pictures are damaged: images/"),
        (lambda at: (at / "index.html").unlink(), "index.html: missing"),
        (lambda at: (at / "grid.yaml").unlink(), "grid.yaml: missing"),
        (lambda at: next((at / "atlas").iterdir()).unlink(), "its thumbnails atlas/"),
        (lambda at: edit(at / "manifest.jsonl", lambda text: text[10:]), "line 1 of"),
        (lambda at: other_style(at.parent / "runs/gogh" / FILE_NAME), "the style 'gogh' is not the one that painted 2"),
        (
            lambda at: edit(at / "manifest.jsonl", lambda text: text.replace(hash_of_model("mini"), "0" * 12)),
            "the model mini is not the one that painted 2 pictures",
        ),
    ],
)
def test_what_is_wrong_with_a_grid(grid, capsys, damage, message):
    assert found(capsys, grid) == (0, [f"{grid}, a grid: all is well"])
    damage(grid)
    assert message in only_finding(capsys, grid)


def test_what_is_worth_knowing_of_a_grid(grid, capsys):
    (grid / "images/mine.png").write_bytes(b"x")
    shutil.rmtree(grid.parent / "runs")
    status, lines = found(capsys, grid)
    assert status == 0 and len(lines) == 3
    assert "1 pictures that the manifest does not list: mine.png" in lines[0] and "styles are not compared" in lines[1]


def test_a_picture_that_failed_is_named(grid, capsys):
    text = (grid / "manifest.jsonl").read_text().splitlines()
    line = json.loads(text[0])
    failed = {key: value for key, value in line.items() if key not in ("file", "sha256")} | {"error": "no room"}
    (grid / "manifest.jsonl").write_text("\n".join([json.dumps(failed), *text[1:]]) + "\n")
    (grid / line["file"]).unlink()
    assert f"1 pictures failed: {line['id']}" in only_finding(capsys, grid)


def test_a_grid_that_was_stopped_says_how_far_it_came_and_how_to_go_on(grid, capsys):
    """Also if it was killed before there was a page, and beside another grid of its folder, which is finished."""
    gallery, cells = (
        Gallery(grid),
        cells_of("mini", [(HOUSE + " {}", seed) for seed in (1, 7, 8)], {"gogh": "0"}, noise(3)),
    )
    note_begun(grid, "dreamstyler sample --seeds 1 7 8", [cell.id for cell in cells])
    (grid / "index.html").unlink()
    gallery.save(cells[0], noise(1)[0])
    gallery.fail(cells[1], "no room")
    expected = (
        f"unfinished: {grid}: not finished, 1 of 3 pictures are painted; to continue: dreamstyler sample --seeds 1"
    )
    status, lines = found(capsys, grid)
    assert (
        status == 3 and any(line.startswith(expected) for line in lines) and not any("index" in line for line in lines)
    )


def test_nothing_to_check_is_a_mistake(tmp_path, capfd):
    assert "is no run, no grid and no style" in refusal(capfd, verify, tmp_path)
    assert f"there is no file and no folder {tmp_path / 'nowhere'}" in refusal(capfd, verify, tmp_path / "nowhere")
    assert "give runs, grids or styles" in refusal(capfd, verify)
