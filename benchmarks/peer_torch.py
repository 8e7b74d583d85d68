"""This project against PyTorch: the same weights, sizes, precision and threads, taking turns in one process.

    python -m benchmarks.peer_torch                                                  # the embedded model
    python -m benchmarks.peer_torch --model sd15 --resolution 256 --steps 4          # random weights of that size

PyTorch runs what a user would run instead: the training step of the authors' release (``train.py``), which encodes the
picture again each time and optimises the whole vocabulary, and the same with latents encoded once; guided sampling of
one prompt at a time with two calls of the UNet a step (``custom_pipelines.py``), and of all prompts in one batch.
Ratios above 1 say that this project is faster. Needs ``pip install -e '.[torch]'``.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.torch_model import STAGES, Torch
from dreamstyler_jax.commands.cli import parse, run_and_exit
from dreamstyler_jax.commands.measuring import conditions, timed
from dreamstyler_jax.commands.shared_options import DTYPES
from dreamstyler_jax.commands.workloads import (
    PROMPT,
    SIZES,
    SOLVER,
    TOKENS,
    ProblemSize,
    make_workload,
    random_model,
)
from dreamstyler_jax.encoding import Tokens, initial_tables, tokenize
from dreamstyler_jax.guidance import paper, rows_needed
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.prompts import guidance_prompts
from dreamstyler_jax.runtime.compilation import choose_kernels, share_cores
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.sampling import initial_noise, plan_steps
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.parts import save_folder
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion, model_folder
from dreamstyler_jax.style import Style

SAME = {"float32": 1e-4, "bfloat16": 5e-2}  # relative L2 difference of two UNets that compute the same
SCALES = dict(null_scale=5.0, style_scale=1.0, context_scale=3.0)
SUBJECTS = ("red house", "blue fish", "green tree", "white cat", "black boat", "yellow star", "pink cup", "orange car")


@dataclasses.dataclass(frozen=True)
class PeerConfig:
    """Compare the speed of this project with that of PyTorch."""

    model: str = option("mini", "mini, or a folder; or sd15, sd21: random weights of that size, written to build/.")
    measure: list[str] = option(
        ["unet", "train", "paint"],
        "unet: one pass. train: a training step. paint: prompts in four rows of guidance, from text to pictures.",
        choices=("unet", "train", "paint"),
    )
    batch: int = option(8, "Pictures at once, and prompts to paint, of which there are at most 8.", low=1, high=1024)
    resolution: int | None = option(None, "Side of the pictures in pixels. null: the model's.", low=8, high=4096)
    steps: int = option(10, "Solver steps.", low=2, high=1000)
    dtype: str = option("float32", "Precision of the computations on both sides.", choices=DTYPES)
    threads: int = option(2, "Cores of the CPU that each side may use.", low=1, high=1024)
    repeats: int = option(
        5, "Timed rounds, after one that is not timed; all sides take turns in each.", low=1, high=1000
    )
    compile: bool = option(False, "Also compare with networks compiled by torch.compile.")
    output: str = option("build/peer.jsonl", "File of the results, one line for each comparison.")

    def __post_init__(self):
        check_values(self)


class Contest(NamedTuple):
    """Functions that do the same, and return the seconds they took per unit of work.

    Attributes:
        unit: what the seconds are for.
        ours: this project's function.
        peers: PyTorch's, by name.
    """

    unit: str
    ours: Callable[[], float]
    peers: dict[str, Callable[[], float]]


def folder_of(config: PeerConfig) -> Path:
    """The folder of the model; if the model is a size, random weights are written there first."""
    if config.model not in SIZES:
        return model_folder(config.model)
    folder = Path("build") / f"peer-{config.model}"
    if not (folder / "model_index.json").exists():
        model = random_model(config.model, SIZES[config.model], "float32")
        networks = model.networks
        configs = {"text_encoder": networks.text_config, "vae": networks.vae_config, "unet": networks.unet_config}
        parts = {name: (part_config, model.params[name]) for name, part_config in configs.items()}
        save_folder(folder, tokenizers=model.tokenizers, schedule=networks.schedule, parts=parts)
    return folder


def contests(config: PeerConfig, model: StableDiffusion, peers: dict[str, Torch]) -> dict[str, Contest]:
    """What to measure, by name."""
    makers = {"unet": unet_contest, "train": train_contest, "paint": paint_contest}
    return {name: makers[name](config, model, peers) for name in config.measure}


def ours(name: str, config: PeerConfig, model: StableDiffusion) -> Callable[[], float]:
    """A function that runs the workload ``name`` and returns the seconds per step."""
    workload = make_workload(name, model, problem_of(config, model))
    inputs = workload.inputs

    def run_once() -> float:
        nonlocal inputs
        seconds, result = timed(workload.call, inputs)
        inputs = workload.next_inputs(inputs, result)
        return seconds / workload.steps

    return run_once


def problem_of(config: PeerConfig, model: StableDiffusion) -> ProblemSize:
    """How much to compute."""
    return ProblemSize(config.batch, model.size(config.resolution, config.resolution), config.steps)


def unet_contest(config: PeerConfig, model: StableDiffusion, peers: dict[str, Torch]) -> Contest:
    """One pass of the UNet."""
    rng = np.random.default_rng(0)
    shape = model.networks.latent_shape(*model.size(config.resolution, config.resolution))
    latents = rng.standard_normal((config.batch, *shape), np.float32)
    width = model.networks.text_config.hidden_size
    states = rng.standard_normal((config.batch, TOKENS, width), np.float32)
    timesteps = np.full(config.batch, 500)
    passes = {name: peer.forward(latents, timesteps, states) for name, peer in peers.items()}
    expected = next(iter(passes.values()))()
    found = jax.jit(model.networks.denoise)(model.params, latents, timesteps, Conditioning(jnp.asarray(states)))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    if error > SAME[config.dtype]:
        raise RuntimeError(f"the UNets differ by {error:.1e}, more than {config.dtype} explains")
    print(f"(both UNets give the same: relative L2 difference {error:.1e})", flush=True)
    runners = {name: functools.partial(peers[name].seconds, forward) for name, forward in passes.items()}
    return Contest("pass", ours("unet", config, model), runners)


def train_contest(config: PeerConfig, model: StableDiffusion, peers: dict[str, Torch]) -> Contest:
    """A training step of one style."""
    size = model.size(config.resolution, config.resolution)
    picture = np.random.default_rng(0).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    ids, slots, _ = tokenize(model.tokenizers, [PROMPT], {"style": 1})["clip_l"]
    tokens = Tokens(ids[0], slots[0])
    runners = {}
    for name, peer in peers.items():
        for kind, cached in (("as released", False), ("latents cached", True)):
            step = peer.train_step(np.repeat(picture, config.batch, 0), tokens, cached=cached)
            runners[f"{name}, {kind}"] = functools.partial(peer.seconds, step)
    return Contest("step", ours("train", config, model), runners)


def paint_contest(config: PeerConfig, model: StableDiffusion, peers: dict[str, Torch]) -> Contest:
    """Prompts with style and context guidance, from text to pictures."""
    texts = [PROMPT.replace("red house", subject) for subject in (SUBJECTS * config.batch)[: config.batch]]
    count, problem, weights = len(texts), problem_of(config, model), paper(**SCALES)
    plan = plan_steps(solver_table(SOLVER, model.networks.schedule, config.steps))
    requests = [Request(guidance_prompts(text), weights, seed) for seed, text in enumerate(texts)]
    styles = {"style": Style("style", initial_tables(model, ["painting"] * STAGES, 1))}

    def paint_ours() -> list[np.ndarray]:
        return list(paint_requests(model, requests, styles, plan, size=problem.image_size, batch_size=count))

    rows = rows_needed(weights[None])
    by_row = [request.prompts[row] for row in rows for request in requests]
    ids, slots, _ = tokenize(model.tokenizers, by_row, {"style": 1})["clip_l"]
    tokens = Tokens(ids.reshape(len(rows), count, -1), slots.reshape(len(rows), count, -1))
    latent_shape = model.networks.latent_shape(*problem.image_size)
    noise = np.asarray(initial_noise(jnp.arange(count, dtype=jnp.uint32), latent_shape))

    def one_batch(peer: Torch) -> None:
        peer.paint_prompts(tokens, weights[rows], noise, config.steps)

    def one_by_one(peer: Torch) -> None:
        for n in range(count):
            prompt = Tokens(tokens.ids[:, n : n + 1], tokens.slots[:, n : n + 1])
            peer.paint_prompts(prompt, weights[rows], noise[n : n + 1], config.steps)

    runners = {}
    for name, peer in peers.items():
        for kind, paint in (("one prompt at a time", one_by_one), ("one batch", one_batch)):
            runners[f"{name}, {kind}"] = functools.partial(peer.seconds, functools.partial(paint, peer))
    return Contest(f"{count} prompts", lambda: timed(paint_ours)[0], runners)


def take_turns(contest: Contest, repeats: int) -> dict[str, list[float]]:
    """The seconds of every round, by name; those of this project under ``ours``."""
    runners = {"ours": contest.ours, **contest.peers}
    rounds = [{name: run_once() for name, run_once in runners.items()} for _ in range(1 + repeats)]
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
    shared = {**dataclasses.asdict(config), **conditions(), "torch": peers["PyTorch"].torch.__version__}
    print(f"{shared['device']}, {config.dtype}, {config.model}, batch {config.batch}\n", flush=True)
    print("| | against | ours ms | theirs ms | ratio | over rounds |\n|---|---|---|---|---|---|", flush=True)
    lines = []
    for name, contest in contests(config, model, peers).items():
        seconds = take_turns(contest, config.repeats)
        ours_s = seconds.pop("ours")
        for peer, theirs_s in seconds.items():
            ratios = np.array(theirs_s) / ours_s
            low, ratio, high = np.percentile(ratios, [0, 50, 100]).tolist()
            milliseconds = (f"{1e3 * np.median(times):.1f}" for times in (ours_s, theirs_s))
            cells = [f"{name}, per {contest.unit}", peer, *milliseconds, f"**{ratio:.2f}**", f"{low:.2f} to {high:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            result = {"measure": name, "peer": peer, "ours_s": ours_s, "theirs_s": theirs_s, "ratio": ratio}
            lines.append(json.dumps({**result, **shared}))
            write_atomic(Path(config.output), "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    choose_kernels()
    run_and_exit(lambda: run(parse(PeerConfig)))
