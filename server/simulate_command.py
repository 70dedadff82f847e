"""``genarm simulate``: many replicas under many users, from measured times of steps."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arm_models.errors import UserError
from server.simulation.options import (
    AXES,
    MEASURED,
    MODELS,
    POLICIES,
    SWEEP,
    VALIDATION,
    assume_arguments,
    command_line,
    document_arguments,
    listed,
    measure_arguments,
    sweep_arguments,
    traffic_settings,
    validate_arguments,
)

if TYPE_CHECKING:
    from server.bench.setup import Setup
    from server.bench.shapes import Shape
    from server.simulation.document import Findings
    from server.simulation.measured import Measured
    from server.simulation.traffic import TrafficSettings

MOST_REPLICAS = 100_000

KV_TOKENS = 1024
"""Tokens of cache for each place, where nothing else is asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A part each for measuring, comparing, simulating and writing."""
    parts = parser.add_subparsers(required=True, metavar="part")
    for name, add, text in (
        ("measure", measure_arguments, "time steps, neighbours and the CPU beside steps on this machine"),
        ("assume", assume_arguments, "a machine by its data sheet in the place of a measured one"),
        ("validate", validate_arguments, "real servers under the simulated users, beside the simulation"),
        ("sweep", sweep_arguments, "simulate replicas x policies x guided shares x loads"),
        ("document", document_arguments, "write scale.md and its pictures of what there is"),
        (
            "all",
            document_arguments,
            "one after the other with their defaults, what is there already left out",
        ),
    ):
        part = parts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add(part)
        part.set_defaults(part=name)


def run(args: argparse.Namespace) -> int:
    """One part; 1 where real servers were not as simulated. Raises ``UserError`` on misuse."""
    parts: dict[str, Callable[[argparse.Namespace], int]] = {
        "measure": measure,
        "assume": assume,
        "validate": validate,
        "sweep": sweep,
        "document": document,
        "all": everything,
    }
    # As an interruption does: servers and neighbours that were started are ended, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _place_files(args)
    try:
        return parts[args.part](args)
    except ValueError as error:  # a limit, a length or a number of the command line
        raise UserError(f"simulate {args.part}: {error}") from None
    except OSError as error:  # a file or a folder
        raise UserError(f"simulate {args.part}: {error.filename or ''} {error.strerror or error}") from None


def measure(args: argparse.Namespace) -> int:
    """Measure this machine; 0."""
    import torch

    from server.bench.malloc import tune_malloc
    from server.bench.scale.measure import Effort, parts
    from server.bench.scale.measure import measure as measure_machine
    from server.simulation.limits import Limits

    _check_folder(args.output)
    _at_least_one(args, "steps", "runs", "side_by_side", "rewards", "threads", "max_sequences")
    settings = replace(traffic_settings(args, None), rewards=args.rewards)
    limits = Limits(
        args.kv_tokens or KV_TOKENS * args.max_sequences,
        args.max_sequences,
        max_step_tokens=max(512, args.max_sequences),
        cache="slabs" if args.device == "cpu" else "pages",
    )
    effort = Effort(args.steps, args.side_by_side, args.runs)
    torch.set_num_threads(args.threads)
    tune_malloc()
    served = {name: getattr(args, name) for name in MODELS}
    about = {"command": command_line("measure", args), "settings": served}
    with _bar(parts(limits, effort), "part") as tick, _setup(served, tick) as setup:
        _check_length(setup, settings)
        measured = measure_machine(setup, settings, limits, effort, about)
    measured.write(args.output)
    _print_measured(measured)
    return 0


def assume(args: argparse.Namespace) -> int:
    """Make up a machine; 0."""
    from server.bench.shapes import SHAPES
    from server.simulation.assumed import Chip, Weights
    from server.simulation.assumed import assume as assume_machine
    from server.simulation.measured import read_measured

    _check_folder(args.output)
    _at_least_one(args, "max_sequences")
    if args.models not in SHAPES:
        raise UserError(f"--models: there is no shape {args.models!r}; there are {', '.join(SHAPES)}")
    measured = read_measured(args.measured)
    if args.output.exists() and args.output.samefile(args.measured):
        raise UserError(f"--output: {args.output} is what was measured")
    chip = Chip(args.bandwidth, args.flops, args.memory, args.reached, args.launch)
    base, reward = (Weights.of(*_sizes(shape)) for shape in SHAPES[args.models])
    members = [base, *(reward for _ in measured.members[1:])]
    about = {"command": command_line("assume", args)}
    assumed = assume_machine(chip, members, args.max_sequences, measured, about)
    assumed.write(args.output)
    _print_measured(assumed)
    return 0


def _sizes(shape: Shape) -> tuple[int, ...]:
    heads = shape.hidden // shape.head
    kv_heads, intermediate = shape.kv_heads or heads, shape.intermediate or shape.hidden * 11 // 4
    return shape.layers, shape.hidden, heads, kv_heads, shape.head, intermediate, shape.vocab


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
        traffic_settings(args, measured),
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
    found = [case.record() for case in cases]
    record = {
        "command": command_line("validate", args),
        "machine": measured.about.get("machine"),
        "traffic": question.settings.as_json(),
        "cases": found,
    }
    write_whole(args.output, json.dumps(record, indent=1) + "\n")
    print(validation_table(found))
    return 0 if all(case.reached for case in cases) else 1


def sweep(args: argparse.Namespace) -> int:
    """Simulate the grid; 0."""
    from tqdm import tqdm

    from server.simulation.measured import read_measured
    from server.simulation.report import sweep_table
    from server.simulation.sweep import Plan, Results, Simulations, cross, grid

    _check_folder(args.output)
    _check_price("price", args.price)
    measured = read_measured(args.measured)
    cells = (grid if args.full else cross)(
        *(tuple(listed(getattr(args, name), kind, name)) for name, kind in AXES.items())
    )
    _check_cells(cells)
    _at_least_one(args, "requests", "least", "most")
    if args.least > args.most:
        raise UserError(f"--least must not be above --most, {args.most}")
    plan = Plan(cells, traffic_settings(args, measured), args.requests, args.most, args.seed, args.least)
    about = {
        "measured": _digest(args.measured),
        "traffic": plan.settings.as_json(),
        "requests": plan.requests,
        "least": plan.least,
        "most": plan.most,
        "seed": plan.seed,
        "one by one": args.one_by_one,
    }
    results = Results(args.output, about, command_line("sweep", args))
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
    from server.simulation.document import write_document
    from server.simulation.pictures import check_pictures

    check_pictures()
    _at_least_one(args, "gateways")
    if not 0 < args.scrape_interval < float("inf"):
        raise UserError(f"--scrape-interval must be above 0, not {args.scrape_interval:g}")
    _check_price("price", args.price)
    _check_price("assumed-price", args.assumed_price)
    findings = _findings(args.work, args.costs, args.price)
    assumed = None if args.assumed is None else _findings(args.assumed, args.costs, args.assumed_price)
    if assumed is not None and (assumed.measured is None or "assumed" not in assumed.measured.about):
        raise UserError(f"--assumed: {args.assumed} has no {MEASURED} of `genarm simulate assume`")
    command = command_line("document", args, ("docs",))
    findings = replace(
        findings,
        central=Central(args.gateways, args.scrape_interval),
        assumed=assumed,
        commands={**findings.commands, "scale.md": command},
    )
    for path in write_document(args.docs, findings):
        print(path)
    return 0


def _findings(folder: Path, costs: Path | None, price: float | None) -> Findings:
    """What a folder of files says."""
    from server.simulation.document import Findings
    from server.simulation.measured import read_measured

    file = folder / MEASURED
    measured = _with_costs(read_measured(file), costs) if file.exists() else None
    validation, swept = _kept(folder / VALIDATION, "cases", list), _kept(folder / SWEEP, "cells", dict)
    commands = {MEASURED: None if measured is None else measured.about, VALIDATION: validation, SWEEP: swept}
    return Findings(
        measured,
        validation,
        list(swept["cells"].values()) if swept else [],
        price=price,
        commands={name: str((about or {}).get("command", "")) for name, about in commands.items()},
    )


def _kept(path: Path, part: str, kind: type) -> dict[str, Any] | None:
    """A file of ours, which has this part; None where there is none. Raises ``UserError``."""
    found = _json(path)
    if found is not None and not isinstance(found.get(part), kind):
        raise UserError(f"{path}: has no {part}; `genarm simulate` did not write it")
    return found


def _check_price(option: str, price: float | None) -> None:
    if price is not None and not 0 <= price < float("inf"):
        raise UserError(f"--{option} must not be negative, not {price:g}")


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
    kept = _json(path)
    if kept is None:
        raise UserError(f"--costs: {path} does not exist")
    costs = _of_bench(kept, path) if "results" in kept else kept
    for name, value in costs.items():
        if name not in CENTRAL:
            raise UserError(f"--costs: there is no {name!r}; there are {', '.join(CENTRAL)}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value < float("inf")):
            raise UserError(f"--costs: {name} must be seconds, not {value!r}")
    return replace(measured, central={**measured.central, **costs})


def _of_bench(kept: dict[str, Any], path: Path) -> dict[str, Any]:
    """The costs among the findings of ``genarm bench --only replicas``."""
    found = kept["results"] if isinstance(kept["results"], list) else []
    for result in found:
        if isinstance(result, dict) and isinstance(result.get("costs"), dict):
            return dict(result["costs"])
    raise UserError(f"--costs: {path} has no costs; `genarm bench --only replicas` measures them")


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


def _check_cells(cells: Any) -> None:
    for cell in cells:
        if cell.policy not in POLICIES:
            raise UserError(f"--policies: there is no {cell.policy!r}; there are {', '.join(POLICIES)}")
        if cell.replicas > MOST_REPLICAS:
            raise UserError(f"--replicas: at most {MOST_REPLICAS:,}, not {cell.replicas:,}")
        if cell.replicas < 1 or not 0 <= cell.guided <= 1 or not 0 < cell.load < float("inf"):
            raise UserError(f"{cell.name}: replicas must be at least 1, guided in [0, 1], load above 0")


def _at_least_one(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = getattr(args, name)
        for one in value if isinstance(value, list) else [value]:
            if one < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {one}")


def _place_files(args: argparse.Namespace) -> None:
    """The files that were not named are in ``--work``, which is made where something goes there."""
    own = {"measure": MEASURED, "assume": MEASURED, "validate": VALIDATION, "sweep": SWEEP}
    if getattr(args, "measured", ...) is None:
        args.measured = args.work / MEASURED
    if args.part in own and args.output is None:
        try:
            args.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--work: {args.work} cannot be made: {error.strerror}") from None
        args.output = args.work / own[args.part]


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
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
    if not isinstance(settings, dict) or any(name not in settings for name in MODELS):
        raise UserError(f"{path}: does not say which models were measured")
    return settings
