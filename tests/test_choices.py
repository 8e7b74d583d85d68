"""Choices in prompts: alternatives, several of them, lines of files, and what seeds draw."""

import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax import choices, prompts
from dreamstyler_jax.choices import RANDOM, Template, resolve
from dreamstyler_jax.foreign_syntax import foreign_syntax, warn_of_foreign_syntax
from dreamstyler_jax.runtime.errors import UserError

PIECES = ["a house", " ", ", ", "in the style of ", "{}", "{gogh}", "{{x}}", "(a:1.2)", "{a|b}", "{|c|d}", "{2$$a|b|c}"]


def expand(prompt, wildcards=""):
    return Template.read(prompt, wildcards).versions()


@pytest.fixture(scope="module")
def wildcards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wildcards")
    (folder / "animal.txt").write_text("# a comment\ncat\n\n{big|small} dog\n__birds/song__\n")
    (folder / "birds").mkdir()
    (folder / "birds/song.txt").write_text("wren\nrobin by {}\n")
    (folder / "loop.txt").write_text("a __back__\n")
    (folder / "back.txt").write_text("__loop__\n")
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    return folder


@pytest.mark.parametrize(
    ("prompt", "versions"),
    [
        ("a {dog|cat} in the style of {}", ["a dog in the style of {}", "a cat in the style of {}"]),
        ("a { red | small  } dog, {gogh}", ["a red dog, {gogh}", "a small dog, {gogh}"]),
        ("a {|red} dog{|, at night} by {}", ["a dog by {}", "a dog, at night by {}", "a red dog by {}",
                                             "a red dog, at night by {}"]),
        ("{big|} {a|b}", ["big a", "big b", "a", "b"]),
        ("{dog|dog} by {}", ["dog by {}"]),
        ("a {{dog|cat}} by {}", ["a {{dog|cat}} by {}"]),
        ("no  alternatives \n by {}", ["no alternatives by {}"]),
        ("{}", ["{}"]),
        ("", [""]),
        ("({red|blue}:1.2)", ["(red:1.2)", "(blue:1.2)"]),
        ("{2$$a|b|c}", ["a, b", "a, c", "b, a", "b, c", "c, a", "c, b"]),
        ("{1-2$$a|b}", ["a", "b", "a, b", "b, a"]),
        ("{-2$$ and $$a|b}", ["a", "b", "a and b", "b and a"]),
        ("{0-1$$a|b} x", ["x", "a x", "b x"]),
        ("{2-$$a|b}", ["a, b", "b, a"]),
        ("a __animal__", ["a __animal__"]),
    ],
)  # fmt: skip
def test_all_versions(prompt, versions):
    assert expand(prompt) == versions


def test_lines_of_files(wildcards):
    animals = ["cat", "big dog", "small dog", "wren", "robin by {}"]
    assert expand("a __animal__", wildcards) == [f"a {animal}" for animal in animals]
    assert expand("{2$$__birds/song__}", wildcards) == ["wren, robin by {}", "robin by {}, wren"]
    assert expand("{__birds/song__|owl}", wildcards) == ["wren", "robin by {}", "owl"]


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("a {dog|cat", r"lone '\{'"),
        ("{a|b}" * 40, "more than 10000 versions: give fewer"),
        ("{9$$a|b|c|d|e|f|g|h|i}", "more than 10000 versions"),
        ("{3$$a|b}", "no more than there is, 2"),
        ("{x$$a|b}", "should read like"),
        ("{2-1$$a|b}", "should read like"),
        ("{1$$a$$b$$c|d}", "should read like"),
        ("__animals__", r"no .*animals\.txt for __animals__; did you mean animal\?"),
        ("__loop__", "__loop__ leads back to itself, by way of loop, back"),
        ("__empty__", "holds no line"),
        ("__binary__", "not UTF-8"),
    ],
)
def test_choices_that_cannot_be_made(prompt, complaint, wildcards):
    with pytest.raises(UserError, match=complaint):
        expand(prompt, wildcards)


def test_as_many_versions_as_are_allowed():
    assert len(expand(" ".join(["{a|b|c|d|e|f|g|h|i|j}"] * 4))) == choices.MAX_VERSIONS


@given(st.lists(st.sampled_from(PIECES), max_size=5).map("".join), st.integers(0, 99))
def test_versions_are_prompts_without_choices_and_with_all_placeholders(prompt, seed):
    sizes = {"a|b": 2, "|c|d": 3, "2$$a|b|c": 6}
    groups = [sizes[name] for name in prompts.names_in(prompt) if "|" in name]
    names = [name for name in prompts.names_in(prompt) if "|" not in name]
    versions = expand(prompt)
    assert len(set(versions)) == len(versions) <= math.prod(groups)
    assert Template.read(prompt).drawn(seed) in versions
    for version in versions:
        assert prompts.names_in(version) == names
        assert expand(version) == [version]


def test_seeds_draw_always_the_same_and_in_the_end_everything(wildcards):
    """Numbers that stay: a grid is painted again with the same prompts."""
    template = Template.read("a {red|blue|gold} __animal__, {2$$x|y|z}", wildcards)
    assert [template.drawn(seed) for seed in range(3)] == [template.drawn(seed) for seed in range(3)]
    assert template.drawn(0) == "a gold cat, y, z"
    drawn = [template.drawn(seed) for seed in range(400)]
    assert {text.split()[1] for text in drawn} == {"red", "blue", "gold"}
    assert len({text.split(", ", 1)[1] for text in drawn}) == 6
    houses, dogs = Template.read("{a|b} house"), Template.read("{a|b} dog")
    assert all(houses.drawn(seed)[0] == dogs.drawn(seed)[0] for seed in range(9))


def test_prompts_of_each_seed():
    given = {"": ["{a|b}", "c"], "x": ["d"]}
    assert resolve(given, "fog  {{", [3, 5]) == [({"": ["a", "b", "c"], "x": ["d"]}, "fog  {{", [3, 5])]
    drawn = resolve(given, "", [3, 5], RANDOM)
    assert [one.seeds for one in drawn] == [[3], [5]]
    assert all(texts[""][0] in "ab" and texts[""][1] == "c" and texts["x"] == ["d"] for texts, _, _ in drawn)
    assert resolve({"": ["c"]}, "", [3, 5], RANDOM) == [({"": ["c"]}, "", [3, 5])]
    with pytest.raises(UserError, match="choices: must be one of all, random"):
        resolve(given, "", [1], "randm")


def test_negative_prompts_have_choices_as_well(wildcards):
    every = resolve({"": ["{a|b}"]}, "{fog|a __animal__}", [3, 5], wildcards=wildcards)
    assert [one.negative_prompt for one in every] == ["fog", *expand("a __animal__", wildcards)]
    assert all(one.prompts == {"": ["a", "b"]} and one.seeds == [3, 5] for one in every)
    drawn = resolve({"": ["{red|blue}"]}, "{red|blue}", range(40), RANDOM)
    assert drawn == resolve({"": ["{red|blue}"]}, "{red|blue}", range(40), RANDOM)
    assert len({(one.prompts[""][0], one.negative_prompt) for one in drawn}) == 4, "both are drawn alike"
    assert {one.negative_prompt for one in resolve({"": ["c"]}, "{red|blue}", range(40), RANDOM)} == {"red", "blue"}


def test_syntax_of_other_programs_is_named_once():
    foreign = ["BREAK", "<lora:ink:0.8>", "[cat:dog:0.5]", "[cat|dog]", "__animal__", "embedding:gogh", "AND", "3::"]
    text = "a house BREAK <lora:ink:0.8> [cat:dog:0.5], [cat|dog] __animal__ embedding:gogh AND a {3::x|y}"
    assert foreign_syntax([text, text]) == foreign
    with pytest.warns(UserWarning, match="BREAK, <lora:ink:0.8>, .* and 3 more: only other programs") as caught:
        warn_of_foreign_syntax([text, "BREAK"])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_foreign_syntax(["A (painting:1.2) of [fog] and a break in the style of {gogh}", r"at 16:9, \[a\] x_y_"])
