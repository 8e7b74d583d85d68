"""A CLIP with random weights, small enough to compile in seconds, as a folder on disk."""

import json
from pathlib import Path

from tiny_model import CAPTIONS, WINDOW, with_random_vectors

from dreamstyler_jax.stable_diffusion.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.weights import init_model, save_model

SIZE = 16  # side of the pictures in pixels
PREPROCESSING = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}, "resample": 3}


def write_tiny_clip(folder: Path) -> Path:
    """Writes model, tokenizer and preprocessor."""
    tokenizer = Tokenizer.train(CAPTIONS * 20, 560, max_length=WINDOW)
    text = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=32, projection_dim=8,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=WINDOW,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, projection_dim=8, num_hidden_layers=1, num_attention_heads=2,
        image_size=SIZE, patch_size=4,
    )  # fmt: skip
    config = CLIPConfig(text, vision, projection_dim=8)
    params = with_random_vectors(init_model(CLIPModel, config)[1])
    params["text_projection"]["kernel"] *= -1  # so that cosines of texts and pictures are positive
    save_model(folder, config, params)
    tokenizer.save(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return folder
