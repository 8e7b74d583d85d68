"""A folder on this machine whose content is kept in a bucket, for libraries that write many files in one folder."""

from pathlib import Path

from dreamstyler_jax.runtime.buckets import list_objects, read_objects, remove_objects, write_objects


class Mirror:
    """A folder of folders, each of which is complete once it holds a certain file.

    In the bucket that file is written after all others of its folder and removed before them: whatever interrupts this,
    a folder with that file is whole.

    Args:
        folder: on this machine; empty at first.
        bucket: the folder in the bucket.
        last: the name of the file.
    """

    def __init__(self, folder: Path, bucket: Path, last: str):
        self._folder, self._bucket, self._last = folder, bucket, last
        self._kept: dict[str, list[tuple[str, int, int]]] = {}  # what the bucket has of each folder

    def fetch(self) -> None:
        """Fills the folder with what is complete in the bucket, and removes the rest there."""
        names = [listed.name for listed in list_objects(self._bucket)]
        parts = {name.partition("/")[0] for name in names}
        complete = {part for part in parts if f"{part}/{self._last}" in names}
        wanted = [name for name in names if name.partition("/")[0] in complete]
        for name, content in read_objects(self._bucket, wanted).items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._kept = {part: self._state(part) for part in complete}
        for part in parts - complete:
            self._remove(part)

    def publish(self) -> None:
        """Brings the bucket to the state of the folder."""
        here = {path.parent.name for path in self._folder.glob(f"*/{self._last}")}
        for part in here:
            if self._kept.get(part) != (state := self._state(part)):
                self._remove(part)
                self._write(part)
                self._kept[part] = state
        for part in self._kept.keys() - here:
            self._remove(part)
            del self._kept[part]

    def _files(self, part: str) -> list[Path]:
        return sorted(path for path in (self._folder / part).rglob("*") if path.is_file())

    def _state(self, part: str) -> list[tuple[str, int, int]]:
        stats = [(path, path.stat()) for path in self._files(part)]
        return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]

    def _write(self, part: str) -> None:
        contents = {path.relative_to(self._folder).as_posix(): path.read_bytes() for path in self._files(part)}
        last = contents.pop(f"{part}/{self._last}")
        write_objects(self._bucket, contents)
        write_objects(self._bucket, {f"{part}/{self._last}": last})

    def _remove(self, part: str) -> None:
        names = [f"{part}/{listed.name}" for listed in list_objects(self._bucket / part)]
        last = [name for name in names if name == f"{part}/{self._last}"]
        remove_objects(self._bucket, last)
        remove_objects(self._bucket, [name for name in names if name not in last])
