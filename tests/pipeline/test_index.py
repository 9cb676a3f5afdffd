import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import index, raw
from pipeline.layout import Layout
from pipeline.params import Profile
from wam.errors import WamError

MakeProfile = Callable[..., Profile]


def test_index_describes_both_splits(
    raw_root: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    index.run(make_profile(raw_root), layout)
    found = index.load_index(layout.index)
    training = found.splits["training"]
    assert training.episodes == [(100, 140), (140, 180), (200, 240)]
    assert (training.num_frames, training.digits, training.scene) == (120, 7, "D")
    assert training.renderer == "tiny"
    assert training.image_shapes == {"rgb_static": (64, 64, 3), "rgb_gripper": (72, 80, 3)}
    assert training.annotations == {"close_drawer": 3, "turn_on_led": 3}
    assert found.splits["validation"].num_frames == 80


@pytest.mark.parametrize("verify", ["size", "mtime", "md5"])
def test_index_is_identical_until_the_data_change(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path, verify: str
) -> None:
    profile = make_profile(own_raw)
    profile = replace(profile, index=replace(profile.index, verify=verify))
    layout = Layout(tmp_path / "data")

    def listing() -> dict[str, bytes]:
        index.run(profile, layout)
        return {path.name: path.read_bytes() for path in layout.index.iterdir()}

    before = listing()
    assert listing() == before
    frame = raw.frame_path(own_raw / "training", 120)
    content = bytearray(frame.read_bytes())
    if verify == "size":
        content += b"x"
    content[-1] ^= 1
    frame.write_bytes(bytes(content))
    assert listing() != before


def test_new_annotations_change_the_index(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    index.run(make_profile(own_raw), layout)
    before = index.load_index(layout.index).digest
    raw.write_annotations(own_raw / "training", [raw.Annotation("open_drawer", "x", 101, 120)])
    index.run(make_profile(own_raw), layout)
    assert index.load_index(layout.index).digest != before


def test_missing_frame_is_named_and_leaves_nothing(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    for frame_id in (152, 150):
        raw.frame_path(own_raw / "training", frame_id).unlink()
    layout = Layout(tmp_path / "data")
    with pytest.raises(WamError, match=r"episode_0000150.npz: frame missing inside.*in all: 2"):
        index.run(make_profile(own_raw), layout)
    assert not layout.root.exists()
    index.run(make_profile(own_raw, on_error="skip-episode"), layout)
    training = index.load_index(layout.index).splits["training"]
    assert training.episodes == [(100, 140), (200, 240)]
    assert [finding.episode for finding in training.findings] == [(140, 180)]


def test_stray_frames_are_reported_and_ignored(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = own_raw / "training"
    shutil.copy(raw.frame_path(directory, 100), raw.frame_path(directory, 99))
    layout = Layout(tmp_path / "data")
    index.run(make_profile(own_raw), layout)
    training = index.load_index(layout.index).splits["training"]
    assert (training.num_stray, training.stray) == (1, ["episode_0000099.npz"])
    assert training.num_frames == 120
    assert "belongs to no episode" in capsys.readouterr().out
    warnings = index.load_index(layout.index).warnings
    assert "stray-frames" in {warning.check for warning in warnings}


def test_other_digit_counts_are_detected_and_mixed_ones_refused(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    directory = own_raw / "validation"
    for path in sorted(directory.glob("episode_*.npz")):
        path.rename(directory / f"episode_{int(path.stem[8:]):06d}.npz")
    layout = Layout(tmp_path / "data")
    index.run(make_profile(own_raw), layout)
    assert index.load_index(layout.index).splits["validation"].digits == 6
    (directory / "episode_000005.npz").rename(directory / "episode_00005.npz")
    with pytest.raises(WamError, match="digits"):
        index.run(make_profile(own_raw), layout)


def test_missing_directories_are_named(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    with pytest.raises(WamError, match=r"raw\.path: .*nowhere: directory not found"):
        index.run(make_profile(tmp_path / "nowhere"), layout)
    profile = make_profile(own_raw)
    with pytest.raises(WamError, match="run 'wam collect' first"):
        index.run(replace(profile, raw=replace(profile.raw, path=None)), layout)
    (own_raw / "training" / raw.EPISODE_TABLE).unlink()
    with pytest.raises(WamError, match=r"ep_start_end_ids.npy: not found"):
        index.run(profile, layout)
    shutil.rmtree(own_raw / "training")
    with pytest.raises(WamError, match=r"training: directory not found"):
        index.run(profile, layout)
    assert not layout.root.exists()
