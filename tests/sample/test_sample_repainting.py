"""``dreamstyler sample --content``: pictures that are repainted, with and without ControlNets.

Most tests paint two pictures at a time, so that they share compiled programs.
"""

import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image
from sample_tools import manifest
from script_tools import contents, refusal, run, write_picture
from tiny_model import WIDTH, write_controlnet

from dreamstyler_jax import transfer
from dreamstyler_jax.commands import sample
from dreamstyler_jax.runtime import images
from dreamstyler_jax.style import FILE_NAME, Style

PROMPT = "a painting of a red house in the style of {}"


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return write_controlnet(tmp_path_factory.mktemp("controlnet"))


@pytest.fixture(scope="module")
def words(tiny_folder, tmp_path_factory):
    """The options for five steps of a tiny model in a random style."""
    folder = tmp_path_factory.mktemp("style")
    table = np.random.default_rng(0).standard_normal((2, 1, WIDTH), np.float32) / 5
    Style("gogh", {"clip_l": table}).save(folder / FILE_NAME)
    return ["--model", tiny_folder, "--styles", folder, "--steps", 5, "--seeds", "0:2", "--prompts", PROMPT]


def paint(folder, *options):
    """The pictures, as arrays in the order of the manifest."""
    run(sample, *options, "--output", folder)
    return [np.asarray(Image.open(folder / line["file"]), int) for line in manifest(folder)]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    return write_picture(tmp_path_factory.mktemp("photos") / "photo.png", 0, (30, 20))


def test_pictures_have_the_aspect_of_their_content_and_say_what_they_repaint(words, nets, photo, tmp_path):
    square = write_picture(tmp_path / "square.png", 1, (50, 50))
    options = ["--controlnets", f"edges={nets}", "--content", photo, square, "--strength", 0.6, 1]
    pictures = paint(tmp_path / "out", *words, *options)
    assert [picture.shape[:2] for picture in pictures] == [(13, 20)] * 4 + [(16, 16)] * 4
    line = manifest(tmp_path / "out")[0]
    assert line["content"] == str(photo) and line["strength"] == 0.6 and line["controlnets"] == [f"edges={nets}"]
    assert images.read_text(tmp_path / "out" / line["file"])["content"] == str(photo)
    before = contents(tmp_path / "out")
    run(sample, *words, *options, "--output", tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_less_strength_leaves_more_of_the_content(words, photo, tmp_path):
    few, many = (paint(tmp_path / str(s), *words, "--content", photo, "--strength", s)[0] for s in (0.2, 1))
    original = np.asarray(transfer.load_content(str(photo), 16, 2).picture, int)
    assert np.abs(few - original).mean() < np.abs(many - original).mean()


def test_control_scale_start_and_guess_mode_count(words, nets, photo, tmp_path):
    base = [*words, "--content", photo]
    net = ["--controlnets", f"edges={nets}"]

    def one(name, *options):
        return paint(tmp_path / name, *base, *options)[0]

    without, full = one("without"), one("full", *net)
    assert np.abs(one("nothing", *net, "--control_scale", 0) - without).max() <= 1
    assert np.abs(full - without).max() > 3
    assert np.abs(one("late", *net, "--control_start", 0.5) - full).max() > 3
    assert np.abs(one("guess", *net, "--guess_mode") - full).max() > 3
    shared = one("shared", *net, "--cache_interval", 2)
    assert 0 < np.abs(shared - full).mean() < np.abs(without - full).mean(), "shared deep features keep their residuals"
    half = one("half", "--controlnets", f"edges*0.5={nets}", f"edges*0.5={nets}")
    assert np.abs(half - full).max() <= 1, "residuals of several ControlNets add up"


def test_the_command_of_a_picture_repaints_it(words, nets, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--controlnets", f"edges={nets}", "--control_scale", 0.5, 1, "--batch_size", 2]
    paint(tmp_path / "first", *words, "--content", photo, *options)
    line = manifest(tmp_path / "first")[3]
    program, name, *options = shlex.split(line["command"])
    assert (program, name) == ("dreamstyler", "sample")
    run(sample, *options, "--batch_size", 4)
    again = manifest(tmp_path / "out/again")[0]
    a, b = (np.asarray(Image.open(tmp_path / f), int) for f in (f"first/{line['file']}", f"out/again/{again['file']}"))
    assert np.abs(a - b).max() <= 1


def test_the_controlnet_in_a_models_folder_is_the_default(words, nets, photo, tiny_folder, tmp_path):
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copytree(nets, model / "controlnet")
    words = [*words, "--content", photo]
    default = paint(tmp_path / "default", *words, "--model", model)
    line = manifest(tmp_path / "default")[0]
    assert line["controlnets"] == ["edges"] and "--controlnets edges" in line["command"]
    named = paint(tmp_path / "named", *words, "--model", model, "--controlnets", f"edges={nets}")
    np.testing.assert_array_equal(default, named)
    without = paint(tmp_path / "without", *words)
    assert not manifest(tmp_path / "without")[0]["controlnets"] and np.abs(default[0] - without[0]).max() > 3


def test_the_text_file_of_a_content_holds_its_prompt(words, photo, tmp_path):
    told, untold = (write_picture(tmp_path / f"{name}.png", 1, (16, 16)) for name in ("told", "untold"))
    told.with_suffix(".txt").write_text("a painting of a {red|blue} house in the style of {}\n")
    cut = words.index("--prompts")
    assert cut == len(words) - 2
    paint(tmp_path / "out", *words[:cut], "--content", told, untold, "--seeds", 0)
    assert [(line["content"], line["prompt"]) for line in manifest(tmp_path / "out")] == [
        (str(told), "a painting of a red house in the style of {}"),
        (str(told), "a painting of a blue house in the style of {}"),
        (str(untold), "A painting in the style of {}"),
    ]


def test_a_picture_of_one_pixel(words, tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    assert paint(tmp_path / "out", *words, "--content", tmp_path / "dot.png")[0].shape == (16, 16, 3)


MISTAKES = {
    "strength 0": (["--strength", 0], "strength: must be from 0.01 to 1, not 0"),
    "strength of no step": (["--strength", 0.1], "strength must be in .* and leave at least one of 5 steps, not 0.1"),
    "20,000 pixels wide": (["--content", "{wide}"], "20000 x 30 pixels is too long and thin to be repainted"),
    "no such content": (["--content", "nowhere.png"], "there is no picture nowhere.png"),
    "twice the same": (["--content", "{photo}", "{photo}"], "content: names a picture twice"),
    "which ControlNet": (["--controlnets", "edges"], "controlnets: .* has none of its own; name one, as in edges="),
    "unknown kind": (["--controlnets", "pose=x"], "controlnets: 'pose=x' should read like"),
    "another family": (["--controlnets", "edges={other}"], "ControlNet .* is for another family of models than"),
    "another latent size": (["--controlnets", "edges={large}"], "downsampling of its control map is 8, not 2"),
    "no ControlNet at all": (["--controlnets", "edges={folder}"], "config.json is missing"),
    "no map": (["--controlnets", "image={nets}"], "control_images: give the control map of"),
    "map of another aspect": (
        ["--controlnets", "image={nets}", "--control_images", "{wide}"],
        "control map .* is 20000 x 30 pixels: give it the aspect",
    ),
    "maps for other contents": (["--control_images", "a.png", "b.png"], "2 given for 1 pictures in content"),
    "an end before the start": (["--control_start", 0.5, "--control_end", 0.5], "control_end: must be more than"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_ends_with_one_line_and_nothing_written(kind, words, nets, photo, tmp_path, capfd):
    options, complaint = MISTAKES[kind]
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20_000, 30)).save(tmp_path / "in" / "wide.png")
    write_controlnet(tmp_path / "in" / "other", cross_attention_dim=24)
    write_controlnet(tmp_path / "in" / "large", conditioning_embedding_out_channels=(4, 4, 4, 4))
    places = {name: tmp_path / "in" / name for name in ("other", "large")}
    places |= {"wide": tmp_path / "in" / "wide.png", "photo": photo, "nets": nets, "folder": tmp_path}
    given = [str(option).format(**places) for option in options]
    content = [] if "--content" in given else ["--content", photo]
    line = refusal(capfd, sample, *words, *content, *given, "--output", tmp_path / "out")
    assert re.search(complaint, line)
    assert not (tmp_path / "out").exists()


def test_controlnets_without_content_are_refused(words, nets, tmp_path, capfd):
    line = refusal(capfd, sample, *words, "--controlnets", f"edges={nets}", "--output", tmp_path / "out")
    assert "controlnets: give the pictures" in line
