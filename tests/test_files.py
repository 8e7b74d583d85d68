"""Output folders are checked before the work, not after it."""

import os

import pytest

from dreamstyler_jax.runtime import files
from dreamstyler_jax.runtime.errors import UserError


def test_an_output_below_a_file_is_refused_and_nothing_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; choose another folder"):
        files.check_output(tmp_path / "file" / "run")
    files.check_output(tmp_path / "new" / "run")
    assert os.listdir(tmp_path) == ["file"]
