"""The command ``dreamstyler evaluate``: scores the pictures that ``dreamstyler sample`` painted."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamstyler_jax import __version__
from dreamstyler_jax.commands.models import load_model
from dreamstyler_jax.commands.shared_options import PICKLE_HELP, PREDICTION_HELP, REVISION_HELP, VAE_HELP, VARIANT_HELP
from dreamstyler_jax.evaluation.artfid import art_fid
from dreamstyler_jax.evaluation.checkpoints import CHECKPOINTS, load_checkpoint
from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.evaluation.comparisons import AutoencoderGrams, Networks
from dreamstyler_jax.evaluation.contents import repaints
from dreamstyler_jax.evaluation.painted import PaintedPicture, group_labels, painted_pictures
from dreamstyler_jax.evaluation.report import LEGEND, picture_lines, summarise, table, write_report, write_scores
from dreamstyler_jax.evaluation.score_table import SCORES
from dreamstyler_jax.evaluation.scorer import score_all
from dreamstyler_jax.evaluation.training_data import find_training_data
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.page import FILE_NAME, refresh_page
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import check_output, check_own
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stable_diffusion.hub import resolve_model
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.schedule import PREDICTION_TYPES


def _help_of(network: str) -> str:
    """The help of the option for a further network: which scores it adds, and what to give."""
    names = [name for name, score in SCORES.items() if score.needs == network] or ["art_fid of all pictures"]
    return f"Adds {' and '.join(names)}. {CHECKPOINTS[network].help}"


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Score the pictures that dreamstyler sample painted.

    Raises:
        UserError: no pictures are given.
    """

    pictures: list[str] = option([], "The folders to score, which dreamstyler sample painted into. Required.")
    styles: list[str] = option(
        [],
        "The styles of the pictures: files, or folders of runs. Default: those in runs/, and the shipped example.",
    )
    style_pictures: list[str] = option(
        [],
        "What a style was learned from, as NAME=FILE, or FILE if there is only one style; repeat NAME=FILE for several "
        "pictures. Default: the files that the style itself names.",
    )
    model: str = option(
        "",
        "The model whose autoencoder computes the style score: mini, a folder, a file or a hub id. Default: the model "
        "that painted the pictures.",
    )
    variant: str = option("", VARIANT_HELP)
    revision: str = option("", REVISION_HELP)
    vae: str = option("", VAE_HELP)
    prediction_type: str | None = option(None, PREDICTION_HELP, choices=PREDICTION_TYPES)
    allow_pickle: bool = option(False, PICKLE_HELP)
    clip: str = option(
        "",
        "The CLIP for the scores text, image and leakage: a folder as transformers saves it, or a hub id. Default: the "
        "folder clip inside the model's, which the embedded model has; for any other model it is required.",
    )
    csd: str | None = option(None, _help_of("csd"))
    dino: str | None = option(None, _help_of("dino"))
    vgg: str | None = option(None, _help_of("vgg"))
    lpips: str | None = option(None, _help_of("lpips"))
    inception: str | None = option(None, _help_of("inception"))
    output: str = option("", "Folder for the results. Default: the first folder of pictures.")

    def __post_init__(self):
        check_values(self)
        if not self.pictures:
            raise UserError("pictures: give the folders that dreamstyler sample painted into, such as out/starry")
        if self.inception and not self.lpips:
            raise UserError(f"inception: ArtFID also needs --lpips, {CHECKPOINTS['lpips'].help}")


def run(config: EvaluateConfig) -> None:
    """Scores the pictures, writes the results and prints their summary.

    Raises:
        UserError: pictures, a style, its training pictures or a network cannot be found or read.
    """
    folders = list({folder.resolve(): folder for folder in map(path_of, config.pictures)}.values())
    folder = path_of(config.output) if config.output else folders[0]
    for written in [folder] if config.output else folders:
        check_output(written)
    check_own(folder, ("scores.jsonl", "evaluation.*"), ("manifest*.jsonl", "evaluation.json"))
    painted = read_pictures(config.pictures)
    training_data = find_training_data(painted, config.styles, config.style_pictures)
    further = load_checkpoints(config, painted)
    model = load_model(choose_model(config.model, painted), config)
    clip_folder = find_clip(config.clip, model, config.allow_pickle)
    clip = Clip.load(clip_folder, allow_pickle=config.allow_pickle)
    networks = {"clip": clip, "autoencoder": AutoencoderGrams(model), **further}
    results = score_all(networks, painted, training_data)
    labels_by_hashes = group_labels(painted)
    labels = [labels_by_hashes[picture.style_hashes] for picture in painted]
    summary = summarise(labels, results)
    used = {"model": model.name, "model_hash": model.hash, "clip": str(clip_folder), **given_checkpoints(config)}
    provenance: dict[str, Any] = {"version": __version__, **used}
    notes = [LEGEND]
    if "inception" in networks:
        of_all = art_fid(networks, painted, training_data, results)
        provenance["art_fid"] = of_all._asdict()
        notes.append(str(of_all))
    lines = picture_lines(painted, labels, results)
    write_report(folder, lines, summary, provenance)
    pages = [] if config.output else show_on_pages(folders, painted, lines)
    notes += [*left_out(networks), f"All results are in {folder}.", *pages]
    print(f"{table(summary)}\n\n" + "\n".join(notes))


def show_on_pages(
    folders: Sequence[Path], painted: Sequence[PaintedPicture], lines: Sequence[dict[str, Any]]
) -> list[str]:
    """Shows the scores on the pages of the folders of pictures, and says where; the first has its ``scores.jsonl``."""
    for folder in folders[1:]:
        write_scores(folder, [line for line, of in zip(lines, painted, strict=True) if folder in of.path.parents])
    pages = [str(folder / FILE_NAME) for folder in folders if refresh_page(folder)]
    return [f"See the scores in a browser: {', '.join(pages)}"] if pages else []


def given_checkpoints(config: EvaluateConfig) -> dict[str, Any]:
    """The checkpoints of further networks that are given, by name."""
    return {name: given for name in CHECKPOINTS if (given := getattr(config, name))}


def load_checkpoints(config: EvaluateConfig, painted: Sequence[PaintedPicture]) -> dict[str, Any]:
    """Loads the further networks whose checkpoints are given.

    Raises:
        UserError: one of them cannot be found or read, or has nothing to score.
    """
    repainted = sum(map(repaints, painted))
    if config.lpips and not repainted:
        raise UserError("lpips: none of these pictures repaints another; leave it out, or paint some with --content")
    if config.inception and repainted < 2:
        raise UserError("inception: ArtFID needs several repainted pictures, and there is one; leave it out")
    return {name: load_checkpoint(name, given) for name, given in given_checkpoints(config).items()}


def left_out(networks: Networks) -> list[str]:
    """A line that says which scores are missing and which options add them; none if there are all."""
    missing: dict[str, list[str]] = {}
    for name, score in SCORES.items():
        if score.needs not in networks:
            missing.setdefault(score.needs, []).append(name)
    if "inception" not in networks:
        missing["inception"] = ["art_fid"]
    parts = [f"{', '.join(names)} (--{option})" for option, names in missing.items()]
    return [f"Left out, as their checkpoints are not given: {', '.join(parts)}."] if parts else []


def read_pictures(folders: Sequence[str]) -> list[PaintedPicture]:
    """The painted pictures in these folders, without duplicates.

    Raises:
        UserError: a folder has no painted pictures, or its manifest is damaged.
    """
    pictures: dict[Path, PaintedPicture] = {}
    for folder in map(path_of, folders):
        for picture in painted_pictures(folder, Gallery(folder).lines.values()):
            pictures[picture.path.resolve()] = picture
    return list(pictures.values())


def choose_model(asked_for: str, painted: Sequence[PaintedPicture]) -> str:
    """The model asked for, or else the one that painted all pictures.

    Raises:
        UserError: several models painted the pictures.
    """
    models = sorted({picture.model for picture in painted})
    if not asked_for and len(models) > 1:
        raise UserError(f"several models painted these pictures: choose one of {', '.join(models)} with --model")
    return asked_for or models[0]


def find_clip(asked_for: str, model: StableDiffusion, allow_pickle: bool = False) -> Path:
    """The folder of the CLIP asked for, or else of the one inside the model's folder.

    Raises:
        UserError: there is no such folder and no such model on the hub, or the model has no CLIP.
    """
    if asked_for:
        try:
            return resolve_model(asked_for, allow_pickle=allow_pickle)
        except UserError as error:
            raise UserError(f"clip: {error}") from error
    folder = model.folder / "clip" if model.folder else None
    if not folder or not folder.is_dir():
        raise UserError(f"the model {model.name} has no CLIP of its own: give one, a folder or a hub id, with --clip")
    return folder
