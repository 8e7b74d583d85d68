"""What JSON and YAML files may hold: descriptions, and the errors that name what does not fit."""

import json
import math
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax.runtime.documents import (
    MAX_DEPTH,
    Digits,
    FileName,
    FileText,
    Length,
    Misfit,
    Range,
    check,
    fit,
    parse_json,
    parse_yaml,
    words,
)
from dreamstyler_jax.runtime.errors import UserError


class Note(TypedDict):
    text: str


class Document(TypedDict):
    steps: Annotated[int, Range(1, 8)]
    rate: NotRequired[float]
    notes: NotRequired[list[Note | str]]
    sides: NotRequired[int | Annotated[tuple[int, ...], Length(1, 2)]]
    files: NotRequired[dict[str, FileName]]
    kind: NotRequired[Literal["a", "b", 3]]
    tokens: NotRequired[dict[Annotated[str, Digits()], Any]]


def test_what_is_described_comes_back_with_tuples_and_without_null_for_a_default():
    document = {"steps": 8, "rate": None, "sides": [3, 4], "files": {"x": "a/b.png"}, "kind": 3, "other": [None]}
    expected = {"steps": 8, "sides": (3, 4), "files": {"x": "a/b.png"}, "kind": 3, "other": [None]}
    assert check(document, Document, "x.json") == expected
    assert document["rate"] is None, "the document itself stays as it is"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "it should be an object with the key 'steps', not {}"),
        ([], "it should be an object, not []"),
        ({"steps": True}, "steps should be a whole number from 1 to 8, not true"),
        ({"steps": 1.0}, "steps should be a whole number from 1 to 8, not 1.0"),
        ({"steps": 9}, "steps should be a whole number from 1 to 8, not 9"),
        ({"steps": None}, "steps should be a whole number from 1 to 8, not null"),
        ({"steps": 1, "rate": math.inf}, "rate should be a finite number, not Infinity"),
        ({"steps": 1, "rate": 10**400}, "rate should be a finite number, not 1000"),
        ({"steps": 1, "notes": ["a", {"text": 5}]}, "notes[1].text should be a text, not 5"),
        ({"steps": 1, "notes": [5]}, "notes[0] should be an object or a text, not 5"),
        ({"steps": 1, "sides": []}, "sides should be a whole number or a list of 1 to 2 entries, not []"),
        ({"steps": 1, "sides": [1, "b"]}, "sides[1] should be a whole number, not \"b\""),
        ({"steps": 1, "files": {"x": "../b"}}, "files.x should be a text that names a file inside its folder, not"),
        ({"steps": 1, "kind": "c"}, "kind should be one of a, b, 3, not \"c\""),
        ({"steps": 1, "kind": 3.0}, "kind should be one of a, b, 3, not 3.0"),
        ({"steps": 1, "tokens": {"x": 1}}, "tokens.x should be a text of at most nine digits, not \"x\""),
    ],
)  # fmt: skip
def test_what_is_not_as_described_is_refused_by_its_key(document, problem):
    with pytest.raises(UserError) as caught:
        check(document, Document, "x.json", "ask Ann")
    assert str(caught.value).startswith(f"x.json is damaged, {problem}")
    assert str(caught.value).endswith("; ask Ann") and len(str(caught.value)) < 250


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["steps", "notes", "a"]), inner),
)


@given(JSON)
def test_any_document_fits_or_is_refused_as_what_it_is_not(document):
    for shape in (Document, list[Note], dict[str, int], int | None, tuple[float, ...], FileText):
        try:
            fitted = fit(document, shape)
        except Misfit as misfit:
            assert str(misfit) and words(shape)
        else:
            assert fit(fitted, shape) == fitted or document != document, "what fits, fits again"


@pytest.mark.parametrize(
    ("name", "inside", "possible"),
    [
        ("a.png", True, True),
        ("images/a.png", True, True),
        ("images/../a.png", False, True),
        ("..\\a.png", False, True),
        ("/a.png", False, True),
        ("", False, True),
        ("a\0b", False, False),
        ("a" * 256, False, False),
        ("a" * 255, True, True),
        ("é" * 128, False, False),
        ("a/" * 3000, False, False),
    ],
)
def test_names_of_files_lie_inside_and_can_be_opened(name, inside, possible):
    for shape, allowed in ((FileName, inside), (FileText, possible)):
        if allowed:
            assert fit(name, shape) == name
        else:
            with pytest.raises(Misfit):
                fit(name, shape)


def test_a_document_is_refused_that_is_too_deep_or_refers_to_itself():
    deep: Any = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert parse_json(json.dumps(deep), list[Any], "x.json") == deep
    bomb = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))])
    for text in (json.dumps([deep]), "[" * 900 + "]" * 900, "&a [*a]", "[" * 5000, bomb):
        with pytest.raises(UserError, match=r"^grid\.yaml is (damaged, it is )?nested too deeply.*$"):
            parse_yaml(text, "grid.yaml")
    with pytest.raises(UserError, match=r"^x\.json is damaged, it is nested too deeply"):
        parse_json(json.dumps([deep]), list[Any], "x.json")


def test_yaml_that_is_none_is_refused_and_several_documents_are_read():
    assert parse_yaml("a: 1\n---\nb: [x]\n", "x.yaml") == [{"a": 1}, {"b": ["x"]}]
    assert parse_yaml("a: 1:30\n", "x.yaml", loader=yaml.BaseLoader) == [{"a": "1:30"}]
    for text in ("a: [", "2024-13-45", "\t- a", b"\xff", "a: !!python/name:os.system x"):
        with pytest.raises(UserError, match=r"^x\.yaml (is not YAML|cannot be read)"):
            parse_yaml(text, "x.yaml")
