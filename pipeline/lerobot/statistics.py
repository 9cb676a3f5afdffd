"""Statistics of features, as LeRobot's normalisation wants them.

Pixels are counted by value, so that the statistics of a split need no second look at its images:
RGB by its 256 levels (0 to 1), which is exact, and depth by the millimetre.
"""

from typing import Any

import numpy as np

from pipeline.lerobot.features import Feature

Statistics = dict[str, Any]
"""Lists by name: [K] of a vector, [C, 1, 1] of an image; ``count`` is the number of frames."""

_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def of_vectors(values: np.ndarray) -> Statistics:
    """Of [T, K] vectors, element by element."""
    values = values.astype(np.float64)
    found = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        **dict(zip(_QUANTILES, np.quantile(values, [*_QUANTILES.values()], 0), strict=True)),
    }
    return {**{name: value.tolist() for name, value in found.items()}, "count": [len(values)]}


def of_levels(feature: Feature, levels: np.ndarray, num_frames: int) -> Statistics:
    """Of images, channel by channel, from the sum of their :func:`count_levels`."""
    values = np.arange(levels.shape[1]) / _per_unit(feature)
    channels = [_of_channel(counts, values) for counts in levels]
    found = {name: [[[channel[name]]] for channel in channels] for name in channels[0]}
    return {**found, "count": [num_frames]}


def count_levels(feature: Feature, image: np.ndarray) -> np.ndarray:
    """int64 [C, levels]: how many pixels of each channel of an image [H, W, C] have which value."""
    empty = no_levels(feature)
    if feature.kind == "depth":
        image = np.rint(image * _per_unit(feature)).clip(0, empty.shape[1] - 1).astype(np.int64)
    channels = np.moveaxis(image, -1, 0)
    return empty + [np.bincount(channel.ravel(), minlength=empty.shape[1]) for channel in channels]


def no_levels(feature: Feature) -> np.ndarray:
    """What :func:`count_levels` gives for no pixel at all."""
    return np.zeros((feature.shape[2], 2**16 if feature.kind == "depth" else 2**8), np.int64)


def _per_unit(feature: Feature) -> int:
    """Levels in 1 m of depth, or in the full range of a colour."""
    return 1000 if feature.kind == "depth" else 255


def _of_channel(counts: np.ndarray, values: np.ndarray) -> dict[str, float]:
    present = values[counts > 0]
    mean = counts @ values / counts.sum()
    found = {
        "min": present[0],
        "max": present[-1],
        "mean": mean,
        "std": np.sqrt(counts @ (values - mean) ** 2 / counts.sum()),
        **{name: _quantile(counts, values, share) for name, share in _QUANTILES.items()},
    }
    return {name: float(value) for name, value in found.items()}


def _quantile(counts: np.ndarray, values: np.ndarray, share: float) -> float:
    """Linear between the neighbours in order, as ``np.quantile``."""
    places = np.cumsum(counts)
    place = share * (places[-1] - 1)
    below = np.floor(place)
    lower, upper = values[np.searchsorted(places, [below, np.ceil(place)], side="right")]
    return float(lower + (upper - lower) * (place - below))
