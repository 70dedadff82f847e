"""A long body is made while the event loop goes on; a short one at once."""

import asyncio
import json
import threading

import pytest
from pydantic import BaseModel

from server.api.written import SHORT, written


class Told(BaseModel):
    thread: str
    more: int = 0


@pytest.mark.parametrize(("size", "beside"), [(SHORT - 1, False), (SHORT, True)])
def test_what_is_long_is_made_in_another_thread(size: int, beside: bool) -> None:
    response = asyncio.run(written(lambda: Told(thread=threading.current_thread().name), size))
    told = json.loads(bytes(response.body))
    assert set(told) == {"thread"}
    assert (told["thread"] != threading.current_thread().name) is beside
