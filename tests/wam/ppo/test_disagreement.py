from pathlib import Path

import pytest
import torch
from torch.nn import functional

from wam.errors import WamError
from wam.ppo.disagreement import (
    MAX_EXCESS,
    DisagreementEnsemble,
    Transitions,
    ensemble_description,
    load_ensemble,
    mean_disagreement,
    train_ensemble,
    transitions,
)
from wam.weights import save_model

CPU = torch.device("cpu")
DETER, STOCH, CLASSES = 3, 2, 4


def make_data(low: float, high: float, count: int = 1000, seed: int = 0) -> Transitions:
    """States with a deterministic part between the limits, and a law for what follows."""
    random = torch.Generator().manual_seed(seed)
    deter = low + (high - low) * torch.rand(count, DETER, generator=random)
    classes = torch.randint(CLASSES, (count, STOCH), generator=random)
    action = torch.rand(count, 7, generator=random) * 2 - 1
    turn = (3 * deter[:, :STOCH] + action[:, :STOCH] > -1.5).long()
    one_hot = functional.one_hot(classes, CLASSES).flatten(1).float()
    following = (classes + turn) % CLASSES
    feature = torch.cat([deter, one_hot], dim=1)
    return Transitions(feature.half(), action, following.to(torch.uint8))


@pytest.fixture(scope="module")
def ensemble() -> DisagreementEnsemble:
    return train(seed=0, epochs=60)


def train(seed: int, epochs: int) -> DisagreementEnsemble:
    random = torch.Generator().manual_seed(seed)
    return train_ensemble(make_data(-1, 0), CLASSES, 5, random, CPU, epochs)[0]


def test_transitions_stay_within_a_demonstration() -> None:
    # Two draws of demonstrations of three frames, one and two; the deterministic part counts.
    frame = torch.arange(6).float()
    classes = torch.arange(6).unsqueeze(1) % CLASSES * torch.ones(1, STOCH).long()
    one_hot = functional.one_hot(classes, CLASSES).flatten(1).float()
    draws = [torch.cat([(frame + 10 * s).unsqueeze(1), one_hot], dim=1) for s in range(2)]
    action = frame.unsqueeze(1).expand(6, 7)
    length = torch.tensor([3, 1, 2])
    data = transitions(torch.stack(draws), action, length, STOCH, CLASSES)
    assert data.feature[:, 0].tolist() == [0, 1, 4, 10, 11, 14]
    assert data.action[:, 0].tolist() == [0, 1, 4, 0, 1, 4]
    assert data.following[:, 0].tolist() == [1, 2, 5 % CLASSES] * 2


def test_heads_agree_on_their_data_and_disagree_outside(ensemble: DisagreementEnsemble) -> None:
    inside, outside = make_data(-1, 0, seed=1), make_data(0.5, 1.5, seed=2)
    assert mean_disagreement(ensemble, make_data(-1, 0)) == pytest.approx(1, rel=1e-4)
    fresh = mean_disagreement(ensemble, inside)
    assert 0.5 < fresh < 2
    assert mean_disagreement(ensemble, outside) > 2 * fresh
    # An action far from all those of the data is as unknown.
    strange = inside._replace(action=inside.action * 8)
    assert mean_disagreement(ensemble, strange) > 2 * fresh


def test_the_heads_have_learned_what_follows(ensemble: DisagreementEnsemble) -> None:
    data = make_data(-1, 0, seed=1)
    logits = ensemble(data.feature.float().unsqueeze(0), data.action.unsqueeze(0))
    assert logits.shape == (5, 1000, STOCH, CLASSES)
    correct = (logits.argmax(-1) == data.following).float().mean((1, 2))
    assert correct.min() > 0.75  # half, if the action is ignored


def test_disagreement_is_the_normalised_variance_of_the_probabilities() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ensemble = DisagreementEnsemble(DETER + STOCH * CLASSES, STOCH, CLASSES, heads=3)
    ensemble.scale.fill_(0.25)
    feature, action = torch.rand(2, 4, DETER + STOCH * CLASSES), torch.rand(2, 4, 7)
    ours = ensemble.disagreement(feature, action)
    assert ours.shape == (2, 4)
    logits = ensemble(feature[1, 2].view(1, 1, -1), action[1, 2].view(1, 1, -1))[:, 0]
    probability = logits.double().softmax(-1)
    variance = ((probability - probability.mean(0)) ** 2).mean(0)
    expected = float(variance.sum(-1).mean().detach() / 0.25)
    assert float(ours[1, 2]) == pytest.approx(expected, rel=1e-4)


def test_an_excess_is_finite_and_zero_where_the_heads_agree() -> None:
    data = make_data(-1, 0, 50)
    ensemble = DisagreementEnsemble(DETER + STOCH * CLASSES, STOCH, CLASSES, heads=2)
    feature = data.feature.float()
    # Heads that say the same, and a mean on the data that underflows.
    for values in ensemble.parameters():
        values.data[1] = values.data[0]
    ensemble.scale.fill_(1e-12)
    assert torch.equal(ensemble.excess(feature, data.action), torch.zeros(50))
    # Heads of which each is sure of a class of its own, whatever they see.
    sure = torch.tensor([1e9, -1e9]).repeat(STOCH * CLASSES // 2)
    ensemble.biases[2].data[:, 0] = torch.stack([sure, -sure])
    excess = ensemble.excess(1e6 * feature, data.action)
    assert torch.equal(excess, torch.full((50,), MAX_EXCESS))


def test_training_is_a_function_of_the_seed() -> None:
    first, again, other = (train(seed, epochs=2).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_saved_ensemble_judges_as_before(tmp_path: Path, ensemble: DisagreementEnsemble) -> None:
    save_model(tmp_path, ensemble, ensemble_description(ensemble))
    loaded = load_ensemble(tmp_path, CPU)
    data = make_data(-1, 1, 20)
    expected = ensemble.disagreement(data.feature, data.action)
    assert torch.equal(loaded.disagreement(data.feature, data.action), expected)
    (tmp_path / "config.json").write_text('{"kind": "reward"}')
    with pytest.raises(WamError, match="of kind 'disagreement'"):
        load_ensemble(tmp_path, CPU)


def test_one_head_and_no_data_are_refused() -> None:
    random = torch.Generator().manual_seed(0)
    with pytest.raises(WamError, match=r"finetune\.disagreement_heads=1"):
        train_ensemble(make_data(-1, 0, 10), CLASSES, 1, random, CPU)
    with pytest.raises(WamError, match="two frames"):
        train_ensemble(make_data(-1, 0, 0), CLASSES, 2, random, CPU)


def test_features_that_are_not_finite_are_refused() -> None:
    data = make_data(-1, 0, 10)
    data = data._replace(feature=data.feature * float("nan"))
    with pytest.raises(WamError, match=r"ensemble of finetune\.disagreement_scale: .* not finite"):
        train_ensemble(data, CLASSES, 2, torch.Generator().manual_seed(0), CPU, 1)
