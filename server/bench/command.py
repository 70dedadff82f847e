"""``genarm bench``: run the comparisons, print a table, write JSON."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arm_models.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``genarm bench``."""
    parser.add_argument("--models", default="demo", help="demo (default), or random weights: tiny, small")
    parser.add_argument("--rewards", type=int, default=2, help="reward models in the mix, default 2")
    parser.add_argument("--requests", type=int, default=32, help="requests side by side, default 32")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side, default 5")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, lengths, weights and draws")
    parser.add_argument("--threads", type=int, help="torch threads for both sides, default torch's own")
    parser.add_argument("--only", choices=["zero", "generate"], help="one comparison instead of all")
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

    from server.bench.scenario import SCENARIOS
    from server.bench.shapes import model_sources, scratch_folder
    from server.bench.workload import Workload

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    names = [args.only] if args.only else list(SCENARIOS)
    workload = Workload.of(args.models, args.requests, args.seed)
    with (
        scratch_folder() as folder,
        tqdm(total=len(names) * (args.runs + 1), unit="run", disable=not sys.stderr.isatty()) as bar,
    ):
        sources = model_sources(args.models, args.rewards, Path(folder))
        results = [SCENARIOS[name](sources, workload, args.runs, bar.update) for name in names]
    print(_table(results))
    print(
        f"\n{_machine()}, {torch.get_num_threads()} torch threads; tokens per second, medians of {args.runs}"
    )
    if args.output is not None:
        _write(args, results)
    return 0 if all(result.ratio >= result.bar for result in results) else 1


def _table(results: Sequence[Any]) -> str:
    lines = [f"{'comparison':14} {'ours':>22} {'peer':>32} {'ratio':>7}  {'runs':>13}  {'bar':>6}"]
    for result in results:
        ours = f"{result.ours} {_median(result.our_rates)}"
        peer = f"{result.peer} {_median(result.peer_rates)}"
        low, high = result.spread
        verdict = "ok" if result.ratio >= result.bar else "MISSED"
        lines.append(
            f"{result.name:14} {ours:>22} {peer:>32} {result.ratio:7.2f}  {low:5.2f} – {high:5.2f}  "
            f"{result.bar:6.2f} {verdict}"
        )
    return "\n".join(lines)


def _median(rates: Sequence[float]) -> str:
    return f"{sorted(rates)[len(rates) // 2]:.0f}"


def _machine() -> str:
    import torch
    import transformers

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return (
        f"{gpu}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def _write(args: argparse.Namespace, results: Sequence[Any]) -> None:
    """Beside first, then renamed, so that a file is whole or not there."""
    record = {
        "command": f"genarm bench --models {args.models} --rewards {args.rewards} --requests {args.requests} "
        f"--runs {args.runs} --seed {args.seed}"
        + (f" --threads {args.threads}" if args.threads else "")
        + (f" --only {args.only}" if args.only else ""),
        "machine": _machine(),
        "results": [
            {
                "name": result.name,
                "ours": result.ours,
                "peer": result.peer,
                "unit": "output tokens per second",
                "our_rates": result.our_rates,
                "peer_rates": result.peer_rates,
                "ratio": result.ratio,
                "bar": result.bar,
            }
            for result in results
        ],
    }
    beside = args.output.with_name(args.output.name + ".tmp")
    beside.write_text(json.dumps(record, indent=2) + "\n")
    beside.replace(args.output)
