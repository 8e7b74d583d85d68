"""How well painted pictures match prompt and style: ``python -m dreamstyler_jax.evaluation.evaluate``.

Reads the manifests that ``sample.py`` left in the folders of pictures and looks up, by the hash of each style, what it
was learned from. Four scores of 0 to 100 (Ahn et al. 2024, section 4.1, and ``scores``):

* text: the picture and its prompt without the style;
* image: the picture and the style's training picture, all that CLIP sees in them;
* style: the picture and the style's training picture, their brushwork and colours alone;
* leakage, which should be low: the picture shows what the training picture does, not what its own prompt asks for.

Of a style with several training pictures, and of several styles in one picture, the scores are means over all of these.
"""

import dataclasses
import functools
import itertools
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dreamstyler_jax import __version__, prompts
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.commands.config import one_of
from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.grids.gallery import MANIFEST, Gallery
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE, EXAMPLE_STYLE
from dreamstyler_jax.mixing import mix
from dreamstyler_jax.runtime import charts, images
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.runtime.console import plain_warnings
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import check_output, write_atomic
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion
from dreamstyler_jax.stable_diffusion.tokenizer import Placeholder, parse_prompt
from dreamstyler_jax.stable_diffusion.weights import resolve_model
from dreamstyler_jax.style import FILE_NAME, STEP, Style, at_step, load_styles

SCORES = ("text", "image", "style", "leakage")
OVERALL = "all styles"


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Score pictures that sample.py has painted.

    Raises:
        UserError: no pictures are given.
    """

    pictures: list[str] = dataclasses.field(default_factory=list)
    """Folders that sample.py painted into."""
    styles: list[str] = dataclasses.field(default_factory=list)
    """The styles of the pictures: files, or folders of runs. None: those under runs/, and the shipped example."""
    style_pictures: list[str] = dataclasses.field(default_factory=list)
    """What styles were learned from, as NAME=FILE, or FILE where there is one style; NAME=FILE again for a second
    picture. None: the files that the styles themselves name."""
    model: str = ""
    """The model whose autoencoder sees the style: a folder, a hub id, or `mini`. Empty: the one that painted."""
    variant: str = ""
    """The word in the names of the model's weight files, such as `fp16` in model.fp16.safetensors."""
    clip: str = ""
    """The CLIP: a folder as transformers writes it, or a hub id. Empty: the folder clip of the model."""
    output: str = ""
    """Folder of the results. Empty: the first folder of pictures."""

    def __post_init__(self):
        if not self.pictures:
            raise UserError("pictures: give one or several folders that sample.py painted into, such as out/starry")


class Painted(NamedTuple):
    """A picture to score.

    ``path``: its file. ``line``: the manifest's, as in `grid.Cell`. ``context``: its prompt without the style, in plain
    words; may be empty. ``styles``: names and hashes of the styles that it is painted in.
    """

    path: Path
    line: Mapping[str, Any]
    context: str
    styles: tuple[tuple[str, str], ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The hashes of its styles, whatever they are called: what pictures are grouped by."""
        return tuple(digest for _, digest in self.styles)


class Material(NamedTuple):
    """What one or several styles were learned from: the pictures, and their prompts without the style."""

    pictures: list[Image.Image]
    contexts: list[str]


# What was painted


def read_manifests(folders: Iterable[str]) -> list[Painted]:
    """All pictures of the folders that have not failed, none twice.

    Raises:
      UserError: a folder holds no picture of sample.py's, or its manifest is not as sample.py writes it.
    """
    found: dict[Path, Painted] = {}
    for folder in map(Path, folders):
        lines = [line for line in Gallery(folder).lines.values() if "file" in line]
        if not lines:
            raise UserError(f"pictures: {folder / MANIFEST} lists none; name folders that sample.py painted into")
        for line in lines:
            try:
                picture = _painted(folder, line)
            except (UserError, KeyError, TypeError, AttributeError) as error:
                reason = error if isinstance(error, UserError) else f"it is damaged, {error!r}"
                raise UserError(f"{folder / MANIFEST}, picture {line['id']}: {reason}") from error
            found[picture.path.resolve()] = picture
    return list(found.values())


def _painted(folder: Path, line: Mapping[str, Any]) -> Painted:
    prompt, styles, file, _ = (line[key] for key in ("prompt", "styles", "file", "model"))
    named = prompts.name_placeholder(prompt, line["style"])
    names = prompts.names_in(prompts.style_only(named))
    if not names or not set(names) <= styles.keys():
        raise UserError(f"the prompt {prompt[:80]!r} should name its styles, {', '.join(styles)}")
    own = tuple((at_step(name, line.get("checkpoint", 0)), styles[name]) for name in styles if name in names)
    return Painted(folder / file, line, plain_context(named), own)


def plain_context(prompt: str) -> str:
    """The prompt without its style, as plain text: a placeholder that is no style is read as its name.

    "A {dog} in the style of {gogh}" becomes "A dog". It is empty where the prompt is all style.

    Raises:
      UserError: a lone brace.
    """
    parts = parse_prompt(prompts.context_only(prompt))
    return " ".join("".join(part.name if isinstance(part, Placeholder) else part for part in parts).split())


def label_groups(painted: Iterable[Painted]) -> dict[tuple[str, ...], str]:
    """What to call the styles of each key: their names, and the hash as well where two styles share a name."""
    labels: dict[tuple[str, ...], str] = {}
    for picture in painted:
        label = " + ".join(name for name, _ in picture.styles)
        if picture.key not in labels:
            labels[picture.key] = f"{label} ({'+'.join(picture.key)})" if label in labels.values() else label
    return labels


# What the styles were learned from


def known_styles(paths: Sequence[str]) -> list[Style]:
    """The styles of these files and folders, or those under ``runs/`` and the shipped example."""
    if paths:
        return list(load_styles(paths).values())
    shipped = Style.load(EXAMPLE_STYLE)  # which knows its picture by a path that depends on where the package lies
    shipped = dataclasses.replace(shipped, metadata={**shipped.metadata, "images": [str(EXAMPLE_PICTURE)]})
    return [*map(Style.load, sorted(Path("runs").glob(f"*/{FILE_NAME}"))), shipped]


def find_materials(config: EvaluateConfig, painted: Iterable[Painted]) -> dict[tuple[str, ...], Material]:
    """The training pictures and prompts of all styles, by `Painted.key`.

    Raises:
      UserError: a style is not among those known, or its training picture is neither where it was nor given.
    """
    known, by_name = known_styles(config.styles), bool(config.styles)
    pairs = {pair: None for picture in painted for pair in picture.styles}
    sources = {digest: _sources(name, digest, known, by_name) for name, digest in pairs}
    given = _given_pictures(config.style_pictures, list({name: None for own in sources.values() for name in own}))
    materials = {}
    for key in dict.fromkeys(picture.key for picture in painted):
        styles = {name: style for digest in key for name, style in sources[digest].items()}
        parts = [_material(name, style, given.get(name, [])) for name, style in styles.items()]
        contexts = dict.fromkeys(context for part in parts for context in part.contexts)
        materials[key] = Material([picture for part in parts for picture in part.pictures], list(contexts))
    return materials


def _sources(name: str, digest: str, known: Sequence[Style], by_name: bool) -> dict[str, Style]:
    """The learned styles behind the one of this name and hash: itself, or those mixed in it, by name.

    A style that is not known by its hash must come out of those known as its name says: by mixing them with this hash,
    or if ``by_name`` allows it, with another. Of "gogh@100", gogh after 100 steps, gogh itself is the source.
    """
    if same := [style for style in known if style.hash == digest]:
        return {name: same[0]}
    final = STEP.sub("", name)
    made, sources = _made_of(final, known)
    if made is None or (made.hash != digest and not by_name):
        where = "those given" if by_name else "those under runs/"
        raise UserError(f"the style {name!r} ({digest}) is not among {where}: name its file or its run with --styles")
    if made.hash != digest and final == name:
        warnings.warn(f"the style {name!r} has changed, from {digest} to {made.hash}, since it painted", stacklevel=2)
    return sources


def _made_of(name: str, known: Sequence[Style]) -> tuple[Style | None, dict[str, Style]]:
    """The style of this name, or mixed as it says, and by name the learned styles in it; none if these are unknown."""
    at_hand = {style.name: style for style in reversed(known)}  # of one name the first, not the shipped one
    if name in at_hand:
        return at_hand[name], {name: at_hand[name]}
    try:
        mixed = mix(name, at_hand)
    except UserError:
        return None, {}
    return mixed, {part: at_hand[part] for part in mixed.metadata["hashes"]}


def _given_pictures(words: Iterable[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Files by the name of their style; a path that exists is never split."""
    given: dict[str, list[str]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name, path = names[0], word
            if len(names) > 1:
                raise UserError(f"style_pictures: the pictures have {len(names)} styles, so write {names[0]}={word}")
        if name not in names:
            raise UserError(f"style_pictures: {word}: the style must be {one_of(names, name)}")
        given.setdefault(name, []).append(path)
    return given


def _material(name: str, style: Style, given: Sequence[str]) -> Material:
    try:
        pictures = [images.load(path) for path in given or style.metadata.get("images", [])]
    except UserError as error:
        raise UserError(
            f"{error}; the style {name!r} needs it: say where it is, --style_pictures {name}=FILE"
        ) from error
    if not pictures:
        raise UserError(f"the style {name!r} does not say what it was learned from: give --style_pictures {name}=FILE")
    return Material(pictures, [plain_context(p) for p in style.metadata.get("prompts", []) if describes(p)])


def describes(prompt: str) -> bool:
    """Whether a prompt says more than the opening, "A painting", and the style."""
    return plain_context(prompt) not in ("", plain_context(prompts.style_only(prompt)))


# Scores


class Scorer:
    """Gives scores, with what that takes at hand: CLIP, the autoencoder, and what they see in the training pictures."""

    def __init__(
        self, model: StableDiffusion, clip: scores.Clip, painted: Iterable[Painted], materials: Mapping[Any, Material]
    ):
        self._model, self._clip, self._materials = model, clip, materials
        texts = [picture.context for picture in painted] + [c for m in materials.values() for c in m.contexts]
        texts = list(dict.fromkeys(text for text in texts if text))
        self._texts = dict(zip(texts, clip.texts(texts), strict=True)) if texts else {}
        self._pictures = {key: clip.pictures(list(map(images.to_array, m.pictures))) for key, m in materials.items()}
        self._grams = functools.cache(self._training_grams)

    def _training_grams(self, key: tuple[str, ...], height: int, width: int) -> scores.Grams:
        """Of a style's training pictures, cropped and scaled to the size of the painted ones."""
        fitted = [images.fit(picture, height, width) for picture in self._materials[key].pictures]
        return scores.grams(self._model, np.stack(list(map(images.to_array, fitted))))

    def score(self, painted: Sequence[Painted], arrays: np.ndarray) -> list[dict[str, float]]:
        """Of each picture every one of SCORES, nan where it has no meaning.

        That is the text score of a prompt that is all style, and the leakage where this or the training prompt
        describes nothing, or both the same.

        Args:
          arrays: the pictures [N, H, W, 3] in [-1, 1].
        """
        features, grams = self._clip.pictures(arrays), scores.grams(self._model, arrays)
        size = arrays.shape[1:3]
        return [
            {
                "text": self._text(picture, seen),
                "image": float(scores.cosine_score(seen, self._pictures[picture.key]).mean()),
                "style": self._style(grams.rows([i]), self._grams(picture.key, *size)),
                "leakage": self._leakage(picture, seen),
            }
            for i, (picture, seen) in enumerate(zip(painted, features, strict=True))
        ]

    def _text(self, picture: Painted, seen: np.ndarray) -> float:
        return float(scores.cosine_score(seen, self._texts[picture.context])) if picture.context else math.nan

    def _style(self, drawn: scores.Grams, training: scores.Grams) -> float:
        count = len(training.levels[0])
        return float(scores.style_score(drawn.rows(np.zeros(count, int)), training).mean())

    def _leakage(self, picture: Painted, seen: np.ndarray) -> float:
        others = [context for context in self._materials[picture.key].contexts if context != picture.context]
        if not others or not describes(picture.line["prompt"]):
            return math.nan
        training = np.stack([self._texts[context] for context in others])
        return float(scores.leakage_score(seen, self._texts[picture.context], training, self._clip.scale).mean())


def score_all(scorer: Scorer, painted: Sequence[Painted]) -> list[dict[str, float]]:
    """The scores of all pictures, in their order; a few pictures at a time are in memory."""
    results: list[dict[str, float]] = []
    # No bar where nobody watches: disable=None is tqdm's word for "unless stderr is a terminal".
    with tqdm(total=len(painted), desc="scoring", unit="picture", disable=None) as bar:
        for some, arrays in _batches(painted):
            results += scorer.score(some, arrays)
            bar.update(len(some))
    return results


def _batches(painted: Iterable[Painted]) -> Iterator[tuple[list[Painted], np.ndarray]]:
    """Neighbours of one size, with their pixels [N, H, W, 3] in [-1, 1]."""
    loaded = ((picture, images.to_array(images.load(picture.path))) for picture in painted)
    for _, group in itertools.groupby(loaded, lambda pair: pair[1].shape):
        while some := list(itertools.islice(group, scores.BATCH)):
            yield [picture for picture, _ in some], np.stack([array for _, array in some])


# What is left behind


Estimates = dict[str, scores.Estimate]


class Summary(NamedTuple):
    """Mean scores with 95 % intervals: of each style, by label, over its pictures, and of all over the styles."""

    styles: dict[str, Estimates]
    overall: Estimates


def summarise(labels: Sequence[str], results: Sequence[Mapping[str, float]]) -> Summary:
    """The means of pictures with these labels and scores; scores that are nan do not count."""
    styles = {}
    for label in dict.fromkeys(labels):
        own = [result for other, result in zip(labels, results, strict=True) if other == label]
        styles[label] = {name: _estimate(result[name] for result in own) for name in SCORES}
    overall = {name: _estimate(estimates[name].mean for estimates in styles.values()) for name in SCORES}
    return Summary(styles, overall)


def _estimate(values: Iterable[float]) -> scores.Estimate:
    return scores.estimate([value for value in values if not math.isnan(value)])


def table(summary: Summary, labels: Sequence[str]) -> str:
    """The summary in lines for people; ``labels``: of all pictures, which are counted."""
    width = max(map(len, [*labels, OVERALL]))
    rows = [["", "pictures", *SCORES]]
    rows += [[label, labels.count(label), *estimates.values()] for label, estimates in summary.styles.items()]
    rows += [[OVERALL, len(labels), *summary.overall.values()]]
    return "\n".join(
        f"{label:{width}}{count:>10}" + "".join(f"{cell!s:>17}" for cell in cells) for label, count, *cells in rows
    )


def plot(summary: Summary) -> Image.Image | None:
    """Text score against style score, a point per style and one for all; None where no style has both."""
    points = [
        charts.Point(text.mean, style.mean, label, x_margin=text.margin, y_margin=style.margin)
        for label, text, style in _points(summary)
        if text.count and style.count
    ]
    subtitle = "means and 95 % intervals: of a style over its pictures, of all styles over the styles"
    return charts.scatter_chart(points, "Prompt and style", subtitle, "text score", "style score") if points else None


def _points(summary: Summary) -> Iterator[tuple[str, scores.Estimate, scores.Estimate]]:
    for label, estimates in summary.styles.items():
        yield label.replace("$", r"\$"), estimates["text"], estimates["style"]
    if len(summary.styles) > 1:
        yield OVERALL, summary.overall["text"], summary.overall["style"]


def _plain(estimates: Estimates) -> dict[str, dict[str, float | int | None]]:
    """For JSON, which has no nan."""
    return {name: {key: _or_none(value) for key, value in e._asdict().items()} for name, e in estimates.items()}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_results(
    folder: Path,
    painted: Sequence[Painted],
    labels: Sequence[str],
    results: Sequence[Mapping[str, float]],
    summary: Summary,
    made_with: Mapping[str, str],
) -> None:
    """Leaves ``scores.jsonl``, ``evaluation.json`` and ``evaluation.png`` behind."""
    lines = [
        {
            "picture": str(picture.path),
            **picture.line,
            "group": label,
            "context": picture.context,
            "scores": {name: _or_none(value) for name, value in result.items()},
        }
        for picture, label, result in zip(painted, labels, results, strict=True)
    ]
    write_atomic(folder / "scores.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    by_style = {label: {"pictures": labels.count(label), **_plain(own)} for label, own in summary.styles.items()}
    content = {**made_with, "pictures": len(painted), "overall": _plain(summary.overall), "styles": by_style}
    write_atomic(folder / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
    if drawn := plot(summary):
        images.save_png(folder / "evaluation.png", drawn)


def choose_model(config: EvaluateConfig, painted: Iterable[Painted]) -> str:
    """The model asked for, or the one that painted all pictures."""
    names = sorted({picture.line["model"] for picture in painted})
    if not config.model and len(names) > 1:
        raise UserError(f"the pictures were painted by several models: give one of {', '.join(names)} with --model")
    return config.model or names[0]


def find_clip(config: EvaluateConfig, model: str) -> Path:
    """The folder of the CLIP asked for, or of the one that the model's folder carries."""
    if config.clip:
        try:
            return resolve_model(config.clip)
        except UserError as error:
            raise UserError(f"clip: {error}") from error
    folder = (EMBEDDED_MODEL if model == "mini" else resolve_model(model, variant=config.variant or None)) / "clip"
    if not folder.is_dir():
        raise UserError(f"the model {model} carries no CLIP of its own: name one with --clip, a folder or a hub id")
    return folder


def run(config: EvaluateConfig) -> None:
    """Scores the pictures, prints the table and leaves the results behind."""
    folder = Path(config.output or config.pictures[0])
    check_output(folder)
    painted = read_manifests(config.pictures)
    materials = find_materials(config, painted)
    name = choose_model(config, painted)
    clip_folder = find_clip(config, name)
    clip, model = scores.Clip.load(clip_folder), StableDiffusion.load(name, variant=config.variant)
    results = score_all(Scorer(model, clip, painted, materials), painted)
    names = label_groups(painted)
    labels = [names[picture.key] for picture in painted]
    summary = summarise(labels, results)
    made_with = {"version": __version__, "model": model.name, "model_hash": model.hash, "clip": str(clip_folder)}
    write_results(folder, painted, labels, results, summary, made_with)
    print(table(summary, labels))
    print(
        f"\n± is half the 95 % interval: of a style over its pictures, of {OVERALL} over the styles. More in {folder}"
    )


if __name__ == "__main__":
    plain_warnings()
    set_up()
    main(lambda: run(parse(EvaluateConfig)))
