"""Folders of pictures for the tests of a grid's page."""

import hashlib
import io
import json
import re

from PIL import Image

from dreamstyler_jax.grids.page import write_page

PROMPTS = ["A red house {}", "A blue fish {}", "An orange cat {}"]


def a_line(prompt=PROMPTS[0], seed=0, style="gogh", **more):
    """A line of a manifest as a grid writes it; ``more`` replaces or adds fields."""
    line = {
        "prompt": prompt, "style": style, "negative_prompt": "", "seed": seed, "guidance": "paper",
        "scales": {"null_scale": 5.0, "style_scale": 1.0}, "solver": "dpmpp_2m", "steps": 25, "height": 8, "width": 8,
        "dtype": "float32", "styles": {style: style_hash(style)}, "model": "mini",
        "model_hash": "ba9876543210", "command": f"python sample.py --prompts '{prompt}' --seeds {seed}", **more,
    }  # fmt: skip
    id = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:16]
    return {"id": id, "file": f"images/{id}.png", "sha256": 4 * id, **line}


def titled(prompt, style="gogh"):
    """A prompt as the page shows it above a picture."""
    return prompt.replace("{}", style)


def style_hash(style="gogh"):
    return hashlib.sha256(style.encode()).hexdigest()[:12]


def png(colour, size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def shade(i):
    """A colour; the first 216 differ."""
    return (i % 6 * 51, i // 6 % 6 * 51, i // 36 % 6 * 51)


def write_lines(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_pictures(folder, lines, size=(8, 8)):
    """Writes the manifest, and a picture of another colour for each line that names a file in ``images``."""
    write_lines(folder, lines)
    (folder / "images").mkdir(exist_ok=True)
    for i, line in enumerate(lines):
        if str(line.get("file", "")).startswith("images/"):
            (folder / line["file"]).write_bytes(png(shade(i), size))
    return folder


def write(folder, **more):
    """Writes the page of the pictures in a folder, and returns its path."""
    lines = map(json.loads, (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    return write_page(folder, lines, **{"title": "A grid", **more})


def twelve():
    """The lines of three prompts with four seeds each."""
    return [a_line(prompt, seed) for prompt in PROMPTS for seed in range(4)]


def data_of(folder):
    """The data in the page of a folder."""
    content = (folder / "index.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'id="data">(.*?)</script>', content, re.DOTALL)
    return json.loads(text)


def write_scores(folder, lines, *scores):
    """Writes the scores of pictures as ``evaluate`` does: the first line's, the second line's, and so on."""
    found = [
        {"id": line["id"], "sha256": hashlib.sha256((folder / line["file"]).read_bytes()).hexdigest(), "scores": given}
        for line, given in zip(lines, scores, strict=False)
    ]
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
