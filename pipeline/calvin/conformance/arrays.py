"""The arrays of a frame: keys, dtypes, shapes, readable files. Source: CALVIN contract 1.3."""

from collections.abc import Iterator

from pipeline.calvin import metadata
from pipeline.calvin.conformance.survey import Arrays, Split
from pipeline.calvin.fields import CAMERAS, RAW_KEYS, VECTORS
from pipeline.calvin.finding import Finding, Severity
from wam.config import IMAGE_SIZE

Problem = tuple[str, str, str]
"""Check, what was found, what was expected."""

DOCUMENTED: Arrays = {
    "rgb_static": ("uint8", (200, 200, 3)),
    "rgb_gripper": ("uint8", (84, 84, 3)),
    "rgb_tactile": ("uint8", (160, 120, 6)),
    "depth_static": ("float32", (200, 200)),
    "depth_gripper": ("float32", (84, 84)),
    "depth_tactile": ("float32", (160, 120, 2)),
    **{name: ("float64", (field.length,)) for name, field in VECTORS.items()},
}
"""Dtype and shape of every array as CALVIN's files hold it; its documentation says float32."""

_ARRAY_CHECKS: dict[str, tuple[Severity, str]] = {
    "key-missing": ("error", "The pipeline needs it"),
    "key-differs": ("warning", "Not used here, but other readers expect all frames alike"),
    "key-unexpected": ("note", "Left out unless convert.extra_keys names it"),
    "dtype": ("error", "The stage 'convert' refuses it"),
    "dtype-differs": ("warning", "Read alike here; the data may come from two sources"),
    "float32": ("note", "As documented; CALVIN's own files hold float64. Read alike"),
    "shape": ("error", "The stage 'convert' refuses it"),
    "image-shapes-differ": ("error", "The stage 'convert' refuses a second size"),
    "image-size": ("note", f"Images are resized to {IMAGE_SIZE}x{IMAGE_SIZE} anyway"),
    "unused-array": ("note", "Left out unless convert.depth or convert.extra_keys asks for it"),
}
"""Severity and advice of what can be wrong with a frame's arrays."""


def damaged_frames(split: Split) -> Iterator[Finding]:
    """Frames that cannot be read."""
    if split.sample.damaged:
        frame_id, problem = split.sample.damaged[0]
        yield Finding(
            check="damaged-frames",
            severity="error",
            file=split.frame_file(frame_id),
            found=problem,
            count=len(split.sample.damaged),
            expected="a readable .npz file",
            advice="Restore the files; 'wam inspect --frames all' finds every damaged one",
        )


def arrays(split: Split) -> Iterator[Finding]:
    """Keys, dtypes and shapes of the frames' arrays."""
    problems: dict[Problem, tuple[int, int]] = {}
    for layout, (count, first) in split.sample.layouts.items():
        listed = {key: (dtype, shape) for key, dtype, shape in layout}
        for problem in _array_problems(listed, split.sample.arrays):
            earlier_count, earlier = problems.get(problem, (0, first))
            problems[problem] = (earlier_count + count, earlier)
    for (check, found, expected), (count, first) in problems.items():
        severity, advice = _ARRAY_CHECKS[check]
        yield Finding(
            check=check,
            severity=severity,
            file=split.frame_file(first),
            found=found,
            count=count,
            expected=expected,
            advice=advice,
        )


def _array_problems(listed: Arrays, usual: Arrays) -> Iterator[Problem]:
    """Everything that is wrong with one frame's arrays; ``usual`` are those of most frames."""
    for key in RAW_KEYS:
        if key not in listed:
            yield "key-missing", f"{key} is missing", ", ".join(RAW_KEYS)
    for key in sorted((set(usual) & set(DOCUMENTED)) - set(listed) - set(RAW_KEYS)):
        yield "key-differs", f"{key} is missing", "the same arrays as in other frames"
    unlike = []
    for key, (dtype, shape) in listed.items():
        if key not in DOCUMENTED:
            yield "key-unexpected", f"{key} is no array of CALVIN's", ", ".join(DOCUMENTED)
            continue
        problem = None
        if key in RAW_KEYS:
            find = _image_problem if key in CAMERAS else _vector_problem
            problem = find(key, dtype, shape, usual.get(key, (dtype, shape)))
        if problem:
            yield problem
        elif (dtype, shape) != DOCUMENTED[key]:
            unlike.append(key)
    for check, keys in (
        ("image-size", [key for key in unlike if key in CAMERAS]),
        ("float32", [key for key in unlike if key in VECTORS]),
        ("unused-array", [key for key in unlike if key not in RAW_KEYS]),
    ):
        if keys:
            yield check, _text(keys, listed), _text(keys, DOCUMENTED)


def _image_problem(
    key: str, dtype: str, shape: tuple[int, ...], usual: tuple[str, tuple[int, ...]]
) -> Problem | None:
    if dtype != "uint8":
        return "dtype", f"{key} is {dtype}", "uint8"
    if len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < IMAGE_SIZE:
        return "shape", f"{key} has shape {shape}", f"{(IMAGE_SIZE, IMAGE_SIZE, 3)} or larger"
    if shape != usual[1]:
        return "image-shapes-differ", f"{key} has shape {shape}", f"{usual[1]} as in other frames"
    return None


def _vector_problem(
    key: str, dtype: str, shape: tuple[int, ...], usual: tuple[str, tuple[int, ...]]
) -> Problem | None:
    if dtype not in ("float32", "float64"):
        return "dtype", f"{key} is {dtype}", "float64 or float32"
    if shape != DOCUMENTED[key][1]:
        return "shape", f"{key} has shape {shape}", f"{DOCUMENTED[key][1]}"
    if dtype != usual[0]:
        return "dtype-differs", f"{key} is {dtype}", f"{usual[0]} as in other frames"
    return None


def _text(keys: list[str], arrays: Arrays) -> str:
    return ", ".join(f"{key} {arrays[key][0]} {arrays[key][1]}" for key in keys)


def camera_sizes(split: Split) -> Iterator[Finding]:
    """Image sizes against the recording configuration."""
    if not isinstance(split.recording, metadata.Recording):
        return
    for camera, size in split.recording.cameras.items():
        _, shape = split.sample.arrays.get(f"rgb_{camera}", ("", ()))
        if len(shape) == 3 and shape[:2] != size:
            yield Finding(
                check="camera-size",
                severity="warning",
                file=split.file(metadata.RECORDING),
                found=f"camera {camera} of {size[0]}x{size[1]} pixels",
                expected=f"{shape[0]}x{shape[1]}, as rgb_{camera} has",
                advice="The images may have been resized after the recording",
            )
