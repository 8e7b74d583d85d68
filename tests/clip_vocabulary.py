"""CLIP's real vocabulary, unpacked into the layout of a diffusers ``tokenizer/`` folder."""

import gzip
import json
from pathlib import Path

from dreamstyler_jax import stable_diffusion

ARCHIVE = Path(stable_diffusion.__path__[0]) / "single_files" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48_894
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's order: printable bytes first, as themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(code) for code in [*printable, *range(256, 256 + 256 - len(printable))]]


def write_clip_tokenizer(folder: Path, pad: str = EOS) -> Path:
    """Writes the folder as in Stable Diffusion's repositories: `pad` is EOS in 1.x and "!" in 2.x."""
    merges = gzip.decompress(ARCHIVE.read_bytes()).decode("utf-8").split("\n")[1 : 1 + MERGES]
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(merge.replace(" ", "") for merge in merges), BOS, EOS]
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {
        "bos_token": {"content": BOS, **plain},
        "eos_token": {"content": EOS, **plain},
        "unk_token": {"content": EOS, **plain},
        "pad_token": pad,
    }
    typed = {role: {"__type": "AddedToken", **t} if isinstance(t, dict) else t for role, t in special.items()}
    config = {**typed, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
