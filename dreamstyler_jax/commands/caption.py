"""``dreamstyler caption``: describes pictures in text files beside them, as the prompts to learn their styles with."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dreamstyler_jax.captioning.caption import BLIP2, CAPTIONER_HELP, CLIP, JUDGE, Captioner
from dreamstyler_jax.captioning.sidecars import edit, find_editor, find_pictures, sidecar, write_caption
from dreamstyler_jax.captioning.vision_language import VisionLanguageCaptioner
from dreamstyler_jax.mini.captioner import EmbeddedCaptioner
from dreamstyler_jax.prompts import sidecar_prompt
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.masks import as_masked_picture, fill
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """Describe pictures, except their style, in text files beside them: the prompts that train reads.

    Raises:
        UserError: no pictures are given.
    """

    images: list[str] = option(
        [], "The pictures, or folders of pictures; --images can be left out, as in caption boat.png.", positional=True
    )
    captioner: str = option(JUDGE, CAPTIONER_HELP)
    edit: bool = option(False, "Open each caption in your editor, $VISUAL or $EDITOR, to add what it lacks.")
    overwrite: bool = option(False, "Replace captions that are there; otherwise they stay as they are.")

    def __post_init__(self):
        check_values(self)
        if not self.images:
            raise UserError("images: give the pictures to describe, or a folder of them")


def run(config: CaptionConfig) -> None:
    """Writes and shows the captions."""
    editor = find_editor() if config.edit else []
    pictures = find_pictures(config.images)
    caption_pictures(pictures, config.captioner, overwrite=config.overwrite)
    if editor:
        edit(editor, pictures)


def caption_pictures(pictures: Sequence[Path], captioner: str, *, overwrite: bool = False) -> None:
    """Writes a caption beside each picture and prints it; a caption that is there stays, unless told otherwise.

    Args:
        pictures: their files.
        captioner: as in the settings.
        overwrite: whether to replace captions.

    Raises:
        UserError: a picture, or a caption that is there, cannot be read, a folder cannot be written, or the captioner
            cannot be loaded.
    """
    wanted = []
    for picture in pictures:
        if not overwrite and (prompt := sidecar_prompt(picture)):
            print(f"{picture} has a caption, which stays: {prompt}")
        else:
            wanted.append(picture)
    if not wanted:
        return
    describe = load_captioner(captioner)
    print(f"Describing {len(wanted)} picture{'s' * (len(wanted) > 1)} by {describe.description}", file=sys.stderr)
    for picture in wanted:
        caption = describe(_read(picture))
        if caption.prompt:
            write_caption(picture, caption.prompt)
            print(f"{sidecar(picture)}: {caption.prompt}", flush=True)
        else:
            print(f"{picture}: nothing but its style is described; say in {sidecar(picture).name} what it shows")
        for label, phrases in {"left out": caption.left_out, "unsure": caption.unsure}.items():
            if phrases:
                print(f"    {label}: {'; '.join(phrases)}")


def _read(picture: Path) -> Image.Image:
    """The picture, without what its mask hides."""
    masked = as_masked_picture(picture)
    try:
        return fill(masked)
    except UserError as error:
        raise UserError(f"{picture}: {error}") from error


def load_captioner(name: str) -> Captioner:
    """Loads a captioner, by its name in the settings.

    Raises:
        UserError: it cannot be loaded.
    """
    if name in (JUDGE, CLIP):
        return EmbeddedCaptioner.load(EMBEDDED_MODEL, name)
    return VisionLanguageCaptioner.load(name)


def captioner_for(model: str) -> str:
    """The captioner for the training pictures of a model, by their names in the settings."""
    return JUDGE if model == "mini" else BLIP2
