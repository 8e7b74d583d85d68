"""CLIP's byte-level BPE, and the folders that hold its vocabulary."""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from dreamstyler_jax.runtime.documents import Digits, Length, Range
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import read_json, write_atomic, write_json

T = TypeVar("T")

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
_SPECIAL = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
_MAX_LENGTH = 77
Index = Annotated[int, Range(0, 2**20)]  # of a token
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# CLIP's pattern of a word: special tokens, endings such as 's, letters, a digit, anything else but white space.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class TokenFile(TypedDict):
    """A token to match before BPE, and its flags."""

    content: str
    single_word: NotRequired[bool]
    lstrip: NotRequired[bool]
    rstrip: NotRequired[bool]
    normalized: NotRequired[bool]
    special: NotRequired[bool]


class ListedToken(TokenFile):
    """One of the added tokens of ``tokenizer.json``."""

    id: Index


Token = str | TokenFile


class RolesFile(TypedDict, total=False):
    """What ``special_tokens_map.json`` holds."""

    bos_token: Token
    eos_token: Token
    unk_token: Token
    pad_token: Token


class ConfigFile(RolesFile, total=False):
    """What ``tokenizer_config.json`` holds."""

    added_tokens_decoder: dict[Annotated[str, Digits()], TokenFile]


class BpeFile(TypedDict, total=False):
    """The vocabulary in ``tokenizer.json``."""

    type: str
    vocab: dict[str, Index]
    merges: list[str | Annotated[tuple[str, ...], Length(2, 2)]]


class TokenizerFile(TypedDict, total=False):
    """What ``tokenizer.json`` holds."""

    model: BpeFile
    added_tokens: list[ListedToken]


class Tokenizer:
    """A CLIP tokenizer for any vocabulary in the layout of a diffusers ``tokenizer/`` folder.

    Attributes:
        max_length: positions in the text encoder's window, BOS and EOS included (77 for every CLIP in use).
        vocab_size: number of token ids, added tokens included.
        bos_id, eos_id, pad_id: ids of the special tokens. Stable Diffusion 1.x pads with EOS, 2.x with "!".
        filler_id: an ordinary token, neither BOS, EOS nor padding: the id at positions that a style's vectors
            overwrite. (It cannot be EOS: CLIP reads its pooled state at the first EOS.)
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        special: Mapping[str, str] = _SPECIAL,
        added: Sequence[AddedToken] = (),
        max_length: int = _MAX_LENGTH,
    ):
        """Builds the tokenizer from the parts of a folder; most callers want :meth:`from_folder`.

        Args:
            vocab: token to id, for every byte symbol, the same with ``</w>``, every merge and the special tokens.
            merges: pairs to join, in order of priority.
            special: ``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token``, each a token of `vocab` or `added`.
            added: tokens matched in the text before BPE, in order; those not in `vocab` get the next free ids.
            max_length: the window, BOS and EOS included.

        Raises:
            UserError: a special token is not in the vocabulary, or the vocabulary and the merges do not agree.
        """
        self._vocab, self._merges = dict(sorted(vocab.items(), key=lambda item: item[1])), list(merges)
        self._special, self._added = {**_SPECIAL, **special}, list(added)
        self._bpe = _backend(self._vocab, self._merges, self._special["unk_token"])
        self._bpe.add_tokens(self._added)
        ids = {role: self._special_id(role) for role in self._special}
        self.bos_id, self.eos_id, self.pad_id = ids["bos_token"], ids["eos_token"], ids["pad_token"]
        self.max_length = max_length
        self.vocab_size = self._bpe.get_vocab_size()
        self.filler_id = next(i for i in itertools.count() if i not in (self.bos_id, self.eos_id, self.pad_id))

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """Reads ``vocab.json`` + ``merges.txt``, or the ``tokenizer.json`` that newer tools write in their place.

        ``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json`` are optional. As in
        transformers, special tokens are matched inside prompts too, hence "!" in a prompt for Stable Diffusion 2.x is
        its padding token. A missing or absurd ``model_max_length`` means 77.

        Raises:
            UserError: the folder holds no vocabulary, or one of the files is damaged.
        """
        folder = Path(folder)
        vocab, merges, listed = _read_vocabulary(folder)
        config = _read_optional(folder / "tokenizer_config.json", ConfigFile)
        mapped = _read_optional(folder / "special_tokens_map.json", RolesFile)
        roles = {**_SPECIAL, **_roles(config), **_roles(mapped)}
        special = {role: _added_token(value).content for role, value in roles.items()}
        listed = {**{int(i): token for i, token in config.get("added_tokens_decoder", {}).items()}, **listed}
        for token, index in _read_optional(folder / "added_tokens.json", dict[str, Index]).items():
            listed.setdefault(index, {"content": token, "special": token in special.values()})
        added = {token.content: token for _, token in sorted((i, _added_token(t)) for i, t in listed.items())}
        if not listed:
            added = {token.content: token for token in map(_added_token, roles.values())}
        tokenizer = cls(vocab, merges, special, list(added.values()), _window(config.get("model_max_length")))
        for index, value in listed.items():
            if tokenizer._bpe.token_to_id(_added_token(value).content) != index:
                raise UserError(f"{folder}: added token {_added_token(value).content!r} cannot have id {index}")
        return tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, max_length: int = _MAX_LENGTH) -> "Tokenizer":
        """Learns a small vocabulary of CLIP's kind: 256 bytes, the same with ``</w>``, merges, BOS, EOS.

        Args:
            texts: the corpus, e.g. captions.
            vocab_size: the wanted number of ids, at least 514; the result has fewer if the texts hold too few pairs.
            max_length: the window of the text encoder.

        Raises:
            ValueError: `vocab_size` is below 514.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        symbols = alphabet + [symbol + WORD_END for symbol in alphabet]
        room = vocab_size - len(symbols) - 2
        if room < 0:
            raise ValueError(f"vocab_size must be at least {len(symbols) + 2}, got {vocab_size}")
        bpe = _backend({EOS: 0}, [], EOS)
        trainer = trainers.BpeTrainer(
            vocab_size=len(symbols) + room, initial_alphabet=alphabet, end_of_word_suffix=WORD_END, show_progress=False
        )
        bpe.train_from_iterator(texts, trainer)
        merges = [(left, right) for left, right in json.loads(bpe.to_str())["model"]["merges"]][:room]
        tokens = dict.fromkeys([*symbols, *(left + right for left, right in merges), BOS, EOS])
        vocab = {token: index for index, token in enumerate(tokens)}
        return cls(vocab, merges, added=[_added_token(BOS), _added_token(EOS)], max_length=max_length)

    def save(self, folder: str | Path) -> None:
        """Writes a ``tokenizer/`` folder that :meth:`from_folder` and transformers' CLIPTokenizer read alike.

        Each file appears whole or not at all.
        """
        folder = Path(folder)
        flags = [{"content": t.content, **{flag: getattr(t, flag) for flag in _FLAGS}} for t in self._added]
        config = {
            **self._special,
            "added_tokens_decoder": {str(self._bpe.token_to_id(token["content"])): token for token in flags},
            "model_max_length": self.max_length,
            "tokenizer_class": "CLIPTokenizer",
        }
        merges = "".join(f"{left} {right}\n" for left, right in self._merges)
        write_atomic(folder / "merges.txt", f"#version: 0.2\n{merges}".encode())
        write_json(folder / "vocab.json", self._vocab)
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "special_tokens_map.json", self._special)

    @functools.cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the vocabulary and of all else that the ids of a text depend on."""
        added = [[token.content, *(getattr(token, flag) for flag in _FLAGS)] for token in self._added]
        content = [self._vocab, self._merges, self._special, added, self.max_length]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def words(self, text: str) -> list[int]:
        """The ids of `text` alone: no BOS, no EOS, no padding, however long."""
        return self._bpe.encode(_encodable(text), add_special_tokens=False).ids

    def encode(self, text: str) -> list[int]:
        """BOS, the ids of `text`, EOS; neither cut nor padded."""
        return [self.bos_id, *self.words(text), self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` as CLIP sees it: in lower case, with normalised white space."""
        return self._bpe.decode(list(ids), skip_special_tokens=False).replace(WORD_END, " ").strip()

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Token ids int32[B, max_length]: long prompts are cut (EOS stays), short ones padded, as transformers does.

        Cuts without a warning; :func:`~dreamstyler_jax.stable_diffusion.placeholders.tokenize_with_placeholders` warns.
        """
        return np.stack([self.frame(self.words(prompt)) for prompt in prompts])

    def frame(self, words: Sequence[int]) -> np.ndarray:
        """int32[max_length]: BOS, as many of `words` as fit, EOS, padding."""
        ids = [self.bos_id, *words[: self.max_length - 2], self.eos_id]
        return np.array(ids + [self.pad_id] * (self.max_length - len(ids)), np.int32)

    def _special_id(self, role: str) -> int:
        index = self._bpe.token_to_id(self._special[role])
        if index is None:
            raise UserError(f"the tokenizer's {role} {self._special[role]!r} is missing from its vocabulary")
        return index


def _encodable(text: str) -> str:
    """`text` without lone surrogates, which stand for undecodable bytes of a command line."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _backend(vocab: dict[str, int], merges: list[tuple[str, str]], unknown: str) -> tokenizers.Tokenizer:
    """The pipeline of CLIP's tokenizer: NFC and lower case, split into words, bytes, BPE with ``</w>``."""
    options = {"continuing_subword_prefix": "", "end_of_word_suffix": WORD_END, "fuse_unk": False}
    try:
        bpe = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=unknown, **options))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f"the tokenizer's vocabulary and merges do not agree: {error}") from error
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _read_vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[int, TokenFile]]:
    """Vocabulary, merges, and the added tokens that ``tokenizer.json`` lists by id."""
    listed = _read_optional(folder / "tokenizer.json", TokenizerFile)
    added: dict[int, TokenFile] = {token["id"]: token for token in listed.get("added_tokens", [])}
    vocab, merges, model = folder / "vocab.json", folder / "merges.txt", listed.get("model", {})
    if vocab.is_file() and merges.is_file():
        try:
            return *models.BPE.read_file(str(vocab), str(merges)), added
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"cannot read the tokenizer in {folder}: {error}") from error
    if model.get("type") == "BPE" and "vocab" in model and "merges" in model:
        pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else pair for pair in model["merges"]]
        if odd := [pair for pair in pairs if len(pair) != 2]:
            raise UserError(f"{folder / 'tokenizer.json'} is damaged: {' '.join(odd[0])!r} is no pair to merge")
        return model["vocab"], [(left, right) for left, right in pairs], added
    raise UserError(f"no tokenizer in {folder}: it should hold vocab.json and merges.txt, or tokenizer.json")


def _read_optional(path: Path, shape: type[T]) -> T:
    """The object in a JSON file; empty if there is no such file."""
    return read_json(path, shape) if path.exists() else shape()


def _roles(config: RolesFile) -> dict[str, Token]:
    """The special tokens a configuration file sets."""
    return {role: token for role in _SPECIAL if (token := config.get(role))}


def _added_token(value: Token) -> AddedToken:
    """A token to match before BPE; flags that the files do not set have transformers' defaults."""
    entry: dict[str, Any] = {"content": value} if isinstance(value, str) else {**value}
    flags = {flag: entry[flag] for flag in _FLAGS if flag in entry}
    special = flags.pop("special", True)
    return AddedToken(_encodable(entry["content"]), special=special, **{"normalized": not special, **flags})


def _window(length: object) -> int:
    """The folder's `model_max_length`, or CLIP's 77 if it is absent or stands for "no limit"."""
    return length if isinstance(length, int) and 2 < length <= 4096 else _MAX_LENGTH
