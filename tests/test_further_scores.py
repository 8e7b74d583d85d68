"""``dreamstyler evaluate`` with the checkpoints of further networks: CSD, DINOv2, VGG-16, LPIPS and ArtFID."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
from hub_server import serving
from painted_tools import DOG, HOUSE, SEA, cells_of, lines, noise, styles_of, summary, write_style
from PIL import Image
from script_tools import ROOT, contents, refusal, run, write_picture
from tiny_score_networks import write_score_networks

from dreamstyler_jax.commands import evaluate
from dreamstyler_jax.commands.evaluate import EvaluateConfig
from dreamstyler_jax.evaluation.checkpoints import CHECKPOINTS, load_checkpoint
from dreamstyler_jax.evaluation.csd import load_csd
from dreamstyler_jax.evaluation.score_table import SCORES
from dreamstyler_jax.evaluation.scores import corrected_score
from dreamstyler_jax.evaluation.statistics import estimate
from dreamstyler_jax.grids.cells import Repaint
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.runtime import images
from dreamstyler_jax.transfer import make_content

SIZE = (80, 76)  # of the painted pictures; Inception-v3 takes none with sides below 75
PROMPTS = [(HOUSE + " {gogh}", 0), (HOUSE + " {wave}", 0), (DOG + " {gogh}", 0), (DOG + " {wave}", 1)]


@pytest.fixture(scope="module")
def model(tiny_folder_with_clip):
    return tiny_folder_with_clip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return write_score_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two styles, learned from a picture each: given four times, so that all batches have four rows."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("gogh", "wave")):
        picture = write_picture(folder / f"{name}.png", seed, SIZE[::-1])
        write_style(folder / name, name, seed, images=4 * [str(picture)], prompts=[SEA + " {}"])
    return folder


def repainted(folder, model, runs, content, arrays, count):
    """Writes pictures as ``dreamstyler sample`` does, of which the first ``count`` repaint a picture."""
    digest = make_content(images.load(content), str(content), 80, 1, SIZE).hash
    repaint = Repaint(str(content), digest, 0.5, (), 0.0, 0.0, 1.0, False)
    cells = cells_of(model, PROMPTS, styles_of(runs, "gogh", "wave"), arrays)
    cells = [dataclasses.replace(cell, repaint=repaint) for cell in cells[:count]] + cells[count:]
    gallery = Gallery(folder)
    gallery.begin()
    for cell, array in zip(cells, arrays, strict=True):
        gallery.save(cell, array)
    gallery.finish(cells)
    return folder


@pytest.fixture(scope="module")
def painted(model, runs, tmp_path_factory):
    """Four pictures: the first equals what gogh was learned from, the second what the first three repaint."""
    arrays = [images.to_array(images.load(runs / "gogh.png")), *noise(3, SIZE)]
    content = tmp_path_factory.mktemp("content") / "photo.png"
    images.save_png(content, images.to_image(arrays[1]))
    return repainted(tmp_path_factory.mktemp("out") / "both", model, runs, content, arrays, 3)


@pytest.fixture(scope="module")
def evaluated(painted, runs, checkpoints, tmp_path_factory):
    """The folder of the results with all checkpoints."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.warns(UserWarning, match="ArtFID of 3 pictures is far too large, .* papers take 800 or more"):
        run(evaluate, *words(painted, runs, checkpoints), "--output", folder)
    return folder


def words(painted, runs, checkpoints):
    options = [word for name, path in checkpoints.items() for word in (f"--{name}", path)]
    return ["--pictures", painted, "--styles", runs, *options]


# The report


def test_every_score_of_the_table_is_in_every_line_and_in_the_means_with_intervals(evaluated):
    content = summary(evaluated)
    for name in SCORES:
        means = []
        for style in ("gogh", "wave"):
            values = [line["scores"][name] for line in lines(evaluated) if line["group"] == style]
            values = [value for value in values if value is not None]
            assert content["styles"][style][name]["mean"] == pytest.approx(np.mean(values))
            assert content["styles"][style][name]["count"] == len(values)
            means.append(np.mean(values))
        assert content["overall"][name] == pytest.approx(estimate(means)._asdict())


def test_the_report_names_the_checkpoints_and_has_a_chart_of_each_likeness(evaluated, checkpoints):
    content = summary(evaluated)
    assert {name: content[name] for name in CHECKPOINTS} == {name: str(path) for name, path in checkpoints.items()}
    charts = {f"evaluation{suffix}.png" for suffix in ("", "_csd", "_csd_csls", "_dino", "_vgg")}
    assert charts == {path.name for path in evaluated.glob("*.png")}
    assert len({Image.open(evaluated / name).tobytes() for name in charts}) == 5


def test_the_training_picture_has_the_highest_scores(evaluated):
    training, *others = (line["scores"] for line in lines(evaluated))
    for name in ("csd", "dino", "vgg"):
        assert training[name] == pytest.approx(100, abs=1e-3)
        assert all(0 < other[name] < 99.99 for other in others), name


def test_lpips_is_the_distance_from_the_content(evaluated):
    first, second, third, fourth = (line["scores"]["lpips"] for line in lines(evaluated))
    assert first > 0.01 and third > 0.01 and fourth is None
    assert second == pytest.approx(0, abs=1e-6)


def test_corrected_csd_counts_training_pictures_as_neighbours(evaluated, checkpoints, runs):
    csd = load_csd(checkpoints["csd"])
    gallery = csd.picture_features([images.to_array(images.load(runs / f"{name}.png")) for name in ("gogh", "wave")])
    for line in lines(evaluated):
        feature = csd.picture_features([images.to_array(images.load(line["picture"]))])[0]
        own = gallery[["gogh", "wave"].index(line["group"])]
        expected = 2 * feature @ own - max(gallery @ feature) - gallery[0] @ gallery[1]  # one neighbour each
        assert line["scores"]["csd_csls"] == pytest.approx(100 * expected, abs=2e-3)


def test_art_fid_is_of_all_repainted_pictures(evaluated):
    found = summary(evaluated)["art_fid"]
    distances = [line["scores"]["lpips"] for line in lines(evaluated)[:3]]
    assert found["lpips"] == pytest.approx(np.mean(distances)) and found["pictures"] == 3 and found["fid"] > 0
    assert found["art_fid"] == pytest.approx((1 + found["lpips"]) * (1 + found["fid"]))


def test_every_checkpoint_is_an_option_whose_help_says_where_it_is_from():
    help = {field.name: field.metadata["help"] for field in dataclasses.fields(EvaluateConfig)}
    for name, checkpoint in CHECKPOINTS.items():
        assert checkpoint.source in help[name]
        assert ("docs/evaluation.md" in help[name]) == bool(checkpoint.conversion), "it shows how to convert them"


# Neighbours


def test_a_picture_that_resembles_every_style_is_marked_down():
    gallery = np.eye(3, dtype=np.float32)
    faithful, vague = np.array([1, 0, 0], np.float32), np.full(3, 3**-0.5, np.float32)
    training = gallery[:1]
    assert corrected_score(faithful, training, gallery) == pytest.approx(100 * (2 - 1 / 2))
    assert corrected_score(vague, training, gallery) == pytest.approx(100 * (2 - 1) * 3**-0.5)
    assert np.isnan(corrected_score(faithful, training, gallery[:1])).all()


def test_only_the_nearest_fifteen_count():
    gallery = np.eye(40, dtype=np.float32)
    gallery[:, 0] = np.linspace(1, 0, 40)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    picture, cosines = gallery[20], gallery @ gallery.T
    nearest = np.sort(gallery @ picture)[::-1][:15].mean()
    neighbours = np.sort(np.delete(cosines[3], 3))[::-1][:15].mean()
    expected = 100 * (2 * cosines[20, 3] - nearest - neighbours)
    assert corrected_score(picture, gallery[3:4], gallery) == pytest.approx(expected, abs=1e-3)


# Mistakes: one line that says what to do, and no files


def mistaken(kind, folder, painted, checkpoints):
    """A checkpoint with something wrong, as an option, and a complaint about it."""
    if kind == "pickle":
        (folder / "csd.bin").write_bytes(b"PK\x03\x04" + bytes(20))
        return ["--csd", folder / "csd.bin"], r"csd: .*csd.bin is a pickle, .* and convert it: python -c"
    if kind == "another network":
        return ["--vgg", checkpoints["lpips"]], "vgg: the weights in .* do not fit VGG-16; missing: features.0.bias"
    if kind == "another folder":
        return ["--dino", checkpoints["csd"].parent], "dino: the weights in .* missing: embeddings.cls_token"
    if kind == "damaged":
        (folder / "lpips.safetensors").write_bytes(bytes(100))
        return ["--lpips", folder / "lpips.safetensors"], "lpips: .*lpips.safetensors: the weights are damaged"
    if kind == "ArtFID without LPIPS":
        return ["--inception", checkpoints["inception"]], "inception: ArtFID also needs --lpips"
    shutil.copytree(painted, folder / "plain")
    manifest = folder / "plain" / "manifest.jsonl"
    cells = [json.loads(line) for line in manifest.read_text().splitlines()]
    plain = [{key: value for key, value in cell.items() if not key.startswith("content")} for cell in cells]
    words = ["--pictures", folder / "plain", "--lpips", checkpoints["lpips"]]
    if kind == "one content":
        manifest.write_text("".join(json.dumps(cell) + "\n" for cell in [cells[0], *plain[1:]]))
        return [*words, "--inception", checkpoints["inception"]], "inception: ArtFID needs several repainted pictures"
    manifest.write_text("".join(json.dumps(cell) + "\n" for cell in plain))
    return words, "lpips: none of these pictures repaints another"


KINDS = (
    "pickle", "another network", "another folder", "damaged", "ArtFID without LPIPS", "one content", "no contents",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_checkpoint_ends_with_one_line(kind, painted, runs, checkpoints, tmp_path, capfd):
    options, complaint = mistaken(kind, tmp_path, painted, checkpoints)
    before = contents(tmp_path)
    given = [] if "--pictures" in options else ["--pictures", painted]
    line = refusal(capfd, evaluate, *given, "--styles", runs, "--output", tmp_path / "results", *options)
    assert re.search(complaint, line), line
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_missing_checkpoint_is_named_with_how_to_get_it(name, painted, runs, checkpoints, tmp_path, capfd):
    options = ["--lpips", checkpoints["lpips"]] if name == "inception" else []
    given = ["--pictures", painted, "--styles", runs, "--output", tmp_path / "results", *options]
    line = refusal(capfd, evaluate, *given, f"--{name}", "absent.safetensors")
    assert line.startswith(f"{name}: ") and "absent.safetensors" in line
    assert CHECKPOINTS[name].source in line and CHECKPOINTS[name].conversion in line


def test_networks_that_are_published_as_safetensors_come_from_the_hub(checkpoints, tmp_path, monkeypatch):
    with serving(tmp_path / "cache", monkeypatch) as hub:
        for name, repo in (("dino", "facebook/dinov2-base"), ("vgg", "timm/vgg16.tv_in1k")):
            assert CHECKPOINTS[name].source == f"{repo} on the hub"
            hub.add_folder(repo, checkpoints[name] if name == "dino" else checkpoints[name].parent)
            local, downloaded = (load_checkpoint(name, given) for given in (str(checkpoints[name]), repo))
            assert local.params.keys() == downloaded.params.keys()
        assert set(hub.downloaded) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_what_scores_do_not_need_may_be_in_a_file(checkpoints, tmp_path):
    tensors = safetensors.numpy.load_file(checkpoints["csd"])
    tensors["last_layer_content"] = np.zeros((64, 8), np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "csd.safetensors")
    picture = noise(1)[0]
    np.testing.assert_array_equal(
        load_csd(tmp_path / "csd.safetensors").picture_features([picture]),
        load_csd(checkpoints["csd"]).picture_features([picture]),
    )


def test_the_documentation_has_every_score_and_every_command():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for name in (*SCORES, "art_fid"):
        assert f"| `{name}`" in text, name
    for name, checkpoint in CHECKPOINTS.items():
        assert f"`--{name}`" in text
        if checkpoint.conversion:
            tensors, file = re.search(r"for k, v in (.*)\.items\(\)}, '(.*)'\)", checkpoint.conversion).groups()
            assert tensors.replace("'", '"') in text and file in text
