"""Play as a frozen encoder sees it."""

import torch

from pipeline.artifacts.layout import Layout
from pipeline.batches.embedded import embed_play
from pipeline.store.open import open_store
from wam.config import WorldModelConfig
from wam.world_model.model import WorldModel


def test_a_part_of_the_play_is_the_beginning_of_the_whole(converted: Layout) -> None:
    store = open_store(converted.store / "training.zarr")
    config = WorldModelConfig(
        cnn_depth=2, visual_embedding=8, deter=8, hidden=8, stoch=2, classes=2
    )
    model, cpu = WorldModel(config, seed=0), torch.device("cpu")
    rows = store.rows_of_share(0.5)
    whole = embed_play(model, store, cpu, store.num_frames)
    part = embed_play(model, store, cpu, rows)
    assert len(whole.embedding) == store.num_frames > rows
    assert whole.is_first.nonzero()[:, 0].tolist() == store.episodes[:, 0].tolist()
    assert torch.equal(part.is_first, whole.is_first[:rows])
    torch.testing.assert_close(part.embedding, whole.embedding[:rows])
    # An episode's first frame has no past: nothing may depend on what stands there.
    led = ~part.is_first
    assert torch.equal(part.prev_action[led], whole.prev_action[:rows][led])
