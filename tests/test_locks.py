"""A folder that one process at a time may write, also where the file system has no locks.

Two processes that train in one folder are in test_train_command.py.
"""

import errno
import fcntl
import os

import pytest

from dreamstyler_jax.runtime.locks import only_process


def test_a_folder_without_locks_is_written_with_a_warning(tmp_path, monkeypatch):
    def lock_with(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        with only_process(tmp_path / "run"):
            (tmp_path / "run" / "a.txt").write_text("mine")

    for number in (errno.ENOLCK, errno.EOPNOTSUPP):
        with pytest.warns(UserWarning, match="has no locks .*: nothing keeps a second process from writing there"):
            lock_with(number)
    with pytest.raises(OSError, match="Input/output error"):
        lock_with(errno.EIO)
