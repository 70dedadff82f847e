"""``genarm demo build``: make the demo's models from one seed."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from arm_models.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``genarm demo``."""
    actions = parser.add_subparsers(required=True, metavar="action", dest="action")
    build = actions.add_parser("build", help="make the base and its reward models from one seed")
    build.add_argument(
        "--out", type=Path, default=Path("demo-models"), metavar="DIR", help="where to (default: demo-models)"
    )
    build.add_argument(
        "--seed", type=int, default=0, help="of the data, the weights and the draws (default: 0)"
    )
    build.add_argument(
        "--quick",
        action="store_true",
        help="seconds instead of an hour: tiny models that have learned nothing",
    )
    build.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")


def run(args: argparse.Namespace) -> int:
    """Build, or go on with a build that was interrupted. Raises ``UserError`` on misuse."""
    if args.seed < 0:
        raise UserError(f"--seed must not be negative, not {args.seed}")
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads must be at least 1, not {args.threads}")
    import torch

    from arm_models.demo.allocator import keep_freed_memory
    from arm_models.demo.build import Build

    keep_freed_memory()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    Build(args.out, args.seed, args.quick).run(lambda line: print(line, file=sys.stderr, flush=True))
    return 0
