import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import raw
from pipeline.npz import DAMAGED, Npz
from wam.errors import WamError

ARRAYS = {
    "image": np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
    "vector": np.linspace(-1, 1, 15),
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big_endian": np.arange(5, dtype=">i4"),
    "number": np.array(3.5),
    "empty": np.zeros((0, 7)),
    "flags": np.array([True, False]),
    "text": np.array(["a", "bc"]),
}


def read(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        archive = Npz(descriptor)
        return {name: archive[name] for name in names}
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    found = read(path, list(ARRAYS))
    with np.load(path) as expected:
        for name in ARRAYS:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])
    found, kinds = raw.examine_frame(path, ["vector"])
    assert list(found) == ["vector"]
    assert kinds == {
        name: (str(array.dtype), array.shape) for name, array in sorted(ARRAYS.items())
    }


def test_a_long_table_of_contents_and_a_comment_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **{f"array_{number}": np.full(3, number) for number in range(200)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"made elsewhere"
    np.testing.assert_array_equal(read(path, ["array_150"])["array_150"], [150] * 3)


def test_no_damaged_byte_gives_another_array(tmp_path: Path) -> None:
    arrays = {"actions": np.linspace(0, 1, 7), "rgb": np.arange(75, dtype=np.uint8)}
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **arrays)
    content = path.read_bytes()
    num_refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            found = read(path, list(arrays))
        except DAMAGED:
            num_refused += 1
        else:  # a date, say
            for name, array in arrays.items():
                np.testing.assert_array_equal(found[name], array)
    assert num_refused > len(content) / 2


def test_no_cut_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, actions=np.linspace(0, 1, 7))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(WamError, match=r"a\.npz: truncated or damaged"):
            raw.read_frame(path, ["actions"])


def test_a_size_that_cannot_be_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, actions=np.zeros(7))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(WamError, match="actions claims 4294967294 bytes"):
        raw.read_frame(path, ["actions"])


def test_other_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(7))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("actions.npy", buffer.getvalue())
    with pytest.raises(WamError, match="actions is neither stored nor deflated"):
        raw.read_frame(path, ["actions"])
