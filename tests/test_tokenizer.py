"""The tokenizer, its placeholders and its guards."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from clip_vocabulary import EOS, write_clip_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.tokenizer import Placeholder, Tokenizer, parse_prompt, tokenize_with_placeholders

VAN_GOGH = [49406, 320, 3086, 530, 518, 1844, 539, 2451, 19697, 49407]
CAPTIONS = [f"A painting of a {subject} in the style of Hokusai" for subject in ("house", "dog", "robot", "harbour")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Tokenizer.from_folder(write_clip_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def small():
    return Tokenizer.train(CAPTIONS, 600)


def test_known_ids(clip):
    assert clip.encode("a painting in the style of van gogh") == VAN_GOGH
    assert clip.encode("A  Painting in the\nstyle of Van Gogh ") == VAN_GOGH
    assert clip.encode("") == [49406, 49407]
    assert clip.decode(VAN_GOGH[1:-1]) == "a painting in the style of van gogh"
    assert (clip.vocab_size, clip.max_length, clip.pad_id) == (49408, 77, 49407)


def test_padding_and_cutting(clip, tmp_path):
    rows = clip(["a painting in the style of van gogh", "x " * 100, "x " * 75])
    assert rows.shape == (3, 77) and rows.dtype == np.int32
    assert rows[0].tolist() == VAN_GOGH + [49407] * 67
    assert rows[1].tolist() == rows[2].tolist() == [49406] + [343] * 75 + [49407]
    sd2 = Tokenizer.from_folder(write_clip_tokenizer(tmp_path, pad="!"))
    assert sd2(["a painting in the style of van gogh"])[0].tolist() == VAN_GOGH + [0] * 67
    assert sd2.filler_id not in (sd2.bos_id, sd2.eos_id, sd2.pad_id)


def test_lone_surrogates_do_not_stop_a_run(clip):
    assert clip.encode("a \udc80 b") == clip.encode("a ? b")


@pytest.mark.parametrize(
    ("length", "expected"), [(None, 77), (1e30, 77), (10**30, 77), (0, 77), ("77", 77), (64, 64), (77, 77)]
)
def test_window(tmp_path, small, length, expected):
    small.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": length}))
    assert Tokenizer.from_folder(tmp_path).max_length == expected


def test_folder_without_configuration_has_the_defaults_of_clip(tmp_path):
    folder = write_clip_tokenizer(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink()
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.pad_id, tokenizer.max_length) == (49407, 77)
    assert tokenizer.encode("a painting in the style of van gogh") == VAN_GOGH


def test_unreadable_folders(tmp_path, small):
    with pytest.raises(UserError, match=r"no tokenizer in .*vocab\.json and merges\.txt"):
        Tokenizer.from_folder(tmp_path / "missing")
    damages = {
        "vocab.json": "{",
        "merges.txt": "#version: 0.2\na b c\n",
        "tokenizer_config.json": "[1]",
        "special_tokens_map.json": '{"pad_token": "<|pad|>"',
    }
    for name, content in damages.items():
        small.save(tmp_path / "t")
        (tmp_path / "t" / name).write_text(content)
        with pytest.raises(UserError, match="cannot read"):
            Tokenizer.from_folder(tmp_path / "t")
    small.save(tmp_path / "t")
    (tmp_path / "t" / "merges.txt").write_text("#version: 0.2\nQ Q\n")
    with pytest.raises(UserError, match="do not agree"):
        Tokenizer.from_folder(tmp_path / "t")
    small.save(tmp_path / "t")
    (tmp_path / "t" / "special_tokens_map.json").write_text('{"pad_token": "<|pad|>"}')
    with pytest.raises(UserError, match="pad_token"):
        Tokenizer.from_folder(tmp_path / "t")
    config = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["5000"] = {"content": "<far>"}
    small.save(tmp_path / "t")
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"<far>.*5000"):
        Tokenizer.from_folder(tmp_path / "t")


def test_trained_vocabulary(small, tmp_path):
    assert small.vocab_size <= 600 and (small.bos_id, small.eos_id) == (small.vocab_size - 2, small.vocab_size - 1)
    assert len(small.words("a painting of a house in the style of")) == 9
    for text in ("🎨 ÀÉ \x00 浮", "A painting of a dog"):
        assert small.decode(small.words(text)) == text.lower()
    small.save(tmp_path)
    reread = Tokenizer.from_folder(tmp_path)
    assert (reread([*CAPTIONS, "🎨"]) == small([*CAPTIONS, "🎨"])).all()
    reread.save(tmp_path / "again")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert Tokenizer.train(CAPTIONS, 530).vocab_size == 530
    with pytest.raises(ValueError, match="at least 514"):
        Tokenizer.train(CAPTIONS, 513)


def test_training_a_vocabulary_is_reproducible(small, tmp_path):
    code = (
        "import sys; from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer\n"
        f"Tokenizer.train({CAPTIONS!r}, 600).save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=True)
    small.save(tmp_path / "this")
    assert (tmp_path / "this" / "merges.txt").read_text() == (tmp_path / "other" / "merges.txt").read_text()


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a {b} c", ["a ", Placeholder("b"), " c"]),
        ("{}", [Placeholder("")]),
        ("{ van gogh }{x}", [Placeholder("van gogh"), Placeholder("x")]),
        ("a {{b}} {{{c}}}", ["a {b} {", Placeholder("c"), "}"]),
        ("", []),
        ("plain", ["plain"]),
    ],
)
def test_parse_prompt(prompt, parts):
    assert parse_prompt(prompt) == parts


@pytest.mark.parametrize("prompt", ["a { b", "a } b", "{a{b}", "{a}}"])
def test_lone_braces(prompt):
    with pytest.raises(UserError, match="twice for a literal brace"):
        parse_prompt(prompt)


def test_one_style(clip):
    ids, slots = tokenize_with_placeholders(clip, "a painting in the style of {}", {"gogh": 1})
    assert ids.dtype == slots.dtype == np.int32 and ids.shape == slots.shape == (77,)
    assert ids.tolist() == [*VAN_GOGH[:7], clip.filler_id, 49407] + [49407] * 68
    assert slots.tolist() == [-1] * 7 + [0] + [-1] * 69
    assert clip.filler_id not in (clip.bos_id, clip.eos_id, clip.pad_id)
    named, named_slots = tokenize_with_placeholders(clip, "a painting in the style of {gogh}", {"gogh": 1})
    assert (named == ids).all() and (named_slots == slots).all()


def test_several_styles_of_several_vectors(clip):
    counts = {"gogh": 2, "monet": 1, "cat": 3}
    ids, slots = tokenize_with_placeholders(clip, "{cat}, in the style of {gogh}and {cat}", counts)
    assert slots[:13].tolist() == [-1, 3, 4, 5, -1, -1, -1, -1, -1, 0, 1, -1, 3]
    assert slots[13:].tolist() == [4, 5] + [-1] * 62
    assert ids[slots < 0][:9].tolist() == [49406, 267, 530, 518, 1844, 539, 537, 49407, 49407]


def test_plain_prompts_and_literal_braces(clip):
    ids, slots = tokenize_with_placeholders(clip, "a {{x}} b", {})
    assert ids.tolist() == clip(["a {x} b"])[0].tolist() and (slots == -1).all()
    with pytest.raises(UserError, match="no placeholder"):
        tokenize_with_placeholders(clip, "a {{x}} b", {"gogh": 1}, required=True)
    tokenize_with_placeholders(clip, "a {}", {"gogh": 1}, required=True)


def test_unknown_and_ambiguous_names(clip):
    with pytest.raises(UserError, match="no style was given"):
        tokenize_with_placeholders(clip, "a {}", {})
    with pytest.raises(UserError, match=r"exactly one style and 2 were given: write one of \{\w+\}, \{\w+\}"):
        tokenize_with_placeholders(clip, "a {}", {"gogh": 1, "monet": 1})
    with pytest.raises(UserError, match=r"unknown style \{Manet\}: write one of \{monet\}, \{gogh\}"):
        tokenize_with_placeholders(clip, "a {Manet}", {"gogh": 1, "monet": 1})


def test_window_guard(clip):
    fits = "x " * 73 + "{}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids, slots = tokenize_with_placeholders(clip, fits, {"gogh": 2})
    assert slots[-3:].tolist() == [0, 1, -1] and ids[-1] == clip.eos_id
    with pytest.raises(UserError, match=r"1 token\(s\) beyond the 77-token window: shorten") as caught:
        tokenize_with_placeholders(clip, "x " + fits, {"gogh": 2})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"20 token\(s\) beyond"):
        tokenize_with_placeholders(clip, "x " * 94 + "{} and\nmore", {"gogh": 1})
    with pytest.warns(UserWarning, match=r"2 token\(s\) too long; cut: 'tree house'"):
        ids, slots = tokenize_with_placeholders(clip, fits + " tree house", {"gogh": 2})
    assert slots[-3:].tolist() == [0, 1, -1] and ids[-1] == clip.eos_id


@settings(max_examples=200, deadline=None)
@given(
    before=st.text(max_size=20).map(lambda t: t.replace("{", "").replace("}", "")),
    after=st.text(max_size=20).map(lambda t: t.replace("{", "").replace("}", "")),
    count=st.integers(1, 4),
)
def test_text_around_a_placeholder_is_as_around_a_word(small, before, after, count):
    if len(small.words(before)) + len(small.words(after)) + count > 75:
        return
    ids, slots = tokenize_with_placeholders(small, f"{before}{{}}{after}", {"s": count})
    content = ids[1:][slots[1:] < 0]
    expected = [*small.words(before), *small.words(after), small.eos_id]
    assert content[: len(expected)].tolist() == expected
    start = 1 + len(small.words(before))
    assert slots[start : start + count].tolist() == list(range(count))
    assert (slots >= 0).sum() == count and (slots == -1).sum() == 77 - count


def test_pad_token_of_stable_diffusion_2_is_matched_in_prompts(tmp_path):
    tokenizer = Tokenizer.from_folder(write_clip_tokenizer(tmp_path, pad="!"))
    assert tokenizer.words("hi! there") == [1883, 0, 997]
    assert Tokenizer.from_folder(write_clip_tokenizer(tmp_path, pad=EOS)).words("hi! there") == [1883, 256, 997]
