"""Streamed answers, each read by a thread of its own."""

import threading
import time
from typing import Any

import httpx

BODY: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "ignore_eos": True,
    "seed": 1,
}


class Stream:
    """One answer under way.

    Attributes:
        events: what came in ``data:`` lines, in order.
        broken: what the connection came to where it did not end well.
    """

    def __init__(self, url: str, key: str, **fields: Any) -> None:
        self.events: list[str] = []
        self.broken: httpx.HTTPError | None = None
        self._asked = BODY | {"stream": True} | fields
        self._url, self._key = url, key
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def began(self, events: int = 3) -> "Stream":
        """Waits until so many events have come."""
        deadline = time.monotonic() + 60
        while len(self.events) < events:
            assert self._thread.is_alive(), (self.events, self.broken)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def whole(self) -> list[str]:
        """Waits for the end; every event."""
        self._thread.join(90)
        assert not self._thread.is_alive()
        return self.events

    def _read(self) -> None:
        headers = {"authorization": f"Bearer {self._key}"}
        try:
            with httpx.stream(
                "POST", f"{self._url}/v1/chat/completions", json=self._asked, headers=headers, timeout=90
            ) as response:
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        self.events.append(line.removeprefix("data: "))
        except httpx.HTTPError as error:
            self.broken = error
