"""The disagreement ensemble of a fine-tuning run, made from the features of all its tasks."""

from pathlib import Path

import torch

from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build
from pipeline.latents.features import load_features
from pipeline.params import Profile
from wam.config import WorldModelConfig
from wam.ppo.disagreement import (
    DisagreementEnsemble,
    Transitions,
    ensemble_description,
    load_ensemble,
    mean_disagreement,
    train_ensemble,
    transitions,
)
from wam.randomness import shared_generator
from wam.weights import save_model


def fit_ensemble(
    target: Build,
    name: str,
    features: Path,
    profile: Profile,
    model: WorldModelConfig,
    device: torch.device,
) -> DisagreementEnsemble:
    """The ensemble called ``name`` in ``target``, trained first if it is not there complete.

    It learns from the training demonstrations of all tasks, whose features are in the directory
    ``features``. Its summary tells the mean disagreement on held-out demonstrations, and on
    imagined copies of the training's: what a penalty has to be read against.
    """
    directory = target.directory / name
    if not target.is_finished(name):
        data = _load(features, profile.tasks, model)
        config = profile.finetune
        generator = shared_generator(config.seeds[0])
        ensemble, loss = train_ensemble(
            data["training"], model.classes, config.disagreement_heads, generator, device
        )
        save_model(directory, ensemble, ensemble_description(ensemble))
        summary: dict[str, float] = {"transitions": len(data["training"].action), "loss": loss}
        for part in ("validation", "imagined"):
            if len(data[part].action):
                summary[f"disagreement_{part}"] = mean_disagreement(ensemble, data[part])
        manifests.write_json(directory / manifests.SUMMARY, summary)
        target.finish(name, directory.iterdir())
    return load_ensemble(directory, device)


def _load(
    features: Path, tasks: tuple[str, ...], model: WorldModelConfig
) -> dict[str, Transitions]:
    """Transitions of all tasks: of both splits, and of the imagined copies of the training's."""
    parts: dict[str, list[Transitions]] = {"training": [], "validation": [], "imagined": []}
    for task in tasks:
        loaded = load_features(features, task)
        for name, split, latents in (
            ("training", loaded.training, loaded.training.posterior),
            ("validation", loaded.validation, loaded.validation.posterior),
            ("imagined", loaded.training, loaded.training.imagined),
        ):
            parts[name].append(
                transitions(latents, split.action, split.length, model.stoch, model.classes)
            )
    return {
        name: Transitions(*(torch.cat(values) for values in zip(*by_task, strict=True)))
        for name, by_task in parts.items()
    }
