"""A CLIP with its tokenizer and its preprocessing: pictures and texts to features (Radford et al. 2021)."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dreamstyler_jax.evaluation.encoders import Preprocessor, unit
from dreamstyler_jax.runtime.batches import in_batches
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.clip import CLIPModel
from dreamstyler_jax.stable_diffusion.folder_parts import FolderPart
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """A loaded CLIP.

    Attributes:
        graphdef, params: of `CLIPModel`.
        tokenizer: prepares texts.
        preprocessor: prepares pictures.
    """

    graphdef: nnx.GraphDef
    params: Any
    tokenizer: Tokenizer
    preprocessor: Preprocessor

    @classmethod
    def load(cls, folder: str | Path, *, allow_pickle: bool = False) -> Self:
        """Reads a folder as ``transformers`` saves CLIPModel and CLIPProcessor, or as the hub has it.

        Args:
            folder: the folder.
            allow_pickle: whether to read the tensors of a ``pytorch_model.bin`` where there is no safetensors file.

        Raises:
            UserError: there is no such folder, or one of its files is missing or damaged.
        """
        folder = Path(folder)
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} is not a CLIP model: it has no config.json; give the folder of a CLIP")
        part = FolderPart.find(folder, allow_pickle=allow_pickle)
        config = part.config(CLIPModel)
        graphdef, params = part.load(CLIPModel, config, jnp.float32)
        tokenizer, text = Tokenizer.from_folder(folder), config.text_config
        if tokenizer.max_length > text.max_position_embeddings or tokenizer.vocab_size > text.vocab_size:
            raise UserError(
                f"{folder}: the tokenizer's {tokenizer.max_length} positions and {tokenizer.vocab_size} tokens are "
                f"more than the model's {text.max_position_embeddings} and {text.vocab_size}; download both again"
            )
        return cls(graphdef, params, tokenizer, Preprocessor.load(folder, config.vision_config.image_size))

    @property
    def logit_scale(self) -> float:
        """What CLIP multiplies cosines by to get logits, the inverse of its temperature: 100 in OpenAI's models."""
        return float(np.exp(np.float32(self.params["logit_scale"])))

    def text_features(self, texts: Sequence[str]) -> np.ndarray:
        """Features of unit length, float32[N, P], of texts; a text longer than the window is cut."""
        ids = np.asarray(self.tokenizer(list(texts)))
        return in_batches(functools.partial(_text_features, self.graphdef, self.params), ids)

    def picture_features(self, pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Features of unit length, float32[N, P], of pictures float[H, W, 3] in [-1, 1], which may differ in size."""
        prepared = np.stack([self.preprocessor(np.asarray(picture)) for picture in pictures])
        mean, std = (jnp.asarray(v, jnp.float32) for v in (self.preprocessor.mean, self.preprocessor.std))
        return in_batches(functools.partial(_picture_features, self.graphdef, self.params, mean, std), prepared)


@functools.partial(jax.jit, static_argnums=0)
def _text_features(graphdef: nnx.GraphDef, params: Any, ids: Array) -> Array:
    return unit(nnx.merge(graphdef, params).get_text_features(ids))


@functools.partial(jax.jit, static_argnums=0)
def _picture_features(graphdef: nnx.GraphDef, params: Any, mean: Array, std: Array, pictures: Array) -> Array:
    return unit(nnx.merge(graphdef, params).get_image_features(((pictures + 1) / 2 - mean) / std))
