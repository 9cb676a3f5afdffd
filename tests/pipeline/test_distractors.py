"""A model with distractors never sees a plain image, whichever stage shows it one."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts.layout import SPLITS, Layout, store_path
from pipeline.calvin.fields import CAMERAS
from pipeline.params import Profile, load_profile
from pipeline.params.relations import contradictions
from pipeline.pictures.images import all_to_model_size
from pipeline.stages import evaluate_world_model, extract, featurize, train_world_model
from pipeline.store.open import open_store
from pipeline.tools import dream
from wam.errors import WamError
from wam.world_model import model as world_model

VARIANTS = ("wam", "dreamerv2")


@pytest.fixture
def profile(raw_root: Path, make_profile: Callable[..., Profile]) -> Profile:
    base = make_profile(raw_root)
    model = replace(
        base.world_model,
        cnn_depth=2,
        visual_embedding=16,
        deter=16,
        latent="probabilities",
        embedding_image_scale=1.0,
        seed_match_scale=1.0,
        distractors=True,
    )
    return replace(
        base,
        world_model=model,
        train_world_model=replace(base.train_world_model, batch=2, window=8, updates=2),
        refine_world_model=replace(
            base.refine_world_model, updates=2, batch=3, window=6, components=4
        ),
        evaluate_world_model=replace(
            base.evaluate_world_model, open_loop_sequences=4, open_loop_steps=6
        ),
    )


@pytest.fixture
def layout(converted: Layout, tmp_path: Path) -> Layout:
    return Layout(Path(shutil.copytree(converted.root, tmp_path / "data")))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """All images that any world model is shown."""
    shown: set[bytes] = set()
    plain = world_model._images

    def watched(images: torch.Tensor) -> torch.Tensor:
        shown.update(image.tobytes() for image in images.flatten(0, -4).numpy())
        return plain(images)

    monkeypatch.setattr(world_model, "_images", watched)
    return shown


def stored(layout: Layout, *, distractors: bool) -> set[bytes]:
    return {
        image.tobytes()
        for split in SPLITS
        for camera in CAMERAS
        for image in all_to_model_size(
            open_store(store_path(layout.store, split), distractors=distractors).read(camera)
        )
    }


def test_every_stage_shows_disturbed_images(
    profile: Profile, layout: Layout, seen: set[bytes], tmp_path: Path
) -> None:
    plain, disturbed = (stored(layout, distractors=with_them) for with_them in (False, True))
    assert not disturbed & plain
    extract.run(profile, layout)
    for name, stage in {
        "train-world-model": lambda: [
            train_world_model.run(profile, layout, variant) for variant in VARIANTS
        ],
        "evaluate-world-model": lambda: evaluate_world_model.run(profile, layout),
        "featurize": lambda: featurize.run(profile, layout, "wam"),
        "dream": lambda: dream.run(profile, layout, "wam", steps=3, output=tmp_path / "d.webp"),
    }.items():
        seen.clear()
        stage()
        # Beside them only what the model itself predicts.
        assert seen & disturbed, name
        assert not seen & plain, name


def test_models_that_see_other_images_are_not_compared(profile: Profile, layout: Layout) -> None:
    profile = replace(profile, refine_world_model=replace(profile.refine_world_model, updates=0))
    train_world_model.run(profile, layout, "wam")
    plain = replace(profile, world_model=replace(profile.world_model, distractors=False))
    train_world_model.run(plain, layout, "dreamerv2")
    with pytest.raises(WamError, match="models that see other images are not compared"):
        evaluate_world_model.run(profile, layout)


@pytest.mark.parametrize(
    ("section", "setting", "value", "said"),
    [
        ("world_model", "distractors", True, "distractors=true"),
        ("world_model", "view_reach", 8, "view_reach=8"),
        ("train_world_model", "data_share", 0.5, "data_share=0.5"),
    ],
)
def test_shards_know_no_episodes(section: str, setting: str, value: object, said: str) -> None:
    base = load_profile("small", Path(__file__).parents[2] / "params.yaml")
    base = replace(base, world_model=replace(base.world_model, view_reach=0))
    settings: Any = replace(getattr(base, section), **{setting: value})
    changed = replace(base, **{section: settings})
    shards = replace(changed, loader=replace(base.loader, reader="shards"))
    assert not any(said in text for text in contradictions(changed))
    assert any(f"{said}: not with loader" in text for text in contradictions(shards))
