from collections.abc import Iterator

import numpy as np
import torch

from pipeline.evaluation.open_loop import BOTH, measure
from wam.batch import Batch
from wam.config import CAMERA_NAMES, WorldModelConfig
from wam.world_model.assessment import Predictions
from wam.world_model.model import WorldModel

TINY = WorldModelConfig(cnn_depth=2, visual_embedding=8, deter=8, stoch=2, classes=2, hidden=8)


def grey(value: float, steps: int, rows: int) -> torch.Tensor:
    return torch.full((steps, rows, 3, 64, 64), value)


def parts() -> Iterator[Predictions]:
    """Two groups of sequences whose error is known: 0.2 and 0.02 of the range, gripper none."""
    for rows, error in ((2, 0.2), (1, 0.02)):
        real = {camera: grey(0.0, 4, rows) for camera in CAMERA_NAMES}
        wrong = {"static": grey(2 * error, 4, rows), "gripper": grey(0.0, 4, rows)}
        batch = Batch(
            *(torch.zeros(4, rows, 64, 64, 3, dtype=torch.uint8) for _ in CAMERA_NAMES),
            torch.zeros(4, rows, 18),
            torch.zeros(4, rows, 7),
            torch.zeros(4, rows, 7),
            torch.zeros(4, rows, dtype=torch.bool),
            torch.ones(3, rows, dtype=torch.bool),
        )
        kl, actions = torch.zeros(4, rows), torch.zeros(3, rows, 7)
        yield Predictions(batch, real, real, wrong, kl, actions)


def test_quality_is_that_of_each_predicted_frame() -> None:
    distance = lambda predicted, real: (predicted - real).abs().amax((1, 2, 3))  # noqa: E731
    colour = lambda clips: clips.mean((3, 4)).permute(1, 0, 2).flatten(1)  # noqa: E731
    found = measure(WorldModel(TINY), parts(), {"largest": distance}, {"colour": colour})
    psnr = found.quality["psnr", "static"]
    expected = -20 * np.log10([0.2, 0.2, 0.02])
    np.testing.assert_allclose(psnr, np.tile(expected, (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.quality["psnr", "gripper"], 60.0)
    np.testing.assert_allclose(found.quality["psnr", BOTH], (psnr + 60) / 2)
    np.testing.assert_allclose(found.quality["largest", BOTH][0], [0.2, 0.2, 0.02], rtol=1e-5)
    assert found.posterior_psnr[BOTH].shape == (4, 3)
    clips = found.clips["colour", "static"]
    assert clips.predicted.shape == clips.real.shape == (3, 9)
    np.testing.assert_allclose(clips.predicted[:, 0], [0.4, 0.4, 0.04], rtol=1e-5)
    assert len(found.pairs.inputs) == 9
