"""Raw data sets that are damaged in one way each, and what the commands have to say."""

import shutil
from pathlib import Path

import numpy as np

from pipeline.calvin import language, metadata, on_disk, small_files
from tests.drill.raw_damage import (
    FIRST,
    INNER,
    SPLIT,
    Fine,
    Listed,
    annotated,
    cut,
    dangling,
    edited,
    element,
    everywhere,
    instead,
    loop,
    narrow_name,
    no_frames,
    no_validation_annotations,
    npy_as_frame,
    npz_as_table,
    other_folder,
    pickled,
    pipe,
    removed,
    stray_frame,
    table,
    two_folders,
    whole_split,
    written,
)

_NAME = on_disk.frame_name(INNER)
_MISSING = everywhere("episode_0000120.npz: frame missing")
_NO_FILE = everywhere("expected a file")
_VECTORS = ("actions", "rel_actions", "robot_obs", "scene_obs")
_CONVERT = ("inspect", "convert")
_LINK = everywhere("symbolic links")

CASES: Listed = {
    # Frames.
    "frame missing": (removed(_NAME), _MISSING),
    "frame a dangling link": (instead(_NAME, dangling), _MISSING | {"index": "a link to nothing"}),
    "frame a link to itself": (instead(_NAME, loop), _MISSING | {"index": "symbolic links"}),
    "frame a directory": (instead(_NAME, Path.mkdir), _MISSING | {"index": "a directory"}),
    "frame a named pipe": (instead(_NAME, pipe), _MISSING | {"index": "a named pipe"}),
    "frame became a pipe": (instead(_NAME, pipe), {"convert": "a named pipe; expected a file"}),
    "frame vanished": (removed(_NAME), {"convert": "frame file not found"}),
    "frame empty": (written(_NAME, b""), everywhere("no table of contents", *_CONVERT)),
    "frame cut": (cut(_NAME), everywhere("no table of contents", *_CONVERT)),
    "frame of text": (written(_NAME, b"lost"), everywhere("no table of contents", *_CONVERT)),
    "frame a single array": (
        instead(_NAME, npy_as_frame),
        everywhere("a single .npy array", *_CONVERT),
    ),
    "frame of another width": (narrow_name, everywhere("digits")),
    "frame of a 20-digit name": (
        written("episode_99999999999999999999.npz", b""),
        {"index": Fine()},
    ),
    "stray frame": (stray_frame, {"inspect": "no episode", "index": Fine("no episode")}),
    **{
        f"{name} missing": (edited(**{name: None}), everywhere(f"{name} is missing", *_CONVERT))
        for name in (*_VECTORS, "rgb_static")
    },
    **{
        f"{name} too long": (
            edited(**{name: np.zeros(31)}),
            everywhere(rf"{name} has shape \(31,\)", *_CONVERT),
        )
        for name in _VECTORS
    },
    **{
        f"{name} not a number": (
            element(name, 1, np.nan),
            everywhere(rf"{name}\[1\] is nan", *_CONVERT),
        )
        for name in _VECTORS
    },
    "actions infinite": (
        element("actions", 0, np.inf),
        everywhere(r"actions\[0\] is inf", *_CONVERT),
    ),
    "robot_obs impossible": (
        element("robot_obs", 0, 1e30),
        everywhere(r"robot_obs\[0\] is 1e\+30", *_CONVERT),
    ),
    "actions of integers": (
        edited(actions=np.zeros(7, int)),
        everywhere("actions is int64", *_CONVERT),
    ),
    "actions of objects": (
        edited(actions=np.array([None] * 7)),
        everywhere("actions holds Python objects", *_CONVERT),
    ),
    "first frame of objects": (
        edited(FIRST, robot_obs=np.array({})),
        {"index": "robot_obs holds Python objects"},
    ),
    "info of objects": (
        edited(FIRST, info=np.array({"reward": 1})),
        {"inspect": "info is no array", "index": Fine()},
    ),
    "image of floats": (
        edited(rgb_static=np.zeros((64, 64, 3))),
        everywhere("rgb_static is float64", *_CONVERT),
    ),
    "image of another size": (
        edited(rgb_static=np.zeros((80, 80, 3), np.uint8)),
        everywhere(r"rgb_static has shape \(80, 80, 3\)", *_CONVERT),
    ),
    "image grey": (
        edited(FIRST, rgb_static=np.zeros((64, 64), np.uint8)),
        everywhere(r"rgb_static has shape \(64, 64\)"),
    ),
    "image too small": (
        edited(FIRST, rgb_gripper=np.zeros((8, 8, 3), np.uint8)),
        everywhere(r"rgb_gripper has shape \(8, 8, 3\)"),
    ),
    # Tables.
    "table missing": (removed(on_disk.EPISODE_TABLE), everywhere("not found")),
    "table cut": (cut(on_disk.EPISODE_TABLE), everywhere("not a valid .npy file|damaged header")),
    "table empty": (written(on_disk.EPISODE_TABLE, b""), everywhere("is no .npy array")),
    "table an archive": (
        instead(on_disk.EPISODE_TABLE, npz_as_table),
        everywhere("is an .npz archive"),
    ),
    "table a named pipe": (instead(on_disk.EPISODE_TABLE, pipe), _NO_FILE),
    "table a directory": (instead(on_disk.EPISODE_TABLE, Path.mkdir), _NO_FILE),
    "table a link to itself": (instead(on_disk.EPISODE_TABLE, loop), _LINK),
    "table without rows": (table(np.zeros((0, 2), int)), everywhere("holds no episode")),
    "table of floats": (table([[100.0, 139.0]]), everywhere("expected integers")),
    "table of triples": (table([[100, 139, 1]]), everywhere("expected integers of shape")),
    "table of objects": (
        pickled(on_disk.EPISODE_TABLE, [[100, 139]]),
        everywhere("holds Python objects"),
    ),
    "episode reversed": (table([[139, 100]]), everywhere(r"episode \[139, 100\]")),
    "episodes overlap": (table([[100, 139], [139, 150]]), everywhere("overlap")),
    "episode of 100 billion frames": (
        table([[0, 10**11]]),
        {"inspect": "100,000,000,000|frame missing", "index": "missing in all: 99999999881"},
    ),
    "episode to the last id": (table([[0, 2**63 - 1]]), everywhere("expected frame ids")),
    "episode of unsigned ids": (
        table(np.array([[0, 2**64 - 1]], np.uint64)),
        everywhere("expected frame ids"),
    ),
    "episode negative": (table([[-5, 139]]), everywhere(r"episode \[-5, 139\]")),
    "lengths of one more": (
        lambda root: small_files.write_npy(root / SPLIT / on_disk.EPISODE_LENGTHS, np.array([40])),
        {"inspect": "1 lengths"},
    ),
    # Annotations.
    "annotations missing": (
        removed(language.ANNOTATIONS),
        {"inspect": "not found", "extract": "auto_lang_ann.npy: not found"},
    ),
    "no validation annotations": (
        no_validation_annotations,
        {"inspect": "#115, #121", "extract": "auto_lang_ann.npy: not found"},
    ),
    "annotations in the folder of another model": (
        other_folder,
        {"inspect": "lang_clip", "index": Fine("lang_clip_resnet50"), "extract": Fine()},
    ),
    "annotations in two other folders": (two_folders, everywhere("lang_bert.*link one of these")),
    "annotations a named pipe": (instead(language.ANNOTATIONS, pipe), _NO_FILE),
    "annotations a dangling link": (
        instead(language.ANNOTATIONS, dangling),
        everywhere("not found"),
    ),
    "annotations cut": (cut(language.ANNOTATIONS), everywhere("refused or damaged pickle")),
    "annotations a list": (pickled(language.ANNOTATIONS, [1, 2]), everywhere("expected a list")),
    "annotations without info": (
        pickled(language.ANNOTATIONS, {"language": {"ann": [], "task": []}}),
        everywhere("info.indx is None"),
    ),
    "tasks too few": (annotated(task=()), everywhere("1 sentences, 0 tasks")),
    "task a number": (annotated(task=(5,)), everywhere(r"language.task\[0\] is 5")),
    "task a list": (annotated(task=(["close_drawer"],)), everywhere(r"language.task\[0\] is of")),
    "task of another name": (
        annotated(task=("closs_drawer",)),
        {"inspect": "closs_drawer", "extract": "no annotated window"},
    ),
    "sentence in two wordings": (
        annotated(ann=(["push the drawer", "shut it"],)),
        {"inspect": "several sentences", "index": Fine("several sentences for a window")},
    ),
    "sentence without wording": (annotated(ann=([],)), everywhere(r"language.ann\[0\] is of type")),
    "sentence in half a character": (annotated(ann=("\ud800",)), everywhere("valid Unicode")),
    "window of 1e30": (annotated(indx=((0, 1e30),)), everywhere("holds 1e\\+30")),
    "window infinite": (annotated(indx=((0, np.inf),)), everywhere("holds inf")),
    "window of half a frame": (annotated(indx=((0, 1.5),)), everywhere("holds 1.5")),
    "window of 2^63": (annotated(indx=((0, 2**63),)), everywhere("expected frame ids")),
    "window of three": (annotated(indx=((0, 1, 2),)), everywhere("expected two frame ids")),
    "window empty": (annotated(indx=((102, 102),)), {"inspect": "window", "index": "is empty"}),
    "window outside": (
        annotated(indx=((5000, 5040),)),
        {"inspect": "frames of one episode", "extract": "no annotated window|do not lie"},
    ),
    # What the frames were made with.
    "recording no mapping": (
        written(metadata.RECORDING, b"- 1\n"),
        {"inspect": "scene", "index": Fine()},
    ),
    "recording no YAML": (written(metadata.RECORDING, b"{a: [1"), everywhere("not valid YAML")),
    "recording in Latin-1": (written(metadata.RECORDING, b"a: \xe9\n"), everywhere("not UTF-8")),
    "recording with a key twice": (
        written(metadata.RECORDING, b"env: {use_egl: true}\nenv: {use_egl: false}\n"),
        everywhere("line 2: key 'env' is there twice"),
    ),
    "robot a list": (
        written(metadata.RECORDING, b"robot: {model: [1]}"),
        everywhere("robot.model"),
    ),
    "recording a named pipe": (instead(metadata.RECORDING, pipe), _NO_FILE),
    "statistics no mapping": (written(metadata.STATISTICS, b"- 1\n"), {"inspect": "a mapping"}),
    "statistics a named pipe": (instead(metadata.STATISTICS, pipe), {"inspect": "a named pipe"}),
    "scene of frame 1e20": (
        pickled(metadata.SCENE_INFO, {"calvin_scene_D": [0, 1e20]}),
        everywhere("holds 1e\\+20"),
    ),
    "scenes a list": (pickled(metadata.SCENE_INFO, ["calvin_scene_D"]), everywhere("scene name")),
    "scene of a number": (
        pickled(metadata.SCENE_INFO, {5: [0, 1]}),
        everywhere("scene name is 5"),
    ),
    "scene info a dangling link": (
        instead(metadata.SCENE_INFO, dangling),
        everywhere("not found"),
    ),
    # Directories.
    "no validation": (
        lambda root: shutil.rmtree(root / "validation"),
        {"inspect": "validation/: not found", "index": "validation: directory not found"},
    ),
    "no training": (
        lambda root: shutil.rmtree(root / "training"),
        {"inspect": "training/: not found", "index": "training: directory not found"},
    ),
    "training a file": (
        whole_split(lambda path: path.touch()),
        {"inspect": "training/: not found", "index": "training: directory not found"},
    ),
    "training a link to itself": (
        whole_split(loop),
        {"inspect": "training/: not found", "index": "training"},
    ),
    "training without frames": (no_frames, everywhere("no frame file")),
}
