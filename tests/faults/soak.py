"""A server under more than it can take, for as long as one likes; then what it has left behind.

Traffic comes from here, what nobody thought of and the eye on /health and memory from processes of their own: they are not to
wait for each other.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
from tqdm import tqdm

from tests.faults.checks import Finding, exact, growth, held, percentile
from tests.faults.ledger import Ledger
from tests.faults.readers import READERS, read
from tests.faults.traffic import ask, first
from tests.process import ROOT, Process


@dataclass(frozen=True)
class Plan:
    """How much, and what is allowed.

    Attributes:
        seconds: of traffic.
        capacity: choices that the server lets in; half as many requests again are made at a time.
        keys: whose requests they are.
        samples: answers that are asked again.
        warm_up: seconds until memory is looked at.
        growth: share by which it may grow from then on.
        health: seconds that 99 of 100 GET /health may take.
    """

    seconds: float
    capacity: int
    keys: Sequence[str]
    samples: int
    warm_up: float
    growth: float
    health: float

    @property
    def clients(self) -> int:
        """Requests that are made at a time."""
        return self.capacity * 3 // 2


def soak(process: Process, plan: Plan) -> list[Finding]:
    """Traffic on a server that is ready, which nobody else uses; it runs on afterwards."""
    watch = _beside("watch", process.url, str(process.process.pid))
    strangers = _beside("strangers", process.url, plan.keys[0], str(plan.seconds))
    ledger = Ledger(plan.samples, random.Random(0))
    try:
        asyncio.run(_traffic(process.url, plan, ledger))
        seen = json.loads(watch.communicate(timeout=60)[0])
        odd, told = strangers.communicate(timeout=120)
    finally:
        watch.kill()
        strangers.kill()
    wrong, left = asyncio.run(_behind(process.url, plan, ledger))
    _tell(ledger, odd)
    if strangers.returncode:
        print(told)
    return [
        *_findings(process, plan, ledger, seen),
        _none("answers that are not exact", wrong, f"0 of {len(ledger.samples)}"),
        _none("held when idle", left, "nothing"),
        Finding(
            "strangers",
            str(sum(json.loads(odd).values())),
            "promised answers",
            not strangers.returncode,
        ),
    ]


async def _traffic(url: str, plan: Plan, ledger: Ledger) -> None:
    """All that is asked."""
    ends = time.monotonic() + plan.seconds
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client(url, key)) for key in plan.keys]
        people = [_person(number, clients, ends, ledger) for number in range(plan.clients)]
        await asyncio.gather(_progress(plan.seconds, ledger), *people)


async def _behind(url: str, plan: Plan, ledger: Ledger) -> tuple[list[str], list[str]]:
    """On the server at rest: what is wrong with answers, and what is held."""
    async with _client(url, plan.keys[0]) as client:
        left = await held(client)
        wrong = await exact(client, ledger.samples)
        return wrong, left + await held(client)


def _client(url: str, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=headers, limits=httpx.Limits(max_connections=None))


async def _person(number: int, clients: Sequence[httpx.AsyncClient], ends: float, ledger: Ledger) -> None:
    """One request after another."""
    rng = random.Random(number)
    asked = first(number, rng)
    while time.monotonic() < ends:
        try:
            heard = await read(rng.choice(clients), asked, rng)
        except httpx.HTTPError as error:
            ledger.complain(f"{asked.kind}: {error!r}; asked {asked.sent[:300]!r}")
            await asyncio.sleep(0.2)
        else:
            ledger.take(asked, heard)
            if heard.status == 429:
                await asyncio.sleep(rng.uniform(0.05, 0.5))
        asked = ask(rng)


async def _progress(seconds: float, ledger: Ledger) -> None:
    began = time.monotonic()
    with tqdm(total=round(seconds), unit="s", desc="soak") as bar:
        while (passed := time.monotonic() - began) < seconds:
            bar.update(int(passed) - bar.n)
            bar.set_postfix(requests=ledger.requests, tokens=ledger.tokens, broken=ledger.complaints)
            await asyncio.sleep(1)


def _beside(module: str, *arguments: str) -> "subprocess.Popen[str]":
    """One of our programs in a process of its own; it ends when its input does."""
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.faults.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def _findings(process: Process, plan: Plan, ledger: Ledger, seen: dict[str, list[object]]) -> list[Finding]:
    memory = [(float(at), int(size)) for at, size in seen["memory"]]
    health = [float(seconds) for seconds in seen["health"]]
    grown = growth(memory, plan.warm_up)
    slow = percentile(health, 0.99)
    full = sum(count for (_, outcome), count in ledger.outcomes.items() if outcome == "429")
    return [
        Finding("requests", str(ledger.requests), "some of each kind", _every_kind(ledger)),
        Finding("refused by a full queue", str(full), "some", full > 0),
        _none("what must not be", ledger.broken, "nothing", ledger.complaints),
        Finding("runs on", str(process.process.poll() is None), "True", process.process.poll() is None),
        Finding(
            "resident memory",
            f"{memory[-1][1] >> 20} MiB, {grown:+.1%} since warm-up",
            f"+{plan.growth:.0%}",
            grown <= plan.growth,
        ),
        Finding("/health p99", f"{1000 * slow:.1f} ms", f"{1000 * plan.health:.0f} ms", slow < plan.health),
    ]


def _every_kind(ledger: Ledger) -> bool:
    return {kind for kind, _ in ledger.outcomes} == set(READERS)


def _none(name: str, found: Sequence[str], allowed: str, count: int | None = None) -> Finding:
    """Good where there is none; what there is, is printed."""
    for one in found:
        print(f"{name}: {one}")
    return Finding(name, str(len(found) if count is None else count), allowed, not found)


def _tell(ledger: Ledger, odd: str) -> None:
    print("\nwhat came of which request:")
    for (kind, outcome), count in sorted(ledger.outcomes.items()):
        print(f"  {kind:12} {outcome:6} {count}")
    print(f"  strangers    {odd.strip()}")


def table(findings: Sequence[Finding]) -> str:
    """The findings, a line each."""
    lines = [
        ("", "what", "seen", "allowed"),
        *((("no ", "ok ")[one.good], one.name, one.seen, one.allowed) for one in findings),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
