"""The networks of SDXL at their true size against diffusers and transformers, with random weights in float32.

    python -m benchmarks.sdxl_true_size

One side runs after the other, each in a process of its own: 12 GB of memory are enough, and 11 GB of disk for a moment.
Takes four minutes on two cores.
"""

import argparse
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from dreamstyler_jax.commands.workloads import SIZES
from dreamstyler_jax.runtime.files import write_json
from dreamstyler_jax.stable_diffusion.parts import SDXL_PARTS
from dreamstyler_jax.stable_diffusion.unet import AddedConditions
from dreamstyler_jax.stable_diffusion.weights import load_model

PARTS = ("text_encoder_2", "vae", "unet")
SIDE = 16  # of the latents


def inputs_of(part: str) -> dict[str, np.ndarray]:
    """The inputs of a part, the same for both sides."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, SIDE, SIDE, 4), np.float32)
    if part == "text_encoder_2":
        ids = np.zeros((1, 77), np.int32)
        ids[0, :12] = [49406, *rng.integers(1, 49000, 10), 49407]
        return {"ids": ids}
    if part == "vae":
        return {"picture": rng.uniform(-1, 1, (1, 8 * SIDE, 8 * SIDE, 3)).astype(np.float32), "latents": latents}
    states, pooled = rng.standard_normal((1, 77, 2048), np.float32), rng.standard_normal((1, 1280), np.float32)
    time_ids = np.array([[1024, 768, 16, 0, 1024, 1024]], np.float32)
    return {"latents": latents, "timesteps": np.array([801]), "states": states, "pooled": pooled, "time_ids": time_ids}


def reference(part: str, folder: Path) -> dict[str, np.ndarray]:
    """The reference's results; its random weights are left in the folder."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    x = {name: torch.from_numpy(channels_first(array)) for name, array in inputs_of(part).items()}
    write_json(folder / "config.json", getattr(SIZES["sdxl"], part).to_dict())
    with torch.no_grad():
        if part == "text_encoder_2":
            config = transformers.CLIPTextConfig.from_pretrained(folder)
            model = transformers.CLIPTextModelWithProjection(config).eval()
            text = model(x["ids"].long(), output_hidden_states=True)
            found = {"penultimate": text.hidden_states[-2], "pooled": text.text_embeds}
        elif part == "vae":
            model = diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(folder))
            found = {"mean": model.encode(x["picture"]).latent_dist.mean, "decoded": model.decode(x["latents"]).sample}
        else:
            model = diffusers.UNet2DConditionModel.from_config(diffusers.UNet2DConditionModel.load_config(folder))
            added = {"text_embeds": x["pooled"], "time_ids": x["time_ids"]}
            found = {"noise": model(x["latents"], x["timesteps"], x["states"], added_cond_kwargs=added).sample}
    model.save_pretrained(folder, max_shard_size="2GB")
    return {name: array.numpy() for name, array in found.items()}


def ours(part: str, folder: Path) -> dict[str, np.ndarray]:
    """Our results with the weights in the folder."""
    model = nnx.merge(*load_model(SDXL_PARTS[part], folder))
    x = inputs_of(part)
    with jax.default_matmul_precision("highest"):
        if part == "text_encoder_2":
            text = jax.jit(lambda model, ids: model(ids))(model, x["ids"])
            found = {"penultimate": text.penultimate, "pooled": text.pooled}
        elif part == "vae":
            encode, decode = jax.jit(lambda model, x: model.encode(x)[0]), jax.jit(lambda model, z: model.decode(z))
            found = {"mean": encode(model, x["picture"]), "decoded": decode(model, x["latents"])}
        else:
            added = AddedConditions(jnp.asarray(x["pooled"]), jnp.asarray(x["time_ids"]))
            denoise = jax.jit(lambda model, *inputs: model(*inputs, (), added))
            found = {"noise": denoise(model, x["latents"], x["timesteps"], x["states"])}
    return {name: channels_first(np.asarray(array)) for name, array in found.items()}


def channels_first(array: np.ndarray) -> np.ndarray:
    """[B, H, W, C] as [B, C, H, W]; other ranks as they are."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def main() -> None:
    """Runs both sides of every part, and prints the relative L2 differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/sdxl"))
    parser.add_argument("--side", choices=("reference", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.side:
        folder = words.folder / words.part
        found = {"reference": reference, "ours": ours}[words.side](words.part, folder)
        peak = np.float64(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        safetensors.numpy.save_file({**found, "peak": np.array(peak)}, words.folder / f"{words.side}.safetensors")
        return
    for part in PARTS:
        (words.folder / part).mkdir(parents=True, exist_ok=True)
        for side in ("reference", "ours"):
            line = [sys.executable, "-m", "benchmarks.sdxl_true_size", "--folder", words.folder]
            subprocess.run([*line, "--side", side, "--part", part], check=True)
        files = (words.folder / f"{side}.safetensors" for side in ("reference", "ours"))
        theirs, found = map(safetensors.numpy.load_file, files)
        memory = [f"{side.pop('peak'):.1f}" for side in (theirs, found)]
        for name, expected in theirs.items():
            error = np.linalg.norm(found[name] - expected) / np.linalg.norm(expected)
            print(f"{part} {name}: relative L2 difference {error:.1e}; {' and '.join(memory)} GB of memory", flush=True)
        shutil.rmtree(words.folder / part)


if __name__ == "__main__":
    main()
