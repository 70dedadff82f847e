"""Rank 0 of a group whose other process is gone: everybody is told once, although its own engine goes on."""

from collections.abc import Callable
from typing import Any

import pytest

from arm_models.errors import UserError
from server.engine.sharding.lifeline import LastWords
from server.group.lead import Lead
from server.group.seat import Seat

SEAT = Seat(0, 2, 0, "127.0.0.1")


def test_who_is_being_answered_is_told_once_and_nobody_is_let_in(
    scripted: Callable[..., Any], until: Any
) -> None:
    dead: list[BaseException] = []
    with scripted(on_dead=dead.append) as server, server.client() as client:
        with server.open(client, max_tokens=50) as events:
            until(lambda: server.engine.requests)
            server.engine.allow(3)
            loop = server.serving.dispatcher._loop
            for _ in range(2):
                loop.call_soon_threadsafe(server.serving.fail, RuntimeError("/secret: rank 1 is gone"))
            server.engine.free()  # it speaks on, and nobody listens
            told = list(events)
        assert told[-1]["error"]["code"] == "engine_dead"
        assert [set(event) == {"error"} for event in told].count(True) == 1
        assert "secret" not in str(told)
        until(lambda: len(dead) == 1)
        assert client.get("/health").status_code == 503
        assert server.chat().status_code == 503


@pytest.mark.parametrize(
    ("words", "kind", "printed"),
    [
        (None, RuntimeError, "genarm: rank 1 is gone; the group ends\n"),
        (LastWords("it failed", user=False), RuntimeError, "genarm: rank 1: it failed; the group ends\n"),
        (LastWords("kind: no folder 'x'", user=True), UserError, ""),
    ],
)
def test_what_ended_the_group_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: LastWords | None,
    kind: type[Exception],
    printed: str,
) -> None:
    monkeypatch.setattr("server.group.lead.LAST_SECONDS", 3600.0)
    broken: list[Exception] = []
    Lead(SEAT, broken.append)._ended(1, words)
    assert [type(error) for error in broken] == [kind]
    assert str(broken[0]).startswith("rank 1")
    assert capsys.readouterr().err == printed


def test_the_end_of_others_is_none_once_the_server_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    broken: list[Exception] = []
    lead = Lead(SEAT, broken.append)
    lead.leave()
    lead._ended(1, None)
    assert (broken, capsys.readouterr().err) == ([], "")
