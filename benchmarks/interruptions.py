"""Is anything lost when training or painting is stopped or killed, again and again, at random moments?

    python -m benchmarks.interruptions                     # 30 SIGKILLs and 30 SIGTERMs while a style is learned
    python -m benchmarks.interruptions --measure grid      # 20 SIGKILLs while 9,984 pictures are painted

Each run is continued after every signal, and compared with one that nobody disturbed. The model has random weights and
is tiny (``tests/tiny_model.py``), so that most of the time something is being written. What is in the output folder
already, undisturbed runs above all, is not made again: a call that was stopped itself can be repeated.
"""

import dataclasses
import json
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]  # made when it is imported

from dreamstyler_jax.commands.cli import INTERRUPTED, parse, run_and_exit
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.style import FILE_NAME, Style

ROOT = Path(__file__).parent.parent
LOG_EVERY, SAVE_EVERY = 5, 20


@dataclasses.dataclass(frozen=True)
class InterruptionsConfig:
    """Stop and kill training or painting again and again, and see whether anything is lost."""

    measure: str = option("training", "What is interrupted.", choices=("training", "grid"))
    kills: int = option(30, "SIGKILLs.", low=0, high=1000)
    terminations: int = option(30, "SIGTERMs.", low=0, high=1000)
    steps: int = option(4000, "Training steps.", low=SAVE_EVERY, high=1_000_000)
    previews: bool = option(True, "Paint previews while training.")
    styles: int = option(32, "Styles of the grid.", low=1, high=1000)
    prompts: int = option(39, "Prompts of the grid.", low=1, high=1000)
    seeds: int = option(8, "Seeds of the grid.", low=1, high=100_000)
    seed: int = option(0, "Seed of the moments.", low=0, high=MAX_SEED)
    output: str = option("build/interruptions", "Folder of all results.")

    def __post_init__(self):
        check_values(self)


def run(config: InterruptionsConfig) -> None:
    """Interrupts what the settings ask for."""
    {"training": interrupt_training, "grid": interrupt_grid}[config.measure](config)


def tiny_model(folder: Path) -> Path:
    """The folder of the tiny model."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_model import write_tiny_model  # type: ignore[import-not-found]

    return folder if (folder / "model_index.json").exists() else write_tiny_model(folder)


def signals(config: InterruptionsConfig, total: int) -> Iterator[tuple[int, signal.Signals, float]]:
    """After how much progress of ``total`` to send which signal, and how many seconds later, in random order."""
    rng = random.Random(config.seed)
    numbers = [signal.SIGKILL] * config.kills + [signal.SIGTERM] * config.terminations
    rng.shuffle(numbers)
    goals = sorted(rng.randrange(total) for _ in numbers)
    return ((goal, number, 0.3 * rng.random()) for goal, number in zip(goals, numbers, strict=True))


def interrupt(command: list[str], number: signal.Signals, reached: Callable[[], bool], delay: float) -> bool:
    """Starts a command and sends it a signal ``delay`` seconds after it has come so far.

    Returns:
        Whether the signal ended it; it may have been finished before.

    Raises:
        UserError: it ended with another status, or did not say how to continue.
    """
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not reached():
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(number)
        _, printed = process.communicate()
    if process.returncode == 0:
        return False
    if process.returncode != (INTERRUPTED if number == signal.SIGTERM else -number):
        raise UserError(f"ended with status {process.returncode} after {number.name}: {printed[-2000:]}")
    if number == signal.SIGTERM and "to continue: " not in printed.splitlines()[-1]:
        raise UserError(f"does not say how to continue: {printed[-2000:]}")
    return True


def complete(command: list[str]) -> None:
    """Runs a command to its end.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"ended with status {done.returncode}: {done.stderr[-2000:]}")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, except locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def compare(expected: dict[str, bytes], found: dict[str, bytes]) -> None:
    """Says how many files are there.

    Raises:
        UserError: they are not the same.
    """
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    print(f"{len(expected)} files, of which differ: {', '.join(different[:5]) or 'none'}", flush=True)
    if different:
        raise UserError(f"{len(different)} files differ")


# Training


def training_command(config: InterruptionsConfig, folder: Path) -> list[str]:
    """The command that learns a style from a picture of noise into a folder, from where it was interrupted."""
    picture = Path(config.output) / "noise.png"
    if not picture.exists():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)).save(picture)
    options: dict[str, Any] = {"model": tiny_model(Path(config.output) / "model"), "images": picture, "stages": 3}
    options |= {"batch_size": 2, "steps": config.steps, "log_every": LOG_EVERY, "save_every": SAVE_EVERY}
    options |= {"prompts": "A painting in the style of {}"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--preview_prompts", *(["A house in the style of {}"] if config.previews else [])]
    return [sys.executable, "-m", "dreamstyler_jax", "train", *words, "--resume", "--output", str(folder)]


def logged(folder: Path) -> list[bytes]:
    """The whole lines of a run's metrics."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def steps_of(lines: list[bytes]) -> list[int]:
    """The steps that lines of metrics are about."""
    return [json.loads(line)["step"] for line in lines]


def interrupt_training(config: InterruptionsConfig, complete: Callable[[list[str]], object] = complete) -> None:
    """Learns a style twice, the second time with interruptions.

    Args:
        complete: runs a command to its end.

    Raises:
        UserError: a step is repeated after SIGTERM, a file is missing, left over or different, or a run fails.
    """
    undisturbed, folder = (Path(config.output) / name for name in ("undisturbed", "interrupted"))
    Path(config.output).mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    complete(training_command(config, undisturbed))
    print(f"undisturbed: {config.steps} steps in {time.perf_counter() - began:.0f} s", flush=True)
    command, repeated = training_command(config, folder), 0
    for goal, number, delay in signals(config, config.steps):
        before = len(logged(folder))

        def reached(goal=goal, before=before) -> bool:
            lines = logged(folder)
            return len(lines) > before and steps_of(lines[-1:])[0] >= goal

        ended = interrupt(command, number, reached, delay)
        kept, lost = saved_step(folder), steps_of(logged(folder)[-1:])[0]
        after = "" if ended else "; finished before"
        print(f"{number.name} after step {lost}, of which {kept} are saved{after}", flush=True)
        if number == signal.SIGTERM and kept != lost:
            raise UserError(f"step {lost} was done and only {kept} saved")
        repeated += lost - kept
    complete(command)
    print(f"steps repeated after SIGKILL: {repeated}, after SIGTERM: 0", flush=True)
    if steps_of(logged(folder)) != list(range(LOG_EVERY, config.steps + 1, LOG_EVERY)):
        raise UserError("metrics.jsonl lacks steps, or has some twice")
    expected, found = (Style.load(of_run / FILE_NAME).tables["clip_l"] for of_run in (undisturbed, folder))
    if not np.array_equal(expected, found):
        raise UserError("the tables differ")
    print(f"the tables are the same, bit for bit: {found.shape}", flush=True)
    compare(*(by_products(of_run) for of_run in (undisturbed, folder)))
    curves = [losses_on_board(of_run) for of_run in (undisturbed, folder)]
    print(f"TensorBoard has {len(curves[1])} losses, the same: {curves[0] == curves[1]}", flush=True)
    if curves[0] != curves[1]:
        raise UserError("TensorBoard's losses differ")


def losses_on_board(folder: Path) -> dict[int, float]:
    """The losses by step as TensorBoard shows them, which drops what a resumed run will log again."""
    losses: dict[int, float] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        # A record: its length as uint64, a checksum of 4 bytes, the event, a checksum. The last one may be cut short.
        while len(data) >= 16 and len(data) >= 16 + (length := struct.unpack("<Q", data[:8])[0]):
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.session_log.status == SessionLog.START:
                losses = {step: loss for step, loss in losses.items() if step < event.step}
            for value in event.summary.value:
                if value.tag == "loss":
                    losses[event.step] = value.simple_value
    return losses


def saved_step(folder: Path) -> int:
    """The step of the newest checkpoint that is complete."""
    return max((int(mark.parent.name) for mark in folder.glob("checkpoints/*/commit_success.txt")), default=0)


def by_products(folder: Path) -> dict[str, bytes]:
    """The files of a run that do not depend on time and on the folder's name."""
    of_time = ("checkpoints", "tensorboard", "metrics.jsonl", "config.yaml", "sessions.jsonl", "report.html")
    return {name: data for name, data in contents(folder).items() if not name.startswith(of_time)}


# Painting


def interrupt_grid(config: InterruptionsConfig) -> None:
    """Paints a grid twice, the second time with interruptions.

    Raises:
        UserError: a file is missing, left over or different, or a run fails.
    """
    undisturbed, folder = (Path(config.output) / name for name in ("grid", "interrupted_grid"))
    began = time.perf_counter()
    complete(painting_command(config, undisturbed))
    print(f"undisturbed: {time.perf_counter() - began:.0f} s", flush=True)
    total, images = config.styles * config.prompts * config.seeds, folder / "images"

    def painted() -> int:
        return sum(1 for _ in images.glob("*.png"))

    for goal, number, delay in signals(config, total):
        ended = interrupt(painting_command(config, folder), number, lambda goal=goal: painted() >= goal, delay)
        print(f"{number.name} at {painted()} of {total} pictures{'' if ended else '; finished before'}", flush=True)
    complete(painting_command(config, folder))
    compare(contents(undisturbed), contents(folder))


def painting_command(config: InterruptionsConfig, folder: Path) -> list[str]:
    """The command that paints a grid of random styles into a folder, or what is missing there."""
    work = Path(config.output)
    model, styles, texts = tiny_model(work / "model"), work / "styles", work / "prompts.txt"
    if not texts.exists():
        rng = np.random.default_rng(0)
        for name in (f"style{i}" for i in range(config.styles)):
            table = rng.standard_normal((2, 1, 16), np.float32) / 5
            Style(name, {"clip_l": table}).save(styles / f"{name}.safetensors")
        lines = [f"a painting of house {number} in the style of {{}}\n" for number in range(config.prompts)]
        texts.write_text("".join(lines))
    options = {"model": model, "styles": styles, "prompts_file": texts, "seeds": f"0:{config.seeds}", "steps": 1}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--batch_size", "32", "--output", str(folder)]
    return [sys.executable, "-m", "dreamstyler_jax", "sample", *words]


if __name__ == "__main__":
    run_and_exit(lambda: run(parse(InterruptionsConfig)))
