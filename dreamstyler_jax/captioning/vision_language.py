"""Captions by a vision-language model of transformers: BLIP-2, BLIP, Florence-2 or one that answers questions."""

import dataclasses
import functools
import itertools
import re
from typing import Any, Self

from PIL import Image

from dreamstyler_jax.captioning.caption import BLIP2, Caption
from dreamstyler_jax.captioning.style_words import without_style
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.single_files.vocabulary import clip_tokenizer

QUESTION = (
    "What does this picture show? Name its subjects with their colours, what surrounds them, the place and the time of "
    "day, in one sentence of at most forty words. Say nothing about style, medium or artist."
)
FLORENCE_TASK = "<DETAILED_CAPTION>"
MAX_NEW_TOKENS = 80
# With these, the rest of the prompt and sixteen vectors fill the 77 positions of Stable Diffusion's text encoders.
MAX_TOKENS = 50


@dataclasses.dataclass(frozen=True, eq=False)
class VisionLanguageCaptioner:
    """A model of transformers that describes pictures; the same picture always gets the same caption.

    Attributes:
        name: its folder or hub id.
        model, processor: of transformers.
    """

    name: str
    model: Any
    processor: Any

    @classmethod
    def load(cls, name: str) -> Self:
        """Loads a model from a folder or from the hub, onto PyTorch's GPU if it has one.

        Raises:
            UserError: PyTorch and transformers are not installed, or the model cannot be loaded.
        """
        try:
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise UserError(
                f"captioner: {name} needs PyTorch and transformers: pip install torch transformers, or take "
                "the judge or the clip of the embedded model"
            ) from error
        on_gpu = torch.cuda.is_available()
        try:
            processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.bfloat16 if on_gpu else "auto")
        except Exception as error:  # transformers raises many kinds for folders that are damaged or of other models
            raise UserError(
                f"captioner: {name} cannot be used ({_reason(error)}); give judge, clip, or the folder or hub id of a "
                f"vision-language model of transformers, such as {BLIP2}"
            ) from error
        return cls(name, model.to("cuda" if on_gpu else "cpu").eval(), processor)

    @property
    def description(self) -> str:
        """What it is, for the user."""
        return f"{self.name} ({self.model.config.model_type})"

    def __call__(self, picture: Image.Image) -> Caption:
        """The caption of an RGB picture, without words about its style."""
        return training_caption(self.say(picture))

    def say(self, picture: Image.Image) -> str:
        """What the model itself says of an RGB picture.

        Raises:
            UserError: the model needs something else than a picture and a question, or more memory.
        """
        try:
            inputs = self._inputs(picture).to(self.model.device, self.model.dtype)
            asked = inputs["input_ids"].shape[1] if self._chats else 0  # such a model repeats the question
            generated = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, num_beams=1)
            return self.processor.batch_decode(generated[:, asked:], skip_special_tokens=True)[0].strip()
        except Exception as error:  # models of the same class in transformers want different things
            raise UserError(f"captioner: {self.name} cannot describe pictures here ({_reason(error)})") from error

    @property
    def _chats(self) -> bool:
        return bool(getattr(self.processor, "chat_template", None))

    def _inputs(self, picture: Image.Image) -> Any:
        if self._chats:
            content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        text = {"text": FLORENCE_TASK} if self.model.config.model_type == "florence2" else {}
        return self.processor(images=picture, **text, return_tensors="pt")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def training_caption(said: str) -> Caption:
    """The training prompt from a caption in anybody's words: [C_o, C_c, S*] of the paper, short enough to be read."""
    shown, removed = without_style(_without_notation(said))
    shown, rest = _first_tokens(shown)
    left_out = (*removed, rest) if rest else removed
    if not shown:
        return Caption("", left_out)
    first, _, others = shown.partition(" ")
    words = f"{first.lower() if first in ('A', 'An', 'The') else first} {others}".strip()
    return Caption(f"A painting of {words}, in the style of {{}}", left_out)


def _without_notation(text: str) -> str:
    """A text without the marks that are more than text in prompts: brackets, braces, backslashes and ``__name__``.

    They tell nothing of a picture. And a caption is read in two ways, for training, where brackets are text, and as the
    prompt that repaints the picture, where they weigh words, so that no way to escape them would do for both.
    """
    return re.sub("__+", "_", text.translate(str.maketrans("()[]{}\\", " " * 7)))


def _first_tokens(text: str) -> tuple[str, str]:
    """Cuts a text that has more than MAX_TOKENS of CLIP's tokens, at a comma if it can; the second part is the rest."""
    words = text.split(" ")
    tokens = itertools.accumulate(len(_tokenizer().words(word)) for word in words)  # none reaches over a space
    fitting = sum(count <= MAX_TOKENS for count in tokens)
    if fitting == len(words):
        return text, ""
    commas = (number for number in range(fitting, fitting // 2, -1) if words[number - 1].endswith(","))
    fitting = next(commas, fitting)
    return " ".join(words[:fitting]).rstrip(","), " ".join(words[fitting:])


_tokenizer = functools.cache(clip_tokenizer)
