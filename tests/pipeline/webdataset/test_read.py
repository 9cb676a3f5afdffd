"""Reading the export from a directory and from URLs, with and without damage."""

import functools
import http.server
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from numcodecs import Zstd

from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import entry, read_json, write_json
from pipeline.store.open import open_store
from pipeline.webdataset.read import open_split
from pipeline.webdataset.remote import Source
from tests.pipeline.webdataset.sequences import read_sequences
from wam.errors import WamError

Locate = Callable[[Path], str | Path]


@pytest.fixture
def own_export(exported: Layout, tmp_path: Path) -> Path:
    """A copy of the export that a test may damage."""
    return Path(shutil.copytree(exported.shards, tmp_path / "shards"))


def in_memory(directory: Path) -> str:
    memory = fsspec.filesystem("memory")
    memory.rm("/shards", recursive=True) if memory.exists("/shards") else None
    memory.put(str(directory), "/shards", recursive=True)
    return "memory://shards"


@pytest.fixture
def served(own_export: Path) -> Iterator[str]:
    """The copy behind a web server that fails to deliver one of the tars at first."""

    asked: set[str] = set()

    class Server(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("000002.tar") and self.path not in asked:
                asked.add(self.path)
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Server, directory=str(own_export.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{own_export.name}"
        server.shutdown()
        thread.join()


def assert_equals_store(location: Path | str, layout: Layout, split: str) -> None:
    store = open_store(layout.store / f"{split}.zarr")
    row = 0
    for sequence in read_sequences(location, split):
        assert sequence.start == row
        for name, values in sequence.arrays.items():
            np.testing.assert_array_equal(values, store.read(name, row, sequence.stop))
        row = sequence.stop
    assert row == store.num_frames


@pytest.mark.parametrize("locate", [Path, Path.as_uri, in_memory], ids=["path", "file", "memory"])
def test_a_directory_and_urls_read_the_same(
    exported: Layout, own_export: Path, locate: Locate
) -> None:
    for split in ("training", "validation"):
        assert_equals_store(locate(own_export), exported, split)


def test_a_web_server_reads_the_same(exported: Layout, served: str, own_export: Path) -> None:
    assert_equals_store(served, exported, "training")
    (own_export / "training" / "training-000001.tar").unlink()
    with pytest.raises(WamError, match=r"http://.*/training-000001\.tar: not found"):
        list(read_sequences(served, "training"))


def test_a_split_knows_what_the_store_knows(exported: Layout) -> None:
    for name in ("training", "validation"):
        store = open_store(exported.store / f"{name}.zarr")
        split = open_split(exported.shards, name)
        np.testing.assert_array_equal(split.episodes, store.episodes)
        assert split.proprio_normalizer().to_dict() == store.proprio_normalizer().to_dict()


def test_runs_join_the_sequences_of_an_episode(exported: Layout) -> None:
    """Sequences have 16 frames, three make a tar, and episodes have 40."""
    tars = open_split(exported.shards, "training").tars
    assert [tar.runs.tolist() for tar in tars] == [[[0, 40]], [[40, 80]], [[80, 120]]]
    assert [(tar.start, tar.stop) for tar in tars] == [(0, 40), (40, 80), (80, 120)]


@pytest.mark.parametrize("locate", [Path, in_memory], ids=["path", "memory"])
def test_a_damaged_or_missing_tar_is_named(own_export: Path, locate: Locate) -> None:
    tar = own_export / "training" / "training-000001.tar"
    content = tar.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for damaged in (b"", content[:100], content[:-10_240], content[:-1], bytes(changed)):
        tar.write_bytes(damaged)
        with pytest.raises(WamError, match=r"training-000001\.tar: damaged shard"):
            list(read_sequences(locate(own_export), "training"))
    tar.unlink()
    with pytest.raises(WamError, match=r"training-000001\.tar: not found; run 'wam export'"):
        list(read_sequences(locate(own_export), "training"))


@pytest.mark.parametrize("locate", [Path, in_memory], ids=["path", "memory"])
def test_an_export_that_cannot_be_read_is_refused(own_export: Path, locate: Locate) -> None:
    manifest = own_export / "manifest.json"
    with pytest.raises(WamError, match="no split 'test'; known: training, validation"):
        open_split(locate(own_export), "test")
    text = manifest.read_text()
    manifest.write_text(text[:-20])
    with pytest.raises(WamError, match=r"manifest\.json: not valid JSON"):
        open_split(locate(own_export), "training")
    content = json.loads(text)
    del content["splits"]["training"]["tars"][0]["sequences"]
    write_json(manifest, content)
    with pytest.raises(WamError, match=r"manifest\.json: made by an earlier version"):
        open_split(locate(own_export), "training")
    write_json(manifest, {**json.loads(text), "stage": "convert"})
    with pytest.raises(WamError, match="not of WebDataset shards"):
        open_split(locate(own_export), "training")
    manifest.unlink()
    with pytest.raises(WamError, match="no complete artifact here; run 'wam export' first"):
        open_split(locate(own_export), "training")


def test_a_missing_array_is_named(own_export: Path) -> None:
    assert "training/training-000000.tar" in read_json(own_export / "manifest.json")["files"]
    split = open_split(own_export, "training")
    with pytest.raises(WamError, match=r"training-000000\.tar: no depth_static.*in it"):
        list(split.samples(split.tars[0], ["depth_static"]))


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(WamError, match=r"nonsense://bucket: .*nonsense"):
        open_split("nonsense://bucket", "training")


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(WamError, match=r"http://127\.0\.0\.1:9/shards/manifest\.json: cannot be"):
        open_split("http://127.0.0.1:9/shards", "training")


def _garbage(members: dict[str, bytes]) -> bytes:
    return b"no tar at all" * 100


def _cut(members: dict[str, bytes]) -> bytes:
    return tar_of(members)[:1000]


def _without_description(members: dict[str, bytes]) -> bytes:
    return tar_of({name: value for name, value in members.items() if not name.endswith("json")})


def _other_description(members: dict[str, bytes]) -> bytes:
    return tar_of({n: b"[]" if n.endswith("json") else v for n, v in members.items()})


def _other_rows(members: dict[str, bytes]) -> bytes:
    first = next(name for name in members if name.endswith("json"))
    about = {**json.loads(members[first]), "stop": 10**9}
    return tar_of({**members, first: json.dumps(about).encode()})


def _not_compressed(members: dict[str, bytes]) -> bytes:
    return tar_of({n: v if n.endswith("json") else b"\0" * 50 for n, v in members.items()})


def _damaged_arrays(members: dict[str, bytes]) -> bytes:
    return tar_of({n: v if n.endswith("json") else v[:-20] for n, v in members.items()})


def _bomb(members: dict[str, bytes]) -> bytes:
    content = Zstd(level=1).encode(bytes(2**28))
    return tar_of({n: v if n.endswith("json") else content for n, v in members.items()})


def _objects(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    content = Zstd().encode(buffer.getvalue())
    return tar_of({n: v if n.endswith("json") else content for n, v in members.items()})


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, value in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        _garbage,
        _cut,
        _without_description,
        _other_description,
        _other_rows,
        _not_compressed,
        _damaged_arrays,
        _bomb,
        _objects,
    ],
)
def test_a_tar_whose_digest_was_made_to_fit_is_refused_all_the_same(
    own_export: Path, damage: Callable[[dict[str, bytes]], bytes]
) -> None:
    path = own_export / "training" / "training-000000.tar"
    with tarfile.open(path) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    path.write_bytes(damage(members))
    manifest = read_json(own_export / "manifest.json")
    manifest["files"]["training/training-000000.tar"] = entry(path)
    write_json(own_export / "manifest.json", manifest)
    with pytest.raises(WamError, match=r"training-000000\.tar: .*run 'wam export' again"):
        list(read_sequences(own_export, "training"))


def test_an_expected_file_is_fetched_once_and_its_errors_arrive_where_it_is_read(
    own_export: Path,
) -> None:
    fetched = []
    source = Source(in_memory(own_export))
    fetch = source._file_system.cat_file
    source._file_system = SimpleNamespace(
        cat_file=lambda path: (fetched.append(Path(path).name), fetch(path))[1]
    )
    content = (own_export / "manifest.json").read_bytes()
    source.expect("manifest.json")
    source.expect("manifest.json")
    assert source.read("manifest.json") == content
    assert fetched == ["manifest.json"]
    assert source.read("manifest.json") == content, "and anew when it is read again"
    source.expect("absent.tar")
    with pytest.raises(FileNotFoundError):
        source.read("absent.tar")
