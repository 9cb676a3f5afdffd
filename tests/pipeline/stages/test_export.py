import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numcodecs import Zstd

from pipeline.artifacts.layout import Layout
from pipeline.params import Profile
from pipeline.stages import export
from pipeline.store.open import open_store
from tests.pipeline.webdataset.sequences import read_sequences
from wam.errors import WamError


@pytest.mark.parametrize("split", ["training", "validation"])
def test_sequences_equal_the_store(exported: Layout, split: str) -> None:
    store = open_store(exported.store / f"{split}.zarr")
    stored = {name: store.read(name) for name in store.arrays}
    covered = []
    for sequence in read_sequences(exported.shards, split):
        assert sequence.arrays.keys() == stored.keys()
        for name, values in sequence.arrays.items():
            assert values.dtype == stored[name].dtype
            np.testing.assert_array_equal(values, stored[name][sequence.start : sequence.stop])
        episode_start, episode_stop = store.episodes[sequence.episode]
        assert episode_start <= sequence.start < sequence.stop <= episode_stop
        assert sequence.stop - sequence.start <= 16
        assert sequence.is_first == (sequence.start == episode_start)
        covered.extend(range(sequence.start, sequence.stop))
    assert covered == list(range(store.num_frames))


def test_webdataset_reads_the_same(exported: Layout) -> None:
    import webdataset

    paths = sorted(str(path) for path in (exported.shards / "training").glob("*.tar"))
    samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
    expected = list(read_sequences(exported.shards, "training"))
    assert len(samples) == len(expected)
    for sample, sequence in zip(samples, expected, strict=True):
        blob = Zstd().decode(sample["rgb_static.npy.zst"])
        images = np.load(io.BytesIO(blob), allow_pickle=False)
        np.testing.assert_array_equal(images, sequence.arrays["rgb_static"])


def test_bytes_are_reproducible_and_tars_resumed(
    exported: Layout, raw_root: Path, make_profile: Callable[..., Profile], tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    shutil.copytree(exported.store, layout.store)
    # What an interrupted run leaves: some whole tars and a half-written one.
    partial = layout.shards.with_name("shards.partial")
    shutil.copytree(exported.shards, partial)
    (partial / "manifest.json").unlink()
    (partial / "training" / "training-000001.tar").unlink()
    (partial / "training" / ".training-000001.tar.1.tmp").write_bytes(b"half")
    export.run(make_profile(raw_root), layout)
    assert _digests(layout.shards) == _digests(exported.shards)


def test_bytes_do_not_depend_on_workers(
    exported: Layout, raw_root: Path, make_profile: Callable[..., Profile], tmp_path: Path
) -> None:
    export.run(make_profile(raw_root, workers=2), exported, output=tmp_path / "shards")
    assert _digests(tmp_path / "shards") == _digests(exported.shards)


def test_a_chosen_directory_is_used_and_nothing_foreign_replaced(
    exported: Layout, raw_root: Path, make_profile: Callable[..., Profile], tmp_path: Path
) -> None:
    output = tmp_path / "elsewhere"
    export.run(make_profile(raw_root), exported, output=output)
    assert _digests(output) == _digests(exported.shards)
    export.run(make_profile(raw_root), exported, output=output)
    (tmp_path / "photographs").write_text("precious")
    with pytest.raises(WamError, match="is no earlier output of 'wam export'"):
        export.run(make_profile(raw_root), exported, output=tmp_path)
    assert (tmp_path / "photographs").read_text() == "precious"


def test_damaged_tar_is_named(exported: Layout, tmp_path: Path) -> None:
    shutil.copytree(exported.shards, tmp_path / "shards")
    tar = tmp_path / "shards" / "training" / "training-000001.tar"
    content = tar.read_bytes()
    for length in (100, 5000, len(content) // 2, len(content) - 20_000):
        tar.write_bytes(content[:length])
        with pytest.raises(WamError, match=r"training-000001\.tar: damaged shard"):
            list(read_sequences(tmp_path / "shards", "training"))
    tar.write_bytes(content)
    with tarfile.open(tar) as members:
        member = max(members, key=lambda member: member.size)
    flipped = bytearray(content)
    flipped[member.offset_data + member.size // 2] ^= 1
    tar.write_bytes(flipped)
    with pytest.raises(WamError, match=r"training-000001\.tar: damaged shard"):
        list(read_sequences(tmp_path / "shards", "training"))
    tar.unlink()
    with pytest.raises(WamError, match=r"training-000001\.tar: not found"):
        list(read_sequences(tmp_path / "shards", "training"))


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
