"""Film strips: what a camera saw, what the world model kept of it, and what it predicted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wam.reliability.atomic import replacing

_SCALE = 2
_GAP = 4
_LEFT = 92
_TOP = 24
_BACKGROUND = (255, 255, 255)
_INK = (60, 60, 60)


def write_film_strip(path: Path, rows: dict[str, np.ndarray], headings: Sequence[str]) -> None:
    """Write a PNG with one labelled row per entry of ``rows`` (uint8 [columns, H, W, 3])."""
    columns, height, width, _ = next(iter(rows.values())).shape
    cell_h, cell_w = _SCALE * height + _GAP, _SCALE * width + _GAP
    strip = Image.new("RGB", (_LEFT + columns * cell_w, _TOP + len(rows) * cell_h), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(size=15)
    for column, heading in enumerate(headings):
        centre = _LEFT + column * cell_w + _SCALE * width // 2
        draw.text((centre, _TOP // 2), heading, fill=_INK, font=font, anchor="mm")
    for row, (name, images) in enumerate(rows.items()):
        top = _TOP + row * cell_h
        draw.text((_LEFT - 10, top + cell_h // 2), name, fill=_INK, font=font, anchor="rm")
        for column, image in enumerate(images):
            size = (_SCALE * width, _SCALE * height)
            tile = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
            strip.paste(tile, (_LEFT + column * cell_w, top))
    with replacing(path) as temporary:
        strip.save(temporary, format="PNG", optimize=True)
