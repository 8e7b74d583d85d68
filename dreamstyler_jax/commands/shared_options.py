"""Options that several commands have: the model and how it is read, and guidance."""

import dataclasses
from typing import Any

from dreamstyler_jax.guidance import FORMS, SCALES, forms_with
from dreamstyler_jax.guidance_variants import Scale
from dreamstyler_jax.runtime.settings import option

MODEL_HELP = (
    "Stable Diffusion model: a folder in diffusers' layout, a single .safetensors file, a hub id or URL, or mini, the "
    "embedded model."
)
VARIANT_HELP = (
    "Variant of the model's weight files, such as fp16 for model.fp16.safetensors. Parts of the model without such a "
    "file are read from the one without a variant."
)
REVISION_HELP = "Branch, tag or commit of the model's hub repository. Default: its main branch."
VAE_HELP = "Autoencoder (VAE) to use instead of the model's own: a file, a folder or a hub id."
PREDICTION_HELP = (
    "What the model predicts: epsilon is the noise, v_prediction the velocity. Default: what the model's files say; if "
    "they are wrong, pictures are noise."
)
PICKLE_HELP = (
    "Read weights from .ckpt and .bin files as well, with PyTorch's restricted unpickler. Needs the package torch."
)
LORAS_HELP = (
    "LoRA files to merge into the model, with their scales: gogh.safetensors*0.8, or several as in "
    "gogh.safetensors*0.8+ink.safetensors*0.5. none: the model as it is."
)
CLIP_SKIP_HELP = (
    "How many of the text encoders' last layers to leave out, for models that were trained so. What other programs "
    "call Clip skip 2 is 1 here, as in diffusers."
)
DTYPE_HELP = (
    "Precision of the model's computations. bfloat16 takes half the memory and, on a GPU or a TPU, less time; on a CPU "
    "take float32."
)
DTYPES = ("float32", "bfloat16")
SIZE_HELP = "Default: what the model was trained at, or with --content as the picture's shape asks."
MODEL_OPTIONS = ("model", "variant", "revision", "vae", "prediction_type", "allow_pickle", "clip_skip")


def _scale_option(scale: Scale) -> tuple[str, type, Any]:
    """Name, type and field of the option for a scale of guidance."""
    forms = forms_with(scale.name)
    text = f"{scale.help} For --guidance {' or '.join(forms)}." if forms else scale.help
    return scale.name, list[float], option([scale.default], text, low=scale.low, high=scale.high)


GuidanceOptions: Any = dataclasses.make_dataclass(
    "GuidanceOptions",
    [
        ("guidance", str, option("cfg", "; ".join(f"{f.name}: {f.help}" for f in FORMS.values()) + ".", choices=FORMS)),
        *map(_scale_option, SCALES.values()),
    ],
    frozen=True,
    namespace={"__doc__": "How strongly the prompt is followed."},
)
