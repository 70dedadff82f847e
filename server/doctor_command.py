"""``genarm doctor``: could this deployment be served here, and if not, why; without loading a model."""

from __future__ import annotations

import argparse

from server import serve_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``genarm serve`` takes, so that the same command line can be asked about."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    serve_command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what was found; 0 when it could be served, 1 when something stands in the way."""
    from server.doctor import as_json, as_text, diagnose

    found = diagnose(lambda: serve_command.deployment_from(args))
    print(as_json(found) if args.json else as_text(found))
    return 1 if found.problems else 0
