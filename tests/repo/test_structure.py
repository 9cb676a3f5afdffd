"""Rules of the repository that nobody should have to remember."""

import ast
from pathlib import Path

import pytest
import yaml

from pipeline.params import load_profile
from wam.config import VARIANTS

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
MATRIX = {name: values for entry in PIPELINE["vars"] for name, values in entry.items()}


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources("wam"), ids=str)
def test_models_know_nothing_of_the_pipeline(path: Path) -> None:
    allowed_in_envs = {"pybullet", "pybullet_data", "gymnasium", "scipy"}
    forbidden = {"pipeline", "flows", "prefect", "dask", "distributed", "dvc", "zarr", "webdataset"}
    forbidden |= {"pydantic", "rich", "cv2"}
    if "envs" not in path.parts:
        forbidden |= allowed_in_envs
    assert not imported_packages(path) & forbidden


@pytest.mark.parametrize("path", sources("pipeline"), ids=str)
def test_stages_know_nothing_of_the_flows(path: Path) -> None:
    assert not imported_packages(path) & {"flows", "prefect", "prefect_dask", "dvc"}


def keys(value: object) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value) | {key for inner in value.values() for key in keys(inner)}


def test_no_parameter_name_breaks_the_run_cache_of_dvc() -> None:
    assert not keys(PARAMS) & {"size", "nfiles"}


def test_every_profile_is_in_the_pipeline_and_valid() -> None:
    assert list(PARAMS) == MATRIX["profiles"]
    assert MATRIX["variants"] == list(VARIANTS)
    for name in PARAMS:
        profile = load_profile(name, ROOT / "params.yaml")
        assert profile.finetune.environment == "world_model", "beyond the paper, so off"


@pytest.mark.parametrize("name", PIPELINE["stages"])
def test_no_output_is_deleted_before_its_stage_runs(name: str) -> None:
    for entry in PIPELINE["stages"][name]["outs"]:
        assert list(entry.values()) == [{"persist": True}], entry


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
    outputs |= {"data/${item.profile}/evaluation/controls"}
    for dependency in stage.get("deps", []):
        if dependency.startswith("data/"):
            assert dependency in outputs, dependency
        else:
            assert (ROOT / dependency).exists(), dependency
    for parameter in stage["params"]:
        value = PARAMS["demo"]
        for key in parameter.split(".")[2:]:
            value = value[key]
