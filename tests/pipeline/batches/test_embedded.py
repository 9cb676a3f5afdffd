"""Play as a frozen encoder sees it."""

import torch

from pipeline.artifacts.layout import Layout
from pipeline.batches.embedded import embed_play, read_arm_motion, with_lag
from pipeline.batches.from_store import validation_windows
from pipeline.batches.order import fixed_windows
from pipeline.store.open import open_store
from wam.config import WorldModelConfig
from wam.world_model.model import WorldModel
from wam.world_model.proprio_state import lags


def test_a_part_of_the_play_is_the_beginning_of_the_whole(converted: Layout) -> None:
    store = open_store(converted.store / "training.zarr")
    config = WorldModelConfig(
        cnn_depth=2, visual_embedding=8, deter=8, hidden=8, stoch=2, classes=2
    )
    model, cpu = WorldModel(config, seed=0), torch.device("cpu")
    beginning = store.beginning(0.5)
    rows = beginning.num_frames
    whole, part = (embed_play(model, frames, cpu) for frames in (store, beginning))
    assert len(whole.embedding) == store.num_frames > rows
    assert whole.is_first.nonzero()[:, 0].tolist() == store.episodes[:, 0].tolist()
    assert torch.equal(part.is_first, whole.is_first[:rows])
    torch.testing.assert_close(part.embedding, whole.embedding[:rows])
    # An episode's first frame has no past: nothing may depend on what stands there.
    led = ~part.is_first
    assert torch.equal(part.prev_action[led], whole.prev_action[:rows][led])


def test_windows_from_the_middle_of_play_are_told_the_lag(converted: Layout) -> None:
    store = open_store(converted.store / "validation.zarr")
    starts = fixed_windows(store.episodes, 6, 4, seed=0)
    untold = validation_windows(store, 6, 4, seed=0)
    assert untold.first_lag is None
    windows = with_lag(untold, store, starts)
    expected = lags(read_arm_motion(store))[torch.from_numpy(starts)]
    assert windows.first_lag is not None and expected.any()
    assert torch.equal(windows.first_lag, expected)
    for part, rows in zip(windows.split(3), expected.split(3), strict=True):
        assert part.first_lag is not None and torch.equal(part.first_lag, rows)
