"""Style files against the tools they come from: torch and diffusers."""

import sys

import numpy as np
import pytest
import torch
from clip_vocabulary import write_clip_tokenizer
from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.single_files.pickles import PickledSource
from dreamstyler_jax.style import Style

TABLE = np.random.default_rng(0).normal(size=(6, 1, 16)).astype(np.float32)


@pytest.mark.parametrize("legacy", [False, True])
def test_file_of_the_pytorch_release(tmp_path, legacy):
    content = {f"<sks>-T{stage}": torch.nn.Parameter(torch.tensor(TABLE[stage, 0])) for stage in range(6)}
    torch.save(content, tmp_path / "a.bin", _use_new_zipfile_serialization=not legacy)
    loaded = Style.load(tmp_path / "a.bin")
    assert loaded.name == "sks"
    np.testing.assert_array_equal(loaded.tables["clip_l"], TABLE)


def test_textual_inversions_saved_by_torch_are_read_without_it(tmp_path, monkeypatch):
    rows = torch.tensor(TABLE[:2, 0])
    webui = {"name": "x", "step": 250, "sd_checkpoint": "abc", "sd_checkpoint_name": "sd-v1-5"}
    torch.save({"<toy>": rows.bfloat16()}, tmp_path / "diffusers.bin")
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, **webui}, tmp_path / "webui.pt")
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it is an error
    loaded = Style.load(tmp_path / "diffusers.bin")
    assert loaded.name == "toy" and np.array_equal(loaded.tables["clip_l"][0], rows.bfloat16().float().numpy())
    loaded = Style.load(tmp_path / "webui.pt")
    assert (loaded.name, loaded.metadata) == ("x", {"steps": 250, "model": "sd-v1-5"})
    assert np.array_equal(loaded.tables["clip_l"][0], rows.numpy())


@pytest.mark.parametrize("vectors", [1, 2])
def test_exported_with_torch(tmp_path, vectors):
    style = Style("sks", TABLE.reshape(-1, vectors, 16))
    (path,) = style.export(tmp_path / "a.bin")
    content = torch.load(path, weights_only=True)
    assert list(content) == [f"<sks>-T{stage}" for stage in range(style.stages)]
    assert content["<sks>-T1"].shape == ((16,) if vectors == 1 else (2, 16))
    assert np.array_equal(Style.load(path).tables["clip_l"], style.tables["clip_l"])


def test_damaged_and_dangerous_pytorch_files(tmp_path):
    class Dangerous:
        def __reduce__(self):
            return (tmp_path.joinpath("owned").mkdir, ())

    torch.save({"<sks>-T0": Dangerous()}, tmp_path / "dangerous.bin")
    torch.save({"<sks>-T0": torch.ones(4)}, tmp_path / "a.bin")
    data = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "damaged.bin").write_bytes(data[: len(data) // 2])
    for name in ("dangerous", "damaged"):
        with pytest.raises(UserError, match=rf"{name}\.bin: cannot be read") as caught:
            Style.load(tmp_path / f"{name}.bin")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()
    for content in ([torch.ones(4)], {"step": 3}, {}):
        torch.save(content, tmp_path / "a.bin")
        with pytest.raises(UserError, match="no style"):
            Style.load(tmp_path / "a.bin")


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path):
    torch.save({"sea": torch.ones(1, 1).expand(10**5, 10**5)}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 10_000
    with pytest.raises(UserError, match=r"a\.pt: sea is a tensor with more numbers than are stored"):
        Style.load(tmp_path / "a.pt")
    with pytest.raises(UserError, match="sea is a tensor with more numbers than are stored"):
        PickledSource(tmp_path / "a.pt").tensor("sea")


def test_a_file_of_other_things_than_tensors_is_not_called_damaged(tmp_path):
    torch.save(torch.nn.ParameterDict({"sea": torch.ones(1, 8)}), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"holds a torch\S*ParameterDict and not only tensors: save a dictionary"):
        Style.load(tmp_path / "a.pt")


class Host(TextualInversionLoaderMixin):
    """The part of a diffusers pipeline that takes textual inversions."""

    def __init__(self, tokenizer, text_encoder):
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.components = {"tokenizer": tokenizer, "text_encoder": text_encoder}
        self.hf_device_map = None


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    config = CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    tokenizer = CLIPTokenizer.from_pretrained(write_clip_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return Host(tokenizer, CLIPTextModel(config))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("format", ["diffusers", "a1111"])
@pytest.mark.parametrize("vectors", [1, 2])
def test_diffusers_reads_what_is_exported(tmp_path, host, suffix, format, vectors):
    style = Style(f"Sks {suffix}{format}{vectors}", TABLE.reshape(-1, vectors, 16))
    for stage, path in enumerate(style.export(tmp_path / f"a{suffix}", format)):
        token = f"<{style.name}-t{stage}>".lower()
        host.load_textual_inversion(str(path), token=token if format == "a1111" else None)
        ids = host.tokenizer(host.maybe_convert_prompt(f"a {token}", host.tokenizer))["input_ids"][2:-1]
        weight = host.text_encoder.get_input_embeddings().weight[ids].detach().numpy()
        np.testing.assert_array_equal(weight, style.tables["clip_l"][stage])
