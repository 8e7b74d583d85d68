"""What a program costs on a TPU that is not here, as its compiler estimates it; nothing is run and no weights exist.

The compiler counts every operand of every fused operation as memory traffic. Of a loop it counts one round, and so
does this module: one step of training or of a solver, one part of a batch that is decoded in parts.
"""

import dataclasses
import importlib.metadata
import re
import time
from typing import Any, NamedTuple

import jax

from dreamstyler_jax.commands.measuring import PEAKS, conditions
from dreamstyler_jax.commands.workloads import SIZES, ProblemSize, Workload, make_workload, random_model
from dreamstyler_jax.runtime.devices import placed
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.flops import flops
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.weights import describe_model

HEADS = (
    "", "batch", "compile s", "TFLOP", "GB moved", "arguments GiB", "temporaries GiB", "of memory",
    "fits about batch", "at least ms", "bound by",
)  # fmt: skip
HEAD = f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|"
NOTE = (
    "The compiler's estimates, not measurements. A loop counts once: a step of training; of painting, one step of the "
    "solver and the decoding. The batch that fits follows from this one, as if all but the weights grew with it."
)
_TOO_LARGE = re.compile(r"\(([\d.]+)([MGT])\) exceeds available HBM")
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


class Chip(NamedTuple):
    """A chip's limits.

    Attributes:
        kind: its name in JAX.
        flop_per_s: dense bfloat16 operations per second, from the maker's data sheet.
        bytes_per_s: of its memory, from there too.
        memory: bytes that a program may use, as the compiler says; the data sheet's figure is a little larger.
    """

    kind: str
    flop_per_s: float
    bytes_per_s: float
    memory: float

    def __str__(self) -> str:
        limits = f"{self.flop_per_s / 1e12:.0f} TFLOP/s, {self.bytes_per_s / 1e9:.0f} GB/s"
        return f"one chip of {self.kind}: {limits}, {self.memory / 2**30:.2f} GiB of memory for programs"


_MEMORIES = {  # by JAX's name of the chip: bytes per second, and bytes
    "TPU v5 lite": (819e9, 15.75 * 2**30),
    "TPU v5": (2765e9, 95.73 * 2**30),
    "TPU v6 lite": (1640e9, 31.24 * 2**30),
}


def chip_of(device: Any) -> Chip:
    """A device's limits.

    Raises:
        UserError: they are not known.
    """
    kind = device.device_kind
    if kind not in _MEMORIES:
        raise UserError(f"target: the limits of {kind} are not known; give a v5e, v5p or v6e, such as v5e:2x2")
    return Chip(kind, PEAKS[kind], *_MEMORIES[kind])


def conditions_for(chip: Chip) -> dict[str, Any]:
    """What the estimates for a chip depend on besides the settings."""
    config: Any = jax.config  # its attributes exist at run time only
    compiler = {"libtpu": importlib.metadata.version("libtpu"), "optimization_level": config.jax_optimization_level}
    return {**conditions(), "device": chip.kind, "devices": 1, **compiler}


def model_without_weights(name: str, dtype: str) -> StableDiffusion:
    """A model with the shapes of its weights in their place.

    Args:
        name: one of `SIZES`, or as of `StableDiffusion.load`.
        dtype: of the weights.
    """
    if name in SIZES:
        return random_model(name, SIZES[name], dtype, describe_model)
    model = StableDiffusion.load(name, dtype=dtype)
    return dataclasses.replace(model, params=jax.eval_shape(lambda: model.params))


def describe_workload(name: str, model: StableDiffusion, problem: ProblemSize) -> Workload:
    """A workload with shapes in place of its inputs, on the device of `devices.programs_for`; arguments as there."""
    made: list[Workload] = []

    def make(params: Any) -> tuple:
        made.append(make_workload(name, dataclasses.replace(model, params=params), problem))
        return made[0].inputs

    shapes = jax.eval_shape(make, model.params)
    return made[0]._replace(inputs=jax.tree.map(lambda shape: shape.update(sharding=placed()), shapes))


def estimate(workload: Workload, chip: Chip) -> dict[str, Any]:
    """Compiles a workload for a chip; what the program takes, or, if it does not fit, how much memory it would take.

    Args:
        workload: from `describe_workload`.
        chip: the chip.

    Returns:
        ``fits``, ``memory_bytes``, ``compile_s``, and ``room``: by what the batch could be multiplied until the memory
        is full, if all but the arguments, nearly all of which are weights, grew with it. Of a program that the compiler
        accepts also ``argument_bytes``, ``temporary_bytes``, and, a round of every loop, ``flop``, ``moved_bytes`` and
        ``roofline_s``: what the slower takes of computing and moving at the chip's limits (Williams et al. 2009), which
        is ``bound_by``.
    """
    traced = workload.trace()
    began = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        found = _TOO_LARGE.search(str(error))
        if not found:
            raise
        needed = float(found[1]) * _UNITS[found[2]]
        arguments = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(workload.inputs))
        room = _room(arguments, needed, chip)
        return {"fits": False, "memory_bytes": needed, "compile_s": time.perf_counter() - began, "room": room}
    seconds, memory = time.perf_counter() - began, compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs + memory.generated_code_size_in_bytes
    operations, moved = flops(traced.jaxpr, loops_once=True), compiled.cost_analysis()["bytes accessed"]
    limits = {"computing": operations / chip.flop_per_s, "memory": moved / chip.bytes_per_s}
    bound_by = max(limits, key=lambda limit: limits[limit])
    return {
        "fits": total <= chip.memory,
        "memory_bytes": total,
        "compile_s": seconds,
        "room": _room(memory.argument_size_in_bytes, total, chip),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flop": operations,
        "moved_bytes": moved,
        "roofline_s": limits[bound_by],
        "bound_by": bound_by,
    }


def _room(arguments: float, total: float, chip: Chip) -> float:
    """By what a batch could be multiplied; of bytes that its program takes, for its arguments and altogether."""
    return max(chip.memory - arguments, 0) / max(total - arguments, 1)


def row(name: str, batch: int, result: dict[str, Any], chip: Chip) -> str:
    """A line of the table.

    Args:
        name, batch: the workload.
        result: from `estimate`.
        chip: the chip.
    """
    cells = [name, batch, f"{result['compile_s']:.0f}"]
    if "flop" in result:
        cells += [f"{result['flop'] / 1e12:.2f}", f"{result['moved_bytes'] / 1e9:.1f}"]
        cells += [f"{result[part] / 2**30:.2f}" for part in ("argument_bytes", "temporary_bytes")]
    else:
        cells += [""] * 4
    share = f"{100 * result['memory_bytes'] / chip.memory:.0f} %"
    cells.append(share if result["fits"] else f"{share}: does not fit")
    cells.append(int(batch * result["room"]) or "none")
    cells += [f"{1e3 * result['roofline_s']:.1f}", result["bound_by"]] if "flop" in result else [""] * 2
    return f"| {' | '.join(map(str, cells))} |"
