"""Files that want to be executed, or to take all memory or time; they may only be refused."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calvin import language, metadata, on_disk
from tests.drill.raw_damage import FIRST, Damage, Fine, Listed, edited, everywhere, frame, written

_COMMAND = "touch canary"
_CODE = "open('canary', 'w')"
_CONVERT = ("inspect", "convert")
_GIB = 1 << 30


class _Call:
    """Pickles into a call of ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


def annotations(payload: bytes, name: str | Path = language.ANNOTATIONS) -> Damage:
    """A 0-d object array whose pickle is ``payload``."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    length = struct.pack("<H", len(header))
    return written(name, b"\x93NUMPY\x01\x00" + length + header + payload)


def members(*files: tuple[str, bytes]) -> Damage:
    """The first frame, and further files in its archive."""

    def damage(root: Path) -> None:
        with zipfile.ZipFile(frame(root, FIRST), "a", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files:
                archive.writestr(name, content)

    return damage


def bomb(root: Path) -> None:
    """One GiB of zeros in 1 MB, with all sizes right."""
    edited(FIRST, actions=None)(root)
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }\n"
    with (
        zipfile.ZipFile(frame(root, FIRST), "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("actions.npy", "w") as file,
    ):
        file.write(header(text))
        for _ in range(_GIB >> 20):
            file.write(bytes(1 << 20))


def claimed(offset: int, value: int, num_bytes: int = 4) -> Damage:
    """Another number in the first entry of the first frame's table of contents."""

    def damage(root: Path) -> None:
        path = frame(root, FIRST)
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\1\2") + offset
        content[at : at + num_bytes] = value.to_bytes(num_bytes, "little")
        path.write_bytes(content)

    return damage


def end_claims(offset: int, value: int, num_bytes: int) -> Damage:
    """Another number in the end of the first frame's table of contents."""

    def damage(root: Path) -> None:
        path = frame(root, FIRST)
        content = bytearray(path.read_bytes())
        at = content.rindex(b"PK\5\6") + offset
        content[at : at + num_bytes] = value.to_bytes(num_bytes, "little")
        path.write_bytes(content)

    return damage


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(text: bytes, version: bytes = b"\1\0") -> bytes:
    """A ``.npy`` file of this header and nothing else."""
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text


def shared(levels: int, width: int) -> list[Any]:
    """``width ** levels`` strings in a few bytes."""
    found: list[Any] = ["x"]
    for _ in range(levels):
        found = [found] * width
    return found


def keys_of_keys() -> bytes:
    """A tuple of tuples as a key, whose hash takes 2 ** 60 steps."""
    return b"K\1\x85q\x000" + b"h\0h\0\x86q\x000" * 60 + b"}h\0Ns."


def of_language(ann: Any) -> bytes:
    return pickle.dumps(
        {"language": {"ann": ann, "task": ["lift"] * len(ann)}, "info": {"indx": [[0, 1]]}}
    )


def aliases(levels: int, width: int) -> bytes:
    """YAML of ``width ** levels`` values."""
    lines = ["a0: &a0 x"]
    for level in range(1, levels + 1):
        parts = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{parts}]")
    return "\n".join([*lines, f"scene: *a{levels}"]).encode()


_REFUSED = everywhere("refused or damaged pickle")
_CALL = everywhere("is not allowed")
_OBJECT = pickle.dumps(_Call(os.system, _COMMAND))
_DEEP = b"(" * 9000

CASES: Listed = {
    # Code.
    "os.system in annotations": (annotations(_OBJECT), _CALL),
    "os.system in scene_info": (annotations(_OBJECT, metadata.SCENE_INFO), _CALL),
    "os.system in the episode table": (
        written(on_disk.EPISODE_TABLE, npy(np.array(_Call(os.system, _COMMAND), object))),
        everywhere("holds Python objects"),
    ),
    "os.system in a needed array": (
        edited(FIRST, actions=np.array(_Call(os.system, _COMMAND), object)),
        {"index": "actions holds Python objects"},
    ),
    "os.system in another array": (
        edited(FIRST, info=np.array(_Call(os.system, _COMMAND), object)),
        {"inspect": "info is no array", "index": Fine()},
    ),
    "exec": (annotations(pickle.dumps(_Call(exec, _CODE))), _CALL),
    "eval among tasks": (
        annotations(pickle.dumps({"language": {"task": [_Call(eval, _CODE)]}})),
        _CALL,
    ),
    "eval in an object array": (
        annotations(pickle.dumps(np.array([_Call(eval, _CODE)], object))),
        _CALL,
    ),
    "call at protocol 0": (annotations(pickle.dumps(_Call(exec, _CODE), protocol=0)), _CALL),
    "call as old instruction": (annotations(f"(S'{_COMMAND}'\nios\nsystem\n.".encode()), _CALL),
    "call as a key": (annotations(pickle.dumps({(1, _Call(exec, _CODE)): 1})), _CALL),
    "__setstate__ of an instance": (
        annotations(b"ctypes\nSimpleNamespace\n(tR}S'__setstate__'\ncos\nsystem\nsb."),
        _CALL,
    ),
    "getattr": (annotations(b"c__builtin__\ngetattr\n."), _CALL),
    "np.load": (annotations(b"cnumpy\nload\n(S'x'\ntR."), _CALL),
    "persistent id": (annotations(b"Psystem\n."), _CALL),
    "registered extension": (annotations(b"\x82\x01."), _CALL),
    "addresses as objects": (
        annotations(
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
            b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\nS'aaaaaaaa'\ntb."
        ),
        _REFUSED,
    ),
    "os.system in YAML": (
        written(metadata.RECORDING, f"!!python/object/apply:os.system ['{_COMMAND}']".encode()),
        everywhere("not valid YAML"),
    ),
    "code in a header": (
        written(on_disk.EPISODE_TABLE, header(b"__import__('os').system('touch canary')\n")),
        everywhere("damaged header"),
    ),
    # Memory and time: pickles.
    "memo of 2^27": (
        annotations(b"\x80\x04Nr" + struct.pack("<I", 1 << 27) + b"."),
        everywhere("language.ann is None"),
    ),
    "lists of lists, wide": (annotations(pickle.dumps(shared(9, 10))), everywhere("expected")),
    "lists of lists, deep": (annotations(pickle.dumps(shared(60, 2))), everywhere("too deeply")),
    "sentences of lists": (
        annotations(of_language(shared(9, 10))),
        everywhere("10 sentences|expected a text"),
    ),
    "hash without end": (annotations(keys_of_keys()), everywhere("as a key")),
    "list in itself": (annotations(b"]q\0h\0a."), everywhere("holds itself")),
    "string of 2^40 bytes": (annotations(b"\x8d" + struct.pack("<Q", 1 << 40)), _REFUSED),
    "bytearray of 2^33": (annotations(b"\x96" + struct.pack("<Q", 1 << 33)), _REFUSED),
    "number of 2^31 bytes": (annotations(b"\x8b" + struct.pack("<i", 2**31 - 1)), _REFUSED),
    "two million containers": (annotations(b"}" * 2_000_000), everywhere("instructions")),
    "nested 100,000 times": (
        annotations(b"]" * 100_000 + b"a" * 99_999 + b"."),
        everywhere("too deeply"),
    ),
    "array of 2^50": (
        annotations(
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
            b"(I1\n(I1125899906842624\ntcnumpy\ndtype\n(S'f8'\nI0\nI1\ntRI00\nS'a'\ntb."
        ),
        _REFUSED,
    ),
    # Memory and time: archives and headers.
    "deflated bomb": (bomb, {"inspect": "claims", "index": "claims"}),
    "claims 4 GB": (claimed(24, 2**32 - 2), {"inspect": "claims", "index": "claims"}),
    "claims 4 GB, packed too": (claimed(20, (2**32 - 2) << 32 | 2**23, 8), {"index": "claims"}),
    "claims 65,535 arrays": (end_claims(10, 65535, 2), {"index": "claims 65,535"}),
    "contents of 4 GB": (end_claims(12, 2**32 - 1, 4), {"index": "claims"}),
    "contents far away": (end_claims(16, 2**32 - 1, 4), {"index": "truncated or damaged"}),
    "an array twice": (members(("actions", b"")), everywhere("actions is there twice")),
    "table claims 2^60 rows": (
        written(
            on_disk.EPISODE_TABLE,
            header(
                b"{'descr': '<i8', 'fortran_order': False, 'shape': (1152921504606846976, 2)}\n"
            ),
        ),
        everywhere("has 0 bytes"),
    ),
    "header of 4 GB": (
        written(on_disk.EPISODE_TABLE, b"\x93NUMPY\2\0\xff\xff\xff\xff"),
        everywhere("damaged header"),
    ),
    "header nested": (written(on_disk.EPISODE_TABLE, header(_DEEP)), everywhere("damaged header")),
    "header never closed": (
        written(on_disk.EPISODE_TABLE, header(b"{'descr': '<i8', 'shape': (2,")),
        everywhere("damaged header"),
    ),
    "another array's header nested": (
        members(("info.npy", header(_DEEP))),
        {"inspect": "info is no array", "index": Fine()},
    ),
    # YAML.
    "aliases in the recording": (
        written(metadata.RECORDING, aliases(9, 10)),
        everywhere("spelled out"),
    ),
    "aliases in the statistics": (
        written(metadata.STATISTICS, aliases(9, 10)),
        {"inspect": "spelled out"},
    ),
    "alias of itself": (
        written(metadata.RECORDING, b"scene: &a [*a]"),
        everywhere("a holds itself"),
    ),
    "merged keys": (
        written(
            metadata.RECORDING,
            b"a: &a {k: 1}\n"
            + b"".join(
                b"%c: &%c {<<: [%s]}\n" % (at, at, b",".join([b"*%c" % (at - 1)] * 10))
                for at in range(ord("b"), ord("l"))
            ),
        ),
        everywhere("spelled out"),
    ),
    "YAML nested": (written(metadata.RECORDING, b"[" * 20_000), everywhere("nested deeper")),
    "YAML of a megabyte": (written(metadata.RECORDING, b"- a\n" * 250_000), everywhere("at most")),
    "number of 200,000 digits": (
        written(metadata.RECORDING, b"scene: " + b"9" * 200_000),
        everywhere("a number of"),
    ),
    # Paths.
    **{
        f"member {name}": (members((name, npy(np.zeros(3)))), {"index": Fine()})
        for name in ("../../escaped.npy", "/tmp/escaped.npy", "a\\..\\..\\escaped.npy")
    },
    "member of an escape sequence": (
        members(("\x1b]0;x\x07.npy", npy(np.zeros(3)))),
        {"index": Fine()},
    ),
}
