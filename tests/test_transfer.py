"""Pictures to repaint, on their way from files to the sampler."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from compilations import compilations
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from script_tools import write_picture
from tiny_model import write_controlnet

from dreamstyler_jax import transfer
from dreamstyler_jax.depth import depth_map
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return write_controlnet(tmp_path_factory.mktemp("controlnet"))


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


def test_the_border_of_a_picture_fills_its_frame():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 13, 3), np.uint8))
    framed = transfer.to_frame(picture, transfer.Frame(16, 16, 10, 13))
    assert framed.shape == (16, 16, 3)
    np.testing.assert_array_equal(framed[:10, :13], picture)
    np.testing.assert_array_equal(framed[10:, :13], np.broadcast_to(np.asarray(picture)[-1:], (6, 13, 3)))
    np.testing.assert_array_equal(framed[:, 13:], np.broadcast_to(framed[:, 12:13], (16, 3, 3)))


def test_a_picture_is_not_stretched(tmp_path):
    """A circle stays a circle, in a picture twice as wide as high with sides that are no multiples."""
    y, x = np.mgrid[:151, :302]
    disc = (x - 100) ** 2 + (y - 75) ** 2 < 50**2
    Image.fromarray((disc * 255).astype(np.uint8)).save(tmp_path / "disc.png")
    content = transfer.load_content(tmp_path / "disc.png", 64, 8)
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


def test_depth_is_estimated_once_with_each_depth_model(tmp_path, monkeypatch):
    """The second map of the same picture by the same model comes from the cache, in `control_map` as well.

    Another model in the same folder is another model.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded, model = [], tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"first")

    def load(model):
        loaded.append(model)
        return lambda picture: np.arange(24, dtype=np.float32).reshape(4, 6)

    write_picture(tmp_path / "a.png", 0, (32, 16))
    content = transfer.load_content(str(tmp_path / "a.png"), 16, 8)
    first, second = (np.asarray(depth_map(content.picture, str(model), load)) for _ in range(2))
    assert loaded == [str(model)] and first.min() == 0 and first.max() == 255
    np.testing.assert_array_equal(first, second)
    framed = transfer.to_frame(Image.fromarray(first), content.frame)
    np.testing.assert_array_equal(transfer.control_map("depth", content, str(model)), framed / np.float32(255))
    (model / "model.safetensors").write_bytes(b"other")
    depth_map(content.picture, str(model), load)
    assert loaded == [str(model)] * 2


def test_the_ground_of_a_transparent_control_map_is_black(tmp_path):
    drawing = np.zeros((8, 8, 4), np.uint8)
    drawing[3] = 255  # a white line
    Image.fromarray(drawing).save(tmp_path / "white.png")
    with pytest.warns(UserWarning, match="transparent"):
        found = np.asarray(transfer.load_control_image(tmp_path / "white.png"))
    np.testing.assert_array_equal(found, drawing[..., :3])
    drawing[3] = (0, 0, 0, 255)
    Image.fromarray(drawing).save(tmp_path / "black.png")
    with pytest.raises(UserError, match="light on black"):
        transfer.load_control_image(tmp_path / "black.png")


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


# The encoder


def noise_content(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return transfer.make_content(Image.fromarray(pixels), f"noise {seed}", 16, 4)


def test_contents_are_encoded_by_the_autoencoder_in_their_frame(tiny):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 16, 3), np.uint8)
    content = transfer.make_content(Image.fromarray(pixels), "noise", 16, 4)
    encoded = transfer.ContentEncoder(tiny).encode(content)
    framed = images.to_unit(transfer.to_frame(content.picture, content.frame)[None])
    np.testing.assert_allclose(encoded.latents, tiny.encode_images(framed)[0][0], atol=1e-6)
    assert encoded.latents.shape == tiny.networks.latent_shape(content.frame.height, content.frame.width)
    assert encoded.maps == ()


def test_recent_contents_are_encoded_once(tiny):
    encoder, contents = transfer.ContentEncoder(tiny), [noise_content(seed) for seed in range(17)]
    first = encoder.encode(contents[0])
    assert encoder.encode(noise_content(0)) is first, "an equal picture"
    for content in contents[1:]:
        encoder.encode(content)
    assert encoder.encode(contents[16]) is encoder.encode(contents[16])
    again = encoder.encode(contents[0])
    assert again is not first, "at most sixteen are kept"
    np.testing.assert_array_equal(again.latents, first.latents)


def test_all_encoders_of_a_model_share_a_program(tiny):
    transfer.ContentEncoder(tiny).encode(noise_content(0))
    with compilations() as programs:
        transfer.ContentEncoder(tiny).encode(noise_content(1))
    assert not programs


def test_an_encoder_makes_a_map_and_scales_for_each_net(tiny, nets):
    both = [transfer.Net("edges", 1.0, str(nets)), transfer.Net("edges", 0.5, str(nets))]
    encoder, content = transfer.ContentEncoder(tiny, both), noise_content(0)
    edges = transfer.control_map("edges", content, "")
    assert len(encoder.encode(content).maps) == 2
    for found in (encoder.encode(content).maps, encoder.control_maps(content)):
        np.testing.assert_array_equal(found, [edges, edges])
    scales = encoder.control_scales(0.8, (0.2, 0.7), 10)
    assert scales.dtype == np.float32
    np.testing.assert_allclose(scales, np.outer([0, 0, 1, 1, 1, 1, 1, 0, 0, 0], [0.8, 0.4]))
    assert transfer.ContentEncoder(tiny).control_scales(0.8, (0, 1), 10) is None


def test_a_model_gets_the_nets_named_or_the_one_in_its_folder(tiny, tiny_folder, nets, tmp_path):
    named = transfer.Net("edges", 1.0, str(nets))
    assert transfer.with_nets(tiny, []) is tiny
    assert len(transfer.with_nets(tiny, [named, named]).networks.controlnets) == 2
    assert transfer.with_nets(tiny, [named], guess_mode=True).networks.guess_mode
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copytree(nets, folder / "controlnet")
    bundled = transfer.with_nets(dataclasses.replace(tiny, folder=folder), [transfer.Net("edges", 1.0, "")])
    expected = transfer.with_nets(tiny, [named]).params["controlnets"]
    jax.tree.map(np.testing.assert_array_equal, bundled.params["controlnets"], expected)
    with pytest.raises(UserError, match=r"controlnets: .* has none of its own; name one, as in edges=FOLDER"):
        transfer.with_nets(tiny, [transfer.Net("edges", 1.0, "")])


def test_pictures_in_memory_are_contents_like_files(tmp_path):
    path = write_picture(tmp_path / "a.png", 0, (30, 20))
    loaded = transfer.load_content(path, 16, 4)
    made = transfer.make_content(Image.open(path).convert("RGB"), str(path), 16, 4)
    assert (loaded.name, loaded.hash, loaded.frame) == (made.name, made.hash, made.frame)
    np.testing.assert_array_equal(loaded.picture, made.picture)
    cropped = transfer.load_content(path, 16, 4, (16, 8))
    assert cropped.frame == (16, 8, 16, 8) and cropped.picture.size == (8, 16)
    assert cropped.hash == loaded.hash, "of the picture as it was given"
