"""Stage ``extract``: demonstrations, held-out starts and imagination starts of every task.

Demonstrations are the annotated windows of play (docs/algorithm.md 1.8); those of the validation
split are held out and give the start states of the evaluation (docs/calvin.md 5.2). Rows point
into the store of the split.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout, store_path
from pipeline.calvin import language
from pipeline.calvin.listing import SplitIndex, load_index
from pipeline.latents.demonstrations import DEMOS_FILE, Demo, Start, TaskDemos
from pipeline.params import Extract, Profile
from pipeline.store.open import Store, open_store
from wam import tasks
from wam.config import TASKS
from wam.errors import WamError

MAX_EXTENSION = 16
"""Play frames that may be added to a window in which the task is not yet achieved
(docs/algorithm.md 5.3)."""
PLAY_FRAMES = 64
"""Length of a window of play that the reward learns from."""
NEAR_M = 0.05
"""A hand that comes this close to where a demonstration succeeded has tried, or nearly so."""
CLEARANCE = 64
"""Frames between an imagination start and the next change of the task's variable
(docs/algorithm.md 6.7)."""


def run(profile: Profile, layout: Layout) -> None:
    """Extract the profile's tasks into ``layout.demos``.

    Raises WamError if the profile has no task, or a split no annotations, or none of a task.
    """
    if not profile.tasks:
        raise WamError("tasks: []; demonstrations, and all that follows, need at least one")
    index = load_index(layout.index)
    training = open_store(store_path(layout.store, "training"))
    validation = open_store(store_path(layout.store, "validation"))
    annotations = {name: _annotations(split) for name, split in index.splits.items()}
    extracted = {
        task: extract_task(task, training, validation, annotations, profile.extract)
        for task in profile.tasks
    }
    sources = {
        task: {
            "training": _frame_ranges(training, demos.training),
            "validation": _frame_ranges(validation, demos.validation),
            "starts": [start.frame_id for start in demos.starts],
            "imagination_starts": training.frame_ids[demos.imagination_starts].tolist(),
            "training_play": _frame_ranges(training, demos.training_play),
            "validation_play": _frame_ranges(validation, demos.validation_play),
        }
        for task, demos in extracted.items()
    }

    def make(target: Build) -> None:
        target.manifest["digest"] = manifests.digest(sources)
        content = {
            "digest": target.manifest["digest"],
            "tasks": {task: asdict(demos) for task, demos in extracted.items()},
            "source_frame_ids": sources,
        }
        manifests.write_json(target.directory / DEMOS_FILE, content)

    build(
        layout.demos,
        make,
        stage="extract",
        params={"tasks": profile.tasks, **asdict(profile.extract)},
        inputs={
            "index": manifests.fingerprint(layout.index, "index"),
            "store": manifests.fingerprint(layout.store, "convert", deep=False),
        },
    )
    for task, demos in extracted.items():
        if len(demos.training) < profile.extract.demos_per_task:
            console.warn(
                f"{task}: {len(demos.training)} demonstrations, fewer than "
                f"extract.demos_per_task={profile.extract.demos_per_task}"
            )
    counts = ", ".join(
        f"{task} {len(demos.training)}+{len(demos.validation)}" for task, demos in extracted.items()
    )
    console.done("extract", f"training + validation demonstrations: {counts}")


def extract_task(
    task: str,
    training: Store,
    validation: Store,
    annotations: dict[str, list[language.Annotation]],
    settings: Extract,
) -> TaskDemos:
    """Demonstrations and starts of one task; independent of which other tasks there are.

    ``annotations`` holds those of all tasks by split. Raises WamError if a split has none of
    ``task``.
    """
    rng = np.random.default_rng([settings.seed, TASKS.index(task)])
    drawn, held_out = (
        _windows(task, store, annotations[store.split]) for store in (training, validation)
    )
    annotated = {demo.start for demo in drawn}
    if len(drawn) > settings.demos_per_task:
        chosen = rng.choice(len(drawn), settings.demos_per_task, replace=False)
        drawn = [drawn[at] for at in sorted(chosen)]
    robot_obs, scene_obs = validation.read("robot_obs"), validation.read("scene_obs")
    demos = _extended(task, training, drawn)
    goals = _success_positions(task, training, demos)
    if settings.further_starts == "play":
        starts = _play_starts(task, training, settings, rng)
    else:
        others = sorted(annotated - {demo.start for demo in demos})
        count = min(settings.play_starts_per_task, len(others))
        starts = sorted(rng.choice(others, count, replace=False).tolist()) if count else []
    return TaskDemos(
        training=demos,
        validation=_extended(task, validation, held_out),
        starts=[
            Start(int(validation.frame_ids[row]), robot_obs[row].tolist(), scene_obs[row].tolist())
            for row in (demo.start for demo in held_out)
        ],
        imagination_starts=starts,
        training_play=_play(task, training, goals, settings.play_windows_per_task, rng),
        validation_play=_play(task, validation, goals, settings.play_windows_per_task, rng),
    )


def _annotations(split: SplitIndex) -> list[language.Annotation]:
    if split.windows is None:
        raise WamError(
            f"{Path(split.directory) / language.ANNOTATIONS}: not found by 'wam index'; "
            "extract needs the annotations of both splits"
        )
    return split.windows


def _windows(task: str, store: Store, annotations: list[language.Annotation]) -> list[Demo]:
    """The annotated windows of ``task``, in the order of the annotations.

    Windows that do not lie inside one stored episode are left out (dropped episodes).
    """
    matching = [annotation for annotation in annotations if annotation.task == task]
    demos = []
    for annotation in matching:
        ids = np.array([annotation.start, annotation.stop - 1])
        if not np.isin(ids, store.frame_ids).all():
            continue
        first, last = store.rows_of_frame_ids(ids).tolist()
        episode, end = store.episode_of_rows(np.array([first, last])).tolist()
        if episode == end:
            demos.append(Demo(first, last + 1, int(store.episodes[episode, 0])))
    if len(demos) < len(matching):
        console.warn(
            f"{store.path}: {len(matching) - len(demos)} of {len(matching)} windows of {task} do "
            "not lie inside one stored episode and are left out"
        )
    if not demos:
        counts = [f"{name} {sum(a.task == name for a in annotations)}" for name in TASKS]
        raise WamError(
            f"task '{task}': no annotated window in the {store.split} split; windows per task: "
            f"{', '.join(counts)}. Collect more frames, or take the task out of the profile's tasks"
        )
    return demos


def _extended(task: str, store: Store, demos: list[Demo]) -> list[Demo]:
    """``demos``, lengthened to the first success where that comes up to 16 play frames later."""
    extended, num_failed = [], 0
    for demo in demos:
        episode_stop = int(store.episodes[store.episode_of_rows(np.array(demo.start)), 1])
        limit = min(demo.stop + MAX_EXTENSION, episode_stop)
        success = _first_success(task, store, demo.start, limit)
        num_failed += success is None
        stop = demo.stop if success is None else success + 1
        extended.append(Demo(demo.start, max(demo.stop, stop), demo.episode_start))
    if num_failed:
        console.warn(
            f"{store.path}: {num_failed} of {len(demos)} demonstrations of {task} never achieve it"
        )
    return extended


def _first_success(task: str, store: Store, start: int, stop: int) -> int | None:
    """First of the rows [start, stop) in which ``task`` is accomplished since ``start``."""
    scene_obs = store.read("scene_obs", start, stop)
    success = np.flatnonzero(tasks.achieved(task, scene_obs[0], scene_obs))
    return start + int(success[0]) if len(success) else None


def _play_starts(task: str, store: Store, settings: Extract, rng: np.random.Generator) -> list[int]:
    """Random play rows that allow the task and leave its variable alone for the next 64 frames."""
    candidates = []
    for start, stop in store.episodes.tolist():
        scene_obs = store.read("scene_obs", start, stop)
        num_rows = stop - start - CLEARANCE
        if num_rows <= 0:
            continue
        now = scene_obs[:num_rows]
        still = np.ones(num_rows, bool)
        for ahead in range(1, CLEARANCE + 1):
            still &= ~tasks.changed(task, now, scene_obs[ahead : ahead + num_rows])
        candidates.append(start + np.flatnonzero(still & tasks.startable(task, now)))
    rows = np.concatenate(candidates) if candidates else np.empty(0, np.int64)
    count = min(settings.play_starts_per_task, len(rows))
    if count < settings.play_starts_per_task:
        console.warn(
            f"{task}: {count} imagination starts, fewer than "
            f"extract.play_starts_per_task={settings.play_starts_per_task}"
        )
    return sorted(rng.choice(rows, count, replace=False).tolist())


def _success_positions(task: str, store: Store, demos: list[Demo]) -> np.ndarray:
    """TCP positions float64 [D, 3] (m) at the first success of every demonstration that has one."""
    rows = [_first_success(task, store, demo.start, demo.stop) for demo in demos]
    found = [store.read("robot_obs", row, row + 1)[0, :3] for row in rows if row is not None]
    return np.array(found).reshape(-1, 3)


def _play(
    task: str, store: Store, goals: np.ndarray, count: int, rng: np.random.Generator
) -> list[Demo]:
    """``count`` windows of play that begin where ``task`` can be done; fewer without room for them.

    Unlike demonstrations they show what is no success although it looks like one, and success with
    the arm elsewhere. As far as there are any, half of them have a success in them, and half of the
    others a hand at the ``goals`` [D, 3] of demonstrations: attempts that fail.
    """
    if not count:
        return []
    kinds: dict[str, list[np.ndarray]] = {"success": [], "attempt": [], "other": []}
    for start, stop in store.episodes.tolist():
        scene_obs = store.read("scene_obs", start, stop)
        num_rows = stop - start - PLAY_FRAMES + 1
        if num_rows <= 0:
            continue
        now = scene_obs[:num_rows]
        near = _near(store.read("robot_obs", start, stop)[:, :3], goals)
        succeeds, attempts = np.zeros(num_rows, bool), np.zeros(num_rows, bool)
        for ahead in range(1, PLAY_FRAMES):
            later = slice(ahead, ahead + num_rows)
            succeeds |= tasks.achieved(task, now, scene_obs[later])
            attempts |= near[later]
        startable = tasks.startable(task, now)
        for kind, rows in (
            ("success", succeeds),
            ("attempt", ~succeeds & attempts),
            ("other", ~succeeds & ~attempts),
        ):
            kinds[kind].append(start + np.flatnonzero(startable & rows))
    chosen: list[int] = []
    for kind, share in (("success", 0.5), ("attempt", 0.5), ("other", 1.0), ("attempt", 1.0)):
        pool = np.setdiff1d(np.concatenate(kinds[kind] or [np.empty(0, np.int64)]), chosen)
        more = min(int(share * (count - len(chosen))), len(pool))
        chosen += rng.choice(pool, more, replace=False).tolist()
    if len(chosen) < count:
        console.warn(
            f"{store.path}: {len(chosen)} windows of play for {task}, fewer than "
            f"extract.play_windows_per_task={count}"
        )
    episodes = store.episode_of_rows(np.array(chosen, np.int64)).tolist()
    return [
        Demo(row, row + PLAY_FRAMES, int(store.episodes[episode, 0]))
        for row, episode in sorted(zip(chosen, episodes, strict=True))
    ]


def _near(positions: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """bool [T]: which ``positions`` [T, 3] lie within :data:`NEAR_M` of one of ``goals`` [D, 3]."""
    near = np.zeros(len(positions), bool)
    for goal in goals:
        near |= np.linalg.norm(positions - goal, axis=1) < NEAR_M
    return near


def _frame_ranges(store: Store, demos: list[Demo]) -> list[list[int]]:
    """Source frame ids [first, last] of every demonstration, both inclusive."""
    return [[int(store.frame_ids[d.start]), int(store.frame_ids[d.stop - 1])] for d in demos]
