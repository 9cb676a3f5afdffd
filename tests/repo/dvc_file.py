"""``python -m tests.repo.dvc_file`` writes into ``dvc.yaml`` what follows from elsewhere.

* The code that a stage depends on, from the import graph: a change there can change what the stage
  makes. Whole folders where a stage needs all of one.
* The settings of the simulator, for every stage that runs it.
* Metrics and plots of every profile, which DVC cannot say once for all.

Everything else in the file is written by hand, and stays as it is.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import yaml

from pipeline.cli import COMMANDS
from pipeline.params.profile import Env
from tests.repo.import_graph import reachable, read_imports
from wam.reliability.atomic import replacing

ROOT = Path(__file__).parents[2]

_LEFT_OUT = (
    "pipeline.artifacts",  # how an output is kept, not what it holds
    "pipeline.cli",
    "pipeline.console",
    "pipeline.cores",
    "pipeline.params",  # DVC compares the settings themselves
    "pipeline.tracking",
    "pipeline.untrusted",  # what is refused
    "pipeline.workers",  # where jobs run
    "wam.errors",
    "wam.reliability",
)
"""What never changes the content of an output: presentation, and how work is done safely."""

_SIMULATOR = "wam.envs.simulator.play_table"
_OF_THE_MACHINE = ("workers",)
_DERIVED = "# Written by 'python -m tests.repo.dvc_file' from here to the end.\n"
_ENTRY = re.compile(r"(?:wam |python -m flows\.)([\w-]+)")
_SETTING = "      - ${item.profile}.env."


def derived(text: str, root: Path) -> str:
    """``dvc.yaml`` with everything that follows from the sources below ``root`` and from itself."""
    document = yaml.safe_load(text)
    matrix = {name: values for entry in document["vars"] for name, values in entry.items()}
    graph = read_imports(root, for_types=False)
    head, *stages = re.split(r"^(?=  \w+:$)", text.split(_DERIVED)[0], flags=re.MULTILINE)
    written = []
    for stage in stages:
        name = stage.split(":")[0].strip()
        definition = document["stages"][name]
        code = _code(graph, definition["cmd"])
        if "${item.profile}" in stage:
            stage = _with_settings(stage, _SIMULATOR in code)
        if not definition.get("always_changed"):
            stage = _with_code(stage, _paths(code, root))
        written.append(stage)
    return head + "".join(written) + _DERIVED + _metrics_and_plots(**matrix)


def _code(graph: Mapping[str, set[str]], command: str) -> set[str]:
    """The modules whose change can change what ``command`` makes."""
    match = _ENTRY.match(command)
    assert match, command
    return reachable(graph, [f"pipeline.{COMMANDS[match[1]].module}"], _LEFT_OUT)


def _paths(code: Iterable[str], root: Path) -> list[str]:
    """Files of the modules; a folder instead where all its modules are among them."""
    files = {path for name in code if (path := root / f"{name.replace('.', '/')}.py").is_file()}
    folders = {parent for path in files for parent in path.relative_to(root).parents} - {Path()}
    whole = {
        folder
        for folder in folders
        if all(path in files for path in (root / folder).rglob("*.py") if path.stem != "__init__")
    }
    chosen = set()
    for path in files:
        inside = [folder for folder in path.relative_to(root).parents if folder in whole]
        chosen.add(inside[-1] if inside else path.relative_to(root))
    return sorted(str(path) for path in chosen)


def _with_code(stage: str, paths: Iterable[str]) -> str:
    """The text of a stage with ``paths`` after the artifacts that it depends on."""
    kept = [line for line in stage.splitlines(keepends=True) if not _is_code(line)]
    lines = [f"      - {path}\n" for path in paths]
    at = kept.index("    outs:\n")
    return "".join([*kept[:at], *lines, *kept[at:]])


def _is_code(line: str) -> bool:
    return re.match(r"      - (?:wam|pipeline|flows)/", line) is not None


def _with_settings(stage: str, simulates: bool) -> str:
    """The text of a stage with all settings of the simulator, or with none."""
    kept = [line for line in stage.splitlines(keepends=True) if not line.startswith(_SETTING)]
    names = [field.name for field in fields(Env) if field.name not in _OF_THE_MACHINE]
    lines = [f"{_SETTING}{name}\n" for name in names] if simulates else []
    at = next(at for at, line in enumerate(kept) if line in ("    deps:\n", "    outs:\n"))
    return "".join([*kept[:at], *lines, *kept[at:]])


def _metrics_and_plots(profiles: Sequence[str], variants: Sequence[str]) -> str:
    """What ``dvc metrics`` and ``dvc plots`` show of every profile."""
    metrics, plots = ["data/study/results/metrics.json"], []
    for profile in profiles:
        data = f"data/{profile}"
        models = [f"{data}/world_model/{variant}" for variant in variants]
        metrics += [
            f"{data}/evaluation/world_model/metrics.json",
            f"{data}/results/metrics.json",
            *(f"{model}/summary.json" for model in models),
        ]
        curves = {
            f"{data}/results/learning_curve_{variant}.csv": [
                "image_loss",
                "kl",
                *(["action_loss"] if variant == "wam" else []),
            ]
            for variant in variants
        }
        title = f"World model losses ({profile})"
        plots.append({f"world-model-{profile}": {"title": title, "x": "step", "y": curves}})
    return yaml.safe_dump({"metrics": metrics, "plots": plots}, sort_keys=False, width=100)


def main(argv: list[str] | None = None) -> None:
    """Write ``dvc.yaml``, or with ``--check`` exit with 1 if that would change it."""
    parser = argparse.ArgumentParser(prog="python -m tests.repo.dvc_file", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; say what is out of date"
    )
    arguments = parser.parse_args(argv)
    path = ROOT / "dvc.yaml"
    text = path.read_text()
    new = derived(text, ROOT)
    if new == text:
        return
    if arguments.check:
        sys.exit(f"{path}: out of date; run 'python -m tests.repo.dvc_file'")
    with replacing(path) as temporary:
        temporary.write_text(new)


if __name__ == "__main__":
    main()
