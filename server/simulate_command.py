"""``genarm simulate``: many replicas under many users, from measured times of steps."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arm_models.errors import UserError

if TYPE_CHECKING:
    from server.bench.setup import Setup
    from server.simulation.measured import Measured
    from server.simulation.traffic import TrafficSettings

MEASURED, VALIDATION, SWEEP = "measured.json", "validation.json", "sweep.json"
"""Files in ``--work``."""

POLICIES = ("random", "least", "two", "session", "prefix", "spill")
"""Named here so that `--help` needs no numpy."""

KV_TOKENS = 1024
"""Tokens of cache for each place, where nothing else is asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A part each for measuring, comparing, simulating and writing."""
    parts = parser.add_subparsers(required=True, metavar="part")
    for name, add, text in (
        ("measure", _measure_arguments, "time steps, neighbours and the CPU beside steps on this machine"),
        ("validate", _validate_arguments, "real servers under the simulated users, beside the simulation"),
        ("sweep", _sweep_arguments, "simulate replicas x policies x guided shares x loads"),
        ("document", _document_arguments, "write scale.md and its pictures of what there is"),
        ("all", _all_arguments, "one after the other with their defaults, what is there already left out"),
    ):
        part = parts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add(part)
        part.set_defaults(part=name)


def run(args: argparse.Namespace) -> int:
    """One part; 1 where real servers were not as simulated. Raises ``UserError`` on misuse."""
    parts: dict[str, Callable[[argparse.Namespace], int]] = {
        "measure": measure,
        "validate": validate,
        "sweep": sweep,
        "document": document,
        "all": everything,
    }
    # As an interruption does: servers and neighbours that were started are ended, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return parts[args.part](args)
    except ValueError as error:  # a limit, a length or a number of the command line
        raise UserError(f"simulate {args.part}: {error}") from None


def measure(args: argparse.Namespace) -> int:
    """Measure this machine; 0."""
    import torch

    from server.bench.malloc import tune_malloc
    from server.bench.scale.measure import Effort, parts
    from server.bench.scale.measure import measure as measure_machine
    from server.simulation.limits import Limits

    _check_folder(args.output)
    _at_least_one(args, "steps", "runs", "side_by_side", "rewards", "threads", "max_sequences")
    settings = replace(_traffic(args, None), rewards=args.rewards)
    limits = Limits(
        args.kv_tokens or KV_TOKENS * args.max_sequences,
        args.max_sequences,
        max_step_tokens=max(512, args.max_sequences),
        cache="slabs" if args.device == "cpu" else "pages",
    )
    effort = Effort(args.steps, args.side_by_side, args.runs)
    torch.set_num_threads(args.threads)
    tune_malloc()
    about = {
        "command": _command("measure", args),
        "settings": {name: getattr(args, name) for name in _MODELS},
    }
    with _bar(parts(limits, effort), "part") as tick, _setup(about["settings"], tick) as setup:
        _check_length(setup, settings)
        measured = measure_machine(setup, settings, limits, effort, about)
    measured.write(args.output)
    _print_measured(measured)
    return 0


def validate(args: argparse.Namespace) -> int:
    """Hold the simulation against real servers; 1 where it misses its bar."""
    import torch

    from arm_models.whole_file import write_whole
    from server.bench.scale.validation import Question, parts
    from server.bench.scale.validation import validate as compare
    from server.simulation.measured import read_measured
    from server.simulation.report import validation_table

    _check_folder(args.output)
    _at_least_one(args, "requests", "runs", *(() if args.replicas is None else ("replicas",)))
    measured = read_measured(args.measured)
    question = Question(
        _traffic(args, measured),
        args.policy,
        args.requests,
        args.runs,
        tuple(args.replicas or (1, 2)),
        args.seed,
    )
    if max(question.replicas) > len(measured.beside):
        raise UserError(
            f"--replicas: steps were measured beside up to {len(measured.beside)} engines "
            "(`genarm simulate measure --side-by-side`)"
        )
    settings = _served(measured, args.measured)
    torch.set_num_threads(settings["threads"])
    with _bar(parts(question), "run") as tick, _setup(settings, tick) as setup:
        cases = compare(setup, measured, _vocab(setup), question)
    record = {
        "command": _command("validate", args),
        "machine": measured.about.get("machine"),
        "traffic": question.settings.as_json(),
        "cases": [case.record() for case in cases],
    }
    write_whole(args.output, json.dumps(record, indent=1) + "\n")
    print(validation_table(record["cases"]))
    return 0 if all(case.reached for case in cases) else 1


def sweep(args: argparse.Namespace) -> int:
    """Simulate the grid; 0."""
    from tqdm import tqdm

    from server.simulation.measured import read_measured
    from server.simulation.report import sweep_table
    from server.simulation.sweep import Plan, Results, Simulations, grid

    _check_folder(args.output)
    if args.price is not None and not 0 <= args.price < float("inf"):
        raise UserError(f"--price must not be negative, not {args.price:g}")
    if args.resume and args.output is None:
        raise UserError("--resume needs --output: the file to go on from")
    measured = read_measured(args.measured)
    cells = grid(*(tuple(_listed(getattr(args, name), kind, name)) for name, kind in _AXES.items()))
    _check_cells(cells)
    _at_least_one(args, "requests", "most")
    plan = Plan(cells, _traffic(args, measured), args.requests, args.most, args.seed)
    about = {
        "measured": _digest(args.measured),
        "traffic": plan.settings.as_json(),
        "requests": plan.requests,
        "most": plan.most,
        "seed": plan.seed,
        "one by one": args.one_by_one,
    }
    results = Results(args.output, about, _command("sweep", args))
    if args.resume:
        results.resume()
    simulations = Simulations(measured, plan, together=not args.one_by_one)
    missing = [cell for cell in cells if cell.name not in results.cells]
    with tqdm(
        total=sum(plan.turns(cell) for cell in missing),
        unit="request",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        for cell in missing:
            bar.set_description(cell.name)
            outcome = simulations.run(cell, bar.update)
            results.add(cell, simulations.capacity(cell.guided), outcome)
    print(sweep_table([results.cells[cell.name] for cell in cells], args.price))
    return 0


def document(args: argparse.Namespace) -> int:
    """Write what there is; 0."""
    from server.simulation.bottleneck import Central
    from server.simulation.document import Findings, write_document
    from server.simulation.measured import read_measured
    from server.simulation.pictures import check_pictures

    check_pictures()
    files = {name: args.work / name for name in (MEASURED, VALIDATION, SWEEP)}
    measured = read_measured(files[MEASURED]) if files[MEASURED].exists() else None
    validation, swept = (_json(files[name]) for name in (VALIDATION, SWEEP))
    if not args.gateway_cores > 0 or not args.scrape_interval > 0:
        raise UserError("--gateway-cores and --scrape-interval must be above 0")
    findings = Findings(
        None if measured is None else _with_costs(measured, args.costs),
        validation,
        list(swept["cells"].values()) if swept else [],
        Central(args.gateway_cores, args.scrape_interval),
        args.price,
        {
            MEASURED: str(measured.about.get("command", "")) if measured else "",
            VALIDATION: str((validation or {}).get("command", "")),
            SWEEP: str((swept or {}).get("command", "")),
        },
    )
    for path in write_document(args.docs, findings):
        print(path)
    return 0


def everything(args: argparse.Namespace) -> int:
    """Measure, validate, sweep, write; what ``validate`` says."""
    from server.simulation.pictures import check_pictures

    check_pictures()
    args.work.mkdir(parents=True, exist_ok=True)
    measured, validation, swept = (args.work / name for name in (MEASURED, VALIDATION, SWEEP))
    if not measured.exists():
        measure(_part("measure", output=measured))
    if not validation.exists():
        validate(_part("validate", measured=measured, output=validation))
    sweep(_part("sweep", measured=measured, output=swept, resume=True, price=args.price))
    document(args)
    cases = (_json(validation) or {}).get("cases", [])
    return 0 if all(case["reached"] for case in cases) else 1


_MODELS = ("models", "device", "dtype", "rewards", "threads", "seed")
"""Options that say what is served."""

_AXES: dict[str, Callable[[str], Any]] = {"replicas": int, "policies": str, "guided": float, "loads": float}
"""Options of the sweep's grid, in the order of a cell's fields."""


def _measure_arguments(parser: argparse.ArgumentParser) -> None:
    _output(parser)
    _model_arguments(parser)
    _traffic_arguments(parser)


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", default="small", help="random weights: tiny, small (default), 1b, 7b; or demo"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--rewards", type=int, default=2, help="reward models, default 2")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a replica, default 1")
    parser.add_argument("--max-sequences", type=int, default=32, help="places of a replica, default 32")
    parser.add_argument("--kv-tokens", type=int, help="cache of each member, default 1024 for each place")
    parser.add_argument("--steps", type=int, default=60, help="timed steps of a phase, default 60")
    parser.add_argument("--runs", type=int, default=5, help="of what is timed in turn, default 5")
    parser.add_argument(
        "--side-by-side", type=int, default=2, metavar="N", help="engines that run together, default up to 2"
    )
    parser.add_argument("--seed", type=int, default=0)


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    _measured(parser)
    _output(parser)
    parser.add_argument("--policy", choices=POLICIES, default="spill")
    parser.add_argument("--requests", type=int, default=128, help="for each replica, default 128")
    parser.add_argument("--runs", type=int, default=3, help="of each case, default 3")
    parser.add_argument(
        "--replicas", type=int, action="append", help="servers; may be repeated, default 1 and 2"
    )
    parser.add_argument("--seed", type=int, default=0)
    _traffic_arguments(parser)


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    _measured(parser)
    _output(parser, required=False)
    parser.add_argument("--resume", action="store_true", help="leave out the cells that --output has")
    _grid_arguments(parser)
    _price_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    _traffic_arguments(parser)


def _grid_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--replicas", default="1,10,100,1000", help="default 1,10,100,1000")
    parser.add_argument("--policies", default=",".join(POLICIES), help=f"default {','.join(POLICIES)}")
    parser.add_argument("--guided", default="0,0.5,1", help="shares of guided sessions, default 0,0.5,1")
    parser.add_argument("--loads", default="0.5,0.8,0.95", help="of the capacity, default 0.5,0.8,0.95")
    parser.add_argument("--requests", type=int, default=1000, help="of a cell for each replica, default 1000")
    parser.add_argument("--most", type=int, default=300_000, help="of a cell, default 300000")
    parser.add_argument(
        "--one-by-one", action="store_true", help="take no steps together: slower, to the same end"
    )


def _document_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work", type=Path, default=Path("runs/scale"), metavar="FOLDER", help="default runs/scale"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="FOLDER", help="default docs")
    _price_arguments(parser)
    parser.add_argument(
        "--costs", type=Path, metavar="FILE", help="JSON: seconds of what is there once for all replicas"
    )
    parser.add_argument("--gateway-cores", type=float, default=1.0, metavar="N", help="default 1")
    parser.add_argument(
        "--scrape-interval", type=float, default=15.0, metavar="S", help="of a replica's metrics, default 15"
    )


def _all_arguments(parser: argparse.ArgumentParser) -> None:
    """The document's own; all else is as the parts have it where nothing is asked for."""
    _document_arguments(parser)


def _measured(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--measured", type=Path, required=True, metavar="FILE", help="what `measure` has written"
    )


def _output(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--output", type=Path, required=required, metavar="FILE", help="JSON")


def _price_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--price", type=float, help="of a replica an hour, for the cost of a million tokens")


def _traffic_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of ``TrafficSettings``; what is not given is as in the measurements, or its default."""
    group = parser.add_argument_group(
        "users (lengths: 128, 16-256, exponential:100, lognormal:200,1.2,1-4096)"
    )
    group.add_argument("--turns", metavar="LENGTH", help="of a session, default 1-4")
    group.add_argument("--systems", type=int, metavar="N", help="system prompts in use, default 8")
    group.add_argument("--system-tokens", type=int, metavar="N", help="of each, default 256")
    group.add_argument("--message", metavar="LENGTH", help="tokens a user says, default 16-128")
    group.add_argument("--answer", dest="output_tokens", metavar="LENGTH", help="tokens, default 16-128")
    group.add_argument("--think", metavar="LENGTH", help="seconds between turns, default exponential:10")
    group.add_argument("--longest", type=int, metavar="N", help="prompt and answer, default 2048")
    group.add_argument("--guided-share", type=float, metavar="P", help="of the sessions, default 0.5")
    group.add_argument("--burst", type=float, metavar="B", help="1 (default): Poisson; above it in bursts")
    group.add_argument("--period", type=float, metavar="S", help="of bursts, default 30")


_TRAFFIC = {
    "turns": "turns",
    "systems": "systems",
    "system_tokens": "system_tokens",
    "message": "message",
    "output_tokens": "output",
    "think": "think",
    "longest": "longest",
    "guided_share": "guided",
    "burst": "burst",
    "period": "period",
}
"""Options by the field they are."""


def _traffic(args: argparse.Namespace, measured: Measured | None) -> TrafficSettings:
    """What the options say, over what was measured under, over the defaults. Raises ``ValueError``."""
    from server.simulation.traffic import TrafficSettings

    given = {
        field: getattr(args, option)
        for option, field in _TRAFFIC.items()
        if getattr(args, option, None) is not None
    }
    try:
        kept = {} if measured is None else {**measured.about["traffic"], "rewards": len(measured.members) - 1}
        return TrafficSettings(**{**kept, **given})
    except (KeyError, TypeError):
        raise UserError(f"{args.measured}: its traffic is of another version; measure again") from None


@contextmanager
def _setup(settings: dict[str, Any], tick: Callable[[], object]) -> Iterator[Setup]:
    """Models as measured, written to a folder that goes away."""
    from server.bench.setup import Setup
    from server.bench.shapes import Models, scratch_folder
    from server.bench.workload import Workload

    dtype = settings["dtype"]
    if dtype == "auto" and settings["device"] != "cpu" and settings["models"] != "demo":
        dtype = "bfloat16"
    with scratch_folder() as folder:
        models = Models(settings["models"], Path(folder), settings["device"], dtype)
        workload = Workload.of(settings["models"], None, settings["seed"])
        yield Setup(models, settings["rewards"], workload, 1, tick)


def _check_length(setup: Setup, settings: TrafficSettings) -> None:
    """Whether every member can read the longest request, before anything is timed."""
    family = setup.stock_family()
    shortest = min(member.max_length for member in (family.base, *family.rewards))
    if settings.longest > shortest:
        raise UserError(f"--longest must be at most {shortest}: the models read no more")


def _vocab(setup: Setup) -> int:
    family = setup.stock_family()
    return min(member.vocab_size for member in (family.base, *family.rewards))


@contextmanager
def _bar(total: int, unit: str) -> Iterator[Callable[[], object]]:
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, disable=not sys.stderr.isatty()) as bar:
        yield bar.update


def _print_measured(measured: Measured) -> None:
    from server.simulation.report import costs_table
    from server.simulation.table import percent

    errors = measured.errors()
    print(costs_table(measured))
    print(
        f"\nmicroseconds; against {errors.count} steps the fit has not seen: median error {percent(errors.median)}, "
        f"95th percentile {percent(errors.p95)}, together {100 * errors.total:+.1f} %; "
        f"off the CPU {percent(measured.about['off_cpu'])}"
    )


def _with_costs(measured: Measured, path: Path | None) -> Measured:
    """Measured, with what a file says of what is there once."""
    from server.simulation.bottleneck import CENTRAL

    if path is None:
        return measured
    costs = _json(path)
    if costs is None:
        raise UserError(f"--costs: {path} does not exist")
    for name, value in costs.items():
        if name not in CENTRAL:
            raise UserError(f"--costs: there is no {name!r}; there are {', '.join(CENTRAL)}")
        if value is not None and (not isinstance(value, (int, float)) or not 0 <= value < float("inf")):
            raise UserError(f"--costs: {name} must be seconds, not {value!r}")
    return replace(measured, central={**measured.central, **costs})


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no file. Raises ``UserError``."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no JSON object")
    return found


def _listed(text: str, kind: Callable[[str], Any], name: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{name}: {text!r} is no list of numbers with commas between") from None


def _check_cells(cells: Any) -> None:
    for cell in cells:
        if cell.policy not in POLICIES:
            raise UserError(f"--policies: there is no {cell.policy!r}; there are {', '.join(POLICIES)}")
        if cell.replicas < 1 or not 0 <= cell.guided <= 1 or not 0 < cell.load < float("inf"):
            raise UserError(f"{cell.name}: replicas must be at least 1, guided in [0, 1], load above 0")


def _at_least_one(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = getattr(args, name)
        for one in value if isinstance(value, list) else [value]:
            if one < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {one}")


def _check_folder(path: Path | None) -> None:
    if path is not None and not path.parent.is_dir():
        raise UserError(f"--output: the folder {path.parent} does not exist")


def _digest(path: Path) -> str:
    """What tells one file of measurements from another."""
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _part(name: str, **given: Any) -> argparse.Namespace:
    """The options of a part: its defaults, and these."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = [name]
    for key, value in given.items():
        words += [f"--{key}"] if value is True else [] if value is None else [f"--{key}", str(value)]
    return parser.parse_args(words)


def _served(measured: Measured, path: Path) -> dict[str, Any]:
    """Which models were measured. Raises ``UserError`` where the file does not say."""
    settings = measured.about.get("settings")
    if not isinstance(settings, dict) or any(name not in settings for name in _MODELS):
        raise UserError(f"{path}: does not say which models were measured")
    return settings


def _command(name: str, args: argparse.Namespace) -> str:
    """The command line that does the same, without the files."""
    parser = argparse.ArgumentParser()
    {"measure": _measure_arguments, "validate": _validate_arguments, "sweep": _sweep_arguments}[name](parser)
    words = ["genarm", "simulate", name]
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest in ("help", "resume") or value == action.default:
            continue
        flag = action.option_strings[0]
        if isinstance(value, Path):
            value = value.name
        if value is True:
            words.append(flag)
        else:
            words += [
                word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))
            ]
    return shlex.join(words)
