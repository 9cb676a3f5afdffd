"""What one run has to say, as a small file that lies in git: its figures and every outcome.

The study can be told anew from these files alone, on a machine that has none of the models.
"""

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.artifacts.layout import STUDY
from pipeline.artifacts.manifests import checked_manifest, plain, read_json, write_json
from pipeline.artifacts.provenance import commit_of
from pipeline.evaluation.results import PolicyName, merge
from pipeline.params.study import Run
from pipeline.study.across_seeds import macro
from wam.errors import WamError

_LEFT_OUT = {
    *("device", "parallel", "raw", "index", "export"),
    *("assets", "workers", "dask_address", "cache", "shards", "lpips_weights", "fvd_weights"),
    *("log_every", "checkpoint_every", "keep_checkpoints", "clips"),
}
"""What shapes no result, or tells where something lies."""


class Outcome(NamedTuple):
    """What one run has to say."""

    run: Run
    figures: dict[str, float]
    """By endpoint; those that it has"""
    success: dict[str, dict[str, np.ndarray]]
    """Stage -> task -> bool [starts], in the order of ``frame_ids``"""
    frame_ids: dict[str, list[int]]
    """The starts of every task"""
    commit: str
    """Of the code that made the run, and whether it was changed since"""


def outcome_path(cell: str, seed: int) -> Path:
    """Where :func:`write_outcome` leaves that of a run."""
    return STUDY / "outcomes" / f"{cell}-{seed}.json"


def write_outcome(run: Run) -> None:
    """Note what the finished run says. Raises WamError if it is not finished, or damaged."""
    tasks, variant, layout = run.profile.tasks, run.variant, run.layout
    evaluation = layout.evaluation(variant)
    made = checked_manifest(evaluation, f"evaluate --policies {variant}")
    checked_manifest(layout.world_model_evaluation, "evaluate-world-model")
    results = merge([evaluation], tasks, (variant,))
    success: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for (task, policy), cell in results.cells.items():
        success[policy.stage][task] = cell.outcomes[:, 0].astype(int).tolist()
    figures = {
        stage: macro([np.array(outcomes) for outcomes in by_task.values()])
        for stage, by_task in success.items()
    }
    if "ppo" in figures:
        figures["gain"] = figures["ppo"] - figures["bc"]
    areas = [
        dream.replayed_auc
        for (_, policy), dream in results.agreement.items()
        if policy == PolicyName(variant, "bc") and dream.replayed_auc is not None
    ]
    if len(areas) == len(tasks):  # else it would be of other tasks than another run's
        figures["replayed_auc"] = float(np.mean(areas))
    model = read_json(layout.world_model_evaluation / "metrics.json")[variant]
    figures |= {
        "action_probe_r2": model["probe_mlp_r2"],
        "scene_latent_r2": model["scene_latent_r2"],
        "open_loop_psnr": model["psnr"],
    }
    if (imagined := model.get("scene_imagined_16_r2")) is not None:  # windows may be shorter
        figures["scene_imagined_r2"] = imagined
    content = {
        "cell": run.cell,
        "seed": run.seed,
        "variant": variant,
        "settings": _settings(run),
        "figures": figures,
        "success": success,
        "frame_ids": {
            task: cell.frame_ids for (task, p), cell in results.cells.items() if p.stage == "bc"
        },
        "made": {name: made["provenance"].get(name) for name in ("commit", "dirty")},
        "versions": made["versions"],
    }
    path = outcome_path(run.cell, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def read_outcome(run: Run) -> Outcome:
    """What the run left.

    Raises WamError if it is absent, damaged, of another run, or of other settings.
    """
    path = outcome_path(run.cell, run.seed)
    again = f"'wam study --cell {run.cell} --seed {run.seed}' makes it"
    if not path.is_file():
        raise WamError(f"{path}: not there; {again}")
    content = read_json(path, dict)
    try:
        # A copied file may well have equal settings: variants are not among them.
        for name, own in (("cell", run.cell), ("seed", run.seed), ("variant", run.variant)):
            if content[name] != own:
                raise WamError(
                    f"{path}: made with {name} {content[name]!r:.100}, expected {own!r}; "
                    f"{again} anew"
                )
        settings, wanted = content["settings"], _settings(run)
        for section in wanted:
            if settings.get(section) != wanted[section]:
                raise WamError(
                    f"{path}: made with other settings of '{section}' than params.yaml says; "
                    f"{again} anew"
                )
        frame_ids = content["frame_ids"]
        success = {
            stage: {task: _outcomes(by_task[task], frame_ids[task]) for task in run.profile.tasks}
            for stage, by_task in content["success"].items()
        }
        figures = {name: float(value) for name, value in content["figures"].items()}
        return Outcome(run, figures, success, frame_ids, commit_of(content["made"]))
    except WamError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WamError(f"{path}: damaged ({error}); {again} anew") from None


def _settings(run: Run) -> dict[str, Any]:
    """The settings that a run's figures follow from."""

    def chosen(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: chosen(inner) for key, inner in value.items() if key not in _LEFT_OUT}

    settings: dict[str, Any] = chosen(plain(asdict(run.profile)))
    settings["env"]["scene_source"] = run.profile.env.scene_source
    return settings


def _outcomes(values: list[int], frame_ids: list[int]) -> np.ndarray:
    outcomes = np.array(values)
    if outcomes.shape != (len(frame_ids),) or not np.isin(outcomes, (0, 1)).all():
        raise ValueError(f"{len(frame_ids)} starts, outcomes of shape {outcomes.shape}")
    return outcomes.astype(bool)
