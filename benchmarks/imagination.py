"""Policy learning in imagination: roll-outs, an iteration of DPPO, and behaviour cloning.

Weights are random: what is computed does not depend on them. Three versions of the same roll-out
take turns, so that their ratio can be trusted on a busy machine: the package's, which keeps all
environments in one batch of tensors; the same with a round trip through NumPy at every decision;
and that environment by environment. A rate is that of the fastest round unless it is called the
median. The world model has the profile's sizes and the papers' latents, draws without an arm beside
them. The time of cloning is extrapolated from a few hundred updates. All run on a GPU where there
is one.
"""

import pipeline  # noqa: F401 (sets OpenMP's environment before torch is imported)

# isort: split
import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pipeline import console
from pipeline.params import Profile, load_profile
from plain_world_model import papers_terms
from turns import PARAMS, options, ratio, take_turns
from wam import device as devices
from wam.actions import executable
from wam.config import ACTION_SIZE, CHUNK
from wam.policy.cloning import ChunkDataset, chunk_dataset, clone
from wam.policy.diffusion import NOISE_CLIP
from wam.policy.network import CHUNK_VALUES, build_network
from wam.policy.policy import FinetunedPolicy, to_actions
from wam.ppo.imagination import LatentEnv
from wam.ppo.ppo import Dppo, Rollout, collect
from wam.randomness import normal, seeded, uniform
from wam.reward.classifier import SuccessClassifier
from wam.world_model.model import WorldModel

ENVS = 50
DECISIONS = 4
DEMO_FRAMES = 60
CLONING_INTERVALS = 3
"""Intervals between two records of a training, of which the first warms up."""


class Parts(NamedTuple):
    """What a roll-out runs."""

    world_model: WorldModel
    classifier: SuccessClassifier
    policy: FinetunedPolicy
    starts: torch.Tensor
    """float32 [M, F]"""

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.starts.device).manual_seed(seed)

    def received(self, array: np.ndarray) -> torch.Tensor:
        """``array`` where the models are."""
        return torch.from_numpy(array).to(self.starts.device)


class Experience(NamedTuple):
    """What N decisions in E environments yield, as :class:`wam.ppo.ppo.Rollout` has it."""

    feature: np.ndarray
    """float32 [N, E, F]"""
    chain: np.ndarray
    """float32 [N, E, J+1, A]"""
    reward: np.ndarray
    """float32 [N, E]"""
    truncated: np.ndarray
    """bool [N, E]"""
    next_feature: np.ndarray
    """float32 [N, E, F]"""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    devices.keep_freed_memory()
    device = devices.resolve("auto")
    profile = load_profile(arguments.profile, PARAMS)
    profile = replace(profile, world_model=papers_terms(profile.world_model))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    parts = make_parts(profile, device)
    result = {
        "profile": arguments.profile,
        "device": devices.describe(device),
        "threads": torch.get_num_threads(),
        **turns(profile, parts, arguments.rounds),
        **iterations(profile, parts, arguments.rounds),
        **cloning(profile, device),
    }
    console.figures(result, as_json=arguments.json)


def make_parts(profile: Profile, device: torch.device) -> Parts:
    """Models of the profile's sizes, and start states, from fixed seeds."""
    generator = torch.Generator().manual_seed(0)
    size = profile.world_model.feature
    with seeded(generator):
        base, actor = (build_network(profile.policy, size) for _ in range(2))
        classifier = SuccessClassifier(profile.reward, size)
        deter = torch.rand(4 * ENVS, profile.world_model.deter, generator=generator) * 2 - 1
    world_model = WorldModel(profile.world_model, seed=1).to(device).eval().requires_grad_(False)
    stoch = torch.zeros(len(deter), profile.world_model.stoch, profile.world_model.classes)
    stoch[..., 0] = 1.0
    starts = torch.cat([deter, stoch.flatten(1)], 1).to(device)
    classifier.to(device).eval().requires_grad_(False)
    # About half of the starts count as successes: episodes end both ways.
    classifier.threshold.fill_(classifier.probability(starts).median())
    policy = FinetunedPolicy(base, actor, profile.finetune.finetuned_steps).to(device)
    return Parts(world_model, classifier, policy, starts)


def turns(profile: Profile, parts: Parts, rounds: int) -> dict[str, Any]:
    """Imagined environment steps per second of the three versions; the first round warms up."""

    def steps(roll_out: Callable[..., object], **options: int) -> int:
        roll_out(profile, parts, ENVS, DECISIONS, **options)
        return ENVS * DECISIONS * CHUNK

    rates = take_turns(
        {
            "ours": lambda: steps(batched),
            "batched_numpy": lambda: steps(through_numpy, rows=ENVS),
            "stepwise": lambda: steps(through_numpy, rows=1),
        },
        rounds,
        partial(devices.now, parts.starts.device),
    )
    ours = rates["ours"]
    result: dict[str, Any] = {}
    for name, found in rates.items():
        suffix = "" if name == "ours" else f"_{name}"
        if suffix:
            ratios = [our / their for our, their in zip(ours, found, strict=True)]
            result[f"ratio_vs{suffix}"] = ratio(max(ours), max(found))
            result[f"ratio_vs{suffix}_median"] = round(statistics.median(ratios), 2)
        result[f"steps_per_s{suffix}"] = round(max(found), 1)
        result[f"steps_per_s{suffix}_median"] = round(statistics.median(found), 1)
    return result


def batched(profile: Profile, parts: Parts, envs: int, decisions: int) -> Rollout:
    """The package's roll-out of an iteration."""
    generator = parts.generator(2)
    env = make_env(profile, parts, envs, generator)
    return collect(env, parts.policy, decisions, profile.finetune.min_std, generator)


@torch.no_grad()
def through_numpy(
    profile: Profile, parts: Parts, envs: int, decisions: int, rows: int
) -> Experience:
    """The same from the same noise, ``rows`` environments at a time and in NumPy in between.

    All noise is drawn for all environments at once, which is cheaper than row by row.
    """
    generator = parts.generator(2)
    starts = parts.starts.cpu().numpy()

    def draw_starts() -> np.ndarray:
        _, row = uniform((2, envs), generator, "cpu")
        return starts[(row * len(starts)).long().numpy()]

    draw_starts()  # by the environment that is made; a roll-out resets it
    feature, age = draw_starts(), np.zeros(envs, np.int64)
    values = (profile.policy.diffusion_steps + 1, CHUNK_VALUES)
    experience = []
    for _ in range(decisions):
        chain_noise = normal((envs, *values), generator, "cpu").numpy()
        latent_noise = torch.stack(
            [uniform((envs, profile.world_model.stoch), generator, "cpu") for _ in range(CHUNK)]
        ).numpy()
        outcomes = []
        for first in range(0, envs, rows):
            row = slice(first, first + rows)
            chain = denoise(profile, parts, feature[row], chain_noise[row])
            action = to_actions(torch.from_numpy(chain[:, -1])).numpy()
            outcomes.append((chain, *imagine(parts, feature[row], action, latent_noise[:, row])))
        chain, reached, success = map(np.concatenate, zip(*outcomes, strict=True))
        age += 1
        truncated = (age >= profile.finetune.max_decisions) & ~success
        finished = success | truncated
        experience.append((feature, chain, success.astype(np.float32), truncated, reached))
        feature = np.where(finished[:, None], draw_starts(), reached)
        age[finished] = 0
    return Experience(*map(np.stack, zip(*experience, strict=True)))


def denoise(profile: Profile, parts: Parts, feature: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Chain [B, J+1, A] for features [B, F] and noise [B, K+1, A]."""
    policy = parts.policy
    latent, given = parts.received(noise[:, 0]), parts.received(feature)
    added = parts.received(noise[:, 1:]).clamp(-NOISE_CLIP, NOISE_CLIP)
    std = policy.schedule.exploration_std(profile.finetune.min_std)
    shares = [
        (network, network.condition(given), network.step_table())
        for network in (policy.base, policy.actor)
    ]
    latents = [latent]
    for index in range(policy.schedule.steps):
        k = policy.schedule.steps - 1 - index
        network, condition, table = shares[k < policy.finetuned_steps]
        predicted = network.denoise(latent, condition + table[k])
        latent = policy.schedule.mean(latent, predicted, k) + std[k] * added[:, index]
        latents.append(latent)
    return torch.stack(latents[-policy.finetuned_steps - 1 :], 1).cpu().numpy()


def imagine(
    parts: Parts, feature: np.ndarray, action: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features [B, F] behind the actions [B, 4, 7] for noise [4, B, S], and success [B]."""
    rssm = parts.world_model.rssm
    deter, stoch = parts.world_model.split(parts.received(feature))
    actions, numbers = parts.received(action), parts.received(noise)
    for step in range(CHUNK):
        hidden = rssm.input_stoch(stoch) + rssm.input_action(actions[:, step])
        deter = rssm.cell(functional.elu(rssm.input_norm(hidden)), deter)
        below = rssm.prior_logits(deter).exp().cumsum(-1) <= numbers[step].unsqueeze(-1)
        chosen = below.sum(-1).clamp_max(rssm.classes - 1)
        stoch = functional.one_hot(chosen, rssm.classes).float().flatten(1)
    reached = torch.cat([deter, stoch], 1)
    return reached.cpu().numpy(), parts.classifier.success(reached).cpu().numpy()


def iterations(profile: Profile, parts: Parts, rounds: int) -> dict[str, Any]:
    """Seconds of an iteration of DPPO, roll-out and update, with the profile's settings."""
    config = profile.finetune
    device, generator = parts.starts.device, parts.generator(3)
    dppo = Dppo(parts.policy.base, parts.starts.shape[1], config, torch.Generator().manual_seed(4))
    dppo.iteration = config.critic_warmup  # from here on the actor is trained, too
    env = make_env(profile, parts, config.envs, generator)
    seconds, rollouts, updates = [], [], []
    with console.progress("iterations", rounds + 1, "rounds") as advance:
        for index in range(rounds + 1):
            start = devices.now(device)
            rollout = collect(env, dppo.policy, config.steps, config.min_std, generator)
            between = devices.now(device)
            report = dppo.update(rollout, generator)
            end = devices.now(device)
            if index:
                seconds.append(end - start)
                rollouts.append(between - start)
                updates.append(report["gradient_steps"])
            advance()
    return {
        "ppo_iteration_s": round(min(seconds), 2),
        "ppo_iteration_s_median": round(statistics.median(seconds), 2),
        "ppo_rollout_s": round(min(rollouts), 2),
        "ppo_gradient_steps": min(updates),
    }


def cloning(profile: Profile, device: torch.device) -> dict[str, Any]:
    """Seconds of cloning one task, from the faster of the timed intervals between two records."""
    interval = profile.policy.log_every
    config = replace(profile.policy, updates=CLONING_INTERVALS * interval)
    demos = profile.extract.demos_per_task
    training, validation = (demo_dataset(profile, count) for count in (demos, demos // 2))
    marks = []
    with console.progress("cloning", CLONING_INTERVALS, "intervals") as advance:

        def log(record: dict[str, float]) -> None:
            marks.append(devices.now(device))
            advance()

        generator = torch.Generator().manual_seed(5)
        clone(config, training, validation, generator, device, log)
    seconds = min(end - start for start, end in pairwise(marks))
    return {
        "bc_task_s": round(seconds / interval * profile.policy.updates, 1),
        "bc_timed_updates": (CLONING_INTERVALS - 1) * interval,
    }


def demo_dataset(profile: Profile, count: int) -> ChunkDataset:
    """Noise in the form of ``count`` demonstrations."""
    generator = torch.Generator().manual_seed(count)
    frames, size = count * DEMO_FRAMES, profile.world_model.feature
    features = torch.randn(profile.features.draws, frames, size, generator=generator)
    actions = executable(torch.randn(frames, ACTION_SIZE, generator=generator))
    return chunk_dataset(features, features[0], actions, torch.full((count,), DEMO_FRAMES))


def make_env(profile: Profile, parts: Parts, envs: int, generator: torch.Generator) -> LatentEnv:
    return LatentEnv(
        parts.world_model,
        parts.classifier,
        [parts.starts],
        envs,
        profile.finetune.max_decisions,
        generator,
    )


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument(
        "--profile", choices=("demo", "small", "paper"), default="small", help="(default: small)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="(default: every core)")
    return parser


if __name__ == "__main__":
    main()
