"""``wam profile``: what a profile of ``params.yaml`` does, after it was checked."""

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.params import Profile


def run(profile: Profile, layout: Layout) -> None:
    """Print where the data come from and how much is trained, in one line."""
    source = profile.raw.path or f"{profile.collect.training_frames:,} frames of scripted play"
    training = profile.train_world_model
    console.titled(
        f"profile {layout.root.name}",
        f"{source} · {len(profile.tasks)} task(s) · world model "
        f"{training.updates:,} updates of {training.batch}×{training.window} frames · "
        f"PPO {profile.finetune.iterations} iterations × {len(profile.finetune.seeds)} seed(s)",
    )
