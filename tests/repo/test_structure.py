"""Rules of the repository that nobody should have to remember."""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from pipeline.params import load_profile, profile_names
from tests.repo.dvc_file import derived
from tests.repo.import_graph import cycles, reachable, read_imports
from wam.config import VARIANTS

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
MATRIX = {name: values for entry in PIPELINE["vars"] for name, values in entry.items()}
IMPORTS = read_imports(ROOT)
SOURCES = [path for name in ("wam", "pipeline", "flows") for path in (ROOT / name).rglob("*.py")]
EVERYTHING = [*SOURCES, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]

LAYERS = [
    row.split()
    for row in reversed(
        (ROOT / "docs" / "architecture.md")
        .read_text()
        .split("```layers\n")[1]
        .split("```")[0]
        .splitlines()
    )
]
"""From the ground up: what is imported lies in the same folder or in a lower row. The longest
name that a module's own begins with says where it belongs."""


def place(module: str) -> tuple[int, str]:
    """Row and folder of a module."""
    fitting = [
        (len(name), row, name)
        for row, names in enumerate(LAYERS)
        for name in names
        if f"{module}.".startswith(f"{name}.")
    ]
    assert fitting, f"{module}: in none of the layers of docs/architecture.md"
    _, row, name = max(fitting)
    return row, name


def test_no_large_file_is_in_git() -> None:
    """What is large belongs to DVC; what a package index has belongs nowhere."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("no git repository")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    large = [str(path) for path in files if path.is_file() and path.stat().st_size > 300_000]
    assert not large


@pytest.mark.parametrize("module", sorted(IMPORTS.keys() - {"pipeline"}))
def test_imports_go_down(module: str) -> None:
    row, folder = place(module)
    upwards = {
        other
        for other in IMPORTS[module] - {"pipeline"}
        if place(other)[0] >= row and place(other)[1] != folder
    }
    assert not upwards


def test_there_are_no_import_cycles() -> None:
    assert cycles(IMPORTS) == []


def test_stages_are_imported_by_the_command_line_the_flows_and_the_study_alone() -> None:
    importers = {
        name
        for name, imported in IMPORTS.items()
        if any(other.startswith("pipeline.stages.") for other in imported)
    }
    known = ("pipeline.cli", "pipeline.study.one_run")
    assert all(name in known or name.startswith("flows.") for name in importers)


def test_reading_a_store_needs_neither_conformance_nor_the_simulator() -> None:
    needed = reachable(IMPORTS, ["pipeline.store.open", "pipeline.batches.from_store"])
    assert not {n for n in needed if n.startswith(("pipeline.calvin.conformance", "wam.envs"))}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_are_imported_where_they_belong(path: Path) -> None:
    package, *folders = path.relative_to(ROOT).parts
    forbidden = {"prefect", "prefect_dask", "dvc"} if package != "flows" else set()
    if package == "wam":
        forbidden |= {"pipeline", "flows", "dask", "distributed", "zarr", "webdataset"}
        forbidden |= {"pydantic", "rich", "cv2"}
        if folders[0] != "envs":
            forbidden |= {"pybullet", "pybullet_data", "gymnasium", "scipy"}
    assert not imported_packages(path) & forbidden


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


def test_every_folder_says_what_it_holds_and_can_be_taken_in_at_a_glance() -> None:
    for folder, count in Counter(path.parent for path in SOURCES).items():
        assert count <= 15, folder
        if folder not in (ROOT / "wam", ROOT / "pipeline"):
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_anyone_reads(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def keys(value: object) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value) | {key for inner in value.values() for key in keys(inner)}


def test_no_parameter_name_breaks_the_run_cache_of_dvc() -> None:
    assert not keys(PARAMS) & {"size", "nfiles"}


def test_every_profile_is_in_the_pipeline_and_valid() -> None:
    profiles = profile_names(ROOT / "params.yaml")
    assert profiles == MATRIX["profiles"]
    assert MATRIX["variants"] == list(VARIANTS)
    for name in profiles:
        profile = load_profile(name, ROOT / "params.yaml")
        assert profile.finetune.environment == "world_model", "beyond the paper, so off"


@pytest.mark.parametrize("name", PIPELINE["stages"])
def test_no_output_is_deleted_before_its_stage_runs(name: str) -> None:
    for entry in PIPELINE["stages"][name]["outs"]:
        (path, options), *others = entry.items()
        # Results are small and lie in git itself.
        small = path.endswith("/results") or path.startswith("data/study/outcomes/")
        in_git = {"cache": False} if small else {}
        assert options == {"persist": True, **in_git} and not others, entry


@pytest.mark.parametrize("name", PIPELINE["stages"])
def test_stage_depends_on_files_and_parameters_that_exist(name: str) -> None:
    stage = PIPELINE["stages"][name]
    outputs = {
        out
        for definition in PIPELINE["stages"].values()
        for entry in definition["outs"]
        for out in entry
    }
    outputs |= {out.replace("${item.variant}", variant) for out in outputs for variant in VARIANTS}
    outputs |= {"data/${item.profile}/evaluation/controls", "data/study/outcomes"}
    for dependency in stage.get("deps", []):
        if dependency.startswith("data/"):
            assert dependency.replace("study.base", "item.profile") in outputs, dependency
        else:
            assert (ROOT / dependency).exists(), dependency
    for parameter in stage["params"]:
        if parameter.startswith("study"):
            value, names = PARAMS["study"], parameter.replace("${item.cell}", "wam").split(".")[1:]
        else:
            value, names = PARAMS["demo"], re.sub(r"\$\{[\w.]+\}\.?", "", parameter).split(".")
        for key in filter(None, names):
            value = value[key]


def test_the_pipeline_file_is_what_follows_from_the_code() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert derived(text, ROOT) == text, "run 'python -m tests.repo.dvc_file'"
