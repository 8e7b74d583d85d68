"""Prompts: placeholders, and the prompts without their style or their context."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax import prompts
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.placeholders import parse_prompt
from dreamstyler_jax.style import Style

# prompt, without its style, without its context
WORDINGS = [
    ("A painting of a house in the style of {}", "A painting of a house", "A painting in the style of {}"),
    ("A painting of a house, in the style of {}", "A painting of a house", "A painting in the style of {}"),
    ("A painting of a house in the style of {gogh}", "A painting of a house", "A painting in the style of {gogh}"),
    ("A painting of men by the sea in style of {}", "A painting of men by the sea", "A painting in the style of {}"),
    ("A PAINTING OF A HOUSE IN THE STYLE OF {}", "A PAINTING OF A HOUSE", "A PAINTING in the style of {}"),
    ("A painting of a house\nin the  style of {} .", "A painting of a house.", "A painting in the style of {}"),
    ("A painting in the style of {}", "A painting", "A painting in the style of {}"),
    ("In the style of {}, a house", "a house", "A painting in the style of {}"),
    ("in the style of {}: a house", "a house", "A painting in the style of {}"),
    ("a house, painted by {van gogh}, at night", "a house, at night", "A painting in the style of {van gogh}"),
    ("a dog by {}", "a dog", "A painting in the style of {}"),
    ("a dog by the river by {}", "a dog by the river", "A painting in the style of {}"),
    ("a dog inspired by {}", "a dog", "A painting in the style of {}"),
    ("a castle in the manner of {x} & {y}", "a castle", "A painting in the style of {x}, {y}"),
    ("a house in the {} style at night", "a house at night", "A painting in the style of {}"),
    ("a house with a {} style", "a house", "A painting in the style of {}"),
    ("a house in {}", "a house", "A painting in the style of {}"),
    ("a house, {}-style", "a house", "A painting in the style of {}"),
    ("A house ({})", "A house", "A painting in the style of {}"),
    ("A {} painting of a dog", "A painting of a dog", "A painting in the style of {}"),
    ("a red house in the art style of {}", "a red house", "A painting in the style of {}"),
    ("a house in the late painting style of {}, at night", "a house, at night", "A painting in the style of {}"),
    ("a red house, {}'s style", "a red house", "A painting in the style of {}"),
    ("a red house in {}\u2019s art style", "a red house", "A painting in the style of {}"),
    ("a red house as if painted by {}", "a red house", "A painting in the style of {}"),
    ("a red house, as though it were drawn by {}", "a red house", "A painting in the style of {}"),
    ("an etching by {}", "an etching", "an etching in the style of {}"),
    ("a cat sitting by {}", "a cat sitting", "A painting in the style of {}"),
    ("{}", "", "A painting in the style of {}"),
    ("{} a dog", "a dog", "A painting in the style of {}"),
    ("a dog, {}, at night", "a dog, at night", "A painting in the style of {}"),
    ("a baby {} swimming", "a baby swimming", "A painting in the style of {}"),
    # several styles
    ("a house in the style of {a}, {b} and {c}", "a house", "A painting in the style of {a}, {b}, {c}"),
    ("a house in the style of {a} {b}", "a house", "A painting in the style of {a}, {b}"),
    ("a cat by {a}, a dog in the style of {b}", "a cat, a dog", "A painting in the style of {a}, {b}"),
    # a learned object
    ("A painting of a {dog} in the style of {gogh}", "A painting of a {dog}", "A painting in the style of {gogh}"),
    ("a {my_cat} standing by {my_house} in the style of {gogh}", "a {my_cat} standing by {my_house}",
     "A painting in the style of {gogh}"),
    ("A painting of a {dog}", "A painting", "A painting in the style of {dog}"),
    # openings
    ("An oil painting of a man in the style of {}", "An oil painting of a man", "An oil painting in the style of {}"),
    ("portrait of a man, by {}", "portrait of a man", "portrait in the style of {}"),
    ("a child's drawing by {}", "a child's drawing", "a child's drawing in the style of {}"),
    ("a bowl of fruit in the style of {}", "a bowl of fruit", "A painting in the style of {}"),
    ("a cat beside a painting of a ship by {}", "a cat beside a painting of a ship", "A painting in the style of {}"),
    # literal braces
    ("a {{curly}} dog in the style of {}", "a {{curly}} dog", "A painting in the style of {}"),
    ("a {{}} by {}", "a {{}}", "A painting in the style of {}"),
    # no style
    ("A drawing of a house, ", "A drawing of a house, ", "A drawing"),
    ("a {{red}} house", "a {{red}} house", "A painting"),
    ("", "", "A painting"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "context", "style"), WORDINGS)
def test_context_only_and_style_only(prompt, context, style):
    assert prompts.context_only(prompt) == context
    assert prompts.style_only(prompt) == style


def test_whether_a_prompt_says_what_its_style_is():
    assert all(map(prompts.calls_a_style, ("a house in the style of {}", "a house by {}", "a house, {}'s style")))
    assert not any(map(prompts.calls_a_style, ("a house, {}", "a {} house", "a house like {}", "a house")))


PIECES = [
    *"ab ,.()",
    "{}",
    "{x}",
    "{{",
    "}}",
    " in the style of ",
    " by ",
    " style ",
    " and ",
    " the ",
    "a painting of ",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_both_parts_of_any_prompt_are_prompts(prompt):
    names = [part for part in parse_prompt(prompt) if not isinstance(part, str)]
    context, style = prompts.context_only(prompt), prompts.style_only(prompt)
    left = [part for part in parse_prompt(context) if not isinstance(part, str)]
    shown = [part for part in parse_prompt(style) if not isinstance(part, str)]
    assert sorted(map(str, left + shown)) == sorted(map(str, names)), "each placeholder is in exactly one of them"
    assert bool(shown) == bool(names)


def test_names_in_a_prompt_and_a_name_for_placeholders_without_one():
    assert prompts.names_in("a {} by { van gogh }, {{not}} {}") == ["", "van gogh", ""]
    assert prompts.name_placeholder("a {} by {gogh}, {{not}} {}", "wave") == "a {wave} by {gogh}, {{not}} {wave}"
    assert prompts.name_placeholder("a {} by {gogh}", "") == "a {} by {gogh}"
    assert prompts.name_placeholder("a {} by {gogh}, {b@7}, {{}}", "wave", 100) == (
        "a {wave@100} by {gogh@100}, {b@7}, {{}}"
    )
    assert prompts.name_placeholder("{} by {gogh}", "wave@20", 100) == "{wave@20} by {gogh@100}"


def test_the_prompt_in_the_file_next_to_a_picture(tmp_path):
    picture, file = tmp_path / "boat.png", tmp_path / "boat.txt"
    assert prompts.sidecar_prompt(picture) is None
    file.write_bytes("\ufeffa boat\r\n  by the sea \n in the style of {}\n".encode())
    assert (
        prompts.sidecar_prompt(picture)
        == prompts.sidecar_prompt(str(picture))
        == ("a boat by the sea in the style of {}")
    )
    file.write_text(" \n")
    with pytest.raises(UserError, match=r"boat\.txt is empty: write into it what boat\.png shows"):
        prompts.sidecar_prompt(picture)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"cannot read .*boat\.txt, the prompt of boat\.png: it is not UTF-8 text"):
        prompts.sidecar_prompt(picture)
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*boat\.txt, the prompt of boat\.png: Is a directory"):
        prompts.sidecar_prompt(picture)


def test_prompts_that_ignore_the_styles_given_are_refused():
    styles = {"gogh": Style("gogh", np.zeros((1, 1, 4)))}
    with pytest.raises(UserError, match=r"the prompt 'a \{\{\}\} house' has no placeholder: write \{\} where"):
        prompts.require_placeholders(["a house by {}", "a {{}} house"], styles)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompts.require_placeholders(["a house by {}", "a house by {gogh}"], styles)
        prompts.require_placeholders(["a house"], {})


@pytest.mark.parametrize(
    "many",
    [" " * 20_000, "\t" * 20_000, "{a}, and " * 5000, "{a} & " * 5000, "{}" * 10_000, "in the style of " * 2000,
     "of a " * 10_000, "( )[ ]" * 10_000, "(" * 20_000 + ")" * 20_000, "(a:1)[b]" * 3000, f":{'1' * 20_000}"],
)  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.timeout(30)  # hours where the time doubles with every word, minutes where it grows by a square
def test_the_time_to_take_a_prompt_apart_grows_with_its_length_alone(many, weighted):
    prompts.guidance_prompts(f"A painting of a house in {many}{{x}}", weighted=weighted)
    prompts.context_only(f"in {{x}} {many}of a, a", weighted=weighted)
    prompts.calls_a_style(f"a house, {many}", weighted=weighted)
