"""``wam``: one subcommand per stage and tool, used by people, DVC and Prefect alike."""

import difflib
import importlib
import logging
import os
import sys
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import shtab

from pipeline.artifacts.layout import Layout
from pipeline.artifacts.provenance import version
from pipeline.evaluation.worlds import WORLDS
from pipeline.exit_codes import exit_on_error
from pipeline.params import PARAMS_FILE, load_profile
from pipeline.params.study import load_study
from wam.config import TASKS, VARIANTS


@dataclass(frozen=True)
class Command:
    """A subcommand, which calls ``module.run(*subject, **options)``.

    The module is imported only then: what it depends on need not be installed where others run.
    """

    module: str
    """Below ``pipeline``."""
    summary: str
    add_options: Callable[[ArgumentParser], None] = lambda parser: None
    """Adds the options of the command, each by the name of a parameter of ``run``."""
    subject: Literal["profile", "study", "root", None] = "profile"
    """What ``run`` takes beside its options: profile and layout, the study, or nothing. But for
    None it is called in the root of the repository."""
    description: str | None = None
    """For its own help; None: the summary."""


def _collect(parser: ArgumentParser) -> None:
    about = (
        "be content with the receipt of frames of the same settings that are not here, as after "
        "'dvc pull': what was made of them is enough"
    )
    parser.add_argument("--lazy", action="store_true", help=about)


def _export(parser: ArgumentParser) -> None:
    parser.add_argument("--format", choices=("webdataset", "lerobot"), default="webdataset")
    about = "where to write (default: data/PROFILE/shards or data/PROFILE/lerobot)"
    parser.add_argument("--output", type=Path, metavar="DIR", help=about)


def _variant(parser: ArgumentParser) -> None:
    about = "which world model the stage works on"
    parser.add_argument("--variant", required=True, choices=VARIANTS, help=about)


def _policies(parser: ArgumentParser) -> None:
    names = (*VARIANTS, "controls")
    about = "the policies of a world model, or the zero-action and expert controls"
    parser.add_argument("--policies", dest="name", required=True, choices=names, help=about)
    about = (
        "evaluate in the embedded scene, with CALVIN's scene files or in the official package, "
        "whatever the profile says; goes to data/PROFILE/transfer, and into 'wam report'"
    )
    parser.add_argument("--in", dest="world", choices=WORLDS, help=about)
    about = "CALVIN's scene files, or the official package's checkout (default: env.assets)"
    parser.add_argument("--assets", type=Path, metavar="DIR", help=about)


def _study(parser: ArgumentParser) -> None:
    about = "a key of study.cells"
    parser.add_argument("--cell", required=True, metavar="CELL", help=about)
    about = "one of study.seeds"
    parser.add_argument("--seed", required=True, type=_count, metavar="N", help=about)


def _study_jobs(parser: ArgumentParser) -> None:
    about = "runs at a time, at most (default: as many as there are cores)"
    parser.add_argument("--jobs", type=_positive, metavar="N", help=about)


def _run_options(parser: ArgumentParser) -> None:
    about = "stages at a time, at most (default: two, or as many as there are cores)"
    parser.add_argument("--jobs", type=_positive, metavar="N", help=about)
    about = "one stage of dvc.yaml, such as finetune or finetune@demo-wam (default: all)"
    parser.add_argument("--stage", metavar="STAGE", help=about)
    about = "run stages even where nothing changed"
    parser.add_argument("--force", action="store_true", help=about)


def _dream(parser: ArgumentParser) -> None:
    parser.add_argument("--variant", required=True, choices=VARIANTS)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--task", choices=TASKS, help="its first held-out demonstration")
    about = "number of a sequence of evaluate-world-model (default: 0)"
    start.add_argument("--sequence", type=_count, default=0, metavar="N", help=about)
    about = "imagined steps (default: evaluate_world_model.open_loop_steps)"
    parser.add_argument("--steps", type=_positive, metavar="N", help=about)
    about = ".mp4 or .webp (default: data/PROFILE/dreams/VARIANT-START.mp4)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=about)


def _inspect(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path)
    about = (
        "raw frames of each split to look at, beside the ends of episodes and windows "
        "(default: 200)"
    )
    parser.add_argument("--frames", type=_frame_count, default=200, metavar="N|all", help=about)
    about = "recompute the checksums of all files of an artifact; name the damaged and missing"
    parser.add_argument("--verify", action="store_true", help=about)
    _json(parser)


def _compare(parser: ArgumentParser) -> None:
    about = "an artifact, a directory of artifacts, or a profile of params.yaml"
    parser.add_argument("first", metavar="A", type=_place_or_name, help=about)
    parser.add_argument("second", metavar="B", type=_place_or_name, help=about)
    _json(parser)


def _replay(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="TRACE.npz")
    about = "directory of CALVIN's scene assets (default: the embedded scene)"
    parser.add_argument("--assets", type=Path, metavar="DIR", help=about)
    _json(parser)


def _json(parser: ArgumentParser) -> None:
    about = "print one JSON object"
    parser.add_argument("--json", dest="as_json", action="store_true", help=about)


def _place_or_name(text: str) -> Path | str:
    """A directory that is there, and else what has to be the name of a profile."""
    path = Path(text)
    return path if path.is_dir() or len(path.parts) > 1 else text


def _count(text: str) -> int:
    if not text.isdigit():
        raise ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) == 0:
        raise ArgumentTypeError("0 is not positive")
    return int(text)


def _frame_count(text: str) -> int | None:
    """A positive number; None for ``all``."""
    if text == "all":
        return None
    if not text.isdigit() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is neither a positive number nor 'all'")
    return int(text)


COMMANDS = {
    "collect": Command(
        "stages.collect", "make CALVIN-format play data in the embedded simulator", _collect
    ),
    "index": Command("stages.index", "list and check the raw frames"),
    "convert": Command("stages.convert", "raw frames to the sharded Zarr store, on Dask"),
    "export": Command(
        "stages.export", "the store as WebDataset shards or LeRobot data sets", _export
    ),
    "extract": Command("stages.extract", "demonstrations and start states from the annotations"),
    "train-world-model": Command(
        "stages.train_world_model", "train a world model on the store", _variant
    ),
    "evaluate-world-model": Command(
        "stages.evaluate_world_model",
        "open-loop prediction and action probes of all world models on held-out play",
    ),
    "featurize": Command("stages.featurize", "latents of the demonstrations", _variant),
    "train-reward": Command("stages.train_reward", "train the success classifiers", _variant),
    "train-policy": Command(
        "stages.train_policy", "clone the demonstrations with diffusion policies", _variant
    ),
    "finetune": Command(
        "stages.finetune", "DPPO inside the frozen world model, no environment step", _variant
    ),
    "evaluate": Command(
        "stages.evaluate", "roll policies out in the simulator from the held-out starts", _policies
    ),
    "report": Command("stages.report", "results table and HTML report of the profile"),
    "study": Command("study.one_run", "one run of the study", _study, subject="study"),
    "study-report": Command(
        "study.report", "what the runs of the study say together", subject="study"
    ),
    "run": Command(
        "tools.run",
        "bring a profile up to date, independent stages side by side",
        _run_options,
        description="Bring a profile up to date, as 'dvc repro report@PROFILE' does, with "
        "independent stages side by side.",
    ),
    "run-study": Command(
        "tools.run_study",
        "bring the study up to date, runs side by side",
        _study_jobs,
        subject="study",
        description="Bring the study of params.yaml up to date, as 'dvc repro study_report' does, "
        "with its runs side by side.",
    ),
    "status": Command("tools.status", "say which stages of a profile are out of date, and why"),
    "profile": Command("tools.profile", "check a profile of params.yaml and say what it does"),
    "results": Command("tools.results", "print the results table of a finished run"),
    "dream": Command(
        "tools.dream", "film what a world model imagines beside what happened", _dream
    ),
    "inspect": Command(
        "tools.inspect",
        "say what any artifact holds, and check raw frames against CALVIN's format",
        _inspect,
        subject=None,
        description="Say what an artifact holds: raw frames, index, store, shards, model, results. "
        "Raw frames are checked against CALVIN's format; the exit status is 1 if the pipeline "
        "cannot use them, or if --verify finds damage.",
    ),
    "compare": Command(
        "tools.compare",
        "say what differs between two artifacts, runs or profiles",
        _compare,
        subject="root",
        description="Say what differs between two artifacts, two directories of them (runs, "
        "profiles' data) or two profiles of params.yaml: settings, inputs, code, figures, and at "
        "which artifact it begins.",
    ),
    "replay": Command(
        "tools.replay",
        "repeat a recorded trace of CALVIN's simulator and compare",
        _replay,
        subject=None,
        description="Repeat the actions of a recorded trace in a fresh physics client; print the "
        "largest difference of every field, the success step and the recorded one.",
    ),
}
"""The stages in the order in which they run, then the tools."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; for what becomes of errors see :func:`exit_on_error`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    exit_on_error(lambda: _run(**vars(_parsed(sys.argv[1:] if argv is None else argv))))


def _parsed(argv: Sequence[str]) -> Namespace:
    """The options; what is no command ends the process with status 2 and what may be meant."""
    parser = _parser()
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        close = difflib.get_close_matches(argv[0].replace("_", "-"), COMMANDS, n=1)
        meant = f"; did you mean '{close[0]}'?" if close else ";"
        parser.error(f"unknown command '{argv[0]}'{meant} 'wam --help' lists all")
    return parser.parse_args(argv)


class _Version(Action):
    """Prints the version; asks git for the commit only then."""

    def __call__(self, parser: ArgumentParser, *_: Any, **__: Any) -> None:
        sys.stdout.write(version())
        parser.exit()


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="wam",
        description="Offline robot learning with world models: one subcommand per pipeline stage.",
        epilog="Stages run in this order. Settings come from params.yaml; "
        "'dvc repro report@PROFILE' runs whatever is out of date.",
    )
    about = "print version, commit, and the versions of what results depend on"
    parser.add_argument("--version", action=_Version, nargs=0, default=SUPPRESS, help=about)
    about = "print a script that completes commands and options in this shell"
    shtab.add_argument_to(parser, ["--print-completion"], help=about)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        description = command.description or f"{command.summary[0].upper()}{command.summary[1:]}."
        subparser = subparsers.add_parser(name, help=command.summary, description=description)
        if command.subject == "profile":
            about = (
                "top-level key of params.yaml: ci, demo, small, paper or your own (default: demo)"
            )
            subparser.add_argument("--profile", default="demo", help=about)
        command.add_options(subparser)
    return parser


def _run(command: str, profile: str | None = None, **options: object) -> None:
    """Call the command; one that returns False found something wrong, which ends with status 1."""
    options.pop("print_completion", None)
    chosen = COMMANDS[command]
    if chosen.subject is not None:
        # Paths of the repository are relative to its root, those of options to where one is.
        options = {k: v.absolute() if isinstance(v, Path) else v for k, v in options.items()}
        _enter_root()
    module = importlib.import_module(f"pipeline.{chosen.module}")
    subject: tuple[object, ...] = ()
    if profile is not None:
        subject = load_profile(profile), Layout.of(profile)
    elif chosen.subject == "study":
        subject = (load_study(),)
    if module.run(*subject, **options) is False:
        sys.exit(1)


def _enter_root() -> None:
    """Go to the next directory above that holds params.yaml, if this one does not."""
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / PARAMS_FILE).is_file():
            os.chdir(directory)
            return
