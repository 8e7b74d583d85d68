"""Weights and windows of prompts against the formula of diffusers' community pipeline ``lpw_stable_diffusion``."""

import numpy as np
import pytest
import torch
from parity_tools import relative_error
from tiny_model import WINDOW
from transformers import CLIPTextModel

from dreamstyler_jax.encoding import encode
from dreamstyler_jax.stable_diffusion.placeholders import Reading

PIECES = [(" a painting of a ", 1), ("red", 1.6), (" house by the ", 1), ("sea at sunset", 0.4), (" in the snow", 1)]
PROMPT = " a painting of a (red:1.6) house by the (sea at sunset:0.4) in the snow"


def reference(folder, tokenizer, repeats, windows):
    """The text states of the prompt, so many times, by transformers, weighted as the pipeline does it."""
    tokens = [(word, weight) for text, weight in PIECES * repeats for word in tokenizer.words(text)]
    room = WINDOW - 2
    chunks = [tokens[start : start + room] for start in range(0, windows * room, room)]
    ids = torch.tensor(np.stack([tokenizer.frame([word for word, _ in chunk]) for chunk in chunks]))
    weights = torch.ones(windows, WINDOW)
    for row, chunk in zip(weights, chunks, strict=True):
        row[1 : 1 + len(chunk)] = torch.tensor([weight for _, weight in chunk])
    with torch.no_grad():
        states = CLIPTextModel.from_pretrained(folder / "text_encoder")(ids).last_hidden_state
    states = states.reshape(1, windows * WINDOW, -1)
    mean = states.float().mean(dim=(-2, -1))
    weighted = states * weights.reshape(1, -1, 1)
    return weighted * (mean / weighted.float().mean(dim=(-2, -1)))[:, None, None]


@pytest.mark.parametrize(("repeats", "windows"), [(1, 1), (2, 2), (2, 3)])
def test_weighted_states(tiny, tiny_folder, repeats, windows):
    ours = encode(tiny, ["".join([PROMPT] * repeats)], {}, Reading(True, windows)).states[:, 0]
    assert relative_error(ours, reference(tiny_folder, tiny.tokenizer, repeats, windows)) < 1e-5
