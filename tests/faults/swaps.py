"""An operator who changes rewards under everybody's hands: one is replaced by a new copy of itself, another comes and goes."""

import asyncio
import itertools
import time

import httpx

from tests.faults.ledger import Ledger

PATH = "/v1/admin/rewards"
REPLACED, NEWCOMER = "harmless", "newcomer"


async def swap(client: httpx.AsyncClient, ends: float, every: float, ledger: Ledger) -> None:
    """Until ``ends``, so many seconds apart. The copy has the same weights, so that whoever is asked again is told the same."""
    model = next(one for one in (await _rewards(client))["data"] if one["name"] == REPLACED)["model"]
    for turn in itertools.count():
        if time.monotonic() + every > ends:
            return
        await asyncio.sleep(every)
        if turn % 2 == 0:
            await _put(client, REPLACED, model, 200, ledger)
        elif turn % 4 == 1:
            await _put(client, NEWCOMER, model, 201, ledger)
        else:
            told = await client.delete(f"{PATH}/{NEWCOMER}", timeout=120)
            _note(told, 200, ledger)


async def leaving(client: httpx.AsyncClient) -> list[str]:
    """What is still there of rewards that went."""
    return [str(one) for one in (await _rewards(client))["leaving"]]


async def _rewards(client: httpx.AsyncClient) -> dict[str, list[dict[str, object]]]:
    response = await client.get(PATH, timeout=60)
    return response.raise_for_status().json()  # type: ignore[no-any-return]


async def _put(client: httpx.AsyncClient, name: str, model: object, status: int, ledger: Ledger) -> None:
    body = (
        {"name": name, "model": model, "default": 0.0} if name == NEWCOMER else {"name": name, "model": model}
    )
    _note(await client.post(PATH, json=body, timeout=120), status, ledger)


def _note(told: httpx.Response, status: int, ledger: Ledger) -> None:
    ledger.outcomes["swap", str(told.status_code)] += 1
    if told.status_code != status:
        ledger.complain(f"swap: {told.status_code} instead of {status}: {told.text[:300]}")
