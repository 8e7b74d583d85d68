"""The tokenizer against transformers' CLIPTokenizer, id for id."""

from pathlib import Path

import numpy as np
import pytest
from clip_vocabulary import EOS, write_clip_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from dreamstyler_jax.stable_diffusion.placeholders import tokenize_with_placeholders
from dreamstyler_jax.stable_diffusion.single_files.vocabulary import clip_tokenizer
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer

PROMPTS = (Path(__file__).parent.parent / "configs" / "eval_prompts.txt").read_text(encoding="utf-8").splitlines()
ODD = [
    "",
    " ",
    "\t\n \u00a0\u2003 x \r\n",
    "don't we'll I'VE they're it's I'd 'S",
    "UPPER Case, ÀÉÎ \u0130stanbul ΟΔΟΣ ẞ",
    "🎨🖌️ 👩🏽‍🎨 🇫🇷",
    "浮世絵風の猫 한국화 山水画",
    "cafe\u0301 nai\u0308ve Z\u0337a\u030al\u0300g\u0341o",
    "لوحة زيتية ציור",
    "zero\u200bwidth\u200djoiner\ufeff\u2060",
    "\ufb01ne \ufb02ow \uff21 \uff50\uff41\uff49\uff4e\uff54 ½ ² Ⅷ",
    "a\x00b\x01c\x7f\x1b[31m",
    "!!! hello! ! a!b",
    "1234 3d 4k 16:9 #tag $5 @me",
    "<|startoftext|> a <|endoftext|> b",
    "<|ENDOFTEXT|>a<|endoftext|>b",
    "</w> Ġ ĠĠ a</w>b",
    "\U000e0041\U0010ffff\ue000",
    "word " * 200,
    "🎨" * 90,
    "a" * 2000,
]


@pytest.fixture(scope="module", params=[EOS, "!"], ids=["sd1", "sd2"])
def pair(request, tmp_path_factory):
    folder = write_clip_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param)
    reference = CLIPTokenizer.from_pretrained(folder)
    assert len(reference) == 49_408 and reference.model_max_length == 77
    return Tokenizer.from_folder(folder), reference


def reference_ids(reference, prompts):
    return np.array(reference(prompts, padding="max_length", truncation=True, max_length=77)["input_ids"])


def test_attributes(pair):
    ours, reference = pair
    assert (ours.bos_id, ours.eos_id) == (reference.bos_token_id, reference.eos_token_id)
    assert (ours.pad_id, ours.vocab_size, ours.max_length) == (reference.pad_token_id, len(reference), 77)


@pytest.mark.parametrize("pad", [EOS, "!"])
def test_the_tokenizer_of_single_files(pad, tmp_path):
    reference = CLIPTokenizer.from_pretrained(write_clip_tokenizer(tmp_path, pad))
    ours = clip_tokenizer(pad)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (49_406, 49_407, reference.pad_token_id)
    assert (ours.vocab_size, ours.max_length) == (49_408, 77)
    np.testing.assert_array_equal(ours([*PROMPTS, *ODD]), reference_ids(reference, [*PROMPTS, *ODD]))
    assert [ours.encode(text) for text in ODD] == [reference(text)["input_ids"] for text in ODD]


def test_prompts_of_the_paper(pair):
    ours, reference = pair
    prompts = [prompt.format("van gogh") for prompt in PROMPTS]
    assert len(prompts) == 39
    np.testing.assert_array_equal(ours(prompts), reference_ids(reference, prompts))


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_text(pair, text):
    ours, reference = pair
    assert ours.encode(text) == reference(text)["input_ids"]
    np.testing.assert_array_equal(ours([text]), reference_ids(reference, [text]))


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(st.text(max_size=80), st.lists(st.sampled_from([*ODD[3:17], " ", "'s", "!", "{}"])).map("".join)))
def test_any_text(pair, text):
    ours, reference = pair
    assert ours.encode(text) == reference(text)["input_ids"]


def test_placeholder_sits_where_an_added_token_would(tmp_path):
    folder = write_clip_tokenizer(tmp_path)
    reference, ours = CLIPTokenizer.from_pretrained(folder), Tokenizer.from_folder(folder)
    reference.add_tokens("<sks>")
    added = reference.convert_tokens_to_ids("<sks>")
    for prompt in (*PROMPTS, "{}, a cat{}", "pre{}fix's {}'s", "{}", "x {}!!", "5{}5"):
        ids, slots, _ = tokenize_with_placeholders(ours, prompt, {"sks": 1})
        expected = reference_ids(reference, [prompt.replace("{}", "<sks>")])[0]
        np.testing.assert_array_equal(np.where(slots == 0, added, ids), expected)


def test_saved_folders_are_read_alike_by_both(pair, tmp_path):
    ours, reference = pair
    expected = reference_ids(reference, ODD)
    ours.save(tmp_path / "ours")
    reread = CLIPTokenizer.from_pretrained(tmp_path / "ours")
    assert reread.model_max_length == 77 and len(reread) == 49_408
    np.testing.assert_array_equal(reference_ids(reread, ODD), expected)
    np.testing.assert_array_equal(Tokenizer.from_folder(tmp_path / "ours")(ODD), expected)
    reference.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "vocab.json").exists()
    np.testing.assert_array_equal(Tokenizer.from_folder(tmp_path / "theirs")(ODD), expected)


def test_trained_vocabulary_reads_the_same_in_transformers(tmp_path):
    ours = Tokenizer.train([prompt.format("van gogh") for prompt in PROMPTS], 700)
    ours.save(tmp_path)
    reference = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(reference) == ours.vocab_size
    np.testing.assert_array_equal(ours([*PROMPTS, *ODD]), reference_ids(reference, [*PROMPTS, *ODD]))


def test_tokens_added_beyond_the_vocabulary(tmp_path):
    folder = write_clip_tokenizer(tmp_path)
    (folder / "added_tokens.json").write_text('{"<dog>": 49409, "<cat-toy>": 49408}', encoding="utf-8")
    reference, ours = CLIPTokenizer.from_pretrained(folder), Tokenizer.from_folder(folder)
    text = "a <cat-toy> and a <DOG>!"
    assert ours.vocab_size == len(reference) == 49_410
    assert ours.encode(text) == reference(text)["input_ids"]
    assert [i for i in ours.encode(text) if i >= 49_408] == [49_408, 49_409]
