"""The arrays of a frame: keys, dtypes, shapes, readable files. Source: docs/calvin.md 1.3."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipeline.calvin.conformance.survey import SplitSurvey
from pipeline.calvin.conformance.table import finding
from pipeline.calvin.fields import CAMERAS, DTYPES, RAW_KEYS, VECTORS, image_expectation
from pipeline.calvin.finding import Finding
from pipeline.calvin.metadata import RECORDING
from pipeline.calvin.npz import Kind
from wam.config import IMAGE_SIZE

DOCUMENTED: dict[str, Kind] = {
    "rgb_static": ("uint8", (200, 200, 3)),
    "rgb_gripper": ("uint8", (84, 84, 3)),
    "rgb_tactile": ("uint8", (160, 120, 6)),
    "depth_static": ("float32", (200, 200)),
    "depth_gripper": ("float32", (84, 84)),
    "depth_tactile": ("float32", (160, 120, 2)),
    **{name: ("float64", field.shape) for name, field in VECTORS.items()},
}
"""Dtype and shape of every array as CALVIN's files hold it; its documentation says float32."""


def arrays(split: SplitSurvey) -> Iterator[Finding]:
    """Frames that cannot be read, and keys, dtypes and shapes of the others' arrays."""
    sample = split.sample
    if sample.damaged:
        frame_id, problem = sample.damaged[0]
        file = split.frame_file(frame_id)
        yield finding("damaged-frames", file, problem, len(sample.damaged))
    merged: dict[Finding, Finding] = {}
    for layout, (count, first) in sample.layouts.items():
        for found in _problems(dict(layout), sample.arrays):
            known = merged.get(found, replace(found, file=split.frame_file(first), count=0))
            merged[found] = replace(known, count=known.count + count)
    yield from merged.values()


def _problems(listed: Mapping[str, Kind], usual: Mapping[str, Kind]) -> Iterator[Finding]:
    """All that is wrong with one frame's arrays, of no file yet; ``usual`` are most frames'."""
    for key in RAW_KEYS:
        if key not in listed:
            yield finding("key-missing", "", f"{key} is missing", expected=", ".join(RAW_KEYS))
    for key in sorted((set(usual) & set(DOCUMENTED)) - set(listed) - set(RAW_KEYS)):
        yield finding("key-differs", "", f"{key} is missing")
    unlike = []
    for key, kind in listed.items():
        if key not in DOCUMENTED:
            found, expected = f"{key} is no array of CALVIN's", ", ".join(DOCUMENTED)
            yield finding("key-unexpected", "", found, expected=expected)
        elif key in RAW_KEYS and (problem := _problem(key, kind, usual.get(key, kind))):
            yield problem
        elif kind != DOCUMENTED[key]:
            unlike.append(key)
    for check, keys in (
        ("image-size", [key for key in unlike if key in CAMERAS]),
        ("float32", [key for key in unlike if key in VECTORS]),
        ("unused-array", [key for key in unlike if key not in RAW_KEYS]),
    ):
        if keys:
            expected = _text(keys, DOCUMENTED)
            yield finding(check, "", _text(keys, listed), expected=expected, size=IMAGE_SIZE)


def _problem(key: str, kind: Kind, usual: Kind) -> Finding | None:
    """What is wrong with an image or a vector that is of kind ``usual`` in most frames."""
    dtype, shape = kind
    is_image = key in CAMERAS
    fits = image_expectation(shape) is None if is_image else shape == VECTORS[key].shape
    needed = f"{(IMAGE_SIZE, IMAGE_SIZE, 3)} or larger" if is_image else DOCUMENTED[key][1]
    of_dtype, of_shape = f"{key} is {dtype}", f"{key} has shape {shape}"
    for check, is_wrong, found, expected in (
        ("dtype", dtype not in DTYPES[key], of_dtype, " or ".join(DTYPES[key])),
        ("shape", not fits, of_shape, needed),
        ("image-shapes-differ", is_image and shape != usual[1], of_shape, usual[1]),
        ("dtype-differs", not is_image and dtype != usual[0], of_dtype, usual[0]),
    ):
        if is_wrong:
            return finding(check, "", found, expected=expected)
    return None


def _text(keys: list[str], arrays: Mapping[str, Kind]) -> str:
    return ", ".join(f"{key} {arrays[key][0]} {arrays[key][1]}" for key in keys)


def camera_sizes(split: SplitSurvey) -> Iterator[Finding]:
    """Image sizes against the recording configuration."""
    for camera, size in split.recording.cameras.items() if split.recording else ():
        _, shape = split.sample.arrays.get(f"rgb_{camera}", ("", ()))
        if len(shape) == 3 and shape[:2] != size:
            found = f"camera {camera} of {size[0]}x{size[1]} pixels"
            expected = f"{shape[0]}x{shape[1]}"
            file = split.file(RECORDING)
            yield finding("camera-size", file, found, camera=camera, expected=expected)
