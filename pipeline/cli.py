"""``wam``: one subcommand per stage, used by people, DVC and Prefect alike."""

import argparse
import errno
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.params import Profile, load_profile
from wam.config import TASKS, VARIANTS
from wam.errors import WamError
from wam.reliability.interruption import SIGNALS, Interrupted, interrupt


@dataclass(frozen=True)
class Stage:
    """A subcommand that calls ``module.run(profile, layout[, argument])``."""

    module: str
    summary: str
    argument: str | None = None
    """Name of a further required option, one of ``choices``."""
    choices: tuple[str, ...] = VARIANTS


_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.I)
_REMEDIES = {
    errno.ENOSPC: "make room, then run the same command again: it goes on where it stopped",
    errno.EDQUOT: "make room in your quota, then run the same command again: it goes on",
    errno.EFBIG: "the file size limit (ulimit -f) is too low",
    errno.EMFILE: "the limit of open files (ulimit -n) is too low",
    errno.EACCES: "check the permissions",
    errno.EROFS: "choose a place that can be written to",
}

STAGES: dict[str, Stage] = {
    "collect": Stage(
        "pipeline.stages.collect", "make CALVIN-format play data in the embedded simulator"
    ),
    "index": Stage("pipeline.stages.index", "list and check the raw frames"),
    "convert": Stage("pipeline.stages.convert", "raw frames to the sharded Zarr store, on Dask"),
    "export": Stage(
        "pipeline.stages.export", "the store as WebDataset shards or LeRobot data sets"
    ),
    "extract": Stage(
        "pipeline.stages.extract", "demonstrations and start states from the annotations"
    ),
    "train-world-model": Stage(
        "pipeline.stages.train_world_model", "train a world model on the store", "variant"
    ),
    "evaluate-world-model": Stage(
        "pipeline.stages.evaluate_world_model",
        "open-loop prediction and action probes of all world models on held-out play",
    ),
    "featurize": Stage("pipeline.stages.featurize", "latents of the demonstrations", "variant"),
    "train-reward": Stage(
        "pipeline.stages.train_reward", "train the success classifiers", "variant"
    ),
    "train-policy": Stage(
        "pipeline.stages.train_policy",
        "clone the demonstrations with diffusion policies",
        "variant",
    ),
    "finetune": Stage(
        "pipeline.stages.finetune",
        "DPPO inside the frozen world model, no environment step",
        "variant",
    ),
    "evaluate": Stage(
        "pipeline.stages.evaluate",
        "roll policies out in the simulator from the held-out starts",
        argument="policies",
        choices=(*VARIANTS, "controls"),
    ),
    "report": Stage("pipeline.stages.report", "results table and HTML report of the profile"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; for what becomes of errors see :func:`exit_on_error`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    exit_on_error(lambda: _run(_parser().parse_args(argv)))


def exit_on_error(body: Callable[[], None]) -> None:
    """Call ``body``; what the user or the system did wrong becomes one message and a status.

    WamError, OSError and MemoryError: 1. Ctrl-C: 130, SIGTERM: 143, which does the same.
    """
    for signum in SIGNALS:
        signal.signal(signum, interrupt)
    try:
        body()
    except WamError as error:
        _fail(str(error))
    except KeyboardInterrupt as error:
        number = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        console.titled("interrupted", "run the same command again to go on", style="bold yellow")
        sys.exit(128 + number)
    except BrokenPipeError:
        # Who read our output has gone; what is still buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _fail(sentence(error))
    except (MemoryError, RuntimeError) as error:
        # torch has a RuntimeError of its own for it.
        if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        _fail(
            "out of memory: make batches or sizes smaller, or use fewer workers; nothing that was "
            "finished is lost"
        )


def sentence(error: OSError) -> str:
    """What the system refused, and what to do about it."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    what = f"{' → '.join(files)}: {error.strerror}" if files and error.strerror else str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{what}; {remedy}" if remedy else what


def _fail(message: str) -> NoReturn:
    console.error(message)
    sys.exit(1)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "inspect":
        inspect = importlib.import_module("pipeline.tools.inspect")
        options = {"as_json": arguments.json, "verify": arguments.verify}
        if not inspect.run(arguments.path, arguments.frames, **options):
            sys.exit(1)
        return
    if arguments.command == "replay":
        replay = importlib.import_module("pipeline.tools.replay")
        replay.run(arguments.trace, arguments.assets, as_json=arguments.json)
        return
    profile = load_profile(arguments.profile)
    if arguments.command == "profile":
        _describe(arguments.profile, profile)
        return
    if arguments.command == "results":
        importlib.import_module("pipeline.stages.report").show(Layout.of(arguments.profile))
        return
    if arguments.command == "export":
        export = importlib.import_module("pipeline.stages.export")
        export.run(profile, Layout.of(arguments.profile), arguments.format, arguments.output)
        return
    if arguments.command == "collect":
        collect = importlib.import_module("pipeline.stages.collect")
        collect.run(profile, Layout.of(arguments.profile), lazy=arguments.lazy)
        return
    if arguments.command == "dream":
        dream = importlib.import_module("pipeline.tools.dream")
        dream.run(
            profile,
            Layout.of(arguments.profile),
            arguments.variant,
            task=arguments.task,
            sequence=arguments.sequence,
            steps=arguments.steps,
            output=arguments.output,
        )
        return
    stage = STAGES[arguments.command]
    values = [getattr(arguments, stage.argument)] if stage.argument else []
    # Imported here: a stage's dependencies are needed on the machine that runs this stage only.
    module = importlib.import_module(stage.module)
    module.run(profile, Layout.of(arguments.profile), *values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wam",
        description="Offline robot learning with world models: one subcommand per pipeline stage.",
        epilog="Stages run in this order. Settings come from params.yaml; "
        "'dvc repro report@PROFILE' runs whatever is out of date.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, stage in STAGES.items():
        command = _add_command(commands, name, stage.summary)
        if stage.argument:
            command.add_argument(
                f"--{stage.argument}",
                required=True,
                choices=stage.choices,
                help="which world model the stage works on"
                if stage.argument == "variant"
                else "the policies of a world model, or the zero-action and expert controls",
            )
    _add_export_options(commands.choices["export"])
    commands.choices["collect"].add_argument(
        "--lazy",
        action="store_true",
        help="be content with the receipt of frames of the same settings that are not here, as "
        "after 'dvc pull': what was made of them is enough",
    )
    _add_command(commands, "profile", "check a profile of params.yaml and say what it does")
    _add_command(commands, "results", "print the results table of a finished run")
    dream = _add_command(commands, "dream", "film what a world model imagines beside what happened")
    _add_dream_options(dream)
    inspect = commands.add_parser(
        "inspect",
        help="say what any artifact holds, and check raw frames against CALVIN's format",
        description="Say what an artifact holds: raw frames, index, store, shards, model, results. "
        "Raw frames are checked against CALVIN's format; the exit status is 1 if the pipeline "
        "cannot use them, or if --verify finds damage.",
    )
    inspect.add_argument("path", type=Path)
    inspect.add_argument(
        "--frames",
        type=_frame_count,
        default=200,
        metavar="N|all",
        help="raw frames of each split to look at, beside the ends of episodes and windows "
        "(default: 200)",
    )
    inspect.add_argument(
        "--verify",
        action="store_true",
        help="recompute the checksums of all files of an artifact; name the damaged and missing",
    )
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    replay = commands.add_parser(
        "replay",
        help="repeat a recorded trace of CALVIN's simulator and compare",
        description="Repeat the actions of a recorded trace in a fresh physics client; print the "
        "largest difference of every field, the success step and the recorded one.",
    )
    replay.add_argument("trace", type=Path, metavar="TRACE.npz")
    replay.add_argument(
        "--assets",
        type=Path,
        metavar="DIR",
        help="directory of CALVIN's scene assets (default: the embedded scene)",
    )
    replay.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _frame_count(text: str) -> int | None:
    """A positive number; None for ``all``."""
    if text == "all":
        return None
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor 'all'")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) == 0:
        raise argparse.ArgumentTypeError("0 is not positive")
    return int(text)


def _add_command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    description = f"{summary[0].upper()}{summary[1:]}."
    command = commands.add_parser(name, help=summary, description=description)
    command.add_argument(
        "--profile",
        default="demo",
        help="top-level key of params.yaml: ci, demo, small, paper or your own (default: demo)",
    )
    return command


def _add_export_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("webdataset", "lerobot"), default="webdataset")
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where to write (default: data/PROFILE/shards or data/PROFILE/lerobot)",
    )


def _add_dream_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--variant", required=True, choices=VARIANTS)
    start = command.add_mutually_exclusive_group()
    start.add_argument("--task", choices=TASKS, help="its first held-out demonstration")
    start.add_argument(
        "--sequence",
        type=_count,
        default=0,
        metavar="N",
        help="number of a sequence of evaluate-world-model (default: 0)",
    )
    command.add_argument(
        "--steps",
        type=_positive,
        metavar="N",
        help="imagined steps (default: evaluate_world_model.open_loop_steps)",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=".mp4 or .webp (default: data/PROFILE/dreams/VARIANT-START.mp4)",
    )


def _describe(name: str, profile: Profile) -> None:
    source = profile.raw.path or f"{profile.collect.training_frames:,} frames of scripted play"
    training = profile.train_world_model
    console.titled(
        f"profile {name}",
        f"{source} · {len(profile.tasks)} task(s) · world model "
        f"{training.updates:,} updates of {training.batch}×{training.window} frames · "
        f"PPO {profile.finetune.iterations} iterations × {len(profile.finetune.seeds)} seed(s)",
    )
