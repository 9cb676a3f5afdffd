"""DPPO computes what it computed when ``golden.json`` was written, with every option.

After a change that is meant to alter it, ``python -m tests.wam.ppo.test_golden`` writes it anew.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.wam import golden
from wam.config import FinetuneConfig, PolicyConfig
from wam.policy.network import build_network
from wam.ppo.curriculum import StartCurriculum
from wam.ppo.disagreement import DisagreementEnsemble
from wam.ppo.imagination import LatentEnv
from wam.ppo.ppo import Dppo
from wam.randomness import Generators, normal, seeded

GOLDEN = Path(__file__).with_name("golden.json")
FEATURE = 2
ITERATIONS = 3
POLICY = PolicyConfig(hidden=(24, 24, 24), diffusion_steps=6)
GAE = FinetuneConfig(
    envs=16,
    steps=6,
    max_decisions=3,
    finetuned_steps=4,
    critic_hidden=(16, 16, 16),
    actor_lr=1e-3,
    critic_warmup=1,
    epochs=2,
    minibatch=100,
    clip_base=0.01,
    clip_max=0.1,
)
OPTIONS = {
    "gae": GAE,
    "decisions": replace(GAE, minibatch_over="decision", minibatch=40),
    "early_stop": replace(GAE, target_kl=1e-6, epochs=4),
    "group": replace(GAE, advantage="group", group=4),
    "curriculum": replace(GAE, start_curriculum=1.0),
    "disagreement": replace(GAE, disagreement_scale=0.5),
}


class DriftState(NamedTuple):
    feature: torch.Tensor
    """[B, 2]"""


class Drift:
    """Two coordinates that follow the mean translation and rotation, and some noise."""

    def split(self, feature: torch.Tensor) -> DriftState:
        return DriftState(feature)

    def imagine_step(
        self, state: DriftState, action: torch.Tensor, generator: Generators
    ) -> DriftState:
        motion = action[:, :6].unflatten(1, (2, 3)).mean(2)
        noise = normal(motion.shape, generator, motion.device)
        return DriftState(0.98 * state.feature + 0.3 * motion + 0.1 * noise)


class FarRight:
    def success(self, feature: torch.Tensor) -> torch.Tensor:
        return feature[:, 0] > 0.5


def run(config: FinetuneConfig) -> tuple[list[dict[str, Any]], Dppo]:
    """The reports of some iterations, and what was trained."""
    random = torch.Generator().manual_seed(0)
    with seeded(random):
        base = build_network(POLICY, FEATURE)
        ensemble = DisagreementEnsemble(FEATURE, 2, 3, heads=3)
        ensemble.scale.fill_(1e-3)
    dppo = Dppo(base, FEATURE, config, torch.Generator().manual_seed(1))
    posterior = torch.rand(2, 20, FEATURE, generator=random) / 2
    curriculum = StartCurriculum(
        posterior, torch.arange(20) % 10 > 7, torch.tensor([10, 10]), ITERATIONS
    )
    env = LatentEnv(
        Drift(),
        FarRight(),
        [posterior[:, 0]],
        config.envs,
        config.max_decisions,
        random,
        config.group if config.advantage == "group" else None,
        ensemble.requires_grad_(False) if config.disagreement_scale else None,
        config.disagreement_scale,
    )
    reports = []
    for iteration in range(ITERATIONS):
        position = curriculum.position(iteration)
        if config.start_curriculum and position is not None:
            env.start_from([curriculum.starts(position)])
        reports.append(dppo.train_iteration(env, random))
    return reports, dppo


def figures(option: str) -> dict[str, float | None]:
    """Every number of the reports, and the squared norms of the trained networks."""
    reports, dppo = run(OPTIONS[option])
    state = dppo.state_dict()
    critic = state["critic"]["network"] if state["critic"] else {}
    found: dict[str, float | None] = {
        "actor": golden.square_norm(state["actor"].values()),
        "critic": golden.square_norm(critic.values()),
    }
    for number, report in enumerate(reports):
        for name, value in report.items():
            values = value if isinstance(value, list) else [value]
            found |= {f"{number}.{name}.{index}": item for index, item in enumerate(values)}
    return found


@pytest.mark.parametrize("option", OPTIONS)
def test_an_iteration_computes_what_it_did(option: str) -> None:
    golden.check(GOLDEN, option, figures(option))


if __name__ == "__main__":
    golden.write(GOLDEN, OPTIONS, figures)
