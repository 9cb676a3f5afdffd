"""The world model written plainly, as an opponent for speed and a second opinion on the numbers.

The same model and objective as ``wam.world_model.model`` at its default options (docs/algorithm.md
2), made of PyTorch's own layers and distributions and of nothing from
``wam.world_model``: default memory format, float32, batch-major windows, both heads inside the loop
over time, transposed convolutions, one compressed file per frame.

B = batch, T = time, Z = stoch x classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributions import Independent, OneHotCategoricalStraightThrough, kl_divergence
from torch.utils.data import Dataset

from wam.config import ACTION_SIZE, PROPRIO_SIZE, WorldModelConfig
from wam.proprio import ProprioNormalizer, from_robot_obs

EPS = 1e-3
NULL_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)

SIZES = (
    "cnn_depth",
    "visual_embedding",
    "decoder_channels",
    "deter",
    "stoch",
    "classes",
    "hidden",
    "id_hidden",
)
Sample = dict[str, torch.Tensor]
"""Tensors [B, T, ...] by the names of ``wam.batch.Batch``; images float32 [..., 3, 64, 64]."""
State = tuple[torch.Tensor, torch.Tensor]
"""Deterministic [B, D] and stochastic [B, Z] part."""
Draw = Callable[[torch.Tensor], torch.Tensor]
"""One-hot vectors [B, S, C] with straight-through gradients, drawn from logits [B, S, C]."""


def papers_terms(config: WorldModelConfig) -> WorldModelConfig:
    """A model of the same sizes with the papers' options alone, which are those of this module."""
    return WorldModelConfig(**{name: getattr(config, name) for name in SIZES})


def draw(logits: torch.Tensor) -> torch.Tensor:
    return categoricals(logits).rsample()


class PlainWorldModel(nn.Module):
    """A world model of the sizes in ``config``."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        flat = config.stoch * config.classes
        embedding = config.visual_embedding + PROPRIO_SIZE
        hidden = config.hidden
        self.encoder_static = conv_encoder(config.cnn_depth)
        self.encoder_gripper = conv_encoder(config.cnn_depth)
        self.fusion = nn.Sequential(
            nn.Linear(2 * 32 * config.cnn_depth, config.visual_embedding),
            nn.LayerNorm(config.visual_embedding, eps=EPS),
            nn.ELU(),
        )
        self.recurrent_input = nn.Sequential(
            nn.Linear(flat + ACTION_SIZE, hidden), nn.LayerNorm(hidden, eps=EPS), nn.ELU()
        )
        self.gru = nn.GRUCell(hidden, config.deter)
        self.prior = latent_head(config.deter, hidden, flat)
        self.posterior = latent_head(config.deter + embedding, hidden, flat)
        self.decoder_input = nn.Linear(config.feature, config.decoder_channels)
        self.decoder_static = conv_decoder(config.decoder_channels, config.cnn_depth)
        self.decoder_gripper = conv_decoder(config.decoder_channels, config.cnn_depth)
        self.inverse_dynamics = action_head(2 * embedding, config.id_hidden)
        self.register_buffer("null_action", torch.tensor(NULL_ACTION), persistent=False)

    def initial(self, batch: int, device: torch.device) -> State:
        config = self.config
        return (
            torch.zeros(batch, config.deter, device=device),
            torch.zeros(batch, config.stoch * config.classes, device=device),
        )

    def loss(self, sample: Sample, state: State, draw: Draw = draw) -> tuple[torch.Tensor, State]:
        """The scalar objective on ``sample``, which continues from ``state``, and the last state.

        ``draw`` is called once per time step.
        """
        config = self.config
        static, gripper = sample["rgb_static"], sample["rgb_gripper"]
        steps = static.shape[1]
        embedding = self.embed(static, gripper, sample["proprio"])
        deter, stoch = state
        features, kl_prior, kl_posterior = [], [], []
        for t in range(steps):
            is_first = sample["is_first"][:, t, None]
            deter = torch.where(is_first, torch.zeros_like(deter), deter)
            stoch = torch.where(is_first, torch.zeros_like(stoch), stoch)
            action = torch.where(is_first, self.null_action, sample["prev_action"][:, t])
            deter = self.gru(self.recurrent_input(torch.cat([stoch, action], -1)), deter)
            prior = self.prior(deter).unflatten(-1, (config.stoch, config.classes))
            posterior = self.posterior(torch.cat([deter, embedding[:, t]], -1))
            posterior = posterior.unflatten(-1, (config.stoch, config.classes))
            stoch = draw(posterior).flatten(1)
            features.append(torch.cat([deter, stoch], -1))
            kl_prior.append(kl(posterior.detach(), prior))
            kl_posterior.append(kl(posterior, prior.detach()))
        kl_loss = (
            config.kl_balance * torch.stack(kl_prior).mean()
            + (1 - config.kl_balance) * torch.stack(kl_posterior).mean()
        )
        seed = self.decoder_input(torch.stack(features, 1).flatten(0, 1))[:, :, None, None]
        image_loss = 0.5 * (
            (self.decoder_static(seed) - static.flatten(0, 1)).pow(2).sum((1, 2, 3))
            + (self.decoder_gripper(seed) - gripper.flatten(0, 1)).pow(2).sum((1, 2, 3))
        )
        predicted = self.inverse_dynamics(torch.cat([embedding[:, :-1], embedding[:, 1:]], -1))
        error = (predicted - sample["action"][:, :-1]).abs().mean(-1)
        action_loss = error[sample["id_mask"]].mean()
        loss = (
            config.kl_scale * kl_loss
            + config.image_scale * image_loss.mean()
            + config.action_scale * action_loss
        )
        return loss, (deter.detach(), stoch.detach())

    def embed(
        self, static: torch.Tensor, gripper: torch.Tensor, proprio: torch.Tensor
    ) -> torch.Tensor:
        """[B, T, E]"""
        features = [
            self.encoder_static(static.flatten(0, 1)),
            self.encoder_gripper(gripper.flatten(0, 1)),
        ]
        visual = self.fusion(torch.cat(features, -1)).unflatten(0, proprio.shape[:2])
        return torch.cat([visual, proprio], -1)


def conv_encoder(depth: int) -> nn.Sequential:
    """[N, 32 depth] of images [N, 3, 64, 64]."""
    return nn.Sequential(
        nn.Conv2d(3, depth, 4, stride=2),
        nn.ELU(),
        nn.Conv2d(depth, 2 * depth, 4, stride=2),
        nn.ELU(),
        nn.Conv2d(2 * depth, 4 * depth, 4, stride=2),
        nn.ELU(),
        nn.Conv2d(4 * depth, 8 * depth, 4, stride=2),
        nn.ELU(),
        nn.Flatten(),
    )


def conv_decoder(channels: int, depth: int) -> nn.Sequential:
    """Images [N, 3, 64, 64] of [N, channels, 1, 1]."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, 4 * depth, 5, stride=2),
        nn.ELU(),
        nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2),
        nn.ELU(),
        nn.ConvTranspose2d(2 * depth, depth, 6, stride=2),
        nn.ELU(),
        nn.ConvTranspose2d(depth, 3, 6, stride=2),
    )


def latent_head(inputs: int, hidden: int, flat: int) -> nn.Sequential:
    """Logits [B, Z]."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden, eps=EPS), nn.ELU(), nn.Linear(hidden, flat)
    )


def action_head(inputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Actions [..., 7] between two embeddings."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width, eps=EPS), nn.ELU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, ACTION_SIZE))


def kl(posterior: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """KL(posterior || prior) [B] of logits [B, S, C]."""
    return kl_divergence(categoricals(posterior), categoricals(prior))


def categoricals(logits: torch.Tensor) -> Independent:
    """The distribution of S independent categoricals with logits [B, S, C]."""
    return Independent(OneHotCategoricalStraightThrough(logits=logits), 1)


class FrameFiles(Dataset[Sample]):
    """Windows [T, ...] of consecutive frames, one 64x64 ``.npz`` file each, in CALVIN's format."""

    def __init__(
        self,
        paths: Sequence[Path],
        starts: np.ndarray,
        window: int,
        normalizer: ProprioNormalizer,
    ) -> None:
        self._paths, self._starts = paths, starts
        self._window, self._normalizer = window, normalizer

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Sample:
        frames = []
        start = self._starts[index]
        for path in self._paths[start : start + self._window]:
            with np.load(path) as file:
                frames.append({name: file[name] for name in _READ})
        stacked = {name: np.stack([frame[name] for frame in frames]) for name in _READ}
        action = torch.from_numpy(stacked["rel_actions"]).float()
        is_first = torch.zeros(self._window, dtype=torch.bool)
        is_first[0] = True
        return {
            "rgb_static": _image(stacked["rgb_static"]),
            "rgb_gripper": _image(stacked["rgb_gripper"]),
            "proprio": torch.from_numpy(self._normalizer(from_robot_obs(stacked["robot_obs"]))),
            "prev_action": torch.cat([torch.zeros(1, ACTION_SIZE), action[:-1]]),
            "action": action,
            "is_first": is_first,
            "id_mask": torch.ones(self._window - 1, dtype=torch.bool),
        }


_READ = ("rgb_static", "rgb_gripper", "robot_obs", "rel_actions")


def _image(rgb: np.ndarray) -> torch.Tensor:
    """float32 [T, 3, 64, 64] in [-1, 1]"""
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 127.5 - 1
