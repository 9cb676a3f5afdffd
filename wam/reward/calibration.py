"""When a classifier says success: temperature, threshold and figures (docs/algorithm.md 5.3, 5.4).

Shapes: S posterior draws, N frames of all demonstrations in a row, D demonstrations, F feature.
"""

from typing import NamedTuple

import torch

from wam.reward.classifier import NEVER, SuccessClassifier
from wam.reward.labelled import LabelledFeatures, decisions

MIN_RECALL = 0.5
"""A threshold that misses more successes than this is not used, however precise."""

_TEMPERATURES = torch.logspace(-1.5, 1.5, 121)


class Scores(NamedTuple):
    """Precision and recall at a threshold; None where undefined."""

    precision: float | None
    recall: float | None


def calibrate(
    model: SuccessClassifier,
    feature: torch.Tensor,
    label: torch.Tensor,
    target_precision: float,
    device: torch.device,
) -> bool:
    """Set the model's temperature and threshold on imagined features; whether the target is met.

    The temperature minimises the log-loss. Of the thresholds that reach ``target_precision`` the
    one with the highest recall is taken; if none does while finding half of the successes, the
    most precise of those that find half. ``feature`` [S, N, F], ``label`` bool [N].
    """
    margin, truth = scored(model, feature, label, device)
    temperature = _temperature(margin, truth)
    score, precision, recall = precision_recall_curve(torch.sigmoid(margin / temperature), truth)
    usable = recall >= MIN_RECALL
    met = usable & (precision >= target_precision)
    if met.any():
        index = torch.where(met, recall, -1.0).argmax()
    else:
        index = torch.where(usable, precision, -1.0).argmax()
    # Between this score and the next lower one: rounding must not move a frame across.
    lower = score[index + 1] if index + 1 < len(score) else 0.0
    model.temperature.fill_(temperature)
    model.threshold.fill_((score[index] + lower) / 2)
    return bool(met.any())


def calibrate_windows(
    model: SuccessClassifier,
    data: LabelledFeatures,
    max_false_alarms: float,
    min_recall: float,
    device: torch.device,
) -> bool:
    """Set temperature and threshold on whole imagined windows; whether the target is met.

    A policy's episode is asked at every decision, and one answer ends it: a rate per frame says
    little about that. The threshold is the lowest with at most ``max_false_alarms`` per window. If
    that finds less than ``min_recall`` of the successes the target is missed, and the threshold is
    the one with the most successes found above false alarms. The temperature minimises the
    log-loss of frames.
    """
    margin, truth = scored(model, data.imagined, data.label, device)
    within = margin > NEVER  # what is out of reach says nothing of how sure a classifier is
    temperature = _temperature(margin[within], truth[within])
    alarm, hit = window_margins(margin.view(len(data.imagined), -1), data)
    margins = torch.cat([alarm, hit]).unique()
    thresholds = torch.cat([margins, margins[-1:] + 1])
    false_alarms = (alarm >= thresholds.unsqueeze(1)).double().mean(1).nan_to_num()
    recall = (hit >= thresholds.unsqueeze(1)).double().mean(1).nan_to_num()
    index = int((false_alarms <= max_false_alarms).int().argmax())
    met = bool(recall[index] >= min_recall)
    if not met:
        index = int((recall - false_alarms).argmax())
    # Between this margin and the next lower one: rounding must not move a window across.
    lower = thresholds[index - 1] if index else thresholds[index] - 1
    model.temperature.fill_(temperature)
    model.threshold.fill_(torch.sigmoid((thresholds[index] + lower) / 2 / temperature))
    return met


def window_margins(
    margin: torch.Tensor, data: LabelledFeatures
) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest of the margins [S, N] at decisions: of stretches [A] without and [H] with success.

    Every window, asked after every fourth frame as in PPO, has a stretch before its first success
    and one of its successes, or only one of these; every posterior draw counts. The last decision
    before a success belongs to neither.
    """
    margins: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for label, before, asked in decisions(margin, data.label, data.length):
        for succeeded, rows in ((False, before), (True, label)):
            if rows.any():
                margins[succeeded].append(asked[:, rows].amax(1))
    alarm, hit = (torch.cat(found) if found else margin.new_zeros(0) for found in margins.values())
    return alarm, hit


def scores(
    model: SuccessClassifier, feature: torch.Tensor, label: torch.Tensor, device: torch.device
) -> Scores:
    """Precision and recall of the model's decisions; ``feature`` [S, N, F], ``label`` bool [N]."""
    decision = torch.cat([model.success(draw.to(device)).cpu() for draw in feature])
    truth = label.repeat(len(feature))
    hits = int((decision & truth).sum())
    found, successes = int(decision.sum()), int(truth.sum())
    return Scores(hits / found if found else None, hits / successes if successes else None)


def window_rates(
    model: SuccessClassifier,
    feature: torch.Tensor,
    label: torch.Tensor,
    length: torch.Tensor,
    device: torch.device,
) -> tuple[float | None, float | None]:
    """How whole windows are judged if the model is asked after every fourth frame, as in PPO.

    The share of windows with a success at such a frame in which it never sees one, and of those
    without any in which it does; None where there are no such windows. ``feature`` [S, N, F] of
    windows of ``length`` [D], ``label`` bool [N].
    """
    decided = torch.stack([model.success(draw.to(device)).cpu() for draw in feature])
    counts = {True: [0, 0], False: [0, 0]}
    for window in decisions(decided, label, length):
        if (kind := window.kind) is not None:
            counts[kind][0] += int((window.values.any(1) != kind).sum())
            counts[kind][1] += len(window.values)
    missed, alarmed = (wrong / total if total else None for wrong, total in counts.values())
    return missed, alarmed


def window_auc(
    model: SuccessClassifier, data: LabelledFeatures, device: torch.device
) -> float | None:
    """How probably an imagined window with a success at a decision scores higher than one without
    any.

    The score is the highest margin at a decision. None without windows of both kinds.
    """
    margin, _ = scored(model, data.imagined, data.label, device)
    scores: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for window in decisions(margin.view(len(data.imagined), -1), data.label, data.length):
        if len(window.label) and (kind := window.kind) is not None:
            scores[kind].append(window.values.amax(1))
    if not (scores[False] and scores[True]):
        return None
    lower, higher = torch.cat(scores[False]), torch.cat(scores[True])
    gap = (higher.unsqueeze(1) - lower).sign().double()
    return float((gap.mean() + 1) / 2)


def precision_recall_curve(
    score: torch.Tensor, truth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distinct scores in falling order with precision and recall of "at least this score"."""
    order = score.argsort(descending=True, stable=True)
    score, truth = score[order], truth[order]
    hits = truth.cumsum(0).double()
    last = torch.cat([score[1:] != score[:-1], torch.ones(1, dtype=torch.bool)])
    precision = hits / torch.arange(1, len(score) + 1)
    return score[last], precision[last], (hits / hits[-1].clamp(min=1))[last]


def average_precision(score: torch.Tensor, truth: torch.Tensor) -> float:
    """Area under the precision-recall curve, as the sum of precision times gain in recall."""
    _, precision, recall = precision_recall_curve(score, truth)
    gain = recall.diff(prepend=torch.zeros(1, dtype=recall.dtype))
    return float((precision * gain).sum())


def _temperature(margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The temperature with the least log-loss of ``margin`` [N] against ``truth`` [N]."""
    scaled = margin / _TEMPERATURES.unsqueeze(1)
    signed = torch.where(truth, scaled, -scaled)
    return _TEMPERATURES[torch.nn.functional.softplus(-signed).mean(1).argmin()]


def scored(
    model: SuccessClassifier, feature: torch.Tensor, label: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Margins and labels of all draws, on the CPU."""
    margin = torch.cat([model.margin(draw.to(device)).cpu() for draw in feature])
    return margin, label.repeat(len(feature))
