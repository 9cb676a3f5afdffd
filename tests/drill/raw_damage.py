"""Ways to damage the raw frames of a tiny project, and what a command may say of it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calvin import language, on_disk, small_files


class Fine(str):
    """What a command says that ends with status 0; a plain string is said with status 1."""


Damage = Callable[[Path], None]
Listed = dict[str, tuple[Damage, dict[str, str]]]

SPLIT = "training"
FIRST, INNER = 100, 120
"""Frames of the first episode; the first frame tells ``index`` what the others must be like."""


def frame(root: Path, frame_id: int = INNER) -> Path:
    return on_disk.frame_path(root / SPLIT, frame_id)


def edited(frame_id: int = INNER, **changes: Any) -> Damage:
    """Replace arrays of a frame; None removes one."""

    def damage(root: Path) -> None:
        path = frame(root, frame_id)
        with np.load(path) as archive:
            arrays = {**archive, **changes}
        path.unlink()
        np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})

    return damage


def element(name: str, at: int, value: float) -> Damage:
    """Another number in a vector of a frame."""

    def damage(root: Path) -> None:
        with np.load(frame(root)) as archive:
            vector = archive[name].copy()
        vector[at] = value
        edited(**{name: vector})(root)

    return damage


def written(name: str | Path, content: bytes) -> Damage:
    """Another content of a file."""

    def damage(root: Path) -> None:
        path = root / SPLIT / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return damage


def removed(name: str | Path, split: str = SPLIT) -> Damage:
    return lambda root: (root / split / name).unlink()


def cut(name: str | Path) -> Damage:
    """The second half of a file is lost."""

    def damage(root: Path) -> None:
        content = (root / SPLIT / name).read_bytes()
        (root / SPLIT / name).write_bytes(content[: len(content) // 2])

    return damage


def instead(name: str | Path, make: Damage) -> Damage:
    """Something else called like a file: ``make`` gets the path."""

    def damage(root: Path) -> None:
        path = root / SPLIT / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        make(path)

    return damage


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def table(rows: Any) -> Damage:
    return lambda root: small_files.write_npy(root / SPLIT / on_disk.EPISODE_TABLE, np.array(rows))


def pickled(name: str | Path, content: Any) -> Damage:
    """A pickled object array as CALVIN's small files are."""

    def damage(root: Path) -> None:
        path = root / SPLIT / name
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.array(content, dtype=object), allow_pickle=True)

    return damage


def annotated(
    ann: Any = ("push",), task: Any = ("close_drawer",), indx: Any = ((102, 134),)
) -> Damage:
    """Annotations with other content."""
    return pickled(
        language.ANNOTATIONS,
        {"language": {"ann": ann, "task": task}, "info": {"indx": indx, "episodes": []}},
    )


def no_validation_annotations(root: Path) -> None:
    """Zips of mees/calvin#115 and mees/calvin#121 lack them."""
    (root / "validation" / language.ANNOTATIONS).unlink()


def stray_frame(root: Path) -> None:
    """A frame of no episode, as ABCD has some (mees/calvin#40)."""
    shutil.copy(frame(root), frame(root, 99))


def npy_as_frame(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(7))


def npz_as_table(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, table=np.array([[100, 139]]))


def two_folders(root: Path) -> None:
    """Annotations of two language models, none in the usual folder."""
    usual = root / SPLIT / language.ANNOTATIONS.parent
    shutil.copytree(usual, usual.with_name("lang_bert"))
    usual.rename(usual.with_name("lang_clip_resnet50"))


def other_folder(root: Path) -> None:
    usual = root / SPLIT / language.ANNOTATIONS.parent
    usual.rename(usual.with_name("lang_clip_resnet50"))


def whole_split(make: Damage) -> Damage:
    """Something else called like a split."""

    def damage(root: Path) -> None:
        shutil.rmtree(root / SPLIT)
        make(root / SPLIT)

    return damage


def no_frames(root: Path) -> None:
    for path in (root / SPLIT).glob("*.npz"):
        path.unlink()


def narrow_name(root: Path) -> None:
    frame(root).rename(on_disk.frame_path(root / SPLIT, INNER, digits=6))


def everywhere(word: str, *commands: str) -> dict[str, str]:
    return dict.fromkeys(commands or ("inspect", "index"), word)
