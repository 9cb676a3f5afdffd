"""Are a policy's dreams true? What it does in them is executed in the simulator, unseen.

    python benchmarks/dreamt_actions.py --profile small --variant wam [--task open_drawer] [--json]

From every held-out start the policy acts in imagination, from the first look; the actions of that
dream are then executed without another look. Beside it: what the evaluation found, where the same
policy sees and filters every frame. Needs the evaluation of the variant's policies.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import read_json
from pipeline.evaluation.jobs import episodes
from pipeline.evaluation.simulator import open_pool, simulator_for
from pipeline.latents.demonstrations import load_demos
from pipeline.params import Profile, load_profile
from pipeline.store.open import open_store
from wam.config import CHUNK, VARIANTS
from wam.envs.filtered import FilteredPool
from wam.policy.policy import Policy, load_policy
from wam.ppo.imagination import imagined_outcome
from wam.randomness import Generators
from wam.reward.classifier import load_reward
from wam.world_model.load import load_world_model

_CPU = torch.device("cpu")


class _Noted:
    """A policy, sampled as at evaluation, whose chunks [B, 4, 7] are kept."""

    def __init__(self, policy: Policy, ddim_steps: int | None) -> None:
        self._policy, self._ddim_steps = policy, ddim_steps
        self.chunks: list[torch.Tensor] = []

    def act(self, feature: torch.Tensor, generator: Generators) -> torch.Tensor:
        self.chunks.append(self._policy.act(feature, generator, self._ddim_steps))
        return self.chunks[-1]


@torch.no_grad()
def found(
    profile: Profile, layout: Layout, variant: str, tasks: list[str]
) -> Iterator[dict[str, Any]]:
    """Of every task's clone and fine-tuned policy, shares of the starts."""
    model, normalizer = load_world_model(layout.world_model(variant), _CPU)
    data = open_store(layout.store / "validation.zarr").attrs
    simulator = simulator_for(profile, layout.store, data)
    rows = read_json(layout.evaluation(variant) / "rollouts.json")
    key = ("task", "stage", "seed", "frame_id")
    seen = {tuple(row[name] for name in key): row["success"] for row in rows}
    decisions = -(-profile.evaluate.max_steps // CHUNK)
    demos, limit = load_demos(layout.demos), profile.evaluate.max_episodes
    tuned = profile.finetune.seeds[0]
    seeds = {"bc": profile.policy.seed, "ppo": tuned}
    places = {
        "bc": lambda task: layout.policy(variant) / task,
        "ppo": lambda task: layout.finetune(variant) / task / f"seed-{tuned}",
    }
    with open_pool(simulator, profile.env.workers, cameras=True) as pool:
        for task in tasks:
            starts = demos[task].starts[:limit]
            classifier = load_reward(layout.reward(variant) / task, _CPU)
            own = episodes(task, profile.evaluate.seed, starts)
            for stage, place in places.items():
                policy, of = load_policy(place(task), _CPU), (task, stage, seeds[stage])
                filtered = FilteredPool(pool, model, normalizer, profile.features.filtering, _CPU)
                filtered.start(own)
                acting = _Noted(policy, profile.evaluate.ddim_steps)
                dreamt = imagined_outcome(
                    model, classifier, acting, filtered.feature, decisions, filtered.generators
                )
                for chunk in acting.chunks:
                    result = pool.step(chunk.numpy())
                told = dreamt.numpy()
                yield {
                    "task": task,
                    "stage": stage,
                    "starts": len(own),
                    "dreamt": float(told.mean()),
                    "executed": float(result.success.mean()),
                    "seeing": float(np.mean([seen[*of, start.frame_id] for start in starts])),
                    "true_dreams": float(result.success[told].mean()) if told.any() else None,
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--variant", choices=VARIANTS, default="wam")
    parser.add_argument("--task", action="append", help="all of the profile's if left out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    profile, layout = load_profile(options.profile), Layout.of(options.profile)
    torch.set_num_threads(1)
    rows = []
    for row in found(profile, layout, options.variant, options.task or list(profile.tasks)):
        rows.append(row)
        if not options.json:
            dreamt, executed, seeing = (
                f"{100 * row[name]:.0f} %" for name in ("dreamt", "executed", "seeing")
            )
            console.done(
                f"{row['task']} {row['stage']}",
                f"dreamt {dreamt}, executed unseen {executed}, with open eyes {seeing}",
            )
    if options.json:
        console.console.print_json(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
