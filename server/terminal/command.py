"""``genarm chat``: a conversation with any server of this kind, from options to the last word."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from arm_models.errors import UserError
from server.terminal.cells import one_line

if TYPE_CHECKING:
    from server.terminal.screen import Screen
    from server.terminal.service import Offer
    from server.terminal.talk import Talk
    from server.terminal.tint import Palette

URL = "http://127.0.0.1:8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``genarm chat``."""
    parser.add_argument("--url", default=URL, help=f"the server, default {URL}")
    parser.add_argument(
        "--model", metavar="ID", help="a model id or preset of it, default the server's first"
    )
    parser.add_argument("--api-key", metavar="KEY", help="default: the environment's GENARM_API_KEY")
    parser.add_argument(
        "--set",
        dest="weights",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=NUMBER",
        help="weights to begin with; others begin with the model's",
    )
    parser.add_argument("--seed", metavar="N", help="of every draw: the same words again for the same keys")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer, in tokens")
    parser.add_argument(
        "--no-colour", "--no-color", action="store_true", help="no colours; also where NO_COLOR is set"
    )


def run(args: argparse.Namespace) -> int:
    """Talks until somebody leaves: 0; or until the input ends: 1 when something got no answer.

    Raises:
        UserError: a bad option, or no such server.
    """
    url, key = _url(args.url), _key(args.api_key)
    seed = _seed(args.seed)
    if args.max_tokens is not None and args.max_tokens < 1:
        raise UserError(f"--max-tokens must be at least 1, not {args.max_tokens}")
    offer = asyncio.run(_offer(url, key))
    talk = _begin(args, offer, seed)
    from server.terminal.screen import Screen, is_terminal
    from server.terminal.tint import Palette

    if is_terminal():
        screen, palette = Screen(), Palette(colour=not (args.no_colour or os.environ.get("NO_COLOR")))
        with screen.taken():
            asyncio.run(_at_a_terminal(url, key, talk, screen, palette))
        return 0
    try:
        return asyncio.run(_in_a_pipe(url, key, talk))
    except BrokenPipeError:
        # Nobody reads any more; what Python would still write at its end must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


async def _offer(url: str, key: str | None) -> Offer:
    """Raises ``UserError`` where there is no server that can be talked to."""
    from server.terminal.service import Refused, Service, ServiceError

    try:
        async with Service(url, key) as service:
            return await service.offer()
    except Refused as error:
        if error.status == 401:
            raise UserError(
                f"{url} asks for an API key: pass --api-key or set GENARM_API_KEY ({error})"
            ) from None
        raise UserError(f"{url} does not serve /v1/preferences: {error}") from None
    except ServiceError as error:
        raise UserError(str(error)) from None


def _begin(args: argparse.Namespace, offer: Offer, seed: int | None) -> Talk:
    """The conversation before its first word: the model's own weights, or its preset's, and --set on top."""
    from server.terminal.talk import Talk
    from server.terminal.weights import Weights, read_weights

    if not offer.models:
        raise UserError("the server lists no model")
    model = args.model if args.model is not None else offer.models[0]
    if model not in offer.models:
        raise UserError(one_line(f"--model {model}: the server has {', '.join(offer.models)}"))
    weights = Weights(offer.rewards)
    preset = model.rpartition(":")[2]
    try:
        if preset != model and preset in offer.presets:
            weights.replace(offer.presets[preset])
        weights.update(read_weights(args.weights))
    except ValueError as error:
        raise UserError(one_line(f"--set {error}")) from None
    return Talk(model, weights, offer.presets, seed, args.max_tokens)


async def _at_a_terminal(url: str, key: str | None, talk: Talk, screen: Screen, palette: Palette) -> None:
    from server.terminal.conversation import Conversation
    from server.terminal.service import Service

    async with Service(url, key) as service:
        await Conversation(service, talk, screen, palette).run()


async def _in_a_pipe(url: str, key: str | None, talk: Talk) -> int:
    from server.terminal.plain import converse
    from server.terminal.service import Service

    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    async with Service(url, key) as service:
        return await converse(service, talk, _lines())


def _lines() -> Iterator[str]:
    """What is typed or piped in; somebody at a terminal whose output goes elsewhere still sees when to type."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _url(text: str) -> str:
    """The server's address, also from what OpenAI's clients call it, which ends with /v1."""
    url = text.strip().rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query + parts.fragment
        _ = parts.port
    except ValueError:
        fine = False
    if not fine or not url.isascii() or not url.isprintable() or " " in url:
        raise UserError(one_line(f"--url {text}: write http://HOST:PORT or https://HOST"))
    return url


def _key(option: str | None) -> str | None:
    key = option if option is not None else os.environ.get("GENARM_API_KEY", "")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError("the API key holds characters that no key has")
    return key or None


def _seed(option: str | None) -> int | None:
    from server.terminal.slash import read_seed

    try:
        return None if option is None else read_seed(option)
    except ValueError as error:
        raise UserError(one_line(f"--{error}")) from None
