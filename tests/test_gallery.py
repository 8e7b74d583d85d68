"""A grid's folder: what is written, in which order, and what an interruption, a failure or damage leaves."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import threading

import numpy as np
import pytest
import yaml
from cells import CELL, ODD_PROMPTS, cells_of, plain_picture
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from script_tools import contents

from dreamstyler_jax.grids.cells import ABSENT, UNRECORDED, Repaint, definition
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.writer import Writer
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError

CELLS = cells_of(ODD_PROMPTS[:2], range(3))
PICTURES = {cell.id: plain_picture(10 * number) for number, cell in enumerate(CELLS)}
SETTINGS = {CELL.model_hash: CELL.model_settings}


def work(folder, cells=CELLS, shard=(0, 1)):
    """Does what a process does with its share of a grid, and returns the ids of what it painted."""
    settings = {cell.model_hash: cell.model_settings for cell in cells}
    process = Gallery(folder, shard, settings=settings)
    process.define(definition(cells))
    missing = process.missing(cells[shard[0] :: shard[1]])
    process.begin()
    for cell in missing:
        process.save(cell, PICTURES[cell.id])
    if shard[1] == 1:
        process.finish(cells)
    return [cell.id for cell in missing]


def as_of_older_version(folder, cells, written=()):
    """Rewrites a finished folder as an older version left it: other ids, and no defaults of the parameters in ABSENT.

    Args:
        folder: the folder.
        cells: the grid.
        written: what its definition says of these parameters.
    """
    lines = []
    for number, line in enumerate(manifest(folder)):
        line = {
            name: value
            for name, value in line.items()
            if line.get(name) != ABSENT.get(name, ...) and name not in UNRECORDED
        }
        file = f"images/{number:016x}.png"
        (folder / line["file"]).rename(folder / file)
        lines.append(line | {"id": f"{number:016x}", "file": file})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    old = {name: value for name, value in definition(cells).items() if name not in ABSENT}
    (folder / "grid.yaml").write_text(yaml.safe_dump(old | dict(written), sort_keys=False))
    return lines


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a finished grid that was never interrupted; not to be changed."""
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
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_finished_grid_is_left_as_it_is(copy):
    before = contents(copy)
    assert work(copy) == []
    assert contents(copy) == before


def test_another_grid_of_the_folder_stays_listed_before_it(copy):
    others = cells_of(ODD_PROMPTS[2:3], range(2))
    PICTURES.update({cell.id: plain_picture(7000) for cell in others})
    work(copy, others)
    assert [line["id"] for line in manifest(copy)] == [cell.id for cell in CELLS + others]
    work(copy)
    assert [line["id"] for line in manifest(copy)] == [cell.id for cell in others + CELLS]


# Interruption


class Stopped(BaseException):
    """Ends a process at once."""


@contextlib.contextmanager
def at_every_step(act):
    """Calls ``act`` before and after every change on the disk and every flush."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "fsync"):
            real = getattr(os, name)

            def step(*arguments, real=real):
                act()
                real(*arguments)
                act()

            patch.setattr(os, name, step)
        yield


def test_a_process_killed_at_any_moment_can_be_continued(whole, tmp_path):
    """A killed process tidies nothing up. The folder is copied at each moment, and the copy continued."""
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
    expected, moment = contents(whole), 0
    for moment in range(1000):
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


def test_a_last_line_that_was_cut_short_is_written_again(whole, copy):
    lines = (whole / "manifest.jsonl").read_bytes()
    last = lines[:-1].rindex(b"\n") + 1
    for cut in (last + 1, last + 100, len(lines) - 20, len(lines) - 1):
        (copy / "manifest.jsonl").write_bytes(lines[:cut])
        process = Gallery(copy)
        assert process.missing(CELLS) == CELLS[-1:]
        process.begin()
        process.save(CELLS[-1], PICTURES[CELLS[-1].id])
        assert (copy / "manifest.jsonl").read_bytes() == lines


def test_temporary_files_of_killed_processes_are_removed_and_nothing_else(whole, copy):
    for folder in (copy, copy / "images"):
        (folder / f".{'0123456789abcdef' * 2}.tmp").write_bytes(b"half a")
    (copy / ".mine.tmp").write_text("mine")
    work(copy)
    assert contents(copy) == {**contents(whole), ".mine.tmp": b"mine"}


# Verification


@pytest.mark.parametrize("damage", ["truncated", "changed", "deleted", "a folder"])
def test_only_a_picture_that_is_not_what_was_written_is_painted_again(whole, copy, damage):
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
        json.dumps({"id": "0", **CELLS[0].parameters(), "model_hash": []}).encode() + b"\n",
    ):
        (tmp_path / "manifest.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"line \d of .*manifest\.jsonl is damaged, .*; remove it"):
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
    """Part of a line would make the next line unreadable, and with it the manifest."""
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
    assert (tmp_path / "images" / f"{CELLS[5].id}.png").exists(), "the line failed, not the picture"
    assert (tmp_path / "manifest.jsonl").read_bytes() == before
    process.save(CELLS[5], PICTURES[CELLS[5].id])
    assert not Gallery(tmp_path).missing(CELLS)


# Several processes


@pytest.mark.parametrize("count", [2, 4, 9])
def test_shards_together_make_what_one_process_makes(whole, tmp_path, count):
    for index in range(count):
        assert work(tmp_path, shard=(index, count)) == [cell.id for cell in CELLS[index::count]]
        assert not (tmp_path / "manifest.jsonl").exists()
    assert work(tmp_path) == []
    assert contents(tmp_path) == contents(whole)


def test_a_shard_paints_only_what_its_own_part_lacks(whole, copy):
    for cell in (CELLS[0], CELLS[1], CELLS[3]):
        (copy / "images" / f"{cell.id}.png").unlink()
    assert work(copy, shard=(1, 2)) == [CELLS[1].id, CELLS[3].id]
    assert work(copy) == [CELLS[0].id]
    assert contents(copy) == contents(whole)


def test_a_picture_counts_for_more_than_another_process_s_failure(tmp_path):
    """Whichever of the manifests is read first."""
    process, zero, one = Gallery(tmp_path), Gallery(tmp_path, (0, 2)), Gallery(tmp_path, (1, 2))
    process.begin()
    process.fail(CELLS[0], "no room")
    zero.save(CELLS[0], PICTURES[CELLS[0].id])
    zero.save(CELLS[1], PICTURES[CELLS[1].id])
    one.fail(CELLS[1], "no room")
    process.fail(CELLS[2], "no room")
    assert Gallery(tmp_path).missing(CELLS[:3]) == [CELLS[2]]


# The definition


def test_a_changed_grid_is_another_and_can_be_added(whole, copy):
    more = cells_of(ODD_PROMPTS[:2], range(4))
    PICTURES.update({cell.id: plain_picture(8000) for cell in more[3::4]})
    assert Gallery(copy).holds_another(definition(CELLS)) == []
    assert Gallery(copy).holds_another(definition(more)) == ["seed"]
    assert contents(copy) == contents(whole)
    assert work(copy, more) == [cell.id for cell in more[3::4]]
    assert Gallery(copy).holds_another(definition(more)) == Gallery(copy).holds_another(definition(CELLS)) == []
    assert work(copy, more) == work(copy, CELLS) == []
    other = dataclasses.replace(CELL, scales={**CELL.scales, "style_scale": 9.0}, seed=5)
    assert sorted(Gallery(copy).holds_another(definition([other]))) == ["prompt", "scales", "seed"]


def test_a_grid_without_what_the_other_repaints_is_another(tmp_path):
    """All of its own parameters are the same."""
    repaint = Repaint("a.png", "0", 0.8, (), 0.0, 0.0, 1.0, False)
    cell = dataclasses.replace(CELL, repaint=repaint)
    PICTURES.update({cell.id: plain_picture(0)})
    work(tmp_path, [cell])
    differing = Gallery(tmp_path).holds_another(definition([CELL]))
    assert sorted(differing) == sorted(field.name for field in dataclasses.fields(Repaint))


def test_a_grid_of_which_nothing_was_painted_does_not_count(tmp_path):
    Gallery(tmp_path).define(definition(CELLS))
    assert not Gallery(tmp_path).holds_another(definition(CELLS[:1]))
    work(tmp_path, CELLS[:1])
    assert Gallery(tmp_path).holds_another(definition(CELLS)) == ["prompt", "seed"]


@given(st.lists(st.text(st.characters()), min_size=1, max_size=3))
@example(ODD_PROMPTS)
@example(["null", "1.0", "yes", "- a", "a: b", "\x85", "\ufeff", "\x00", "'", "--- b", "\u2028"])
def test_the_same_grid_is_known_again_whatever_its_prompts(tmp_path_factory, texts):
    folder, wanted = tmp_path_factory.mktemp("grid"), definition(cells_of(texts, (0, 1)))
    for _ in range(2):
        process = Gallery(folder)
        process.define(wanted)
        process.lines["0"] = {}
        assert not process.holds_another(wanted)


@pytest.mark.parametrize("content", ["[", "- a", "just text", "a: 1\n--- 3"])
def test_a_damaged_definition_is_named(copy, content):
    (copy / "grid.yaml").write_text(content)
    with pytest.raises(UserError, match=r"grid\.yaml is (damaged|not YAML).*; remove it"):
        work(copy)


# Folders of older versions


def test_pictures_of_an_older_version_are_known_and_keep_their_files(whole, copy):
    older = as_of_older_version(copy, CELLS)
    for line in older[1], older[4]:
        (copy / line["file"]).unlink()
    files = [line["file"] for line in older]
    process = Gallery(copy, settings=SETTINGS)
    assert not process.holds_another(definition(CELLS))
    assert process.missing(CELLS) == [CELLS[1], CELLS[4]]
    assert process.listed(CELLS) == len(CELLS)
    assert work(copy) == [CELLS[1].id, CELLS[4].id]
    expected = manifest(whole)
    for number in (0, 2, 3, 5):
        expected[number]["file"] = files[number]
    assert manifest(copy) == expected, "with all parameters"
    assert sorted(path.name for path in (copy / "images").iterdir()) == sorted(
        line["file"].removeprefix("images/") for line in expected
    )
    assert (copy / "grid.yaml").read_bytes() == (whole / "grid.yaml").read_bytes()
    assert work(copy) == []


def test_a_shard_of_an_older_version_is_continued(whole, tmp_path):
    work(tmp_path, shard=(0, 2))
    (part,) = tmp_path.glob("manifest.*.jsonl")
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    older = [{name: value for name, value in line.items() if name not in ABSENT} | {"id": "0"} for line in lines]
    older = [line | {"id": str(number)} for number, line in enumerate(older)]
    part.write_text("".join(json.dumps(line) + "\n" for line in older))
    assert work(tmp_path, shard=(0, 2)) == []
    assert work(tmp_path) == [cell.id for cell in CELLS[1::2]]
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize(
    "more", [{}, {"checkpoint": 100}, {"guidance_end": 0.5, "cache_interval": 2}], ids=lambda more: "+".join(more)
)
def test_a_grid_of_an_older_version_is_known_whatever_it_left_out(tmp_path, more):
    """A grid whose prompts name a checkpoint themselves has cells with and without one; only one was written down."""
    cells = [CELL, dataclasses.replace(CELL, prompt="a {}", **more)]
    PICTURES.update({cell.id: plain_picture(0) for cell in cells})
    work(tmp_path, cells)
    as_of_older_version(tmp_path, cells, more)
    assert Gallery(tmp_path).holds_another(definition(cells)) == []
    assert work(tmp_path, cells) == []
    (now,) = yaml.safe_load_all((tmp_path / "grid.yaml").read_text())
    assert now == definition(cells)
    other = dataclasses.replace(CELL, cache_interval=3)
    assert "cache_interval" in Gallery(tmp_path).holds_another(definition([other]))


def test_pictures_of_an_older_version_are_taken_to_be_of_the_models_settings_of_today(tmp_path):
    """They did not say what else than weights the model had, so that nobody knows; newer ones say it."""
    mine, other = ([dataclasses.replace(cell, model_settings=words) for cell in CELLS] for words in ("mine", "other"))
    PICTURES.update({cell.id: plain_picture(0) for cell in (*mine, *other)})
    work(tmp_path, mine)
    as_of_older_version(tmp_path, mine)
    assert len(Gallery(tmp_path, settings={CELL.model_hash: "other"}).missing(mine)) == len(mine)
    assert Gallery(tmp_path, settings={"another model": "other"}).missing(CELLS) == []
    assert Gallery(tmp_path, settings={CELL.model_hash: "mine"}).holds_another(definition(mine)) == []
    assert work(tmp_path, mine) == []
    assert Gallery(tmp_path).holds_another(definition(other)) == ["model_settings"]
    assert len(Gallery(tmp_path, settings={CELL.model_hash: "other"}).missing(other)) == len(other)


@pytest.mark.parametrize("lacking", [["clip_skip"], ["clip_skip", "loras"]], ids="+".join)
def test_a_grid_from_between_two_versions_is_known(tmp_path, lacking):
    """It has some of the parameters that later versions added."""
    work(tmp_path)
    older = [{name: value for name, value in line.items() if name not in lacking} for line in manifest(tmp_path)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in older))
    wanted = definition(CELLS)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({k: v for k, v in wanted.items() if k not in lacking}))
    assert Gallery(tmp_path).holds_another(wanted) == []
    assert work(tmp_path) == []
    assert list(yaml.safe_load_all((tmp_path / "grid.yaml").read_text())) == [wanted]


def test_a_failure_of_an_older_version_is_tried_again(tmp_path):
    cell = {name: value for name, value in CELLS[0].parameters().items() if name not in ABSENT}
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"id": "0" * 16, "error": "no room", **cell}) + "\n")
    assert work(tmp_path) == [cell.id for cell in CELLS]
    assert [set(line) & {"file", "error"} for line in manifest(tmp_path)] == [{"file"}] * len(CELLS)


# Whose files these are


def test_a_grid_is_not_put_among_files_of_somebody_elses(tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match=r"holds index\.html, which"):
        Gallery(tmp_path).check_own()
    Gallery(tmp_path / "new").define(definition(CELLS))
    Gallery(tmp_path / "new").check_own()  # a run that was killed before its first picture


def test_a_picture_outside_of_the_folder_is_none_of_the_grid(whole, copy):
    line = manifest(copy)[0]
    stolen = copy.parent / "stolen.png"
    stolen.write_bytes((copy / line["file"]).read_bytes())
    for file in ("../stolen.png", str(stolen), "nul\0"):
        (copy / "manifest.jsonl").write_text(json.dumps({**line, "file": file}) + "\n")
        process = Gallery(copy)
        assert process.missing(CELLS) == CELLS and process.file_of({**line, "file": file}) is None


# The writer


def test_the_writer_writes_what_it_is_given_in_this_order(whole, tmp_path):
    process = Gallery(tmp_path)
    process.define(definition(CELLS))
    process.begin()
    with Writer(process) as writer:
        for cell in CELLS:
            writer.save(cell, PICTURES[cell.id])
    assert not writer.failed
    assert contents(tmp_path) == contents(whole)


def test_the_writer_lets_only_so_many_pictures_wait(tmp_path):
    disk, at_limit, handed = threading.Event(), threading.Event(), []

    class Slow(Gallery):
        def save(self, cell, picture):
            assert disk.wait(60)

    def paint():
        with Writer(Slow(tmp_path), max_pending=3) as writer:
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
        assert handed == [0, 1, 2, 3], "the fourth waits with three others, and so does the painter"
        disk.set()
        assert painting.result(60) == []
    assert handed == list(range(10))


def test_the_writer_remembers_what_failed_and_goes_on(tmp_path):
    class Failing(Gallery):
        def save(self, cell, picture):
            if cell in CELLS[1:3]:
                raise OSError(5, "Input/output error")
            super().save(cell, picture)

    process = Failing(tmp_path)
    process.begin()
    with Writer(process) as writer:
        for cell in CELLS:
            writer.save(cell, PICTURES[cell.id] * (np.nan if cell == CELLS[4] else 1))
    assert [(cell.id, reason) for cell, reason in writer.failed] == [
        (CELLS[1].id, "[Errno 5] Input/output error"),
        (CELLS[2].id, "[Errno 5] Input/output error"),
        (CELLS[4].id, "the picture holds NaN or Inf"),
    ]
    assert [line["id"] for line in manifest(tmp_path)] == [CELLS[i].id for i in (0, 3, 5)]


def test_an_interruption_waits_for_finished_pictures_to_be_written(tmp_path):
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
