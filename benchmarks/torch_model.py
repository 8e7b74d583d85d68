"""A Stable Diffusion in PyTorch, trained and sampled as the authors' release and its users do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamstyler_jax.commands.measuring import timed
from dreamstyler_jax.encoding import Tokens

STAGES = 6


class Torch:
    """The model in PyTorch, and what its users do with it.

    Args:
        folder: a model in diffusers' layout.
        dtype: of the weights.
        compiled: whether to compile the UNet.
    """

    def __init__(self, folder: Path, dtype: str, compiled: bool):
        import diffusers
        import torch
        import transformers

        self.torch, self.device = torch, "cuda" if jax.default_backend() == "gpu" else "cpu"
        options = {"torch_dtype": getattr(torch, dtype)}
        self.text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=options["torch_dtype"])
        self.vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae", **options)
        self.unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", **options)
        layout = torch.channels_last if self.device == "cuda" else torch.contiguous_format
        for network in (self.text, self.vae, self.unet):
            network.to(self.device, memory_format=layout).requires_grad_(False).eval()
        scheduler = folder / "scheduler"
        self.training = diffusers.DDPMScheduler.from_pretrained(scheduler)
        self.solver = diffusers.DPMSolverMultistepScheduler.from_pretrained(scheduler, algorithm_type="dpmsolver++")
        self.denoise = torch.compile(self.unet, dynamic=False) if compiled else self.unet

    def tensor(self, array: Any, *, integer: bool = False) -> Any:
        """An array on the device, NHWC as NCHW."""
        tensor = self.torch.from_numpy(np.array(array)).to(self.device)
        if integer:
            return tensor.long()
        tensor = tensor.to(self.unet.dtype)
        return tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor

    def seconds(self, function: Callable[[], Any]) -> float:
        """The seconds of one call, until the device is done."""

        def call_and_wait() -> None:
            function()
            if self.device == "cuda":
                self.torch.cuda.synchronize()

        return timed(call_and_wait)[0]

    def forward(self, latents: np.ndarray, timesteps: np.ndarray, states: np.ndarray) -> Callable[[], np.ndarray]:
        """A function that runs the UNet once and returns its result, NHWC."""
        inputs = self.tensor(latents), self.tensor(timesteps, integer=True), self.tensor(states)

        def run() -> np.ndarray:
            with self.torch.inference_mode():
                return self.denoise(*inputs).sample.permute(0, 2, 3, 1).float().cpu().numpy()

        return run

    def train_step(self, picture: np.ndarray, tokens: Tokens, *, cached: bool) -> Callable[[], None]:
        """A function that makes a training step of the release.

        Args:
            picture: [B, H, W, 3], the same B times.
            tokens: of the prompt, [L].
            cached: encode the picture once, before the first step.
        """
        torch = self.torch
        pixels, scale = self.tensor(picture), self.vae.config.scaling_factor
        vocabulary = self.text.get_input_embeddings().weight.shape[0] - STAGES
        words = torch.stack([self.tokens_of_stage(tokens, vocabulary, stage) for stage in range(STAGES)])
        weight = self.text.get_input_embeddings().weight.requires_grad_(True)
        original, frozen = weight.data.clone(), torch.arange(len(weight), device=self.device) < vocabulary
        optimizer = torch.optim.AdamW([weight], lr=0.002, weight_decay=0.01)

        def encode() -> Any:
            with torch.no_grad():
                return self.vae.encode(pixels).latent_dist

        posterior = encode()

        def step() -> None:
            latents = (posterior if cached else encode()).sample() * scale
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (len(latents),), device=self.device)
            states = self.text(words[timesteps * STAGES // 1000])[0]
            target = noise
            if self.training.config.prediction_type == "v_prediction":
                target = self.training.get_velocity(latents, noise, timesteps)
            noisy = self.training.add_noise(latents, noise, timesteps)
            loss = torch.nn.functional.mse_loss(self.denoise(noisy, timesteps, states).sample.float(), target.float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                weight[frozen] = original[frozen]

        return step

    def tokens_of_stage(self, tokens: Tokens, vocabulary: int, stage: int) -> Any:
        """Token ids, with the token of a stage in the slots of the style; these tokens follow the vocabulary."""
        return self.tensor(np.where(np.asarray(tokens.slots) >= 0, vocabulary + stage, tokens.ids), integer=True)

    def paint_prompts(self, tokens: Tokens, weights: np.ndarray, noise: np.ndarray, steps: int) -> None:
        """Paints P prompts together, with two calls of the UNet per step: null and full, then context and style.

        Args:
            tokens: of the rows of guidance, [4, P, L].
            weights: of the rows of guidance, [4].
            noise: [P, h, w, c].
            steps: solver steps.
        """
        torch, count = self.torch, tokens.ids.shape[1]
        vocabulary = self.text.get_input_embeddings().weight.shape[0] - STAGES
        with torch.inference_mode():
            states = [
                self.text(self.tokens_of_stage(tokens, vocabulary, stage).flatten(0, 1))[0] for stage in range(STAGES)
            ]
            self.solver.set_timesteps(steps)
            x = self.tensor(noise) * self.solver.init_noise_sigma
            for t in self.solver.timesteps:
                of_stage = states[int(t) * STAGES // 1000]
                pair = self.solver.scale_model_input(torch.cat([x, x]), t)
                halves = (of_stage[: 2 * count], of_stage[2 * count :])
                predictions = torch.cat([self.denoise(pair, t, half).sample for half in halves])
                guided = sum(w * e for w, e in zip(weights.tolist(), predictions.chunk(4), strict=True))
                x = self.solver.step(guided, t, x).prev_sample
            self.vae.decode(x / self.vae.config.scaling_factor)
