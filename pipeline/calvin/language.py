"""CALVIN's language annotations: windows of play, each with a task and a sentence.

Source: docs/calvin.md 1.5.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.calvin import safe_pickle
from pipeline.calvin.small_files import LONGEST_TASK, MOST_LISTED, lookup, write_pickled
from pipeline.untrusted.text import check_text, id_pair, shown
from wam.errors import WamError

ANNOTATIONS = Path("lang_annotations/auto_lang_ann.npy")
FOLDERS = "lang_*"
"""There may be one per language model: the same windows with other embeddings."""
_LONGEST_SENTENCE = 2000


@dataclass(frozen=True)
class Annotation:
    """A stretch of play that accomplishes a task."""

    task: str
    sentence: str
    start: int
    """First frame id."""
    stop: int
    """One past the last frame id that was checked (docs/calvin.md 1.5)."""


def write_annotations(directory: Path, annotations: Sequence[Annotation]) -> None:
    """Write the language annotations. There is no language model here: ``emb`` is (N, 1, 0)."""
    content = {
        "language": {
            "ann": [annotation.sentence for annotation in annotations],
            "task": [annotation.task for annotation in annotations],
            "emb": np.zeros((len(annotations), 1, 0), np.float32),
        },
        "info": {
            "episodes": [],
            "indx": [(annotation.start, annotation.stop) for annotation in annotations],
        },
    }
    write_pickled(directory / ANNOTATIONS, content)


def annotations_path(directory: Path, folder: str | None = None) -> Path | None:
    """Where the annotations of a split are; None if it has none.

    In ``folder``; without it :data:`ANNOTATIONS`, or what is called alike in the only other folder:
    CALVIN has the same windows in one folder per language model, and no embedding is used here.
    Raises WamError naming the folders that are there, if ``folder`` is not or one of several could
    be meant.
    """
    path = directory / (folder or ANNOTATIONS.parent) / ANNOTATIONS.name
    if os.path.lexists(path):
        return path
    others = sorted(directory.glob(f"{FOLDERS}/{ANNOTATIONS.name}"))
    if folder is not None or len(others) > 1:
        listed = ", ".join(other.parent.name for other in others[:MOST_LISTED]) or "none"
        raise WamError(f"{path}: not found; set raw.annotations to a folder that is: {listed}")
    return others[0] if others else None


@dataclass(frozen=True)
class AnnotationFile:
    """The language annotations of a split as they are on disk."""

    path: Path
    annotations: list[Annotation]
    """With repeated entries and empty windows."""
    num_rephrased: int
    """How many of them have several sentences, of which the first is used."""


def read_annotations(directory: Path, folder: str | None = None) -> list[Annotation]:
    """The language annotations, of ``folder`` if one is named, without repeated entries.

    Raises WamError if the file is missing, malformed, asks for anything but plain data, or has an
    empty window.
    """
    file = read_annotation_file(directory, folder)
    for annotation in file.annotations:
        if annotation.start >= annotation.stop:
            window = (annotation.start, annotation.stop)
            raise WamError(f"{file.path}: info.indx {window} of {annotation.task} is empty")
    return list(dict.fromkeys(file.annotations))


def read_annotation_file(directory: Path, folder: str | None = None) -> AnnotationFile:
    """The language annotations as they are on disk; ``folder`` as of :func:`annotations_path`.

    Raises WamError if the file is missing, malformed, or asks for anything but plain data.
    """
    path = annotations_path(directory, folder) or directory / ANNOTATIONS
    content = safe_pickle.load(path)
    lists = {}
    for section, name in (("language", "ann"), ("language", "task"), ("info", "indx")):
        field_name = f"{section}.{name}"
        values = lookup(content, section, name)
        if isinstance(values, np.ndarray):
            values = values.tolist() if values.ndim else None
        if not isinstance(values, list | tuple):
            raise WamError(f"{path}: {field_name} is {shown(values)}; expected a list")
        lists[field_name] = values
    sentences, tasks, windows = lists.values()
    if not len(sentences) == len(tasks) == len(windows):
        raise WamError(
            f"{path}: {len(sentences)} sentences, {len(tasks)} tasks and {len(windows)} "
            "windows; expected as many of each"
        )
    annotations = []
    for at, (task, sentence, window) in enumerate(zip(tasks, sentences, windows, strict=True)):
        check_text(f"{path}: language.task[{at}]", task, LONGEST_TASK)
        # Several wordings of one instruction, as people add them to CALVIN's.
        first = sentence[0] if isinstance(sentence, list | tuple) and sentence else sentence
        check_text(f"{path}: language.ann[{at}]", first, _LONGEST_SENTENCE)
        start, stop = id_pair(f"{path}: info.indx[{at}]", window)
        annotations.append(Annotation(task, first, start, stop))
    rephrased = sum(isinstance(item, list | tuple) and len(item) > 1 for item in sentences)
    return AnnotationFile(path, annotations, rephrased)
