"""Training and calibration of the success classifier (docs/algorithm.md 5.2 to 5.4).

Shapes: S posterior draws, N frames of all demonstrations in a row, D demonstrations, F feature.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from wam.config import CHUNK, RewardConfig
from wam.errors import WamError
from wam.randomness import seeded
from wam.reliability.finite import check_weights
from wam.reliability.interruption import deferred
from wam.reward.classifier import NEVER, SuccessClassifier, classifier_loss, hand
from wam.training.checkpoint import StateFile

NEAR_MISS_FRAMES = 8
"""Frames before the first success of a demonstration that weigh more."""
PATIENCE = 10
"""Epochs without a better validation score after which training stops."""
MIN_RECALL = 0.5
"""A threshold that misses more successes than this is not used, however precise."""

_TEMPERATURES = torch.logspace(-1.5, 1.5, 121)


class LabelledFeatures(NamedTuple):
    """Latents of demonstrations with a success label per frame."""

    real: torch.Tensor
    """float32 [S, N, F], posterior features"""
    imagined: torch.Tensor
    """float32 [S, N, F], prior roll-outs with the same actions"""
    label: torch.Tensor
    """bool [N]"""
    length: torch.Tensor
    """int64 [D], frames per demonstration"""


class Scores(NamedTuple):
    """Precision and recall at a threshold; None where undefined."""

    precision: float | None
    recall: float | None


def balanced_rows(
    label: torch.Tensor, length: torch.Tensor, negatives: int, generator: torch.Generator
) -> torch.Tensor:
    """Rows int64 [M] of one epoch: per demonstration ``negatives`` frames without success, and its
    successes, of those at most as many.

    Both are drawn without replacement, all of them where a demonstration has fewer.
    """
    rows: list[torch.Tensor] = []
    first = 0
    for frames in label.split(length.tolist()):
        for kind in (frames, ~frames):
            found = torch.nonzero(kind).squeeze(1)
            if len(found) > negatives:
                found = found[torch.randperm(len(found), generator=generator)[:negatives]]
            rows.append(found + first)
        first += len(frames)
    return torch.cat(rows)


def frame_weights(label: torch.Tensor, length: torch.Tensor, near_miss: float) -> torch.Tensor:
    """Weight of every frame, float32 [N]: ``near_miss`` just before a success, 1 elsewhere."""
    weight = torch.ones(len(label))
    for first, success, _ in _successes(label, length):
        weight[max(first, success - NEAR_MISS_FRAMES) : success] = near_miss
    return weight


def train_classifier(
    config: RewardConfig,
    training: LabelledFeatures,
    validation: LabelledFeatures,
    generator: torch.Generator,
    device: torch.device,
    log: Callable[[dict[str, float]], None],
    state: dict[str, Any] | None = None,
    checkpoint: StateFile | None = None,
) -> SuccessClassifier:
    """A classifier with the weights of its best epoch, not calibrated yet.

    ``checkpoint`` is given the state now and then, and when the process is asked to end, before
    Interrupted is raised; with a ``state`` that it was given the training goes on from there, with
    the same result.

    The best epoch has the highest area under the precision-recall curve on ``validation``, the mean
    of real and imagined features. ``log`` receives ``step`` (epoch), ``loss``, ``auprc_real`` and
    ``auprc_imagined``. Raises WamError if the training labels are all equal, or if weights are not
    finite after an epoch.
    """
    if training.label.all() or not training.label.any():
        raise WamError(
            f"demonstrations: {int(training.label.sum())} of {len(training.label)} frames are "
            "successes; a classifier needs both kinds (more demonstrations, or other annotations)"
        )
    with seeded(generator):
        model = SuccessClassifier(config, training.real.shape[-1]).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    weight = frame_weights(training.label, training.length, config.near_miss_weight)
    best, best_epoch = float("-inf"), 0
    best_weights = copy.deepcopy(model.state_dict())
    first = 1
    if state is not None:
        first = state["epoch"] + 1
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        best, best_epoch, best_weights = state["best"], state["best_epoch"], state["best_weights"]
    with deferred() as asked:
        for epoch in range(first, config.epochs + 1):
            losses: list[torch.Tensor] = []
            for feature, label, row_weight in _epoch(training, weight, config, generator):
                loss = classifier_loss(
                    model, feature.to(device), label.to(device), row_weight.to(device), config
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            check_weights(model, f"train-reward, epoch {epoch}", "lower reward.lr")
            real, imagined = (
                average_precision(*_scored(model, features, validation.label, device))
                for features in (validation.real, validation.imagined)
            )
            log(
                {
                    "step": epoch,
                    "loss": float(torch.stack(losses).mean()),
                    "auprc_real": real,
                    "auprc_imagined": imagined,
                }
            )
            if (real + imagined) / 2 > best:
                best, best_epoch = (real + imagined) / 2, epoch
                best_weights = copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= PATIENCE:
                break
            stop = asked()
            if checkpoint and (stop or checkpoint.due):
                checkpoint.save(
                    {
                        "epoch": epoch,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "generator": generator.get_state(),
                        "best": best,
                        "best_epoch": best_epoch,
                        "best_weights": best_weights,
                    }
                )
            if stop:
                break
    model.load_state_dict(best_weights)
    return model.eval()


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
    margin, truth = _scored(model, feature, label, device)
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
    margin, truth = _scored(model, data.imagined, data.label, device)
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


def success_places(data: LabelledFeatures) -> torch.Tensor:
    """Hands [P, 3] in the first frames of every success, as many as a decision has steps."""
    return torch.cat(
        [
            hand(data.real[0, success : min(success + CHUNK, stop)])
            for _, success, stop in _successes(data.label, data.length)
        ]
    )


def window_margins(
    margin: torch.Tensor, data: LabelledFeatures
) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest of the margins [S, N] at decisions: of stretches [A] without and [H] with success.

    Every window, asked after every fourth frame as in PPO, has a stretch before its first success
    and one of its successes, or only one of these; every posterior draw counts. The last decision
    before a success belongs to neither: a dream that is ahead by less than that is not wrong.
    """
    stretches: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for label, asked in _decisions(margin, data.label, data.length):
        before = (~label).cumprod(0).bool()
        if label.any():
            before &= before.roll(-1)
        for succeeded, rows in ((False, before), (True, label)):
            if rows.any():
                stretches[succeeded].append(asked[:, rows].amax(1))
    alarm, hit = (
        torch.cat(found) if found else margin.new_zeros(0) for found in stretches.values()
    )
    return alarm, hit


def held_back(data: LabelledFeatures, every: int = 5) -> tuple[LabelledFeatures, LabelledFeatures]:
    """The windows of ``data`` without every fifth one, and those."""
    chosen = torch.arange(len(data.length)) % every == every - 1

    def part(windows: torch.Tensor) -> LabelledFeatures:
        rows = windows.repeat_interleave(data.length)
        kept = data.real[:, rows], data.imagined[:, rows], data.label[rows], data.length[windows]
        return LabelledFeatures(*kept)

    return part(~chosen), part(chosen)


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
    without in which it does; None where there are no such windows. ``feature`` [S, N, F] of
    windows of ``length`` [D], ``label`` bool [N].
    """
    decided = torch.stack([model.success(draw.to(device)).cpu() for draw in feature])
    counts = {True: [0, 0], False: [0, 0]}
    for truth, asked in _decisions(decided, label, length):
        kind = bool(truth.any())
        counts[kind][0] += int((asked.any(1) != kind).sum())
        counts[kind][1] += len(asked)
    missed, alarmed = (wrong / total if total else None for wrong, total in counts.values())
    return missed, alarmed


def window_auc(
    model: SuccessClassifier, data: LabelledFeatures, device: torch.device
) -> float | None:
    """How probably an imagined window with a success at a decision scores higher than one without.

    The score is the highest margin at a decision. None without windows of both kinds.
    """
    margin, _ = _scored(model, data.imagined, data.label, device)
    scores: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for truth, asked in _decisions(margin.view(len(data.imagined), -1), data.label, data.length):
        if len(truth):
            scores[bool(truth.any())].append(asked.amax(1))
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


def _epoch(
    data: LabelledFeatures,
    weight: torch.Tensor,
    config: RewardConfig,
    generator: torch.Generator,
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Shuffled batches (feature, label, weight) of real and imagined frames.

    Each demonstration uses one posterior draw, chosen anew.
    """
    features, rows = [], []
    for source in (data.real, data.imagined):
        draw = torch.randint(len(source), data.length.shape, generator=generator)
        chosen = balanced_rows(data.label, data.length, config.negatives_per_demo, generator)
        features.append(source[draw.repeat_interleave(data.length)[chosen], chosen])
        rows.append(chosen)
    row = torch.cat(rows)
    order = torch.randperm(len(row), generator=generator)
    feature, row = torch.cat(features)[order], row[order]
    parts = (feature, data.label[row], weight[row])
    return list(zip(*(part.split(config.batch) for part in parts), strict=True))


def _successes(label: torch.Tensor, length: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """First row, first success and end of every demonstration that has a success."""
    first = 0
    for frames in label.split(length.tolist()):
        if frames.any():
            yield first, first + int(frames.int().argmax()), first + len(frames)
        first += len(frames)


def _decisions(
    values: torch.Tensor, label: torch.Tensor, length: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Label [K] and ``values`` [S, K] of every window after each fourth frame, as PPO asks."""
    first = 0
    for frames in length.tolist():
        asked = slice(first + CHUNK, first + frames, CHUNK)
        yield label[asked], values[:, asked]
        first += frames


def _temperature(margin: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The temperature with the least log-loss of ``margin`` [N] against ``truth`` [N]."""
    scaled = margin / _TEMPERATURES.unsqueeze(1)
    signed = torch.where(truth, scaled, -scaled)
    return _TEMPERATURES[torch.nn.functional.softplus(-signed).mean(1).argmin()]


def _scored(
    model: SuccessClassifier, feature: torch.Tensor, label: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Margins and labels of all draws, on the CPU."""
    margin = torch.cat([model.margin(draw.to(device)).cpu() for draw in feature])
    return margin, label.repeat(len(feature))
