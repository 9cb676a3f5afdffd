"""Rolls policies out, one after another, with the models and the simulators of one process."""

import multiprocessing
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from pipeline.artifacts.layout import Layout
from pipeline.evaluation import agreement
from pipeline.evaluation.jobs import AFTERMATH, EvaluationJob, episodes
from pipeline.evaluation.rollout import Agent, Tally, execute, roll_out, run_control
from pipeline.evaluation.simulator import open_pool
from pipeline.latents.demonstrations import Start
from pipeline.params import Profile
from pipeline.workers import Tell
from wam.config import CHUNK
from wam.device import resolve, threads
from wam.envs.settings import SimulatorConfig
from wam.errors import WamError
from wam.policy.policy import load_policy
from wam.reward.classifier import load_reward
from wam.tasks import RULES, Move
from wam.world_model.load import load_world_model

KeptRollouts = dict[str, Any]
"""What is kept of a job: its ``rollouts``, and for the clips ``actions``, by index of a roll-out
(as JSON has keys, a string) what was executed, [T][7]: of the first one, and the first failure."""


class Work(NamedTuple):
    """A job with its starts."""

    job: EvaluationJob
    starts: Sequence[Start]

    @property
    def name(self) -> str:
        return self.job.name


class Bench:
    """For the policies of ``variant``, or for the controls if it is None; a context manager."""

    def __init__(
        self, profile: Profile, layout: Layout, simulator: SimulatorConfig, variant: str | None
    ) -> None:
        self._profile, self._layout = profile, layout
        self._device = resolve(profile.device)
        self._pools = []
        if variant is not None:
            self._model = load_world_model(layout.world_model(variant), self._device)
            self._pools.append(open_pool(simulator, profile.env.workers))
        # What is done without looking needs no images, which are most of a simulator's work. Where
        # every episode is a process these are too many to have them twice.
        if variant is None or not simulator.one_per_process:
            self._pools.append(open_pool(simulator, profile.env.workers, cameras=False))
        self._seeing, self._blind = self._pools[0], self._pools[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.close()

    def roll_out(self, work: Work, tell: Tell) -> tuple[EvaluationJob, KeptRollouts]:
        """Let the job's policy act from all starts."""
        job, starts = work.job, work.starts
        evaluate, tally = self._profile.evaluate, _tally(job, tell)
        own = episodes(job.task, evaluate.seed, starts)
        seen: dict[str, list[Any]] = {}
        if job.variant is None:
            outcome = run_control(job.stage, self._blind, own, evaluate.max_steps, tally)
        else:
            agent = self._agent(job)
            classifier = load_reward(self._layout.reward(job.variant) / job.task, self._device)
            longer = [episode._replace(aftermath=AFTERMATH) for episode in own]
            seeds = [episode.seed for episode in own]
            decisions = -(-evaluate.max_steps // CHUNK)
            with threads(1):  # as everywhere else: results are to be those of any crew
                outcome, experience = roll_out(
                    agent, self._seeing, longer, evaluate.max_steps, tally
                )
                replays = agreement.replayed(agent, experience, seeds)
                found = agreement.verdicts(classifier, experience, replays)
                seen = {name: flags.tolist() for name, flags in found._asdict().items()}
                dream = agreement.dream(agent, classifier, experience.first, seeds, decisions)
                seen["imagined"] = dream.success.tolist()
                seen["executed"] = execute(
                    self._blind, own, dream.chunks, evaluate.max_steps
                ).tolist()
                if isinstance(rule := RULES[job.task], Move):
                    begun = np.stack([episode.scene_obs for episode in own])
                    start = torch.from_numpy(begun).to(self._device)
                    told = agreement.movements(rule, experience, replays, start)
                    seen |= {name: ways.tolist() for name, ways in told._asdict().items()}
        results = zip(starts, outcome.success, outcome.steps, strict=True)
        rollouts = [
            {
                **job._asdict(),
                "frame_id": start.frame_id,
                "success": bool(success),
                "steps": int(steps),
                **{name: flags[row] for name, flags in seen.items()},
            }
            for row, (start, success, steps) in enumerate(results)
        ]
        filmed = {0, *np.flatnonzero(~outcome.success)[:1].tolist()}
        actions = {str(row): outcome.actions[row].tolist() for row in sorted(filmed)}
        kept = {"rollouts": rollouts, "actions": actions}
        return job, {**kept, "device": str(self._device)}

    def _agent(self, job: EvaluationJob) -> Agent:
        assert job.variant is not None
        place = self._layout.policy(job.variant) / job.task
        if job.stage != "bc":
            place = self._layout.finetune(job.variant) / job.task / f"seed-{job.seed}"
        evaluate, filtering = self._profile.evaluate, self._profile.features.filtering
        sampled = evaluate.ddim_steps, evaluate.looks_of(job.task)
        policy = load_policy(place, self._device)
        return Agent(*self._model, policy, filtering, self._device, *sampled)


def roll_out_alone(
    profile: Profile,
    layout: Layout,
    simulator: SimulatorConfig,
    variant: str | None,
    work: Work,
    tell: Tell,
) -> tuple[EvaluationJob, KeptRollouts]:
    """:meth:`Bench.roll_out` with a bench for this job, in a worker.

    Raises WamError in a daemon, which may have no simulators as children.
    """
    if multiprocessing.current_process().daemon:
        raise WamError(
            "parallel.dask_address: these workers are daemons and can start no simulators; start "
            "them with --no-nanny, or with DASK_DISTRIBUTED__WORKER__DAEMON=False"
        )
    with Bench(profile, layout, simulator, variant) as bench:
        return bench.roll_out(work, tell)


def _tally(job: EvaluationJob, tell: Tell) -> Tally:
    """Moves the progress bar and shows the success rate so far."""
    ended = successes = 0

    def tally(more: int, successful: int) -> None:
        nonlocal ended, successes
        ended += more
        successes += successful
        tell(job.name, more, f"{job.task} {job.label}: {successes}/{ended} succeeded")

    return tally
