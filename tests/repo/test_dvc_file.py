from pathlib import Path

import pytest
import yaml

from tests.repo.dvc_file import derived, main

ROOT = Path(__file__).parents[2]
MODULES = {
    "pipeline/stages/train_policy.py": "from wam.policy import network\n",
    "pipeline/stages/featurize.py": "from pipeline import console\nimport wam.errors\n",
    "wam/policy/__init__.py": "",
    "wam/policy/network.py": "def late():\n    from wam.policy import cloning\n",
    "wam/policy/cloning.py": "",
    "wam/ppo/ppo.py": "",
    "wam/errors.py": "",
    "pipeline/console.py": "",
}
TEXT = """vars:
  - profiles: [mine]
  - variants: [wam]

stages:
  # Kept as it is.
  featurize:
    cmd: wam featurize
    params:
      - ${item.profile}.env.backend
      - ${item.profile}.features
    deps:
      - data/demos
      - wam/gone.py
    outs:
      - data/features

  train_policy:
    cmd: wam train-policy
    params:
      - ${item.profile}.policy
    deps:
      - data/features
    outs:
      - data/policy

"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def test_code_follows_from_the_imports_and_the_rest_stays(root: Path) -> None:
    new = derived(TEXT, root)
    stages = yaml.safe_load(new)["stages"]
    # Neither presentation nor a package that is left out, nor what no longer is imported.
    assert stages["featurize"]["deps"] == ["data/demos", "pipeline/stages/featurize.py"]
    # A folder of which all modules are needed, one of them inside a function.
    assert stages["train_policy"]["deps"] == [
        "data/features",
        "pipeline/stages/train_policy.py",
        "wam/policy",
    ]
    assert stages["featurize"]["params"] == ["${item.profile}.features"]
    assert "  # Kept as it is.\n" in new
    assert derived(new, root) == new


def test_a_stage_that_simulates_depends_on_the_simulators_settings(root: Path) -> None:
    env = root / "wam" / "envs" / "simulator" / "play_table.py"
    env.parent.mkdir(parents=True)
    env.write_text("")
    (root / "wam" / "policy" / "cloning.py").write_text(
        "from wam.envs.simulator.play_table import PlayTableEnv\n"
    )
    params = yaml.safe_load(derived(TEXT, root))["stages"]["train_policy"]["params"]
    assert "${item.profile}.env.renderer" in params
    assert "${item.profile}.env.workers" not in params


def test_every_profile_has_its_metrics_and_plots(root: Path) -> None:
    document = yaml.safe_load(derived(TEXT, root))
    assert "data/mine/world_model/wam/summary.json" in document["metrics"]
    assert [*document["plots"][0]] == ["world-model-mine"]


def test_the_file_of_this_repository_is_up_to_date() -> None:
    main(["--check"])
