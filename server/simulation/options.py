"""The options of ``genarm simulate``, and what they say together. Nothing here needs numpy, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arm_models.errors import UserError

if TYPE_CHECKING:
    from server.simulation.measured import Measured
    from server.simulation.traffic import TrafficSettings

POLICIES = ("random", "least", "two", "session", "prefix", "spill")
"""Those of ``routing.py``."""

MODELS = ("models", "device", "dtype", "rewards", "threads", "seed")
"""Options that say what is served."""

AXES: dict[str, Callable[[str], Any]] = {"replicas": int, "policies": str, "guided": float, "loads": float}
"""Options of the sweep's grid, in the order of a cell's fields."""


MEASURED, VALIDATION, SWEEP = "measured.json", "validation.json", "sweep.json"
"""Files in ``--work``, by default."""


def measure_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``measure``."""
    _work(parser)
    _output(parser, MEASURED)
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


def assume_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``assume``."""
    _work(parser)
    _output(parser, MEASURED)
    parser.add_argument(
        "--measured",
        type=Path,
        required=True,
        metavar="FILE",
        help="of `measure`: what CPUs do beside the steps",
    )
    parser.add_argument("--models", default="7b", help="shapes: tiny, small, 1b, 7b (default)")
    for name, text in (
        ("bandwidth", "bytes of its memory that the machine reads a second"),
        ("flops", "multiplications and additions a second, 16 bits wide"),
        ("memory", "bytes of it"),
    ):
        parser.add_argument(f"--{name}", type=float, required=True, metavar="X", help=text)
    parser.add_argument(
        "--reached",
        type=float,
        default=0.5,
        metavar="P",
        help="share of both speeds that is reached, default 0.5",
    )
    parser.add_argument(
        "--launch", type=float, default=0.002, metavar="S", help="seconds of a forward besides, default 0.002"
    )
    parser.add_argument("--max-sequences", type=int, default=64, help="places of a replica, default 64")


def validate_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``validate``."""
    _work(parser)
    _measured(parser)
    _output(parser, VALIDATION)
    parser.add_argument("--policy", choices=POLICIES, default="spill")
    parser.add_argument("--requests", type=int, default=128, help="for each replica, default 128")
    parser.add_argument("--runs", type=int, default=3, help="of each case, default 3")
    parser.add_argument(
        "--replicas", type=int, action="append", help="servers; may be repeated, default 1 and 2"
    )
    parser.add_argument("--seed", type=int, default=0)
    _traffic_arguments(parser)


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``sweep``, which has its own shares of guided traffic."""
    _work(parser)
    _measured(parser)
    _output(parser, SWEEP)
    parser.add_argument("--resume", action="store_true", help="leave out the cells that --output has")
    _grid_arguments(parser)
    _price_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    _traffic_arguments(parser, share=False)


def _grid_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--replicas", default="1,10,100,1000", help="default 1,10,100,1000")
    parser.add_argument("--policies", default=",".join(POLICIES), help=f"default {','.join(POLICIES)}")
    parser.add_argument("--guided", default="0,0.5,1", help="shares of guided sessions, default 0,0.5,1")
    parser.add_argument("--loads", default="0.5,0.8,0.95", help="of the capacity, default 0.5,0.8,0.95")
    parser.add_argument(
        "--full",
        action="store_true",
        help="every one with every other; else policies under the middle share and load, and shares with loads under the last "
        "policy",
    )
    parser.add_argument("--requests", type=int, default=300, help="of a cell for each replica, default 300")
    parser.add_argument("--least", type=int, default=5000, help="of a cell, default 5000")
    parser.add_argument("--most", type=int, default=300_000, help="of a cell, default 300000")
    parser.add_argument(
        "--one-by-one", action="store_true", help="take no steps together: slower, to the same end"
    )


def document_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``document``, and of ``all``."""
    _work(parser)
    parser.add_argument(
        "--assumed", type=Path, metavar="FOLDER", help="another --work, of `assume` and a sweep of that"
    )
    parser.add_argument("--assumed-price", type=float, metavar="PRICE", help="of such a replica an hour")
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="FOLDER", help="default docs")
    _price_arguments(parser)
    parser.add_argument(
        "--costs",
        type=Path,
        metavar="FILE",
        help="of `genarm bench --only replicas`, or seconds by name (JSON)",
    )
    parser.add_argument(
        "--gateways", type=int, default=1, metavar="N", help="processes that requests meet first, default 1"
    )
    parser.add_argument(
        "--scrape-interval", type=float, default=15.0, metavar="S", help="of a replica's metrics, default 15"
    )


def _work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/scale"),
        metavar="FOLDER",
        help="of the files, default runs/scale",
    )


def _measured(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="FILE",
        help=f"what `measure` has written, default {MEASURED} in --work",
    )


def _output(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"JSON, default {name} in --work")


def _price_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--price", type=float, help="of a replica an hour, for the cost of a million tokens")


def _traffic_arguments(parser: argparse.ArgumentParser, *, share: bool = True) -> None:
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
    if share:
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
"""The field of ``TrafficSettings`` that an option is."""


def traffic_settings(args: argparse.Namespace, measured: Measured | None) -> TrafficSettings:
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


def listed(text: str, kind: Callable[[str], Any], name: str) -> list[Any]:
    """What stands between commas. Raises ``UserError``, with the option's ``name``."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{name}: {text!r} is no list of numbers with commas between") from None


_FILES = ("work", "measured", "output")


def command_line(name: str, args: argparse.Namespace, leave_out: Collection[str] = _FILES) -> str:
    """The command line that does the same, without the files."""
    parser = argparse.ArgumentParser()
    {
        "document": document_arguments,
        "measure": measure_arguments,
        "assume": assume_arguments,
        "validate": validate_arguments,
        "sweep": sweep_arguments,
    }[name](parser)
    words = ["genarm", "simulate", name]
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest in (*leave_out, "help", "resume") or value == action.default:
            continue
        flag = action.option_strings[0]
        if value is True:
            words.append(flag)
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [flag, f"{one:.12g}" if isinstance(one, float) else str(one)]
    return shlex.join(words)
