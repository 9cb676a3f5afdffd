"""What offline filtering makes of a whole recording."""

import torch

from wam.config import FILTERING, Filtering
from wam.randomness import Generators
from wam.world_model.filtering import Observation, filter_embeddings
from wam.world_model.model import WorldModel
from wam.world_model.rssm import RssmState


@torch.no_grad()
def filter_sequence(
    world_model: WorldModel,
    observation: Observation,
    action: torch.Tensor,
    generator: Generators,
    filtering: Filtering = FILTERING,
) -> RssmState:
    """Posterior states [T, B, ...] of sequences that start from the zero state.

    ``observation`` [T, B, ...]; ``action`` float32 [T, B, 7], ``action[t]`` executed after frame t.
    The same numbers as an :class:`OnlineFilter` fed with the same frames and generators.
    """
    # Embedded step by step, as online: a larger batch may round differently.
    embedding = torch.stack(
        [world_model.embed(*frames)[1] for frames in zip(*observation, strict=True)]
    )
    is_first = torch.zeros(action.shape[:2], dtype=torch.bool, device=action.device)
    is_first[0] = True
    return filter_embeddings(world_model, embedding, action, is_first, generator, filtering)
