"""Styles and their files."""

import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from dreamstyler_jax.mini.shipped import EXAMPLE_STYLE
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import FILE_NAME, Style, StyleRef, check_widths, load_styles, step_file

tables = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 9)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
names = st.text(st.characters(exclude_characters="{}|\r\n", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name == name.strip()
)
encoders = st.text("abcdef_", min_size=1)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=5,
)


def style(stages=6, vectors=1, width=8, name="gogh", seed=0, **metadata):
    return Style(name, np.random.default_rng(seed).normal(size=(stages, vectors, width)), metadata)


def two_tables(stages=3, vectors=2, name="gogh", seed=0, **metadata):
    """A style for a model with two text encoders."""
    rng = np.random.default_rng(seed)
    tables = {encoder: rng.normal(size=(stages, vectors, width)) for encoder, width in (("clip_l", 4), ("clip_g", 6))}
    return Style(name, tables, metadata)


def same_tables(a, b):
    return a.tables.keys() == b.tables.keys() and all(
        np.array_equal(a.tables[name], b.tables[name]) for name in a.tables
    )


def same(a, b):
    return a.name == b.name and same_tables(a, b) and a.metadata == b.metadata


def test_equal_styles_are_equal_files(tmp_path):
    """The library that writes them puts metadata in random order."""
    files = [tmp_path / f"{i}.safetensors" for i in range(6)]
    for file in files:
        two_tables(images=["ü.png"]).save(file)
    assert len({file.read_bytes() for file in files}) == 1
    assert same(Style.load(files[0]), two_tables(images=["ü.png"]))


@settings(max_examples=100)
@given(table=tables, name=names, metadata=st.dictionaries(st.text("abcdef_"), values, max_size=4))
def test_save_and_load(tmp_path_factory, table, name, metadata):
    path = tmp_path_factory.mktemp("styles") / "style.safetensors"
    saved = Style(name, table, metadata)
    saved.save(path)
    loaded = Style.load(path)
    assert same(saved, loaded) and loaded.hash == saved.hash and loaded.tables["clip_l"].dtype == np.float32
    assert (loaded.stages, loaded.vectors, loaded.widths["clip_l"]) == table.shape


@given(
    stages=st.integers(1, 6),
    vectors=st.integers(1, 3),
    widths=st.dictionaries(encoders, st.integers(1, 8), min_size=1, max_size=3),
)
def test_tables_of_several_text_encoders_are_saved_and_loaded(tmp_path_factory, stages, vectors, widths):
    path = tmp_path_factory.mktemp("styles") / "style.safetensors"
    rng = np.random.default_rng(0)
    saved = Style("gogh", {encoder: rng.normal(size=(stages, vectors, width)) for encoder, width in widths.items()})
    saved.save(path)
    loaded = Style.load(path)
    assert same(saved, loaded) and loaded.hash == saved.hash
    assert (loaded.stages, loaded.vectors, loaded.widths) == (stages, vectors, widths)


def write_kind_1(path, table, **changes):
    """Writes a file of the first kind: one tensor, ``table``."""
    header = {"kind": "dreamstyler_jax.style/1", "name": "gogh", "metadata": '{"steps": 200}'}
    save_file({"table": table}, path, header | {"hash": Style("gogh", table).hash} | changes)


def test_files_of_the_first_kind_are_read(tmp_path):
    table = np.random.default_rng(0).normal(size=(6, 1, 8)).astype(np.float32)
    write_kind_1(tmp_path / "old.safetensors", table)
    old = Style.load(tmp_path / "old.safetensors")
    assert same(old, Style("gogh", {"clip_l": table}, {"steps": 200}))
    old.save(tmp_path / "new.safetensors")
    new = Style.load(tmp_path / "new.safetensors")
    assert same(new, old) and new.hash == old.hash
    write_kind_1(tmp_path / "old.safetensors", table, hash="0" * 12)
    with pytest.raises(UserError, match=r"old\.safetensors: the file is damaged"):
        Style.load(tmp_path / "old.safetensors")


def test_what_a_style_is_in_a_line():
    assert repr(style(steps=200)) == "Style('gogh', 6 stages x 1 vectors, 200 steps)"
    assert repr(two_tables()) == "Style('gogh', 3 stages x 2 vectors)"
    assert len(repr(style(name="x" * 1000))) < 200


@settings(max_examples=25)
@given(table=tables)
def test_export_and_load(tmp_path_factory, table):
    folder, saved = tmp_path_factory.mktemp("styles"), Style("sks", table)
    (path,) = saved.export(folder / "dreamstyler.safetensors")
    assert same(Style.load(path), saved)
    for format in ("diffusers", "a1111"):
        paths = saved.export(folder / f"{format}.safetensors", format)
        assert len(paths) == len(table)
        assert np.array_equal(np.concatenate([Style.load(path).tables["clip_l"] for path in paths]), table)


def test_layout_of_exported_files(tmp_path):
    one, many = style(stages=1, vectors=2), style(stages=3)
    assert {k: v.shape for k, v in load_file(many.export(tmp_path / "a.safetensors")[0]).items()} == {
        "<gogh>-T0": (8,),
        "<gogh>-T1": (8,),
        "<gogh>-T2": (8,),
    }
    assert list(load_file(one.export(tmp_path / "b.safetensors", "diffusers")[0])) == ["<gogh>"]
    assert load_file(one.export(tmp_path / "c.safetensors", "a1111")[0])["emb_params"].shape == (2, 8)
    paths = many.export(tmp_path / "d.safetensors", "diffusers")
    assert [path.name for path in paths] == ["d-T0.safetensors", "d-T1.safetensors", "d-T2.safetensors"]
    for stage, path in enumerate(paths):
        assert np.array_equal(load_file(path)[f"<gogh-t{stage}>"], many.tables["clip_l"][stage])
    assert [Style.load(path).name for path in many.export(tmp_path / "e.safetensors", "a1111")] == [
        "e-T0",
        "e-T1",
        "e-T2",
    ]
    with pytest.raises(UserError, match=r"dreamstyler, diffusers, a1111, .*, not as 'onnx'"):
        one.export(tmp_path / "f.safetensors", "onnx")
    with pytest.raises(UserError, match="should end in"):
        one.export(tmp_path / "f.txt")
    with pytest.raises(UserError, match="'gogh' has tables of two text encoders: export it as diffusers or a1111"):
        two_tables().export(tmp_path / "f.safetensors")


@pytest.mark.parametrize("format", ["diffusers", "a1111"])
def test_files_of_both_text_encoders_come_back(tmp_path, format):
    style = two_tables()
    paths = style.export(tmp_path / "gogh.safetensors", format)
    assert len(paths) == style.stages * (2 if format == "diffusers" else 1)
    loaded = load_styles([tmp_path])
    assert len(loaded) == style.stages
    for stage, one in enumerate(loaded.values()):
        for encoder, table in style.tables.items():
            np.testing.assert_array_equal(one.tables[encoder], table[stage][None])


def test_a_file_of_the_second_text_encoder_alone_says_so(tmp_path):
    save_file({"clip_g": np.ones((1, 8), np.float32)}, tmp_path / "g.safetensors")
    with pytest.raises(UserError, match="the vectors of SDXL's second text encoder alone"):
        Style.load(tmp_path / "g.safetensors")


def test_files_of_other_tools(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(2, 6)
    files = {
        "half": ({"<cat toy>": rows.astype(np.float16)}, "cat toy", rows[None]),
        "flat": ({"<sks>": rows[0]}, "sks", rows[:1][None]),
        "a1111": ({"emb_params": rows}, "a1111", rows[None]),
        "stages": ({f"<x-y>-T{i}": rows[i % 2] for i in (10, 2, *range(2), *range(3, 10))}, "x-y", None),
    }
    for stem, (content, name, table) in files.items():
        save_file(content, tmp_path / f"{stem}.safetensors")
        loaded = Style.load(tmp_path / f"{stem}.safetensors")
        assert loaded.name == name
        if table is None:
            table = np.stack([rows[i % 2][None] for i in range(11)])
        assert np.array_equal(loaded.tables["clip_l"], table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"clip_l": (1, 4), "clip_g": (1, 6), "t5": (1, 8)}, "no style, its contents are clip_g, clip_l, t5"),
        ({"<a>-T0": (4,), "<a>-T2": (4,)}, "stages are missing"),
        ({"<a>-T0": (4,), "<b>-T1": (4,)}, "no style"),
        ({"<a>-T0": (4,), "<a>-T1": (5,)}, r"shapes \(1, 4\), \(1, 5\)"),
        ({"weight": (3, 3, 3, 3)}, "no style"),
        ({}, "no style"),
    ],
)
def test_files_that_hold_no_style(tmp_path, content, message):
    save_file({key: np.zeros(shape, np.float32) for key, shape in content.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=rf"a\.safetensors: .*{message}"):
        Style.load(tmp_path / "a.safetensors")


def test_non_finite_tables_are_refused(tmp_path):
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match="NaN or Inf: train it again"):
            Style("a", np.full((1, 1, 2), bad))
        save_file({"<a>": np.full((1, 2), bad, np.float32)}, tmp_path / "a.safetensors")
        with pytest.raises(UserError, match=r"a\.safetensors: .*NaN or Inf"):
            Style.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["", " ", "a{b", "}", "a|b", "a\nb", " a"])
def test_unusable_names(name):
    with pytest.raises(UserError, match="cannot be called"):
        Style(name, np.zeros((1, 1, 1)))


def test_tables_of_another_shape_are_refused():
    for shape in ((2, 3), (1, 0, 3), (1, 0, 1, 3), (1, 1, 1, 1, 1)):
        with pytest.raises(ValueError, match="stages, vectors, width"):
            Style("a", np.zeros(shape))
    for tables in ({}, {"clip_l": np.zeros((2, 1, 4)), "clip_g": np.zeros((3, 1, 4))}):
        with pytest.raises(ValueError, match="one number of stages, layers and vectors"):
            Style("a", tables)


def test_tables_are_private_contiguous_leaves(tmp_path):
    source = np.arange(24.0).reshape(2, 3, 4).T
    made = Style("a", source, {"rate": np.float32(0.5), "folder": tmp_path, "size": (1, 2)})
    source[:] = 0
    table = made.tables["clip_l"]
    assert table.shape == (4, 3, 2) and table[1, 0, 0] == 1
    assert made.metadata == {"rate": 0.5, "folder": str(tmp_path), "size": [1, 2]}
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0
    made.save(tmp_path / "a.safetensors")
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["clip_l"], table)
    doubled = jax.jit(lambda tables: jax.tree.map(lambda table: 2 * table, tables))(made.tables)
    assert np.array_equal(Style("a", doubled).tables["clip_l"], 2 * table)
    assert np.array_equal(Style("a", jnp.asarray(table, jnp.bfloat16)).tables["clip_l"], table)
    with pytest.raises(TypeError, match="metadata cannot hold a object"):
        Style("a", source, {"x": object()})


def test_the_hash_depends_on_the_tables_alone():
    one, table = style(), style().tables["clip_l"]
    assert one.hash == style(name="other", steps=3).hash and len(one.hash) == 12
    others = [style(seed=1), Style("a", table.reshape(1, 6, 8)), Style("a", np.nextafter(table, 9))]
    others += [Style("a", {"clip_g": table}), Style("a", {"clip_l": table, "clip_g": table})]
    assert len({one.hash, *(other.hash for other in others)}) == 6
    assert two_tables().hash != two_tables(seed=1).hash
    reordered = dict(reversed(two_tables().tables.items()))
    assert Style("a", reordered).hash == two_tables().hash


def test_the_hash_of_one_table_stays_what_it_was():
    """Grids and runs of earlier versions know their styles by these."""
    assert Style("a", np.zeros((1, 1, 1))).hash == "c3983330305e"
    assert Style("a", np.arange(24).reshape(2, 3, 4)).hash == "68e4f95436fa"
    assert Style("a", {"clip_l": np.linspace(-1, 1, 48).reshape(6, 1, 8)}).hash == "e0fed7284671"
    assert Style.load(EXAMPLE_STYLE).hash == "577ee2941ec7"


def test_damaged_files(tmp_path):
    style(prompts=["a painting of a house in the style of {}"]).save(tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    for content in (b"", b"x", data[:40], data[:-1], data + b"x", b"\x80\x02" + data, b"PK\x03\x04" + data[4:]):
        (tmp_path / "b.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.safetensors"):
            Style.load(tmp_path / "b.safetensors")
    for place in (len(data) - 1, len(data) - 100):
        flipped = bytearray(data)
        flipped[place] ^= 1
        (tmp_path / "b.safetensors").write_bytes(flipped)
        with pytest.raises(UserError, match=r"b\.safetensors: the file is damaged"):
            Style.load(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="there is no style"):
        Style.load(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="not a style"):
        Style.load(tmp_path)


@settings(max_examples=100)
@given(places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1))
def test_damage_anywhere_is_found_and_named(tmp_path_factory, places):
    path = tmp_path_factory.mktemp("styles") / "a.safetensors"
    saved = style(stages=2)
    saved.save(path)
    data = bytearray(path.read_bytes())
    for place, byte in places:
        data[place % len(data)] = byte
    path.write_bytes(data)
    try:
        loaded = Style.load(path)
    except UserError as error:
        assert "a.safetensors" in str(error) and "\n" not in str(error)
    else:
        assert same_tables(loaded, saved)


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    style(seed=1).save(tmp_path / "a.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            style(seed=2).save(tmp_path / "a.safetensors")
    assert same(Style.load(tmp_path / "a.safetensors"), style(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(UserError, match=r"\.safetensors file"):
        style().save(tmp_path / "a.npz")


def test_pytorch_files_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.bin").write_bytes(b"\x80\x02}q\x00.")  # as before 2020, in no zip archive
    for attempt in (lambda: Style.load(tmp_path / "a.bin"), lambda: style().export(tmp_path / "b.bin")):
        with pytest.raises(UserError, match=r"pip install torch$"):
            attempt()


def test_header_lengths_that_look_like_a_pickle(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for length in (0x80, 0x280):
        header = json.dumps({"<a>": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
        (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + header + np.float32(3).tobytes())
        assert Style.load(tmp_path / "a.safetensors").tables["clip_l"].tolist() == [[[3]]]


def test_load_styles(tmp_path):
    gogh, monet, cat = style(), style(name="monet", seed=1), style(name="cat", seed=2)
    gogh.save(tmp_path / "runs" / "gogh" / "style.safetensors")
    monet.save(tmp_path / "runs" / "monet" / "style.safetensors")
    (tmp_path / "runs" / "unfinished").mkdir()
    cat.save(tmp_path / "cat.safetensors")
    assert list(load_styles([tmp_path / "runs"])) == ["gogh", "monet"]
    assert list(load_styles([tmp_path / "cat.safetensors", str(tmp_path / "runs" / "gogh")])) == ["cat", "gogh"]
    assert list(load_styles([tmp_path])) == ["cat"]
    assert list(load_styles([tmp_path / "runs", tmp_path / "runs" / "gogh"])) == ["gogh", "monet"]
    assert same(load_styles([tmp_path / "runs"])["monet"], monet)
    assert load_styles([]) == {}
    with pytest.raises(UserError, match="no style in"):
        load_styles([tmp_path / "runs" / "unfinished"])
    with pytest.raises(UserError, match="there is no style"):
        load_styles([tmp_path / "nothing"])


def test_names_are_unique_or_made_so(tmp_path):
    style().save(tmp_path / "one.safetensors")
    style(seed=1).save(tmp_path / "two=2.safetensors")
    with pytest.raises(UserError, match=r"two styles are called 'gogh', .*one.* and .*two.*: give one of them another"):
        load_styles([tmp_path])
    styles = load_styles([tmp_path / "one.safetensors", f"other={tmp_path}/two=2.safetensors"])
    assert list(styles) == ["gogh", "other"] and styles["other"].name == "other"
    assert list(load_styles([f"{tmp_path}/two=2.safetensors"])) == ["gogh"]
    with pytest.raises(UserError, match="holds 2 styles"):
        load_styles([f"x={tmp_path}"])
    with pytest.raises(UserError, match="cannot be called"):
        load_styles([f"{{}}={tmp_path}/one.safetensors"])


def test_styles_as_they_were_during_training(tmp_path):
    runs = tmp_path / "runs"
    for run in ("gogh", "monet"):
        for seed, file in enumerate(
            [step_file(runs / run, 100), step_file(runs / run, 1_000_000), runs / run / FILE_NAME]
        ):
            style(name=run, seed=seed + 10 * (run == "monet")).save(file)
    styles = load_styles([runs], [1_000_000, 100])
    assert list(styles) == ["gogh@1000000", "gogh@100", "monet@1000000", "monet@100"]
    for name, seed in (("gogh@100", 0), ("gogh@1000000", 1), ("monet@100", 10), ("monet@1000000", 11)):
        assert same(styles[name], style(name=name, seed=seed))
    assert list(load_styles([f"v={runs}/gogh"], [100])) == ["v@100"]
    assert list(load_styles([runs / "gogh", runs / "gogh" / FILE_NAME], [100])) == ["gogh@100"]
    assert list(load_styles([runs])) == ["gogh", "monet"], "the files of steps are not styles of the folder"
    (runs / "gogh" / "steps" / "step_mine.safetensors").touch()
    with pytest.raises(UserError, match=r"checkpoints: .*gogh keeps no style of step 50, but of 100, 1000000$"):
        load_styles([runs], [50])
    style().save(tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match=r"keeps no style of step 50$"):
        load_styles([tmp_path / "alone.safetensors"], [50])


def test_steps_that_prompts_and_recipes_name_are_loaded_as_well(tmp_path):
    for run in ("gogh", "monet"):
        style(name=run).save(tmp_path / run / FILE_NAME)
        style(name=run, seed=1).save(step_file(tmp_path / run, 100))
    refs = [StyleRef("gogh", 100), StyleRef("gogh"), StyleRef("unknown", 7)]
    styles = load_styles([tmp_path], refs=refs)
    assert list(styles) == ["gogh", "gogh@100", "monet"]
    assert same(styles["gogh@100"], style(name="gogh@100", seed=1))
    assert list(load_styles([tmp_path], [100], refs)) == ["gogh@100", "monet@100"]
    assert list(load_styles([f"v={tmp_path}/gogh"], refs=[StyleRef("v", 100)])) == ["v", "v@100"]
    with pytest.raises(UserError, match=r"keeps no style of step 50, but of 100$"):
        load_styles([tmp_path], refs=[StyleRef("monet", 50)])


@given(names.filter(lambda name: "@" not in name), st.integers(0, 10**7))
def test_a_style_and_its_step_are_read_as_they_are_written(name, step):
    ref = StyleRef(name, step)
    assert StyleRef.parse(str(ref)) == ref
    assert str(StyleRef(name)) == name


@given(names.filter(lambda name: "@" not in name), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_step_that_a_style_names_is_kept(name, step, later):
    assert StyleRef(name, step).names_step == bool(step)
    assert StyleRef(name, step).at(later) == StyleRef(name, step or later)


@pytest.mark.parametrize("recipe", ["gogh@100:5-3,monet:2-0", "gogh@100*0.5+monet*0.5", "gogh:5-3,monet@7 :2-0"])
def test_a_recipe_that_names_a_step_is_kept(recipe):
    assert StyleRef.parse(recipe) == StyleRef(recipe)
    assert StyleRef(recipe).names_step and StyleRef(recipe).at(50) == StyleRef(recipe)
    without = StyleRef(recipe.replace("@100", "").replace("@7", ""))
    assert not without.names_step and without.at(50) == StyleRef(without.name, 50)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("gogh", ("gogh", 0)),
        ("gogh@100", ("gogh", 100)),
        ("van gogh@100", ("van gogh", 100)),
        ("a@b@7", ("a@b", 7)),
        ("gogh@", ("gogh@", 0)),
        ("@100", ("@100", 0)),
        ("me@home", ("me@home", 0)),
        ("", ("", 0)),
    ],
)
def test_reading_a_style_and_its_step(text, ref):
    assert StyleRef.parse(text) == ref


def test_check_widths():
    check_widths({"a": style()}, {"clip_l": 8})
    check_widths({"a": two_tables()}, {"clip_g": 6, "clip_l": 4})
    with pytest.raises(UserError, match=r"'b' have width 16, .* encoder 8: use the model .*, sd15"):
        check_widths({"a": style(), "b": style(width=16, model="sd15")}, {"clip_l": 8})
    with pytest.raises(UserError, match=r"trained on$"):
        check_widths({"a": style()}, {"clip_l": 768})
    with pytest.raises(UserError, match=r"'a' have width 8, .* encoders 8 and 6"):
        check_widths({"a": style()}, {"clip_l": 8, "clip_g": 6})


def test_metadata_is_readable_from_the_header(tmp_path):
    style(init_word="painting").save(tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as file:
        header = file.metadata()
    assert json.loads(header["metadata"]) == {"init_word": "painting"} and header["name"] == "gogh"


def test_a_name_that_looks_like_a_training_step_is_changed_with_a_warning(tmp_path):
    Style("gogh@768", np.ones((1, 1, 4))).save(tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="'gogh@768' is called gogh-768 here"):
        assert list(load_styles([tmp_path / "a.safetensors"])) == ["gogh-768"]
    assert list(load_styles([f"other={tmp_path / 'a.safetensors'}"])) == ["other"]
    with pytest.raises(UserError, match=r"other@5=.*: a style cannot be called so"):
        load_styles([f"other@5={tmp_path / 'a.safetensors'}"])


def test_what_other_programs_leave_in_a_folder_of_styles_is_no_style(tmp_path):
    Style("one", np.ones((1, 1, 4))).save(tmp_path / "one.safetensors")
    Style("two", np.ones((1, 1, 4))).save(tmp_path / "two.safetensors")
    (tmp_path / "two.safetensors").rename(tmp_path / "TWO.SAFETENSORS")
    (tmp_path / "._one.safetensors").write_bytes(b"resource fork")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / FILE_NAME).write_bytes(b"no style")
    assert sorted(load_styles([tmp_path])) == ["one", "two"]


@pytest.mark.parametrize(("dtype", "size", "expected"), [("BF16", 8, 1.0), ("F8_E4M3", 4, None), ("F4", 2, None)])
def test_numbers_of_other_widths_are_read_or_named(tmp_path, dtype, size, expected):
    header = json.dumps({"sea": {"dtype": dtype, "shape": [1, 4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x80\x3f" * (size // 2))
    if expected:
        assert (Style.load(path).tables["clip_l"] == expected).all()
    else:
        with pytest.raises(UserError, match=f"its numbers are {dtype}, .* save it with 16 or 32 bits"):
            Style.load(path)
