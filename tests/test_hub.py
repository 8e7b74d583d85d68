"""Models on the hub, by the lists of files of real repositories: what is fetched, refused and said."""

import contextlib
import json
import logging
import re

import huggingface_hub.constants
import pytest
from hub_server import serving

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.hub import HubName, downloaded_file, resolve_model
from dreamstyler_jax.stable_diffusion.model_files import find_model, find_vae

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
# Stable Diffusion 1.5's repository, of which one variant is about a ninth.
SD15 = [
    ".gitattributes", "README.md", "model_index.json", "v1-inference.yaml", "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors", "feature_extractor/preprocessor_config.json", "safety_checker/config.json",
    "safety_checker/model.safetensors", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors", "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json", "unet/config.json", "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]  # fmt: skip
SMALL = {
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json",
    "vae/config.json",
}  # fmt: skip
# Openjourney's: only pickles, as in 13 of 30 repositories looked at.
PICKLES = [
    "model_index.json", "mdjrny-v4.ckpt", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/pytorch_model.bin", "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json",
    "unet/diffusion_pytorch_model.bin", "vae/config.json", "vae/diffusion_pytorch_model.bin",
]  # fmt: skip
REFINER = [
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors", "tokenizer_2/merges.txt", "tokenizer_2/vocab.json", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
]  # fmt: skip
# openai/clip-vit-large-patch14 as transformers 5 saves it.
CLIP = ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]
INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "sample_size": 64, "cross_attention_dim": 768}
VAE = {"_class_name": "AutoencoderKL", "latent_channels": 4}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's client talks to an imitation, with an empty cache."""
    with serving(tmp_path / "cache", monkeypatch) as server:
        yield server


def repository(names, **contents):
    """Files of these names; the small ones as in Stable Diffusion 1.5, or as given."""
    given = {"model_index.json": INDEX, "unet/config.json": UNET, "vae/config.json": VAE} | contents
    return {name: json.dumps(given[name]).encode() if name in given else name.encode() for name in names}


def find(model, **options):
    """Downloads a model as loading does, up to the point where its weights are there."""
    return resolve_model(model, parts=PARTS, **options)


@pytest.mark.parametrize(
    ("names", "options", "weights"),
    [
        (SD15, {}, {
            "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        }),
        (SD15, {"variant": "fp16"}, {
            "text_encoder/model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
        }),
        (SD15, {"variant": "non_ema"}, {
            "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        }),
        (PICKLES, {"allow_pickle": True}, {
            "text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin",
        }),
    ],
)  # fmt: skip
def test_only_needed_files_are_downloaded(names, options, weights, hub):
    hub.add("owner/model", repository(names))
    folder = find("owner/model", **options)
    small = SMALL.intersection(names)
    assert set(hub.downloaded) == small | weights
    assert len(hub.downloaded) == len(small | weights), "none of them twice"
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == small | weights
    find("owner/model", **options)
    assert len(hub.downloaded) == len(small | weights), "what is here is not downloaded again"


def test_shards_are_downloaded_with_their_index(hub):
    stem = "unet/diffusion_pytorch_model"
    weights = [
        f"{stem}.safetensors.index.json",
        f"{stem}-00001-of-00002.safetensors",
        f"{stem}-00002-of-00002.safetensors",
    ]
    others = [f"{stem}.fp16-00001-of-00002.safetensors", f"{stem}-00001-of-00002.bin"]
    hub.add("owner/model", repository([*(name for name in SD15 if not name.startswith(stem)), *weights, *others]))
    find("owner/model")
    assert [name for name in sorted(hub.downloaded) if name.startswith(stem)] == sorted(weights)


def test_a_clip_of_transformers_5_comes_with_its_tokenizer(hub):
    hub.add("owner/clip", {name: name.encode() for name in [*CLIP, "pytorch_model.bin", "README.md"]})
    resolve_model("owner/clip")
    assert sorted(hub.downloaded) == sorted(CLIP)


@pytest.mark.parametrize(
    ("names", "contents", "line"),
    [
        (PICKLES, {}, r"owner/model/text_encoder has only pytorch_model\.bin, a pickle.* add --allow_pickle"),
        ([n for n in SD15 if "fp16" in n or ("_model" not in n and "model.s" not in n)], {},
         r"owner/model/text_encoder has no weights without a variant .*model\.fp16\.safetensors: add --variant fp16"),
        (["model_index.json", "text_encoder/model.onnx", "unet/model.onnx", "unet/weights.pb"],
         {"model_index.json": {**INDEX, "_class_name": "OnnxStableDiffusionPipeline"}}, r"is an export for ONNX"),
        (["onnx/model.onnx"], {}, r"a model for ONNX alone"),
        (["dreamshaper_8.safetensors", "README.md"], {},
         r"holds dreamshaper_8.safetensors .*: give a file, such as https://.*/blob/main/dreamshaper_8.safetensors"),
        (SD15, {"model_index.json": {**INDEX, "_class_name": "StableDiffusionInpaintPipeline"}},
         r"owner/model is an inpainting model \(StableDiffusionInpaintPipeline\): give the text-to-image model"),
        (SD15, {"unet/config.json": {**UNET, "in_channels": 9}}, r"owner/model is an inpainting model .*9 input"),
        (SD15, {"unet/config.json": {**UNET, "in_channels": 7}}, r"owner/model is an upscaler"),
        (SD15, {"model_index.json": {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3"]}},
         r"is not Stable Diffusion 1\.x, 2\.x or XL: .*'StableDiffusion3Pipeline'"),
        (REFINER, {"model_index.json": {
            **INDEX, "_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        }, "text_encoder_2/config.json": {"hidden_size": 1280}}, "SDXL's refiner"),
        (SD15, {"model_index.json": {**INDEX, "vae": ["diffusers", "VQModel"]}},
         "a vae of another kind: VQModel"),
        (["config.json", "diffusion_pytorch_model.safetensors"], {"config.json": {"_class_name": "ControlNetModel"}},
         r"owner/model is one network alone \(ControlNetModel\): give it with --controlnets and --content, and its"),
        (CLIP, {"config.json": {"architectures": ["CLIPModel"]}}, r"\(CLIPModel\): give it to dreamstyler evaluate"),
        ([*CLIP, "unet.bin"], {"config.json": {}}, "owner/model is no whole model: give a model"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_the_download(names, contents, line, hub):
    texts = {"text_encoder/config.json": {"hidden_size": 768}, "scheduler/scheduler_config.json": {}}
    hub.add("owner/model", repository(names, **{**texts, **contents}))
    with pytest.raises(UserError, match=line):
        find_model("owner/model")
    assert not [name for name in hub.downloaded if not name.endswith((".json", ".txt"))]


def test_a_variant_that_is_not_there_is_refused_before_the_download(hub):
    hub.add("owner/model", repository(SD15))
    with pytest.raises(UserError, match=r"owner/model has no weights of the variant fp61: choose fp16 or non_ema, or"):
        find("owner/model", variant="fp61")
    assert set(hub.downloaded) == SMALL


def test_models_load_by_their_id(hub, tiny_folder, sdxl_folder):
    """SDXL with its second text encoder and tokenizer; as an autoencoder, a model's own alone."""
    for folder in (tiny_folder, sdxl_folder):
        hub.add_folder("owner/model", folder)
        found, local = find_model("owner/model", revision="main"), find_model(folder)
        assert found.hash(found.parts) == local.hash(local.parts)
        assert found.parts.keys() == local.parts.keys()
        for name in ("tokenizer", "tokenizer_2")[: len(found.parts) - 2]:
            assert found.read_tokenizer(name).vocab_size == local.read_tokenizer(name).vocab_size
    hub.add_folder("owner/other", tiny_folder)
    hub.requests.clear()
    assert (
        find_vae("owner/other", {}).files[0].read_bytes()
        == (tiny_folder / "vae/diffusion_pytorch_model.safetensors").read_bytes()
    )
    assert [name for name in hub.downloaded if name.endswith(".safetensors")] == [
        "vae/diffusion_pytorch_model.safetensors"
    ]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub):
    for revision in ("main", "fp16"):
        hub.add("owner/model", repository(SD15, **{"vae/config.json": {"revision": revision}}), revision)
    for asked, meant in ((None, "main"), ("fp16", "fp16"), (hub.commit("owner/model", "fp16"), "fp16")):
        assert json.loads((find("owner/model", revision=asked) / "vae/config.json").read_text())["revision"] == meant
        name = f"owner/model@{asked}" if asked else "owner/model"
        assert json.loads((find(name) / "vae/config.json").read_text())["revision"] == meant
    with pytest.raises(
        UserError, match=r"owner/model has no revision 'v9'; https://huggingface.co/owner/model/commits"
    ):
        find("owner/model", revision="v9")


def test_a_download_shows_its_progress_and_is_continued(hub, capsys, caplog, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 500_000)
    caplog.set_level(logging.ERROR)  # the client logs that it tries again
    file = "unet/diffusion_pytorch_model.safetensors"
    hub.add("owner/model", repository(SD15) | {file: bytes(3_000_000)})
    hub.broken = {file}
    with contextlib.suppress(UserError):  # newer versions of the client try again by themselves
        find("owner/model")
    folder = find("owner/model")
    assert (folder / file).stat().st_size == 3_000_000
    ranges = [asked for name, asked in hub.requests if name == file]
    assert ranges[0] == "" and ranges[1].startswith("bytes=") and ranges[1] != "bytes=0-"
    shown = capsys.readouterr().err
    assert "Downloading 3 files of owner/model, 3.0 MB" in shown
    assert re.search(r"Fetching [13] files: 100%", shown)  # by huggingface_hub 1.0 the second call fetches the rest


def test_offline_what_is_here_is_used(hub, monkeypatch, tiny_folder):
    hub.add_folder("owner/model", tiny_folder)
    online = find_model("owner/model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    offline = find_model("owner/model")
    assert offline.hash(offline.parts) == online.hash(online.parts)
    with pytest.raises(UserError, match=r"no folder 'owner/other', the hub cannot be reached, .* go online"):
        find_model("owner/other")


@pytest.mark.parametrize("cause", ["no connection", "the hub is down"])
def test_without_the_hub_what_is_here_is_used(cause, hub, monkeypatch, tiny_folder):
    hub.add_folder("owner/model", tiny_folder)
    online = find_model("owner/model")
    if cause == "no connection":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    else:
        hub.is_down = True
    offline = find_model("owner/model")
    assert offline.hash(offline.parts) == online.hash(online.parts)


def test_offline_a_part_of_a_model_is_not_enough(hub, monkeypatch):
    hub.add("owner/model", repository(SD15))

    def give_up(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find("owner/model", check=give_up)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"the hub cannot be reached, .* only a part of owner/model: go online"):
        find("owner/model")


def test_gated_and_missing_models_are_explained(hub):
    hub.add("owner/gated", repository(SD15))
    hub.gated.add("owner/gated")
    with pytest.raises(
        UserError, match=r"owner/gated is gated: accept its licence at https://huggingface.co/owner/gated"
    ):
        find("owner/gated")
    with pytest.raises(UserError, match=r"no folder 'owner/missing', and no such model on the hub; check the name"):
        find("owner/missing")


def test_other_errors_say_what_the_client_says(hub, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space\nleft on device")

    hub.add("owner/model", repository(SD15))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"owner/model could not be .*: no space left on device; the same command tri"):
        find("owner/model")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("owner/name", HubName("owner/name")),
        ("owner/name@refs/pr/1", HubName("owner/name", "refs/pr/1")),
        ("https://huggingface.co/owner/na.me-1", HubName("owner/na.me-1")),
        ("huggingface.co/owner/name/", HubName("owner/name")),
        ("https://hf.co/owner/name/tree/main", HubName("owner/name", "main")),
        ("https://huggingface.co/owner/name/blob/main/a/b%20c.safetensors?download=true",
         HubName("owner/name", "main", "a/b c.safetensors")),
        ("https://huggingface.co/owner/name/resolve/refs%2Fpr%2F1/x.ckpt",
         HubName("owner/name", "refs/pr/1", "x.ckpt")),
        ("a/b/c", None), ("./missing/model", None), ("missing", None), ("[a]/b", None),
    ],
)  # fmt: skip
def test_names_and_urls(text, meant):
    assert HubName.parse(text) == meant


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("https://[civitai.com/models/4384", "not on the Hugging Face Hub: download the file"),
        ("https://huggingface.co/datasets/owner/name", "is no model"),
        ("https://huggingface.co/owner", "is no model"),
        ("https://huggingface.co/owner/name/tree/main/unet", "a folder inside a model: give the model, owner/name"),
    ],
)
def test_other_urls_are_explained(text, line):
    with pytest.raises(UserError, match=line):
        HubName.parse(text)


def test_urls_are_pasted_whole(hub, tiny_folder):
    hub.add_folder("owner/model", tiny_folder)
    hub.add("owner/file", {"a/model.safetensors": b"weights"}, "v1")
    assert find("https://huggingface.co/owner/model/tree/main") == find("owner/model")
    url = "https://huggingface.co/owner/file/blob/v1/a/model.safetensors"
    file = downloaded_file(url)
    assert file is not None and file.read_bytes() == b"weights"
    with pytest.raises(UserError, match=r"owner/file has no file b, only a/model\.safetensors"):
        downloaded_file("https://huggingface.co/owner/file/blob/v1/b")
    with pytest.raises(UserError, match=r"model\.safetensors is no safetensors file, or a damaged one"):
        find_model(url)


def test_folders_on_this_machine_come_first(tmp_path):
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model(str(tmp_path)) == tmp_path
    for name in (tmp_path / "missing", "./missing/model", "missing", "a/b/c"):
        with pytest.raises(UserError, match=r"no model folder .*; give an existing folder or a hub name"):
            resolve_model(name)
    with pytest.raises(UserError, match=r"test_hub\.py is a file: give the folder of a model"):
        resolve_model(__file__)
