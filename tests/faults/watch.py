"""Watches a server from a process of its own: ``python -m tests.faults.watch URL PID``, until its standard input ends.

It prints a JSON object: ``health``, seconds that each GET /health took, and ``memory``, pairs of seconds since the beginning
and bytes that are resident.
"""

import http.client
import json
import os
import select
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

EVERY = 0.1
"""Seconds between two looks."""


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def watch(url: str, pid: int) -> dict[str, list[object]]:
    """See the module."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    health: list[object] = []
    memory: list[object] = []
    began = time.monotonic()
    while not select.select([sys.stdin], [], [], EVERY)[0]:
        asked = time.monotonic()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        health.append(time.monotonic() - asked)
        assert answer.status == 200, answer.status
        memory.append((asked - began, resident(pid)))
    return {"health": health, "memory": memory}


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1], int(sys.argv[2]))))
