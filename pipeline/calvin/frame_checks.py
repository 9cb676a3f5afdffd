"""What a valid raw frame is: keys, shapes, dtypes, finite values, plausible ranges."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.calvin import on_disk
from pipeline.calvin.fields import CAMERAS, DEPTHS, DTYPES, VECTORS, image_expectation
from pipeline.calvin.npz import Kind
from wam.errors import WamError


@dataclass(frozen=True)
class InvalidFrame:
    """A frame that cannot be used."""

    split: str
    episode: tuple[int, int]
    """Frame ids [start, stop) of its episode."""
    frame_id: int
    file: str
    problem: str


def read_first_frame(path: Path, keys: Iterable[str]) -> dict[str, Kind]:
    """Dtype and shape of every array of a frame, after ``keys`` of it were checked.

    Raises WamError naming the file and the field as :func:`check_frame` does.
    """
    _, kinds = on_disk.examine_frame(path, ())
    check_frame(path, kinds, keys)
    return kinds


def check_frame(
    path: Path, kinds: Mapping[str, Kind], keys: Iterable[str]
) -> dict[str, np.ndarray]:
    """Read and check ``keys`` of one frame; errors as :func:`read_checked_frame`, and of values."""
    frame = read_checked_frame(path, kinds, keys)
    check_values([path], {name: frame[name][None] for name in VECTORS if name in frame})
    return frame


def read_checked_frame(
    path: Path, kinds: Mapping[str, Kind], keys: Iterable[str]
) -> dict[str, np.ndarray]:
    """The arrays called ``keys`` of one frame; the values of vectors are yet to be checked.

    Raises WamError naming the file and the field if an array is missing, damaged, or of another
    shape or dtype than CALVIN's or than the other frames' (``kinds``).
    """
    frame = on_disk.read_frame(path, keys)
    for key, array in frame.items():
        if problem := _problem(key, array, kinds[key]):
            raise WamError(f"{path}: {key} {problem}")
    return frame


def check_values(paths: Sequence[Path], vectors: Mapping[str, np.ndarray]) -> None:
    """Check the vectors [N, D] of the N frames at ``paths``, all at once.

    Raises WamError naming the file and the element of the first frame that has a value which is not
    finite or not plausible.
    """
    invalid = np.zeros(len(paths), bool)
    for name, values in vectors.items():
        invalid |= ~VECTORS[name].plausible(values).all(axis=1)
    if not invalid.any():
        return
    row = int(invalid.argmax())
    for name, values in vectors.items():
        field, value = VECTORS[name], values[row]
        for at in np.flatnonzero(~field.plausible(value)).tolist():
            element = f"{paths[row]}: {name}[{at}] is"
            if not np.isfinite(value[at]):
                raise WamError(f"{element} {value[at]}; expected a finite number")
            low, high = field.bounds[at]
            expected = "-1 or 1" if at == field.gripper else f"{low:g} to {high:g}"
            raise WamError(f"{element} {value[at]:g}; expected {expected} ({field.meaning})")


def _problem(name: str, array: np.ndarray, kind: Kind) -> str | None:
    """What is wrong with an array that is of ``kind`` in the other frames."""
    is_vector, shape = name in VECTORS, f"has shape {array.shape}"
    dtypes = DTYPES.get(name, kind[:1])
    if is_vector and array.shape != VECTORS[name].shape:
        return f"{shape}; expected {VECTORS[name].shape}"
    if str(array.dtype) not in dtypes:
        return f"is {array.dtype}; expected {dtypes[0]}"
    if not is_vector and array.shape != kind[1]:
        return f"{shape}; other frames have {kind[1]}"
    if name in CAMERAS and (expected := image_expectation(array.shape)):
        return f"{shape}; expected {expected}"
    if name in DEPTHS.values():
        if array.ndim != 2:
            return f"{shape}; expected (height, width)"
        if not (array.min() >= 0 and array.max() < np.inf):  # so written, NaN is found too
            return "has a value that is not finite or negative; expected m"
    return None
