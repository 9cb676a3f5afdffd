"""Frames of the store as the encoder of a frozen world model sees them."""

import numpy as np
import torch

from pipeline import console
from pipeline.calvin.fields import CAMERAS
from pipeline.pictures.images import all_to_model_size
from pipeline.store.open import Store
from wam.actions import executable
from wam.batch import Batch
from wam.training.refinement import EmbeddedPlay
from wam.world_model.model import WorldModel
from wam.world_model.proprio_state import ArmMotion, lags

_FRAMES_AT_ONCE = 256
_FRAMES_READ = 4096


@torch.no_grad()
def embed_rows(
    world_model: WorldModel, store: Store, start: int, stop: int, device: torch.device
) -> torch.Tensor:
    """Embeddings float32 [rows, E] of the store's rows [start, stop), on ``device``."""
    proprio = store.proprio_normalizer()(store.read("proprio", start, stop))
    arrays = (all_to_model_size(store.read(camera, start, stop)) for camera in CAMERAS)
    tensors = [torch.from_numpy(array).split(_FRAMES_AT_ONCE) for array in (*arrays, proprio)]
    parts = [
        world_model.embed(*(part.to(device) for part in batch))[1]
        for batch in zip(*tensors, strict=True)
    ]
    return torch.cat(parts)


def embed_play(world_model: WorldModel, store: Store, device: torch.device) -> EmbeddedPlay:
    """All frames of ``store``, in its order, on ``device``."""
    parts, rows = [], store.num_frames
    with console.progress("embed the play", rows, "frames") as advance:
        for start in range(0, rows, _FRAMES_READ):
            stop = min(start + _FRAMES_READ, rows)
            parts.append(embed_rows(world_model, store, start, stop, device))
            advance(stop - start)
    motion = ArmMotion(*(part.to(device) for part in read_arm_motion(store)))
    lag = None if world_model.rssm.proprio is None else lags(motion)
    return EmbeddedPlay(torch.cat(parts), motion.prev_action, motion.is_first, lag)


def with_lag(windows: Batch, store: Store, starts: np.ndarray) -> Batch:
    """``windows`` of the rows ``starts`` [B] of ``store``, whose first frames are told the lag."""
    known = lags(read_arm_motion(store))
    return windows._replace(lag=known[torch.from_numpy(starts)].unsqueeze(0))


def read_arm_motion(store: Store) -> ArmMotion:
    """All frames of ``store``, in its order."""
    action = executable(torch.from_numpy(store.read("rel_actions")))
    is_first = torch.zeros(store.num_frames, dtype=torch.bool)
    is_first[torch.from_numpy(store.episodes[:, 0])] = True
    proprio = torch.from_numpy(store.read("proprio"))
    return ArmMotion(proprio, action.roll(1, 0), is_first)
