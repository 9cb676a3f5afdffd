"""``study`` in ``params.yaml``: what is compared, as differences from one profile, over seeds.

A *cell* is a variant of the world model with settings that differ from those of the ``base``
profile. Every cell is run with every seed, from the world model to the evaluation, on the frames of
the base; runs of one seed are a pair.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from pipeline.artifacts.layout import Layout
from pipeline.params.loading import (
    PARAMS_FILE,
    STUDY_KEY,
    check_values,
    document,
    load_profile,
    profile_of,
    sentence,
)
from pipeline.params.profile import Profile
from wam.config import VARIANTS, Seed
from wam.errors import WamError

CellName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
SEEDED = ("extract", "train_world_model", "refine_world_model", "features", "reward", "policy")
"""The sections whose ``seed`` is the run's. The starts and random numbers of the evaluation are the
same in all."""
_SHARED = ("parallel", "raw", "env", "collect", "index", "convert", "export")
"""The sections that are the base's: all runs see the same frames."""
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Run:
    """One cell with one seed."""

    cell: str
    seed: int
    variant: str
    profile: Profile
    layout: Layout


@checked(frozen=True, kw_only=True, config=_STRICT)
class Cell:
    """What is trained."""

    variant: Literal[VARIANTS]  # type: ignore[valid-type]
    set: dict[str, Any]
    """Sections of a profile with the settings that differ, over those of the whole study."""


@checked(frozen=True, kw_only=True, config=_STRICT)
class Study:
    """A comparison of cells over seeds."""

    base: str
    """The profile"""
    seeds: Annotated[tuple[Seed, ...], Len(1, 1000)]
    set: dict[str, Any]
    """As :attr:`Cell.set`, for all cells. ``finetune.seeds`` are the runs' seeds with which clones
    are fine-tuned too."""
    cells: Annotated[dict[CellName, Cell], Len(1)]
    compare: tuple[tuple[CellName, CellName], ...]
    """Pairs of cells: the first minus the second."""
    interactions: tuple[tuple[CellName, CellName], ...] = ()
    """Pairs of comparisons, named by their first cells: the first's difference minus the second's
    """


def load_study(path: Path = PARAMS_FILE) -> Study:
    """The study of ``path``, all runs of which have been checked.

    Raises WamError, which names the key, if there is none or it is unusable.
    """
    content = document(path).get(STUDY_KEY)
    where = f"{path}: {STUDY_KEY}"
    if content is None:
        raise WamError(f"{where}: not there; expected base, seeds, set, cells and compare")
    check_values(content, where)
    try:
        study: Study = TypeAdapter(Study).validate_json(json.dumps(content))
    except ValidationError as error:
        raise WamError(f"{where}{sentence(error)}") from None
    load_profile(study.base, path)
    if len(set(study.seeds)) < len(study.seeds):
        raise WamError(f"{where}.seeds: names one twice")
    for key, pairs in (("compare", study.compare), ("interactions", study.interactions)):
        if alone := next((first for first, second in pairs if first == second), None):
            raise WamError(f"{where}.{key}: '{alone}' with itself")
    for pair in study.compare:
        if unknown := next((name for name in pair if name not in study.cells), None):
            known = ", ".join(study.cells)
            raise WamError(f"{where}.compare: no cell '{unknown}'; known: {known}")
    named = [first for first, _ in study.compare]
    for name in (name for pair in study.interactions for name in pair):
        if named.count(name) != 1:
            raise WamError(
                f"{where}.interactions: {named.count(name)} comparisons of 'compare' begin with "
                f"'{name}'; expected one"
            )
    judged = {
        cell: study_run(study, cell, study.seeds[0], path).profile.evaluate for cell in study.cells
    }
    for first, second in study.compare:
        if judged[first] != judged[second]:
            raise WamError(
                f"{where}.compare: '{first}' and '{second}' differ in 'evaluate'; what is compared "
                "is judged alike"
            )
    return study


def study_run(study: Study, cell: str, seed: int, path: Path = PARAMS_FILE) -> Run:
    """The settings and places of one run. Raises WamError for what is no run of the study, or for
    settings that make no valid profile."""
    if cell not in study.cells:
        raise WamError(f"{path}: {STUDY_KEY}.cells: no '{cell}'; known: {', '.join(study.cells)}")
    if seed not in study.seeds:
        raise WamError(f"{path}: {STUDY_KEY}.seeds: no {seed}; known: {list(study.seeds)}")
    settings = copy.deepcopy(document(path)[study.base])
    where = f"{path}: {STUDY_KEY}.cells.{cell}"
    _merge(settings, study.set, f"{path}: {STUDY_KEY}.set")
    if "tasks" in study.cells[cell].set:
        raise WamError(f"{where}.set: 'tasks' are the study's, the same in all runs")
    _merge(settings, study.cells[cell].set, f"{where}.set")
    profile = profile_of(settings, where)
    if not profile.tasks:
        raise WamError(f"{where}.tasks: []; a study evaluates policies")
    tuned = profile.finetune.seeds
    if not set(tuned) <= set(study.seeds):
        raise WamError(
            f"{where}.finetune.seeds = {list(tuned)}: expected some of study.seeds, "
            f"{list(study.seeds)}, or []"
        )
    seeded = {name: replace(getattr(profile, name), seed=seed) for name in SEEDED}
    own = replace(profile.finetune, seeds=(seed,) if seed in tuned else ())
    profile = replace(profile, finetune=own, **seeded)
    layout = Layout.of_run(cell, seed, study.base)
    return Run(cell, seed, study.cells[cell].variant, profile, layout)


def run_stages(study: Study) -> dict[str, tuple[str, int]]:
    """Cell and seed of every run by what DVC calls it: ``study@wam-0`` and so on."""
    return {f"study@{cell}-{seed}": (cell, seed) for cell in study.cells for seed in study.seeds}


def _merge(settings: dict[str, Any], override: Mapping[str, Any], where: str) -> None:
    for section, values in override.items():
        if section in _SHARED:
            raise WamError(f"{where}: '{section}' is the base's: all runs share frames")
        if isinstance(settings.get(section), dict):
            if not isinstance(values, Mapping):
                raise WamError(f"{where}.{section}: expected settings, got {values!r:.100}")
            if section in SEEDED and "seed" in values:
                raise WamError(f"{where}.{section}.seed: is that of the run, one of study.seeds")
            settings[section].update(values)
        else:
            settings[section] = values
