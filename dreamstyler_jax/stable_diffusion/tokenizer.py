"""CLIP's byte-level BPE, and the places in a prompt that a style's vectors take.

A placeholder is never a token of the vocabulary: its vectors are spliced in *by position* after tokenisation. That
keeps the text around it exactly as any other tool would tokenise it, and leaves the vocabulary alone.
"""

import difflib
import itertools
import json
import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from dreamstyler_jax.runtime.errors import UserError

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
_SPECIAL = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
_MAX_LENGTH = 77
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Tokenizer:
    """A CLIP tokenizer for any vocabulary in the layout of a diffusers ``tokenizer/`` folder.

    Attributes:
        max_length: positions in the text encoder's window, BOS and EOS included (77 for every CLIP in use).
        vocab_size: number of token ids, added tokens included.
        bos_id, eos_id, pad_id: ids of the special tokens. Stable Diffusion 1.x pads with EOS, 2.x with "!".
        filler_id: an ordinary token, neither BOS, EOS nor padding: the id at positions that a style's vectors
            overwrite. (EOS would not do: CLIP reads its pooled state at the first EOS.)
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
            merges: pairs to join, most urgent first.
            special: ``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token``, each a token of `vocab` or `added`.
            added: tokens matched in the text before BPE, in order; those unknown to `vocab` get the next free ids.
            max_length: the window, BOS and EOS included.

        Raises:
            UserError: a special token is not in the vocabulary, or the vocabulary and the merges do not agree.
        """
        self._vocab, self._merges = dict(sorted(vocab.items(), key=lambda item: item[1])), list(merges)
        self._special, self._added = {**_SPECIAL, **special}, list(added)
        self._bpe = _backend(self._vocab, self._merges, self._special["unk_token"])
        self._bpe.add_tokens(self._added)
        ids = {role: self._bpe.token_to_id(token) for role, token in self._special.items()}
        for role, index in ids.items():
            if index is None:
                raise UserError(f"the tokenizer's {role} {self._special[role]!r} is missing from its vocabulary")
        self.bos_id, self.eos_id, self.pad_id = ids["bos_token"], ids["eos_token"], ids["pad_token"]
        self.max_length = max_length
        self.vocab_size = self._bpe.get_vocab_size()
        self.filler_id = next(i for i in itertools.count() if i not in (self.bos_id, self.eos_id, self.pad_id))

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """Reads ``vocab.json`` + ``merges.txt``, or the ``tokenizer.json`` newer tools write in their place.

        ``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json`` are read where present. As in
        transformers, special tokens are matched inside prompts too, hence "!" in a prompt for Stable Diffusion 2.x is
        its padding token. A missing or absurd ``model_max_length`` means 77.

        Raises:
            UserError: no vocabulary there, or one that cannot be read.
        """
        folder = Path(folder)
        vocab, merges, listed = _read_vocabulary(folder)
        config = _read_json(folder / "tokenizer_config.json")
        roles = {**_SPECIAL, **_roles(config), **_roles(_read_json(folder / "special_tokens_map.json"))}
        special = {role: _added_token(value).content for role, value in roles.items()}
        listed = {**{int(i): token for i, token in config.get("added_tokens_decoder", {}).items()}, **listed}
        for token, index in _read_json(folder / "added_tokens.json").items():
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
            vocab_size: the number of ids wanted, at least 514; fewer come out where the texts hold no more pairs.
            max_length: the window of the text encoder it is for.
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
        """Writes a ``tokenizer/`` folder that :meth:`from_folder` and transformers' CLIPTokenizer read alike."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        flags = [{"content": t.content, **{flag: getattr(t, flag) for flag in _FLAGS}} for t in self._added]
        config = {
            **self._special,
            "added_tokens_decoder": {str(self._bpe.token_to_id(token["content"])): token for token in flags},
            "model_max_length": self.max_length,
            "tokenizer_class": "CLIPTokenizer",
        }
        merges = "".join(f"{left} {right}\n" for left, right in self._merges)
        (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
        for name, content in (
            ("vocab.json", self._vocab),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", self._special),
        ):
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def words(self, text: str) -> list[int]:
        """The ids of `text` alone: no BOS, no EOS, no padding, however long."""
        return self._bpe.encode(_encodable(text), add_special_tokens=False).ids

    def encode(self, text: str) -> list[int]:
        """BOS, the ids of `text`, EOS; neither cut nor padded."""
        return [self.bos_id, *self.words(text), self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, lower-cased and with its white space normalised, as CLIP sees it."""
        return self._bpe.decode(list(ids), skip_special_tokens=False).replace(WORD_END, " ").strip()

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Token ids int32[B, max_length]: cut where too long (EOS stays), padded where too short, as transformers does.

        Silent about cuts; :func:`tokenize_with_placeholders` is not.
        """
        return np.stack([self.frame(self.words(prompt)) for prompt in prompts])

    def frame(self, words: Sequence[int]) -> np.ndarray:
        """int32[max_length]: BOS, as many of `words` as fit, EOS, padding."""
        ids = [self.bos_id, *words[: self.max_length - 2], self.eos_id]
        return np.array(ids + [self.pad_id] * (self.max_length - len(ids)), np.int32)


@dataclass(frozen=True)
class Placeholder:
    """A ``{name}`` in a prompt; the name is empty for ``{}``."""

    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}}"


def parse_prompt(prompt: str) -> list[str | Placeholder]:
    """Cuts a prompt at its placeholders: ``"a {b} c"`` -> ``["a ", Placeholder("b"), " c"]``.

    ``{{`` and ``}}`` stand for literal braces. Empty pieces of text are left out.

    Raises:
        UserError: a lone brace.
    """
    parts: list[str | Placeholder] = [""]
    end = 0
    for match in _BRACES.finditer(prompt):
        text, end = prompt[end : match.start()], match.end()
        if match[1] is not None:
            parts += [parts.pop() + text, Placeholder(match[1].strip()), ""]
        elif len(match[0]) == 2:
            parts.append(parts.pop() + text + match[0][0])
        else:
            raise UserError(f"lone {match[0]!r} in the prompt {_short(prompt)}: write it twice for a literal brace")
    parts.append(parts.pop() + prompt[end:])
    return [part for part in parts if part]


def tokenize_with_placeholders(
    tokenizer: Tokenizer, prompt: str, vectors_per_name: Mapping[str, int], *, required: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenises a prompt and says where the vectors of which style go.

    ``{}`` stands for the only style there is, ``{name}`` for one of several; each takes as many consecutive positions
    as the style has vectors, and may occur more than once. The text around it tokenises as if the placeholder were a
    word of its own.

    Args:
        tokenizer: the model's.
        prompt: text with placeholders; ``{{`` and ``}}`` are literal braces.
        vectors_per_name: vectors (per stage) of every style on hand, e.g. ``{"gogh": 1, "monet": 2}``.
        required: refuse a prompt without any placeholder, as training does.

    Returns:
        ``(ids, slots)``, both int32[max_length]. At an ordinary position the slot is -1; elsewhere it is a row of the
        styles' vectors concatenated in the order of `vectors_per_name`, and the id is ``tokenizer.filler_id``.

    Raises:
        UserError: an unknown name, ``{}`` with other than one style, a lone brace, a placeholder missing where one is
            required, or one that reaches beyond the window (its vectors would be lost silently).

    Warns:
        UserWarning: text after the last placeholder does not fit and is cut off.
    """
    offsets = dict(zip(vectors_per_name, itertools.accumulate([0, *vectors_per_name.values()]), strict=False))
    room = tokenizer.max_length - 2
    ids: list[int] = []
    slots: list[int] = []
    reach = 0
    for part in parse_prompt(prompt):
        if isinstance(part, str):
            words = tokenizer.words(part)
            ids += words
            slots += [-1] * len(words)
        else:
            name = _resolve(part, vectors_per_name)
            count = vectors_per_name[name]
            ids += [tokenizer.filler_id] * count
            slots += range(offsets[name], offsets[name] + count)
            reach = len(ids)
    if required and not reach:
        raise UserError(f"the prompt {_short(prompt)} has no placeholder: write {{}} where the style goes")
    if reach > room:
        raise UserError(
            f"the style's place in the prompt {_short(prompt)} lies {reach - room} token(s) beyond the "
            f"{tokenizer.max_length}-token window: shorten the context description before it"
        )
    if len(ids) > room:
        cut = tokenizer.decode(ids[room:])
        warnings.warn(f"the prompt {_short(prompt)} is {len(ids) - room} token(s) too long; cut: {cut!r}", stacklevel=2)
    row = np.full(tokenizer.max_length, -1, np.int32)
    row[1 : 1 + len(slots[:room])] = slots[:room]
    return tokenizer.frame(ids), row


def _resolve(placeholder: Placeholder, known: Mapping[str, int]) -> str:
    """The style a placeholder means."""
    if placeholder.name in known:
        return placeholder.name
    if not known:
        raise UserError(f"the prompt has the placeholder {placeholder} but no style was given: give one, or drop it")
    if not placeholder.name and len(known) == 1:
        return next(iter(known))
    names = ", ".join(f"{{{name}}}" for name in _nearest_first(placeholder.name, known))
    if not placeholder.name:
        raise UserError(f"{{}} needs exactly one style and {len(known)} were given: write one of {names}")
    raise UserError(f"the prompt asks for the unknown style {placeholder}: write one of {names}")


def _nearest_first(name: str, known: Iterable[str]) -> list[str]:
    return sorted(known, key=lambda other: -difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio())


def _short(prompt: str) -> str:
    return repr(textwrap.shorten(prompt, 60, placeholder="..."))


def _encodable(text: str) -> str:
    """`text` without lone surrogates, which undecodable bytes on a command line turn into."""
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


def _read_vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[int, dict[str, Any]]]:
    """Vocabulary, merges, and the added tokens that ``tokenizer.json`` lists by id."""
    listed = _read_json(folder / "tokenizer.json")
    added = {token["id"]: token for token in listed.get("added_tokens", [])}
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file():
        try:
            return *models.BPE.read_file(str(vocab), str(merges)), added
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"cannot read the tokenizer in {folder}: {error}") from error
    if listed.get("model", {}).get("type") == "BPE":
        model = listed["model"]
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        return model["vocab"], [(left, right) for left, right in pairs], added
    raise UserError(f"no tokenizer in {folder}: it should hold vocab.json and merges.txt, or tokenizer.json")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}: it should hold a JSON object")
    return content


def _roles(config: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens a configuration file sets."""
    return {role: config[role] for role in _SPECIAL if config.get(role)}


def _added_token(value: str | Mapping[str, Any]) -> AddedToken:
    """A token to match ahead of BPE; what the files leave unsaid is as transformers has it."""
    if isinstance(value, str):
        value = {"content": value}
    flags = {flag: value[flag] for flag in _FLAGS if flag in value}
    special = flags.pop("special", True)
    return AddedToken(value["content"], special=special, **{"normalized": not special, **flags})


def _window(length: object) -> int:
    """`model_max_length` as the folder has it, or CLIP's 77 where it is absent or stands for "no limit"."""
    return length if isinstance(length, int) and 2 < length <= 4096 else _MAX_LENGTH
