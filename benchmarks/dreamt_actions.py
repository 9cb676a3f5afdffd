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
from wam.policy.policy import load_policy
from wam.ppo.imagination import replayed_features
from wam.reward.classifier import load_reward
from wam.world_model.load import load_world_model

_CPU = torch.device("cpu")


@torch.no_grad()
def found(
    profile: Profile, layout: Layout, variant: str, tasks: list[str]
) -> Iterator[dict[str, Any]]:
    """Of every task's clone and fine-tuned policy, shares of the starts."""
    model, normalizer = load_world_model(layout.world_model(variant), _CPU)
    data = open_store(layout.store / "validation.zarr").attrs
    simulator = simulator_for(profile, layout.store, data)
    rows = read_json(layout.evaluation(variant) / "rollouts.json")
    seen = {(row["task"], row["stage"], row["frame_id"]): row["success"] for row in rows}
    demos, limit = load_demos(layout.demos), profile.evaluate.max_episodes
    seed = profile.finetune.seeds[0]
    places = {
        "bc": lambda task: layout.policy(variant) / task,
        "ppo": lambda task: layout.finetune(variant) / task / f"seed-{seed}",
    }
    with open_pool(simulator, profile.env.workers, cameras=True) as pool:
        for task in tasks:
            starts = demos[task].starts[:limit]
            classifier = load_reward(layout.reward(variant) / task, _CPU)
            own = episodes(task, profile.evaluate.seed, starts)
            for stage, place in places.items():
                policy = load_policy(place(task), _CPU)
                filtered = FilteredPool(pool, model, normalizer, profile.features.filtering, _CPU)
                filtered.start(own)
                feature, random = filtered.feature, filtered.generators
                dreamt = torch.zeros(len(own), dtype=torch.bool)
                chunks = []
                for _ in range(-(-profile.evaluate.max_steps // CHUNK)):
                    chunks.append(policy.act(feature, random, profile.evaluate.ddim_steps))
                    feature = replayed_features(model, feature, chunks[-1:], random)[-1]
                    dreamt |= classifier.success(feature)
                for chunk in chunks:
                    result = pool.step(chunk.numpy())
                told = dreamt.numpy()
                yield {
                    "task": task,
                    "stage": stage,
                    "starts": len(own),
                    "dreamt": float(told.mean()),
                    "executed": float(result.success.mean()),
                    "seeing": float(np.mean([seen[task, stage, s.frame_id] for s in starts])),
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
