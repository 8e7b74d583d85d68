"""Traces of what devices and host do, for XProf (TensorBoard) and Perfetto."""

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import jax

from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.files import check_output, replacing

T = TypeVar("T")


class Window:
    """Records a trace while some of a job's items are made, see `tracing`."""

    def __init__(self, folder: str):
        self._folder, self._number = folder, 0  # of the item that is made next

    def over(self, items: Iterable[T], first: int, count: int = 1) -> Iterator[T]:
        """The same items; while those of the window are made, a trace is recorded.

        Args:
            items: what to yield; of a second call they are counted after those of the first.
            first, count: the number of the window's first item, from 0, and how many it has. Those before are a
                warm-up: they compile.
        """
        with contextlib.ExitStack() as recording:
            iterator = iter(items)
            while True:
                if self._folder and self._number == first:
                    recording.enter_context(jax.profiler.trace(self._folder, create_perfetto_trace=True))
                if self._number == first + count:
                    recording.close()
                try:
                    item = next(iterator)
                except StopIteration:
                    if self._folder and self._number == first:  # the trace that was just begun is of nothing
                        recording.close()
                        shutil.rmtree(self._folder)
                    return
                yield item
                self._number += 1


@contextlib.contextmanager
def tracing(folder: str) -> Iterator[Window]:
    """Yields a window for a job's items; when the job is over, says where the trace is, or that there is none.

    Args:
        folder: where traces go, in subfolders, here or in a bucket; empty for none.

    Raises:
        UserError: the folder cannot be written; before anything is done.
        OSError: the trace cannot be written.
    """
    if not folder:
        yield Window("")
        return
    target = path_of(folder)
    check_output(target, "profile")
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary) / "trace"
        try:
            yield Window(str(here))
        finally:
            for perfetto in (file for file in _copy(here, target) if file.name.startswith("perfetto")):
                print(f"The trace is in {target}: xprof --logdir {target}, or {perfetto} at https://ui.perfetto.dev")
        if not here.exists():
            warnings.warn("profile: nothing was traced, all was done before the warm-up was over", stacklevel=3)


def _copy(folder: Path, target: Path) -> list[Path]:
    """Copies the files of a folder of this machine; their paths at the target."""
    kept = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        kept.append(target / file.relative_to(folder).as_posix())
        with replacing(kept[-1]) as temporary:
            shutil.copyfile(file, temporary)
    return kept
