import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.calvin import fields, language, listing, on_disk, small_files, stretches
from pipeline.params import Profile
from pipeline.stages import extract, index
from wam.errors import WamError

MakeProfile = Callable[..., Profile]
ANNOTATIONS = [
    language.Annotation("close_drawer", "x", 101, 120),
    language.Annotation("turn_on_led", "x", 101, 120),
]


def test_index_describes_both_splits(
    raw_root: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    index.run(make_profile(raw_root), layout)
    found = listing.load_index(layout.index)
    training = found.splits["training"]
    assert training.episodes == [(100, 140), (140, 180), (200, 240)]
    assert (training.num_frames, training.digits, training.scene) == (120, 7, "D")
    assert training.renderer == "tiny"
    assert training.image_shapes == {"rgb_static": (64, 64, 3), "rgb_gripper": (72, 80, 3)}
    assert training.annotations == {"close_drawer": 3, "turn_on_led": 3}
    assert training.windows == language.read_annotations(raw_root / "training")
    assert found.splits["validation"].num_frames == 80


@pytest.mark.parametrize("verify", ["size", "mtime", "md5"])
def test_index_is_identical_until_the_data_change(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path, verify: str
) -> None:
    profile = make_profile(own_raw)
    profile = replace(profile, index=replace(profile.index, verify=verify))
    layout = Layout(tmp_path / "data")

    def indexed() -> dict[str, bytes]:
        index.run(profile, layout)
        return {path.name: path.read_bytes() for path in layout.index.iterdir()}

    before = indexed()
    assert indexed() == before
    frame = on_disk.frame_path(own_raw / "training", 120)
    content = bytearray(frame.read_bytes())
    if verify == "size":
        content += b"x"
    content[-1] ^= 1
    frame.write_bytes(bytes(content))
    assert indexed() != before


def test_new_annotations_change_the_index(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    index.run(make_profile(own_raw), layout)
    before = listing.load_index(layout.index).digest
    language.write_annotations(own_raw / "training", ANNOTATIONS)
    index.run(make_profile(own_raw), layout)
    assert listing.load_index(layout.index).digest != before


def test_missing_frame_is_named_and_leaves_nothing(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    for frame_id in (152, 150):
        on_disk.frame_path(own_raw / "training", frame_id).unlink()
    layout = Layout(tmp_path / "data")
    with pytest.raises(WamError, match=r"episode_0000150.npz: frame missing inside.*in all: 2"):
        index.run(make_profile(own_raw), layout)
    assert not layout.root.exists()
    index.run(make_profile(own_raw, on_error="skip-episode"), layout)
    training = listing.load_index(layout.index).splits["training"]
    assert training.episodes == [(100, 140), (200, 240)]
    (damaged,) = training.damaged
    assert (damaged.episode, damaged.num_lost, damaged.kept) == ((140, 180), 2, [])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (Path.mkdir, "a directory"),
        (os.mkfifo, "a named pipe"),
        (Path.touch, "an empty file"),
    ],
)
def test_what_is_no_file_is_a_missing_frame(
    own_raw: Path,
    make_profile: MakeProfile,
    tmp_path: Path,
    make: Callable[[Path], None],
    words: str,
) -> None:
    path = on_disk.frame_path(own_raw / "training", 150)
    path.unlink()
    make(path)
    layout = Layout(tmp_path / "data")
    with pytest.raises(WamError, match=rf"0000150.npz: frame missing inside.*there is.*{words}"):
        index.run(make_profile(own_raw), layout)
    index.run(make_profile(own_raw, on_error="skip-episode"), layout)
    assert listing.load_index(layout.index).splits["training"].episodes == [(100, 140), (200, 240)]


def test_after_a_partial_download_the_error_says_what_is_whole(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "SHORTEST", 5)
    directory = own_raw / "training"
    for frame_id in (*range(150, 160), 163, *range(230, 240)):
        on_disk.frame_path(directory, frame_id).unlink()
    layout = Layout(tmp_path / "data")
    advice = {"training": ((100, 149), (164, 229))}
    listed = r"convert.frames: \{training: \[\[100, 149\], \[164, 229\]\]\}$"
    with pytest.raises(WamError, match=r"0000150.npz: frame missing.*in all: 21\..*" + listed):
        index.run(make_profile(own_raw), layout)
    profile = make_profile(own_raw)
    index.run(replace(profile, convert=replace(profile.convert, frames=advice)), layout)
    chosen = listing.load_index(layout.index).splits["training"].episodes
    assert chosen == [(100, 140), (140, 150), (164, 180), (200, 230)]
    index.run(make_profile(own_raw, on_error="skip-episode"), layout)
    training = listing.load_index(layout.index).splits["training"]
    assert training.episodes == chosen
    assert [(one.episode, one.num_lost) for one in training.damaged] == [
        ((140, 180), 11),
        ((200, 240), 10),
    ]


def test_a_task_without_a_window_is_named_before_anything_is_made(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    for tasks, message in (
        (("close_drawer", "open_drawer"), r"no annotated window of open_drawer within.*drawer 3"),
        (("move_slider_left",), r"training has no annotated window of move_slider_left"),
    ):
        with pytest.raises(WamError, match=message + r".*set tasks to \[\]"):
            index.run(make_profile(own_raw, tasks=tasks), layout)
    (own_raw / "validation" / language.ANNOTATIONS).unlink()
    with pytest.raises(WamError, match=r"validation/lang_annotations/.*not found, nor.*lang_\*"):
        index.run(make_profile(own_raw), layout)
    assert not layout.root.exists()
    index.run(make_profile(own_raw, tasks=()), layout)
    assert listing.load_index(layout.index).splits["validation"].windows is None
    with pytest.raises(WamError, match=r"tasks: \[\]; demonstrations"):
        extract.run(make_profile(own_raw, tasks=()), layout)


def test_a_window_outside_what_is_used_counts_for_nothing(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    profile = make_profile(own_raw)
    cut = replace(profile.convert, frames={"training": ((110, 139),)})
    with pytest.raises(WamError, match=r"training has no annotated window of close_drawer, turn_"):
        index.run(replace(profile, convert=cut), Layout(tmp_path / "data"))


def test_states_that_cannot_occur_in_their_scene_are_an_error(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    for frame_id in range(200, 240):
        path = on_disk.frame_path(own_raw / "training", frame_id)
        frame = on_disk.read_frame(path, fields.RAW_KEYS)
        frame["scene_obs"][0] = 0.3  # the door of A and D ends before
        on_disk.write_frame(own_raw / "training", frame_id, frame)
    with pytest.raises(WamError, match=r"training: .* names scene D, in which 40 of 120.*cannot"):
        index.run(make_profile(own_raw), Layout(tmp_path / "data"))


def test_billions_of_claimed_frames_take_no_memory(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    small_files.write_npy(own_raw / "training" / on_disk.EPISODE_TABLE, np.array([[0, 10**17]]))
    with pytest.raises(WamError, match=r"0000000.npz: frame missing.*in all: 99999999999999881"):
        index.run(make_profile(own_raw), Layout(tmp_path / "data"))


def test_the_only_annotations_are_used_wherever_they_are(
    own_raw: Path,
    make_profile: MakeProfile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = Layout(tmp_path / "data")
    usual = own_raw / "training" / language.ANNOTATIONS.parent
    other = usual.with_name("lang_clip_resnet50")
    usual.rename(other)
    index.run(make_profile(own_raw), layout)
    found = listing.load_index(layout.index)
    assert found.splits["training"].annotations == {"close_drawer": 3, "turn_on_led": 3}
    assert "lang_clip_resnet50/auto_lang_ann.npy" in capsys.readouterr().out
    language.write_annotations(own_raw / "training", ANNOTATIONS)
    (own_raw / "training" / language.ANNOTATIONS).replace(other / language.ANNOTATIONS.name)
    usual.rmdir()
    index.run(make_profile(own_raw), layout)
    assert listing.load_index(layout.index).digest != found.digest
    shutil.copytree(other, usual.with_name("lang_bert"))
    with pytest.raises(WamError, match=r"not found; .*raw.annotations .*: lang_bert, lang_clip"):
        index.run(make_profile(own_raw), layout)
    profile = make_profile(own_raw)
    raw = replace(profile.raw, annotations="lang_bert")
    with pytest.raises(WamError, match=r"validation/lang_bert/.*not found; .*: lang_annotations$"):
        index.run(replace(profile, raw=raw), layout)
    validation = own_raw / "validation"
    shutil.copytree(validation / usual.name, validation / "lang_bert")
    index.run(replace(profile, raw=raw), layout)
    assert listing.load_index(layout.index).splits["training"].windows == ANNOTATIONS


def test_stray_frames_are_reported_and_ignored(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = own_raw / "training"
    shutil.copy(on_disk.frame_path(directory, 100), on_disk.frame_path(directory, 99))
    layout = Layout(tmp_path / "data")
    index.run(make_profile(own_raw), layout)
    training = listing.load_index(layout.index).splits["training"]
    assert (training.num_stray, training.stray) == (1, ["episode_0000099.npz"])
    assert training.num_frames == 120
    assert "belongs to no episode" in capsys.readouterr().out
    warnings = listing.load_index(layout.index).warnings
    assert "stray-frames" in {warning.check for warning in warnings}


def test_other_digit_counts_are_detected_and_mixed_ones_refused(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    directory = own_raw / "validation"
    for path in sorted(directory.glob("episode_*.npz")):
        path.rename(directory / f"episode_{int(path.stem[8:]):06d}.npz")
    layout = Layout(tmp_path / "data")
    index.run(make_profile(own_raw), layout)
    assert listing.load_index(layout.index).splits["validation"].digits == 6
    (directory / "episode_000005.npz").rename(directory / "episode_00005.npz")
    with pytest.raises(WamError, match="digits"):
        index.run(make_profile(own_raw), layout)


def test_missing_directories_are_named(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    with pytest.raises(WamError, match=r"raw\.path: .*nowhere: directory not found"):
        index.run(make_profile(tmp_path / "nowhere"), layout)
    with pytest.raises(WamError, match=r"raw\.path: ~nobody-here/data: "):
        index.run(make_profile(Path("~nobody-here/data")), layout)
    profile = make_profile(own_raw)
    with pytest.raises(WamError, match="run 'wam collect' first"):
        index.run(replace(profile, raw=replace(profile.raw, path=None)), layout)
    (own_raw / "training" / on_disk.EPISODE_TABLE).unlink()
    with pytest.raises(WamError, match=r"ep_start_end_ids.npy: not found"):
        index.run(profile, layout)
    shutil.rmtree(own_raw / "training")
    with pytest.raises(WamError, match=r"training: directory not found"):
        index.run(profile, layout)
    assert not layout.root.exists()


def files_of(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def test_an_index_of_the_same_frames_is_not_touched(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    profile = make_profile(own_raw)
    index.run(profile, layout)
    # What a manifest may tell of how the index was made does not matter either.
    path = layout.index / manifests.MANIFEST
    manifest = manifests.read_json(path)
    del manifest["manifest_digest"]
    manifests.write_json(path, manifests.sealed({**manifest, "provenance": {"commit": "abc"}}))
    before = files_of(layout.index)
    index.run(profile, layout)
    assert files_of(layout.index) == before
    index.run(make_profile(own_raw, on_error="skip-episode"), layout)
    assert manifests.read_json(path)["params"]["on_error"] == "skip-episode"


@pytest.mark.parametrize("name", [listing.INDEX_FILE, manifests.MANIFEST])
def test_a_damaged_index_is_named_and_made_anew(
    raw_root: Path, make_profile: MakeProfile, tmp_path: Path, name: str
) -> None:
    layout = Layout(tmp_path / "data")
    index.run(make_profile(raw_root), layout)
    path = layout.index / name
    before = path.read_bytes()
    for content in (before[:-9], b"{}", b"", before[:50] + bytes([before[50] ^ 1]) + before[51:]):
        path.write_bytes(content)
        with pytest.raises(WamError, match=name if content != b"{}" else "run 'wam index' again"):
            listing.load_index(layout.index)
        index.run(make_profile(raw_root), layout)
        assert path.read_bytes() == before


def test_an_index_of_an_earlier_version_asks_for_a_new_one(
    raw_root: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    index.run(make_profile(raw_root), layout)
    path, manifest = layout.index / listing.INDEX_FILE, layout.index / manifests.MANIFEST
    content = manifests.read_json(path)
    for split in content["splits"].values():
        del split["windows"]
    manifests.write_json(path, content)
    entry = {"bytes": path.stat().st_size, "digest": manifests.file_digest(path)}
    manifests.write_json(
        manifest, manifests.sealed({"stage": "index", "files": {path.name: entry}})
    )
    with pytest.raises(WamError, match=r"made by another version .*windows.*'wam index' again"):
        listing.load_index(layout.index)
    manifests.write_json(manifest, {"stage": "index", "index": manifests.file_digest(path)})
    with pytest.raises(WamError, match=r"made by an earlier version; run 'wam index' again"):
        listing.load_index(layout.index)


def test_damaged_annotations_are_named(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "data")
    path = own_raw / "validation" / language.ANNOTATIONS
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(WamError, match=r"validation/lang_annotations/auto_lang_ann.npy: "):
        index.run(make_profile(own_raw), layout)
    language.write_annotations(path.parents[1], [language.Annotation("open_drawer", "x", 10, 10)])
    with pytest.raises(WamError, match=r"auto_lang_ann.npy: info.indx \(10, 10\).*is empty"):
        index.run(make_profile(own_raw), layout)
    assert not layout.root.exists()


@pytest.mark.parametrize("left", ["nothing", "an empty directory"])
def test_without_the_raw_frames_their_index_is_kept(
    own_raw: Path,
    make_profile: MakeProfile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    left: str,
) -> None:
    layout = Layout(tmp_path / "data")
    profile = make_profile(own_raw)
    index.run(profile, layout)
    before = files_of(layout.index)
    shutil.rmtree(own_raw)
    if left != "nothing":
        own_raw.mkdir()
    capsys.readouterr()
    index.run(profile, layout)
    assert files_of(layout.index) == before
    note, done = capsys.readouterr().out.splitlines()
    assert note == f"{own_raw}: the raw frames are not here; {layout.index} is kept"
    assert "120 training and 80 validation frames" in done
    for other in (
        make_profile(own_raw, on_error="skip-episode"),
        make_profile(own_raw.with_name("other")),
        replace(profile, raw=replace(profile.raw, path=None)),
    ):
        with pytest.raises(WamError, match=r"directory not found|run 'wam collect' first"):
            index.run(other, layout)
    assert files_of(layout.index) == before
