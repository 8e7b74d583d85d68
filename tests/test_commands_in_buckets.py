"""Every command with its inputs and outputs in a bucket leaves there what it leaves on this machine, file by file."""

import json
import re
import shutil

import pytest
from fake_bucket import NAME, bucket
from lora_tools import random_layers, write_lora
from sample_tools import HOUSE, manifest, pictures, random_style
from script_tools import contents, run, write_picture

from dreamstyler_jax.commands import evaluate, sample, train
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.prompt_lists import grid_parts
from dreamstyler_jax.style import FILE_NAME, Style

pytestmark = pytest.mark.usefixtures("one_compilation")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with bucket(tmp_path_factory.mktemp("cache")) as store:
        yield store


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder of this machine with a picture and its prompt, a content and its prompt, and prompts."""
    folder = tmp_path_factory.mktemp("here")
    write_picture(folder / "stars.png", 0)
    write_picture(folder / "boat.png", 1, (16, 16))
    (folder / "stars.txt").write_text("a painting of the stars in the style of {}\n")
    (folder / "boat.txt").write_text(f"{HOUSE}\n", encoding="utf-8-sig")
    (folder / "prompts.txt").write_text(f"# two\n{HOUSE}\na dog in the style of {{}}\n", encoding="utf-8-sig")
    random_style("gogh", images=[str(folder / "stars.png")], prompts=[HOUSE]).save(folder / "gogh" / FILE_NAME)
    return folder


def on_this_machine(folder) -> dict[str, bytes]:
    """The files of a folder but the lock, which a bucket has not."""
    return {name: data for name, data in contents(folder).items() if data is not None and name != ".lock"}


# Training


@pytest.fixture(scope="module")
def learning(tiny_folder, here):
    """The options of a run of four steps."""
    sizes = ["--stages", 2, "--steps", 4, "--log_every", 1, "--save_every", 2]
    return ["--model", tiny_folder, "--images", here / "stars.png", *sizes, "--preview_prompts"]


def test_a_run_that_was_killed_is_resumed_and_equals_one_on_this_machine(learning, store, tmp_path):
    run(train, *learning, "--output", tmp_path / "stars")
    for fatal in ("checkpoints/2/_CHECKPOINT_METADATA", "checkpoints/4/commit_success.txt"):
        assert not any(name.startswith("checkpoints") for name in store.contents(f"{NAME}/stars"))
        store.fatal = fatal
        with pytest.raises(OSError, match="no change of"):
            run(train, *learning, "--output", f"{NAME}/stars", "--resume")
        store.changes_left = float("inf")
    assert len(store.contents(f"{NAME}/stars/steps")) == 1
    assert {name.partition("/")[0] for name in store.contents(f"{NAME}/stars/checkpoints")} == {"2", "4"}
    run(train, *learning, "--output", f"{NAME}/stars", "--resume")
    there, on_disk = store.contents(f"{NAME}/stars"), on_this_machine(tmp_path / "stars")
    for name in (FILE_NAME, *(f"steps/step_{step:06d}.safetensors" for step in (2, 4))):
        style, same = Style.load(f"{NAME}/stars/{name}"), Style.load(tmp_path / "stars" / name)
        assert (style.hash, dict(style.metadata)) == (same.hash, dict(same.metadata))
    assert there["config.yaml"].decode() == on_disk["config.yaml"].decode().replace(f"{tmp_path}/", f"{NAME}/")
    assert [without_times(line) for line in there["metrics.jsonl"].splitlines()] == [
        without_times(line) for line in on_disk["metrics.jsonl"].splitlines()
    ]
    assert names(there) == names(on_disk)
    events = [data for name, data in there.items() if name.startswith("tensorboard/")]
    assert any(b"gradient_norm" in data for data in events)


def without_times(line: bytes) -> dict:
    return {name: value for name, value in json.loads(line).items() if name not in ("images_per_second", "goodput")}


def names(found) -> set[str]:
    """The names of files, those of Orbax and of TensorBoard without what is random in them."""
    return {re.sub(r"[0-9a-f]{32}|tfevents.*", "*", name) for name in found}


# Painting


@pytest.fixture(scope="module")
def grid(tiny_folder, here):
    return ["--model", tiny_folder, "--styles", here / "gogh", "--steps", 3, "--seeds", "0:4", "--prompts", HOUSE]


@pytest.fixture(scope="module")
def painted(grid, tmp_path_factory):
    """The folder of this grid; not to be changed."""
    folder = tmp_path_factory.mktemp("out") / "grid"
    run(sample, *grid, "--output", folder)
    return folder


def test_a_grid_with_pictures_missing_is_completed_and_equals_one_on_this_machine(grid, painted, store):
    run(sample, *grid, "--output", f"{NAME}/grid")
    on_disk = on_this_machine(painted)
    assert store.contents(f"{NAME}/grid") == on_disk
    first, second, *_ = sorted(name for name in on_disk if name.startswith("images/"))
    del store.objects[f"styles/grid/{first}"]
    store.objects[f"styles/grid/{second}"] = b"damaged"
    run(sample, *grid, "--output", f"{NAME}/grid")
    assert store.contents(f"{NAME}/grid") == on_disk


def test_models_styles_contents_loras_and_prompts_are_read_from_a_bucket(tiny, tiny_folder, here, store, tmp_path):
    write_lora(here / "ink.safetensors", random_layers(tiny.params))
    (here / "paint.yaml").write_text("sample:\n  steps: [3]\n  strength: [0.5]\n")
    store.add_folder(f"{NAME}/here", here)
    store.add_folder(f"{NAME}/models/tiny", tiny_folder)
    painted = []
    for place, model in ((str(here), tiny_folder), (f"{NAME}/here", f"{NAME}/models/tiny")):
        words = ["--config", f"{place}/paint.yaml", "--model", model, "--styles", f"again={place}/gogh"]
        words += ["--prompts_file", f"{place}/prompts.txt", "--content", f"{place}/boat.png", "--seeds", "0"]
        folder = tmp_path / str(len(painted))
        run(sample, *words, "--loras", f"{place}/ink.safetensors*0.5", "--output", folder)
        facts = ("prompt", "seed", "styles", "model_hash", "content_hash")
        lines = [[line[fact] for fact in facts] for line in manifest(folder)]
        painted.append(lines + [picture.tolist() for picture in pictures(folder)])
    assert painted[0] == painted[1] and len(painted[0]) == 4


def test_the_prompt_beside_a_content_is_read_from_a_bucket(here, store):
    store.add_folder(f"{NAME}/here", here)
    (part,) = grid_parts(SampleConfig(content=[f"{NAME}/here/boat.png"]))
    assert part.texts == {f"{NAME}/here/boat.png": [HOUSE]}


# Evaluating


def test_scores_of_a_bucket_equal_those_of_this_machine(tiny_folder_with_clip, painted, here, store, tmp_path):
    shutil.copytree(painted, tmp_path / "grid", ignore=shutil.ignore_patterns(".lock"))
    store.add_folder(f"{NAME}/evaluated", tmp_path / "grid")
    store.add_folder(f"{NAME}/models/clip", tiny_folder_with_clip)
    store.add_folder(f"{NAME}/gogh", here / "gogh")
    run(evaluate, "--pictures", tmp_path / "grid", "--styles", here / "gogh", "--model", tiny_folder_with_clip)
    words = ["--styles", f"{NAME}/gogh", "--model", f"{NAME}/models/clip"]
    run(evaluate, "--pictures", f"{NAME}/evaluated", *words)
    on_disk, there = on_this_machine(tmp_path / "grid"), store.contents(f"{NAME}/evaluated")
    assert there.keys() == on_disk.keys() and there["evaluation.png"] == on_disk["evaluation.png"]
    assert there["scores.jsonl"].decode().replace(f"{NAME}/evaluated", str(tmp_path / "grid")) == (
        on_disk["scores.jsonl"].decode()
    )
    scores = [json.loads(found["evaluation.json"])["overall"] for found in (on_disk, there)]
    assert scores[0] == scores[1]
