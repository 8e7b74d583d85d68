"""The documentation as its reader follows it: every command and all Python code, page by page, and the notebooks.

To save time, one process does everything, training and painting take few steps and seeds, and commands for a real model
get a tiny one of its kind. A command that is marked with what it needs, and a few that differ from others by an option
that other tests are about, are only read: their options exist and have values that they may have.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from docs_tools import NEEDS, Command, calls_of, cells_of, commands_of, python_of
from lora_tools import random_layers, write_lora
from PIL import Image
from script_tools import ROOT, last_of_each, write_picture
from tiny_model import write_controlnet
from tiny_sdxl_file import write_tiny_sdxl_file

import dreamstyler_jax
from dreamstyler_jax.__main__ import COMMANDS
from dreamstyler_jax.commands import cli
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

# Everything together takes some minutes on a busy machine; the usual limit is meant for small tests.
pytestmark = pytest.mark.timeout(1800)
PACKAGE = ROOT / "PACKAGE.md"
HOOKS = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
hooks = importlib.util.module_from_spec(HOOKS)
HOOKS.loader.exec_module(hooks)
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
OTHER_PROGRAMS = {
    r"(\S*/)?(python3|pip|\.) ": "installs",
    r"make |\S*pre-commit ": "installs an environment of its own; .ci/run does so",
    r"python -m (benchmarks|pytest)": "takes many minutes",
    r"tensorboard ": "waits for a browser; tests/test_boards.py",
}
# Only read: they differ by an option from a command that is run.
ONLY_READ = {
    r"train --images photo\.jpg": "tests/test_train_command.py and others are about these options",
    r"sample .*--guidance_rescale": "tests/test_guidance_variants.py",
    r"train .*--separate": "tests/test_train_command.py",
    r"train .*--layers each": "tests/test_layers.py",
    r"sample .*--(apg_eta|choices random|weak_scale|shard|checkpoints) ": "tests/sample, test_guidance_variants.py",
    r"sample --config grids/guidance --styles": "200 pictures",
    r"benchmark": "tests/test_benchmark.py",
    r"(train --images boat\.png|sample) $": "as the README's; make dist learns a style in an empty folder",
    r"verify runs": "tests/test_verify.py",
    r"convert (boat-T|embedding)": "the files are the reader's; tests/test_convert.py",
    r"(enlarge |pick |animate .*style_scale)": "need pictures that somebody has chosen; tests/test_favourites.py",
}
SHORTER = {
    "train": ["--steps", "4", "--save_every", "4", "--log_every", "2", "--preview_prompts"],
    "sample": ["--steps", "2", "--batch_size", "4"],  # in batches of one size, which share their programs
}
SMALL = {
    "train": ["--resolution", "16", "--dtype", "float32", "--batch_size", "2", "--remat", "false"],
    "sample": ["--height", "16", "--width", "16", "--dtype", "float32", "--batch_size", "2"],
}
REAL = re.compile(r"\b(PATH|FILE\.safetensors)\b")  # the reader's model or ControlNet
# As many steps at once as `SHORTER` asks for: Python code then takes the programs that the commands have compiled.
SHORTER_PYTHON = """
import dreamstyler_jax as ds
from tiny_sdxl_file import know_tiny_sdxl
know_tiny_sdxl()
def shorter(function, **settings):
    return lambda *words, **given: function(*words, **{**given, **settings})
ds.train_style = shorter(ds.train_style, steps=2)
ds.paint = shorter(ds.paint, steps=2, batch_size=4)
"""


def pages():
    """The README, the pages of the site in the order of its navigation, and what PyPI shows."""

    def flat(entry):
        below = entry.values() if isinstance(entry, dict) else entry
        return [entry] if isinstance(entry, str) else [page for part in below for page in flat(part)]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    return [ROOT / "README.md", *(ROOT / "docs" / page for page in flat(nav)), ROOT / "CONTRIBUTING.md", PACKAGE]


def runs(command: Command) -> bool:
    """Whether the test runs a command, instead of reading it."""
    if not command.text.startswith("dreamstyler ") or (command.needs and not REAL.search(command.text)):
        return False
    return not any(re.match(f"dreamstyler {pattern}", f"{command.text} ") for pattern in ONLY_READ)


def shortened(command: Command) -> list[str]:
    """The command's words with fewer steps, a quarter of the seeds of a range and, for a real model, tiny sizes."""
    ((_, name, *options),) = calls_of(command)
    if "--help" in options or "--print_config" in options:
        return [name, *options]
    options = [re.sub(r"^0:(\d+)$", lambda seeds: f"0:{int(seeds[1]) // 4}", word) for word in options]
    options = [re.sub(r"^(edges|image.*)=PATH$", r"\1=controlnet", word) for word in options]
    if not REAL.search(command.text):
        return [name, *last_of_each([*options, *SHORTER.get(name, [])])]
    model = "sdxl.safetensors" if "sdxl" in options else "model"
    options = [REAL.sub(model, word).replace("runs/photo", f"runs/{model}") for word in options]
    options += ["--output", f"runs/{model}"] if name == "train" else []
    return [name, *last_of_each([*options, *SHORTER.get(name, []), *SMALL.get(name, [])])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder):
    """What a clone holds for the commands, and what stands for the reader's own files."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("examples", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "photo.txt").write_text("A painting of a village at night in the style of {}")
    (folder / "model").symlink_to(tiny_folder)
    for seed, name in enumerate(("gogh", "ink")):
        write_lora(folder / f"{name}.safetensors", random_layers(StableDiffusion.load(tiny_folder).params, seed=seed))
    write_controlnet(folder / "controlnet")
    (folder / "sdxl.safetensors").symlink_to(write_tiny_sdxl_file(tmp_path_factory.mktemp("sdxl")))
    write_picture(folder / "photo.jpg", 0, (24, 24))
    write_picture(folder / "map.png", 1, (24, 24))
    return folder


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    """Where somebody has a picture, and the installed package."""
    folder = tmp_path_factory.mktemp("pictures")
    shutil.copy(ROOT / "examples" / "boat.png", folder)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a user with an empty cache."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_COMPILATION_CACHE"}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    return {**kept, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "PYTHONPATH": paths}


def steps_of(page, folder, other_folder):
    """The steps of a page or notebook, see `follow`: first its commands, then its Python code.

    Pages that begin with the same code share its variables, so that it runs once.
    """
    own_folder = other_folder if page == PACKAGE else folder
    steps = []
    for command in filter(runs, commands_of(page) if page.suffix == ".md" else []):
        name, *words = shortened(command)
        # Pages learn the same style with a model of the reader's in different ways.
        anew = words[words.index("--output") + 1] if name == "train" and "--output" in words else ""
        place = folder if REAL.search(command.text) else own_folder
        steps.append({"folder": str(place), "words": [name, *words], "anew": anew})
    code = python_of(page) if page.suffix == ".md" else [cell["source"] for cell in code_cells(page)]
    code = [text for text in code if not NEEDS.match(text)]
    return steps + [{"folder": str(own_folder), "code": text, "scope": code[0]} for text in code]


def code_cells(notebook):
    return [cell for cell in cells_of(notebook) if cell["cell_type"] == "code"]


def once(steps):
    """Without steps that were there before."""
    first = {}
    for step in steps:
        first.setdefault(json.dumps(step), step)
    return list(first.values())


def test_every_command_is_run_or_says_what_it_needs_and_its_options_exist(monkeypatch, folder):
    monkeypatch.chdir(folder)
    commands = [command for page in pages() for command in commands_of(page)]
    assert sum(map(runs, commands)) > 20
    for command in commands:
        if not command.text.startswith("dreamstyler ") and not command.needs:
            assert any(re.match(program, command.text) for program in OTHER_PROGRAMS), (
                f"{command.text}\nneeds a comment such as '# needs a GPU', or a line in OTHER_PROGRAMS"
            )
        for _, name, *options in [] if runs(command) else calls_of(command):
            cli.parse(COMMANDS[name].config_class(), [word for word in options if word != "MODEL"])


def test_every_pattern_of_what_is_not_run_is_of_some_command():
    texts = [command.text for page in pages() for command in commands_of(page)]
    for pattern in (*OTHER_PROGRAMS, *(f"dreamstyler {pattern}" for pattern in ONLY_READ)):
        assert any(re.match(pattern, f"{text} ") for text in texts), pattern


def test_the_reference_has_every_public_name_and_its_links_lead_to_their_code():
    """GitHub shows the links, and the site what they lead to."""
    for page in (ROOT / "docs" / "api.md", ROOT / "docs" / "guidance.md"):
        names = hooks.NAME.findall(page.read_text(encoding="utf-8"))
        for name, file in names:
            code = (page.parent / file).read_text(encoding="utf-8")
            assert re.search(rf"^(def|class) {name.rpartition('.')[2]}\b", code, flags=re.MULTILINE), name
        if page.name == "api.md":
            named = {name.rpartition(".")[2] for name, _ in names}
            assert named | {"__version__"} == set(dreamstyler_jax.__all__)


def links_of(page):
    return re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))


def test_links_lead_somewhere():
    """As GitHub follows them; what PyPI shows has none into the repository."""
    for page in [*pages(), ROOT / "CHANGELOG.md"]:
        inside = [link for link in links_of(page) if not link.startswith("https://")]
        assert all((page.parent / link).exists() for link in inside), page
        assert page != PACKAGE or not inside


def test_every_page_is_on_the_map_and_leads_on():
    start, *others = [page for page in pages() if page.parent.name == "docs"]
    assert {page.name for page in others} <= set(links_of(start))
    for page in others:
        text = page.read_text(encoding="utf-8")
        assert page.name == "contributing.md" or re.search(r"^Next: .*\]\(", text, re.MULTILINE), page


def test_the_site_has_what_links_out_of_its_folder_lead_to(monkeypatch, tmp_path):
    monkeypatch.setattr(hooks, "DOCS", tmp_path / "docs")
    hooks.DOCS.mkdir()
    (tmp_path / "RULES.md").write_text("[where](docs/where.md)")
    made = {
        "[Rules](../RULES.md)": "[where](where.md)",
        "[`dreamstyler_jax.mix`](../dreamstyler_jax/mixing.py)": "::: dreamstyler_jax.mix",
        "See [`a.yaml`](../a.yaml) and [b](b.md).": "See `a.yaml` and [b](b.md).",
    }
    assert hooks.on_page_markdown("\n\n".join(made), config=None) == "\n\n".join(made.values())


def test_python_code_that_needs_more_can_be_read():
    for page in pages():
        for code in python_of(page):
            compile(code, page.name, "exec")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_small_and_say_which_cells_need_hardware(notebook):
    """A cell that needs more than a CPU has a tag for programs and a comment for people."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4 and content["nbformat_minor"] >= 5 and notebook.stat().st_size < 20_000
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert isinstance(cell["metadata"], dict) and all(isinstance(line, str) for line in cell["source"])
        assert cell["cell_type"] in ("code", "markdown")
    for cell in code_cells(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert ("needs-hardware" in cell["metadata"].get("tags", [])) == bool(NEEDS.match(cell["source"]))


def test_the_pages_and_notebooks_work_in_their_order(folder, other_folder, environment, tmp_path):
    steps = [{"folder": str(folder), "code": SHORTER_PYTHON, "scope": "settings"}]
    for page in [*pages(), *NOTEBOOKS]:
        steps += steps_of(page, folder, other_folder)
    (tmp_path / "steps.json").write_text(json.dumps(steps := once(steps)))
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    words = [sys.executable, ROOT / "tests" / "follow.py", tmp_path / "steps.json"]
    followed = subprocess.run(words, cwd=folder, env=environment, timeout=1200, **streams)
    assert followed.returncode == 0, followed.stdout
    *parts, _ = re.split(r"^(status \d+) after ([\d.]+) s$", followed.stdout, flags=re.MULTILINE)
    failed = []
    for step, text, status, seconds in zip(steps, parts[::3], parts[1::3], parts[2::3], strict=True):
        does = " ".join(step.get("words", [])) or step["code"]
        print(seconds, does)
        if status != "status 0" or ("does not know" in text and "--model" not in does):
            failed.append(f"{does}\n{text}")
    assert not failed, "\n".join(failed)
    for sheet in ("out/boat/grid.png", "out/boat-2/grid.png", "out/boat-flower/grid_001.png", "grid.png"):
        assert np.asarray(Image.open(folder / sheet)).std() > 10
    assert (folder / "out/boat/evaluation.json").exists()
