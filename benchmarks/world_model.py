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
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from clock import Clock, TimedBatches, WaitingTime
from flops import efficiency
from pipeline import console
from pipeline.artifacts.layout import Layout, store_path
from pipeline.batches.from_store import store_batches
from pipeline.batches.loader import BatchLoader, Delivery
from pipeline.batches.open import views_of
from pipeline.batches.order import all_windows
from pipeline.params import Profile, load_profile
from pipeline.stages import collect, convert, index
from pipeline.store.open import Store, open_store
from plain_world_model import FrameFiles, PlainWorldModel, papers_terms
from turns import PARAMS, options, ratio
from wam import device as devices
from wam.training.trainer import Batches, Trainer
from wam.world_model.model import WorldModel

EPISODES = 2
FEWEST_FRAMES = 800
UPDATES_PER_ROUND = 4


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
    alike = as_in_the_papers(profile)
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
            "ratio_vs_plain": ratio(max(ours), max(plain)),
            "ratio_vs_plain_median": ratio(*medians),
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


def as_in_the_papers(profile: Profile) -> Profile:
    """The sizes of ``profile`` with the papers' terms alone, which the plain version has."""
    training = replace(profile.train_world_model, image_frames=1.0, image_optimizer="adamw")
    model = papers_terms(profile.world_model)
    return replace(profile, world_model=model, train_world_model=training)


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
    return {"ms": clock.medians(warm_up=UPDATES_PER_ROUND)}


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
        views=views_of(profile),
        delivery=Delivery(workers=1, device=device),
    )


def training_store(layout: Layout) -> Store:
    return open_store(store_path(layout.store, "training"))


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
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
    parser.add_argument("--threads", type=int, metavar="N", help="of both (default: every core)")
    return parser


if __name__ == "__main__":
    main()
