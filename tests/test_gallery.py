"""A grid's folder: what is written, in which order, and what an interruption, a failure or damage leaves of it."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import resource
import shutil
import threading

import numpy as np
import pytest
from cells import CELL, ODD_PROMPTS, cells_of, plain_picture
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from script_tools import contents

from dreamstyler_jax.grids import cells as grid
from dreamstyler_jax.grids import gallery
from dreamstyler_jax.grids.gallery import Gallery, Writer
from dreamstyler_jax.runtime import files, images
from dreamstyler_jax.runtime.errors import UserError

CELLS = cells_of(ODD_PROMPTS[:2], range(3))
PICTURES = {cell.id: plain_picture(10 * number) for number, cell in enumerate(CELLS)}


def work(folder, cells=CELLS, shard=(0, 1), merge=False):
    """What one process does with its share of a grid; the ids of what it painted."""
    process = Gallery(folder, shard)
    process.check_definition(grid.definition(cells), merge)
    missing = process.missing(cells[shard[0] :: shard[1]])
    process.begin()
    for cell in missing:
        process.save(cell, PICTURES[cell.id])
    if shard[1] == 1:
        process.finish(cells)
    return [cell.id for cell in missing]


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a grid that nothing disturbed; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    assert work(folder) == [cell.id for cell in CELLS]
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


# What is written


def test_pictures_say_what_they_are(tmp_path):
    cells = cells_of(ODD_PROMPTS, (7,))
    process = Gallery(tmp_path)
    process.begin()
    for number, cell in enumerate(cells):
        process.save(cell, plain_picture(number))
        file = tmp_path / "images" / f"{cell.id}.png"
        np.testing.assert_array_equal(Image.open(file), images.to_image(plain_picture(number)))
        text = images.read_text(file)
        assert text["prompt"] == cell.prompt.encode("utf-8", "replace").decode()
        assert json.loads(text["scales"]) == cell.scales
        assert json.loads(text["styles"]) == cell.styles
        assert text.items() >= {
            "seed": "7", "guidance": "paper", "solver": "dpmpp_2m", "steps": "25", "height": "16", "width": "24",
            "model": "mini", "model_hash": "ba9876543210", "negative_prompt": "", "dtype": "float32", "style": "gogh",
        }.items()  # fmt: skip
        assert text["software"].startswith("dreamstyler_jax ")
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == sorted(["manifest.jsonl", *(f"{cell.id}.png" for cell in cells)])


def test_the_manifest_has_one_line_per_picture(whole):
    lines = manifest(whole)
    assert [line.pop("sha256") for line in lines] == [digest(whole / line["file"]) for line in lines]
    assert lines == [{"id": c.id, "file": f"images/{c.id}.png", **c.parameters()} for c in CELLS]


def digest(file):
    return gallery.hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_finished_grid_is_left_as_it_is(copy):
    before = contents(copy)
    assert work(copy) == []
    assert contents(copy) == before


def test_another_grid_of_the_folder_stays_listed_before_it(copy):
    others = cells_of(ODD_PROMPTS[2:3], range(2))
    PICTURES.update({cell.id: plain_picture(7000) for cell in others})
    work(copy, others, merge=True)
    assert [line["id"] for line in manifest(copy)] == [cell.id for cell in CELLS + others]
    work(copy)
    assert [line["id"] for line in manifest(copy)] == [cell.id for cell in others + CELLS]


# Interruption


class Stopped(BaseException):
    """What ends a process at once."""


@contextlib.contextmanager
def at_every_step(act):
    """Calls ``act`` before and after everything that the disk is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "replace"), (os, "fsync"), (files, "_sync_folder")):
            real = getattr(module, name)

            def step(*arguments, real=real):
                act()
                real(*arguments)
                act()

            patch.setattr(module, name, step)
        yield


def test_a_process_killed_at_any_moment_is_continued_as_if_nothing_had_been(whole, tmp_path):
    """Killed: nothing is tidied up. At each moment the folder is copied as it is, and continued from there."""
    stills = []

    def copy():
        stills.append(tmp_path / f"still {len(stills)}")
        shutil.copytree(tmp_path / "run", stills[-1])

    (tmp_path / "run").mkdir()
    with at_every_step(copy):
        work(tmp_path / "run")
    expected, painted = contents(whole), []
    for still in stills:
        painted.append(len(work(still)))
        assert contents(still) == expected
    assert painted == sorted(painted, reverse=True)
    assert set(painted) == set(range(len(CELLS) + 1)), "what is there and listed is never painted again"


def test_an_exception_at_any_moment_leaves_a_folder_that_can_be_continued(whole, tmp_path):
    expected, moments = contents(whole), range(1000)
    for moment in moments:
        folder, steps = tmp_path / str(moment), iter(range(moment))
        folder.mkdir()

        def stop(steps=steps):
            if next(steps, None) is None:
                raise Stopped

        with at_every_step(stop), contextlib.suppress(Stopped):
            work(folder)
            break
        assert not [name for name in contents(folder) if name.endswith(".tmp")]
        work(folder)
        assert contents(folder) == expected
    assert moment > 6 * len(CELLS)


def test_a_torn_last_line_spoils_nothing(whole, copy):
    lines = (whole / "manifest.jsonl").read_bytes()
    last = lines[:-1].rindex(b"\n") + 1
    for cut in (last + 1, last + 100, len(lines) - 20, len(lines) - 1):
        (copy / "manifest.jsonl").write_bytes(lines[:cut])
        process = Gallery(copy)
        assert process.missing(CELLS) == CELLS[-1:]
        process.begin()
        process.save(CELLS[-1], PICTURES[CELLS[-1].id])
        assert (copy / "manifest.jsonl").read_bytes() == lines, "also while painting goes on"


def test_what_killed_processes_left_behind_is_removed_and_nothing_else(whole, copy):
    for folder in (copy, copy / "images"):
        (folder / f".{'0123456789abcdef' * 2}.tmp").write_bytes(b"half a")
    (copy / ".mine.tmp").write_text("mine")
    work(copy)
    assert contents(copy) == {**contents(whole), ".mine.tmp": b"mine"}


# Verification


@pytest.mark.parametrize("damage", ["truncated", "changed", "deleted", "a folder"])
def test_a_picture_that_is_not_what_was_written_is_painted_again_and_no_other(whole, copy, damage):
    file = copy / "images" / f"{CELLS[2].id}.png"
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[:-1])
    elif damage == "changed":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "a folder":
        file.mkdir()
        assert Gallery(copy).missing(CELLS) == [CELLS[2]]
        return
    assert work(copy) == [CELLS[2].id]
    assert contents(copy) == contents(whole)


def test_a_damaged_manifest_is_named(tmp_path):
    nested = b"[" * 100_000 + b"\n"
    for content in (
        b"not JSON\n",
        b"[]\n",
        b'{"file": "a.png"}\n',
        b"\xff\n",
        b'{"id": "0"}\n{\n{"id": "1"}\n',
        nested,
    ):
        (tmp_path / "manifest.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"manifest\.jsonl is damaged .*: remove it"):
            Gallery(tmp_path)


# Failures


def test_a_failed_cell_is_recorded_and_missing_until_it_is_painted(whole, copy):
    process = Gallery(copy)
    process.fail(CELLS[1], "the picture holds NaN or Inf")
    assert manifest(copy)[-1] == {
        "id": CELLS[1].id, "error": "the picture holds NaN or Inf", **CELLS[1].parameters(),
    }  # fmt: skip
    assert process.missing(CELLS) == Gallery(copy).missing(CELLS) == [CELLS[1]]
    assert work(copy) == [CELLS[1].id]
    assert contents(copy) == contents(whole)


def test_a_picture_of_nan_is_refused_and_nothing_written(copy, whole):
    for bad in (np.nan, np.inf):
        picture = np.array(plain_picture(0))
        picture[3, 4, 1] = bad
        with pytest.raises(ValueError, match="NaN or Inf"):
            Gallery(copy).save(CELLS[0], picture)
    assert contents(copy) == contents(whole)


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_manifest_whole(tmp_path):
    """A part of it would spoil the next line, and with it the whole manifest."""
    process = Gallery(tmp_path)
    process.begin()
    for cell in CELLS[:5]:
        process.save(cell, PICTURES[cell.id])
    before = (tmp_path / "manifest.jsonl").read_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(OSError):
            process.save(CELLS[5], PICTURES[CELLS[5].id])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert (tmp_path / "images" / f"{CELLS[5].id}.png").exists(), "it is the line that failed"
    assert (tmp_path / "manifest.jsonl").read_bytes() == before
    process.save(CELLS[5], PICTURES[CELLS[5].id])
    assert not Gallery(tmp_path).missing(CELLS)


# Several processes


@pytest.mark.parametrize("count", [2, 4, 9])
def test_shards_make_together_what_one_process_makes(whole, tmp_path, count):
    for index in range(count):
        assert work(tmp_path, shard=(index, count)) == [cell.id for cell in CELLS[index::count]]
        assert not (tmp_path / "manifest.jsonl").exists()
    assert work(tmp_path) == []
    assert contents(tmp_path) == contents(whole)


def test_a_shard_paints_what_is_missing_of_its_own_only(whole, copy):
    for cell in (CELLS[0], CELLS[1], CELLS[3]):
        (copy / "images" / f"{cell.id}.png").unlink()
    assert work(copy, shard=(1, 2)) == [CELLS[1].id, CELLS[3].id]
    assert work(copy) == [CELLS[0].id]
    assert contents(copy) == contents(whole)


def test_what_one_process_painted_outweighs_that_another_failed(tmp_path):
    """Whichever of their manifests is read first."""
    process, zero, one = Gallery(tmp_path), Gallery(tmp_path, (0, 2)), Gallery(tmp_path, (1, 2))
    process.begin()
    process.fail(CELLS[0], "no room")
    zero.save(CELLS[0], PICTURES[CELLS[0].id])
    zero.save(CELLS[1], PICTURES[CELLS[1].id])
    one.fail(CELLS[1], "no room")
    process.fail(CELLS[2], "no room")
    assert Gallery(tmp_path).missing(CELLS[:3]) == [CELLS[2]]


# The definition


def test_a_changed_grid_is_refused_in_one_line_and_added_with_merge(whole, copy):
    more = cells_of(ODD_PROMPTS[:2], range(4))
    PICTURES.update({cell.id: plain_picture(8000) for cell in more[3::4]})
    with pytest.raises(UserError, match=r"pictures of another grid \(seed differs\): .*--output.*--merge") as error:
        work(copy, more)
    assert "\n" not in str(error.value)
    assert contents(copy) == contents(whole)
    assert work(copy, more, merge=True) == [cell.id for cell in more[3::4]]
    assert work(copy, more) == work(copy, CELLS) == [], "both are the folder's own now"
    with pytest.raises(UserError, match=r"seed, scales differ|scales, seed differ"):
        work(copy, [dataclasses.replace(CELL, scales={**CELL.scales, "style_scale": 9.0}, seed=5)])


def test_a_grid_of_which_nothing_was_painted_does_not_count(tmp_path):
    Gallery(tmp_path).check_definition(grid.definition(CELLS), False)
    Gallery(tmp_path).check_definition(grid.definition(CELLS[:1]), False)
    work(tmp_path, CELLS[:1])
    with pytest.raises(UserError, match="another grid"):
        work(tmp_path, CELLS)


@given(st.lists(st.text(st.characters()), min_size=1, max_size=3))
@example(ODD_PROMPTS)
@example(["null", "1.0", "yes", "- a", "a: b", "\x85", "\ufeff", "\x00", "'", "--- b", "\u2028"])
def test_the_same_grid_is_known_again_whatever_its_prompts(tmp_path_factory, texts):
    folder, definition = tmp_path_factory.mktemp("grid"), grid.definition(cells_of(texts, (0, 1)))
    for _ in range(2):
        process = Gallery(folder)
        process.check_definition(definition, False)
        process.lines["some"] = {}
        process.check_definition(definition, False)


@pytest.mark.parametrize("content", ["[", "- a", "just text", "a: 1\n--- 3"])
def test_a_damaged_definition_is_named(copy, content):
    (copy / "grid.yaml").write_text(content)
    with pytest.raises(UserError, match=r"grid\.yaml is damaged: remove it"):
        work(copy)


# The writer


def test_the_writer_writes_what_it_is_given_in_this_order(whole, tmp_path):
    process = Gallery(tmp_path)
    process.check_definition(grid.definition(CELLS), False)
    process.begin()
    with Writer(process) as writer:
        for cell in CELLS:
            writer.save(cell, PICTURES[cell.id])
    assert not writer.failed
    assert contents(tmp_path) == contents(whole)


def test_the_writer_lets_only_so_many_pictures_wait(monkeypatch, tmp_path):
    monkeypatch.setattr(gallery, "_PENDING", 3)
    disk, at_limit, handed = threading.Event(), threading.Event(), []

    class Slow(Gallery):
        def save(self, cell, picture):
            assert disk.wait(60)

    def paint():
        with Writer(Slow(tmp_path)) as writer:
            for number in range(10):
                handed.append(number)
                if number == 3:
                    at_limit.set()
                writer.save(CELL, plain_picture(0))
        return writer.failed

    with concurrent.futures.ThreadPoolExecutor() as pool:
        painting = pool.submit(paint)
        assert at_limit.wait(60)
        assert not painting.done()
        with pytest.raises(concurrent.futures.TimeoutError):
            painting.result(0.2)
        assert handed == [0, 1, 2, 3], "the fourth waits with three others, and the painter with it"
        disk.set()
        assert painting.result(60) == []
    assert handed == list(range(10))


def test_the_writer_remembers_what_failed_and_goes_on(tmp_path):
    class Failing(Gallery):
        def save(self, cell, picture):
            if cell in CELLS[1:3]:
                raise OSError(28, "No space left on device")
            super().save(cell, picture)

    process = Failing(tmp_path)
    process.begin()
    with Writer(process) as writer:
        for cell in CELLS:
            writer.save(cell, PICTURES[cell.id] * (np.nan if cell == CELLS[4] else 1))
    assert [(cell.id, reason) for cell, reason in writer.failed] == [
        (CELLS[1].id, "[Errno 28] No space left on device"),
        (CELLS[2].id, "[Errno 28] No space left on device"),
        (CELLS[4].id, "the picture holds NaN or Inf"),
    ]
    assert [line["id"] for line in manifest(tmp_path)] == [CELLS[i].id for i in (0, 3, 5)]


def test_an_interruption_waits_for_the_pictures_that_are_painted(tmp_path):
    with pytest.raises(KeyboardInterrupt), Writer(Gallery(tmp_path)) as writer:
        for cell in CELLS[:4]:
            writer.save(cell, PICTURES[cell.id])
        raise KeyboardInterrupt
    assert [line["id"] for line in manifest(tmp_path)] == [cell.id for cell in CELLS[:4]]


def test_a_defect_in_writing_is_not_taken_for_a_failed_picture(tmp_path):
    class Wrong(Gallery):
        def save(self, cell, picture):
            raise TypeError("a defect")

    with pytest.raises(TypeError, match="a defect"), Writer(Wrong(tmp_path)) as writer:
        writer.save(CELL, plain_picture(0))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("writer")]
