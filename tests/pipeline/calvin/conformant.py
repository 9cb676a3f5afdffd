"""A data set that conforms to CALVIN's format, and ways to damage it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.artifacts.layout import SPLITS
from pipeline.calvin import actions, conformance, language, metadata, on_disk, small_files
from pipeline.calvin.conformance import arrays
from wam.tasks import DRAWER, LED

EPISODE = 36
FIRST_IDS = {"training": (100, 136, 200), "validation": (0,)}
TRAINING, VALIDATION = SPLITS

Frame = dict[str, np.ndarray]


def robot_obs(position: int) -> np.ndarray:
    """A smooth path on which roll jumps from pi to -pi and the gripper moves now and then."""
    state = np.zeros(15)
    state[:3] = 0.1 * np.sin(position / 10), -0.2, 0.5
    state[3:6] = (3.0 + 0.01 * position + np.pi) % (2 * np.pi) - np.pi, 0.0, 1.5
    state[6] = 0.04
    state[7:14] = -1.2, 1.0, 2.1, -2.3, -0.9, 1.6, 0.6
    state[14] = 1.0 if position % 20 < 10 else -1.0
    return state


def scene_obs(position: int) -> np.ndarray:
    """The drawer closes around a block, which only fits in scenes B and D, and the LED goes on."""
    state = np.zeros(24)
    state[DRAWER] = 0.2 * (1 - position / (EPISODE - 1))
    state[LED] = position >= EPISODE // 2
    state[6:9], state[12:15], state[18:21] = (0.05, -0.12, 0.46), (0.2, -0.1, 0.46), (0.34, 0, 0.36)
    return state


def make_frame(position: int, shift: float) -> Frame:
    state, following = robot_obs(position), robot_obs(position + 1)
    state[1] += shift
    following[1] += shift
    action = actions.absolute(following)
    frame = {key: np.zeros(shape, dtype) for key, (dtype, shape) in arrays.DOCUMENTED.items()}
    return frame | {
        "actions": action,
        "rel_actions": actions.relative(action, state),
        "robot_obs": state,
        "scene_obs": scene_obs(position),
    }


def make_conformant(root: Path) -> None:
    """Three training episodes and a validation episode of 36 frames, with every file."""
    for split, first_ids in FIRST_IDS.items():
        directory = root / split
        windows = []
        for first in first_ids:
            for position in range(EPISODE):
                on_disk.write_frame(directory, first + position, make_frame(position, 1e-5 * first))
            window = (first + 1, first + 35)
            windows.append(language.Annotation("close_drawer", "push the drawer shut", *window))
            windows.append(language.Annotation("turn_on_led", "press the button", *window))
        metadata.write_split(directory, [(first, first + EPISODE - 1) for first in first_ids])
        language.write_annotations(directory, windows)
        metadata.write_recording_config(
            directory,
            metadata.Recording(
                "D",
                "tiny",
                "light",
                {"static": (200, 200), "gripper": (84, 84)},
                use_nullspace=True,
            ),
        )
    metadata.write_scene_info(root / "training", {"calvin_scene_D": (0, 235)})


def checks(path: Path, frames: int | None = 4) -> set[tuple[str, str]]:
    return {(found.severity, found.check) for found in conformance.check(path, frames)}


def change(
    edit: Callable[[Frame], object], split: str = TRAINING, frame_id: int = 100
) -> Callable[[Path], None]:
    """Damage one frame, the first of an episode if not told otherwise."""

    def damage(root: Path) -> None:
        path = on_disk.frame_path(root / split, frame_id)
        frame = dict(np.load(path))
        edit(frame)
        path.unlink()
        np.savez_compressed(path, allow_pickle=False, **frame)

    return damage


def change_all(edit: Callable[[Frame], object], *splits: str) -> Callable[[Path], None]:
    """Damage all frames of the splits."""

    def damage(root: Path) -> None:
        for split in splits:
            for frame_id, _, _ in on_disk.list_frames(root / split):
                change(edit, split, frame_id)(root)

    return damage


def set_element(name: str, place: int, value: float) -> Callable[[Path], None]:
    def edit(frame: Frame) -> None:
        frame[name][place] = value

    return change(edit)


def set_array(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return change(lambda frame: frame.update({name: array}))


def cast(frame: Frame) -> None:
    frame.update({name: frame[name].astype(np.float32) for name in ("actions", "robot_obs")})


def remove(name: str | Path, split: str = TRAINING) -> Callable[[Path], None]:
    return lambda root: (root / split / name).unlink()


def garble(name: str | Path) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / TRAINING / name).unlink()
        (root / TRAINING / name).write_bytes(b"\x93: {garbage")

    return damage


def table(*rows: tuple[int, int], split: str = TRAINING) -> Callable[[Path], None]:
    """Another episode table, with lengths that fit."""

    def damage(root: Path) -> None:
        lengths = [abs(last - first) + 1 if last != first - 1 else 0 for first, last in rows]
        small_files.write_npy(root / split / on_disk.EPISODE_TABLE, np.array(rows))
        small_files.write_npy(root / split / on_disk.EPISODE_LENGTHS, np.array(lengths))

    return damage


def lengths(*values: int) -> Callable[[Path], None]:
    return lambda root: small_files.write_npy(
        root / TRAINING / on_disk.EPISODE_LENGTHS, np.array(values)
    )


def edit_yaml(name: str | Path, edit: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / TRAINING / name
        content = yaml.safe_load(path.read_text())
        edit(content)
        path.unlink()
        path.write_text(yaml.safe_dump(content))

    return damage


def record(split: str = TRAINING, **changes: Any) -> Callable[[Path], None]:
    """Another recording configuration."""

    def damage(root: Path) -> None:
        recording = metadata.read_recording_config(root / split)
        metadata.write_recording_config(root / split, replace(recording, **changes))

    return damage


def scene_info(**ranges: tuple[int, int]) -> Callable[[Path], None]:
    return lambda root: metadata.write_scene_info(
        root / TRAINING, {f"calvin_scene_{letter}": ids for letter, ids in ranges.items()}
    )


def annotate(task: str, start: int, stop: int) -> Callable[[Path], None]:
    """One more annotation."""

    def damage(root: Path) -> None:
        listed = language.read_annotation_file(root / TRAINING).annotations
        sentence = listed[0].sentence
        language.write_annotations(
            root / TRAINING, [*listed, language.Annotation(task, sentence, start, stop)]
        )

    return damage


def copy_frame(frame_id: int) -> Callable[[Path], None]:
    """A frame that no episode has."""
    return lambda root: shutil.copy(
        on_disk.frame_path(root / TRAINING, 100), on_disk.frame_path(root / TRAINING, frame_id)
    )


def truncate(root: Path) -> None:
    path = on_disk.frame_path(root / TRAINING, 120)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def shift_position(frame: Frame) -> None:
    """An action that leads elsewhere, and its relative form."""
    frame["actions"][0] += 0.005
    frame["rel_actions"] = actions.relative(frame["actions"], frame["robot_obs"])


def halve_relative(frame: Frame) -> None:
    frame["rel_actions"][:6] *= 0.5
    frame["rel_actions"][2] = 0.1


def all_gone(root: Path) -> None:
    for _, _, name in on_disk.list_frames(root / VALIDATION):
        (root / VALIDATION / name).unlink()


def reuse_frames(root: Path) -> None:
    """Validation also holds the first frames of training."""
    for frame_id in (100, 101, 102):
        os.link(*(on_disk.frame_path(root / split, frame_id) for split in SPLITS))
    table((0, 35), (100, 102), split=VALIDATION)(root)


def reuse_ids(root: Path) -> None:
    """Validation has its own frames under ids of training."""
    directory = root / VALIDATION
    for frame_id, _, name in on_disk.list_frames(directory):
        (directory / name).rename(on_disk.frame_path(directory, frame_id + 100))
    table((100, 135), split=VALIDATION)(root)
    moved = [
        replace(window, start=window.start + 100, stop=window.stop + 100)
        for window in language.read_annotations(directory)
    ]
    language.write_annotations(directory, moved)


def shrink(*splits: str) -> Callable[[Path], None]:
    """Images of another size, as the recording configuration says."""
    image = np.zeros((64, 64, 3), np.uint8)

    def damage(root: Path) -> None:
        change_all(lambda frame: frame.update(rgb_static=image), *splits)(root)
        for split in splits:
            record(split, cameras={"static": (64, 64), "gripper": (84, 84)})(root)

    return damage


def drop_renderer(content: Any) -> None:
    del content["env"]["use_egl"]


def old_prefix(content: Any) -> None:
    content["scene_obs"][0]["_target_"] = "calvin_models.utils.transforms.NormalizeVector"


def rename_annotations(root: Path) -> None:
    folder = root / TRAINING / language.ANNOTATIONS.parent
    folder.rename(folder.with_name("lang_clip_resnet50"))


def rephrase(root: Path) -> None:
    path = root / TRAINING / language.ANNOTATIONS
    content = np.load(path, allow_pickle=True).item()
    content["language"]["ann"][0] = [content["language"]["ann"][0], "in other words"]
    path.unlink()
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


def replace_by_directory(root: Path) -> None:
    path = on_disk.frame_path(root / TRAINING, 120)
    path.unlink()
    path.mkdir()


def pickle_frame(root: Path) -> None:
    path = on_disk.frame_path(root / TRAINING, 120)
    path.unlink()
    np.savez(path, actions=np.array({"an": "object"}, dtype=object))
