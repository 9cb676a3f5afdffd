"""Camera images in the size that the world model sees."""

import cv2
import numpy as np

from wam.config import IMAGE_SIZE


def to_model_size(rgb: np.ndarray) -> np.ndarray:
    """uint8 [64, 64, 3] of ``rgb`` [H, W, 3] by area interpolation (algorithm contract 1.3).

    Conversion and evaluation share this function, so that a policy sees what its data looked like.
    """
    if rgb.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return rgb
    return cv2.resize(rgb, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
