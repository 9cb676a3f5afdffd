import json
import os
from pathlib import Path

import pytest

from pipeline.artifacts.manifests import (
    MANIFEST,
    artifacts_below,
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


def test_artifacts_are_found_where_stages_leave_them(tmp_path: Path) -> None:
    # Below something that was set aside all else is as anywhere.
    root = tmp_path / "demo.set-aside-01234567"
    places = ("store", "world_model/wam", "evaluation/world_model", "transfer/calvin/wam")
    for time, name in enumerate(places):
        make(root / name)
        os.utime(root / name / MANIFEST, (100 - time, 100 - time))
    for name in ("store.partial", "world_model/wam.set-aside-0123-2", "world_model/.wam.old"):
        make(root / name)
    for content in ([], {"files": []}, {"stage": 3}):
        (root / "foreign").mkdir(exist_ok=True)
        (root / "foreign" / MANIFEST).write_text(json.dumps(content))
        assert artifacts_below(root) == [root / name for name in reversed(places)]
    assert artifacts_below(root / "store") == [root / "store"]
    assert artifacts_below(root / "store.partial") == [root / "store.partial"]
    assert artifacts_below(tmp_path / "nothing") == []
