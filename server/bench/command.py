"""``genarm bench``: run the comparisons, print a table, write JSON."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arm_models.errors import UserError

if TYPE_CHECKING:
    from server.bench.result import Result

ONLY = (
    "zero",
    "generate",
    "static",
    "stream",
    "http",
    "sweep",
    "unreported",
    "reported",
    "prefix",
    "steering",
)
"""The scenarios; named here so that `--help` needs no torch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``genarm bench``."""
    parser.add_argument("--models", default="demo", help="demo (default), or random weights: tiny, small")
    parser.add_argument("--rewards", type=int, default=2, help="reward models in the mix, default 2")
    parser.add_argument("--requests", type=int, default=32, help="requests side by side, default 32")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side, default 5")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, lengths, weights and draws")
    parser.add_argument("--threads", type=int, help="torch threads for both sides, default torch's own")
    parser.add_argument(
        "--only", choices=ONLY, action="append", help="this one; may be repeated (default: all)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the samples to FILE (JSON)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when every bar is reached, 1 when one is missed. Raises ``UserError`` on misuse."""
    for name in ("rewards", "requests", "runs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads must be at least 1, not {args.threads}")
    if args.output is not None and not args.output.parent.is_dir():
        raise UserError(f"--output: the folder {args.output.parent} does not exist")
    import torch
    from tqdm import tqdm

    from server.bench.scenarios import SCENARIOS
    from server.bench.setup import Setup
    from server.bench.shapes import model_sources, scratch_folder
    from server.bench.workload import Workload

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    names = [name for name in SCENARIOS if not args.only or name in args.only]
    workload = Workload.of(args.models, args.requests, args.seed)
    with (
        scratch_folder() as folder,
        tqdm(total=len(names) * (args.runs + 1), unit="run", disable=not sys.stderr.isatty()) as bar,
    ):
        sources = model_sources(args.models, args.rewards, Path(folder))
        setup = Setup(sources, workload, args.runs, bar.update)
        results = [SCENARIOS[name](setup) for name in names]
    print(_table(results))
    print(f"\n{_machine()}, {torch.get_num_threads()} torch threads; medians of {args.runs}")
    if args.output is not None:
        _write(args, results)
    return 0 if all(result.reached for result in results) else 1


def _table(results: "Sequence[Result]") -> str:
    heads = ("comparison", "ours", "peer", "value", "runs", "bar")
    rows = [(*result.row(), "ok" if result.reached else "MISSED") for result in results]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [_line(heads, widths), *(f"{_line(row, widths)} {row[-1]}" for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=False))
    return "  ".join([name.strip().ljust(widths[0]), *others])


def _machine() -> str:
    import torch
    import transformers

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return (
        f"{gpu}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def _write(args: argparse.Namespace, results: "Sequence[Result]") -> None:
    """Beside first, then renamed, so that a file is whole or not there."""
    record = {
        "command": f"genarm bench --models {args.models} --rewards {args.rewards} --requests {args.requests} "
        f"--runs {args.runs} --seed {args.seed}"
        + (f" --threads {args.threads}" if args.threads else "")
        + "".join(f" --only {name}" for name in args.only or ()),
        "machine": _machine(),
        "results": [result.record() for result in results],
    }
    beside = args.output.with_name(args.output.name + ".tmp")
    beside.write_text(json.dumps(record, indent=2) + "\n")
    beside.replace(args.output)
