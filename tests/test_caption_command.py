"""``dreamstyler caption`` and ``train --caption``: what they write beside pictures, what they leave, and the editor."""

import os
import shlex
import sys

import numpy as np
import pytest
from PIL import Image
from readme_tools import commands_of
from script_tools import ROOT, refusal, run, write_picture

from dreamstyler_jax.captioning.caption import BLIP2, JUDGE, Caption
from dreamstyler_jax.captioning.sidecars import find_pictures
from dreamstyler_jax.commands import caption, cli, train
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import read_config, write_config
from dreamstyler_jax.mini.captioner import EmbeddedCaptioner
from dreamstyler_jax.mini.studies.captioning import CaptionsConfig
from dreamstyler_jax.prompts import context_only, sidecar_prompt
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL

EXAMPLES = ROOT / "examples"
DOG, CAT = "A painting of a dog in the style of {}", "A painting of a cat in the style of {}"


class Describer:
    """A captioner that remembers what it saw."""

    description = "a describer"

    def __init__(self):
        self.seen: list[Image.Image] = []

    def __call__(self, picture: Image.Image) -> Caption:
        self.seen.append(picture)
        return Caption(DOG, ("an oil painting of",), ("'dog' may be 'cat'",))


@pytest.fixture
def describer(monkeypatch):
    """Describes pictures in place of a network."""
    one = Describer()
    monkeypatch.setattr(caption, "load_captioner", lambda name: one)
    return one


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as the standard input."""
    main, other = os.openpty()
    with os.fdopen(other) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.delenv("VISUAL", raising=False)
        yield
    os.close(main)


def write_editor(folder, code):
    """A program that changes the file that it is given."""
    path = folder / "editor.py"
    path.write_text(f"import sys\nfrom pathlib import Path\nfile = Path(sys.argv[-1])\n{code}\n")
    return f"{sys.executable} {path} --wait"


# The embedded model's captioner


@pytest.fixture(scope="module")
def embedded():
    return EmbeddedCaptioner.load(EMBEDDED_MODEL)


@pytest.mark.parametrize("name", ["boat", "bird", "flower", "house", "city"])
def test_the_judge_captions_the_shipped_pictures_word_for_word(embedded, name):
    written = embedded(images.load(EXAMPLES / f"{name}.png"))
    assert written == Caption(sidecar_prompt(EXAMPLES / f"{name}.png"))


def test_words_that_judge_and_clip_disagree_about_are_unsure(embedded):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    by_judge, by_clip = embedded(noise), EmbeddedCaptioner("clip", embedded.judge, embedded.clip)(noise)
    assert by_judge.unsure and by_judge.prompt != by_clip.prompt
    assert all(
        line.split("'")[1] in by_judge.prompt and line.split("'")[3] in by_clip.prompt for line in by_judge.unsure
    )


# Files


def test_a_folder_is_described_beside_its_pictures(tmp_path, describer, capsys):
    for name in ("b.png", "a.JPG", "notes.md"):
        (tmp_path / name).touch() if name == "notes.md" else write_picture(tmp_path / name, 0)
    Image.new("L", (20, 14)).save(tmp_path / "b.mask.png")
    with pytest.raises(UserError, match="hides all of it"):  # the mask is one, and not a picture
        run(caption, tmp_path)
    (tmp_path / "b.mask.png").unlink()
    run(caption, tmp_path, "--overwrite")
    assert (
        (tmp_path / "a.txt").read_text()
        == (tmp_path / "b.txt").read_text()
        == "A painting of a dog in the style of {}\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"a.JPG", "a.txt", "b.png", "b.txt", "notes.md"}
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'b.txt'}: A painting of a dog" in printed
    assert "left out: an oil painting of\n" in printed and "unsure: 'dog' may be 'cat'\n" in printed


def test_what_a_mask_hides_is_not_described(tmp_path, describer):
    picture = write_picture(tmp_path / "a.png", 0)
    Image.fromarray(np.repeat([[255], [0]], (7, 7), 0).repeat(20, 1).astype(np.uint8)).save(tmp_path / "a.mask.png")
    run(caption, picture)
    pixels = np.asarray(describer.seen[0])
    np.testing.assert_array_equal(pixels[7:], np.broadcast_to(pixels[6], (7, 20, 3)))


def test_a_caption_of_the_users_stays_unless_told_otherwise(tmp_path, describer, capsys):
    picture = write_picture(tmp_path / "a.png", 0)
    (tmp_path / "a.txt").write_text("A painting of my dog in {}'s style")
    run(caption, "--images", picture)
    assert (tmp_path / "a.txt").read_text() == "A painting of my dog in {}'s style" and not describer.seen
    assert capsys.readouterr().out == f"{picture} has a caption, which stays: A painting of my dog in {{}}'s style\n"
    run(caption, picture, "--overwrite")
    assert sidecar_prompt(picture) == DOG


def test_nothing_is_written_where_only_the_style_is_described(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(caption, "load_captioner", lambda name: Silent())
    run(caption, write_picture(tmp_path / "a.png", 0))
    assert "say in a.txt what it shows" in capsys.readouterr().out and not (tmp_path / "a.txt").exists()


class Silent(Describer):
    def __call__(self, picture):
        return Caption("", ("a painting",))


def test_mistakes_about_pictures_are_one_line(tmp_path, describer, capfd):
    (tmp_path / "empty").mkdir()
    for words, reason in [
        ([], "images: give the pictures to describe"),
        ([tmp_path / "none.png"], "images: there is no picture"),
        ([tmp_path / "empty"], "holds no pictures"),
        (
            ["--captioner", tmp_path / "empty", write_picture(tmp_path / "a.png", 0), "--colour", "red"],
            "unknown option",
        ),
    ]:
        assert reason in refusal(capfd, caption, *words)
    write_picture(tmp_path / "a.jpg", 0)
    assert "would share a.txt" in refusal(capfd, caption, tmp_path)
    assert len(find_pictures([str(tmp_path / "a.png"), f"{tmp_path}/empty/../a.png"])) == 1


# The words of the command line


def test_pictures_need_no_option_wherever_they_stand():
    parsed = cli.parse(
        caption.CaptionConfig, ["a.png", "--edit", "b.png", "--captioner", "clip", "c.png", "--overwrite"]
    )
    assert parsed == caption.CaptionConfig(
        images=["a.png", "b.png", "c.png"], captioner="clip", edit=True, overwrite=True
    )
    assert cli.parse(caption.CaptionConfig, ["a.png", "--edit", "false"]) == caption.CaptionConfig(images=["a.png"])


# The editor


def test_the_editor_opens_every_caption(tmp_path, describer, terminal, monkeypatch):
    pictures = [write_picture(tmp_path / f"{name}.png", 0) for name in "ab"]
    (tmp_path / "b.txt").write_text(CAT)
    addition = "file.write_text(file.read_text().replace(' in the', ' on a red chair in the'))"
    monkeypatch.setenv("EDITOR", write_editor(tmp_path, addition))
    run(caption, "--edit", *pictures)
    animals = [context_only(sidecar_prompt(picture)) for picture in pictures]
    assert animals == ["A painting of a dog on a red chair", "A painting of a cat on a red chair"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sys.exit(3)", "ended with status 3"),
        ("file.write_text('a dog')", "no {} for the style in"),
        ("file.write_text('')", "is empty"),
        ("file.unlink()", "no {} for the style in"),
    ],
)
def test_what_an_editor_leaves_is_checked(tmp_path, describer, terminal, monkeypatch, code, reason):
    monkeypatch.setenv("VISUAL", write_editor(tmp_path, code))
    with pytest.raises(UserError, match=reason):
        run(caption, "--edit", write_picture(tmp_path / "a.png", 0))


@pytest.mark.parametrize(
    ("editor", "reason"), [("", "say which editor"), ("no-such-editor -w", "cannot start no-such"), ("'vi", "be read")]
)
def test_without_an_editor_one_line_says_so(tmp_path, describer, terminal, monkeypatch, editor, reason):
    monkeypatch.setenv("EDITOR", editor)
    with pytest.raises(UserError, match=f"^edit: .*{reason}"):
        run(caption, "--edit", write_picture(tmp_path / "a.png", 0))


def test_without_a_terminal_no_editor_is_opened(tmp_path, describer, monkeypatch):
    monkeypatch.setenv("EDITOR", "vi")
    with open(os.devnull) as nothing, pytest.raises(UserError, match=r"^edit: there is no terminal"):
        monkeypatch.setattr(sys, "stdin", nothing)
        run(caption, "--edit", write_picture(tmp_path / "a.png", 0))
    assert not describer.seen


# Training


def test_training_describes_pictures_that_have_no_caption(tiny_folder, tmp_path, describer, monkeypatch, capfd):
    learned = []
    monkeypatch.setattr(train, "train_runs", lambda model, runs, clock, window: learned.extend(runs) or {})
    pictures = [write_picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate("ab")]
    (tmp_path / "b.txt").write_text(CAT)
    words = ["--model", tiny_folder, "--images", *pictures, "--preview_prompts", "--output", tmp_path / "run"]
    run(train, *words, "--caption")
    printed = capfd.readouterr()
    assert f"{tmp_path / 'a.txt'}: {DOG}\n" in printed.out and "by a describer" in printed.err
    assert f"{pictures[1]} has a caption, which stays: {CAT}\n" in printed.out
    run(train, *words, "--caption")
    assert len(describer.seen) == 1
    for item in learned:
        assert item.lesson.style.metadata["prompts"] == [DOG, CAT] == item.config.prompts
        write_config(item.config, tmp_path / "config.yaml")
        assert read_config(TrainConfig, tmp_path / "config.yaml") == item.config  # it resumes without --caption


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"caption": True, "prompts": ["a {}"]}, "prompts, caption: give one of them"),
        ({"captioner": JUDGE}, "captioner: .* without --caption"),
        ({"caption": True, "property": "object", "init_word": "cat"}, "caption: .* object need no prompts"),
    ],
)
def test_options_of_training_that_contradict_captions(options, reason):
    with pytest.raises(UserError, match=reason):
        TrainConfig(**options)


def test_each_model_has_its_captioner():
    assert [caption.captioner_for(model) for model in ("mini", "some/model")] == [JUDGE, BLIP2]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, describer):
    picture = write_picture(tmp_path / "a.png", 0)
    (tmp_path / "a.txt").mkdir()  # nor may this, which also holds for a superuser
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: .* --prompts"):
        run(caption, picture, "--overwrite")


def test_the_commands_of_the_page_about_captions_can_be_copied():
    commands = [shlex.split(line)[1:] for line in commands_of(ROOT / "docs/captions.md")]
    classes = {"caption": caption.CaptionConfig, "captions": CaptionsConfig}
    parsed = [cli.parse(classes[name], words) for name, *words in commands]
    assert [type(config) for config in parsed] == list(classes.values())
