"""What a valid raw frame is: keys, shapes, dtypes, finite values, plausible ranges."""

from pathlib import Path

import numpy as np

from pipeline import raw
from pipeline.schema import CAMERAS, RAW_KEYS, TOLERANCE, VECTORS
from wam.config import IMAGE_SIZE
from wam.errors import WamError

ImageShapes = dict[str, tuple[int, ...]]
"""Shape (H, W, 3) of every camera's images; the same for all frames of a data set."""

_BOUNDS = {
    name: (
        np.array([low for low, _ in field.bounds]) - TOLERANCE,
        np.array([high for _, high in field.bounds]) + TOLERANCE,
    )
    for name, field in VECTORS.items()
}


def read_valid_frame(path: Path, image_shapes: ImageShapes | None = None) -> dict[str, np.ndarray]:
    """The needed arrays of one frame.

    Raises WamError naming the file and the field if anything is missing, damaged, of wrong shape
    (``image_shapes``: what the other frames have) or dtype, not finite, or out of range.
    """
    frame = raw.read_frame(path, RAW_KEYS)
    for camera in CAMERAS:
        _check_image(path, camera, frame[camera], image_shapes)
    for name in VECTORS:
        _check_vector(path, name, frame[name])
    return frame


def image_shapes(frame: dict[str, np.ndarray]) -> ImageShapes:
    """The image shapes of a frame, for checking the others."""
    return {camera: frame[camera].shape for camera in CAMERAS}


def _check_image(path: Path, name: str, image: np.ndarray, shapes: ImageShapes | None) -> None:
    if image.dtype != np.uint8:
        raise WamError(f"{path}: {name} is {image.dtype}; expected uint8")
    if shapes is not None and image.shape != shapes[name]:
        raise WamError(f"{path}: {name} has shape {image.shape}; other frames have {shapes[name]}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise WamError(f"{path}: {name} has shape {image.shape}; expected (height, width, 3)")
    if min(image.shape[:2]) < IMAGE_SIZE:
        raise WamError(
            f"{path}: {name} has shape {image.shape}; expected at least {IMAGE_SIZE}x{IMAGE_SIZE}"
        )


def _check_vector(path: Path, name: str, value: np.ndarray) -> None:
    expected = (VECTORS[name].length,)
    if value.shape != expected:
        raise WamError(f"{path}: {name} has shape {value.shape}; expected {expected}")
    if value.dtype not in (np.float64, np.float32):
        raise WamError(f"{path}: {name} is {value.dtype}; expected float64")
    low, high = _BOUNDS[name]
    valid = (value >= low) & (value <= high)
    if valid.all():
        return
    at = int(np.flatnonzero(~valid)[0])
    if not np.isfinite(value[at]):
        raise WamError(f"{path}: {name}[{at}] is {value[at]}; expected a finite number")
    lowest, highest = VECTORS[name].bounds[at]
    raise WamError(
        f"{path}: {name}[{at}] is {value[at]:g}; expected {lowest:g} to {highest:g} "
        f"({VECTORS[name].meaning})"
    )
