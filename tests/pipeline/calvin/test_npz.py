import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.calvin import on_disk
from pipeline.calvin.npz import DAMAGED, Npz, parse_npy
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
        return archive.read(names)
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
    found, kinds = on_disk.examine_frame(path, ["vector"])
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
            on_disk.read_frame(path, ["actions"])


def test_a_size_that_cannot_be_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, actions=np.zeros(7))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(WamError, match="actions claims 4,294,967,294 bytes"):
        on_disk.read_frame(path, ["actions"])


def test_other_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(7))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("actions.npy", buffer.getvalue())
    with pytest.raises(WamError, match="actions is neither stored nor deflated"):
        on_disk.read_frame(path, ["actions"])


def test_more_than_a_frame_holds_is_not_inflated(tmp_path: Path) -> None:
    """One MB of file, one GB of zeros."""
    path = tmp_path / "a.npz"
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }\n"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("rgb.npy", "w") as file,
    ):
        file.write(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text)
        for _ in range(1024):
            file.write(bytes(1 << 20))
    with pytest.raises(
        WamError, match=r"rgb claims 1,073,741,9\d\d bytes; expected at most 67,108"
    ):
        on_disk.read_frame(path, ["rgb"])
    assert on_disk.examine_frame(path, []) == ({}, {"rgb": ("uint8", (1 << 30,))})


def test_what_is_not_needed_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(
        path,
        actions=np.zeros(7),
        info=np.array({"reward": 1}),
        record=np.zeros(2, [("a", "f8")]),
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("note.npy", b"no array")
    arrays, kinds = on_disk.examine_frame(path, ["actions"])
    np.testing.assert_array_equal(arrays["actions"], np.zeros(7))
    assert kinds == {
        "actions": ("float64", (7,)),
        "info": ("object", ()),
        "record": ("void", (2,)),
        "note": ("void", ()),
    }
    with pytest.raises(WamError, match="info holds Python objects; expected numbers"):
        on_disk.read_frame(path, ["info"])
    with pytest.raises(WamError, match=r"note is no \.npy array"):
        on_disk.read_frame(path, ["note"])


def test_an_array_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, actions=np.zeros(7))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("actions", b"another")
    with pytest.raises(WamError, match="actions is there twice"):
        on_disk.read_frame(path, ["actions"])


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(7))
    with pytest.raises(WamError, match=r"a single \.npy array; expected an \.npz archive"):
        on_disk.read_frame(path, ["actions"])


def test_no_header_raises_anything_but_value_error() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(4.0))
    sound = buffer.getvalue()
    chance = random.Random(0)
    pieces = [b"(", b"{", b"'", b"-", b"L", b"O", b"#", b"\n", b"None", b"S0", b"V0", b"99999"]
    num_refused = 0
    for _ in range(2000):
        content = bytearray(sound)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(content))
            content[at : at + chance.randint(0, 2)] = chance.choice(pieces)
        try:
            parse_npy(bytes(content))
        except ValueError:
            num_refused += 1
    assert num_refused > 1000
    for text in (b"(" * 9000, b"-" * 9000 + b"1", b"{'descr': '<i8', 'shape': (2,"):
        with pytest.raises(ValueError, match="damaged header"):
            parse_npy(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text)
