"""TPUs that need not be here: JAX describes them, and the package libtpu holds the compiler of all of them."""

import importlib.util
import os
import re
from typing import Any

import jax

from dreamstyler_jax.runtime.errors import UserError

# What libtpu is told so that it looks for no TPU around this machine, and that other processes may load it too. Which
# TPU a program is for depends on the topology alone.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


# Topologies of v5e and v6e by their number of chips, which the names of machine types give.
_SHAPES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}


def topology_of(name: str) -> str:
    """What libtpu calls a topology, such as ``v5e:2x4``, which may also be named as ``v5e-8`` or ``v5litepod-8``.

    Raises:
        UserError: it reads as none; of some libtpu's compiler would end the process.
    """
    text = name.strip().lower().replace("v5litepod", "v5e")
    if (machine := re.fullmatch(r"(v5e|v6e)-(\d{1,3})", text)) and int(machine[2]) in _SHAPES:
        return f"{machine[1]}:{_SHAPES[int(machine[2])]}"
    if not re.fullmatch(r"v\d+[a-z]*:[1-9]\d?(x[1-9]\d?){1,2}", text):
        raise UserError(f"target: {name!r} is no TPU; write its generation and shape, as in v5e:2x2 or v5p:2x2x1")
    return text


def described_chip(topology: str) -> Any:
    """One chip of a TPU (a ``jax.Device``), to compile programs for it; nothing can be run on it.

    Comes before the first computation: whatever this process computes, it computes on the CPU. It keeps no compiled
    programs, since those for a TPU can only be read by one.

    Args:
        topology: generation and shape, see `topology_of`.

    Raises:
        UserError: libtpu is not installed, or there is no such topology.
    """
    topology = topology_of(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("target: to compile for a TPU, install libtpu: pip install 'jax[tpu]'")
    from jax.experimental import topologies

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return topologies.get_topology_desc(topology, "tpu").devices[0]
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"target: {topology} is not a TPU such as v5e:2x2 or v6e:2x2: {error}") from error
