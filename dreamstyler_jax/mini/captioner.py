"""Captions of the embedded model's pictures: its judge, or its CLIP, says what they show.

Both answer the same questions, independently, so each checks the other: what they disagree about is unsure. That is
most of what they say of a picture that is not of the embedded model's world.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from dreamstyler_jax.captioning.caption import CLIP, JUDGE, Caption
from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.mini.judge import LoadedJudge
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import images

# What CLIP is asked about each attribute: one sentence per answer.
QUESTIONS = {
    "subject": [f"a painting of a {subject}" for subject in scenes.SUBJECTS],
    "colour": [f"a painting of {captions.describe(0, colour, None, None)}" for colour in range(len(scenes.COLOURS))],
    "place": [f"a painting of a house {place}" for place in scenes.PLACES],
    "time": [f"a painting of a house {time}" for time in scenes.TIMES],
}


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddedCaptioner:
    """Captions pictures of the embedded model's world.

    Attributes:
        by: whose answers the captions have, `JUDGE` or `CLIP`; the other one's say where they are unsure.
        judge, clip: of an embedded model.
    """

    by: str
    judge: LoadedJudge
    clip: Clip

    @classmethod
    def load(cls, model: Path, by: str = JUDGE) -> Self:
        """Reads the judge and the CLIP in the folder of an embedded model.

        Raises:
            UserError: one of them is missing or damaged.
        """
        return cls(by, LoadedJudge.load(model / "judge"), Clip.load(model / "clip"))

    @property
    def description(self) -> str:
        """What it is, for the user."""
        return f"the embedded model's {'CLIP' if self.by == CLIP else 'judge'}, which knows only its own pictures"

    def __call__(self, picture: Image.Image) -> Caption:
        """The caption of an RGB picture of any size, of which it sees what training sees: the middle, as a square."""
        pixels = images.to_array(images.fit(picture, data.SIZE, data.SIZE))[None]
        answers = self.answers(pixels)
        other, checked = answers[CLIP if self.by == JUDGE else JUDGE][0], answers[self.by][0]
        named = zip(scenes.ATTRIBUTES.items(), checked, other, strict=True)
        unsure = [f"{words[a]!r} may be {words[b]!r}" for (_, words), a, b in named if a != b]
        return Caption(captions.full_prompt(*map(int, checked)), unsure=tuple(unsure))

    def answers(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """What `JUDGE` and `CLIP` see in pictures float[N, 128, 128, 3] in [-1, 1].

        Returns:
            For each int[N, 4], indices into the words of `scenes.ATTRIBUTES`.
        """
        verdict = self.judge.verdict(pictures)._asdict()
        return {JUDGE: _likeliest(verdict), CLIP: _likeliest(similarities(self.clip, pictures, QUESTIONS))}


def similarities(clip: Clip, pictures: np.ndarray, questions: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """CLIP's cosines float32[N, answers] of pictures [N, H, W, 3] in [-1, 1] with the answers to each question."""
    features = clip.picture_features(pictures)
    return {name: features @ clip.text_features(answers).T for name, answers in questions.items()}


def _likeliest(logits: Mapping[str, Any]) -> np.ndarray:
    return np.stack([np.argmax(logits[name], -1) for name in scenes.ATTRIBUTES], axis=1)
