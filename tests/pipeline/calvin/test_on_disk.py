import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.calvin import language, metadata, on_disk, safe_pickle, small_files
from wam.errors import WamError


def test_frame_round_trip_is_exact_and_reproducible(tmp_path: Path) -> None:
    frame = {
        "rgb_static": np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
        "actions": np.arange(7.0),
    }
    on_disk.write_frame(tmp_path, 12, frame)
    path = on_disk.frame_path(tmp_path, 12)
    assert path.name == "episode_0000012.npz"
    read = on_disk.read_frame(path, frame)
    for key, value in frame.items():
        assert read[key].dtype == value.dtype
        np.testing.assert_array_equal(read[key], value)
    before = path.read_bytes()
    on_disk.write_frame(tmp_path, 12, frame)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_split_tables_and_statistics(raw_root: Path) -> None:
    directory = raw_root / "training"
    np.testing.assert_array_equal(
        on_disk.read_episodes(directory), [[100, 139], [140, 179], [200, 239]]
    )
    np.testing.assert_array_equal(np.load(directory / on_disk.EPISODE_LENGTHS), [40, 40, 40])
    statistics = yaml.safe_load((directory / metadata.STATISTICS).read_text())
    robot_obs = np.stack(
        [
            on_disk.read_frame(on_disk.frame_path(directory, frame_id), ["robot_obs"])["robot_obs"]
            for first in (100, 140, 200)
            for frame_id in range(first, first + 40)
        ]
    )
    np.testing.assert_allclose(statistics["robot_obs"][0]["mean"], robot_obs.mean(0))
    assert statistics["robot_obs"][0]["std"][1] == 1.0, "a constant element keeps its unit"
    assert len(statistics["act_max_bound"]) == 7


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.array([[5, 2]]), "ends before it starts"),
        (np.array([[0, 5], [5, 9]]), "overlap"),
        (np.zeros((0, 2), int), "no episode"),
        (np.zeros((2, 3), int), "shape"),
        (np.zeros((2, 2)), "integers"),
    ],
)
def test_bad_episode_table_names_the_file(tmp_path: Path, table: np.ndarray, message: str) -> None:
    small_files.write_npy(tmp_path / on_disk.EPISODE_TABLE, table)
    with pytest.raises(WamError, match=rf"ep_start_end_ids.npy: .*{message}"):
        on_disk.read_episodes(tmp_path)


@pytest.mark.parametrize(
    "table", [np.array([[0, 2**63 - 1]]), np.array([[0, 2**64 - 1]], np.uint64)]
)
def test_ids_that_no_file_name_has_are_refused(tmp_path: Path, table: np.ndarray) -> None:
    small_files.write_npy(tmp_path / on_disk.EPISODE_TABLE, table)
    with pytest.raises(WamError, match=r"episode \[0, \d+\]; expected frame ids from 0 to 9{18}$"):
        on_disk.read_episodes(tmp_path)


def test_annotations_round_trip_without_repeats(tmp_path: Path) -> None:
    first = language.Annotation("open_drawer", "pull the handle", 3, 67)
    second = language.Annotation("turn_on_led", "press the button", 40, 80)
    language.write_annotations(tmp_path, [first, second, first])
    assert language.read_annotations(tmp_path) == [first, second]


@pytest.mark.parametrize("protocol", range(5))
def test_annotations_of_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    embeddings = np.asfortranarray(np.arange(6.0, dtype=">f4").reshape(1, 2, 3))
    content = {
        "language": {"ann": ["x"], "task": [np.str_("lift")], "emb": embeddings},
        "info": {"indx": [(np.int64(1), np.int64(5))], "episodes": []},
    }
    path = tmp_path / language.ANNOTATIONS
    path.parent.mkdir()
    _write_npy_pickle(path, pickle.dumps(np.array(content, dtype=object), protocol=protocol))
    read = safe_pickle.load(path)
    np.testing.assert_array_equal(read["language"]["emb"], embeddings)
    assert language.read_annotations(tmp_path) == [language.Annotation("lift", "x", 1, 5)]


class _Call:
    """Pickles into a call of ``function(*arguments)``."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> object:
        return self._reduced


def _payloads(marker: Path) -> dict[str, bytes]:
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    return {
        "os.system": pickle.dumps(_Call(os.system, command)),
        "exec": pickle.dumps(_Call(exec, code)),
        "eval inside annotations": pickle.dumps({"language": {"task": [_Call(eval, code)]}}),
        "call inside an object array": pickle.dumps(np.array([_Call(os.system, command)], object)),
        "call inside nested object arrays": pickle.dumps(
            {"language": {"emb": np.array([np.array([_Call(eval, code), 1], object), 2], object)}}
        ),
        "call as a key": pickle.dumps({"info": {(1, _Call(os.system, command)): 2}}),
        "call at protocol 0": pickle.dumps(_Call(os.system, command), protocol=0),
        "call as __setstate__": (
            b"ctypes\nSimpleNamespace\n(tR}S'__setstate__'\ncos\nsystem\nsb"
            + f"S'{command}'\nb.".encode()
        ),
        "state of an instance": b"cnumpy\ndtype\n(S'f8'\ntR}S'order'\nS'O'\nsb.",
        "slots of an instance": b"cnumpy\ndtype\n(S'f8'\ntR(N}S'name'\nS'O'\nstb.",
        "persistent id": b"Psystem\n.",
        "registered extension": b"\x82\x01.",
        "getattr": b"c__builtin__\ngetattr\n.",
        "old opcodes": f"(S'{command}'\nios\nsystem\n.".encode(),
        "object array": b"cnumpy\nload\n(S'x'\ntR.",
        "state of an allowed name": b"cnumpy\ndtype\n}S'name'\nS'x'\nsb.",
        "object array from bytes": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
            b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\nS'aaaaaaaa'\ntb."
        ),
        "calling ndarray": b"cnumpy\nndarray\n((I4\ntS'O'\ntR.",
        "truncated": pickle.dumps({"language": {}})[:-5],
    }


@pytest.mark.parametrize("name", _payloads(Path("x")))
def test_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / language.ANNOTATIONS
    path.parent.mkdir()
    _write_npy_pickle(path, _payloads(marker)[name])
    with pytest.raises(WamError, match=r"auto_lang_ann\.npy: refused or damaged"):
        language.read_annotations(tmp_path)
    assert not marker.exists()


def test_frames_with_pickled_arrays_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = on_disk.frame_path(tmp_path, 0)
    payload = np.array(_Call(os.system, f"touch {marker}"), dtype=object)
    np.savez_compressed(path, actions=payload)
    with pytest.raises(WamError, match=r"episode_0000000\.npz"):
        on_disk.read_frame(path, ["actions"])
    assert not marker.exists()


def test_recording_config_round_trip_and_calvins_own(tmp_path: Path) -> None:
    recording = metadata.Recording(
        "B",
        "egl",
        "full",
        {"static": (200, 200), "gripper": (84, 84)},
        scene_source="embedded",
        backend="embedded",
    )
    metadata.write_recording_config(tmp_path, recording)
    assert metadata.read_recording_config(tmp_path) == recording
    path = tmp_path / metadata.RECORDING
    path.write_text(
        "cameras: {static: {_target_: x, width: 200, height: 200, fov: 10}}\n"
        "env: {use_egl: true, cameras: '${cameras}'}\n"
        "scene: {_target_: x, name: calvin_scene_D, data_path: '${data_path}'}\n"
    )
    assert metadata.read_recording_config(tmp_path) == metadata.Recording(
        "D", "egl", None, {"static": (200, 200)}
    )
    path.unlink()
    assert metadata.read_recording_config(tmp_path) == metadata.Recording(None, None)


def test_scene_info_round_trip(tmp_path: Path) -> None:
    assert metadata.read_scene_info(tmp_path) == {}
    metadata.write_scene_info(tmp_path, {"calvin_scene_D": (0, 99)})
    assert metadata.read_scene_info(tmp_path) == {"calvin_scene_D": (0, 99)}


def _write_npy_pickle(path: Path, payload: bytes) -> None:
    """A 0-d object array in .npy format whose pickle is ``payload``."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header = header.ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload)


def _write_language(path: Path, ann: object, task: object, indx: object) -> None:
    path.parent.mkdir(exist_ok=True)
    content = {"language": {"ann": ann, "task": task}, "info": {"indx": indx}}
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("ann", "task", "window", "message"),
    [
        (["push"], [5], (0, 1), r"language.task\[0\] is 5; expected a text"),
        (["push"], [["lift"]], (0, 1), r"language.task\[0\] is of type list"),
        ([7], ["lift"], (0, 1), r"language.ann\[0\] is 7; expected a text"),
        ([[]], ["lift"], (0, 1), r"language.ann\[0\] is of type list"),
        (["\udc00"], ["lift"], (0, 1), "expected valid Unicode"),
        (["x" * 5000], ["lift"], (0, 1), "has 5,000 characters; expected at most 2,000"),
        (["push"], ["lift"], (0, 1e30), r"info.indx\[0\] holds 1e\+30; expected frame ids"),
        (["push"], ["lift"], (0, float("inf")), "holds inf"),
        (["push"], ["lift"], (0, 2.5), "holds 2.5"),
        (["push"], ["lift"], (0, 10**300), "holds of type int"),
        (["push"], ["lift"], (True, 2), "holds True"),
        (["push"], ["lift"], 5, "is 5; expected two frame ids"),
        ("push", ["lift"], (0, 1), "language.ann is 'push'; expected a list"),
    ],
)
def test_annotations_of_another_kind_are_named(
    tmp_path: Path, ann: object, task: object, window: object, message: str
) -> None:
    _write_language(tmp_path / language.ANNOTATIONS, ann, task, [window])
    with pytest.raises(WamError, match=r"auto_lang_ann\.npy: .*" + message):
        language.read_annotations(tmp_path)


def test_of_several_sentences_the_first_counts(tmp_path: Path) -> None:
    sentences = [["push the drawer shut", "close it"], "lift", ("turn",)]
    path = tmp_path / language.ANNOTATIONS
    _write_language(path, sentences, ["a", "b", "c"], np.array([[0, 5], [5, 9], [9, 12]]))
    file = language.read_annotation_file(tmp_path)
    assert [found.sentence for found in file.annotations] == [
        "push the drawer shut",
        "lift",
        "turn",
    ]
    assert file.num_rephrased == 1


def test_annotations_of_another_model_are_used_if_they_are_the_only_ones(tmp_path: Path) -> None:
    assert language.annotations_path(tmp_path) is None
    _write_language(tmp_path / "lang_clip/auto_lang_ann.npy", ["x"], ["lift"], [[0, 5]])
    assert language.read_annotations(tmp_path) == [language.Annotation("lift", "x", 0, 5)]
    assert language.read_annotation_file(tmp_path).path == tmp_path / "lang_clip/auto_lang_ann.npy"
    _write_language(tmp_path / "lang_bert/auto_lang_ann.npy", ["x"], ["lift"], [[0, 5]])
    with pytest.raises(WamError, match=r"not found; .*raw.annotations .*lang_bert, lang_clip$"):
        language.read_annotations(tmp_path)
    (found,) = language.read_annotations(tmp_path, "lang_bert")
    assert found.task == "lift"
    with pytest.raises(WamError, match=r"lang_elmo/auto_lang_ann\.npy: not found; .*lang_bert"):
        language.read_annotations(tmp_path, "lang_elmo")
    language.write_annotations(tmp_path, [])
    assert language.annotations_path(tmp_path) == tmp_path / language.ANNOTATIONS


def test_what_a_pickle_shares_stays_one_object(tmp_path: Path) -> None:
    shared: list[object] = ["x"]
    for _ in range(12):
        shared = [shared] * 10  # 10 ** 12 strings
    path = tmp_path / "a.npy"
    _write_npy_pickle(path, pickle.dumps({"all": shared}))
    found = safe_pickle.load(path)["all"]
    assert found[0] is found[9] and found[0][0] is found[5][7]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"]q\0h\0a.", "holds itself"),
        (b"]" * 30 + b"a" * 29 + b".", "nested too deeply"),
        (b"K\1\x85q\x000" + b"h\0h\0\x86q\x000" * 60 + b"}h\0Ns.", "tuple as a key"),
        (b"\x96\0\0\0\0\2\0\0\0", "expected 8589934592 bytes"),
        (b"\x8d\0\0\0\0\0\1\0\0", "expected 1099511627776 bytes"),
        (b"}" * 1_600_000, "more than 1,500,000 instructions"),
        (
            b"cnumpy\ndtype\n(S'U1'\ntR(I3\nS'<'\nNNNtbq\0"
            b"0cnumpy.core.multiarray\nscalar\n(h\0U\4\xff\xff\xff\x7ftR.",
            "Unicode does not have",
        ),
    ],
)
def test_pickles_that_would_take_all_memory_or_time(
    tmp_path: Path, payload: bytes, message: str
) -> None:
    path = tmp_path / "a.npy"
    _write_npy_pickle(path, payload)
    with pytest.raises(WamError, match=rf"a\.npy: refused or damaged pickle .*({message})"):
        safe_pickle.load(path)


def test_a_memo_of_any_size_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    _write_npy_pickle(path, b"\x80\x04K\5r\xff\xff\xff\x7fj\xff\xff\xff\x7f\x86.")
    assert safe_pickle.load(path) == (5, 5)


def test_no_mutation_of_a_pickle_raises_anything_else(tmp_path: Path) -> None:
    content = {
        "language": {"ann": ["x", "y"], "task": [np.str_("lift"), "a"], "emb": np.ones((2, 1))},
        "info": {"indx": [(np.int64(1), np.int64(5)), (3, 4)], "episodes": []},
    }
    chance = random.Random(0)
    path = tmp_path / language.ANNOTATIONS
    path.parent.mkdir()
    sound = [pickle.dumps(np.array(content, dtype=object), protocol=at) for at in range(5)]
    for _ in range(1500):
        payload = bytearray(chance.choice(sound))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(payload))
            payload[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        _write_npy_pickle(path, bytes(payload))
        try:
            language.read_annotations(tmp_path)
        except WamError as error:
            assert len(str(error)) < 500 and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("robot: {model: [1]}", "robot.model is of type list; expected a text"),
        ("env: {backend: 5}", "env.backend is 5"),
        ("a: &a [1]\nscene: &b [*a, *b]", "holds itself"),
        ("scene: a\nscene: b", "line 2: key 'scene' is there twice"),
    ],
)
def test_recordings_of_another_kind_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / metadata.RECORDING
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(WamError, match=r"merged_config\.yaml: .*" + message):
        metadata.read_recording_config(tmp_path)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "lang_annotations").mkdir()
    readers = {
        on_disk.EPISODE_TABLE: on_disk.read_episodes,
        on_disk.EPISODE_LENGTHS: on_disk.read_episode_lengths,
        metadata.STATISTICS: metadata.read_statistics,
        metadata.SCENE_INFO: metadata.read_scene_info,
        language.ANNOTATIONS: language.read_annotations,
        metadata.RECORDING: metadata.read_recording_config,
    }
    for name, read in readers.items():
        os.mkfifo(tmp_path / name)
        with pytest.raises(WamError, match="is a named pipe; expected a file"):
            read(tmp_path)  # type: ignore[operator]
    os.mkfifo(on_disk.frame_path(tmp_path, 0))
    with pytest.raises(WamError, match="is a named pipe; expected a file"):
        on_disk.read_frame(on_disk.frame_path(tmp_path, 0), ["actions"])


@pytest.mark.parametrize("ids", [(0, 1e20), (0,), "ab", (0, None)])
def test_scene_ranges_of_another_kind_are_named(tmp_path: Path, ids: object) -> None:
    np.save(tmp_path / metadata.SCENE_INFO, np.array({"calvin_scene_D": ids}, dtype=object))
    with pytest.raises(WamError, match=r"scene_info\.npy: calvin_scene_D .*frame ids"):
        metadata.read_scene_info(tmp_path)
