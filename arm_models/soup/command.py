"""``genarm soup``: models and their weights → one model."""

import argparse
import sys
from pathlib import Path

from arm_models.loading.checkpoint import open_checkpoint
from arm_models.soup.files import METHODS, make_soup
from arm_models.soup.part import read_parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The parts, where the soup goes, and how adapters are averaged."""
    parser.allow_abbrev = False
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="FOLDER=WEIGHT",
        help="a part and its weight from 0 to 1, for every part; the weights sum to 1",
    )
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="where the soup goes; must not be there yet"
    )
    parser.add_argument(
        "--base",
        metavar="FOLDER",
        help="the model that all parts started from: they are checked against it, and an adapter names it as its backbone",
    )
    parser.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="delta",
        help="adapters: average the update ΔW exactly, in a higher rank (default), or the factors A and B",
    )


def run(args: argparse.Namespace) -> int:
    """Write the soup; raises UserError for parts that cannot be averaged."""
    base = None if args.base is None else open_checkpoint("--base", args.base)
    make_soup(read_parts(args.model), Path(args.output), args.method, base)
    print(f"{args.output} written", file=sys.stderr)
    return 0
