"""Programs as they are traced, kept beside the compiled ones, so that another process does not trace them again.

JAX looks a compiled program up by its text, and making that text takes longer than reading what it stands for. Here the
text is kept under what it is made from: the function's static arguments, the shapes of the others, the devices, JAX's
settings and versions, and this package's own code.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export

from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.devices import mesh
from dreamstyler_jax.runtime.files import write_atomic

FOLDER = "traced"  # in the folder of JAX's compiled programs
MAX_COUNT = 100  # the longest unused are removed
_DIGEST_SIZE = hashlib.sha256().digest_size
_PACKAGE = Path(__file__).parents[1]
_NOT_STABLE = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")  # between versions, which are part of the name
_CONFIG: Any = jax.config  # its attributes exist at run time only


class TracedOnce:
    """A jitted function that is traced once for all processes of this machine.

    It is called like the function, and gives the same results. Where JAX keeps no compiled programs on a local disk, it
    is the function.

    Args:
        function: from ``jax.jit``. Its results are arrays, which stay on the devices that computed them.
        static: the names of its static arguments, which can be pickled.
    """

    def __init__(self, function: Any, static: Sequence[str]):
        self._function, self._static = function, tuple(static)
        self._signature = inspect.signature(function)
        self._programs: dict[Any, Callable[..., Any]] = {}
        functools.update_wrapper(self, function)

    def trace(self, *args: Any, **options: Any) -> Any:
        """The traced program, as of ``jax.jit``; it is neither kept nor taken from the disk."""
        return self._function.trace(*args, **options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The function's result."""
        folder = _folder()
        if folder is None:
            return self._function(*args, **options)
        arguments = self._signature.bind(*args, **options).arguments
        static = {name: arguments.pop(name) for name in self._static}
        leaves, structure = jax.tree.flatten(arguments)
        key = (*static.values(), structure, *map(_kind, leaves), repr(_surroundings()))
        if key not in self._programs:
            path = folder / self._file_name(static, structure, leaves)

            def flat(*leaves: Any) -> Any:
                return self._function(**static, **jax.tree.unflatten(structure, leaves))

            program = _read(path) or _trace(jax.jit(flat), leaves, path)
            run = program.call if program else flat
            self._programs[key] = jax.jit(functools.update_wrapper(lambda *leaves: run(*leaves), self._function))
        return self._programs[key](*leaves)

    def _file_name(self, static: dict[str, Any], structure: Any, leaves: Sequence[Any]) -> str:
        """A digest of all that the program depends on."""
        parts = [self._function.__qualname__, pickle.dumps(static), structure, *map(_kind, leaves), *_surroundings()]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
            digest.update(b"\n")
        return digest.hexdigest()


def traced_once(*static: str) -> Callable[[Callable[..., Any]], TracedOnce]:
    """Decorates a function with these static arguments: it is jitted, see `TracedOnce`."""
    return lambda function: TracedOnce(jax.jit(function, static_argnames=static), static)


def _folder() -> Path | None:
    """Where traced programs are kept: with the compiled ones, if these are kept on a local disk."""
    folder = _CONFIG.jax_compilation_cache_dir
    if not folder or not _CONFIG.jax_enable_compilation_cache or in_bucket(folder):
        return None
    return Path(folder) / FOLDER


def _kind(leaf: Any) -> tuple[Any, ...]:
    """What a program knows of an argument: shape, dtype, and how it lies on the devices."""
    value = jax.typeof(leaf)
    on_devices = str(leaf.sharding) if isinstance(leaf, jax.Array) and leaf.committed else ""
    return value.shape, str(value.dtype), value.weak_type, on_devices


def _surroundings() -> list[Any]:
    """What every program depends on, besides its arguments."""
    settings = {name: value for name, value in jax.config.values.items() if "cache" not in name}
    device = mesh().devices.flat[0]
    devices = device.platform, device.device_kind, mesh().size
    return [_code(), *devices, sorted(settings.items()), os.environ.get("XLA_FLAGS")]


@functools.cache
def _code() -> str:
    """A digest of this package's code and of the versions of what it is built on."""
    digest = hashlib.sha256()
    for name in ("jax", "jaxlib", "flax"):
        digest.update(importlib.metadata.version(name).encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> export.Exported | None:
    """The program of a file; None if there is none, or it is damaged."""
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    digest, program = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    return export.deserialize(bytearray(program)) if digest == hashlib.sha256(program).digest() else None


def _trace(function: Any, leaves: Sequence[Any], path: Path) -> export.Exported | None:
    """Traces a jitted function of these arguments and keeps the program; None if it holds what JAX cannot keep."""
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in _NOT_STABLE]
    try:
        program = export.export(function, disabled_checks=checks)(*leaves)
    except (ValueError, NotImplementedError):
        return None
    content = bytes(program.serialize())
    with contextlib.suppress(OSError):  # no room, or a folder that nobody may write to
        write_atomic(path, hashlib.sha256(content).digest() + content)
        newest_first = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in newest_first[MAX_COUNT:]:
            file.unlink(missing_ok=True)
    return program
