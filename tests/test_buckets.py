"""Buckets: paths, whole objects, files that grow, mirrors, copies on this machine, and what is said of mistakes."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from cells import ODD_PROMPTS, cells_of, plain_picture
from etils import epath
from fake_bucket import NAME, Refused, bucket
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sample_tools import random_style
from script_tools import contents, refusal, run, write_picture

from dreamstyler_jax.captioning.sidecars import edit, find_pictures, write_caption
from dreamstyler_jax.choices import resolve
from dreamstyler_jax.commands import convert, train
from dreamstyler_jax.commands.cli import run_and_exit
from dreamstyler_jax.commands.prompt_lists import read_prompts
from dreamstyler_jax.commands.sample import paint_into
from dreamstyler_jax.depth import depth_model_hash
from dreamstyler_jax.grids.cells import definition
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.pictures import Picture
from dreamstyler_jax.prompts import sidecar_prompt
from dreamstyler_jax.runtime import files, images, picture_files
from dreamstyler_jax.runtime.buckets import check_reachable, path_of
from dreamstyler_jax.runtime.checkpoints import open_checkpoints
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.growing_files import growing_file
from dreamstyler_jax.runtime.local_copies import BucketFolder, local_copy
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.runtime.masks import as_masked_picture
from dreamstyler_jax.runtime.mirrors import Mirror
from dreamstyler_jax.style import Style

CELLS = cells_of(ODD_PROMPTS[:2], range(3))


@pytest.fixture(autouse=True)
def store(tmp_path):
    with bucket(tmp_path / "cache") as store:
        yield store


# Paths


@pytest.mark.parametrize("text", ["run/style", "/run", ".", "a=b", "c:/run", "name=gs://styles/run"])
def test_what_is_no_url_is_a_path_of_this_machine(text):
    assert path_of(text) == Path(text) and type(path_of(text)) is type(Path())


def test_the_url_of_something_in_a_bucket_stays_as_it_is_given():
    path = path_of(f"{NAME}/run/style.safetensors")
    assert str(path) == str(path_of(path)) == f"{NAME}/run/style.safetensors"
    assert isinstance(path, epath.Path) and str(path.parent / "x.png") == f"{NAME}/run/x.png"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://example.com/boat.png", "https:// is not supported, only gs://, s3://, az://: copy the files"),
        ("GS://styles/run", "GS:// is written in small letters, gs://"),
        (Path("gs://styles/run"), "gs:/styles/run: pathlib.Path drops a slash of URLs"),
        ("az://styles/run", "az:// needs the package adlfs: pip install adlfs"),
    ],
)
def test_other_urls_are_explained_in_one_line(text, reason, monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(UserError, match=reason):
        path_of(text)


# Objects


def test_files_are_written_and_read_as_on_this_machine(store):
    path = f"{NAME}/a/x.json"
    files.write_json(path, {"a": [1, None], "b": "ü"})
    assert files.read_json(path) == {"a": [1, None], "b": "ü"}
    with files.replacing(f"{NAME}/a/y.bin") as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.name == "y.bin" and len(store.objects) == 1
    assert store.objects["styles/a/y.bin"] == b"whole"


def test_a_block_that_fails_leaves_the_old_object(store):
    files.write_atomic(f"{NAME}/x", b"old")
    with pytest.raises(KeyboardInterrupt), files.replacing(f"{NAME}/x") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert store.objects == {"styles/x": b"old"}


def test_a_growing_file_holds_everything_when_it_is_closed_and_goes_on_where_it_was(store):
    path = path_of(f"{NAME}/run/metrics.jsonl")
    for part in (b"1\n2\n", b"3\n"):
        file = growing_file(path)
        for line in part.splitlines(keepends=True):
            file.write(line)
        file.close()
        file.close()
    assert store.objects == {"styles/run/metrics.jsonl": b"1\n2\n3\n"}


def test_a_growing_file_that_cannot_be_written_is_an_error(store):
    file = growing_file(path_of(f"{NAME}/metrics.jsonl"))
    store.changes_left = 0
    with pytest.raises(OSError, match=r"cannot write gs://styles/metrics.jsonl: no change"):
        for line in (b"1\n", b"2\n"):
            file.write(line)
            file.close()


@given(changes=st.integers(0, 11))
def test_a_folder_of_a_mirror_is_whole_in_the_bucket_or_absent(changes, tmp_path_factory):
    """Whatever of the changes a killed process has made, a reader finds one of the two checkpoints, whole."""
    folder = tmp_path_factory.mktemp("here")
    with bucket(folder / "cache") as store:
        here, there = folder / "here", path_of(f"{NAME}/checkpoints")
        mirror = Mirror(here, there, "last")
        write_part(here, 1)
        mirror.publish()
        store.changes_left = changes
        write_part(here, 2)
        (here / "1" / "last").unlink()
        try:
            mirror.publish()
        except Refused:
            assert changes < 8
        store.changes_left = float("inf")
        found = Mirror(folder / "found", there, "last")
        found.fetch()
        parts = {path.name for path in (folder / "found").iterdir()}
        assert parts and parts == {name.partition("/")[0] for name in store.contents(str(there))} <= {"1", "2"}
        for part in parts:
            assert (folder / "found" / part / "deep" / "a").read_text() == part
            assert len(contents(folder / "found" / part)) == 5


def write_part(folder, number):
    for name in ("deep/a", "b", "c", "last"):
        path = folder / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))


def test_checkpoints_in_a_bucket_are_restored_from_there(store):
    folder = f"{NAME}/run/checkpoints"
    states = [{"table": np.full((2, 3), step, np.float32), "step": np.int32(step)} for step in range(4)]
    with open_checkpoints(folder) as checkpoints:
        for state in states[1:]:
            checkpoints.save(int(state["step"]), state)
    assert {name.partition("/")[0] for name in store.contents(folder)} == {"2", "3"}
    del store.objects["styles/run/checkpoints/3/commit_success.txt"]
    with open_checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(states[0])
        assert restored is not None and int(restored["step"]) == 2
        with pytest.raises(UserError, match=f"the checkpoints in {folder} belong to other settings"):
            checkpoints.restore({"table": np.zeros(1, np.float32), "step": np.int32(0)})


# Copies on this machine


def test_a_copy_is_made_once_and_again_for_another_content(store, tmp_path):
    path = path_of(f"{NAME}/gogh/style.safetensors")
    assert local_copy(tmp_path / "x") == tmp_path / "x"
    contents = []
    for data in (b"one", b"one", b"two"):
        store.objects["styles/gogh/style.safetensors"] = data
        copy = local_copy(path)
        assert copy.name == path.name
        contents.append((copy, copy.read_bytes()))
    assert contents[0] == contents[1] != contents[2] and contents[2][1] == b"two"
    assert store.read == ["styles/gogh/style.safetensors"] * 2


def test_a_folder_is_copied_in_part_and_anew_when_it_has_changed(store, capfd):
    store.objects |= {"styles/m/config.json": b"{}", "styles/m/unet/a": b"12345", "styles/m2/b": b"other"}
    folder = BucketFolder.look_up(path_of(f"{NAME}/m"))
    assert folder.files == {"config.json": 2, "unet/a": 5}
    copy = folder.fetch(["unet/a"])
    assert copy.name == "m" and contents(copy) == {"unet": None, "unet/a": b"12345"}
    assert "Downloading 1 file of gs://styles/m, 0 kB" in capfd.readouterr().err
    assert BucketFolder.look_up(path_of(f"{NAME}/m")).fetch(["unet/a"]) == copy
    assert not capfd.readouterr().err
    store.objects["styles/m/config.json"] = b"[]"
    assert BucketFolder.look_up(path_of(f"{NAME}/m")).fetch(["unet/a"]) != copy
    with pytest.raises(UserError, match="there is no folder gs://styles/none"):
        BucketFolder.look_up(path_of(f"{NAME}/none"))


# A grid's folder


def fill(folder, shard=(0, 1)) -> None:
    """Does what ``sample`` does with a grid or a part of it, with plain pictures."""
    gallery = Gallery(folder, shard)
    gallery.define(definition(CELLS))
    todo = gallery.missing(CELLS[shard[0] :: shard[1]])
    paint_into(gallery, todo, lambda cells: ((cell, plain_picture(CELLS.index(cell))) for cell in cells))
    if shard[1] == 1:
        gallery.finish(CELLS)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The files of this grid on this machine."""
    folder = tmp_path_factory.mktemp("grid")
    fill(folder)
    return {name: data for name, data in contents(folder).items() if data is not None}


@given(changes=st.integers(0, 17))
def test_a_grid_is_completed_whenever_its_process_was_killed(changes, filled, tmp_path_factory):
    with bucket(tmp_path_factory.mktemp("cache")) as store:
        store.changes_left = changes
        try:
            fill(path_of(f"{NAME}/grid"))
        except OSError:
            assert changes < 17
        store.changes_left = float("inf")
        listed = Gallery(path_of(f"{NAME}/grid"))
        assert len(listed.missing(CELLS)) == len(CELLS) - listed.listed(CELLS)
        fill(path_of(f"{NAME}/grid"))
        assert store.contents(f"{NAME}/grid") == filled


def test_parts_of_a_grid_are_joined(store, filled):
    there = path_of(f"{NAME}/grid")
    for part in range(2):
        fill(there, (part, 2))
    assert {"manifest.0-of-2.jsonl", "manifest.1-of-2.jsonl"} < set(store.contents(str(there)))
    assert not Gallery(there).missing(CELLS)
    fill(there)
    assert store.contents(str(there)) == filled


# Pictures, styles and mistakes


def test_pictures_with_their_masks_are_read_and_written(store, tmp_path):
    for name in ("boat.png", "boat.mask.png"):
        store.objects[f"styles/{name}"] = write_picture(tmp_path / name, len(name)).read_bytes()
    there, here = as_masked_picture(f"{NAME}/boat.png"), as_masked_picture(tmp_path / "boat.png")
    assert there.mode == "RGBA" and there.tobytes() == here.tobytes()
    images.save_png(f"{NAME}/new.png", Image.new("RGB", (2, 2)), {"prompt": "a boat"})
    assert images.read_text(f"{NAME}/new.png") == {"prompt": "a boat"}
    with pytest.raises(UserError, match=f"there is no picture {NAME}/none.png"):
        images.load(f"{NAME}/none.png")


def test_a_picture_of_another_format_keeps_its_texts(store):
    picture = Picture(CELLS[0], plain_picture(0))
    picture.save(f"{NAME}/new.webp")
    assert picture_files.read_text(f"{NAME}/new.webp")["prompt"] == CELLS[0].prompt


def test_lines_of_wildcards_are_read(store):
    store.objects |= {"styles/words/animal.txt": b"a dog\r\n# none\r\na cat\r\n", "styles/words/of/sky.txt": b"blue"}
    texts = resolve({"": ["__animal__ below a __of/sky__ sky"]}, "", [0], wildcards=f"{NAME}/words")
    assert texts[0][0] == {"": ["a dog below a blue sky", "a cat below a blue sky"]}
    with pytest.raises(UserError, match=r"there is no gs://styles/words/of/sk.txt for __of/sk__.*of/sky"):
        resolve({"": ["__of/sk__"]}, "", [0], wildcards=f"{NAME}/words")


def test_styles_are_converted_from_bucket_to_bucket(store, tmp_path):
    style = random_style("gogh", stages=2)
    style.save(f"{NAME}/a/style.safetensors")
    run(convert, "--styles", f"{NAME}/a", "--output", f"{NAME}/b/gogh.safetensors", "--format", "diffusers")
    assert set(store.contents(f"{NAME}/b")) == {"gogh-T0.safetensors", "gogh-T1.safetensors"}
    run(convert, "--styles", f"{NAME}/b", "--output", tmp_path / "back.safetensors")
    np.testing.assert_array_equal(Style.load(tmp_path / "back.safetensors").tables["clip_l"], style.tables["clip_l"])
    with pytest.raises(UserError, match=f"there is no style {NAME}/none.safetensors"):
        Style.load(f"{NAME}/none.safetensors")


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("gs://none/run", "output: there is no bucket for gs://none/run"),
        ("gs://styles/run[1]", r"output: gs://styles/run\[1\]: buckets take \* \? \[ \] for wildcards"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(folder, reason, store):
    check_reachable(path_of("gs://styles/run"))
    with pytest.raises(UserError, match=reason):
        files.check_output(path_of(folder))
    assert not store.objects


def test_a_folder_of_somebody_elses_is_refused_and_one_of_ours_is_not(store):
    store.objects["styles/run/scores.jsonl"] = b""
    with pytest.raises(UserError, match=r"output: gs://styles/run holds scores\.jsonl, which this program has not"):
        files.check_own(path_of(f"{NAME}/run"), ["scores.*"], ["manifest.jsonl", "checkpoints"])
    store.objects["styles/run/checkpoints/2/state"] = b""
    files.check_own(path_of(f"{NAME}/run"), ["scores.*"], ["manifest.jsonl", "checkpoints"])


def test_a_file_that_is_too_large_is_refused(store, monkeypatch):
    monkeypatch.setattr(files, "_MAX_BYTES", 8)
    store.objects |= {"styles/small": b"12345678", "styles/large": b"123456789"}
    assert files.read_file(f"{NAME}/small") == b"12345678"
    with pytest.raises(UserError, match=f"{NAME}/large is larger than"):
        files.read_file(f"{NAME}/large")


def test_a_folder_in_a_bucket_is_not_locked(store):
    with only_process(path_of(f"{NAME}/run")), only_process(path_of(f"{NAME}/run")):
        assert not store.objects


def test_captions_are_written_beside_their_pictures(store):
    store.objects |= {f"styles/photos/{name}": b"" for name in ("a.png", "a.mask.png", "b.jpg", "c.json")}
    pictures = find_pictures([f"{NAME}/photos", f"{NAME}/photos/b.jpg"])
    assert list(map(str, pictures)) == [f"{NAME}/photos/a.png", f"{NAME}/photos/b.jpg"]
    write_caption(pictures[0], "a boat in the style of {}")
    assert sidecar_prompt(f"{NAME}/photos/a.png") == "a boat in the style of {}"
    with pytest.raises(UserError, match=f"edit: no editor reaches the caption of {NAME}/photos/a.png"):
        edit(["nano"], pictures)


def test_a_depth_model_is_known_by_its_files(store, tmp_path):
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_bytes(name.encode())
    store.add_folder(f"{NAME}/dpt", tmp_path)
    assert depth_model_hash(f"{NAME}/dpt") == depth_model_hash(str(tmp_path))


def test_missing_access_is_explained_in_one_line(store, capfd):
    store.is_locked = True
    for read in (sidecar_prompt, read_prompts, files.read_json):
        with pytest.raises(UserError, match=r"no access to styles/boat\.txt"):
            read(f"{NAME}/boat.txt")
    words = ["--images", f"{NAME}/boat.png", "--output", f"{NAME}/run"]
    assert refusal(capfd, train, *words) == (
        "output: gs://styles/run cannot be reached: PermissionError: no access to styles/run"
    )
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        run_and_exit(lambda: path_of(f"{NAME}/boat.txt").read_bytes())
    signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 2
    assert capfd.readouterr().err == "error: a bucket gives the error PermissionError: no access to styles/boat.txt\n"
