"""TPUs that need not be here: JAX describes them, and the package libtpu holds the compiler of all of them."""

import importlib.util
import os
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


def described_chip(topology: str) -> Any:
    """One chip of a TPU (a ``jax.Device``), to compile programs for it; nothing can be run on it.

    Comes before the first computation: whatever this process computes, it computes on the CPU.

    Args:
        topology: generation and shape, such as ``v5e:2x2``.

    Raises:
        UserError: libtpu is not installed, or there is no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("target: to compile for a TPU, install libtpu: pip install 'jax[tpu]'")
    from jax.experimental import topologies

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    try:
        return topologies.get_topology_desc(topology, "tpu").devices[0]
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"target: {topology} is not a TPU such as v5e:2x2 or v6e:2x2: {error}") from error
