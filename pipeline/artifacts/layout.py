"""Where each artifact of a profile lies. The one place that knows paths below ``data/``."""

import re
from dataclasses import dataclass
from pathlib import Path

from wam.errors import WamError

SPLITS = ("training", "validation")

DATA = Path("data")
STUDY = DATA / "study"
STUDY_RESULTS = STUDY / "results"

_PROFILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Layout:
    """Paths of one profile, or of one run of a study."""

    root: Path
    data: Path | None = None
    """Root of the profile whose frames are worked on; None: its own."""

    @classmethod
    def of(cls, profile: str) -> "Layout":
        """The layout of the profile called ``profile``.

        Raises WamError for what is no name of a directory in ``data/``.
        """
        check_profile_name(profile)
        return cls(DATA / profile)

    @classmethod
    def of_run(cls, cell: str, seed: int, base: str) -> "Layout":
        """The layout of a study's run, on the frames of the profile ``base``."""
        return cls(STUDY / "runs" / cell / str(seed), cls.of(base).root)

    def absolute(self) -> "Layout":
        """The same from any working directory."""
        return Layout(self.root.absolute(), self.data and self.data.absolute())

    @property
    def _frames(self) -> Path:
        """Below it lies what is made of frames alone."""
        return self.data or self.root

    @property
    def raw(self) -> Path:
        """CALVIN-format frames made by ``wam collect``: ``training/`` and ``validation/``."""
        return self._frames / "raw"

    @property
    def raw_receipt(self) -> Path:
        """What ``wam collect`` left in ``raw`` (the frames themselves stay out of DVC)."""
        return self._frames / "raw.json"

    @property
    def index(self) -> Path:
        return self._frames / "index"

    @property
    def store(self) -> Path:
        """``training.zarr`` and ``validation.zarr``."""
        return self._frames / "store"

    @property
    def shards(self) -> Path:
        """WebDataset tars of the store."""
        return self._frames / "shards"

    @property
    def lerobot(self) -> Path:
        """LeRobot data sets of the store, one per split."""
        return self._frames / "lerobot"

    @property
    def demos(self) -> Path:
        """Demonstrations, held-out starts and imagination starts per task."""
        return self.root / "demos"

    @property
    def cache(self) -> Path:
        """Decoded frames that training maps into memory; no artifact, made again when needed."""
        return self._frames / "cache"

    def world_model(self, variant: str) -> Path:
        return self.root / "world_model" / variant

    def log(self, variant: str) -> Path:
        """Speed and event files of a world model's training. No artifact: they tell of the machine
        and the hour, and equal runs are to leave equal artifacts."""
        return self.root / "logs" / "world_model" / variant

    def dream(self, variant: str, name: str) -> Path:
        """A film of ``wam dream``; no artifact, made at any time."""
        return self.root / "dreams" / f"{variant}-{name}.mp4"

    def features(self, variant: str) -> Path:
        return self.root / "features" / variant

    def reward(self, variant: str) -> Path:
        return self.root / "reward" / variant

    def policy(self, variant: str) -> Path:
        return self.root / "policy" / variant

    def finetune(self, variant: str) -> Path:
        return self.root / "finetune" / variant

    def evaluation(self, name: str) -> Path:
        """Roll-outs of a variant's policies, or of the ``controls``."""
        return self.root / "evaluation" / name

    def transfer(self, world: str, name: str) -> Path:
        """As :meth:`evaluation`, in another world than the profile's; made by hand, not by DVC."""
        return self.root / "transfer" / world / name

    @property
    def world_model_evaluation(self) -> Path:
        """Open-loop quality and action probes of all world models."""
        return self.root / "evaluation" / "world_model"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def report(self) -> Path:
        return self.root / "report"


def check_profile_name(name: str) -> None:
    """Raises WamError for a name that could lead out of ``data/``, or hide there."""
    if not _PROFILE_NAME.fullmatch(name):
        raise WamError(
            f"profile {name[:80]!r}: expected up to 64 letters, digits, '_', '-' and '.', and no "
            "'.' at the beginning"
        )


def store_path(store: Path, split: str) -> Path:
    """The Zarr group of one split."""
    return store / f"{split}.zarr"
