"""Learned vectors among the words, and what the text encoder makes of them."""

import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax import encoding
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.placeholders import tokenize_with_placeholders
from dreamstyler_jax.stable_diffusion.schedule import stage_of
from dreamstyler_jax.style import Style


def random_style(name, stages, vectors, width, seed=0):
    return Style(name, np.random.default_rng(seed).standard_normal((stages, vectors, width)))


@pytest.fixture(scope="module")
def width(tiny):
    return tiny.networks.text_widths["clip_l"]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 999))
def test_joined_tables_show_each_styles_vectors_at_every_timestep(stages_a, stages_b, vectors, t):
    a, b = random_style("a", stages_a, vectors, 4), random_style("b", stages_b, 2, 4, seed=1)
    table = encoding.join_tables({"a": a, "b": b})["clip_l"]
    starts = encoding.stage_starts({"a": a, "b": b})
    assert table.shape == (len(starts), vectors + 2, 4) and len(starts) < stages_a + stages_b
    row = table[sum(stage_of(t, start.denominator) >= start.numerator for start in starts) - 1]
    np.testing.assert_array_equal(row[:vectors], a.tables["clip_l"][stage_of(t, stages_a)])
    np.testing.assert_array_equal(row[vectors:], b.tables["clip_l"][stage_of(t, stages_b)])


def test_the_tables_of_every_text_encoder_are_joined():
    one, other = random_style("a", 2, 1, 4).tables["clip_l"], random_style("b", 3, 2, 4, seed=1).tables["clip_l"]
    a = Style("a", {"clip_l": one, "clip_g": one[..., :3]})
    b = Style("b", {"clip_g": other[..., :3], "clip_l": other})
    joined = encoding.join_tables({"a": a, "b": b})
    expected = encoding.join_tables({"a": Style("a", one), "b": Style("b", other)})["clip_l"]
    assert set(joined) == {"clip_l", "clip_g"}
    np.testing.assert_array_equal(joined["clip_l"], expected)
    np.testing.assert_array_equal(joined["clip_g"], expected[..., :3])


def test_splice_replaces_the_marked_positions_only():
    rng = np.random.default_rng(0)
    embeddings, vectors = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 2, 3))
    slots = np.array([[-1, 0, 1, -1, 0], [1, -1, -1, -1, -1]])
    spliced = encoding.splice(jnp.float32(embeddings), jnp.asarray(slots), jnp.float32(vectors))
    expected = embeddings.copy()
    for b, position in np.argwhere(slots >= 0):
        expected[b, position] = vectors[b, slots[b, position]]
    np.testing.assert_array_equal(spliced, expected.astype(np.float32))
    assert encoding.splice(jnp.bfloat16(embeddings), jnp.asarray(slots), jnp.float32(vectors)).dtype == jnp.bfloat16


def embedding_of(model, word):
    """The mean vector of a word's tokens, from the weights themselves."""
    table = model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    return np.asarray(table)[model.tokenizer.words(word)].mean(0)


def test_vectors_start_as_words(tiny, width):
    assert len(tiny.tokenizer.words("zebra")) > 1, "a word of several tokens"
    for word in ("painting", "zebra"):
        tables = encoding.initial_tables(tiny, [word] * 3, 2)
        assert tables.keys() == tiny.networks.text_widths.keys()
        table = tables["clip_l"]
        assert (table.shape, table.dtype) == ((3, 2, width), np.float32)
        np.testing.assert_allclose(table, np.broadcast_to(embedding_of(tiny, word), table.shape), rtol=1e-6)
    several = encoding.initial_tables(tiny, ["painting sea", "zebra"], 3)["clip_l"]
    for stage, words in enumerate([("painting", "sea", "sea"), ("zebra",) * 3]):
        np.testing.assert_allclose(several[stage], [embedding_of(tiny, word) for word in words], rtol=1e-6)


def test_tokens_are_those_of_each_prompt(tiny):
    texts, vectors = ["a house by {gogh}", "{sea}, {gogh}"], {"gogh": 2, "sea": 1}
    tokens = encoding.tokenize(tiny.tokenizers, texts, vectors)["clip_l"]
    for text, ids, slots in zip(texts, tokens.ids, tokens.slots, strict=True):
        expected_ids, expected_slots, _ = tokenize_with_placeholders(tiny.tokenizer, text, vectors)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(slots, expected_slots)
    tokens = encoding.tokenize(tiny.tokenizers, ["a house"], vectors)["clip_l"]
    assert tokens.ids.shape == (1, tiny.tokenizer.max_length)
    with pytest.raises(UserError, match="has no placeholder"):
        encoding.tokenize(tiny.tokenizers, ["a house"], vectors, required=True)


def states_by_hand(model, prompt, styles, stage_of_style):
    """The text encoder's states of one prompt, with the vectors put among the words one by one."""
    encoder = nnx.merge(model.networks.text_encoder, model.params["text_encoder"])
    tables = np.concatenate([style.tables["clip_l"][stage_of_style[name]] for name, style in styles.items()])
    counts = {name: style.vectors for name, style in styles.items()}
    ids, slots, _ = tokenize_with_placeholders(model.tokenizer, prompt, counts)
    embeddings = np.array(encoder.embed_tokens(jnp.asarray(ids)[None])[0])
    for position, slot in enumerate(slots):
        if slot >= 0:
            embeddings[position] = tables[slot]
    return encoder.encode(jnp.asarray(embeddings)[None], jnp.asarray(ids)[None]).states[0]


def test_each_stage_encodes_its_vectors(tiny, width):
    styles = {"gogh": random_style("gogh", 2, 2, width), "sea": random_style("sea", 3, 1, width, 1)}
    texts = ["a house in the style of {gogh}", "{sea} by {gogh}", "a house"]
    conditioning = encoding.encode(tiny, texts, styles)
    stages = [(0, 0), (0, 1), (1, 1), (1, 2)]  # of both styles, from 0, a third, a half and two thirds of the noise on
    assert conditioning.states.shape == (3, 4, tiny.tokenizer.max_length, width)
    for text, rows in zip(texts, conditioning.states, strict=True):
        for (of_gogh, of_sea), row in zip(stages, rows, strict=True):
            expected = states_by_hand(tiny, text, styles, {"gogh": of_gogh, "sea": of_sea})
            np.testing.assert_allclose(row, expected, atol=2e-5)
    plain = conditioning.states[2]
    np.testing.assert_array_equal(plain, np.broadcast_to(plain[:1], plain.shape))


def test_prompts_without_a_style_have_one_stage_or_equal_stages_if_styles_are_given(tiny, width):
    plain = encoding.encode(tiny, ["a house", ""], {}).states
    assert plain.shape == (2, 1, tiny.tokenizer.max_length, width)
    encoder = nnx.merge(tiny.networks.text_encoder, tiny.params["text_encoder"])
    np.testing.assert_allclose(plain[:, 0], encoder(jnp.asarray(tiny.tokenizer(["a house", ""]))).states, atol=2e-5)
    with_style = encoding.encode(tiny, ["a house", ""], {"gogh": random_style("gogh", 6, 1, width)}).states
    assert with_style.shape[:2] == (2, 6), "so that all prompts of a grid can share one array"
    np.testing.assert_allclose(with_style, np.broadcast_to(plain, with_style.shape), atol=2e-5)


def test_styles_and_words_are_arguments_of_the_compiled_program(tiny, width):
    def encode(text, seed):
        return encoding.encode(tiny, [text, "", "a"], {"gogh": random_style("gogh", 5, 1, width, seed)}).states

    with compilations("encode_tokens") as programs:
        first = encode("a house in the style of {}", 0)
    assert len(programs) == 1
    with compilations() as programs:
        others = encode("a house in the style of {}", 1), encode("{} by the sea", 0)
    assert not programs
    assert not any(np.array_equal(first, other) for other in others)


def test_unusable_prompts_and_styles_are_refused(tiny, width):
    style = random_style("gogh", 1, 1, width)
    long = "a house " * tiny.tokenizer.max_length
    for texts, styles, message in [
        (["a house by {}"], {"gogh": random_style("gogh", 1, 1, width + 1)}, "vectors of the style 'gogh'"),
        (
            ["a house by {}"],
            {"gogh": Style("gogh", {"clip_g": np.zeros((1, 1, width))})},
            "vectors of the style 'gogh'",
        ),
        (["a house by {monet}"], {"gogh": style}, r"unknown style \{monet\}: write one of \{gogh\}"),
        (["a house by {}"], {}, "no style was given"),
        (["a house", long + "by {}"], {"gogh": style}, r"beyond the 24-token window"),
        (["a house by {"], {"gogh": style}, "lone '{'"),
    ]:
        with pytest.raises(UserError, match=message):
            encoding.encode(tiny, texts, styles)
