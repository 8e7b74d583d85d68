"""The tokenizer: CLIP's ids, padding and cutting, folders that are read, written and refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from clip_vocabulary import EOS, write_clip_tokenizer

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer

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


def test_damaged_folders_are_explained(tmp_path, small):
    with pytest.raises(UserError, match=r"no tokenizer in .*vocab\.json and merges\.txt"):
        Tokenizer.from_folder(tmp_path / "missing")
    damages = {
        "vocab.json": ("{", "cannot read the tokenizer in"),
        "merges.txt": ("#version: 0.2\na b c\n", "cannot read the tokenizer in"),
        "tokenizer_config.json": ("[1]", r"tokenizer_config\.json is damaged"),
        "special_tokens_map.json": ('{"pad_token": "<|pad|>"', r"special_tokens_map\.json is damaged"),
    }
    for name, (content, message) in damages.items():
        small.save(tmp_path / "t")
        (tmp_path / "t" / name).write_text(content)
        with pytest.raises(UserError, match=message):
            Tokenizer.from_folder(tmp_path / "t")


def test_inconsistent_folders_are_explained(tmp_path, small):
    small.save(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nQ Q\n")
    with pytest.raises(UserError, match="do not agree"):
        Tokenizer.from_folder(tmp_path)
    small.save(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<|pad|>"}')
    with pytest.raises(UserError, match="pad_token"):
        Tokenizer.from_folder(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["5000"] = {"content": "<far>"}
    small.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"<far>.*5000"):
        Tokenizer.from_folder(tmp_path)


def test_an_interrupted_save_leaves_whole_files(tmp_path, small, monkeypatch):
    small.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        Tokenizer.train(CAPTIONS, 530).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


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


def test_pad_token_of_stable_diffusion_2_is_matched_in_prompts(tmp_path):
    tokenizer = Tokenizer.from_folder(write_clip_tokenizer(tmp_path, pad="!"))
    assert tokenizer.words("hi! there") == [1883, 0, 997]
    assert Tokenizer.from_folder(write_clip_tokenizer(tmp_path, pad=EOS)).words("hi! there") == [1883, 256, 997]
