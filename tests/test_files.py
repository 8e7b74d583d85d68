"""Files appear whole or not at all, JSON files are checked, output folders are refused before the work."""

import os

import pytest

from dreamstyler_jax.runtime import files
from dreamstyler_jax.runtime.errors import UserError, listing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file.bin"
    files.write_atomic(path, b"old")
    with pytest.raises(OSError, match="disk full"), files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == path.parent and path.read_bytes() == b"old"
        raise OSError("disk full")
    assert path.read_bytes() == b"old"
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file.bin"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "file"):
        pass


def test_temporary_files_of_killed_processes_are_removed_and_others_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "file") as temporary:
        name = temporary.name
        raise KeyboardInterrupt
    for kept in (".hidden.tmp", "file"):
        (tmp_path / kept).write_text("")
    (tmp_path / name).write_text("left")
    files.remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden.tmp", "file"]


def test_json_round_trip(tmp_path):
    content = {"b": [1, None, 0.5], "a": {"ü": "浮", "of a command line that is not UTF-8": os.fsdecode(b"\xff")}}
    files.write_json(tmp_path / "x.json", content)
    assert files.read_json(tmp_path / "x.json") == content
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "b"') and text.endswith("}\n") and "浮" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is missing; ask Ann$"),
        (b"{", r"is damaged, it is not valid JSON \(.*\); ask Ann$"),
        (b"\xff", r"is damaged, it is not valid JSON \(.*\); ask Ann$"),
        (b"[" * 100_000, r"is damaged, it is not valid JSON \(.*\); ask Ann$"),
        (b"[1]", r"is damaged, it should be an object, not \[1\]; ask Ann$"),
    ],
    ids=["missing", "cut", "not UTF-8", "nested", "list"],
)
def test_unreadable_json_is_explained_in_one_line(tmp_path, content, reason):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        files.read_json(path, advice="ask Ann")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_folder_in_place_of_a_json_file_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        files.read_json(tmp_path)


def test_an_output_below_a_file_is_refused_and_nothing_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; choose another folder"):
        files.check_output(tmp_path / "file" / "run")
    files.check_output(tmp_path / "new" / "run")
    assert os.listdir(tmp_path) == ["file"]


def test_long_lists_in_messages_are_cut():
    assert listing(["a", "b"]) == "a, b"
    assert listing(list("abcde")) == "a, b, c, d, e"
    assert listing(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_files_of_somebody_elses_are_not_replaced(tmp_path):
    files.check_own(tmp_path / "absent", ["*"], ["ours"])
    (tmp_path / "index.html").touch()
    files.check_own(tmp_path, ["grid_*.png"], ["ours"])
    (tmp_path / "grid_1.png").touch()
    with pytest.raises(UserError, match=r"holds grid_1.png, index.html, which this program has not written"):
        files.check_own(tmp_path, ["index.html", "grid_*.png"], ["ours"])
    (tmp_path / "ours").touch()
    files.check_own(tmp_path, ["index.html", "grid_*.png"], ["ours"])


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "..", ".", "", "a\0b", 5, None, ["a"]])
def test_a_name_that_leads_out_of_a_folder_is_none(tmp_path, name):
    assert files.inside(tmp_path, name) is None


def test_a_name_inside_of_a_folder(tmp_path):
    assert files.inside(tmp_path, "images/../images/a.png") == tmp_path / "images" / "a.png"
    assert files.inside(tmp_path, "..a") == tmp_path / "..a"
