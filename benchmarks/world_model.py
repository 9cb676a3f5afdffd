"""Training the world model: how fast, where the time goes, and against a plain PyTorch version.

Frames of the embedded simulator are recorded once. The package's trainer reads them from its store;
the plain version (``plain_world_model.py``) has the same sizes and reads one file per frame. Both
have one loader worker and take turns, so that their ratio can be trusted on a busy machine. Both
reconstruct every image and have the terms of the paper alone; what a profile changes of that shows
in ``frames_per_s_recipe`` and in the parts of an update. A rate is that of the fastest round unless
it is called the median.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from plain_world_model import FrameFiles, PlainWorldModel
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import DataLoader

from pipeline import console
from pipeline.artifacts.layout import Layout, store_path
from pipeline.batches.from_store import store_batches
from pipeline.batches.loader import BatchLoader, Delivery
from pipeline.batches.order import all_windows
from pipeline.params import Profile, load_profile
from pipeline.stages import collect, convert, index
from pipeline.store.open import Store, open_store
from wam import device as devices
from wam.batch import Batch
from wam.config import ACTION_SIZE, PROPRIO_SIZE, WorldModelConfig
from wam.training.trainer import Batches, Trainer
from wam.world_model.model import WorldModel

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
EPISODES = 2
FEWEST_FRAMES = 800
UPDATES_PER_ROUND = 4
PEAK_TFLOPS = {"A100": 312, "H100 PCIe": 756, "H100": 989, "H200": 989, "L40S": 362, "L4": 121}
"""Dense bfloat16 of GPUs, by a part of their names; the first that fits counts."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    devices.keep_freed_memory()
    device = devices.resolve("auto")
    profile = load_profile(arguments.profile, PARAMS)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    training = profile.train_world_model
    training = replace(
        training,
        batch=arguments.batch or training.batch,
        window=arguments.window or training.window,
    )
    profile = replace(profile, train_world_model=training)
    with tempfile.TemporaryDirectory(prefix="wam-world-model-") as scratch:
        layout = Layout(arguments.store or arguments.data or Path(scratch))
        if arguments.store is None:
            record(profile, layout)
        result = {
            "profile": arguments.profile,
            "device": devices.describe(device),
            "threads": torch.get_num_threads(),
            **turns(
                profile,
                layout,
                Path(scratch) / "turns",
                arguments.rounds,
                device,
                with_plain=arguments.store is None,
            ),
            **parts(profile, layout, Path(scratch) / "parts", arguments.rounds, device),
        }
    result |= efficiency(profile.world_model, result["frames_per_s"], device)
    console.figures(result, as_json=arguments.json)


def record(profile: Profile, layout: Layout) -> None:
    """Raw frames of 64x64 pixels, unless they are there, and their store."""
    training = profile.train_world_model
    enough_for_a_batch = (training.batch // EPISODES + 2) * training.window
    length = max(enough_for_a_batch, FEWEST_FRAMES // EPISODES)
    base = load_profile("ci", PARAMS)
    settings = replace(
        base.collect,
        training_frames=EPISODES * length,
        validation_frames=length,
        episode_frames=length,
    )
    recorded = replace(base, collect=settings)
    collect.run(recorded, layout)
    index.run(recorded, layout)
    convert.run(recorded, layout, map)


def turns(
    profile: Profile,
    layout: Layout,
    work: Path,
    rounds: int,
    device: torch.device,
    with_plain: bool,
) -> dict[str, Any]:
    """Frames per second of both, in turn, and of the profile's own recipe.

    Both compute the same: all images, no further loss terms, AdamW. The first round warms up.
    """
    training = profile.train_world_model
    alike = replace(
        profile,
        world_model=replace(profile.world_model, embedding_image_scale=0.0),
        train_world_model=replace(training, image_frames=1.0, image_optimizer="adamw"),
    )
    opponent = plain_updates(alike, layout, device)
    plain: list[float] = []

    def opponents_turn() -> None:
        start = devices.now(device)
        for _ in range(UPDATES_PER_ROUND):
            next(opponent)
        plain.append(frames_per_round(alike) / (devices.now(device) - start))

    measured = partial(measure, layout=layout, work=work, rounds=rounds, device=device)
    ours, precision, loader_share = measured(
        "ours and plain", alike, after_round=opponents_turn if with_plain else lambda: None
    )
    recipe, *_ = measured("the profile's recipe", profile)
    result: dict[str, Any] = {"precision": precision}
    if with_plain:
        del plain[0]
        medians = statistics.median(ours), statistics.median(plain)
        result |= {
            "ratio_vs_plain": round(max(ours) / max(plain), 2),
            "ratio_vs_plain_median": round(medians[0] / medians[1], 2),
            "frames_per_s_plain": round(max(plain), 1),
        }
    if device.type == "cuda":
        launched, *_ = measured("without a CUDA graph", alike, graphs=False)
        result["frames_per_s_without_graph"] = round(max(launched), 1)
    return result | {
        "frames_per_s": round(max(ours), 1),
        "frames_per_s_median": round(statistics.median(ours), 1),
        "frames_per_s_recipe": round(max(recipe), 1),
        "loader_share": round(loader_share, 4),
    }


def measure(
    name: str,
    profile: Profile,
    *,
    layout: Layout,
    work: Path,
    rounds: int,
    device: torch.device,
    after_round: Callable[[], None] = lambda: None,
    graphs: bool = True,
) -> tuple[list[float], str, float]:
    """The package's trainer: frames per second of every round but the first, precision, waiting.

    The last is the share of the time in which the trainer waits for a batch. What ``after_round``
    takes is not counted.
    """
    rates: list[float] = []
    waited: list[float] = []
    with (
        console.progress(name, rounds + 1, "rounds") as advance,
        store_reader(profile, layout, device) as reader,
    ):
        batches = WaitingTime(reader)
        start = time.perf_counter()

        def on_step(step: int, record: object) -> None:
            nonlocal start
            # One update more is made, after which the trainer saves what nobody needs.
            if step % UPDATES_PER_ROUND:
                return
            seconds = devices.now(device) - start
            rates.append(frames_per_round(profile) / seconds)
            waited.append(batches.take() / seconds)
            after_round()
            advance()
            start = devices.now(device)

        updates = (rounds + 1) * UPDATES_PER_ROUND + 1
        ours = trainer(profile, new_model(profile), batches, work / name, updates, device, graphs)
        ours.run(on_step)
    return rates[1:], ours.precision.name, statistics.median(waited[1:])


def frames_per_round(profile: Profile) -> int:
    training = profile.train_world_model
    return UPDATES_PER_ROUND * training.batch * training.window


def plain_updates(profile: Profile, layout: Layout, device: torch.device) -> Iterator[None]:
    """Train the plain version, one update at a time."""
    training = profile.train_world_model
    store = training_store(layout)
    dataset = FrameFiles(
        sorted((layout.raw / "training").glob("episode_*.npz")),
        all_windows(store.episodes, training.window),
        training.window,
        store.proprio_normalizer(),
    )
    loader = DataLoader(
        dataset,
        training.batch,
        shuffle=True,
        num_workers=1,
        drop_last=True,
        pin_memory=device.type == "cuda",
    )
    model = PlainWorldModel(profile.world_model).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=training.lr,
        weight_decay=training.weight_decay,
        eps=training.adam_eps,
    )
    while True:
        for sample in loader:
            sample = {name: value.to(device) for name, value in sample.items()}
            loss, _ = model.loss(sample, model.initial(training.batch, device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
            optimizer.step()
            yield


def parts(
    profile: Profile, layout: Layout, work: Path, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Milliseconds of an update by part, medians over updates; waiting for a device slows them.

    A CUDA graph has no parts: its kernels are launched one by one here.
    """
    clock = Clock(device)
    model = new_model(profile)
    handles = clock.watch(model)
    with store_reader(profile, layout, device) as batches:
        updates = (rounds + 1) * UPDATES_PER_ROUND
        timed = TimedBatches(batches, clock)
        trainer(profile, model, timed, work, updates, device, graphs=False).run()
    for handle in handles:
        handle.remove()
    return {"ms": clock.medians()}


class Clock:
    """Gives the time since the last mark to a part of the update."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._updates: list[dict[str, float]] = [{}]
        self._last = devices.now(device)

    def mark(self, part: str) -> None:
        time_s = devices.now(self._device)
        update = self._updates[-1]
        update[part] = update.get(part, 0.0) + 1000 * (time_s - self._last)
        self._last = time_s

    def start_update(self) -> None:
        self.mark("rest")
        self._updates.append({})

    def watch(self, model: WorldModel) -> list[torch.utils.hooks.RemovableHandle]:
        """Mark the parts of ``model.loss`` and of the update that uses it."""
        model.loss = self._around(model.loss, "to_device", "decoder_and_losses")  # type: ignore[method-assign]
        model.rssm.observe = self._around(model.rssm.observe, "rest", "rssm")  # type: ignore[method-assign]
        return [
            model.encoder.register_forward_pre_hook(lambda *_: self.mark("to_device")),
            model.encoder.register_forward_hook(lambda *_: self.mark("encoder")),
            register_optimizer_step_pre_hook(lambda *_: self.mark("backward")),
            register_optimizer_step_post_hook(lambda *_: self.mark("optimizer")),
        ]

    def medians(self) -> dict[str, float]:
        """Milliseconds of each part; the first updates warm up."""
        measured = self._updates[1 + UPDATES_PER_ROUND :]
        return {
            part: round(statistics.median(update.get(part, 0.0) for update in measured), 2)
            for part in measured[0]
        }

    def _around(self, function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        def marked(*arguments: Any, **options: Any) -> Any:
            self.mark(before)
            result = function(*arguments, **options)
            self.mark(after)
            return result

        return marked


class TimedBatches:
    """``batches``, whose delivery starts an update of the ``clock``."""

    def __init__(self, batches: Batches, clock: Clock) -> None:
        self._batches, self._clock = batches, clock
        self.state_dict, self.load_state_dict = batches.state_dict, batches.load_state_dict

    def __next__(self) -> Batch:
        self._clock.start_update()
        batch = next(self._batches)
        self._clock.mark("loader")
        return batch


class WaitingTime:
    """``batches``, and how long they were waited for."""

    def __init__(self, batches: Batches) -> None:
        self._batches, self._seconds = batches, 0.0
        self.state_dict, self.load_state_dict = batches.state_dict, batches.load_state_dict

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = next(self._batches)
        self._seconds += time.perf_counter() - start
        return batch

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def efficiency(
    config: WorldModelConfig, frames_per_s: float, device: torch.device
) -> dict[str, Any]:
    """Arithmetic of a frame, and how much of it is done per second."""
    # The backward pass takes two products for each one of the forward pass.
    flops = 3 * sum(forward_flops(config).values())
    result: dict[str, Any] = {
        "mflop_per_frame": round(flops / 1e6, 1),
        "gflop_per_s": round(flops * frames_per_s / 1e9, 1),
    }
    name = devices.describe(device)
    peak = next((value for part, value in PEAK_TFLOPS.items() if part in name), None)
    if peak is not None:
        result["mfu"] = round(flops * frames_per_s / (peak * 1e12), 4)
    return result


def forward_flops(config: WorldModelConfig) -> dict[str, int]:
    """FLOP of each part per frame, two per multiply-add (algorithm contract 11.1).

    The contract counts the decoder's first linear layer once per camera; here it is counted once,
    as the cameras share its result.
    """
    depth, seed = config.cnn_depth, config.decoder_channels
    flat = config.stoch * config.classes
    embedding = config.visual_embedding + PROPRIO_SIZE
    pairs = pairwise((3, depth, 2 * depth, 4 * depth, 8 * depth))
    encoder = sum(
        inputs * outputs * 4**2 * size**2
        for (inputs, outputs), size in zip(pairs, (31, 14, 6, 2), strict=True)
    )
    pairs = pairwise((seed, 4 * depth, 2 * depth, depth, 3))
    decoder = sum(
        inputs * outputs * kernel**2 * size**2
        for (inputs, outputs), kernel, size in zip(pairs, (5, 5, 6, 6), (1, 5, 13, 30), strict=True)
    )
    rssm = (
        (flat + ACTION_SIZE) * config.hidden
        + 3 * config.deter * (config.hidden + config.deter)
        + (2 * config.deter + embedding) * config.hidden
        + 2 * config.hidden * flat
    )
    widths = (2 * embedding, *config.id_hidden, ACTION_SIZE)
    products = {
        "encoder": 2 * encoder,
        "fusion": 2 * 32 * depth * config.visual_embedding,
        "rssm": rssm,
        "decoder_linear": config.feature * seed,
        "decoder": 2 * decoder,
        "inverse_dynamics": sum(inputs * outputs for inputs, outputs in pairwise(widths)),
    }
    return {name: 2 * count for name, count in products.items()}


def new_model(profile: Profile) -> WorldModel:
    return WorldModel(profile.world_model, seed=profile.train_world_model.seed)


def trainer(
    profile: Profile,
    model: WorldModel,
    batches: Batches,
    work: Path,
    updates: int,
    device: torch.device,
    graphs: bool = True,
) -> Trainer:
    """The package's trainer for ``updates`` updates, of which each round logs its last."""
    work.mkdir(parents=True)
    training = replace(
        profile.train_world_model,
        updates=updates,
        frames=None,
        minutes=None,
        checkpoint_every=updates,
        log_every=UPDATES_PER_ROUND,
    )
    return Trainer(
        model,
        batches,
        training,
        action_scale=profile.world_model.action_scale,
        directory=work,
        device=device,
        graphs=graphs,
    )


def store_reader(profile: Profile, layout: Layout, device: torch.device) -> BatchLoader[Any]:
    training = profile.train_world_model
    return store_batches(
        training_store(layout),
        "streams",
        batch=training.batch,
        window=training.window,
        seed=training.seed,
        cache="ram",
        delivery=Delivery(workers=1, device=device),
    )


def training_store(layout: Layout) -> Store:
    return open_store(store_path(layout.store, "training"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--profile", choices=("demo", "small", "paper"), default="small", help="(default: small)"
    )
    parser.add_argument("--batch", type=int, metavar="ROWS", help="instead of the profile's")
    parser.add_argument("--window", type=int, metavar="FRAMES", help="instead of the profile's")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the recorded frames here and use them again"
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="a profile's data, as data/paper: its store alone, without the plain version",
    )
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="of both (default: every core)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    main()
