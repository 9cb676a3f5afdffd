"""Odd settings: ``params.yaml`` is refused by the name of the key, or the stage ends well.

``python -m tests.drill.settings`` tries those that are refused, for which no stage need have run.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline import console
from tests.drill.kills import Trial
from tests.drill.project import PROFILE, Run, create, preload, run

_KIND = "odd setting"
_PARAMS = "params.yaml"
_LONGEST = 2_000
"""Characters of what a refusal may print."""
_VALUE = "PLACEHOLDER"
_CHECK = ("profile",)


@dataclass(frozen=True)
class Case:
    """A setting in the place of a sensible one."""

    key: str
    """Dotted, within the profile."""
    value: str
    """YAML"""
    command: tuple[str, ...] = _CHECK
    status: int = 1
    says: str | None = None
    """What a refusal contains; None: the key."""
    thread: str | None = None
    """Where somebody met it: owner/repository#number."""


def _refused(key: str, *values: str) -> list[Case]:
    return [Case(key, value) for value in values]


def _accepted(command: str, section: str, **values: str) -> list[Case]:
    """Cases that the stage ``command`` lives with: they are extreme, but not wrong."""
    argv = (command, "--variant", "wam")
    return [Case(f"{section}.{name}", value, argv, 0) for name, value in values.items()]


_DEEP = "[" * 30 + "]" * 30
_MANY = "[" + "7, " * 20_000 + "7]"

REFUSED = [
    # No numbers
    *_refused("train_world_model.lr", ".inf", ".nan", "-.inf", "1.0e+400", "0.0", "-1.0", "5.0"),
    *_refused("train_world_model.lr", "true", "null", "[0.1]", "{a: 1}", '"0.1"', "", "2024-01-01"),
    Case("train_world_model.lr", "2e-5", thread="hiyouga/LlamaFactory#4014"),
    *_refused("train_world_model.weight_decay", ".nan"),
    *_refused("train_world_model.lr_final", ".nan", "0.5"),
    *_refused("train_world_model.adam_eps", "0.0", "1.0e-60"),
    *_refused("train_world_model.minutes", ".inf", "0"),
    *_refused("train_world_model.grad_clip", "0.0", ".inf"),
    *_refused("finetune.gamma", ".nan", "5.0"),
    *_refused("finetune.actor_lr", ".inf"),
    *_refused("finetune.min_std", "0", "1.0e-9"),
    *_refused("finetune.target_kl", "0.0"),
    # Beyond their range
    *_refused("world_model.kl_balance", "7", "-0.1"),
    *_refused("world_model.unimix", "5", "1.0"),
    *_refused("world_model.action_scale", "1.0e+30"),
    *_refused("world_model.classes", "1", "257"),
    *_refused(
        "world_model.deter", "0", "-1", "1000000000", "128.0", "true", '"128"', "1" + "0" * 900
    ),
    *_refused("world_model.cnn_depth", "100000"),
    *_refused("world_model.stoch", "5000"),
    *_refused("world_model.id_hidden", "[64, 0]", "64", "[1000000]", _MANY, _DEEP),
    *_refused("world_model.id_steps", "8"),
    *_refused("train_world_model.reset_probability", "2"),
    *_refused("train_world_model.batch", "0", "1000000000"),
    *_refused("policy.ema_decay", "2", "1.0"),
    *_refused("policy.time_embedding", "15", "2"),
    *_refused("policy.hidden", "[]", "[64, 64]", "[64, 32, 64]"),
    *_refused("policy.diffusion_steps", "0", "4", "1000000"),
    *_refused("policy.lr_final", "0.5"),
    *_refused("reward.temperature", "0", "0.0"),
    *_refused("reward.target_precision", "5"),
    *_refused("finetune.critic_hidden", "[]", "[16, 16]"),
    *_refused("finetune.clip_base", "0.5"),
    *_refused("finetune.finetuned_steps", "11"),
    *_refused("finetune.seeds", "[0, 0]", "[-1]", "[18446744073709551616]", "0", "[true]"),
    Case("train_world_model.seed", "4294967296", thread="NVIDIA/Megatron-LM#88"),
    *_refused("features.draws", "1000000000"),
    *_refused("collect.static_size", "1000000000"),
    *_refused("collect.noise", "1.5"),
    *_refused("convert.chunk_frames", "1000000000"),
    *_refused("convert.shard_frames", "33"),
    *_refused(
        "convert.frames", "{training: [[5, 2]]}", "{test: []}", "[1]", f"{{{'x' * 900}: [1]}}"
    ),
    *_refused("convert.zstd_level", "23"),
    *_refused("convert.cameras", "[rgb_static, rgb_static]", "[]", "rgb_static"),
    *_refused("env.workers", "0", "1000000"),
    *_refused("parallel.workers", "0", "1000000", "auto"),
    *_refused("raw.annotations", "a/b", "1", "[]"),
    *_refused("env.backend", "mujoco", "1"),
    # No text, no list, no section
    *_refused("raw.path", "3", "''", '"a\\0b"', "[x]", "2024-01-01", "!!binary aGk=", "!!set {a}"),
    *_refused("raw.path", '"\\ud800"', "x" * 10_000),
    *_refused("tasks", "[close_drawer, close_drawer]", "close_drawer", "[open_door]"),
    *_refused("features.context", "1", '"yes"'),
    *_refused("reward", "null", "[]", "3", "{}"),
    # A plain reader takes the last one.
    Case("reward.lr", "0.1\n    lr: 0.1", says="twice", thread="yaml/pyyaml#165"),
    Case("reward", "{}\n  reward: {}", says="twice", thread="yaml/pyyaml#165"),
]
"""By the check that every command begins with."""

ACCEPTED = [
    # Later stages first, as a case changes what its stage has made.
    *_accepted(
        "finetune", "finetune", gamma="0", gae_lambda="1", denoising_gamma="0", bc_scale="0"
    ),
    *_accepted("finetune", "finetune", envs="1", steps="1", max_decisions="1", minibatch="1"),
    *_accepted(
        "finetune", "finetune", actor_lr="1.0", critic_lr="1", min_std="10", clip_max="0.99"
    ),
    *_accepted(
        "finetune", "finetune", value_scale="1.0e+9", critic_hidden="[1]", seeds="[4294967295]"
    ),
    *_accepted("train-policy", "policy", lr="1.0", weight_decay="1000", ema_decay="0", warmup="0"),
    *_accepted("train-policy", "policy", hidden="[1]", time_embedding="4", seed="4294967295"),
    *_accepted("train-reward", "reward", lr="1.0", temperature="0.001", heads="20", embedding="1"),
    *_accepted("train-reward", "reward", near_miss_weight="0", batch="1", target_precision="1"),
    *_accepted("featurize", "features", draws="1", sample="mode", context="false"),
    *_accepted(
        "train-world-model", "train_world_model", updates="1", lr="1.0", weight_decay="1000"
    ),
    Case(
        "train_world_model.window", "60", ("train-world-model", "--variant", "wam"), says="window"
    ),
    Case("train_world_model.batch", "60000", ("train-world-model", "--variant", "wam")),
    Case("convert.extra_keys", "[nothing]", ("convert",)),
    Case("raw.path", "/nonexistent", ("collect",)),
    Case("env.assets", "/nonexistent", ("collect", "--profile", "played")),
]
"""By the check; a stage may yet find that the data are too few or the machine too small."""

_BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)
_FILES: dict[str, bytes | None] = {
    "empty": b"",
    "a list": b"- tiny\n",
    "a number": b"3\n",
    "the profile a list": b"tiny: []\n",
    "the profile empty": b"tiny:\n",
    "not UTF-8": b"tiny: \xff\xfe\n",
    "a NUL byte": b"tiny: \0\n",
    "not YAML": b"tiny: [\n",
    "a tag of Python": b"tiny: !!python/object/apply:os.system [true]\n",
    "two documents": b"tiny: 1\n---\ntiny: 2\n",
    "aliases that spell out gigabytes": f"{_BOMB}tiny: *a9\n".encode(),
    "nested too deep": b"tiny: " + b"[" * 100_000 + b"\n",
    "a profile that holds itself": b"tiny: &t {a: *t}\n",
    "many unknown profiles": "".join(f"profile_{n}: 1\n" for n in range(5_000)).encode(),
    "a directory": None,
}
_NAMES = ("../../outside", "/tmp/outside", "..", ".hidden", "a/b", "a\nb", "", "x" * 100, "tiny ")
"""Of profiles that are in the file, and yet must not become directories."""


def trials(project: Path) -> Iterator[Trial]:
    """Every case on ``project``, whose stages before evaluation have run; its params.yaml stays."""
    yield from refusals(project)
    yield from _tried(project, ACCEPTED)


def refusals(project: Path) -> Iterator[Trial]:
    """The cases for which no stage of ``project`` need have run."""
    params = project / _PARAMS
    text = params.read_text()
    yield from _tried(project, REFUSED)
    try:
        yield from _whole_files(project)
        yield from _names(project, text)
    finally:
        _remove(params)
        params.write_text(text)


def _tried(project: Path, cases: list[Case]) -> Iterator[Trial]:
    params = project / _PARAMS
    text = params.read_text()
    try:
        for case in cases:
            params.write_text(_with(text, case.key, case.value))
            yield _trial(project, case)
    finally:
        params.write_text(text)


def _with(text: str, key: str, value: str) -> str:
    """The text of params.yaml with the YAML ``value`` for ``key`` of the profile."""
    document = yaml.safe_load(text)
    *sections, last = key.split(".")
    for profile in document.values():
        node = profile
        for section in sections:
            node = node[section]
        node[last] = _VALUE
    # Wide, as a line break would end a placeholder.
    return yaml.safe_dump(document, width=10_000).replace(_VALUE, value)


def _trial(project: Path, case: Case) -> Trial:
    argv = [*case.command]
    if "--profile" not in argv:
        argv += ["--profile", PROFILE]
    ended = run(project, argv)
    problems = _problems(ended, case.status, case.says or case.key)
    shown = case.value if len(case.value) <= 40 else f"{case.value[:40]}…"
    met = f" ({case.thread})" if case.thread else ""
    return Trial(case.command[0], _KIND, f"{case.key}: {shown}{met}", tuple(problems))


def _whole_files(project: Path) -> Iterator[Trial]:
    params = project / _PARAMS
    for what, content in _FILES.items():
        _remove(params)
        if content is None:
            params.mkdir()
        else:
            params.write_bytes(content)
        yield _check(project, PROFILE, f"params.yaml: {what}", _PARAMS)
    _remove(params)
    yield _check(project, PROFILE, "params.yaml: missing", _PARAMS)


def _names(project: Path, text: str) -> Iterator[Trial]:
    document = yaml.safe_load(text)
    for name in _NAMES:
        (project / _PARAMS).write_text(yaml.safe_dump({name: document[PROFILE]}))
        yield _check(project, name, f"a profile called {name[:40]!r}", "profile")


def _check(project: Path, profile: str, when: str, said: str) -> Trial:
    ended = run(project, [*_CHECK, "--profile", profile])
    return Trial(_CHECK[0], _KIND, when, tuple(_problems(ended, 1, said)))


def _problems(ended: Run, status: int, said: str) -> list[str]:
    """What is wrong with how a command ended; a refusal has to contain ``said``."""
    problems = []
    if ended.has_traceback:
        problems.append(f"traceback: {ended.output[-600:]}")
    if ended.status != status:
        problems.append(f"ended with {ended.status}: {ended.output[-300:]}")
    if status and said not in ended.output:
        problems.append(f"does not name {said}: {ended.output[-300:]}")
    if status and len(ended.output) > _LONGEST:
        problems.append(f"a message of {len(ended.output)} characters")
    return problems


def _remove(params: Path) -> None:
    if params.is_dir():
        params.rmdir()
    else:
        params.unlink(missing_ok=True)


def main() -> None:
    """Say which refusals have gone wrong; the exit status is 1 if any has."""
    preload()
    with tempfile.TemporaryDirectory(prefix="wam-settings-") as directory:
        project = Path(directory)
        create(project)
        found = list(refusals(project))
    for trial in found:
        for problem in trial.problems:
            console.warn(f"{trial.stage}, {trial.when}: {problem}")
    wrong = sum(bool(trial.problems) for trial in found)
    console.note(f"{len(found)} odd settings, {wrong} of them wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
