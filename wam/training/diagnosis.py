"""Signs that the training of a world model goes wrong (docs/algorithm.md 2.9)."""

from collections.abc import Mapping
from typing import NamedTuple

_COLLAPSED_KL, _COLLAPSED_PSNR = 0.5, 18.0
_UNLEARNED_KL, _GOOD_PSNR, _BAD_OPEN_LOOP = 60.0, 25.0, 18.0
_EARLY_UPDATES = 200
"""Until then every training looks like a failure."""


class Sign(NamedTuple):
    """A sign and what it may mean."""

    signature: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.signature}: {self.meaning}"


def diagnose(record: Mapping[str, float], validation: Mapping[str, float]) -> list[Sign]:
    """What a record of the training and the last validation, if there was one, point to.

    KL in nats per frame, PSNR in dB.
    """
    if record["step"] < _EARLY_UPDATES:
        return []
    found = []
    if record["kl"] < _COLLAPSED_KL and record["psnr_static"] < _COLLAPSED_PSNR:
        found.append(
            Sign(
                "the latents have collapsed (hardly any KL, blurred images)",
                "world_model.kl_scale may be too large for so early, or image_scale too small",
            )
        )
    if (
        validation.get("kl", 0.0) > _UNLEARNED_KL
        and validation["posterior_psnr"] > _GOOD_PSNR
        and validation["open_loop_psnr"] < _BAD_OPEN_LOOP
    ):
        found.append(
            Sign(
                "the prior does not follow the posterior (KL above 60 nats, bad open loop)",
                "world_model.kl_balance may be reversed: 0.8 is the share that trains the prior",
            )
        )
    return found
