"""Vision-language models of transformers with random weights, small enough to caption in an instant."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

WORDS = (
    "a", "painting", "of", "the", "red", "house", "boat", "by", "sea", "at", "night", "sunset", "in", "snow", "style",
    "watercolor", "with", "and",
)  # fmt: skip
_VISION = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16)
_TEXT = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)


def _pictures() -> BlipImageProcessor:
    return BlipImageProcessor(size={"height": 16, "width": 16})


def write_tiny_blip2(folder: Path) -> Path:
    """A BLIP-2 with OPT, as ``Salesforce/blip2-opt-2.7b`` is."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "</s>", "<unk>"]
    words.train_from_iterator(WORDS * 5, trainers.BpeTrainer(vocab_size=150, special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    processor = Blip2Processor(_pictures(), tokenizer, num_query_tokens=4)
    text = dict(model_type="opt", vocab_size=len(tokenizer), ffn_dim=16, word_embed_proj_dim=8, **_TEXT)
    text |= dict(max_position_embeddings=128, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    config = Blip2Config(
        vision_config={**_VISION, "patch_size": 8},
        qformer_config=dict(encoder_hidden_size=8, intermediate_size=16, vocab_size=10, **_TEXT),
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _save(folder, Blip2ForConditionalGeneration, config, processor)


def write_tiny_blip(folder: Path) -> Path:
    """A BLIP, as ``Salesforce/blip-image-captioning-base`` is."""
    folder.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]))
    tokenizer = BertTokenizer.from_pretrained(folder)
    ids = dict(pad_token_id=0, sep_token_id=3, bos_token_id=5, eos_token_id=3)
    text = dict(vocab_size=len(special) + len(WORDS), intermediate_size=16, encoder_hidden_size=8, **_TEXT, **ids)
    config = BlipConfig(
        vision_config={**_VISION, "patch_size": 8}, text_config={**text, "max_position_embeddings": 128}
    )
    return _save(folder, BlipForConditionalGeneration, config, BlipProcessor(_pictures(), tokenizer))


def _save(folder: Path, model_class, config, processor) -> Path:
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] in ("blip", "blip-2")
    return folder
