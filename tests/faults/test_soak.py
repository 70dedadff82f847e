"""Half as much again as it can take, of every kind: 20 seconds, or ``SOAK_MINUTES`` of them (``make test-soak``).

``SOAK_REPORT``: a file for what it came to.
"""

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.soak import Plan, soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "0"))
SHORT = 20.0
"""Seconds, where nobody asks for minutes. What so short a time says of memory and of waiting is little: much is allowed."""

KEYS = {"one": "sk-one", "two": "sk-two", "operator": "sk-operator", "stranger": "sk-stranger"}
"""By name; the operator's is an administrator's."""


@pytest.fixture
def config(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """Little of everything: places, room, a queue, time, patience."""
    (tmp_path / "keys.yaml").write_text(f"keys: {json.dumps([declared(name) for name in KEYS])}")
    path = tmp_path / "soak.yaml"
    path.write_text(
        f"""
model: tiny
base: {make_checkpoint("llama", "soak-base", seed=1)}
rewards:
  - {{name: helpful, model: {make_checkpoint("llama", "soak-helpful", seed=2)}, default: 1.0}}
  - {{name: harmless, model: {make_checkpoint("qwen3", "soak-harmless", seed=3)}, default: 0.5}}
presets:
  kind: {{harmless: 2.0}}
threads: 1
engine: {{max_sequences: 8, kv_tokens: 1024, prefill_chunk: 32, deterministic: true}}
http:
  api_key_file: keys.yaml
  max_queue: 8
  queue_seconds: 1.0
  total_seconds: 3.0
  max_unread_bytes: 65536
  send_seconds: 2.0
"""
    )
    return path


def declared(name: str) -> dict[str, Any]:
    digest = hashlib.sha256(KEYS[name].encode()).hexdigest()
    return {"name": name, "hash": f"sha256:{digest}", "admin": name == "operator"}


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 900)
def test_a_server_that_is_asked_too_much_stays_right_quick_and_small(start: Callable[..., Any]) -> None:
    process = start().wait_until_ready()
    seconds = 60 * MINUTES or SHORT
    plan = Plan(
        seconds=seconds,
        capacity=16,
        keys=(KEYS["one"], KEYS["two"]),
        operator=KEYS["operator"],
        stranger=KEYS["stranger"],
        swap=max(3.0, seconds / 60),
        samples=500 if MINUTES else 40,
        warm_up=seconds / 5,
        growth=0.05 if MINUTES >= 10 else 0.3,
        health=0.05 if MINUTES >= 10 else 0.5,
    )
    report = soak(process, plan)
    print(f"\n{report.table()}")
    if file := os.environ.get("SOAK_REPORT"):
        report.write(Path(file), f"make test-soak SOAK_MINUTES={MINUTES:g}")
    assert report.bad == []
    process.signal(signal.SIGTERM)
    printed = process.rest()
    assert process.process.returncode == 0
    assert "Traceback" not in printed
