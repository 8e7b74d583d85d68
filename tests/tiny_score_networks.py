"""The networks behind scores with random weights, tiny, under the names of the published files."""

import json
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dreamstyler_jax.evaluation.csd import Csd, CsdConfig
from dreamstyler_jax.evaluation.dinov2 import Dinov2Config, Dinov2Model
from dreamstyler_jax.evaluation.inception import Inception, InceptionConfig
from dreamstyler_jax.evaluation.lpips import Lpips, LpipsConfig
from dreamstyler_jax.evaluation.vgg import Vgg16, VggConfig
from dreamstyler_jax.stable_diffusion.weights import init_model, save_model

SIZE = 16  # side of the pictures that CSD and DINOv2 take, in pixels
NETWORKS = {
    "csd": (Csd, CsdConfig(width=64, layers=1, patch_size=4, patches=(SIZE // 4) ** 2, features=8)),
    "dino": (
        Dinov2Model,
        Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=SIZE, patch_size=4),
    ),
    "vgg": (Vgg16, VggConfig((4, 4, 4, 4))),
    "lpips": (Lpips, LpipsConfig((4, 4, 4, 4, 4))),
    "inception": (Inception, InceptionConfig(divisor=16)),
}
PREPROCESSING = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}, "resample": 3}


def write_score_networks(folder: Path) -> dict[str, Path]:
    """Writes all of them; the files, or for DINOv2 the folder, by the names of their options."""
    paths = {}
    for name, (cls, config) in NETWORKS.items():
        params = flatten_dict(init_model(cls, config, seed=1)[1])
        for path, value in params.items():
            if path[-1] in ("running_var", "lambda1") or "lin" in str(path[0]):  # are not negative in reality
                params[path] = abs(value) + np.float32(0.5)
            elif path[-1] not in ("kernel", "scale", "bias"):
                params[path] = 30 * value  # so that pictures differ
        save_model(folder / name, config, unflatten_dict(params))
        paths[name] = folder / name / "model.safetensors"
    (folder / "dino" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return {**paths, "dino": folder / "dino"}
