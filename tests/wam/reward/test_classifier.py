import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wam.config import RewardConfig
from wam.errors import WamError
from wam.reward.calibration import (
    average_precision,
    calibrate,
    precision_recall_curve,
    scores,
    window_rates,
)
from wam.reward.classifier import (
    SuccessClassifier,
    classifier_loss,
    contrastive_loss,
    load_reward,
    reward_description,
)
from wam.reward.labelled import LabelledFeatures
from wam.reward.training import balanced_rows, frame_weights, train_classifier
from wam.weights import save_model

FEATURE = 6
CPU = torch.device("cpu")
CONFIG = RewardConfig(encoder_hidden=32, embedding=16, head_hidden=32, lr=3e-3, epochs=12)


def make_classifier(config: RewardConfig = CONFIG) -> SuccessClassifier:
    torch.manual_seed(0)
    return SuccessClassifier(config, FEATURE)


@pytest.mark.parametrize(
    "label",
    [[1, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]],
    ids=["both kinds", "an anchor without a positive"],
)
def test_contrastive_loss_is_that_of_an_explicit_double_loop(label: list[int]) -> None:
    embedding = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    terms = []
    for i in range(8):
        similar = [
            float(embedding[i] @ embedding[j] / embedding[i].norm() / embedding[j].norm()) / 0.5
            for j in range(8)
        ]
        others = math.log(sum(math.exp(similar[j]) for j in range(8) if j != i))
        positives = [j for j in range(8) if j != i and label[j] == label[i]]
        if positives:
            terms.append(-sum(similar[j] - others for j in positives) / len(positives))
    expected = torch.tensor(sum(terms) / len(terms))
    loss = contrastive_loss(embedding, torch.tensor(label).bool(), 0.5)
    torch.testing.assert_close(loss, expected)


def test_contrastive_loss_of_a_batch_without_any_pair_is_zero() -> None:
    assert contrastive_loss(torch.randn(2, 5), torch.tensor([True, False]), 0.5) == 0


def test_cross_entropy_is_weighted_and_added_at_its_scale() -> None:
    model = make_classifier()
    feature = torch.randn(4, FEATURE)
    label = torch.tensor([True, False, False, True])
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0])
    embedding, logits = model(feature)
    log_share = logits[0].log_softmax(-1)[torch.arange(4), label.long()]
    expected = contrastive_loss(embedding, label, 0.5) - 0.5 * (log_share * weight).sum() / 5
    torch.testing.assert_close(classifier_loss(model, feature, label, weight, CONFIG), expected)


def test_balanced_rows_are_as_many_failures_as_asked_and_no_more_successes() -> None:
    label = torch.zeros(50).bool()
    label[17:20] = True  # the second demonstration has a success before a late failure
    label[30:38] = True
    length = torch.tensor([20, 20, 10])
    random = torch.Generator().manual_seed(0)
    drawn = set()
    for _ in range(100):
        rows = balanced_rows(label, length, 4, random)
        negatives = rows[~label[rows]]
        assert len(rows) == len(rows.unique()) == 3 + 4 + 3 * 4
        assert label[rows[rows < 20]].sum() == 3
        assert label[rows[rows >= 20]].sum() == 4
        per_demo = [
            int(((negatives >= a) & (negatives < b)).sum())
            for a, b in ((0, 20), (20, 40), (40, 50))
        ]
        assert per_demo == [4, 4, 4]
        drawn |= set(rows.tolist())
    assert drawn == set(range(50))


def test_frames_just_before_a_success_weigh_more() -> None:
    label = torch.zeros(30).bool()
    label[12:20] = True
    weight = frame_weights(label, torch.tensor([10, 10, 10]), 2.0)
    assert torch.nonzero(weight == 2).squeeze(1).tolist() == [10, 11]
    label[12] = False
    label[3] = True
    weight = frame_weights(label, torch.tensor([30]), 2.0)
    assert torch.nonzero(weight == 2).squeeze(1).tolist() == [0, 1, 2]


class Reads(torch.nn.Module):
    """Success is what the first feature says."""

    def success(self, feature: torch.Tensor) -> torch.Tensor:
        return feature[..., 0] > 0


def test_windows_are_judged_at_every_fourth_frame() -> None:
    length = torch.tensor([9, 9, 9, 9, 3, 11])
    label = torch.zeros(50).bool()
    said = torch.zeros(2, 50, 1)
    label[39 + 9 :] = True  # behind the last question: neither to be found nor a false alarm
    said[:, 39 + 8] = 1
    label[[7, 8, 16, 17]] = True  # windows 0 and 1 succeed in the end
    said[:, 8] = 1  # the success of window 0 is seen, that of window 1 is not
    said[:, 9 + 7] = 1  # nobody asks at frame 7
    said[0, 18] = 1  # nor at the first frame
    said[1, 27 + 4] = 1  # window 3: a false alarm in one of two draws
    said[:, 36:39] = 1  # too short for a question
    missed, alarmed = window_rates(Reads(), said, label, length, CPU)  # type: ignore[arg-type]
    assert missed == 0.5
    assert alarmed == pytest.approx(1 / 6)
    none = torch.zeros(0, dtype=torch.int64)
    assert window_rates(Reads(), said[:, :0], label[:0], none, CPU) == (None, None)  # type: ignore[arg-type]


def test_average_precision_of_known_rankings() -> None:
    truth = torch.tensor([True, False, True, False])
    assert average_precision(torch.tensor([4.0, 3.0, 2.0, 1.0]), truth) == pytest.approx(5 / 6)
    assert average_precision(torch.tensor([4.0, 1.0, 3.0, 2.0]), truth) == pytest.approx(1.0)
    # Equal scores are one decision, whatever their order.
    assert average_precision(torch.ones(4), truth) == pytest.approx(0.5)
    score, precision, recall = precision_recall_curve(torch.tensor([2.0, 2.0, 1.0, 1.0]), truth)
    assert score.tolist() == [2.0, 1.0]
    assert precision.tolist() == [0.5, 0.5]
    assert recall.tolist() == [0.5, 1.0]


class FixedMargin(SuccessClassifier):
    """Scores a feature by its first value."""

    def margin(self, feature: torch.Tensor) -> torch.Tensor:
        return feature[..., 0]


def test_calibration_reaches_the_target_precision_with_the_highest_recall() -> None:
    model = FixedMargin(CONFIG, FEATURE)
    score = torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.0, -1.0])
    truth = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0]).bool()
    feature = score.reshape(1, 8, 1).expand(1, 8, FEATURE)
    assert calibrate(model, feature, truth, 0.95, CPU)
    assert model.success(feature[0]).tolist() == [True, True, True] + [False] * 5
    assert scores(model, feature, truth, CPU) == (1.0, 0.75)
    assert calibrate(model, feature, truth, 0.8, CPU)
    assert scores(model, feature, truth, CPU) == (0.8, 1.0)


def test_an_unreachable_precision_is_reported_and_does_not_silence_the_classifier() -> None:
    model = FixedMargin(CONFIG, FEATURE)
    score = torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0, 0.5])
    truth = torch.tensor([0, 1, 0, 1, 1, 0]).bool()
    feature = score.reshape(1, 6, 1).expand(1, 6, FEATURE)
    assert not calibrate(model, feature, truth, 0.95, CPU)
    assert scores(model, feature, truth, CPU) == (pytest.approx(0.6), 1.0)


def test_all_heads_have_to_agree() -> None:
    model = make_classifier(RewardConfig(encoder_hidden=8, embedding=8, head_hidden=8, heads=3))
    feature = torch.randn(2, 20, FEATURE)
    _, logits = model(feature.flatten(0, 1))
    each = torch.softmax(logits, -1)[..., 1]
    agreed = (each >= 0.5).all(0).unflatten(0, (2, 20))
    assert torch.equal(model.success(feature), agreed)
    torch.testing.assert_close(model.probability(feature), each.amin(0).unflatten(0, (2, 20)))


def make_data(seed: int) -> LabelledFeatures:
    """Demonstrations whose last frames are successes, seen in the first feature."""
    random = torch.Generator().manual_seed(seed)
    label = torch.zeros(10, 30).bool()
    label[:, 24:] = True
    label = label.flatten()
    real, imagined = torch.randn(2, 2, 300, FEATURE, generator=random).unbind()
    shift = label.float() * 4 - 2
    real[..., 0] += shift
    imagined[..., 0] += shift
    return LabelledFeatures(real, imagined, label, torch.full((10,), 30), 30 * torch.arange(10))


def test_training_finds_the_successes_and_is_a_function_of_its_generator(tmp_path: Path) -> None:
    training, validation = make_data(0), make_data(1)
    log: list[dict[str, float]] = []

    def train() -> SuccessClassifier:
        random = torch.Generator().manual_seed(0)
        return train_classifier(CONFIG, training, validation, random, CPU, log.append)

    model = train()
    assert log[-1]["auprc_imagined"] > 0.9
    assert calibrate(model, validation.imagined, validation.label, 0.95, CPU)
    precision, recall = scores(model, validation.imagined, validation.label, CPU)
    assert precision is not None and precision >= 0.95
    assert recall is not None and recall > 0.7
    again = train()
    assert torch.equal(again.margin(training.real), model.margin(training.real))
    save_model(tmp_path, model, reward_description(CONFIG, FEATURE))
    loaded = load_reward(tmp_path, CPU)
    assert torch.equal(loaded.success(validation.imagined), model.success(validation.imagined))


def test_labels_of_one_kind_are_refused() -> None:
    data = make_data(0)._replace(label=torch.zeros(300).bool())
    with pytest.raises(WamError, match="0 of 300 frames are successes"):
        train_classifier(CONFIG, data, data, torch.Generator(), CPU, lambda record: None)


def test_training_stops_at_weights_that_are_not_finite() -> None:
    log: list[dict[str, float]] = []
    config = replace(CONFIG, lr=float("inf"))
    with pytest.raises(WamError, match=r"train-reward, epoch 1: .* not finite any more; lower rew"):
        train_classifier(config, make_data(0), make_data(1), torch.Generator(), CPU, log.append)
    assert log == []
