"""Ways to spoil what programs read: values of JSON, bytes, texts, files, safetensors' headers. All by a seeded rng."""

import copy
import json
import math
import re
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml

DEEP: Any = "x"
for _ in range(300):
    DEEP = [DEEP]
LONG_NAME = "a" * 5000
ODD_TEXTS = (
    "", " ", "x", "5", "-1", "nan", "1e999", "null", "\0", "a\0b", LONG_NAME, "9" * 5000, "../../etc/passwd",
    "/etc/passwd", "/", "..", "e\u0301" * 150, "चित्र", "\N{CAT FACE}" * 90, "\udcff", "{}", "{", "a{b|c}" * 9, "[x]*?",
    "~", "a:b", "a@5", "gogh@99999999999999999999", "%!PS", "<script>", "\r\n", "\u2028", "\x85", "nul.txt",
)  # fmt: skip
ODD_NUMBERS = (
    0, 1, -1, 2, 3, 5, 7, 255, 10**4, 10**6, 10**9, 10**12, 10**30, -(10**30), 2**31, 2**32, 2**63, 2**64, 0.0, 0.5,
    -0.5, 1e-300, 1e-9, 1e308, -1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
DTYPES = (  # of safetensors, with their bytes
    ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("F4", 0.5), ("BF16", 2), ("F16", 2), ("F64", 8), ("I8", 1),
    ("U8", 1), ("BOOL", 1), ("C64", 8), ("U64", 8), ("I64", 8), ("x", 1), ("", 1),
)  # fmt: skip
ODD_VALUES = (
    None, True, False, *ODD_NUMBERS, *ODD_TEXTS, [], [None], [5], ["a"], [[]], ["a", "b", "c"], [-1, 10**12],
    list(range(2000)), {}, {"0": 5}, {"0": {}}, {"a": None}, {"": ""}, {LONG_NAME: 1}, {"a": {"b": {"c": [1]}}}, DEEP,
)  # fmt: skip


def mutated(rng: Random, document: Any) -> Any:
    """A document of JSON's kinds with one to three mistakes."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places or rng.random() < 0.03:
            document = copy.deepcopy(rng.choice(ODD_VALUES))
        else:
            _spoil(rng, *rng.choice(places))
    return document


def _places(document: Any) -> Any:
    """Every container and key in a document."""
    keys: Any = ()
    if isinstance(document, dict):
        keys = list(document)
    elif isinstance(document, list):
        keys = range(min(len(document), 20))
    for key in keys:
        yield document, key
        yield from _places(document[key])


def _spoil(rng: Random, container: Any, key: Any) -> None:
    value = container[key]
    match rng.randrange(8):
        case 0:
            del container[key]
        case 1 if isinstance(container, dict):
            container[str(rng.choice(ODD_TEXTS))] = container.pop(key)
        case 2:
            container[key] = [value] * rng.choice((1, 2, 5))
        case 3 if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100:
            container[key] = rng.choice(
                (-value, value + 1, value * 1000, value / 7, str(value), float(value), value // 2)
            )
        case 4 if isinstance(value, str):
            container[key] = mutated_text(rng, value)
        case 5:
            container[key] = {"a": value}
        case _:
            container[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def mutated_text(rng: Random, text: str) -> str:
    """A text with a mistake: something inserted, cut or repeated."""
    place = rng.randrange(len(text) + 1)
    match rng.randrange(6):
        case 0:
            return text[:place] + rng.choice(ODD_TEXTS) + text[place:]
        case 1:
            return text[:place]
        case 2:
            return (
                text[:place]
                + rng.choice(("{", "}", "|", " ", "\t", "\n", ",", "<", "(", "\0", "*", ":"))
                + text[place:]
            )
        case 3:
            return text * rng.choice((2, 30))
        case 4:
            pieces = (" ", "\t", "{a}", "{", "a ", ", ", " of a", "in the style of ", "{} ", "[", "(", "\n", "e\u0301")
            return text[:place] + rng.choice(pieces) * rng.choice((50, 10_000)) + text[place:]
        case _:
            return rng.choice(ODD_TEXTS)


def mutated_bytes(rng: Random, data: bytes) -> bytes:
    """Bytes of which some are changed, cut off, repeated or put in."""
    place = rng.randrange(len(data) + 1)
    match rng.randrange(9):
        case 0:
            return data[:place]
        case 1:
            return b""
        case 2:
            return data[:place] + b"\0" * rng.choice((1, 8, 3000)) + data[place:]
        case 3:
            return data[place:]
        case 4:
            return data + data[: rng.choice((1, 100, len(data)))]
        case 5:
            return b"\xef\xbb\xbf" + data
        case 6:
            return data[:place] + rng.randbytes(rng.choice((1, 4, 64))) + data[place + 4 :]
        case _:
            spoilt = bytearray(data)
            for _ in range(rng.choice((1, 3, 30))):
                if spoilt:
                    spoilt[rng.randrange(min(len(spoilt), rng.choice((16, 200, 10**9))))] = rng.randrange(256)
            return bytes(spoilt)


def json_file(rng: Random, document: Any) -> bytes:
    """A JSON file with mistakes in its values, or in its bytes."""
    chance = rng.random()
    if chance < 0.75:
        return json.dumps(mutated(rng, document)).encode()
    if chance < 0.85:
        brackets = rng.choice(("[", '{"a":', "9", '"', "[[]," * 3, "1e")) * rng.choice((40, 900, 5000, 100_000))
        return brackets.encode()
    return mutated_bytes(rng, json.dumps(document, indent=2).encode())


def spoilt_lines(rng: Random, lines: Sequence[Any]) -> bytes:
    """A file with a JSON document in each line, of which one line is spoilt."""
    texts = [json.dumps(line).encode() for line in lines]
    number = rng.randrange(len(lines))
    texts[number] = json_file(rng, lines[number]).replace(b"\n", b" ")
    return b"\n".join(texts) + b"\n" * rng.choice((0, 1, 1, 1))


def yaml_file(rng: Random, *documents: Any) -> bytes:
    """A YAML file with mistakes in its values, or in its text."""
    chance = rng.random()
    if chance < 0.6:
        try:
            return yaml.safe_dump_all([mutated(rng, one) for one in documents], allow_unicode=True).encode(
                "utf-8", "replace"
            )
        except RecursionError:
            return b"a: " + b"[" * 1000
    text = yaml.safe_dump_all(documents, allow_unicode=True)
    if chance < 0.8:
        extra = rng.choice((
            "[" * 1000, "{a: " * 1000, "a: &a [*a]\n", "? ? ?\n", "!!python/object/apply:os.system [ls]\n",
            "steps: 1:30\n", "x: 2024-13-45\n", "<<: 5\n", "a: !!binary x\n", "- - - -\n", "%YAML 9\n---\n", "5: 5\n",
            "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: &d [*c,*c]\ne: [*d,*d]\n", "2024-01-01: 1\n", "[1, 2]: 3\n",
        ))  # fmt: skip
        return (extra + text if rng.random() < 0.5 else text + extra).encode()
    return mutated_bytes(rng, text.encode())


def safetensors_file(rng: Random, data: bytes) -> bytes:
    """A safetensors file with mistakes in its header, or in its bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, data)
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    match rng.randrange(5):
        case 0:
            header = mutated(rng, header)
        case 1:  # another type, mostly of the right number of bytes
            kind, width = rng.choice(DTYPES)
            begin, end = header[name]["data_offsets"]
            shape = [int((end - begin) / width)] if rng.random() < 0.8 else header[name]["shape"]
            header[name] |= {"dtype": kind, "shape": shape}
        case 2:
            shape = header[name]["shape"]
            shapes = ([1, *shape], [*shape, 1], shape[::-1], [math.prod(shape)], [], [0, *shape], [-1], [10**12], [1.5])
            header[name]["shape"] = rng.choice(shapes)
        case 3:
            number = rng.choice(("0", "7", "99", "12345678", "99999999999", "9" * 5000))
            header[re.sub(r"\d+", number, name)] = header.pop(name)
        case _:
            header[rng.choice(ODD_TEXTS)] = header.pop(name)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def spoil_file(rng: Random, file: Path, write: Callable[[Random], bytes]) -> None:
    """Replaces a file: mostly by what ``write`` makes, seldom by a folder, a link to itself, or nothing."""
    remove(file)
    chance = rng.random()
    if chance < 0.02:
        file.symlink_to(file.name)
    elif chance < 0.04:
        file.mkdir()
    elif chance > 0.02 + 0.04:
        file.write_bytes(write(rng))


def remove(file: Path) -> None:
    """Removes a file, a link or a folder."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
