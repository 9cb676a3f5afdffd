from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.artifacts import manifests
from pipeline.store.chunk_codec import zarr_codecs
from pipeline.store.shard_file import ShardFile, write_chunk_file

WRITING = {
    "codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "array.write_empty_chunks": True,
}
SHARD, CHUNK, LEVEL = 15, 5, 3


def zarr_files(path: Path, rows: np.ndarray, *, sharded: bool) -> dict[str, bytes]:
    """The files that Zarr itself makes of ``rows``."""
    shard, chunk = (SHARD, *rows.shape[1:]), (CHUNK, *rows.shape[1:])
    with zarr.config.set(WRITING):
        array = zarr.create_array(
            path,
            shape=rows.shape,
            dtype=rows.dtype,
            chunks=chunk if sharded else shard,
            shards=shard if sharded else None,
            **zarr_codecs(rows.ndim, str(rows.dtype), LEVEL),
            fill_value=0,
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        for start in range(0, len(rows), SHARD):
            array[start : start + SHARD] = rows[start : start + SHARD]
    return {file.name: file.read_bytes() for file in path.glob("c.*")}


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((45, 8, 8, 3), "uint8"), ((38, 8, 8, 3), "uint8"), ((31, 6, 7), "float32")],
)
def test_shards_are_those_of_zarr(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    rows = np.random.default_rng(0).integers(0, 5, shape).astype(dtype)
    rows[:CHUNK] = 0  # a chunk of zeros has to be written too
    for name, expected in zarr_files(tmp_path / "a.zarr", rows, sharded=True).items():
        path = tmp_path / name
        part = rows[int(name.split(".")[1]) * SHARD :][:SHARD]
        shard = ShardFile((CHUNK, *shape[1:]), dtype, SHARD // CHUNK, LEVEL)
        for start in range(0, len(part), CHUNK):
            chunk = part[start : start + CHUNK]
            shard.chunk[: len(chunk)] = chunk
            shard.write_chunk(len(chunk))
        entry = shard.save(path)
        assert path.read_bytes() == expected
        assert entry == manifests.entry(path)


@pytest.mark.parametrize("shape", [(20, 7), (15,), (3, 24), (38, 15)])
def test_single_chunks_are_those_of_zarr(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rows = np.random.default_rng(0).normal(size=shape)
    for name, expected in zarr_files(tmp_path / "a.zarr", rows, sharded=False).items():
        path = tmp_path / name
        part = rows[int(name.split(".")[1]) * SHARD :][:SHARD]
        entry = write_chunk_file(path, part, SHARD, LEVEL)
        assert path.read_bytes() == expected
        assert entry == manifests.entry(path)
