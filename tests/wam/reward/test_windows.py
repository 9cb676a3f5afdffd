"""Thresholds by whole windows."""

import pytest
import torch

from wam.config import RewardConfig
from wam.reward.calibration import calibrate_windows, window_auc, window_margins
from wam.reward.classifier import SuccessClassifier
from wam.reward.labelled import LabelledFeatures, held_back, success_places

CPU = torch.device("cpu")
CONFIG = RewardConfig(encoder_hidden=8, embedding=4, head_hidden=8)


class FixedMargin(SuccessClassifier):
    """Scores a feature by its first value."""

    def margin(self, feature: torch.Tensor) -> torch.Tensor:
        return feature[..., 0]


def windows(rows: list[tuple[list[float], int | None]], extra: int = 0) -> LabelledFeatures:
    """Windows of equal length: margins at the frames 4, 8 ..., and the first frame of success.

    Behind the last question there are ``extra`` frames.
    """
    frames = 4 * len(rows[0][0]) + 1 + extra
    margin = torch.full((len(rows), frames), 99.0)
    label = torch.zeros(len(rows), frames, dtype=torch.bool)
    for number, (asked, success) in enumerate(rows):
        margin[number, 4::4] = torch.tensor(asked)
        if success is not None:
            label[number, success:] = True
    feature = margin.flatten().reshape(1, -1, 1)
    length = torch.full((len(rows),), frames)
    start = frames * torch.arange(len(rows))
    return LabelledFeatures(feature, feature, label.flatten(), length, start)


def test_stretches_end_where_a_window_succeeds() -> None:
    rows = [([1.0, 9.0, 5.0], 10), ([3.0, 2.0, 2.0], None), ([4.0, 7.0, 6.0], 2)]
    data = windows(rows)
    alarm, hit = window_margins(data.imagined[..., 0], data)
    # The first window is a failure until frame 10, of which the decision at frame 8 may see ahead;
    # the third never is one at a decision.
    assert alarm.tolist() == [1.0, 3.0]
    assert hit.tolist() == [5.0, 7.0]


def test_a_success_behind_the_last_decision_is_no_false_alarm() -> None:
    rows = [([1.0, 9.0], 11), ([3.0, 2.0], None), ([-5.0, 4.0], 8)]
    data, model = windows(rows, extra=3), FixedMargin(CONFIG, 1)
    alarm, hit = window_margins(data.imagined[..., 0], data)
    assert alarm.tolist() == [1.0, 3.0] and hit.tolist() == [4.0]
    # Nor is it a window without success.
    assert window_auc(model, data, CPU) == 1.0


def test_the_threshold_lets_as_few_windows_through_as_asked() -> None:
    failures = [([float(top), 0.0], None) for top in range(10)]
    successes = [([-5.0, float(top)], 8) for top in (8, 9, 10, 11)]
    model, data = FixedMargin(CONFIG, 1), windows(failures + successes)
    # One of the ten stretches without success may be taken for one: that of margin 9.
    assert calibrate_windows(model, data, 0.1, 0.75, CPU)
    margins = torch.tensor([[8.0], [8.9], [9.0]])
    assert model.success(margins).tolist() == [False, True, True]
    assert calibrate_windows(model, data, 0.0, 0.5, CPU)
    assert model.success(torch.tensor([[9.0], [10.0]])).tolist() == [False, True]


def test_an_unreachable_target_is_reported_and_leaves_the_best_trade() -> None:
    failures = [([5.0, 0.0], None), ([1.0, 0.0], None)]
    successes = [([-5.0, top], 8) for top in (4.0, 4.0, 6.0)]
    model, data = FixedMargin(CONFIG, 1), windows(failures + successes)
    assert not calibrate_windows(model, data, 0.0, 0.8, CPU)
    assert model.success(torch.tensor([[1.0], [4.0]])).tolist() == [False, True]


@pytest.mark.parametrize("success", [None, 0])
def test_windows_of_one_kind_leave_a_threshold(success: int | None) -> None:
    model, data = FixedMargin(CONFIG, 1), windows([([1.0, 2.0], success)] * 3)
    met = calibrate_windows(model, data, 0.02, 0.8, CPU)
    assert met == (success == 0)
    assert 0 <= float(model.threshold) <= 1


def test_every_fifth_window_is_held_back_as_a_whole() -> None:
    length = torch.tensor([3, 2, 4, 1, 5, 2])
    number = torch.arange(6).repeat_interleave(length)
    feature = number.float().reshape(1, -1, 1)
    data = LabelledFeatures(feature, -feature, number == 4, length, length.cumsum(0) - length)
    training, held = held_back(data)
    assert training.length.tolist() == [3, 2, 4, 1, 2] and held.length.tolist() == [5]
    assert set(held.real.flatten().tolist()) == {4.0} and held.label.all()
    assert not training.label.any() and 4.0 not in training.real
    assert torch.equal(held.imagined, -held.real)


def test_what_is_held_back_shares_no_frame_with_the_rest() -> None:
    random = torch.Generator().manual_seed(0)
    start = torch.randint(20_000, (300,), generator=random)
    length = torch.randint(20, 65, (300,), generator=random)
    number = torch.arange(300).repeat_interleave(length)
    feature = number.float().reshape(1, -1, 1)
    data = LabelledFeatures(feature, feature, number > 0, length, start)
    training, held = held_back(data)
    assert len(training.length) + len(held.length) == 300 and len(held.length) > 30
    one, other = (
        {
            row
            for begin, count in zip(part.start, part.length, strict=True)
            for row in range(begin, begin + count)
        }
        for part in (training, held)
    )
    assert not one & other


def test_windows_are_ranked_by_their_highest_margin() -> None:
    model = FixedMargin(CONFIG, 1)
    data = windows([([1.0, 5.0], 6), ([0.0, 2.0], 8), ([3.0, -1.0], None), ([2.0, 2.0], None)])
    # Of the four pairs one is in the wrong order and one is a tie.
    assert window_auc(model, data, CPU) == pytest.approx(2.5 / 4)
    assert window_auc(model, windows([([1.0, 5.0], 6)]), CPU) is None


def test_success_is_believed_only_where_hands_were_at_successes() -> None:
    """Features end with proprioception, of which the first three numbers are the hand."""
    feature = torch.zeros(1, 9, 20)
    feature[0, :, 2] = torch.arange(9.0)  # the hand moves along x
    feature[0, :, 1] = 5.0
    label = torch.arange(9) >= 5
    data = LabelledFeatures(feature, feature, label, torch.tensor([9]), torch.tensor([0]))
    places = success_places(data)
    assert places[:, 0].tolist() == [5.0, 6.0, 7.0, 8.0]

    model = SuccessClassifier(CONFIG, 20).eval()
    anywhere = model.margin(feature)
    model.believe_at(places, 1.5)
    margin = model.margin(feature)
    near = torch.arange(9.0) >= 3.5
    assert torch.equal(margin[0, near], anywhere[0, near])
    assert (margin[0, ~near] < -20).all()
    assert not model.success(feature)[0, ~near].any()


def test_more_places_than_are_kept_are_thinned_out_evenly() -> None:
    model = SuccessClassifier(CONFIG, 20)
    model.believe_at(torch.arange(3000.0).reshape(1000, 3), 0.1)
    assert model.places[0].tolist() == [0, 1, 2] and model.places[-1].tolist() == [2997, 2998, 2999]
    model.believe_at(torch.tensor([[1.0, 2.0, 3.0]]), 0.1)
    assert (model.places == torch.tensor([1.0, 2.0, 3.0])).all()
