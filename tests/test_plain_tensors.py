"""Files as ``torch.save`` writes them, read without PyTorch; `test_parity_style.py` reads those of PyTorch itself."""

import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.single_files.plain_tensors import read_plain_tensors
from dreamstyler_jax.style import Style

STORAGES = {"float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long"}
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(array, key, offset=0, shape=None, strides=None):
    """The operations that make a tensor of the numbers of an array."""
    strides = strides or [step // array.itemsize for step in array.strides]
    storage = text("storage") + f"ctorch\n{STORAGES[array.dtype.name]}Storage\n".encode()
    storage = b"(" + storage + text(key) + text("cpu") + number(array.size) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    parts = storage + number(offset) + numbers(shape or array.shape) + numbers(strides) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + parts + b"tR"


def dictionary(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def write(path, operations, *arrays, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + operations + b".")
        for key, array in enumerate(arrays):
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


@pytest.mark.parametrize("dtype", [*map(np.dtype, ("f8", "f4", "f2", "i8")), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_numbers_of_every_kind(tmp_path, dtype):
    rows = ROWS.astype(dtype)
    path = write(tmp_path / "a.pt", dictionary(sea=tensor(rows, "0")), rows)
    np.testing.assert_array_equal(Style.load(path).tables["clip_l"], ROWS[None])


def test_a_part_of_the_numbers_in_another_order(tmp_path):
    path = write(tmp_path / "a.pt", dictionary(sea=tensor(ROWS, "0", offset=1, shape=(2, 3), strides=(1, 4))), ROWS)
    np.testing.assert_array_equal(Style.load(path).tables["clip_l"], ROWS.T[None, 1:3])


def test_a_file_of_the_webui_keeps_name_step_and_checkpoint(tmp_path):
    content = dictionary(
        string_to_token=dictionary(**{"*": number(265)}), string_to_param=dictionary(**{"*": tensor(ROWS, "0")}),
        name=text("sea"), step=number(250), sd_checkpoint=b"N", sd_checkpoint_name=text("sd-v1-5"),
    )  # fmt: skip
    style = Style.load(write(tmp_path / "a.pt", content, ROWS))
    assert (style.name, style.metadata) == ("sea", {"steps": 250, "model": "sd-v1-5"})


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (b"cposix\nsystem\n(" + text("touch owned") + b"tR", r"holds a posix\.system and not only tensors: save"),
        (b"ctorch.nn\nParameterDict\n)R", r"holds a torch\.nn\.ParameterDict"),
        (dictionary(sea=tensor(ROWS, "0") + b"}b"), "holds more than plain tensors"),  # BUILD
        (b"}r" + struct.pack("<I", 2**31), "holds more than plain tensors"),  # a memo far away
        (dictionary(sea=tensor(ROWS, "0", shape=(9**9, 9**9), strides=(0, 0))), "sea is a tensor with more numbers"),
        (dictionary(sea=tensor(ROWS, "0", offset=2)), "sea is a tensor with more numbers"),
        (dictionary(sea=tensor(ROWS, "0", strides=(-4, 1))), "may be damaged"),
        (dictionary(sea=tensor(ROWS, "7")), "damaged"),
        (dictionary(sea=tensor(ROWS, "../data.pkl")), "damaged"),
        (dictionary(step=number(3)), "no style: it should hold named tensors"),
        (b"]" + tensor(ROWS, "0") + b"a", "no style: it should hold named tensors"),
        (b"u", "may be damaged"),
    ],
)
def test_anything_else_is_refused(tmp_path, operations, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.pt", operations, ROWS)
    with pytest.raises(UserError, match=rf"a\.pt.* {message}"):
        Style.load(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_packed_and_cut_off_archives_are_refused(tmp_path):
    path = write(tmp_path / "a.pt", dictionary(sea=tensor(ROWS, "0")), ROWS, packing=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="may be damaged"):
        read_plain_tensors(path)
    write(path, dictionary(sea=tensor(ROWS, "0")), ROWS)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="may be damaged"):
        read_plain_tensors(path)
