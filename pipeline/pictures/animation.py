"""Films of both cameras: captioned frames, as animated WebP (an image to browsers) or MP4."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wam.errors import WamError
from wam.reliability.atomic import replacing

SUFFIXES = (".webp", ".mp4")
PANE = 224
"""Pixels of an enlarged image's side."""
BAR = 26
"""Height of the bar above the images."""
DARK, PALE = (24, 27, 33), (226, 230, 236)

Colour = tuple[int, int, int]

_HOLD_MS = 1600
"""How long the last frame stays."""


def enlarge(rgb: np.ndarray) -> np.ndarray:
    """uint8 [PANE, PANE, 3] of a camera's image."""
    return cv2.resize(rgb, (PANE, PANE), interpolation=cv2.INTER_CUBIC)


def captioned(
    images: np.ndarray, title: str, note: str, highlight: Colour | None = None
) -> Image.Image:
    """``images`` [H, W, 3] below a bar with a title and a note; ``highlight`` frames them."""
    bar = np.full((BAR, images.shape[1], 3), DARK, np.uint8)
    frame = Image.fromarray(np.vstack([bar, images]))
    draw = ImageDraw.Draw(frame)
    font = ImageFont.load_default(size=13)
    draw.text((8, BAR // 2), title, fill=PALE, font=font, anchor="lm")
    draw.text((frame.width - 8, BAR // 2), note, fill=highlight or PALE, font=font, anchor="rm")
    if highlight:
        outline = (0, BAR, frame.width - 1, frame.height - 1)
        draw.rectangle(outline, outline=highlight, width=3)
    return frame


def write(path: Path, frames: Sequence[Image.Image], frame_ms: int) -> None:
    """Write ``frames`` of one size, even in both directions, to ``path``, atomically.

    Raises WamError for a suffix that is neither .webp nor .mp4.
    """
    if path.suffix not in SUFFIXES:
        raise WamError(f"{path}: unknown kind of film; expected {' or '.join(SUFFIXES)}")
    with replacing(path) as temporary:
        if path.suffix == ".webp":
            _write_webp(temporary, frames, frame_ms)
        else:
            # The video writer goes by the suffix; sweep() knows what it leaves when killed.
            video = temporary.with_name(f"{temporary.name}.mp4")
            try:
                _write_mp4(video, frames, frame_ms)
                video.replace(temporary)
            finally:
                video.unlink(missing_ok=True)


def _write_webp(path: Path, frames: Sequence[Image.Image], frame_ms: int) -> None:
    frames[0].save(
        path,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[frame_ms] * (len(frames) - 1) + [_HOLD_MS],
        loop=0,
        quality=72,
        method=3,
    )


def _write_mp4(path: Path, frames: Sequence[Image.Image], frame_ms: int) -> None:
    # VP9 is what OpenCV's own build can write and browsers can play.
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"vp09"), 1000 / frame_ms, frames[0].size
    )
    if not writer.isOpened():
        raise WamError(f"{path}: this build of OpenCV cannot write VP9; use .webp")
    for frame in [*frames, *[frames[-1]] * (_HOLD_MS // frame_ms)]:
        writer.write(cv2.cvtColor(np.asarray(frame), cv2.COLOR_RGB2BGR))
    writer.release()
