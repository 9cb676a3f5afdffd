import json
from pathlib import Path

import pytest

from pipeline.artifacts.manifests import (
    MANIFEST,
    check_replaceable,
    digest,
    fingerprint,
    read_manifest,
    verified_manifest,
)
from tests.pipeline.artifact import artifact
from wam.errors import WamError


def make(output: Path, text: str = "one") -> None:
    with artifact(output) as directory:
        (directory / text).write_text(text)


def test_an_incomplete_artifact_is_refused_with_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(WamError, match="run 'wam convert' first"):
        fingerprint(tmp_path / "missing", "convert")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / MANIFEST).write_text('{"stage": ')
    with pytest.raises(WamError, match=r"manifest\.json: not valid JSON"):
        read_manifest(tmp_path / "out", "test")


def test_any_changed_byte_of_the_manifest_is_noticed(tmp_path: Path) -> None:
    make(tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    content = path.read_bytes()
    for at in range(len(content)):
        for other in (content[at] ^ 1, ord(" "), ord("1")):
            if other != content[at]:
                path.write_bytes(content[:at] + bytes([other]) + content[at + 1 :])
                with pytest.raises(WamError, match=r"out/manifest\.json: "):
                    verified_manifest(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"onf", "checksum differs"), (b"on", "2 bytes instead of 3"), (None, "missing")],
)
def test_an_input_with_a_damaged_file_is_refused(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    make(tmp_path / "out")
    fingerprint(tmp_path / "out", "test")
    path = tmp_path / "out" / "one"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WamError, match=rf"out/one: damaged \({said}\); run 'wam test' again"):
        fingerprint(tmp_path / "out", "test")


def test_of_large_inputs_only_the_sizes_are_compared(tmp_path: Path) -> None:
    make(tmp_path / "out")
    before = fingerprint(tmp_path / "out", "test", deep=False)
    (tmp_path / "out" / "one").write_bytes(b"onf")
    assert fingerprint(tmp_path / "out", "test", deep=False) == before
    (tmp_path / "out" / "one").write_bytes(b"on")
    with pytest.raises(WamError, match="2 bytes instead of 3"):
        fingerprint(tmp_path / "out", "test", deep=False)


def test_only_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "out", "test")
    make(tmp_path / "out")
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
