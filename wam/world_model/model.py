"""The world model: encoder, RSSM, decoder and inverse-dynamics head, with their joint objective.

WAM (arXiv:2603.28955) is DreamerV2's world model plus the inverse-dynamics head; the ``dreamerv2``
variant is the same module with an action scale of 0. Images are summed over pixels, channels and
cameras with a factor 1/2, the KL is summed over categoricals, the action error is averaged over the
seven dimensions, and all are averaged over batch and time (algorithm contract 2.4 and 2.7, reading
1).

T = time, B = batch, V = visual embedding, E = V + 18, A = 7, F = feature.
"""

import torch
from torch import nn

from wam.batch import Batch
from wam.config import ACTION_NAMES, PROPRIO_SIZE, Sampling, WorldModelConfig
from wam.images import psnr_of_mse, to_signed
from wam.randomness import Generators, uniform
from wam.world_model.inverse_dynamics import InverseDynamics, action_error, gripper_accuracy, spans
from wam.world_model.nets import CAMERA_NAMES, Decoder, Encoder, initialize, pixel_phases
from wam.world_model.rssm import Observed, Rssm, RssmState, kl_divergence, kl_loss

_IMAGE_VALUES = 3 * 64 * 64
_PROPRIO_KEPT = 0.5
"""Share of pairs whose proprioception ``proprio-dropout`` leaves visible."""


class WorldModel(nn.Module):
    """A world model of the sizes in ``config``, initialised from ``seed``."""

    def __init__(self, config: WorldModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        embedding = config.visual_embedding + PROPRIO_SIZE
        with torch.random.fork_rng(devices=()):  # the layers' own initial values are replaced below
            self.encoder = Encoder(config.cnn_depth, config.visual_embedding)
            self.rssm = Rssm(
                embedding=embedding,
                deter=config.deter,
                stoch=config.stoch,
                classes=config.classes,
                hidden=config.hidden,
                unimix=config.unimix,
                gru=config.gru,
            )
            self.decoder = Decoder(config.feature, config.decoder_channels, config.cnn_depth)
            self.inverse_dynamics = InverseDynamics(
                config.visual_embedding if config.id_input == "visual" else embedding,
                config.id_hidden,
                config.id_steps,
            )
            # Last, so that the other weights start the same with and without it.
            self.embedding_seed = (
                nn.Linear(embedding, config.decoder_channels)
                if config.embedding_image_scale
                else None
            )
        initialize(self, torch.Generator().manual_seed(seed))

    def initial(self, batch: int, device: torch.device | str) -> RssmState:
        """The state before anything was seen: zeros."""
        return self.rssm.initial(batch, device)

    def embed(
        self, rgb_static: torch.Tensor, rgb_gripper: torch.Tensor, proprio: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Visual embedding [..., V] and full embedding [..., E] of an observation.

        Images uint8 [..., 64, 64, 3], ``proprio`` float32 [..., 18] normalised.
        Raises ValueError for images of any other type.
        """
        return self._embed(_images(rgb_static), _images(rgb_gripper), proprio)

    def filter_step(
        self,
        state: RssmState,
        prev_action: torch.Tensor,
        embedding: torch.Tensor,
        is_first: torch.Tensor,
        generator: Generators,
        sample: Sampling = "sample",
    ) -> RssmState:
        """Posterior state [B, ...]; see :meth:`wam.world_model.rssm.Rssm.filter_step`."""
        return self.rssm.filter_step(state, prev_action, embedding, is_first, generator, sample)

    def observe(
        self,
        embedding: torch.Tensor,
        prev_action: torch.Tensor,
        is_first: torch.Tensor,
        state: RssmState,
        generator: Generators,
        sample: Sampling = "sample",
    ) -> Observed:
        """Posterior over a window [T, B, ...]; see :meth:`wam.world_model.rssm.Rssm.observe`."""
        return self.rssm.observe(embedding, prev_action, is_first, state, generator, sample)

    def imagine_step(
        self,
        state: RssmState,
        action: torch.Tensor,
        generator: Generators,
        sample: Sampling = "sample",
    ) -> RssmState:
        """Predicted state [B, ...] after ``action`` [B, 7], which has to be ``executable``."""
        return self.rssm.imagine_step(state, action, generator, sample)

    def imagine(
        self,
        feature: torch.Tensor,
        actions: torch.Tensor,
        generator: Generators,
        sample: Sampling = "sample",
    ) -> torch.Tensor:
        """Predicted features [T, B, F] after each of ``actions`` [T, B, 7] from ``feature`` [B, F].

        Actions have to be ``executable``. Nothing is decoded, and the start is not in the result.
        """
        state, features = self.split(feature), []
        for action in actions:
            state = self.imagine_step(state, action, generator, sample)
            features.append(state.feature)
        return torch.stack(features)

    def decode(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean static and gripper images float32 [..., 3, 64, 64] in about [-1, 1] of [..., F]."""
        leading = feature.shape[:-1]
        static, gripper = self.decoder(feature.flatten(0, -2))
        return static.float().unflatten(0, leading), gripper.float().unflatten(0, leading)

    def actions_between(
        self, embedding: torch.Tensor, keep_proprio: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Actions [T-K, B, K, 7] that the inverse-dynamics head sees in ``embedding`` [T, B, E].

        K = ``id_steps``. ``keep_proprio`` bool [T-K, B] hides the proprioception of both frames of
        a pair where it is False.
        """
        visual = self.config.visual_embedding
        if self.config.id_input == "visual":
            embedding = embedding[..., :visual]
        steps = self.inverse_dynamics.steps
        pair = embedding[:-steps], embedding[steps:]
        if keep_proprio is not None:
            keep = keep_proprio.unsqueeze(-1).to(embedding.dtype)
            pair = tuple(  # type: ignore[assignment]
                torch.cat([side[..., :visual], side[..., visual:] * keep], dim=-1) for side in pair
            )
        return self.inverse_dynamics(*pair)

    def split(self, feature: torch.Tensor) -> RssmState:
        """The state whose ``feature`` [..., F] is given."""
        deter, stoch = feature.split(
            [self.config.deter, self.config.feature - self.config.deter], dim=-1
        )
        return RssmState(deter, stoch)

    def loss(
        self,
        batch: Batch,
        state: RssmState,
        generator: Generators,
        action_scale: float | torch.Tensor,
        reset_actions: bool = True,
        image_frames: float = 1.0,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], RssmState]:
        """The objective on a batch that continues from ``state`` [B, ...].

        Returns the scalar loss, detached scalar metrics, and the detached state after the last
        frame. With ``action_scale`` 0 the inverse-dynamics head is left out of the computation; a
        scalar tensor counts whatever it holds, so that nothing waits for the device.
        ``reset_actions`` is that of :meth:`Rssm.observe`. ``image_frames`` is the share of the
        frames of each row, at least one, whose images the loss and the PSNR count.
        """
        config = self.config
        static, gripper = _images(batch.rgb_static), _images(batch.rgb_gripper)
        _, embedding = self._embed(static, gripper, batch.proprio)
        observed = self.rssm.observe(
            embedding,
            batch.prev_action,
            batch.is_first,
            state,
            generator,
            reset_actions=reset_actions,
        )
        seed = self.decoder.seed(observed.states.feature.flatten(0, 1))
        chosen: torch.Tensor | slice = slice(None)
        if image_frames < 1:
            chosen = _some_frames(batch.is_first.shape, image_frames, generator, seed.device)
        static, gripper = static[chosen], gripper[chosen]
        image_loss, image_metrics = self._image_loss(seed[chosen], static, gripper)
        posterior, prior = observed.posterior_logits, observed.prior_logits
        latent_loss = kl_loss(posterior, prior, config.kl_balance, config.free_nats)
        loss = config.kl_scale * latent_loss + config.image_scale * image_loss
        metrics = {
            "image_loss": image_loss.detach(),
            "kl_loss": latent_loss.detach(),
            "weighted_image_loss": config.image_scale * image_loss.detach(),
            "weighted_kl_loss": config.kl_scale * latent_loss.detach(),
            **image_metrics,
            **_latent_metrics(posterior.detach(), prior.detach()),
        }
        if self.embedding_seed is not None:
            shown = self.embedding_seed(embedding.flatten(0, 1))
            embedding_loss, _ = self._image_loss(shown[chosen], static, gripper)
            loss = loss + config.embedding_image_scale * embedding_loss
            metrics["embedding_image_loss"] = embedding_loss.detach()
            if config.seed_match_scale:
                distance = (seed.float() - shown.float().detach()).square().sum(-1)
                match_loss = 0.5 * distance.mean()
                loss = loss + config.seed_match_scale * match_loss
                metrics["seed_match_loss"] = match_loss.detach()
        if isinstance(action_scale, torch.Tensor) or action_scale:
            # The target is the action as executed: a pseudo-reset hides it from the RSSM only.
            target, mask = spans(batch.action, batch.id_mask, config.id_steps)
            keep = None
            if config.id_input == "proprio-dropout":
                keep = uniform(mask.t().shape, generator, mask.device).t() < _PROPRIO_KEPT
            prediction = self.actions_between(embedding, keep)
            errors = action_error(prediction, target, mask)
            action_loss = errors.mean()
            loss = loss + action_scale * action_loss
            metrics["action_loss"] = action_loss.detach()
            metrics["weighted_action_loss"] = action_scale * action_loss.detach()
            metrics["gripper_accuracy"] = gripper_accuracy(prediction.detach(), target, mask)
            metrics |= {
                f"id_mae_{name}": error
                for name, error in zip(ACTION_NAMES, errors.detach(), strict=True)
            }
        last = RssmState(observed.states.deter[-1], observed.states.stoch[-1])
        return loss, {"loss": loss.detach(), **metrics}, last.detach()

    def _embed(
        self, static: torch.Tensor, gripper: torch.Tensor, proprio: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        visual = self.encoder(static, gripper).float().unflatten(0, proprio.shape[:-1])
        return visual, torch.cat([visual, proprio], dim=-1)

    def _image_loss(
        self, seed: torch.Tensor, static: torch.Tensor, gripper: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Half the squared error summed over an observation, and the PSNR of each camera.

        ``seed`` [N, decoder channels], images [N, 3, 64, 64].
        """
        predictions = self.decoder.phases(seed)
        squares, metrics = [], {}
        for camera, prediction, image in zip(
            CAMERA_NAMES, predictions, (static, gripper), strict=True
        ):
            error = prediction.float() - pixel_phases(image)
            square = error.square().sum((1, 2, 3))
            squares.append(square)
            metrics[f"psnr_{camera}"] = psnr_of_mse(square.detach() / (4 * _IMAGE_VALUES)).mean()
        return 0.5 * torch.stack(squares).sum(0).mean(), metrics


def _some_frames(
    shape: torch.Size, share: float, generator: Generators, device: torch.device
) -> torch.Tensor:
    """Indices int64 [N] of random frames of a flattened window [T, B], equally many of each row."""
    steps, rows = shape
    count = max(1, round(share * steps))
    step = uniform((rows, steps), generator, device).argsort(1)[:, :count]
    return (step * rows + torch.arange(rows, device=device).unsqueeze(1)).flatten()


def _images(rgb: torch.Tensor) -> torch.Tensor:
    """Network input [N, 3, 64, 64] of uint8 images [..., 64, 64, 3]."""
    return to_signed(rgb.reshape(-1, *rgb.shape[-3:]))


def _latent_metrics(posterior: torch.Tensor, prior: torch.Tensor) -> dict[str, torch.Tensor]:
    """KL, entropies in nats per categorical, and how many categoricals carry information."""
    per_categorical = (posterior.exp() * (posterior - prior)).sum(-1).mean((0, 1))
    return {
        "kl": kl_divergence(posterior, prior).mean(),
        "posterior_entropy": -(posterior.exp() * posterior).sum(-1).mean(),
        "prior_entropy": -(prior.exp() * prior).sum(-1).mean(),
        "active_categoricals": (per_categorical > 0.01).sum().float(),
    }
