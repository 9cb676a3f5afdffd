"""``wam dream``: a film of what a world model imagines beside what really happened."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import console
from pipeline.artifacts.layout import Layout, store_path
from pipeline.batches.assemble import assemble
from pipeline.batches.embedded import with_lag
from pipeline.batches.from_store import store_frames
from pipeline.batches.order import Windows, fixed_windows
from pipeline.evaluation.results import VARIANT_NAMES
from pipeline.latents.demonstrations import load_demos
from pipeline.params import Profile
from pipeline.pictures import animation
from pipeline.store.open import Store, open_store
from wam import device as devices
from wam.batch import Batch
from wam.config import CAMERA_NAMES
from wam.errors import WamError
from wam.images import psnr, to_rgb
from wam.world_model.assessment import Predictions, predict
from wam.world_model.load import load_world_model

_FRAME_MS = 100
"""A third of real time: predictions fail in details."""
_GIVEN = (90, 150, 240)


def run(
    profile: Profile,
    layout: Layout,
    variant: str,
    *,
    task: str | None = None,
    sequence: int = 0,
    steps: int | None = None,
    output: Path | None = None,
) -> None:
    """Film ``steps`` imagined frames after a given one, from the recorded actions of held-out play.

    The sequence is that of the first held-out demonstration of ``task``, or else number
    ``sequence`` of those that ``evaluate-world-model`` predicts, with the same random numbers.
    Without ``steps`` as many frames as there; without ``output`` the film lies in the layout.
    Raises WamError for an absent artifact, sequence or task, and if its episode ends too early.
    """
    settings = profile.evaluate_world_model
    steps = steps or settings.open_loop_steps
    device = devices.resolve(profile.device)
    model, normalizer = load_world_model(layout.world_model(variant), device)
    place = store_path(layout.store, "validation")
    store = open_store(place, distractors=model.config.distractors)
    if task is None:
        start, name, seed = _sequence(store, profile, sequence), f"sequence {sequence}", sequence
    else:
        start, name, seed = _demonstration(layout, task), task.replace("_", " "), 0
    _check_length(store, start, steps)
    windows = Windows(np.array([start]), np.ones(1, bool))
    batch: Batch = assemble([store_frames(store)], windows, steps + 1, normalizer)
    batch = with_lag(batch, store, windows.starts)
    (part,) = predict(model, batch, settings.seed + seed, device, profile.features.filtering)
    output = output or layout.dream(variant, name.replace(" ", "_"))
    output.parent.mkdir(parents=True, exist_ok=True)
    animation.write(output, _frames(part, f"{VARIANT_NAMES[variant]} · {name}"), _FRAME_MS)
    console.done("dream", f"{steps} imagined steps of {name} → {output}")


def _sequence(store: Store, profile: Profile, number: int) -> int:
    """First row of a sequence of the evaluation."""
    settings = profile.evaluate_world_model
    count = settings.open_loop_sequences
    if number >= count:
        raise WamError(
            f"--sequence {number}: evaluate_world_model.open_loop_sequences has {count}, from 0 on"
        )
    length = settings.open_loop_steps + 1
    return int(fixed_windows(store.episodes, length, count, settings.seed)[number])


def _demonstration(layout: Layout, task: str) -> int:
    """First row of the first held-out demonstration of ``task``."""
    demos = load_demos(layout.demos)[task].validation
    if not demos:
        raise WamError(f"{layout.demos}: no held-out demonstration of {task}")
    return demos[0].start


def _check_length(store: Store, start: int, steps: int) -> None:
    frames = int(store.episodes[store.episode_of_rows(np.array(start)), 1]) - start
    if frames <= steps:
        raise WamError(f"--steps {steps}: the episode goes on for {frames - 1} steps only")


def _frames(part: Predictions, title: str) -> list[Image.Image]:
    rows = {
        name: [to_rgb(images[camera][:, 0]).cpu().numpy() for camera in CAMERA_NAMES]
        for name, images in (("real", part.real), ("imagined", part.open_loop))
    }
    quality = psnr(part.open_loop["static"][:, 0], part.real["static"][:, 0]).tolist()
    return [
        _frame(
            {name: [camera[t] for camera in cameras] for name, cameras in rows.items()},
            title,
            f"step {t} · {quality[t]:.1f} dB" if t else "given frame",
            is_given=t == 0,
        )
        for t in range(len(quality))
    ]


def _frame(
    rows: dict[str, list[np.ndarray]], title: str, note: str, *, is_given: bool
) -> Image.Image:
    """The real images above the imagined ones, the static camera left of the one on the wrist."""
    panes = [np.hstack([animation.enlarge(image) for image in images]) for images in rows.values()]
    image = animation.captioned(np.vstack(panes), title, note, _GIVEN if is_given else None)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=13)
    for row, name in enumerate(rows):
        top = animation.BAR + row * animation.PANE
        box = draw.textbbox((8, top + 8), name, font=font)
        draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill=animation.DARK)
        draw.text((8, top + 8), name, fill=animation.PALE, font=font)
    return image
