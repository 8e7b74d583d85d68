"""Checkpoints: a saved state is restored bit for bit, or not at all."""

import shutil
import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from script_tools import largest_file

from dreamstyler_jax.runtime.checkpoints import check_path, open_checkpoints
from dreamstyler_jax.runtime.errors import UserError


def state_of(step):
    """A small training state with more than ten leaves, scalars and several dtypes."""
    table = jnp.asarray(np.random.default_rng(step).standard_normal((6, 4, 64), np.float32))
    extras = [jnp.full(2, step * 100 + i, jnp.float32) for i in range(12)]
    return {"table": table, "optimizer": optax.adamw(1e-3).init(table), "extras": extras, "step": jnp.int32(step)}


def leaves_of(state):
    return [state["table"], state["optimizer"][0].count, *state["extras"], state["step"]]


def assert_is_step(state, step):
    for ours, expected in zip(leaves_of(state), leaves_of(state_of(step)), strict=True):
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(10, state_of(10))
        checkpoints.save(20, state_of(20))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """The same, to damage."""
    return shutil.copytree(saved, tmp_path / "copy")


def restore(folder, like=None):
    with open_checkpoints(folder) as checkpoints:
        return checkpoints.restore(state_of(0) if like is None else like)


def files_of(folder, step):
    """Every file of a checkpoint, the largest, which holds the arrays, first."""
    files = [file for file in (folder / str(step)).rglob("*") if file.is_file()]
    return sorted(files, key=lambda file: file.stat().st_size, reverse=True)


def flip_a_byte(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "flipped": flip_a_byte,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
}
# Files that are whole JSON, but not Orbax's: each a name within the checkpoint, and its new content.
OTHER_JSON = [
    (name, content)
    for name in ("digests/metadata", "_CHECKPOINT_METADATA", "state/_METADATA")
    for content in ("5", "null", "[1]", "{}")
]


def test_the_newest_state_comes_back_bit_for_bit(saved):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert_is_step(restore(saved), 20)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert restore(tmp_path / "none") is None


@pytest.mark.parametrize(("keep", "kept"), [({}, ["3", "4"]), ({"keep": 1}, ["4"]), ({"keep": 3}, ["2", "3", "4"])])
def test_only_the_newest_are_kept(keep, kept, tmp_path):
    with open_checkpoints(tmp_path, **keep) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, state_of(step))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == kept


def test_a_checkpoint_that_cannot_be_written_is_named_and_the_last_one_stays(folder):
    refused = pytest.raises(UserError, match=r"cannot write the checkpoint .*copy/30: .*File too large")
    with open_checkpoints(folder) as checkpoints, largest_file(500), refused:
        checkpoints.save(30, state_of(30))
    assert_is_step(restore(folder), 20)


@pytest.mark.parametrize("name", ["a[1]", "a*", "who?"])
def test_a_path_that_orbax_takes_for_a_pattern_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"output: checkpoints need a path without .*choose another folder"):
        check_path(tmp_path / name)
    check_path(tmp_path / "a]{b} c")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(folder, damage):
    DAMAGES[damage](files_of(folder, 20)[0])
    with pytest.warns(UserWarning, match="step 20 is damaged"):
        assert_is_step(restore(folder), 10)


@pytest.mark.parametrize(("name", "content"), OTHER_JSON)
def test_a_checkpoint_with_other_json_is_skipped_or_not_touched_by_it(folder, name, content):
    (folder / "20" / name).write_text(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = restore(folder)
    assert state is not None
    assert_is_step(state, int(state["step"]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads, on missing files
def test_no_file_of_a_checkpoint_can_go_missing_unnoticed(saved, tmp_path):
    """One of the two states is restored, never another and never an error."""
    for i, file in enumerate(files_of(saved, 20)):
        folder = shutil.copytree(saved, tmp_path / str(i))
        (folder / file.relative_to(saved)).unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = restore(folder)
        assert state is not None
        assert_is_step(state, int(state["step"]))


def test_nothing_is_restored_where_all_are_damaged(folder):
    for step in (10, 20):
        flip_a_byte(files_of(folder, step)[0])
    with pytest.warns(UserWarning, match="is damaged"):
        assert restore(folder) is None


def test_a_damaged_step_can_be_saved_again(folder):
    """As a training does that resumes from the older checkpoint and reaches the step again."""
    DAMAGES["truncated"](files_of(folder, 20)[0])
    with open_checkpoints(folder) as checkpoints, pytest.warns(UserWarning, match="is damaged"):
        checkpoints.restore(state_of(0))
        checkpoints.save(20, state_of(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert_is_step(restore(folder), 20)


def test_a_run_that_starts_again_removes_the_later_checkpoints(folder):
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(5, state_of(5))
    assert_is_step(restore(folder), 5)


def test_later_checkpoints_can_be_ignored(saved):
    with open_checkpoints(saved) as checkpoints:
        assert_is_step(checkpoints.restore(state_of(0), max_step=19), 10)
        assert checkpoints.restore(state_of(0), max_step=9) is None


@pytest.mark.parametrize("change", ["shape", "dtype", "leaves"])
def test_a_state_of_other_settings_is_refused(saved, change):
    like = state_of(0)
    match change:
        case "shape":
            like["table"] = jnp.zeros((6, 1, 4), jnp.float32)
        case "dtype":
            like["step"] = jnp.float32(0)
        case "leaves":
            like["extras"].pop()
    with pytest.raises(UserError, match=r"belong to other settings: choose another output"):
        restore(saved, like)
