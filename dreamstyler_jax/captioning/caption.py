"""What a captioner says of a picture."""

from typing import NamedTuple, Protocol

from PIL import Image

JUDGE, CLIP = "judge", "clip"  # the names of the embedded model's captioners
BLIP2 = "Salesforce/blip2-opt-2.7b"  # the captioner of the paper
CAPTIONER_HELP = (
    f"Who describes the pictures: {JUDGE} or {CLIP}, two networks of the embedded model, which know only pictures like "
    f"its own, or the folder or hub id of a vision-language model of transformers, such as {BLIP2}, BLIP or Florence-2."
)


class Caption(NamedTuple):
    """The training prompt for a picture.

    Attributes:
        prompt: as in "A painting of a red boat by the sea in the style of {}"; empty if nothing is left to say.
        left_out: the words that were removed from what the captioner said, because they describe the style or are too
            many for the text encoder.
        unsure: what a person should look at, each as in "'red' may be 'orange'".
    """

    prompt: str
    left_out: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()


class Captioner(Protocol):
    """Describes pictures."""

    @property
    def description(self) -> str:
        """What it is, for the user."""
        ...

    def __call__(self, picture: Image.Image) -> Caption:
        """The caption of an RGB picture."""
        ...
