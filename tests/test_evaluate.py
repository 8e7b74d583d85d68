"""The command ``dreamstyler evaluate``: scores of pictures as ``dreamstyler sample`` leaves them, and its errors."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from page_tools import data_of
from painted_tools import (
    DOG,
    HOUSE,
    SEA,
    cells_of,
    lines,
    noise,
    one_picture,
    paint,
    score,
    styles_of,
    summary,
    write_style,
)
from PIL import Image
from script_tools import ROOT, contents, refusal, run, write_picture
from tiny_clip import write_tiny_clip

from dreamstyler_jax.commands import evaluate
from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.evaluation.checkpoints import CHECKPOINTS
from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.evaluation.comparisons import AutoencoderGrams
from dreamstyler_jax.evaluation.painted import painted_pictures, plain_context
from dreamstyler_jax.evaluation.report import OVERALL, summarise, summary_points
from dreamstyler_jax.evaluation.scorer import score_all
from dreamstyler_jax.evaluation.statistics import Estimate, estimate
from dreamstyler_jax.evaluation.training_data import find_training_data, known_styles
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.page import NOT_YET, refresh_page, write_page
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE, EXAMPLE_STYLE
from dreamstyler_jax.mixing import mix
from dreamstyler_jax.runtime import images
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import FILE_NAME, Style

SCORE_NAMES = ("text", "image", "style", "leakage")  # without further checkpoints
RESULTS = ("scores.jsonl", "evaluation.json", "evaluation.png")


@pytest.fixture(scope="module")
def model(tiny_folder_with_clip):
    return tiny_folder_with_clip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two styles, learned from one picture and from two pictures; these pictures exist."""
    folder = tmp_path_factory.mktemp("runs")
    pictures = [str(write_picture(folder / f"{seed}.png", seed, (16, 16))) for seed in range(3)]
    write_style(folder / "gogh", "gogh", images=pictures[:1], prompts=[SEA + " {}"])
    write_style(folder / "wave", "wave", seed=1, images=pictures[1:], prompts=[SEA + " {}", HOUSE + " {}"])
    return folder


@pytest.fixture(scope="module")
def painted(model, runs, tmp_path_factory):
    """Pictures in both styles; the first equals the one that gogh was learned from."""
    folder = tmp_path_factory.mktemp("out") / "both"
    prompts = [(HOUSE + " {gogh}", 0), (HOUSE + " {wave}", 0), (DOG + " {gogh}", 0), (DOG + " {wave}", 1)]
    first = images.to_array(images.load(runs / "0.png"))
    return paint(folder, model, prompts, styles_of(runs, "gogh", "wave"), [first, *noise(3)])


@pytest.fixture(scope="module")
def evaluated(painted, runs, tmp_path_factory):
    """The results and the output of the command, as a process started in an empty folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    done = run_process("--pictures", painted, "--styles", runs, "--output", "results", cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done
    return folder / "results", done.stdout


def run_process(*words, cwd):
    """Runs ``dreamstyler evaluate`` as a process."""
    command = [sys.executable, "-m", "dreamstyler_jax", "evaluate", *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)


# The scores


def test_each_picture_has_a_line_with_its_settings_and_scores(evaluated, painted, runs):
    folder, _ = evaluated
    manifest = [json.loads(line) for line in (painted / "manifest.jsonl").read_text().splitlines()]
    assert len(manifest) == 4
    for line, made in zip(lines(folder), manifest, strict=True):
        assert made.items() <= line.items()
        assert line["picture"] == str(painted / made["file"])
        assert line["group"] == made["prompt"].partition("{")[2].strip("}")
        assert line["context"] == made["prompt"].partition(" in the style")[0]
        assert list(line["scores"]) == list(SCORE_NAMES)
        assert all(0 < value <= 100 for value in line["scores"].values())


def test_an_evaluation_that_was_killed_between_its_files_goes_on(painted, runs, tmp_path):
    """As if killed before ``evaluation.json``, in whose place something is."""
    words = ["--pictures", painted, "--styles", runs, "--output", tmp_path]
    (tmp_path / "evaluation.json").mkdir()
    with pytest.raises(OSError, match=r"evaluation\.json"):
        run(evaluate, *words)
    (tmp_path / "evaluation.json").rmdir()
    run(evaluate, *words)
    assert all((tmp_path / name).is_file() for name in RESULTS)


def test_the_pages_of_all_folders_show_their_scores_and_are_otherwise_as_before(painted, runs, tmp_path, capsys):
    folders = [shutil.copytree(painted, tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        waiting = {"id": "1", "error": NOT_YET, "prompt": "A {gogh}"}
        write_page(folder, [waiting, *Gallery(folder).lines.values()], title=folder.name)
    before = [data_of(folder) for folder in folders]
    run(evaluate, "--pictures", *folders, folders[0], "--styles", runs)
    assert f"in a browser: {folders[0] / 'index.html'}, {folders[1] / 'index.html'}" in capsys.readouterr().out
    assert [len(lines(folder)) for folder in folders] == [8, 4]
    for folder, data in zip(folders, before, strict=True):
        scored = {
            line["id"]: {name: float(f"{value:.6g}") for name, value in line["scores"].items()}
            for line in lines(folder)
        }
        cells = [{**cell, **({"scores": scored[cell["id"]]} if cell["id"] in scored else {})} for cell in data["cells"]]
        assert data_of(folder) == {**data, "cells": cells} and len(scored) == 4


@pytest.mark.parametrize("page", [None, "<title>mine</title>", "another version"])
def test_no_page_is_made_of_one_that_is_not_of_this_version(painted, tmp_path, page):
    folder = shutil.copytree(painted, tmp_path / "out")
    if page:
        path = write_page(folder, Gallery(folder).lines.values(), title="A grid")
        path.write_text(page.replace("another version", path.read_text().replace('{"format":1', '{"format":0')))
    before = contents(folder)
    assert not refresh_page(folder)
    assert contents(folder) == before


def test_the_training_picture_has_the_highest_scores(evaluated):
    training, *others = (line["scores"] for line in lines(evaluated[0]))
    assert (training["image"], training["style"]) == pytest.approx((100, 100), abs=1e-3)
    assert all(other["image"] < 99.9 and other["style"] < 99 for other in others)


def test_scores_compare_pictures_with_prompts_and_training_data(evaluated, model, runs):
    """Computes them again, one by one; those of wave are means over its two training pictures."""
    clip, diffusion = Clip.load(model / "clip"), StableDiffusion.load(str(model))
    training = {"gogh": ["0.png"], "wave": ["1.png", "2.png"]}
    contexts = {"gogh": ["a painting of the sea"], "wave": ["a painting of the sea", "a painting of a house"]}
    for line in lines(evaluated[0]):
        picture = images.to_array(images.load(line["picture"]))[None]
        learned_from = np.stack([images.to_array(images.load(runs / file)) for file in training[line["group"]]])
        feature, text = clip.picture_features(picture), clip.text_features([line["context"]])
        others = [context for context in contexts[line["group"]] if context != line["context"]]
        expected = {
            "text": scores.cosine_score(feature, text).item(),
            "image": np.mean([scores.cosine_score(feature, clip.picture_features(t[None])) for t in learned_from]),
            "style": np.mean(
                [
                    scores.style_score(scores.grams(diffusion, picture), scores.grams(diffusion, t[None]))
                    for t in learned_from
                ]
            ),
            "leakage": np.mean(
                [scores.leakage_score(feature, text, clip.text_features([c]), clip.logit_scale) for c in others]
            ),
        }
        assert line["scores"] == pytest.approx(expected, abs=2e-3)


def test_means_and_intervals_over_pictures_and_over_styles(evaluated, painted, model):
    folder, _ = evaluated
    content = summary(folder)
    assert (content["pictures"], content["model"], content["clip"]) == (4, str(model), str(model / "clip"))
    for name in SCORE_NAMES:
        means = []
        for style in ("gogh", "wave"):
            values = [line["scores"][name] for line in lines(folder) if line["group"] == style]
            expected = estimate(values)
            assert content["styles"][style]["pictures"] == 2
            assert content["styles"][style][name] == pytest.approx(expected._asdict())
            means.append(np.mean(values))
        assert content["overall"][name] == pytest.approx(estimate(means)._asdict())


def test_the_table_has_a_row_per_style_and_one_for_all(evaluated):
    folder, printed = evaluated
    content, rows = summary(folder), {}
    for line in printed.splitlines()[1:4]:
        name, *cells = re.split(r"\s{2,}", line)
        rows[name] = cells
    assert printed.split()[:5] == ["pictures", *SCORE_NAMES]
    assert list(rows) == ["gogh", "wave", OVERALL] and rows["wave"][0] == "2" and rows[OVERALL][0] == "4"
    for name, estimates in (*content["styles"].items(), (OVERALL, content["overall"])):
        assert rows[name][1:] == [str(Estimate(**estimates[score])) for score in SCORE_NAMES]


def test_a_line_names_the_scores_that_are_left_out(evaluated):
    folder, printed = evaluated
    (line,) = (line for line in printed.splitlines() if line.startswith("Left out"))
    assert "csd, csd_csls (--csd), dino (--dino), vgg (--vgg), lpips (--lpips), art_fid (--inception)" in line
    assert not summary(folder).keys() & CHECKPOINTS.keys()


def test_the_chart_is_drawn(evaluated):
    assert Image.open(evaluated[0] / "evaluation.png").size == (1280, 720)


def test_the_chart_has_a_point_per_style_and_one_for_all():
    results = [dict(text=t, image=0, style=s, leakage=0) for t, s in ((20, 30), (22, 36), (30, 50), (math.nan, 60))]
    a, b, overall = summary_points(summarise(["a", "a", "b$", "c"], results))  # c has no text score
    assert (a[:3], b[:3], overall[:2]) == ((21, 33, "a"), (30, 50, r"b\$"), (25.5, pytest.approx((33 + 50 + 60) / 3)))
    assert (a.x_margin, a.y_margin) == pytest.approx((12.7062, 38.1186), abs=1e-3)  # t(0.975, 1) = 12.7062
    assert overall.label == OVERALL and overall.y_margin > 0 and math.isnan(b.x_margin)
    assert [point.label for point in summary_points(summarise(["a", "a"], results[:2]))] == ["a"]


# Texts for CLIP


@pytest.mark.parametrize(
    ("prompt", "context"),
    [
        ("A painting of a house in the style of {}", "A painting of a house"),
        ("A {dog} near a {{brace}} in the style of {gogh}", "A dog near a {brace}"),
        ("A {} in the style of {}", "A"),
        ("A house by {gogh} and {wave}", "A house"),
        ("{}", ""),
    ],
)
def test_contexts_have_neither_styles_nor_braces(prompt, context):
    assert plain_context(prompt) == context


def test_weights_are_not_words():
    line = dict(
        file="a.png", prompt=r"A (red:1.3) house \(old\) by ({}:0.5)", style="gogh", styles={"gogh": "0"}, model="mini",
        id="0",
    )  # fmt: skip
    ((weighted,), (plain,)) = (painted_pictures(Path("."), [line | more]) for more in ({"prompt_weights": True}, {}))
    assert (weighted.prompt, weighted.context) == ("A red house (old) by {}", "A red house (old)")
    assert plain.context.startswith("A (red:1.3) house")


def test_clip_sees_no_placeholders(model, runs, tmp_path):
    seen = []

    class RecordingClip(Clip):
        def text_features(self, texts):
            seen.extend(texts)
            return super().text_features(texts)

    prompt = "a painting of a {wave} by the sea in the style of {gogh}"
    out = paint(tmp_path, model, [(prompt, 0)], styles_of(runs, "gogh", "wave"), noise(1))
    painted = evaluate.read_pictures([str(out)])
    training_data = find_training_data(painted, [str(runs)], [])
    diffusion = StableDiffusion.load(str(model))
    networks = {"autoencoder": AutoencoderGrams(diffusion), "clip": RecordingClip.load(model / "clip")}
    score_all(networks, painted, training_data)
    assert [style.name for style in painted[0].styles] == ["gogh"]
    assert seen == ["a painting of a wave by the sea", "a painting of the sea"]


@pytest.mark.parametrize("prompt", [SEA + " {}", "a painting in the style of {}"])
def test_no_leakage_without_two_different_subjects(prompt, model, runs, tmp_path, capsys):
    out = one_picture(tmp_path, model, runs, prompt)
    assert score(out, "--styles", runs)["scores"]["leakage"] is None
    assert summary(out)["overall"]["leakage"] == {"mean": None, "margin": None, "count": 0}
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == "-"


def test_no_leakage_from_a_training_prompt_without_a_subject(model, runs, tmp_path):
    write_style(tmp_path / "bare", "bare", 7, images=[str(runs / "0.png")], prompts=["A painting in the style of {}"])
    out = one_picture(tmp_path / "out", model, tmp_path, style="bare")
    assert score(out, "--styles", tmp_path / "bare")["scores"]["leakage"] is None


def test_no_text_score_for_a_prompt_that_only_names_a_style(model, runs, tmp_path):
    line = score(one_picture(tmp_path, model, runs, "{}"), "--styles", runs)
    assert (line["context"], line["scores"]["text"], line["scores"]["leakage"]) == ("", None, None)
    assert line["scores"]["style"] > 0 and not (tmp_path / "evaluation.png").exists()


# Pictures, styles and training data


def test_pictures_and_training_pictures_can_have_any_sizes(model, tmp_path):
    picture = write_picture(tmp_path / "wide.png", 3, (60, 31))
    write_style(tmp_path / "run", "wide", 3, images=[str(picture)])
    fitted = images.to_array(images.fit(images.load(picture), 16, 24))
    out = paint(
        tmp_path / "out", model, [("a {}", 0)], {"wide": Style.load(tmp_path / "run" / FILE_NAME).hash}, [fitted]
    )
    assert score(out, "--styles", tmp_path / "run")["scores"]["style"] == pytest.approx(100, abs=1e-3)


def test_several_folders_are_scored_together_without_duplicates(painted, model, runs, tmp_path):
    other = one_picture(tmp_path / "other", model, runs, DOG + " {}")
    run(evaluate, "--pictures", painted, other, painted, "--styles", runs, "--output", tmp_path / "results")
    found = lines(tmp_path / "results")
    assert len(found) == 5 and found[-1]["picture"].startswith(str(other))
    assert summary(tmp_path / "results")["styles"]["gogh"]["pictures"] == 3


def test_pictures_in_two_styles_form_a_group(model, runs, tmp_path):
    prompts = [(DOG + " {wave} and {gogh}", 0), (DOG + " {gogh}, {wave}", 0)]
    paint(tmp_path, model, prompts, styles_of(runs, "gogh", "wave"), noise(2))
    run(evaluate, "--pictures", tmp_path, "--styles", runs)
    assert {line["group"] for line in lines(tmp_path)} == {"gogh + wave"}
    assert len(summary(tmp_path)["styles"]) == 1


def test_two_styles_with_one_name_are_different_groups(painted, model, runs, tmp_path):
    write_style(tmp_path / "runs" / "other", "gogh", 9, images=[str(runs / "2.png")])
    other = one_picture(tmp_path / "out", model, tmp_path / "runs", style="other")
    hash = styles_of(tmp_path / "runs", "other")["other"]
    manifest = other / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"other"', '"gogh"'))
    words = ["--styles", runs, f"other={tmp_path / 'runs' / 'other'}", "--output", tmp_path / "results"]
    run(evaluate, "--pictures", painted, other, *words)
    assert list(summary(tmp_path / "results")["styles"]) == ["gogh", "wave", f"gogh ({hash})"]


def test_a_renamed_style_is_found_by_its_hash(model, runs, tmp_path, recwarn):
    hash = styles_of(runs, "wave")["wave"]
    mine = one_picture(tmp_path / "mine", model, runs, HOUSE + " {mine}", mine=hash)
    line = score(mine, "--styles", f"gogh={runs / 'wave'}", f"mine={runs / 'gogh'}")
    expected = score(one_picture(tmp_path / "wave", model, runs, style="wave"), "--styles", runs)["scores"]
    assert (line["group"], line["scores"], recwarn.list) == ("mine", expected, [])


def test_a_style_trained_again_is_found_by_its_name_with_a_warning(model, runs, tmp_path):
    out = one_picture(tmp_path, model, runs, gogh="0" * 12)
    with pytest.warns(UserWarning, match="the style 'gogh' has changed since .* painted, from 000000000000 to"):
        score(out, "--styles", runs)


def test_without_style_paths_the_runs_and_the_shipped_style_are_known(monkeypatch, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    gogh, wave, shipped = known_styles([])
    assert (gogh.name, wave.name, shipped.hash) == ("gogh", "wave", Style.load(EXAMPLE_STYLE).hash)
    assert shipped.metadata["images"] == [str(EXAMPLE_PICTURE)]


def test_a_training_picture_that_was_moved_can_be_given(model, runs, tmp_path):
    write_style(tmp_path / "run", "gogh", images=["gone.png"], prompts=[SEA + " {}"])
    out = one_picture(tmp_path / "out", model, runs)
    moved = score(out, "--styles", tmp_path / "run", "--style_pictures", f"gogh={runs / '0.png'}")
    assert moved["scores"] == score(out, "--styles", tmp_path / "run", "--style_pictures", runs / "0.png")["scores"]
    assert moved["scores"] == score(out, "--styles", runs)["scores"]
    others = [f"gogh={runs / '1.png'}", f"gogh={runs / '2.png'}"]
    other = score(out, "--styles", runs, "--style_pictures", *others)["scores"]
    assert other["image"] != moved["scores"]["image"] and other["leakage"] == moved["scores"]["leakage"]


def test_what_a_mask_hides_of_a_training_picture_counts_in_no_score(model, runs, tmp_path):
    out = one_picture(tmp_path / "out", model, runs)
    whole, found = Image.open(runs / "0.png").convert("RGB"), {}
    upper_half = (0, 0, whole.width, whole.height // 2)
    for colour in ("white", "black"):
        picture, mask = whole.copy(), Image.new("L", whole.size, "white")
        picture.paste(colour, upper_half)
        mask.paste("black", upper_half)
        picture.save(tmp_path / f"{colour}.png")
        mask.save(tmp_path / f"{colour}.mask.png")
        found[colour] = score(out, "--styles", runs, "--style_pictures", f"gogh={tmp_path / colour}.png")["scores"]
    assert found["white"] == found["black"] != score(out, "--styles", runs)["scores"]


def test_failed_pictures_and_incomplete_lines_are_skipped_and_shards_are_read(model, runs, tmp_path):
    arrays = noise(4)
    cells = cells_of(model, [(HOUSE + " {}", seed) for seed in range(4)], styles_of(runs, "gogh"), arrays)
    for part in range(2):
        gallery = Gallery(tmp_path, (part, 2))
        gallery.begin()
        gallery.save(cells[part], arrays[part])
    gallery.fail(cells[2], "no memory")
    gallery.save(cells[3], arrays[3])
    manifest = tmp_path / "manifest.1-of-2.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    run(evaluate, "--pictures", tmp_path, "--styles", runs)
    assert sorted(line["seed"] for line in lines(tmp_path)) == [0, 1]


def test_a_mix_was_learned_from_the_training_pictures_of_its_parts(model, runs, tmp_path, recwarn, monkeypatch):
    recipe = "gogh:1,wave:0"
    mixed = mix(recipe, {name: Style.load(runs / name / FILE_NAME) for name in ("gogh", "wave")})
    out = one_picture(tmp_path / "mix", model, runs, **{recipe: mixed.hash})
    both = paint(tmp_path / "both", model, [(HOUSE + " {gogh}, {wave}", 0)], styles_of(runs, "gogh", "wave"), noise(1))
    expected = score(both, "--styles", runs)["scores"]
    line = score(out, "--styles", runs)
    assert (line["group"], line["scores"]) == (recipe, expected)
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    assert score(out)["scores"] == expected and not recwarn  # the mix has the right hash
    shipped_name = Style.load(EXAMPLE_STYLE).name  # a run may have the same name
    write_style(tmp_path / "same" / "runs" / "a", shipped_name, 4, images=[str(runs / "0.png")])
    mixed = mix(f"{shipped_name}:1-0", {shipped_name: Style.load(tmp_path / "same" / "runs" / "a" / FILE_NAME)})
    monkeypatch.chdir(tmp_path / "same")
    assert score(one_picture(tmp_path / "half", model, runs, **{mixed.name: mixed.hash}))
    write_style(tmp_path / "other", "gogh", 8, images=[str(runs / "0.png")])
    with pytest.warns(UserWarning, match="the style 'gogh:1,wave:0' has changed since"):
        score(out, "--styles", tmp_path / "other", runs / "wave")


def test_an_earlier_training_step_was_learned_from_the_same_pictures(model, runs, tmp_path, recwarn):
    hash = write_style(tmp_path / "early", "gogh", 6) and Style.load(tmp_path / "early" / FILE_NAME).hash
    early = one_picture(tmp_path / "out", model, runs, **{"gogh@100": hash})
    line = score(early, "--styles", runs)
    assert (line["group"], recwarn.list) == ("gogh@100", [])
    assert line["scores"] == score(one_picture(tmp_path / "final", model, runs), "--styles", runs)["scores"]
    recipe = "gogh@100:1,wave:0"
    early = one_picture(tmp_path / "mix", model, runs, **{recipe: hash})
    line = score(early, "--styles", runs)
    both = paint(tmp_path / "both", model, [(HOUSE + " {gogh}, {wave}", 0)], styles_of(runs, "gogh", "wave"), noise(1))
    assert (line["group"], recwarn.list) == (recipe, [])
    assert line["scores"] == score(both, "--styles", runs)["scores"]


# Mistakes: one line that says what to do, and no files


def mistaken(kind, folder, model, runs):
    """Options with one mistake, for pictures in ``folder``."""
    out = one_picture(folder, model, runs)
    words, manifest = ["--pictures", out, "--styles", runs], out / "manifest.jsonl"
    if kind == "no pictures":
        return ["--styles", runs]
    if kind == "no manifest":
        manifest.unlink()
    elif kind == "empty manifest":
        manifest.write_text("")
    elif kind == "damaged manifest":
        manifest.write_text(manifest.read_text().replace('"prompt"', '"promt"'))
    elif kind == "styles missing in the manifest":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "styles": None}) + "\n")
    elif kind == "no manifest but text":
        manifest.write_text("pictures\n")
    elif kind == "no style in the prompt":
        manifest.write_text(manifest.read_text().replace(" in the style of {}", ""))
    elif kind == "unknown placeholder":
        manifest.write_text(manifest.read_text().replace("{}", "{goph}"))
    elif kind == "picture missing":
        next((out / "images").iterdir()).unlink()
    elif kind == "other style":
        return ["--pictures", out, "--styles", runs / "wave"]
    elif kind == "no run":
        return ["--pictures", out]
    elif kind == "training picture missing":
        return ["--pictures", out, "--styles", write_style(folder / "run", "gogh", images=["gone.png"])]
    elif kind == "training picture unknown":
        return ["--pictures", out, "--styles", write_style(folder / "run", "gogh")]
    elif kind == "several models":
        return [*words, "--pictures", out, one_picture(folder / "other", "mini", runs)]
    elif kind == "several styles":
        other = one_picture(folder / "other", model, runs, style="wave")
        return [*words, "--pictures", out, other, "--style_pictures", runs / "0.png"]
    elif kind == "no CLIP":
        shutil.copytree(model, folder / "model", ignore=shutil.ignore_patterns("clip"))
        return [*words, "--model", folder / "model"]
    elif kind == "part of a CLIP":
        write_tiny_clip(folder / "clip")
        (folder / "clip" / "preprocessor_config.json").unlink()
        return [*words, "--clip", folder / "clip"]
    return words


MISTAKES = [
    ("no pictures", [], "pictures: give the folders .* such as out/starry"),
    ("no manifest", [], "pictures: .* has no painted pictures; give folders that dreamstyler sample painted into"),
    ("empty manifest", [], "pictures: .* has no painted pictures; give folders"),
    ("no manifest but text", [], "manifest.jsonl is damaged"),
    ("damaged manifest", [], "manifest.jsonl is damaged, it should be an object with the key 'prompt'"),
    (
        "styles missing in the manifest",
        [],
        r"line 1 of .*manifest\.jsonl is damaged, styles should be an object, not null; remove it",
    ),
    ("no style in the prompt", [], r"picture \w{16}: the prompt 'a painting of a house' should name its styles, gogh"),
    ("unknown placeholder", [], r"picture \w{16}: the prompt .*\{goph\}' should name its styles, gogh"),
    ("picture missing", [], "there is no picture .*images"),
    (
        "other style",
        [],
        r"the style 'gogh' \(\w{12}\) is not among the styles given: give its file or its run with --styles",
    ),
    ("no run", [], r"the style 'gogh' \(\w{12}\) is not in runs/: give its file"),
    ("no such style", ["--styles", "absent"], "there is no style absent"),
    ("training picture missing", [], "there is no picture gone.png; .* --style_pictures gogh=FILE"),
    ("training picture unknown", [], "'gogh' does not say what it was learned from: give --style_pictures gogh=FILE"),
    ("unknown name", ["--style_pictures", "goph=a.png"], r"style_pictures: goph=a.png: .* \(did you mean gogh\?\)"),
    ("several styles", [], "style_pictures: there are 2 styles, so write gogh=.*0.png"),
    ("several models", [], "several models painted these pictures: choose one of .*mini.* with --model"),
    ("no such model", ["--model", "absent"], "no model folder 'absent'"),
    ("no such autoencoder", ["--vae", "absent.safetensors"], "there is no file absent.safetensors"),
    ("no CLIP", [], "has no CLIP of its own: give one, .* with --clip"),
    ("no such CLIP", ["--clip", "absent"], "clip: no model folder 'absent'"),
    ("part of a CLIP", [], "clip is not a complete CLIP: it lacks preprocessor_config.json; download"),
    ("unknown option", ["--style", "x"], "unknown option --style; did you mean --styles?"),
]


@pytest.mark.parametrize(("kind", "more", "complaint"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_ends_with_one_line_and_nothing_written(
    kind, more, complaint, model, runs, tmp_path, capfd, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = mistaken(kind, tmp_path / "out", model, runs)
    before = contents(tmp_path)
    line = refusal(capfd, evaluate, *words, *more)
    assert re.search(complaint, line), line
    assert contents(tmp_path) == before


def test_the_process_ends_with_status_2_and_one_line(tmp_path):
    done = run_process("--pictures", tmp_path, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: pictures: .* has no painted pictures; give folders .*\n", done.stderr), done.stderr
    assert not contents(tmp_path)
