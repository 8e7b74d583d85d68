"""The tokenizer of the embedded model, and the captions of the training pictures as tokens."""

import hashlib
import io
from pathlib import Path

import numpy as np

from dreamstyler_jax.mini.world import captions, scenes
from dreamstyler_jax.mini.world.manners import MANNERS
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer

CAPTIONS_PER_PICTURE = 6
_CORPUS = 20_000  # captions


def make_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """Reads the tokenizer in ``folder``; if there is none, learns ``vocabulary`` tokens from captions and saves it.

    The captions name all painters, the held-out ones as well.
    """
    if (folder / "special_tokens_map.json").exists():  # the last file to be written
        return Tokenizer.from_folder(folder)
    rng = np.random.default_rng(0)
    shown = [len(words) for words in scenes.ATTRIBUTES.values()]
    manner = [len(words) for words in MANNERS]
    counts = [*shown, captions.PAINTERS + captions.HELD_OUT, *manner]
    texts = [captions.caption(rng, rng.integers(counts)) for _ in range(_CORPUS)]
    tokenizer = Tokenizer.train(texts, vocabulary)
    tokenizer.save(folder)
    return tokenizer


def tokenize_captions(folder: Path, tokenizer: Tokenizer, labels: np.ndarray, seed: int) -> np.ndarray:
    """Draws captions for every picture: int16[N, CAPTIONS_PER_PICTURE, 77].

    Args:
        folder: keeps them, in a file named after the digest of the labels, the seed and the painters' names as tokens.
        tokenizer: with at most 2**15 tokens.
        labels: int32[N, 9], as in `data.Pictures`.
        seed: seed of the captions.
    """
    decides = f"{seed} {tokenizer.words(' '.join(captions.PAINTER_NAMES))}".encode()
    path = folder / f"{hashlib.sha256(labels.tobytes() + decides).hexdigest()[:16]}.npz"
    if not path.exists():
        rng = np.random.default_rng(seed)
        texts = [captions.caption(rng, row) for row in labels for _ in range(CAPTIONS_PER_PICTURE)]
        tokens = tokenizer(texts).astype(np.int16).reshape(len(labels), CAPTIONS_PER_PICTURE, -1)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, tokens=tokens)
        write_atomic(path, buffer.getvalue())
    with np.load(path) as file:
        return file["tokens"]
