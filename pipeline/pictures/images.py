"""Camera images in the size that a store or the world model wants."""

import cv2
import numpy as np

from wam.config import IMAGE_SIZE


def resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """``image`` [H, W, ...] with ``size`` (height, width) by area interpolation.

    The image itself where it has that size already.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def to_model_size(rgb: np.ndarray) -> np.ndarray:
    """uint8 [64, 64, 3] of ``rgb`` [H, W, 3] by area interpolation (docs/algorithm.md 1.3).

    Conversion and evaluation share this function, so that a policy sees what its data looked like.
    """
    return resized(rgb, (IMAGE_SIZE, IMAGE_SIZE))


def all_to_model_size(rgb: np.ndarray) -> np.ndarray:
    """uint8 [N, 64, 64, 3] of the images ``rgb`` [N, H, W, 3], each by :func:`to_model_size`."""
    if rgb.shape[1:3] == (IMAGE_SIZE, IMAGE_SIZE):
        return rgb
    return np.stack([to_model_size(image) for image in rgb])
