"""``genarm bench``: run the comparisons, print a table, write JSON and a chart."""

import argparse
import itertools
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arm_models.errors import UserError

if TYPE_CHECKING:
    from tqdm import tqdm

ONLY = (
    "zero",
    "generate",
    "static",
    "stream",
    "http",
    "sweep",
    "vectors",
    "unreported",
    "reported",
    "prefix",
    "steering",
    "cost",
    "lora",
    "floor",
    "serving",
    "flood",
    "transformers",
    "speculation",
    "steps",
    "rounding",
    "int8",
    "replicas",
    "scaling",
)
"""The scenarios; named here so that `--help` needs no torch."""

_ASKED = ("replicas", "scaling")
"""Those that are only run when they are asked for: they need more than the extra bench."""

_NO_SETTINGS = ("only", "output", "resume", "chart")
"""Options that change nothing about what a scenario finds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``genarm bench``."""
    parser.add_argument(
        "--models", default="demo", help="demo (default), or random weights: tiny, small, 1b, 7b"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N, for every model")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of every model; default float32, bfloat16 for random weights on a GPU",
    )
    parser.add_argument("--rewards", type=int, default=2, help="reward models in the mix, default 2")
    parser.add_argument(
        "--requests", type=int, help="requests side by side, default 32 for the demo and else 64"
    )
    parser.add_argument(
        "--peer-requests",
        type=int,
        default=8,
        help="of them, those that a peer which takes one at a time writes in a run, default 8",
    )
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side, default 5")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, lengths, weights and draws")
    parser.add_argument("--threads", type=int, help="torch threads for all sides, default torch's own")
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="for the caches of one engine on a CPU, default an eighth of the machine's",
    )
    parser.add_argument(
        "--rate",
        type=float,
        action="append",
        metavar="R",
        help="serving: arrivals per second; may be repeated (default: 0.5, 0.8 and 1 of the capacity)",
    )
    parser.add_argument(
        "--ttft-limit", type=float, default=2.0, metavar="S", help="serving: for goodput, default 2"
    )
    parser.add_argument(
        "--itl-limit", type=float, default=0.25, metavar="S", help="serving: for goodput, default 0.25"
    )
    parser.add_argument("--quick", action="store_true", help="few sizes of steps: does it run?")
    parser.add_argument(
        "--only",
        choices=ONLY,
        action="append",
        help="this one; may be repeated (default: all but those on Ray)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the samples to FILE (JSON)")
    parser.add_argument(
        "--resume", action="store_true", help="leave out the scenarios that --output already has"
    )
    parser.add_argument(
        "--chart", type=Path, metavar="FILE", help="also draw FILE (.png or .svg; needs matplotlib)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when every bar is reached, 1 when one is missed. Raises ``UserError`` on misuse."""
    _check(args)
    import torch

    from server.bench.chart import draw
    from server.bench.findings import Findings
    from server.bench.machine import machine
    from server.bench.malloc import tune_malloc
    from server.bench.table import table

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    about = {
        "command": _command(args),
        "machine": machine(),
        "malloc": "tuned alike" if tune_malloc() else "the system's",
        "settings": _settings(args),
    }
    findings = Findings(args.output, about)
    if args.resume:
        findings.resume()
    names = [name for name in ONLY if name in (args.only or set(ONLY).difference(_ASKED))]
    _measure(args, names, findings)
    found = findings.of(names)
    print(table(found))
    print(f"\n{machine()}; medians of {args.runs}; malloc {about['malloc']}")
    if args.chart is not None:
        draw(found, args.chart)
    return 0 if all(finding.reached for finding in found) else 1


def _measure(args: argparse.Namespace, names: list[str], findings: Any) -> None:
    """Run the scenarios that are not yet among the findings."""
    from tqdm import tqdm

    from server.bench.scenarios import SCENARIOS
    from server.bench.setup import Setup
    from server.bench.shapes import Models, scratch_folder
    from server.bench.workload import Workload

    missing = [name for name in names if not findings.has(name)]
    with (
        scratch_folder() as folder,
        tqdm(total=len(missing), unit="scenario", disable=not sys.stderr.isatty()) as bar,
    ):
        models = Models(args.models, Path(folder), args.device, _dtype(args))
        workload = Workload.of(args.models, args.requests, args.seed)
        for name in missing:
            bar.set_description(name)
            tick = partial(_count, bar, itertools.count(1))
            setup = Setup(models, args.rewards, workload, args.runs, tick, _limits(args))
            found = SCENARIOS[name](setup)
            findings.add(name, found if isinstance(found, (list, tuple)) else [found])
            bar.update()


def _count(bar: "tqdm[Any]", parts: Iterator[int]) -> None:
    """Show that one more part of a scenario is done."""
    bar.set_postfix(part=next(parts))


def _check(args: argparse.Namespace) -> None:
    from server.bench.chart import check_chart

    for name in ("rewards", "requests", "runs", "threads", "peer_requests"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    rates = [("rate", rate) for rate in args.rate or ()]
    limits = [(name, getattr(args, name)) for name in ("memory", "ttft_limit", "itl_limit")]
    for name, value in [*rates, *limits]:
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} must be above 0, not {value}")
    if args.output is not None and not args.output.parent.is_dir():
        raise UserError(f"--output: the folder {args.output.parent} does not exist")
    if args.resume and args.output is None:
        raise UserError("--resume needs --output: the file to go on from")
    if args.chart is not None:
        check_chart(args.chart)
    if not args.only or "transformers" in args.only:
        _check_transformers()
    on_ray = [name for name in _ASKED if name in (args.only or ())]
    if on_ray and find_spec("ray") is None:
        raise UserError(f"--only {on_ray[0]} needs Ray: pip install 'genarm[ray]'")


def _check_transformers() -> None:
    """Whether transformers' server could be started, before hours of measuring. Raises ``UserError``."""
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        raise UserError("--only transformers needs transformers' server: pip install 'genarm[bench]'")


def _dtype(args: argparse.Namespace) -> str:
    on_gpu = args.device != "cpu" and args.models != "demo"
    return "bfloat16" if args.dtype == "auto" and on_gpu else str(args.dtype)


def _limits(args: argparse.Namespace) -> Any:
    from server.bench.machine import memory
    from server.bench.setup import Limits

    cache = memory() // 8 if args.memory is None else int(args.memory * 2**30)
    rates = tuple(args.rate or ())
    return Limits(args.peer_requests, cache, args.quick, rates, args.ttft_limit, args.itl_limit)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What a scenario's findings depend on."""
    own = argparse.ArgumentParser()
    add_arguments(own)
    names = [action.dest for action in own._actions if action.dest not in ("help", *_NO_SETTINGS)]
    return {name: getattr(args, name) for name in names}


def _command(args: argparse.Namespace) -> str:
    """The command line that measures the same."""
    own = argparse.ArgumentParser()
    add_arguments(own)
    words = ["genarm", "bench"]
    for action in own._actions:
        value = getattr(args, action.dest, None)
        if action.dest in ("help", "output", "resume", "chart") or value == action.default:
            continue
        flag = action.option_strings[0]
        if value is True:
            words.append(flag)
        else:
            words += [
                word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))
            ]
    return shlex.join(words)
