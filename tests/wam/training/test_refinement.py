"""The second stage of a world model: it goes on where it stopped, and dreams better for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wam.config import Refinement, WorldModelConfig
from wam.reliability import interruption
from wam.training.checkpoint import StateFile
from wam.training.journal import Journal
from wam.training.refinement import EmbeddedPlay, FrameTarget, Refiner
from wam.world_model.model import WorldModel

CPU = torch.device("cpu")
CONFIG = Refinement(updates=12, batch=4, window=6, components=8, log_every=5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model(tiny_config: WorldModelConfig) -> WorldModel:
    return WorldModel(
        replace(
            tiny_config,
            latent="probabilities",
            keep_bias=2.0,
            embedding_image_scale=1.0,
            seed_match_scale=1.0,
        ),
        seed=3,
    )


@pytest.fixture
def play() -> EmbeddedPlay:
    """A point that actions move, and what stays through an episode, in random directions."""
    frames, episode = 600, 60
    action = torch.rand(frames, 7, generator=generator(1)) * 2 - 1
    action[:, 6] = action[:, 6].sign()
    is_first = torch.arange(frames) % episode == 0
    place, kept = torch.zeros(frames, 2), torch.zeros(frames, 1)
    for t in range(frames):
        if is_first[t]:
            place[t] = torch.rand(2, generator=generator(t)) - 0.5
            kept[t] = t // episode % 2
        else:
            place[t] = (place[t - 1] + 0.2 * action[t, :2]).clamp(-1, 1)
            kept[t] = kept[t - 1]
    world = torch.cat([place, kept], dim=1)
    embedding = world @ torch.randn(3, 50, generator=generator(2))
    return EmbeddedPlay(embedding, action, is_first)


def refine(
    model: WorldModel, play: EmbeddedPlay, config: Refinement, directory: Path
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    directory.mkdir(exist_ok=True)
    journal = Journal(directory / "records.jsonl")
    checkpoint = StateFile(directory / "state.safetensors", journal)
    Refiner(model, play, config, CPU).run(journal.append, checkpoint)
    return model.state_dict(), journal.records()


def test_encoder_and_image_layers_stay_as_they_are(
    model: WorldModel, play: EmbeddedPlay, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after, records = refine(model, play, CONFIG, tmp_path)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("rssm.", "decoder.seed.")) for name in changed)
    assert [record["step"] for record in records] == [5, 10, 12]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_interrupted_refinement_ends_with_the_same_bits(
    model: WorldModel, play: EmbeddedPlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = WorldModel(model.config, seed=3)
    whole, records = refine(twin, play, CONFIG, tmp_path / "whole")
    updates = Refiner._update

    def stop_after_seven(refiner: Refiner, update: int) -> None:
        updates(refiner, update)
        if update == 7:
            interruption.signal.raise_signal(interruption.signal.SIGTERM)

    monkeypatch.setattr(Refiner, "_update", stop_after_seven)
    with pytest.raises(interruption.Interrupted):
        refine(model, play, CONFIG, tmp_path / "halves")
    monkeypatch.undo()
    halves, again = refine(WorldModel(model.config, seed=3), play, CONFIG, tmp_path / "halves")
    assert all(torch.equal(value, whole[name]) for name, value in halves.items())
    assert again == records


def test_a_target_is_white_over_the_play(play: EmbeddedPlay) -> None:
    told = FrameTarget(play.embedding, 2)(play.embedding)
    assert told.shape == (600, 2 + 18)
    torch.testing.assert_close(told.mean(0), torch.zeros(20), atol=1e-3, rtol=0)
    covariance = told[:, :2].T @ told[:, :2] / 600
    torch.testing.assert_close(covariance, torch.eye(2), atol=1e-2, rtol=0)


def test_blind_rows_teach_to_dream(model: WorldModel, play: EmbeddedPlay, tmp_path: Path) -> None:
    """After 24 steps without looking the place is known, and what never changed is remembered."""

    def error(config: Refinement, name: str) -> float:
        fresh = WorldModel(model.config, seed=3)
        refine(fresh, play, config, tmp_path / name)
        starts = torch.arange(0, 600, 60)
        first = torch.ones(len(starts), dtype=torch.bool)
        state = fresh.filter_step(
            fresh.initial(len(starts), CPU),
            play.prev_action[starts],
            play.embedding[starts],
            first,
            generator(),
        )
        with torch.no_grad():
            actions = torch.stack([play.prev_action[starts + t] for t in range(1, 25)])
            feature = fresh.imagine(state.feature, actions, generator())[-1]
            shown = fresh.shown(play.embedding[starts + 24])
            return float((fresh.decoder.seed(feature) - shown).square().mean() / shown.var())

    config = replace(CONFIG, updates=250, batch=16, window=8, components=3, log_every=250)
    looking = error(replace(config, blind_probability=0.0), "looking")
    dreaming = error(replace(config, blind_probability=0.1, sight_probability=0.05), "dreaming")
    assert dreaming < 0.5 * looking
    assert dreaming < 0.3


def test_first_looks_begin_as_imagination_does(model: WorldModel, play: EmbeddedPlay) -> None:
    """A frame that is seen again and again while nothing moves, and after it none."""
    config = replace(CONFIG, batch=8, window=6, first_looks=0.25, reset_probability=0.0)
    refiner = Refiner(model, play, config, CPU)
    embedding, prev_action, is_first, _ = window = refiner._next_batch()
    assert embedding.shape == (6, 8, 50)
    rows = torch.arange(6, 8)
    start = (embedding[0, rows, None] == play.embedding).all(-1).float().argmax(-1)
    for row, frame in zip(rows.tolist(), start.tolist(), strict=True):
        following = [(frame + step) % len(play.is_first) for step in (0, 0, 0, 1, 2, 3)]
        assert torch.equal(embedding[:, row], play.embedding[following])
        assert torch.equal(prev_action[3:, row], play.prev_action[following[3:]])
        assert is_first[0, row] and not is_first[1:3, row].any()
        assert not prev_action[:3, row, :6].any()
        command = 1.0 if embedding[0, row, -1] > 0.5 else -1.0
        assert (prev_action[:3, row, 6] == command).all()
    seen = refiner._sight(window.is_first)
    assert seen[:3, rows].all()
    assert torch.equal(seen[3:, rows], is_first[3:, rows])


def test_without_first_looks_every_row_walks_on(model: WorldModel, play: EmbeddedPlay) -> None:
    refiner = Refiner(model, play, replace(CONFIG, reset_probability=0.0), CPU)
    first, second = refiner._next_batch(), refiner._next_batch()
    where = [
        (row[-1] == play.embedding).all(-1).float().argmax()
        for row in first.embedding.transpose(0, 1)
    ]
    for row, frame in enumerate(where):
        assert torch.equal(second.embedding[0, row], play.embedding[(frame + 1) % 600])
