"""This project against PyTorch: the same weights, sizes, precision and threads, in turn, in one process.

    python -m benchmarks.peer_torch                                                  # the embedded model
    python -m benchmarks.peer_torch --model sd15 --resolution 256 --steps 4          # random weights of that size

On PyTorch's side is what a user would run instead: the training step of the authors' release (``train.py``), which
encodes the picture anew each time and optimises the whole vocabulary, and the same with latents encoded once;
guided sampling of one prompt at a time with two calls of the UNet a step (``custom_pipelines.py``), and of
all prompts in one batch. Ratios above 1 say that this project is faster. Needs ``pip install -e '.[torch]'``.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

from dreamstyler_jax import guidance, prompts, sampling
from dreamstyler_jax.commands.benchmark import PROMPT, SIZES, BenchmarkConfig, conditions, random_model, timed, work_of
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.commands.config import check_values
from dreamstyler_jax.runtime.compilation import choose_kernels, share_cores
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.pipeline import PARTS, StableDiffusion, model_folder, save
from dreamstyler_jax.style import Style

STAGES = 6
SAME = {"float32": 1e-4, "bfloat16": 5e-2}  # relative L2 difference of two UNets that compute the same
SCALES = dict(null_scale=5.0, style_scale=1.0, context_scale=3.0)
SUBJECTS = ("red house", "blue fish", "green tree", "white cat", "black boat", "yellow star", "pink cup", "orange car")


@dataclasses.dataclass(frozen=True)
class PeerConfig:
    """What to compare."""

    model: str = "mini"
    """`mini`, or a folder; or `sd15`, `sd21`: random weights of that size, written to build/."""
    measure: list[Literal["unet", "train", "paint"]] = dataclasses.field(
        default_factory=lambda: ["unet", "train", "paint"]
    )
    """`unet`: one pass. `train`: a training step. `paint`: prompts in four rows of guidance, from text to pictures."""
    batch: int = 8
    """Pictures at once, and prompts to paint, 8 at most of these."""
    resolution: int | None = None
    """Side of the pictures in pixels. null: the model's own."""
    steps: int = 10
    """Steps of the solver."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the computations on both sides."""
    threads: int = 2
    """Cores of the CPU that each side may use."""
    repeats: int = 5
    """Rounds that are timed, after one that is not; in each all take their turn."""
    compile: bool = False
    """Also against `torch.compile`d networks."""
    output: str = "build/peer.jsonl"
    """File of the results, a line for each comparison."""

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "batch": (1, 1024),
        "steps": (2, 1000),
        "threads": (1, 1024),
        "repeats": (1, 1000),
    }

    def __post_init__(self):
        check_values(self)


class Contest(NamedTuple):
    """Functions that do the same and return seconds per unit of work, ours first."""

    unit: str
    ours: Callable[[], float]
    peers: dict[str, Callable[[], float]]


class Torch:
    """The model in PyTorch, and what its users do with it.

    Args:
      folder: a model in diffusers' layout.
      compiled: whether the UNet is compiled.
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
        """Of one call, until the device is done."""

        def whole() -> None:
            function()
            if self.device == "cuda":
                self.torch.cuda.synchronize()

        return timed(whole)[0]

    def forward(self, latents: np.ndarray, timesteps: np.ndarray, states: np.ndarray) -> Callable[[], np.ndarray]:
        """One pass of the UNet: its result, NHWC."""
        inputs = self.tensor(latents), self.tensor(timesteps, integer=True), self.tensor(states)

        def run() -> np.ndarray:
            with self.torch.inference_mode():
                return self.denoise(*inputs).sample.permute(0, 2, 3, 1).float().cpu().numpy()

        return run

    def train_step(
        self, picture: np.ndarray, ids: np.ndarray, slots: np.ndarray, *, cached: bool
    ) -> Callable[[], None]:
        """A step of the release.

        Args:
          picture: [B, H, W, 3], the same B times.
          ids, slots: int[L] of the prompt.
          cached: whether the picture went through the autoencoder once, before.
        """
        torch = self.torch
        pixels, scale = self.tensor(picture), self.vae.config.scaling_factor
        vocabulary = self.text.get_input_embeddings().weight.shape[0] - STAGES
        words = torch.stack(
            [self.tensor(np.where(slots >= 0, vocabulary + t, ids), integer=True) for t in range(STAGES)]
        )
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

    def paint(self, rows: np.ndarray, slots: np.ndarray, weights: np.ndarray, noise: np.ndarray, steps: int) -> None:
        """Paints prompts together, each step two calls of the UNet: null and full, then context and style.

        Args:
          rows, slots: int[4, P, L], the prompts of guidance's rows; ``weights``: [4].
          noise: [P, h, w, c].
        """
        torch, count = self.torch, rows.shape[1]
        vocabulary = self.text.get_input_embeddings().weight.shape[0] - STAGES
        with torch.inference_mode():
            states = [
                self.text(self.tensor(np.where(slots >= 0, vocabulary + t, rows), integer=True).flatten(0, 1))[0]
                for t in range(STAGES)
            ]
            self.solver.set_timesteps(steps)
            x = self.tensor(noise) * self.solver.init_noise_sigma
            for t in self.solver.timesteps:
                own = states[int(t) * STAGES // 1000]
                pair = self.solver.scale_model_input(torch.cat([x, x]), t)
                halves = (own[: 2 * count], own[2 * count :])
                predictions = torch.cat([self.denoise(pair, t, half).sample for half in halves])
                guided = sum(w * e for w, e in zip(weights.tolist(), predictions.chunk(4), strict=True))
                x = self.solver.step(guided, t, x).prev_sample
            self.vae.decode(x / self.vae.config.scaling_factor)


def folder_of(config: PeerConfig) -> Path:
    """The model's folder, with random weights written first where it is a size."""
    if config.model not in SIZES:
        return model_folder(config.model)
    folder = Path("build") / f"peer-{config.model}"
    if not (folder / "model_index.json").exists():
        model = random_model(config.model, "float32")
        configs = (SIZES[config.model][0], model.networks.vae_config, SIZES[config.model][1])
        parts = {name: (own, model.params[name]) for name, own in zip(PARTS, configs, strict=True)}
        save(folder, tokenizer=model.tokenizer, schedule=model.networks.schedule, parts=parts)
    return folder


def contests(config: PeerConfig, model: StableDiffusion, peers: dict[str, Torch]) -> dict[str, Contest]:
    """What is measured, by name."""
    makers = {"unet": unet_contest, "train": train_contest, "paint": paint_contest}
    return {name: makers[name](config, model, peers) for name in config.measure}


def ours(name: str, config: PeerConfig, model: StableDiffusion) -> Callable[[], float]:
    """Seconds per step of what `benchmark.work_of` calls ``name``."""
    own = BenchmarkConfig(batch=config.batch, resolution=config.resolution, steps=config.steps, dtype=config.dtype)
    work = work_of(name, own, model)
    arguments = [work.arguments]

    def run() -> float:
        seconds, result = timed(work.function, *arguments[0], **work.keywords)
        arguments[0] = work.again(arguments[0], result)
        return seconds / work.steps

    return run


def unet_contest(config: PeerConfig, model: StableDiffusion, peers: dict[str, Torch]) -> Contest:
    """One pass of the UNet."""
    rng = np.random.default_rng(0)
    shape = model.networks.latent_shape(*model.size(config.resolution, config.resolution))
    latents = rng.standard_normal((config.batch, *shape), np.float32)
    states = rng.standard_normal((config.batch, 77, model.text_width), np.float32)
    timesteps = np.full(config.batch, 500)
    passes = {name: peer.forward(latents, timesteps, states) for name, peer in peers.items()}
    expected = next(iter(passes.values()))()
    found = jax.jit(model.networks.denoise)(model.params, latents, timesteps, states)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    if error > SAME[config.dtype]:
        raise RuntimeError(f"the UNets differ by {error:.1e}, more than {config.dtype} explains")
    print(f"(both UNets give the same: relative L2 difference {error:.1e})", flush=True)
    run = {name: lambda peer=peers[name], own=own: peer.seconds(own) for name, own in passes.items()}
    return Contest("pass", ours("unet", config, model), run)


def train_contest(config: PeerConfig, model: StableDiffusion, peers: dict[str, Torch]) -> Contest:
    """A training step of one style."""
    size = model.size(config.resolution, config.resolution)
    picture = np.random.default_rng(0).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    ids, slots = (part[0] for part in prompts.tokenize(model.tokenizer, [PROMPT], {"style": 1}))
    run = {}
    for name, peer in peers.items():
        for kind, cached in (("as released", False), ("latents cached", True)):
            step = peer.train_step(np.repeat(picture, config.batch, 0), ids, slots, cached=cached)
            run[f"{name}, {kind}"] = lambda peer=peer, step=step: peer.seconds(step)
    return Contest("step", ours("train", config, model), run)


def paint_contest(config: PeerConfig, model: StableDiffusion, peers: dict[str, Torch]) -> Contest:
    """Prompts with style and context guidance, from text to pictures."""
    texts = [PROMPT.replace("red house", subject) for subject in (SUBJECTS * config.batch)[: config.batch]]
    rows = [[""] * len(texts), texts, list(map(prompts.context_only, texts)), list(map(prompts.style_only, texts))]
    flat = [text for row in rows for text in row]
    weights = guidance.paper(**SCALES)
    style = Style("style", prompts.initial_table(model, "painting", STAGES, 1))
    size, table = (
        model.size(config.resolution, config.resolution),
        solver_table("dpmpp_2m", model.networks.schedule, config.steps),
    )
    requests = [
        sampling.Request(tuple(row * len(texts) + number for row in range(4)), weights, number)
        for number in range(len(texts))
    ]

    def run_ours() -> float:
        def whole() -> list[np.ndarray]:
            bank = prompts.encode(model, flat, {"style": style})
            return list(sampling.paint(model, table, bank, requests, size=size, batch_size=len(texts)))

        return timed(whole)[0]

    ids, slots = (part.reshape(4, len(texts), -1) for part in prompts.tokenize(model.tokenizer, flat, {"style": 1}))
    noise = np.asarray(
        sampling.initial_noise(np.arange(len(texts), dtype=np.uint32), model.networks.latent_shape(*size))
    )

    def one_by_one(peer: Torch) -> None:
        for n in range(len(texts)):
            peer.paint(ids[:, n : n + 1], slots[:, n : n + 1], weights, noise[n : n + 1], config.steps)

    run = {}
    for name, peer in peers.items():
        run[f"{name}, one prompt at a time"] = lambda peer=peer: peer.seconds(lambda: one_by_one(peer))
        run[f"{name}, one batch"] = lambda peer=peer: peer.seconds(
            lambda: peer.paint(ids, slots, weights, noise, config.steps)
        )
    return Contest(f"{len(texts)} prompts", run_ours, run)


def hold(contest: Contest, repeats: int) -> dict[str, list[float]]:
    """Seconds of every round, by name, those of this project under ``ours``."""
    runners = {"ours": contest.ours, **contest.peers}
    rounds = [{name: run() for name, run in runners.items()} for _ in range(1 + repeats)]
    return {name: [seconds[name] for seconds in rounds[1:]] for name in runners}


def run(config: PeerConfig) -> None:
    """Prints a table of ratios as it grows and writes the results."""
    if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as there are cores to run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: config.threads])
    share_cores(config.model, config.batch)
    folder = folder_of(config)
    model = StableDiffusion.load(str(folder), dtype=config.dtype)
    peers = {"PyTorch": Torch(folder, config.dtype, False)}
    if config.compile:
        peers["torch.compile"] = Torch(folder, config.dtype, True)
    for peer in peers.values():
        peer.torch.set_num_threads(config.threads)
        peer.text.resize_token_embeddings(peer.text.config.vocab_size + STAGES, mean_resizing=False)
    import torch

    shared = {**dataclasses.asdict(config), **conditions(), "torch": torch.__version__}
    print(f"{shared['device']}, {config.dtype}, {config.model}, batch {config.batch}\n", flush=True)
    print("| | against | ours ms | theirs ms | ratio | over rounds |\n|---|---|---|---|---|---|", flush=True)
    lines = []
    for name, contest in contests(config, model, peers).items():
        seconds = hold(contest, config.repeats)
        own = seconds.pop("ours")
        for peer, theirs in seconds.items():
            ratios = np.array(theirs) / own
            low, ratio, high = np.percentile(ratios, [0, 50, 100]).tolist()
            cells = [
                f"{name}, per {contest.unit}",
                peer,
                f"{1e3 * np.median(own):.1f}",
                f"{1e3 * np.median(theirs):.1f}",
            ]
            print("| " + " | ".join([*cells, f"**{ratio:.2f}**", f"{low:.2f} to {high:.2f}"]) + " |", flush=True)
            lines.append(
                json.dumps({"measure": name, "peer": peer, "ours_s": own, "theirs_s": theirs, "ratio": ratio, **shared})
            )
            write_atomic(Path(config.output), "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    choose_kernels()
    main(lambda: run(parse(PeerConfig)))
