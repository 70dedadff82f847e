"""A conversation without a terminal: lines in, answers out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import aclosing

from server.terminal import slash
from server.terminal.cells import harmless
from server.terminal.service import Service, ServiceError
from server.terminal.talk import Talk


async def converse(service: Service, talk: Talk, lines: Iterable[str]) -> int:
    """Each line is a message or a command; answers go to standard output, everything else to standard error.

    1 when something got no answer, else 0.
    """
    code = 0
    for line in (one.rstrip("\r\n") for one in lines):
        if not line.strip():
            continue
        if slash.is_command(line):
            reply = slash.obey(line, talk, keys=False)
            for text in reply.lines:
                print(text, file=sys.stderr)
            code = 1 if reply.bad else code
            if reply.leave:
                break
        elif not await _answer(service, talk, slash.message(line)):
            code = 1
    return code


async def _answer(service: Service, talk: Talk, text: str) -> bool:
    said: list[str] = []
    error: ServiceError | None = None
    try:
        async with aclosing(service.answer(talk.body(text))) as pieces:
            async for piece in pieces:
                said.append(piece.text)
                print(harmless(piece.text), end="", flush=True)
    except ServiceError as caught:
        error = caught
    if error is None or any(said):
        print(flush=True)
    if error is not None:
        print(f"genarm: {error}", file=sys.stderr)
        return False
    talk.said(text, "".join(said))
    return True
