"""Grids of ``dreamstyler sample`` that are painted in parts, again, after an interruption, or with failures."""

import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from cells import CELL, cells_of, plain_picture
from compilations import compilations
from page_tools import data_of
from PIL import Image
from sample_tools import HOUSE, difference, eight, manifest
from script_tools import ROOT, collectives, contents, dumping, refusal, run, start

from dreamstyler_jax.commands import cli, sample
from dreamstyler_jax.commands.sample import paint_into
from dreamstyler_jax.commands.verification.findings import Severity
from dreamstyler_jax.commands.verification.grids import grid_findings
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.style import FILE_NAME, Style


@pytest.fixture
def copy(undisturbed, tmp_path):
    return shutil.copytree(undisturbed, tmp_path / "copy")


def written(folder) -> dict[str, int]:
    """When each picture was written, by its file's name."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}


def continue_as_told(folder, painted):
    """Does what ``dreamstyler verify`` says of a grid of 32 pictures that is not finished."""
    (told,) = [finding for finding in grid_findings(folder) if finding.severity == Severity.UNFINISHED]
    rest = ", only sheets and page are to be made" if painted == 32 else ""
    assert told.what == f"not finished, {painted} of 32 pictures are painted{rest}"
    program, *words = shlex.split(told.advice.removeprefix("to continue: "))
    assert program == "dreamstyler" and words.pop(0) == "sample"
    run(sample, *words)


# In parts, again, and more


def test_nothing_is_painted_twice(copy, command, capfd):
    before, times = contents(copy), written(copy)
    with compilations("sample_batch") as programs:
        run(sample, *command, "--output", copy)
    printed = capfd.readouterr()
    assert "32 of 32 pictures are there and whole" in printed.out and "Painting" not in printed.err
    assert (contents(copy), written(copy), programs) == (before, times, [])


def test_only_missing_and_damaged_pictures_are_painted_and_are_the_same(copy, undisturbed, command, capfd):
    lines = manifest(undisturbed)
    (copy / lines[3]["file"]).unlink()
    cut, changed = (copy / lines[i]["file"] for i in (17, 30))
    cut.write_bytes(cut.read_bytes()[:-9])
    changed.write_bytes(changed.read_bytes()[:-9] + b"123456789")
    (copy / "manifest.jsonl").write_bytes((copy / "manifest.jsonl").read_bytes()[:-30])
    before = written(copy)
    run(sample, *command, "--output", copy)
    repainted = {name for name, time in written(copy).items() if time != before.get(name)}
    assert repainted == {lines[i]["file"].removeprefix("images/") for i in (3, 17, 30, 31)}
    assert "Painting 4 pictures in" in capfd.readouterr().err
    assert contents(copy) == contents(undisturbed)


def test_shards_together_make_what_one_run_makes(undisturbed, command, tmp_path, capsys):
    for shard in ("2/3", "0/3", "1/3"):
        run(sample, *command, "--shard", shard, "--output", tmp_path / "out")
        assert "without --shard" in capsys.readouterr().out
        assert not (tmp_path / "out" / "manifest.jsonl").exists() and not (tmp_path / "out" / "index.html").exists()
        assert not list((tmp_path / "out").glob("grid*.png"))
    counts = [len((tmp_path / "out" / f"manifest.{i}-of-3.jsonl").read_text().splitlines()) for i in range(3)]
    assert counts == [11, 11, 10]
    continue_as_told(tmp_path / "out", 32)
    assert "32 of 32 pictures are there and whole" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(undisturbed)


def test_a_part_of_a_grid_is_painted_by_the_program_of_the_whole(words, styles, tmp_path):
    """Although it has fewer pictures, and needs fewer rows of guidance."""
    scales = ["--guidance", "paper", "--style_scale", 1, 2, "--context_scale", 1, 2]
    options = [*eight(words, styles, "gogh"), "--prompts", HOUSE, *scales, "--output"]
    run(sample, *options, tmp_path / "whole")
    with compilations("sample_batch") as programs:
        run(sample, *options, tmp_path / "part", "--shard", "5/32")
    assert programs == []
    assert [line["scales"]["style_scale"] for line in manifest_of(tmp_path / "part", "5-of-32")] == [1.0]
    (file,) = (tmp_path / "part" / "images").iterdir()
    assert file.read_bytes() == (tmp_path / "whole" / "images" / file.name).read_bytes()


def test_hosts_of_a_cluster_take_a_part_each(command, undisturbed, tmp_path):
    """Each by its place in the job: it needs no other, which may be late or gone."""
    for rank in ("1", "0"):
        job = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_LOCAL_RANK": rank}
        more = ["--seeds", "0:2", "--distributed", "--output", tmp_path]
        host = start(sample, *command, *more, env=job)
        output, errors = host.communicate(timeout=300)
        assert f"Part {rank}/2 is painted" in output, errors
    parts = [manifest_of(tmp_path, "0-of-2"), manifest_of(tmp_path, "1-of-2")]
    assert [len(part) for part in parts] == [4, 4]
    assert {line["id"] for part in parts for line in part} <= {line["id"] for line in manifest(undisturbed)}


def test_several_devices_share_each_batch(command, undisturbed, tmp_path):
    env = {"JAX_NUM_CPU_DEVICES": "3", **dumping(tmp_path / "programs", "sample_batch")}
    process = start(sample, *command, "--seeds", "0:4", "--output", tmp_path, env=env)
    output, errors = process.communicate(timeout=300)
    assert "16 pictures in" in output, errors
    assert collectives(tmp_path / "programs") == [[]], "a picture needs nothing of another device"
    for line in manifest(tmp_path):
        assert difference(*(Image.open(folder / line["file"]) for folder in (tmp_path, undisturbed))) <= 1


def manifest_of(folder, shard) -> list[dict]:
    return manifest(folder, f"manifest.{shard}.jsonl")


def test_a_changed_grid_is_refused_in_one_line_and_added_with_merge(copy, command, capfd):
    before = contents(copy)
    line = refusal(capfd, sample, *command, "--seeds", "4:12", "--output", copy)
    assert re.search(
        r"copy holds the pictures of another grid \(seed differs\): choose another --output, .*--merge", line
    )
    assert contents(copy) == before
    run(sample, *command, "--seeds", "4:12", "--merge", "--output", copy)
    assert "16 of 32 pictures are there and whole" in capfd.readouterr().out
    after = contents(copy)
    assert all(after[name] == before[name] for name in before if name.startswith("images"))
    assert sorted(line["seed"] for line in manifest(copy)) == sorted([*range(12)] * 4)
    run(sample, *command, "--output", copy)
    assert {name: data for name, data in contents(copy).items() if "grid_" in name} == {
        name: data for name, data in before.items() if "grid_" in name
    }


def test_two_processes_do_not_paint_into_one_folder(copy, command):
    """Each would put its own pictures into the manifest, and leave out some of the other's."""
    before = contents(copy)
    with only_process(copy), pytest.raises(UserError, match="another process is writing"):
        run(sample, *command, "--seeds", "4:6", "--merge", "--output", copy)
    after = contents(copy)
    assert {name for name in before if before[name] != after[name]} == {"grid.yaml"}


def test_added_pictures_keep_the_earlier_ones_on_the_page(words, styles, tmp_path, capsys):
    options = ["--seeds", "0:8", "--prompts", HOUSE, "--output", tmp_path / "out"]
    run(sample, *words, "--styles", styles / "gogh", *options)
    atlas = set((tmp_path / "out" / "atlas").iterdir())
    run(sample, *words, "--styles", styles / "wave", *options, "--merge")
    assert "16 pictures in" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<title>gogh, wave" in page and all(line["file"] in page for line in manifest(tmp_path / "out"))
    assert len(atlas & set((tmp_path / "out" / "atlas").iterdir())) == 1, "the training picture of gogh is still shown"


# Interruptions

DYING = """
import os, runpy, signal, sys, threading
call, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
real = getattr(os, call)


def dying(*arguments):
    global count
    count -= threading.current_thread().name.startswith("writer")
    if not count:
        os.kill(os.getpid(), number)
    return real(*arguments)

setattr(os, call, dying)
sys.argv = ["dreamstyler", "sample", *sys.argv[4:]]
sys.path.insert(0, os.getcwd())
runpy.run_module("dreamstyler_jax", run_name="__main__")
"""


def test_a_process_that_is_killed_and_interrupted_several_times_ends_with_the_same_folder(
    undisturbed, command, tmp_path
):
    """It is killed before a picture has its name, between picture and line, and after the line; then told to stop."""
    folder = tmp_path / "out"
    moments = [
        ("replace", 5, signal.SIGKILL, 4),
        ("fsync", 3 * 3 + 2, signal.SIGKILL, 7),
        ("fsync", 3 * 4, signal.SIGKILL, 11),
        ("fsync", 3, signal.SIGTERM, 12),
    ]
    for call, count, number, least in moments:
        words = [sys.executable, "-c", DYING, call, str(count), str(int(number)), *map(str, command)]
        ended = subprocess.run([*words, "--output", str(folder)], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == (-number if number == signal.SIGKILL else cli.INTERRUPTED), ended.stderr
        assert not list(folder.glob("grid*.png")), "it was not finished"
        listed = len((folder / "manifest.jsonl").read_text().splitlines())
        assert listed == least or (number == signal.SIGTERM and listed >= least)
    assert "interrupted; to continue: " in ended.stderr and f"in a browser: {folder / 'index.html'}" in ended.stderr
    page = data_of(folder)
    assert page["progress"]["state"] == "stopped" and len(page["cells"]) == 32
    assert [sum(key in cell for cell in page["cells"]) for key in ("file", "waiting")] == [listed, 32 - listed]
    continue_as_told(folder, listed)
    assert contents(folder) == contents(undisturbed)


# Failures

NAN, BAD_DISK = "the picture holds NaN or Inf", "[Errno 5] Input/output error"
CELLS = cells_of([CELL.prompt], range(8))


class BadDisk(Gallery):
    """A gallery on a disk that fails for the first pictures of chosen seeds."""

    def __init__(self, folder, failures: dict[int, int]):
        super().__init__(folder)
        self._failures = failures

    def save(self, cell, picture):
        if self._failures.get(cell.seed, 0) > 0:
            self._failures[cell.seed] -= 1
            raise OSError(5, "Input/output error")
        super().save(cell, picture)


class Painter:
    """Paints plain pictures; those of chosen seeds are NaN the first times."""

    def __init__(self, failures: dict[int, int]):
        self._failures, self.asked = failures, []

    def __call__(self, cells):
        self.asked.append([cell.seed for cell in cells])
        for cell in cells:
            bad = self._failures.get(cell.seed, 0) > 0
            self._failures[cell.seed] = self._failures.get(cell.seed, 0) - 1
            yield cell, plain_picture(cell.seed) * (np.nan if bad else 1)


def failing(reason, folder, times) -> tuple[Gallery, Painter]:
    """A gallery and a painter of which one fails so many times for the seeds 2 and 5."""
    failures, none = {2: times, 5: times}, {}
    return BadDisk(folder, none if reason == NAN else failures), Painter(failures if reason == NAN else none)


@pytest.mark.parametrize("reason", [NAN, BAD_DISK], ids=["NaN", "bad disk"])
def test_what_fails_once_is_tried_again(reason, tmp_path):
    gallery, painter = failing(reason, tmp_path / "failing", times=1)
    assert paint_into(gallery, CELLS, painter) == 0
    assert painter.asked == [[*range(8)], [2, 5]]
    whole = Gallery(tmp_path / "whole")
    paint_into(whole, CELLS, Painter({}))
    for process in gallery, whole:
        process.finish(CELLS)
    assert contents(tmp_path / "failing") == contents(tmp_path / "whole")


@pytest.mark.parametrize("reason", [NAN, BAD_DISK], ids=["NaN", "bad disk"])
def test_what_fails_twice_is_recorded_and_the_rest_painted(reason, tmp_path):
    gallery, painter = failing(reason, tmp_path, times=2)
    assert paint_into(gallery, CELLS, painter) == 2
    assert painter.asked == [[*range(8)], [2, 5]]
    gallery.finish(CELLS)
    for cell, line in zip(CELLS, manifest(tmp_path), strict=True):
        assert line["id"] == cell.id and ("file" in line) == (cell.seed not in (2, 5))
        assert line.get("error") == (reason if cell.seed in (2, 5) else None)
    assert paint_into(Gallery(tmp_path), Gallery(tmp_path).missing(CELLS), painter) == 0
    assert painter.asked[2:] == [[2, 5]]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_stays_full_ends_the_painting_at_once(number, tmp_path):
    """And not after the rest has been painted twice."""
    cells, disk = cells_of([CELL.prompt], range(1000)), Gallery(tmp_path)
    save = disk.save

    def fill_up(cell, picture):
        if cell.seed >= 3:
            raise OSError(number, os.strerror(number), "a picture")
        save(cell, picture)

    disk.save = fill_up
    painted = []

    def paint(cells):
        for cell in cells:
            painted.append(cell.seed)
            yield cell, plain_picture(3)

    with pytest.raises(OSError, match=f"Errno {number}"):
        paint_into(disk, cells, paint)
    assert len(painted) < 100
    assert [line["seed"] for line in manifest(tmp_path)] == [0, 1, 2]
    assert [cell.seed for cell in Gallery(tmp_path).missing(cells[:5])] == [3, 4]


def test_nothing_is_painted_where_nothing_is_missing(tmp_path):
    painter = Painter({})
    assert paint_into(Gallery(tmp_path), [], painter) == 0 and painter.asked == []


def in_the_way_of(folder, lines) -> list:
    """Makes folders that have the names of pictures, so that these pictures cannot be written."""
    folders = [folder / line["file"] for line in lines if line["seed"] in (2, 5)]
    for path in folders:
        path.mkdir(parents=True)
    return folders


def test_a_grid_with_failures_is_finished_and_tries_them_again(undisturbed, command, tmp_path, capfd):
    expected = manifest(undisturbed)
    obstacles, traces = in_the_way_of(tmp_path, expected), tmp_path.with_name(f"{tmp_path.name}-traces")
    with pytest.raises(SystemExit) as end:
        cli.run_and_exit(lambda: run(sample, *command, "--profile", traces, "--output", tmp_path))
    assert len(list(traces.rglob("perfetto_trace.json.gz"))) == 1
    printed = capfd.readouterr()
    assert end.value.code == 2
    assert "24 pictures in" in printed.out
    assert printed.err.splitlines()[-1] == (
        f"error: 8 of 32 pictures failed, see {tmp_path}/manifest.jsonl; the same command tries them again"
    )
    for line, whole in zip(manifest(tmp_path), expected, strict=True):
        if line["seed"] in (2, 5):
            assert "Is a directory" in line.pop("error")
            line |= {"file": whole["file"], "sha256": whole["sha256"]}
        assert line == whole
    one, other = (np.asarray(Image.open(folder / "grid_001.png")) for folder in (tmp_path, undisturbed))
    assert one.shape == other.shape and not np.array_equal(one, other)
    for path in obstacles:
        path.rmdir()
    run(sample, *command, "--output", tmp_path)
    assert contents(tmp_path) == contents(undisturbed)


def test_a_style_that_makes_nan_fails_and_the_others_are_painted(words, styles, tmp_path):
    table = Style.load(styles / "gogh" / FILE_NAME).tables["clip_l"]
    Style("broken", {"clip_l": np.full_like(table, 1e38)}).save(tmp_path / "broken" / FILE_NAME)
    names = ["--styles", styles / "gogh", tmp_path / "broken"]
    with pytest.raises(UserError, match="8 of 16 pictures failed"):
        run(sample, *words, *names, "--seeds", "0:8", "--prompts", HOUSE, "--output", tmp_path / "out")
    lines = manifest(tmp_path / "out")
    assert [line.get("error") for line in lines] == [None] * 8 + [NAN] * 8
    assert [line["style"] for line in lines] == ["gogh"] * 8 + ["broken"] * 8


def test_a_shard_says_which_manifest_lists_its_failures(command, undisturbed, tmp_path):
    in_the_way_of(tmp_path, manifest(undisturbed))
    with pytest.raises(UserError, match=r"4 of 16 pictures failed, see .*manifest.0-of-2.jsonl"):
        run(sample, *command, "--shard", "0/2", "--output", tmp_path)
