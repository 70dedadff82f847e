"""``genarm compare``: train the methods of the family on the demo world, run them, and write what came out."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from arm_models.errors import UserError

if TYPE_CHECKING:
    from server.comparison.stages import Runner, Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``genarm compare``."""
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/comparison"),
        metavar="FOLDER",
        help="models and answers; a stopped run goes on there",
    )
    parser.add_argument(
        "--docs",
        type=Path,
        default=Path("docs"),
        metavar="FOLDER",
        help="where evaluation.md goes, default docs",
    )
    parser.add_argument(
        "--records",
        type=Path,
        default=Path("benchmarks/results/evaluation"),
        metavar="FOLDER",
        help="where the figures go as JSON",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="stages side by side, one thread each; default: the CPU's cores"
    )
    parser.add_argument(
        "--quick", action="store_true", help="minutes: does all of it run? Its figures mean nothing"
    )
    parser.add_argument(
        "--plan", action="store_true", help="print the stages that are left with an estimate, and run nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run what is not done and write the document; 0 whatever reproduces. Raises ``UserError`` on misuse or a failed stage."""
    from arm_models.evaluation.report.picture import check_pictures
    from server.comparison.models import Models
    from server.comparison.plan import full_plan, quick_plan
    from server.comparison.stages import Runner, chained
    from server.comparison.sweeps import Sweeps

    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {args.jobs}")
    check_pictures()
    models = Models(quick_plan() if args.quick else full_plan(), args.work.absolute())
    if not (models.base / "model.safetensors").is_file():
        raise UserError(f"the demo models are not there ({models.base}): run `genarm demo build`")
    sweeps = Sweeps(models)
    stages = chained([*models.stages(), *sweeps.stages()])
    runner = Runner(models.folder, args.jobs or os.cpu_count() or 1)
    if args.plan:
        _print_plan(runner, stages)
        return 0
    started = time.monotonic()
    # As an interruption does: the stages under way are ended, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _run(runner, stages)
    _write(args, sweeps, stages, runner, time.monotonic() - started)
    return 0


def _print_plan(runner: Runner, stages: list[Stage]) -> None:
    for stage in stages:
        state = (
            f"done in {runner.seconds(stage):.0f} s"
            if runner.is_done(stage)
            else f"about {stage.seconds:.0f} s"
        )
        print(f"{stage.name:32} {state}{', by itself' if stage.alone else ''}")
    print(f"\nabout {runner.estimate(stages) / 60:.0f} minutes left with {runner.jobs} jobs")


def _run(runner: Runner, stages: list[Stage]) -> None:
    from tqdm import tqdm

    total = sum(stage.seconds for stage in stages)
    done = sum(stage.seconds for stage in stages if runner.is_done(stage))
    minutes = runner.estimate(stages) / 60
    print(f"{len(stages)} stages, about {minutes:.0f} minutes left with {runner.jobs} jobs", file=sys.stderr)
    shape = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]{postfix}"
    with tqdm(total=round(total), initial=round(done), desc="comparing", bar_format=shape) as bar:

        def told(stage: Stage) -> None:
            bar.set_postfix_str(stage.name, refresh=False)
            bar.update(stage.seconds)

        runner.run(stages, told)


def _write(
    args: argparse.Namespace, sweeps: object, stages: list[Stage], runner: Runner, seconds: float
) -> None:
    from server.bench.machine import machine
    from server.comparison.document import write
    from server.comparison.results import Results
    from server.comparison.sweeps import Sweeps

    assert isinstance(sweeps, Sweeps)
    spent = sum(runner.seconds(stage) for stage in stages)
    about = {
        "command": shlex.join(["genarm", "compare", *(["--quick"] if args.quick else [])]),
        "machine": machine(),
        "notes": [
            f"{len(stages)} stages took {spent / 60:.0f} minutes of one core in all, {runner.jobs} of them side by side with one "
            "thread each."
        ],
        "seconds": {stage.name: runner.seconds(stage) for stage in stages},
    }
    for claim in write(Results(sweeps), args.docs, args.records, about):
        print(f"{claim.verdict:22} {claim.statement}: {claim.measured}")
    print(f"\n{args.docs / 'evaluation.md'} written, {seconds / 60:.0f} minutes in this run")
