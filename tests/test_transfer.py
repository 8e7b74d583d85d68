"""Content pictures on their way to the sampler, and sample.py as it repaints them."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from script_tools import compilation_cache, contents, refusal, run, write_picture
from tiny_model import WIDTH

from dreamstyler_jax import transfer
from dreamstyler_jax.commands import sample
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig, ControlNetModel
from dreamstyler_jax.stable_diffusion.weights import init_model, save_model
from dreamstyler_jax.style import FILE_NAME, Style

PROMPT = "a painting of a red house in the style of {}"
FAMILY = dict(
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2, cross_attention_dim=WIDTH,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), addition_embed_type="text",
    addition_embed_type_num_heads=2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_compilation(tmp_path_factory):
    with compilation_cache(tmp_path_factory.mktemp("compiled")):
        yield


def write_controlnet(folder, **settings):
    config = ControlNetConfig(**{**FAMILY, "conditioning_embedding_out_channels": (8, 8), **settings})
    save_model(folder, config, init_model(ControlNetModel, config)[1])
    return folder


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return write_controlnet(tmp_path_factory.mktemp("controlnet"))


@pytest.fixture(scope="module")
def words(tiny_folder, tmp_path_factory):
    """Ten steps of a tiny model in a random style."""
    folder = tmp_path_factory.mktemp("style")
    table = np.random.default_rng(0).standard_normal((2, 1, WIDTH), np.float32) / 5
    Style("gogh", table).save(folder / FILE_NAME)
    return ["--model", tiny_folder, "--styles", folder, "--steps", 5, "--seeds", "0:2", "--prompts", PROMPT]


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def paint(folder, *options):
    """The pictures, as arrays in the manifest's order."""
    run(sample, *options, "--output", folder)
    return [np.asarray(Image.open(folder / line["file"]), int) for line in manifest(folder)]


# Frames and maps


@given(
    width=st.integers(1, 20_000), height=st.integers(1, 20_000), multiple=st.sampled_from([8, 64]),
    resolution=st.sampled_from([64, 512, 768]),
)  # fmt: skip
def test_a_frame_has_the_pictures_aspect_and_the_models_area(width, height, multiple, resolution):
    if max(width, height) > 8 * min(width, height):
        with pytest.raises(UserError, match="too long and thin"):
            transfer.frame((width, height), resolution, multiple)
        return
    frame = transfer.frame((width, height), resolution, multiple)
    assert frame.height % multiple == frame.width % multiple == 0
    assert 0 <= frame.height - frame.inner_height < multiple and 0 <= frame.width - frame.inner_width < multiple
    assert abs(frame.inner_width - frame.inner_height * width / height) <= 0.5 * (1 + width / height) + 1e-6
    assert frame.inner_width * frame.inner_height == pytest.approx(resolution**2, rel=0.1)


def test_what_is_beyond_the_picture_repeats_its_border():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 13, 3), np.uint8))
    framed = transfer.to_frame(picture, transfer.Frame(16, 16, 10, 13))
    assert framed.shape == (16, 16, 3)
    np.testing.assert_array_equal(framed[:10, :13], picture)
    np.testing.assert_array_equal(framed[10:, :13], np.broadcast_to(np.asarray(picture)[-1:], (6, 13, 3)))
    np.testing.assert_array_equal(framed[:, 13:], np.broadcast_to(framed[:, 12:13], (16, 3, 3)))


def test_a_picture_is_not_stretched(tmp_path):
    """A circle stays one, in a picture twice as wide as high and no multiple of anything."""
    y, x = np.mgrid[:151, :302]
    disc = (x - 100) ** 2 + (y - 75) ** 2 < 50**2
    Image.fromarray((disc * 255).astype(np.uint8)).save(tmp_path / "disc.png")
    content = transfer.load_content(str(tmp_path / "disc.png"), 64, 8)
    seen = np.asarray(content.picture)[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
    assert content.frame.inner_width == pytest.approx(2 * content.frame.inner_height, abs=1)


def test_edges_are_where_the_picture_changes(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    content = transfer.load_content(str(tmp_path / "half.png"), 64, 8)
    edges = transfer.control_map("edges", content, "")
    assert edges.shape == (content.frame.height, content.frame.width, 3) and set(np.unique(edges)) == {0.0, 1.0}
    middle = content.frame.inner_width / 2
    assert np.abs(np.flatnonzero(edges[5, :, 0]) - middle).max() <= 2


def test_a_control_image_is_taken_as_it_is(tmp_path):
    write_picture(tmp_path / "a.png", 0, (32, 16))
    Image.new("RGB", (64, 32), (255, 128, 0)).save(tmp_path / "map.png")
    content = transfer.load_content(str(tmp_path / "a.png"), 16, 8, control_image=str(tmp_path / "map.png"))
    np.testing.assert_allclose(transfer.control_map("image", content, "")[0, 0], [1, 128 / 255, 0], atol=1e-6)
    plain = transfer.load_content(str(tmp_path / "a.png"), 16, 8)
    assert plain.hash != content.hash
    with pytest.raises(UserError, match=r"control_images: give the control map of .*a\.png"):
        transfer.control_map("image", plain, "")


def test_depth_is_estimated_once(tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def pipeline(picture):
        asked.append(picture.size)
        return {"predicted_depth": torch.arange(24.0).reshape(1, 4, 6)}

    monkeypatch.setattr(transfer, "_depth_pipeline", lambda model: pipeline)
    write_picture(tmp_path / "a.png", 0, (32, 16))
    content = transfer.load_content(str(tmp_path / "a.png"), 16, 8)
    first, second = (transfer.control_map("depth", content, "some/model") for _ in range(2))
    assert len(asked) == 1 and first.min() == 0 and first.max() == 1
    np.testing.assert_array_equal(first, second)
    transfer.control_map("depth", content, "another/model")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("text", "net"),
    [
        ("edges", ("edges", 1.0, "")),
        ("depth=some/model", ("depth", 1.0, "some/model")),
        ("image*0.5=/a folder/*=x", ("image", 0.5, "/a folder/*=x")),
    ],
)
def test_reading_a_controlnet(text, net):
    assert transfer.parse_net(text) == net


@pytest.mark.parametrize("text", ["", "canny=x", "edges=", "edges*=x", "edges*-1=x", "=x"])
def test_what_is_no_controlnet(text):
    with pytest.raises(UserError, match="should read like edges=FOLDER"):
        transfer.parse_net(text)


def test_a_controlnet_counts_in_the_steps_that_lie_in_its_span():
    scales = transfer.control_scales([0.8, 0.5], [(0.0, 1.0), (0.2, 0.7)], 10)
    np.testing.assert_allclose(scales[:, 0], 0.8)
    np.testing.assert_allclose(scales[:, 1], [0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0, 0])


# sample.py


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    return write_picture(tmp_path_factory.mktemp("photos") / "photo.png", 0, (30, 20))


def test_results_have_the_contents_aspect_and_say_what_they_repaint(words, nets, photo, tmp_path):
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
    base = [*words, "--content", photo, "--seeds", 0]
    net = ["--controlnets", f"edges={nets}"]

    def one(name, *options):
        return paint(tmp_path / name, *base, *options)[0]

    without, full = one("without"), one("full", *net)
    assert np.abs(one("nothing", *net, "--control_scale", 0) - without).max() <= 1
    assert np.abs(full - without).max() > 3
    assert np.abs(one("late", *net, "--control_start", 0.5) - full).max() > 3
    assert np.abs(one("guess", *net, "--guess_mode") - full).max() > 3
    shared = one("shared", *net, "--cache_interval", 2)
    assert 0 < np.abs(shared - full).mean() < np.abs(without - full).mean(), "deep features with their residuals"
    half = one("half", "--controlnets", f"edges*0.5={nets}", f"edges*0.5={nets}")
    assert np.abs(half - full).max() <= 1, "residuals of several ControlNets add up"


def test_the_command_of_a_picture_repaints_it(words, nets, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "first", *words, "--controlnets", f"edges={nets}", "--content", photo, "--control_scale", 0.5, 1)
    line = manifest(tmp_path / "first")[3]
    run(sample, *shlex.split(line["command"])[2:], "--batch_size", 4)
    again = manifest(tmp_path / "out/again")[0]
    a, b = (np.asarray(Image.open(tmp_path / f), int) for f in (f"first/{line['file']}", f"out/again/{again['file']}"))
    assert np.abs(a - b).max() <= 1


def test_a_models_own_controlnet_is_the_default(words, nets, photo, tiny_folder, tmp_path):
    own = shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copytree(nets, own / "controlnet")
    words = [*words, "--content", photo, "--seeds", 0]
    default = paint(tmp_path / "default", *words, "--model", own)
    line = manifest(tmp_path / "default")[0]
    assert line["controlnets"] == ["edges"] and "--controlnets edges" in line["command"]
    named = paint(tmp_path / "named", *words, "--model", own, "--controlnets", f"edges={nets}")
    np.testing.assert_array_equal(default, named)
    without = paint(tmp_path / "without", *words)
    assert not manifest(tmp_path / "without")[0]["controlnets"] and np.abs(default[0] - without[0]).max() > 3


def test_a_content_takes_its_prompt_from_the_file_beside(words, photo, tmp_path):
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
    "which ControlNet": (["--controlnets", "edges"], "controlnets: .* has none of its own; say which, as in edges="),
    "unknown kind": (["--controlnets", "pose=x"], "controlnets: 'pose=x' should read like"),
    "another family": (["--controlnets", "edges={other}"], "ControlNet .* is for another family of models than"),
    "another latent size": (["--controlnets", "edges={large}"], "downsampling of its control map is 8, not 2"),
    "no ControlNet at all": (["--controlnets", "edges={folder}"], "config.json is missing"),
    "no map": (["--controlnets", "image={nets}"], "control_images: give the control map of"),
    "map of another aspect": (
        ["--controlnets", "image={nets}", "--control_images", "{wide}"],
        "control map .* is 20000 x 30 pixels: make its aspect",
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
