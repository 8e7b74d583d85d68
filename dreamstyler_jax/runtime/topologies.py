"""TPUs that need not be here: JAX describes them, and the package libtpu holds the compiler of all of them."""

import importlib.util
import os

import jax

from dreamstyler_jax.runtime.errors import UserError

# What libtpu is told where no TPU is: to ask no cloud's server about it, and that several processes may load it.
_ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def described_chip(topology: str) -> jax.Device:
    """One chip of a TPU, to compile programs for it; nothing can be run on it.

    Comes before the first computation: whatever this process computes, it computes on the CPU.

    Args:
        topology: generation and shape, such as ``v5e:2x2``.

    Raises:
        UserError: libtpu is not installed, or there is no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("target: to compile for a TPU, install libtpu: pip install 'dreamstyler-jax[tpu]'")
    from jax.experimental import topologies

    os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    jax.config.update("jax_platforms", "cpu")
    try:
        return topologies.get_topology_desc(topology, "tpu").devices[0]
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"target: {topology} is not a TPU such as v5e:2x2 or v6e:2x2: {error}") from error
