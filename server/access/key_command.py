"""``genarm key``: a new API key, and its entry for the file of keys."""

from __future__ import annotations

import argparse
import secrets
import sys
from typing import Any

import yaml
from pydantic import ValidationError

from arm_models.errors import UserError
from server.access.key_file import DeclaredKey, digest
from server.config import complaint

PREFIX = "sk-genarm-"
BYTES = 32
"""Random bytes of a key: too many to guess, so a plain SHA-256 is enough to keep."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the key may do; without options what the deployment allows everybody."""
    parser.epilog = (
        "The key goes to stderr, once; its entry to stdout: `echo keys: > keys.yaml`, then `… >> keys.yaml`."
    )
    parser.add_argument("--name", required=True, help="what logs call the holder")
    parser.add_argument("--admin", action="store_true", help="may change what is served")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="choices under way at once")
    parser.add_argument(
        "--preset",
        action="append",
        metavar="NAME",
        help="may ask for this preset and no other; may be repeated",
    )
    parser.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH",
        help="the weight α/β allowed for NAME, either end may be empty; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Makes a key and prints it."""
    key = PREFIX + secrets.token_urlsafe(BYTES)
    entry = yaml.safe_dump([declared(args, key)], sort_keys=False, allow_unicode=True)
    print(f"the key, shown this once: {key}", file=sys.stderr)
    print(entry, end="")
    return 0


def declared(args: argparse.Namespace, key: str) -> dict[str, Any]:
    """The entry of ``key`` as the file has it.

    Raises:
        UserError: an option says what no entry can; names it.
    """
    entry: dict[str, Any] = {"name": args.name, "hash": f"sha256:{digest(key.encode()).hex()}"}
    if args.admin:
        entry["admin"] = True
    if args.max_concurrent is not None:
        entry["max_concurrent"] = args.max_concurrent
    if args.preset:
        entry["presets"] = args.preset
    if args.range:
        entry["ranges"] = dict(_range(text) for text in args.range)
    try:
        DeclaredKey.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise UserError(f"key: {complaint(first['loc'], first['type'], first['msg'])}") from None
    return entry


def _range(text: str) -> tuple[str, list[float | None]]:
    name, equals, bounds = text.partition("=")
    low, colon, high = bounds.partition(":")
    try:
        if name and equals and colon:
            return name, [_bound(low), _bound(high)]
    except ValueError:
        pass
    raise UserError(f"--range {text}: must be NAME=LOW:HIGH, either end may be empty")


def _bound(text: str) -> float | None:
    return float(text) if text.strip() else None
