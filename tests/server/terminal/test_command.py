"""``genarm chat``: its options, and what it does without a terminal."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from server import cli


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``piped("line\\n", "--url", …)``: the exit code with this on standard input."""

    def run(text: str, *options: str) -> int:
        monkeypatch.delenv("GENARM_API_KEY", raising=False)
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return cli.main(["chat", *options])

    return run


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--url", "nonsense"], "--url nonsense: write http://HOST:PORT"),
        (["--url", "ftp://a"], "--url ftp://a"),
        (["--url", "http://"], "--url http://"),
        (["--url", "http://a:b"], "--url http://a:b"),
        (["--url", "http://a?b=1"], "--url http://a?b=1"),
        (["--url", "http://127.0.0.1:1"], "cannot reach http://127.0.0.1:1"),
        (["--seed", "x"], "--seed x: a seed is an integer"),
        (["--seed", str(2**63)], "of at most 64 bits"),
        (["--max-tokens", "0"], "--max-tokens must be at least 1, not 0"),
        (["--api-key", "schlüssel"], "the API key holds characters"),
        (["--api-key", "a\nb"], "the API key holds characters"),
    ],
)
def test_a_bad_option_or_no_server_is_one_line_and_exit_code_2(
    options: list[str], named: str, piped: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped("", *options) == 2
    told = capsys.readouterr().err
    assert told.startswith("genarm: ")
    assert named in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model", "other"], "--model other: the server has some, some:kind"),
        (["--set", "nope=1"], "--set no reward is called nope; there are helpful"),
        (["--set", "helpful"], "--set helpful: write NAME=NUMBER"),
    ],
)
def test_what_the_server_does_not_have_is_exit_code_2(
    options: list[str],
    named: str,
    pretender: Any,
    piped: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert piped("", "--url", pretender.url, *options) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "answer", "named"),
    [
        (
            "/v1/models",
            (401, {"error": {"message": "No key."}}),
            "pass --api-key or set GENARM_API_KEY (No key.)",
        ),
        ("/v1/preferences", (404, {"error": {"message": "No such URL."}}), "No such URL."),
        ("/v1/preferences", (200, "<html>"), "does not answer as a genarm server does"),
        ("/v1/preferences", (200, {"data": 3}), "does not answer as a genarm server does"),
        ("/v1/preferences", (200, {"data": [{"name": 3}]}), "does not answer as a genarm server does"),
        ("/v1/models", (302, "moved"), "HTTP 302"),
        ("/v1/models", (200, {"data": []}), "the server lists no model"),
        ("/v1/models", (500, {"error": "\x1b[2Jboom"}), "HTTP 500"),
    ],
)
def test_a_server_of_another_kind_is_exit_code_2(
    path: str,
    answer: tuple[int, Any],
    named: str,
    pretender: Any,
    piped: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretender.answers["GET", path] = answer
    assert piped("", "--url", pretender.url) == 2
    told = capsys.readouterr().err
    assert named in told
    assert "\x1b" not in told


def test_lines_go_in_and_answers_come_out(
    pretender: Any, piped: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pretender.says(pretender.piece("one\x1b[31m "), pretender.piece("two\n\x07", "stop"))
    text = "hello\n\n/weights helpful=0.25\n//go on\r\n"
    assert piped(text, "--url", f"{pretender.url}/v1/", "--seed", "-5", "--max-tokens", "9") == 0
    out, err = capsys.readouterr()
    assert out == "one␛[31m two\n␇\n" * 2
    assert err == "helpful 0.25\n"
    (_, _, first), (_, _, second) = (heard for heard in pretender.heard if heard[0] == "POST")
    assert first == {
        "model": "some",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "preferences": {"helpful": 0.5},
        "guidance": {"report": "tokens"},
        "seed": -5,
        "max_tokens": 9,
    }
    assert second["preferences"] == {"helpful": 0.25}
    assert second["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "one\x1b[31m two\n\x07"},
        {"role": "user", "content": "/go on"},
    ]


def test_weights_begin_with_the_presets_and_those_given(pretender: Any, piped: Callable[..., int]) -> None:
    pretender.answers["GET", "/v1/preferences"] = 200, pretender.preferences(helpful=0.5, harmless=1.0)
    pretender.says(pretender.piece("x", "stop"))
    begun = {}
    for options in (
        [],
        ["--set", "harmless=3"],
        ["--model", "some:kind"],
        ["--model", "some:kind", "--set", "helpful=2"],
    ):
        assert piped("hello\n", "--url", pretender.url, *options) == 0
        begun[" ".join(options)] = list(pretender.heard[-1][2]["preferences"].values())
    assert begun == {
        "": [0.5, 1.0],
        "--set harmless=3": [0.5, 3.0],
        "--model some:kind": [0.25, 0.0],
        "--model some:kind --set helpful=2": [2.0, 0.0],
    }


def test_the_key_is_sent_with_every_request(
    pretender: Any, piped: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretender.says(pretender.piece("x", "stop"))
    assert piped("hello\n", "--url", pretender.url, "--api-key", "k1") == 0
    assert {headers["authorization"] for headers in pretender.headers} == {"Bearer k1"}
    pretender.headers.clear()
    monkeypatch.setenv("GENARM_API_KEY", "k2")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert cli.main(["chat", "--url", pretender.url]) == 0
    assert {headers["authorization"] for headers in pretender.headers} == {"Bearer k2"}


@pytest.mark.parametrize(
    ("events", "out", "err"),
    [
        (["{"], "", "the server sent an event that is no piece of an answer"),
        ([{"id": 3, "choices": [{}]}], "", "the server sent an event that is no piece of an answer"),
        ([None], "", "the answer broke off"),
    ],
)
def test_what_is_no_answer_is_an_error_and_the_next_line_is_sent_all_the_same(
    events: list[Any],
    out: str,
    err: str,
    pretender: Any,
    piped: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretender.answers["POST", "/v1/chat/completions"] = 200, events
    assert piped("hello\nagain\n", "--url", pretender.url) == 1
    assert capsys.readouterr() == (out, f"genarm: {err}\n" * 2)
    assert pretender.heard[-1][2]["messages"] == [{"role": "user", "content": "again"}]


def test_half_an_answer_is_shown_and_then_the_error(
    pretender: Any, piped: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pretender.says(pretender.piece("half"), {"error": {"message": "The engine died.", "param": None}})
    assert piped("hello\n", "--url", pretender.url) == 1
    assert capsys.readouterr() == ("half\n", "genarm: The engine died.\n")


def test_comments_events_without_choices_and_odd_line_breaks_are_read_over(
    pretender: Any, piped: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pretender.piece("a\u2028b", "stop")
    written = f": keep-alive\n\nevent: x\ndata:{json.dumps(whole, ensure_ascii=False)}\r\n\r\n"
    pretender.says({"choices": [], "usage": {}}, written.encode(), {"choices": []})
    assert piped("hello\n", "--url", pretender.url) == 0
    assert capsys.readouterr().out == "a<U+2028>b\n"


def test_an_unknown_command_is_not_sent(
    pretender: Any, piped: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped("/nope\n/quit\nhello\n", "--url", pretender.url) == 1
    assert "there is no command /nope" in capsys.readouterr().err
    assert "POST" not in {method for method, _, _ in pretender.heard}


def test_a_pipe_between_processes(real: Any) -> None:
    """The whole way: a process of its own, the real engine, the same words for the same seed."""
    command = [
        sys.executable,
        "-m",
        "server.cli",
        "chat",
        "--url",
        real.url,
        "--seed",
        "3",
        "--max-tokens",
        "8",
    ]
    done = [
        subprocess.run(command, input=b"hello\n", capture_output=True, timeout=60, check=False)
        for _ in range(2)
    ]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    assert done[0].stdout == done[1].stdout != b"\n"
    assert done[0].stderr == b""


def test_nobody_reading_is_no_traceback(pretender: Any) -> None:
    pretender.says(*(pretender.piece("word " * 1000) for _ in range(40)), pretender.piece("", "stop"))
    command = [sys.executable, "-m", "server.cli", "chat", "--url", pretender.url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(b"hello\n", timeout=60)
    assert process.returncode == 1
    assert err == b""


def test_talking_loads_neither_models_nor_the_server() -> None:
    code = (
        "import pkgutil, sys\nfrom importlib import import_module\nimport server.terminal\n"
        "for found in pkgutil.iter_modules(server.terminal.__path__):\n"
        "    import_module(f'server.terminal.{found.name}')\n"
        "sys.exit(sorted({'torch', 'transformers', 'fastapi', 'uvicorn', 'server.api'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
