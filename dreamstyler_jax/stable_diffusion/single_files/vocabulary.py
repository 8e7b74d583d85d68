"""The tokenizers of Stable Diffusion's text encoders, from the vocabulary that comes with this package."""

import functools
import gzip
import itertools
from pathlib import Path

from tokenizers import AddedToken

from dreamstyler_jax.stable_diffusion.tokenizer import BOS, EOS, WORD_END, Tokenizer

# One merge a line after the first line, the most frequent first. CLIP uses so many that there are 49,408 tokens.
_ARCHIVE = Path(__file__).parent / "clip" / "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49_408 - 2 * 256 - 2
_PRINTABLE = (range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1))


def clip_tokenizer(pad: str = EOS) -> Tokenizer:
    """CLIP's tokenizer: that of all Stable Diffusion models, which differ in the token that they pad with.

    Args:
        pad: the end token in 1.x and for XL's first text encoder, "!" in 2.x and for XL's second.
    """
    tokens, merges = _vocabulary()
    vocab = {token: index for index, token in enumerate(tokens)}
    # As in the published folders: the token that pads is matched in the text as it is written, others in lower case.
    special = dict.fromkeys((BOS, EOS, pad))
    added = [AddedToken(token, special=True, normalized=token != pad) for token in special]
    return Tokenizer(vocab, merges, {"pad_token": pad}, added)


@functools.cache
def _vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens in the order of their ids, and the merges: bytes, the same at the end of a word, merges, BOS, EOS."""
    lines = gzip.decompress(_ARCHIVE.read_bytes()).decode("utf-8").split("\n")[1 : 1 + _MERGES]
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    # Bytes are written as printable characters: those that are printable as themselves, and 256, 257, ... for others.
    printable = list(itertools.chain(*_PRINTABLE))
    symbols = [chr(code) for code in [*printable, *range(256, 512 - len(printable))]]
    ends = [symbol + WORD_END for symbol in symbols]
    return [*symbols, *ends, *(left + right for left, right in merges), BOS, EOS], merges
