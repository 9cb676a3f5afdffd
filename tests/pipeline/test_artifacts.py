import json
import threading
from pathlib import Path

import pytest

from pipeline.artifacts import (
    MANIFEST,
    building,
    check_replaceable,
    digest,
    file_digest,
    fingerprint,
    read_manifest,
    verified_manifest,
)
from wam.errors import WamError


def build(output: Path, text: str, *, params: object = 1, fail: bool = False) -> list[str]:
    """Build ``output`` with one file; returns what the partial directory held at the start."""
    with building(output, stage="test", params=params, inputs={"source": "a"}) as (
        partial,
        manifest,
    ):
        found = sorted(path.name for path in partial.iterdir() if not path.name.startswith("."))
        (partial / text).write_text(text)
        if fail:
            raise RuntimeError("killed")
        manifest["text"] = text
    return found


def test_output_appears_complete(tmp_path: Path) -> None:
    build(tmp_path / "out", "one")
    assert read_manifest(tmp_path / "out", "test")["text"] == "one"
    assert not (tmp_path / "out.partial").exists()


def test_an_interrupted_run_is_resumed_only_with_the_same_settings(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(RuntimeError):
        build(output, "one", fail=True)
    assert not output.exists()
    with pytest.raises(RuntimeError):
        assert build(output, "two", fail=True) == ["one"]
    assert build(output, "three", params=2) == []
    assert sorted(path.name for path in output.iterdir()) == ["manifest.json", "three"]


def test_an_earlier_output_survives_a_failed_run(tmp_path: Path) -> None:
    output = tmp_path / "out"
    build(output, "one")
    with pytest.raises(RuntimeError):
        build(output, "two", params=2, fail=True)
    assert (output / "one").is_file()
    build(output, "three", params=3)
    assert not (output / "one").exists()


def test_an_incomplete_artifact_is_refused_with_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(WamError, match="run 'wam convert' first"):
        fingerprint(tmp_path / "missing", "convert")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    build(tmp_path / "out", "one")
    (tmp_path / "out" / "manifest.json").write_text('{"stage": ')
    with pytest.raises(WamError, match=r"manifest\.json: not valid JSON"):
        read_manifest(tmp_path / "out", "test")


def test_known_digests_are_not_computed_again(tmp_path: Path) -> None:
    with building(tmp_path / "out", stage="test", params=1, inputs={}) as (partial, manifest):
        (partial / "known").write_text("one")
        (partial / "other").write_text("three")
        manifest["digests"]["known"] = "digest of the writer"
    files = verified_manifest(tmp_path / "out")["files"]
    assert files == {
        "known": {"bytes": 3, "digest": "digest of the writer"},
        "other": {"bytes": 5, "digest": file_digest(tmp_path / "out" / "other")},
    }


def test_any_changed_byte_of_the_manifest_is_noticed(tmp_path: Path) -> None:
    build(tmp_path / "out", "one")
    path = tmp_path / "out" / MANIFEST
    content = path.read_bytes()
    for at in range(len(content)):
        for other in (content[at] ^ 1, ord(" "), ord("1")):
            if other != content[at]:
                path.write_bytes(content[:at] + bytes([other]) + content[at + 1 :])
                with pytest.raises(WamError, match=r"out/manifest\.json: "):
                    verified_manifest(tmp_path / "out")


def test_only_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "out", "test")
    build(tmp_path / "out", "one")
    check_replaceable(tmp_path / "out", "test")
    with pytest.raises(WamError, match="exists and is no earlier output of 'wam other'"):
        check_replaceable(tmp_path / "out", "other")
    with pytest.raises(WamError, match="choose another directory"):
        check_replaceable(tmp_path, "test")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty", "test")


def test_digest_depends_on_content_alone() -> None:
    assert digest({"a": 1, "b": [2]}) == digest(json.loads('{"b": [2], "a": 1}'))
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_second_builder_waits_for_the_first(tmp_path: Path) -> None:
    output = tmp_path / "out"
    order: list[str] = []

    def second() -> None:
        build(output, "two")
        order.append("second")

    thread = threading.Thread(target=second)
    with building(output, stage="test", params=1, inputs={"source": "a"}) as (partial, _):
        thread.start()
        (partial / "one").write_text("one")
        thread.join(timeout=0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert (output / "two").is_file()
