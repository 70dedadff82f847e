"""A judge behind a real socket: every pair asked in both orders, verdicts kept, none asked for twice."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from arm_models.errors import UserError
from arm_models.evaluation.cache import ScoreCache
from arm_models.evaluation.prompts import Messages
from server.evaluation.chat_service import ChatService
from server.evaluation.judging import Judging


class Judge(ThreadingHTTPServer):
    """Prefers the answer with more soap; says nonsense where an answer has none. ``asked``: every body, and its key."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[dict[str, Any], str | None]] = []
        self.failing = False


class _Handler(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((body, self.headers.get("authorization")))
        reply: dict[str, Any] = {
            "choices": [{"message": {"content": verdict(body)}, "finish_reason": "stop"}]
        }
        status = 400 if self.server.failing else 200
        data = json.dumps({"error": {"message": "no"}} if self.server.failing else reply).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


def verdict(body: dict[str, Any]) -> str:
    text = body["messages"][0]["content"].split("[Answer A]\n")[1].split("\n\nWhich")[0]
    first, second = (side.count("soap") for side in text.split("\n\n[Answer B]\n"))
    if not first or not second:
        return "I would rather not say."
    return "[[C]]" if first == second else f"I say [[{'A' if first > second else 'B'}]]"


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


PROMPTS: list[Messages] = [({"role": "user", "content": f"q{number}"},) for number in range(4)]
REFERENCE = ["soap soap"] * 4
ANSWERS = {"x": ["soap soap soap", "soap", "soap soap", "water"], "y": ["soap"] * 4}


@pytest.fixture
def judging(judge: Judge) -> Iterator[Judging]:
    with ChatService(f"http://127.0.0.1:{judge.server_address[1]}/v1", "j", "key") as service:
        yield Judging(service, "j", "is cleaner")


def test_verdicts_are_by_pair_with_the_sides_swapped(judge: Judge, judging: Judging, tmp_path: Path) -> None:
    cache, ticks = ScoreCache(tmp_path / "judged.jsonl"), []
    found = judging.verdicts(PROMPTS, REFERENCE, ANSWERS, cache, lambda: ticks.append(1))
    assert found == {"x": [1.0, 0.0, 0.5, 0.5], "y": [0.0] * 4}
    assert len(judge.asked) == 2 * len(ticks) == 16
    body, key = judge.asked[0]
    assert (body["model"], body["temperature"], key) == ("j", 0, "Bearer key")
    assert "judge which is cleaner" in body["messages"][0]["content"]
    judge.asked.clear()
    again = ScoreCache(tmp_path / "judged.jsonl")
    assert judging.verdicts(PROMPTS, REFERENCE, ANSWERS, again) == found
    assert judge.asked == []


def test_a_judge_that_refuses_ends_it_with_its_own_words(
    judge: Judge, judging: Judging, tmp_path: Path
) -> None:
    judge.failing = True
    with pytest.raises(UserError, match="400: no"):
        judging.verdicts(PROMPTS, REFERENCE, ANSWERS, ScoreCache(tmp_path / "j.jsonl"))
