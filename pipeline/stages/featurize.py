"""Stage ``featurize``: the demonstrations of every task as latents of a frozen world model.

By default a demonstration is filtered anew from its own first frame, because that is how an episode
begins at evaluation. Unlike there the hand is on its way, which no frame shows: states that carry
its lag are told it. Filters with the preceding play as context, and with looks at some frames
only, are stored beside it (docs/algorithm.md 3.3). Imagined copies follow the recorded actions from
the first feature (docs/algorithm.md 5.3).

Shapes: T time, D demonstrations, S draws, E embedding, F feature.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.layout import SPLITS, Layout, store_path
from pipeline.artifacts.parts import Part, build_tasks
from pipeline.batches.embedded import embed_rows, read_arm_motion
from pipeline.latents.demonstrations import Demo, TaskDemos, load_demos
from pipeline.latents.features import SplitFeatures, TaskFeatures, no_features, save_features
from pipeline.params import Features, Profile
from pipeline.store.open import Store, open_store
from wam import device as devices
from wam import tasks
from wam.actions import executable
from wam.config import ACTION_SIZE, PROPRIO_SIZE
from wam.randomness import task_generator
from wam.world_model.filtering import filter_embeddings, first_state
from wam.world_model.load import load_world_model
from wam.world_model.model import WorldModel
from wam.world_model.proprio_state import lags

STAGE = "featurize"
CONTEXT_FRAMES = 150
"""Preceding frames after which the filter has long context."""


class Sequences(NamedTuple):
    """Demonstrations side by side, all starting at the same row of the time axis."""

    embedding: torch.Tensor
    """float32 [T, D, E], zeros where a demonstration has no frame"""
    action: torch.Tensor
    """float32 [T, D, 7], executable"""
    length: torch.Tensor
    """int64 [D], frames from the demonstration's first one"""
    context: torch.Tensor
    """int64 [D], frames of context before it"""
    start: int
    """Row of the first frame of every demonstration"""
    scene_obs: list[np.ndarray]
    """float64 [T, 24] of every demonstration"""
    lag: torch.Tensor | None
    """float32 [D, 6], how far the hand is behind its target in every first frame; None for models
    whose states do not carry it"""
    context_lag: torch.Tensor | None
    """float32 [D, 6], in the first frames of the context"""


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Featurize the profile's tasks with the world model ``variant``; finished tasks are kept."""
    device = devices.resolve(profile.device)
    inputs = {
        "demos": manifests.fingerprint(layout.demos, "extract"),
        "store": manifests.fingerprint(layout.store, "convert", deep=False),
        "world_model": manifests.fingerprint(layout.world_model(variant), "train-world-model"),
    }
    demos = load_demos(layout.demos)
    all_demos = {task: demos[task] for task in profile.tasks}
    world_model, _ = load_world_model(layout.world_model(variant), device)
    stores = {
        split: open_store(
            store_path(layout.store, split), distractors=world_model.config.distractors
        )
        for split in SPLITS
    }
    output = layout.features(variant)
    maker = FeatureMaker(world_model, stores, profile.features, device)

    def make(part: Part) -> None:
        with devices.threads(profile.train_world_model.threads):
            features = maker.task_features(part.name, all_demos[part.name])
        _save(part.directory, features, world_model)
        part.advance(1, part.name)

    summary = build_tasks(
        output,
        profile.tasks,
        make,
        title=f"featurize {variant}",
        steps=1,
        unit="tasks",
        stage=STAGE,
        params={"features": asdict(profile.features)},
        inputs=inputs,
    )
    frames = sum(
        entry["training_frames"] + entry["validation_frames"] for entry in summary.values()
    )
    console.done(
        STAGE,
        f"{variant}: {frames:,} frames of {len(summary)} task(s) × {profile.features.draws} "
        f"draws → {output}",
    )


@dataclass(frozen=True)
class FeatureMaker:
    """Turns rows of the store into features of a frozen world model."""

    world_model: WorldModel
    stores: dict[str, Store]
    settings: Features
    device: torch.device
    _known_lags: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    """By split, of all its frames"""

    def task_features(self, task: str, demos: TaskDemos) -> TaskFeatures:
        """The features of all that was extracted for ``task``."""
        # Each part has random numbers of its own: it does not depend on the others.
        generators = [
            task_generator(self.settings.seed, task, self.device, part=part) for part in range(8)
        ]
        return TaskFeatures(
            training=self._features(
                task, "training", demos.training, generators[0], for_cloning=generators[5]
            ),
            validation=self._features(task, "validation", demos.validation, generators[1]),
            demo_starts=self._starts(
                "training", [demo.start for demo in demos.training], generators[6]
            ),
            validation_starts=self._starts(
                "validation", [demo.start for demo in demos.validation], generators[7]
            ),
            play_starts=self._starts("training", demos.imagination_starts, generators[2]),
            play_start_rows=torch.tensor(demos.imagination_starts, dtype=torch.int64),
            training_play=self._features(task, "training", demos.training_play, generators[3]),
            validation_play=self._features(
                task, "validation", demos.validation_play, generators[4]
            ),
        )

    @torch.no_grad()
    def _features(
        self,
        task: str,
        split: str,
        demos: list[Demo],
        generator: torch.Generator,
        for_cloning: torch.Generator | None = None,
    ) -> SplitFeatures:
        """Those of ``demos``; with what behaviour cloning alone uses, if that is given a generator.

        Only the training demonstrations are cloned.
        """
        settings = self.settings
        with_context = settings.context and for_cloning is not None
        if not demos:
            return no_features(settings.draws, self.world_model.config.feature)
        data = self._sequences(self.stores[split], demos, CONTEXT_FRAMES if with_context else 0)
        embedding, action = data.embedding[data.start :], data.action[data.start :]
        is_first = torch.zeros(action.shape[:2], dtype=torch.bool, device=self.device)
        is_first[:1] = True
        states = filter_embeddings(
            self.world_model,
            embedding,
            action,
            is_first,
            generator,
            settings.filtering,
            settings.draws,
            lag=data.lag,
        )
        first = states.feature[0]
        repeated = action[:-1].repeat(1, settings.draws, 1)
        predicted = self.world_model.imagine(first, repeated, generator)
        imagined = torch.cat([first.unsqueeze(0), predicted])
        context = None
        if with_context:
            whole = torch.zeros(data.action.shape[:2], dtype=torch.bool, device=self.device)
            columns = torch.arange(len(demos), device=self.device)
            whole[data.start - data.context, columns] = True
            filtered = filter_embeddings(
                self.world_model,
                data.embedding,
                data.action,
                whole,
                generator,
                settings.filtering,
                lag=data.context_lag,
            )
            context = _by_demo(filtered.feature[data.start :], data.length, 1)[0]
        glimpsed = None
        if settings.glimpses and for_cloning is not None:
            looked = filter_embeddings(
                self.world_model,
                embedding,
                action,
                is_first,
                for_cloning,
                settings.filtering,
                len(settings.glimpses),
                settings.glimpses,
                data.lag,
            )
            glimpsed = _by_demo(looked.feature, data.length, len(settings.glimpses))
        label = [tasks.achieved(task, scene[0], scene) for scene in data.scene_obs]
        return SplitFeatures(
            posterior=_by_demo(states.feature, data.length, settings.draws),
            imagined=_by_demo(imagined, data.length, settings.draws),
            context=context,
            glimpsed=glimpsed,
            action=_by_demo(action, data.length, 1)[0],
            label=torch.from_numpy(np.concatenate(label)),
            scene_obs=torch.from_numpy(np.concatenate(data.scene_obs)).float(),
            length=data.length.cpu(),
            start=torch.tensor([demo.start for demo in demos]),
        )

    @torch.no_grad()
    def _starts(self, split: str, rows: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        """Features [S, M, F] of single ``rows``, as an episode begins: the hand at rest."""
        store, settings = self.stores[split], self.settings
        if not rows:
            return torch.zeros(settings.draws, 0, self.world_model.config.feature)
        parts = [embed_rows(self.world_model, store, row, row + 1, self.device) for row in rows]
        embedding = torch.cat(parts).repeat(settings.draws, 1)
        states = first_state(self.world_model, embedding, generator, settings.filtering)
        return states.feature.unflatten(0, (settings.draws, len(rows))).cpu()

    def _sequences(self, store: Store, demos: list[Demo], context: int) -> Sequences:
        before = [min(context, demo.start - demo.episode_start) for demo in demos]
        length = [demo.stop - demo.start for demo in demos]
        start, total = max(before), max(before) + max(length)
        size = self.world_model.config.visual_embedding + PROPRIO_SIZE
        embedding = torch.zeros(total, len(demos), size, device=self.device)
        action = torch.zeros(total, len(demos), ACTION_SIZE, device=self.device)
        scene_obs = []
        for column, (demo, preceding) in enumerate(zip(demos, before, strict=True)):
            rows = slice(start - preceding, start + demo.stop - demo.start)
            first = demo.start - preceding
            embedding[rows, column] = embed_rows(
                self.world_model, store, first, demo.stop, self.device
            )
            actions = torch.from_numpy(store.read("rel_actions", first, demo.stop))
            action[rows, column] = actions.to(self.device)
            scene_obs.append(store.read("scene_obs", demo.start, demo.stop))
        return Sequences(
            embedding,
            executable(action),
            torch.tensor(length, device=self.device),
            torch.tensor(before, device=self.device),
            start,
            scene_obs,
            *self._lags(store, [demo.start for demo in demos], before),
        )

    def _lags(
        self, store: Store, rows: list[int], before: list[int]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Lags of the hand in ``rows`` and so many frames ``before`` them."""
        if self.world_model.rssm.proprio is None:
            return None, None
        if store.split not in self._known_lags:
            self._known_lags[store.split] = lags(read_arm_motion(store)).to(self.device)
        known, place = self._known_lags[store.split], torch.tensor(rows, device=self.device)
        return known[place], known[place - torch.tensor(before, device=self.device)]


def _by_demo(values: torch.Tensor, length: torch.Tensor, draws: int) -> torch.Tensor:
    """[S, N, ...] of padded [T, S * D, ...]: the frames of each demonstration in a row."""
    by_row = values.unflatten(1, (draws, -1)).permute(1, 2, 0, *range(3, values.ndim + 1))
    present = torch.arange(len(values), device=length.device) < length.unsqueeze(1)
    return by_row[:, present].cpu()


def _save(directory: Path, features: TaskFeatures, world_model: WorldModel) -> None:
    config = world_model.config
    save_features(directory, features, config)
    summary: dict[str, int | float] = {"play_starts": features.play_starts.shape[1]}
    for split in SPLITS:
        part: SplitFeatures = getattr(features, split)
        summary[f"{split}_demos"] = len(part.length)
        summary[f"{split}_frames"] = int(part.length.sum())
        summary[f"{split}_successes"] = sum(
            int(frames.any()) for frames in part.label.split(part.length.tolist())
        )
        summary[f"{split}_play_windows"] = len(getattr(features, f"{split}_play").length)
    manifests.write_json(directory / manifests.SUMMARY, summary)
