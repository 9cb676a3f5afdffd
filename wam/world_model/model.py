"""The world model: encoder, RSSM, decoder and inverse-dynamics head, with their joint objective.

WAM (arXiv:2603.28955) is DreamerV2's world model plus the inverse-dynamics head; the ``dreamerv2``
variant is the same module with an action scale of 0. Images are summed over pixels, channels and
cameras with a factor 1/2, the KL is summed over categoricals, the action error is averaged over the
seven dimensions, and all are averaged over batch and time (docs/algorithm.md 2.4 and 2.7, reading
1).

Shape suffixes: T = time, B = batch, N = frames in a row (T B, or those of them that are decoded),
C, H, W = image, V = visual embedding, E = V + 18 embedding, D = deterministic state, Z = stochastic
state of S categoricals with G classes, F = D + Z feature, U = decoder channels, J = views of a row,
A = 7 action; the inverse-dynamics head tells the K actions between the frames of each of Q = T - K
pairs.
"""

import torch
from torch import nn

from wam.batch import Batch
from wam.config import ACTION_NAMES, CAMERA_NAMES, PROPRIO_SIZE, Sampling, WorldModelConfig
from wam.images import psnr_of_mse, to_signed
from wam.randomness import Generators, uniform
from wam.world_model.inverse_dynamics import InverseDynamics, action_error, gripper_accuracy, spans
from wam.world_model.nets import Decoder, Encoder, ViewSeed, initialize, pixel_phases
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
                latent=config.latent,
                proprio_state=config.proprio_state,
            )
            self.decoder = Decoder(config.feature, config.decoder_channels, config.cnn_depth)
            self.inverse_dynamics = InverseDynamics(
                config.visual_embedding if config.id_input == "visual" else embedding,
                config.id_hidden,
                config.id_steps,
            )
            # Last, so that the other weights start the same with and without it.
            self.embedding_seed: nn.Linear | ViewSeed | None = None
            if config.embedding_image_scale and config.view_reach:
                sizes = config.visual_embedding, PROPRIO_SIZE, config.decoder_channels
                self.embedding_seed = ViewSeed(*sizes)
            elif config.embedding_image_scale:
                self.embedding_seed = nn.Linear(embedding, config.decoder_channels)
        initialize(self, torch.Generator().manual_seed(seed))
        if config.keep_bias:
            self.rssm.remember(config.keep_bias)

    @property
    def draws(self) -> bool:
        """Whether latents are drawn: the same actions are dreamt otherwise every time."""
        return self.rssm.draws

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
        seen: torch.Tensor | None = None,
        lag: torch.Tensor | None = None,
    ) -> RssmState:
        """Posterior state [B, ...]; see :meth:`wam.world_model.rssm.Rssm.filter_step`."""
        given = state, prev_action, embedding, is_first, generator, sample, seen, lag
        return self.rssm.filter_step(*given)

    def observe(
        self,
        embedding: torch.Tensor,
        prev_action: torch.Tensor,
        is_first: torch.Tensor,
        state: RssmState,
        generator: Generators,
        sample: Sampling = "sample",
        lag: torch.Tensor | None = None,
    ) -> Observed:
        """Posterior over a window [T, B, ...]; see :meth:`wam.world_model.rssm.Rssm.observe`."""
        given = embedding, prev_action, is_first, state, generator, sample
        return self.rssm.observe(*given, lag=lag)

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

    def shown(self, embedding: torch.Tensor) -> torch.Tensor:
        """What the decoder draws of ``embedding`` [..., E], before any convolution, [..., U].

        For models with ``embedding_image_scale``.
        """
        assert self.embedding_seed is not None
        if isinstance(self.embedding_seed, ViewSeed):
            visual = self.config.visual_embedding
            return self.embedding_seed(embedding[..., :visual], embedding[..., visual:])
        return self.embedding_seed(embedding)

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
        frames of each row, at least one, whose images the loss and the PSNR count. Raises
        ValueError if the model has ``view_reach`` and the batch no views.
        """
        config = self.config
        static_NCHW, gripper_NCHW = _images(batch.rgb_static), _images(batch.rgb_gripper)
        _, embedding_TBE = self._embed(static_NCHW, gripper_NCHW, batch.proprio)
        observed = self.rssm.observe(
            embedding_TBE,
            batch.prev_action,
            batch.is_first,
            state,
            generator,
            reset_actions=reset_actions,
        )
        seed_NU = self.decoder.seed(observed.states.feature.flatten(0, 1))
        chosen: torch.Tensor | slice = slice(None)
        if image_frames < 1:
            chosen = _some_frames(batch.is_first.shape, image_frames, generator, seed_NU.device)
        static_NCHW, gripper_NCHW = static_NCHW[chosen], gripper_NCHW[chosen]
        image_loss, image_metrics = self._image_loss(seed_NU[chosen], static_NCHW, gripper_NCHW)
        posterior_TBSG, prior_TBSG = observed.posterior_logits, observed.prior_logits
        latent_loss = kl_loss(posterior_TBSG, prior_TBSG, config.kl_balance, config.free_nats)
        loss = config.kl_scale * latent_loss + config.image_scale * image_loss
        metrics = {
            "image_loss": image_loss.detach(),
            "kl_loss": latent_loss.detach(),
            "weighted_image_loss": config.image_scale * image_loss.detach(),
            "weighted_kl_loss": config.kl_scale * latent_loss.detach(),
            **image_metrics,
            **_latent_metrics(posterior_TBSG.detach(), prior_TBSG.detach()),
        }
        if self.embedding_seed is not None:
            shown_NU = self.shown(embedding_TBE.flatten(0, 1))
            if isinstance(self.embedding_seed, ViewSeed):
                embedding_loss = self._view_loss(batch, embedding_TBE, generator)
            else:
                embedding_loss, _ = self._image_loss(shown_NU[chosen], static_NCHW, gripper_NCHW)
            loss = loss + config.embedding_image_scale * embedding_loss
            metrics["embedding_image_loss"] = embedding_loss.detach()
            if config.seed_match_scale:
                distance_N = (seed_NU.float() - shown_NU.float().detach()).square().sum(-1)
                match_loss = 0.5 * distance_N.mean()
                loss = loss + config.seed_match_scale * match_loss
                metrics["seed_match_loss"] = match_loss.detach()
        if isinstance(action_scale, torch.Tensor) or action_scale:
            action_loss, action_metrics = self._action_loss(batch, embedding_TBE, generator)
            loss = loss + action_scale * action_loss
            metrics["action_loss"] = action_loss.detach()
            metrics["weighted_action_loss"] = action_scale * action_loss.detach()
            metrics |= action_metrics
        last = RssmState(observed.states.deter[-1], observed.states.stoch[-1])
        return loss, {"loss": loss.detach(), **metrics}, last.detach()

    def _embed(
        self, static_NCHW: torch.Tensor, gripper_NCHW: torch.Tensor, proprio: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Visual embedding [..., V] and full embedding [..., E]; ``proprio`` is [..., 18]."""
        visual_NV = self.encoder(static_NCHW, gripper_NCHW).float()
        visual = visual_NV.unflatten(0, proprio.shape[:-1])
        if not self.config.proprioception:
            proprio = torch.zeros_like(proprio)
        return visual, torch.cat([visual, proprio], dim=-1)

    def _image_loss(
        self, seed_NU: torch.Tensor, static_NCHW: torch.Tensor, gripper_NCHW: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Half the squared error summed over an observation, and the PSNR of each camera.

        Both images as their pixel phases: 4 C channels of half the height and width.
        """
        images, predictions = (static_NCHW, gripper_NCHW), self.decoder.phases(seed_NU)
        squares, metrics = [], {}
        for camera, image_NCHW, prediction in zip(CAMERA_NAMES, images, predictions, strict=True):
            error = prediction.float() - pixel_phases(image_NCHW)
            square_N = error.square().sum((1, 2, 3))
            squares.append(square_N)
            metrics[f"psnr_{camera}"] = psnr_of_mse(square_N.detach() / (4 * _IMAGE_VALUES)).mean()
        return 0.5 * torch.stack(squares).sum(0).mean(), metrics

    def _view_loss(
        self, batch: Batch, embedding_TBE: torch.Tensor, generator: Generators
    ) -> torch.Tensor:
        """The image loss of the batch's J views, each drawn of a random frame of its window."""
        assert isinstance(self.embedding_seed, ViewSeed)
        (steps, rows), views = batch.is_first.shape, len(batch.view_static)
        if not views:
            raise ValueError("a model with view_reach needs batches with views")
        draw_BJ = uniform((rows, views), generator, embedding_TBE.device)
        looked_JB = (draw_BJ.t() * steps).long()
        row_B = torch.arange(rows, device=embedding_TBE.device)
        visual_JBV = embedding_TBE[looked_JB, row_B, : self.config.visual_embedding]
        seed_NU = self.embedding_seed(visual_JBV, batch.view_proprio).flatten(0, 1)
        loss, _ = self._image_loss(seed_NU, _images(batch.view_static), _images(batch.view_gripper))
        return loss

    def _action_loss(
        self, batch: Batch, embedding_TBE: torch.Tensor, generator: Generators
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean absolute error of the actions between frames, and what it is made of."""
        config = self.config
        # The target is the action as executed: a pseudo-reset hides it from the RSSM only.
        target_QBKA, mask_QB = spans(batch.action, batch.id_mask, config.id_steps)
        keep_QB = None
        if config.id_input == "proprio-dropout":
            # Drawn row by row, [B, Q]: ranks share the draws by rows.
            keep_QB = uniform(mask_QB.t().shape, generator, mask_QB.device).t() < _PROPRIO_KEPT
        prediction_QBKA = self.actions_between(embedding_TBE, keep_QB)
        error_A = action_error(prediction_QBKA, target_QBKA, mask_QB)
        accuracy = gripper_accuracy(prediction_QBKA.detach(), target_QBKA, mask_QB)
        by_name = zip(ACTION_NAMES, error_A.detach(), strict=True)
        return error_A.mean(), {
            "gripper_accuracy": accuracy,
            **{f"id_mae_{name}": error for name, error in by_name},
        }


def _some_frames(
    shape: torch.Size, share: float, generator: Generators, device: torch.device
) -> torch.Tensor:
    """Rows of [N] that are random frames of a window of ``shape`` [T, B], equally many per row."""
    steps, rows = shape
    count = max(1, round(share * steps))
    step = uniform((rows, steps), generator, device).argsort(1)[:, :count]
    return (step * rows + torch.arange(rows, device=device).unsqueeze(1)).flatten()


def _images(rgb: torch.Tensor) -> torch.Tensor:
    """Network input [N, 3, 64, 64] of uint8 images [..., 64, 64, 3]."""
    return to_signed(rgb.reshape(-1, *rgb.shape[-3:]))


def _latent_metrics(
    posterior_TBSG: torch.Tensor, prior_TBSG: torch.Tensor
) -> dict[str, torch.Tensor]:
    """KL, entropies in nats per categorical, and how many categoricals carry information."""
    kl_S = (posterior_TBSG.exp() * (posterior_TBSG - prior_TBSG)).sum(-1).mean((0, 1))
    return {
        "kl": kl_divergence(posterior_TBSG, prior_TBSG).mean(),
        "posterior_entropy": -(posterior_TBSG.exp() * posterior_TBSG).sum(-1).mean(),
        "prior_entropy": -(prior_TBSG.exp() * prior_TBSG).sum(-1).mean(),
        "active_categoricals": (kl_S > 0.01).sum().float(),
    }
