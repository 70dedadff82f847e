"""The client sees when tokens came, and takes no stream for whole that is not."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from server.bench.client import StreamError, stream_all

Event = dict[str, Any]
PAUSE = 0.05


@pytest.fixture
def serve() -> Iterator[Callable[[list[Event]], str]]:
    """``serve(events)``: the URL of a server that answers everybody with these events, a pause before each."""
    servers: list[ThreadingHTTPServer] = []

    def start(events: list[Event]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.end_headers()
                for event in events:
                    time.sleep(PAUSE)
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def usage(tokens: int) -> Event:
    return {"choices": [], "usage": {"completion_tokens": tokens}}


def test_each_token_has_the_time_of_the_event_that_brought_it(serve: Callable[..., str]) -> None:
    (line,) = stream_all(serve([usage(1), usage(3)]), [{"max_tokens": 3}])
    assert len(line.tokens) == 3
    first, second = line.gaps
    assert PAUSE * 0.9 <= first < PAUSE + 1
    assert second == 0
    assert line.ttft >= PAUSE


def test_events_that_count_nothing_are_a_token_each(serve: Callable[..., str]) -> None:
    text = {"choices": [{"text": "w"}]}
    (line,) = stream_all(serve([text, text, text, usage(3)]), [{"max_tokens": 3}])
    assert len(line.tokens) == 3
    assert min(line.gaps) >= PAUSE * 0.9


def test_requests_are_sent_when_they_are_due(serve: Callable[..., str]) -> None:
    lines = stream_all(serve([usage(1)]), [{"max_tokens": 1}] * 2, [0.0, 0.2])
    assert lines[1].arrived - lines[0].arrived == pytest.approx(0.2)
    assert lines[1].tokens[0] - lines[0].arrived >= 0.2 + PAUSE * 0.9


@pytest.mark.parametrize("events", [[usage(1)], [usage(1), usage(4)], []])
def test_a_stream_of_another_length_is_refused(serve: Callable[..., str], events: list[Event]) -> None:
    with pytest.raises(StreamError, match="of 3 tokens"):
        stream_all(serve(events), [{"max_tokens": 3}])


def test_an_error_in_a_stream_is_one(serve: Callable[..., str]) -> None:
    with pytest.raises(StreamError, match="no memory"):
        stream_all(serve([usage(1), {"error": {"message": "no memory"}}]), [{"max_tokens": 3}])
