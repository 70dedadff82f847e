"""Requests begin one at a time, one of each owner in turn, and everything else that the loop has to do goes on in between."""

import asyncio
from collections.abc import Sequence

from server.api.turns import Turns


async def begun(asked: Sequence[str], *, gone: Sequence[int] = ()) -> list[str]:
    """The order in which requests of these owners, come together, begin, "-" being a round of the loop; of ``gone`` the clients
    leave.
    """
    turns, order = Turns(), list[str]()

    async def request(owner: str) -> None:
        await turns.wait(owner)
        order.append(owner)

    async def rounds() -> None:
        while True:
            order.append("-")
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(request(owner)) for owner in asked]
    await asyncio.sleep(0)
    for number in gone:
        tasks[number].cancel()
    clock = asyncio.create_task(rounds())
    await asyncio.wait(tasks)
    clock.cancel()
    return order


def test_one_of_each_owner_begins_in_turn() -> None:
    order = asyncio.run(begun(["flood"] * 100 + ["quiet"] * 3 + ["other"]))
    began = [owner for owner in order if owner != "-"]
    assert began[:7] == ["flood", "quiet", "other", "flood", "quiet", "flood", "quiet"]
    assert began.count("flood") == 100


def test_between_two_the_loop_goes_round() -> None:
    order = asyncio.run(begun(["flood"] * 20))
    assert order.count("flood") == 20
    assert "flood flood" not in " ".join(order)


def test_who_has_left_holds_up_nobody_and_later_requests_begin_too() -> None:
    order = asyncio.run(begun(["one", "one", "two", "two"], gone=[0, 1, 2]))
    assert [owner for owner in order if owner != "-"] == ["two"]

    async def twice() -> None:
        turns = Turns()
        for _ in range(2):
            await asyncio.wait_for(turns.wait("one"), 5)

    asyncio.run(twice())
