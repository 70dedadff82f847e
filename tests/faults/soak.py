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
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

import httpx
from tqdm import tqdm

from tests.faults.checks import exact, failures, growth, held, metrics, percentile
from tests.faults.ledger import EXACT, Ledger
from tests.faults.readers import READERS, read
from tests.faults.report import Finding, Report
from tests.faults.strangers import PROMISED
from tests.faults.swaps import swap
from tests.faults.traffic import ask, first
from tests.process import ROOT, Process

LONG = 60
"""Seconds after which each promised ending has come up."""

TRIES = 12
"""How often somebody who is refused asks the same."""

COUNTED = PROMISED | {408}
"""Statuses that the server may have counted as failures."""

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
"""Of the seconds that GET /health took."""


@dataclass(frozen=True)
class Plan:
    """How much, and what is allowed.

    Attributes:
        seconds: of traffic.
        capacity: choices that the server lets in; half as many requests again are made at a time.
        keys: whose requests they are.
        operator: an administrator's key.
        stranger: the key of those who send what nobody thought of.
        swap: seconds from one change of a reward to the next.
        samples: answers that are asked again.
        warm_up: seconds until memory is looked at.
        growth: share by which it may grow from then on.
        health: seconds that 99 of 100 GET /health may take.
    """

    seconds: float
    capacity: int
    keys: Sequence[str]
    operator: str
    stranger: str
    swap: float
    samples: int
    warm_up: float
    growth: float
    health: float

    @property
    def clients(self) -> int:
        """Requests that are made at a time."""
        return self.capacity * 3 // 2


@dataclass(frozen=True)
class Seen:
    """What was seen besides the answers: by the watch, by the strangers, and of the server when all had gone."""

    health: Sequence[float]
    memory: Sequence[tuple[float, int]]
    strangers: Mapping[str, int]
    strange: str
    failures: Mapping[int, int]
    wrong: Sequence[str]
    left: Sequence[str]


def soak(process: Process, plan: Plan) -> Report:
    """Traffic on a server that is ready, which nobody else uses; it runs on afterwards."""
    watch = _beside("watch", process.url, str(process.process.pid))
    strangers = _beside("strangers", process.url, plan.stranger, str(plan.seconds))
    ledger = Ledger(plan.samples, random.Random(0))
    try:
        asyncio.run(_traffic(process.url, plan, ledger))
        watched, complaint = watch.communicate(timeout=60)
        odd, told = strangers.communicate(timeout=120)
    finally:
        watch.kill()
        strangers.kill()
    assert not watch.returncode, complaint
    failures, wrong, left = asyncio.run(_behind(process.url, plan, ledger))
    watched = json.loads(watched)
    seen = Seen(
        watched["health"],
        watched["memory"],
        json.loads(odd),
        told if strangers.returncode else "",
        failures,
        wrong,
        left,
    )
    _print(ledger, seen)
    return Report(
        _findings(process, plan, ledger, seen),
        {name: value for name, value in asdict(plan).items() if name not in ("keys", "operator", "stranger")},
        ledger.by_kind,
        seen.strangers,
        {name: percentile(seen.health, share) for name, share in SHARES.items()},
        [size >> 20 for _, size in seen.memory[:: max(1, len(seen.memory) // 60)]],
    )


async def _traffic(url: str, plan: Plan, ledger: Ledger) -> None:
    """All that is asked."""
    ends = time.monotonic() + plan.seconds
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client(url, key)) for key in plan.keys]
        operator = await stack.enter_async_context(_client(url, plan.operator))
        people = [_person(number, clients, ends, ledger) for number in range(plan.clients)]
        await asyncio.gather(
            _progress(plan.seconds, ledger), swap(operator, ends, plan.swap, ledger), *people
        )


async def _behind(url: str, plan: Plan, ledger: Ledger) -> tuple[dict[int, int], list[str], list[str]]:
    """On the server at rest: what it counted, what is wrong with answers, and what is held."""
    async with _client(url, plan.operator) as operator, _client(url, plan.keys[0]) as client:
        left = await held(operator)
        counted = failures(await metrics(operator))
        wrong = await exact(client, ledger.samples)
        return counted, wrong, left + await held(operator)


def _client(url: str, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=headers, limits=httpx.Limits(max_connections=None))


async def _person(number: int, clients: Sequence[httpx.AsyncClient], ends: float, ledger: Ledger) -> None:
    """One request after another; what is refused is asked again for a while."""
    rng = random.Random(number)
    asked, tries = first(number, rng), 0
    while time.monotonic() < ends:
        tries += 1
        try:
            heard = await read(rng.choice(clients), asked, rng)
        except httpx.HTTPError as error:
            ledger.complain(f"{asked.kind}: {error!r}; asked {asked.sent[:300]!r}")
            await asyncio.sleep(0.2)
        else:
            ledger.take(asked, heard)
            if heard.status == 429:
                await asyncio.sleep(rng.uniform(0.05, 0.5))
                if tries < TRIES:
                    continue
        asked, tries = ask(rng), 0


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


def _findings(process: Process, plan: Plan, ledger: Ledger, seen: Seen) -> list[Finding]:
    samples, runs = len(ledger.samples), process.process.poll() is None
    exact_kinds = {asked.kind for asked, _ in ledger.samples}
    unpromised = {status: count for status, count in seen.failures.items() if status not in COUNTED}
    return [
        Finding("requests", str(ledger.requests), "some of each kind", _every_kind(ledger)),
        _some("refused by a full queue", ledger.count("429")),
        _some("waited too long, 503", ledger.count("503"), needed=plan.seconds >= LONG),
        _some("waited too long, in a stream", ledger.count("queue_timeout"), needed=plan.seconds >= LONG),
        _some("took too long, 504", ledger.count("504"), needed=plan.seconds >= LONG),
        _some("took too long, in a stream", ledger.count("timeout"), needed=plan.seconds >= LONG),
        _some("slow readers that were left", seen.failures.get(408, 0), needed=plan.seconds >= LONG),
        _some("rewards swapped", sum(ledger.by_kind.get("swap", {}).values())),
        _none("what must not be", ledger.broken, "nothing", ledger.complaints),
        Finding("statuses that are not promised", str(unpromised or 0), "0", not unpromised),
        Finding("runs on", str(runs), "True", runs),
        _flat(plan, seen.memory),
        _quick(plan, seen.health),
        _none("answers that are not exact", seen.wrong, f"0 of {samples}"),
        Finding("kinds of exact answers", str(len(exact_kinds)), str(len(EXACT)), exact_kinds == EXACT),
        _none("held when idle", seen.left, "nothing"),
        Finding("strangers", str(sum(seen.strangers.values())), "promised answers", not seen.strange),
    ]


def _flat(plan: Plan, memory: Sequence[tuple[float, int]]) -> Finding:
    grown = growth(memory, plan.warm_up)
    size = f"{memory[-1][1] >> 20} MiB, {grown:+.1%} since warm-up"
    return Finding("resident memory", size, f"+{plan.growth:.0%}", grown <= plan.growth)


def _quick(plan: Plan, health: Sequence[float]) -> Finding:
    slow = percentile(health, 0.99)
    return Finding("/health p99", f"{1000 * slow:.1f} ms", f"{1000 * plan.health:.0f} ms", slow < plan.health)


def _every_kind(ledger: Ledger) -> bool:
    return set(ledger.by_kind) - {"swap"} == set(READERS)


def _some(name: str, count: int, *, needed: bool = True) -> Finding:
    """What has to have happened, lest it be untried; or may have, where there was too little time to count on it."""
    return Finding(name, str(count), "some" if needed else "any", count > 0 or not needed)


def _none(name: str, found: Sequence[str], allowed: str, count: int | None = None) -> Finding:
    """Good where there is none; what there is, is printed."""
    for one in found:
        print(f"{name}: {one}")
    return Finding(name, str(len(found) if count is None else count), allowed, not found)


def _print(ledger: Ledger, seen: Seen) -> None:
    print("\nwhat came of which request:")
    told = {**ledger.by_kind, "strangers": dict(sorted(seen.strangers.items()))}
    for kind, outcomes in told.items():
        print(f"  {kind:12} {'  '.join(f'{outcome} {count}' for outcome, count in outcomes.items())}")
    print(f"  by its own count, failed: {dict(sorted(seen.failures.items()))}")
    if seen.strange:
        print(seen.strange)
