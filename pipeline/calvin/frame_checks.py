"""What a valid raw frame is: keys, shapes, dtypes, finite values, plausible ranges."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.calvin import on_disk
from pipeline.calvin.fields import CAMERAS, DEPTHS, TOLERANCE, VECTORS
from pipeline.calvin.npz import Kind
from wam.config import IMAGE_SIZE
from wam.errors import WamError


@dataclass(frozen=True)
class DroppedEpisode:
    """Something wrong with an episode that was dropped for it."""

    split: str
    episode: tuple[int, int]
    """Frame ids [start, stop)."""
    file: str
    problem: str


_BOUNDS = {
    name: (
        np.array([low for low, _ in field.bounds]) - TOLERANCE,
        np.array([high for _, high in field.bounds]) + TOLERANCE,
    )
    for name, field in VECTORS.items()
}
_FLOATS = (np.dtype(np.float64), np.dtype(np.float32))


def read_first_frame(path: Path, keys: Iterable[str]) -> dict[str, Kind]:
    """Dtype and shape of every array of a frame, after ``keys`` of it were checked.

    Raises WamError naming the file and the field as :func:`read_frame` and :func:`check_values` do.
    """
    _, kinds = on_disk.examine_frame(path, ())
    check_frame(path, kinds, keys)
    return kinds


def check_frame(path: Path, kinds: Mapping[str, Kind], keys: Iterable[str]) -> None:
    """Read ``keys`` of one frame; raises WamError if :func:`read_frame` or its values would."""
    frame = read_frame(path, kinds, keys)
    check_values([path], {name: frame[name][None] for name in VECTORS if name in frame})


def read_frame(path: Path, kinds: Mapping[str, Kind], keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays called ``keys`` of one frame; the values of vectors are yet to be checked.

    Raises WamError naming the file and the field if an array is missing, damaged, or of another
    shape or dtype than CALVIN's or than the other frames' (``kinds``).
    """
    frame = on_disk.read_frame(path, keys)
    for key, array in frame.items():
        if key in VECTORS:
            _check_vector(path, key, array)
        else:
            _check_array(path, key, array, kinds[key])
    return frame


def check_values(paths: Sequence[Path], vectors: Mapping[str, np.ndarray]) -> None:
    """Check the vectors [N, D] of the N frames at ``paths``, all at once.

    Raises WamError naming the file and the element of the first frame that has a value which is not
    finite or not plausible.
    """
    invalid = np.zeros(len(paths), bool)
    for name, values in vectors.items():
        invalid |= ~_valid(name, values).all(axis=1)
    if invalid.any():
        row = int(invalid.argmax())
        for name, values in vectors.items():
            _explain(paths[row], name, values[row])


def _valid(name: str, values: np.ndarray) -> np.ndarray:
    low, high = _BOUNDS[name]
    return (values >= low) & (values <= high)


def _explain(path: Path, name: str, value: np.ndarray) -> None:
    for at in np.flatnonzero(~_valid(name, value)).tolist():
        if not np.isfinite(value[at]):
            raise WamError(f"{path}: {name}[{at}] is {value[at]}; expected a finite number")
        lowest, highest = VECTORS[name].bounds[at]
        raise WamError(
            f"{path}: {name}[{at}] is {value[at]:g}; expected {lowest:g} to {highest:g} "
            f"({VECTORS[name].meaning})"
        )


def _check_vector(path: Path, name: str, value: np.ndarray) -> None:
    expected = (VECTORS[name].length,)
    if value.shape != expected:
        raise WamError(f"{path}: {name} has shape {value.shape}; expected {expected}")
    if value.dtype not in _FLOATS:
        raise WamError(f"{path}: {name} is {value.dtype}; expected float64")


def _check_array(path: Path, name: str, array: np.ndarray, kind: Kind) -> None:
    wanted = "uint8" if name in CAMERAS else "float32" if name in DEPTHS.values() else kind[0]
    if array.dtype != wanted:
        raise WamError(f"{path}: {name} is {array.dtype}; expected {wanted}")
    if array.shape != kind[1]:
        raise WamError(f"{path}: {name} has shape {array.shape}; other frames have {kind[1]}")
    if name in CAMERAS:
        _check_image(path, name, array)
    elif name in DEPTHS.values():
        _check_depth(path, name, array)


def _check_image(path: Path, name: str, image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3:
        raise WamError(f"{path}: {name} has shape {image.shape}; expected (height, width, 3)")
    if min(image.shape[:2]) < IMAGE_SIZE:
        raise WamError(
            f"{path}: {name} has shape {image.shape}; expected at least {IMAGE_SIZE}x{IMAGE_SIZE}"
        )


def _check_depth(path: Path, name: str, depth: np.ndarray) -> None:
    if depth.ndim != 2:
        raise WamError(f"{path}: {name} has shape {depth.shape}; expected (height, width)")
    if not (depth.min() >= 0 and depth.max() < np.inf):  # so written, NaN is found too
        raise WamError(f"{path}: {name} has a value that is not finite or negative; expected m")
