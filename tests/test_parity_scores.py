"""CLIP's features and probabilities equal those of transformers, for its files and for pictures of any size."""

import jax
import numpy as np
import pytest
import torch
import transformers
from clip_vocabulary import write_clip_tokenizer
from parity_tools import randomised
from PIL import Image

from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.evaluation.encoders import Preprocessor
from dreamstyler_jax.evaluation.scores import leakage_score
from dreamstyler_jax.runtime import images

TOLERANCE = 1e-4  # for features of unit length
TEXT = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=49408,
    bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
)  # fmt: skip
VISION = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=8
)
PREPROCESSING = {
    "OpenAI": dict(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
    "larger before cropping, other statistics": dict(
        size={"shortest_edge": 31}, crop_size={"height": 24, "width": 24}, resample=Image.Resampling.BILINEAR,
        image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4],
    ),
}  # fmt: skip
TEXTS = [
    "A painting of a red house by the sea", "two dogs, 3 cats & a café!", "", " ".join(["a very long description"] * 40)
]  # fmt: skip


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


@pytest.fixture(scope="module", params=PREPROCESSING)
def reference(request, tmp_path_factory):
    """A model and a processor of transformers, and the folder that they are saved in."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    model = randomised(transformers.CLIPModel(config))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(write_clip_tokenizer(folder / "vocabulary"))
    processor = transformers.CLIPImageProcessorPil(**PREPROCESSING[request.param])
    processor = transformers.CLIPProcessor(processor, tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


def photographs():
    """Smooth shapes with grain: wide, tall, smaller than CLIP's pictures, and of the same size."""
    rng = np.random.default_rng(0)
    result = []
    for width, height in ((53, 37), (41, 97), (15, 22), (24, 24), (31, 31)):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height), 3)
        grain = rng.normal(0, 12, (height, width, 3))
        result.append(Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)))
    return result


def unit(features):
    return (features / features.norm(dim=-1, keepdim=True)).numpy()


def test_picture_features(reference):
    model, processor, folder = reference
    pictures = photographs()
    expected = model.get_image_features(**processor(images=pictures, return_tensors="pt")).pooler_output
    ours = Clip.load(folder).picture_features([images.to_array(picture) for picture in pictures])
    np.testing.assert_allclose(ours, unit(expected), atol=TOLERANCE, rtol=0)


def test_text_features(reference):
    model, processor, folder = reference
    inputs = processor(text=TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    expected = model.get_text_features(**inputs).pooler_output
    ours = Clip.load(folder).text_features(TEXTS)
    np.testing.assert_allclose(ours, unit(expected), atol=TOLERANCE, rtol=0)


def test_leakage_is_the_probability_that_the_model_gives(reference):
    model, processor, folder = reference
    pictures, texts = photographs(), TEXTS[:2]
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    expected = 100 * model(**inputs).logits_per_image.softmax(-1)[:, 1]
    clip = Clip.load(folder)
    prompt, training_prompt = clip.text_features(texts)
    features = clip.picture_features([images.to_array(picture) for picture in pictures])
    ours = leakage_score(features, prompt, training_prompt, clip.logit_scale)
    np.testing.assert_allclose(ours, expected, atol=0.05, rtol=0)  # of 100; the logit scale enlarges differences


def test_older_files_give_the_same_preprocessing(reference, tmp_path):
    _, processor, folder = reference
    processor.image_processor.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["preprocessor_config.json"]
    assert Preprocessor.load(tmp_path, 24) == Clip.load(folder).preprocessor
