"""Stage ``study``: one cell of the study with one seed, from the world model to the evaluation.

All of it is what the stages of a profile do, one after the other; each keeps what it has finished.
"""

from pipeline import console
from pipeline.params.study import Run, Study, study_run
from pipeline.stages import (
    evaluate,
    evaluate_world_model,
    extract,
    featurize,
    finetune,
    train_policy,
    train_reward,
    train_world_model,
)
from pipeline.study.outcomes import outcome_path, write_outcome
from wam.errors import WamError


def run(study: Study, cell: str, seed: int) -> None:
    """Bring a run up to date in its own directory. Raises WamError as its stages do."""
    one = study_run(study, cell, seed)
    try:
        _run(one)
    except WamError as error:
        raise WamError(f"study, cell {cell}, seed {seed}: {error}") from None
    console.done("study", f"{cell}, seed {seed} → {one.layout.root}, {outcome_path(cell, seed)}")


def _run(one: Run) -> None:
    profile, layout, variant = one.profile, one.layout, one.variant
    extract.run(profile, layout)
    train_world_model.run(profile, layout, variant)
    evaluate_world_model.run(profile, layout, (variant,))
    featurize.run(profile, layout, variant)
    train_reward.run(profile, layout, variant)
    train_policy.run(profile, layout, variant)
    finetune.run(profile, layout, variant)
    evaluate.run(profile, layout, variant)
    write_outcome(one)
