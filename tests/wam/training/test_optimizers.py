from dataclasses import replace

import pytest

from wam.config import WorldModelConfig, WorldModelTraining
from wam.training.optimizers import optimizers
from wam.world_model.model import WorldModel

ADAMW = WorldModelTraining(lr=1e-3)


def test_the_reference_decays_everything(tiny_model: WorldModel) -> None:
    (adamw,) = optimizers(tiny_model, replace(ADAMW, compat="diwa"))
    decayed, spared = adamw.param_groups
    assert len(decayed["params"]) == len(list(tiny_model.parameters()))
    assert spared["params"] == []


def test_weight_decay_spares_biases_and_norms(tiny_model: WorldModel) -> None:
    (adamw,) = optimizers(tiny_model, ADAMW)
    decayed, spared = adamw.param_groups
    assert {p.ndim for p in spared["params"]} == {1}
    assert min(p.ndim for p in decayed["params"]) == 2
    assert decayed["weight_decay"] == 0.05 and spared["weight_decay"] == 0
    total = len(decayed["params"]) + len(spared["params"])
    assert total == len(list(tiny_model.parameters()))


def test_muon_trains_the_weights_of_the_images_alone(
    tiny_config: WorldModelConfig,
) -> None:
    model = WorldModel(replace(tiny_config, embedding_image_scale=0.5))
    training = replace(ADAMW, image_optimizer="muon", muon_lr=3e-3)
    adamw, muon = optimizers(model, training)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(p)] for p in muon.param_groups[0]["params"]}
    images = ("encoder.", "decoder.", "embedding_seed.")
    assert trained == {
        name for name, p in model.named_parameters() if name.startswith(images) and p.ndim > 1
    }
    assert muon.param_groups[0]["relative_lr"] == pytest.approx(3)
    others = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert others == set(names.values()) - trained
