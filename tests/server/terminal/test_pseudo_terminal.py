"""``genarm chat`` at a pseudo-terminal, against servers on a real socket."""

import re
import signal
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import pairwise
from typing import Any

import pytest

from server.engine import Engine, EngineDead
from server.terminal.cells import harmless

RIGHT, LEFT, SHIFT_RIGHT, ESCAPE = "\x1b[C", "\x1b[D", "\x1b[1;2C", "\x1b"
CTRL_C, CTRL_D, CTRL_Z = "\x03", "\x04", "\x1a"
SHELL = [
    "/bin/sh",
    "-c",
    f"exec {sys.executable} -c 'import fcntl, os, termios; "
    'fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv("/bin/sh", ["sh", "-i"])\'',
]


def given_back(person: Any) -> bool:
    """Modes as before, all rows scroll again, and no status row is left."""
    return (
        termios.tcgetattr(person.slave) == person.modes
        and person.display._bottom == person.display.height
        and person.display.status == ""
        and person.raw.rfind(b"\x1b[?2004l") > person.raw.rfind(b"\x1b[?2004h")
    )


def asked(person: Any, server: Any, text: str = "hello") -> None:
    """``text`` has been sent and has reached the engine."""
    before = len(server.engine.requests) if server.engines else 0
    person.see("/help")
    person.press(f"{text}\r")
    person.until(lambda: len(server.engine.requests) > before)


def test_what_is_typed_is_answered_and_the_figures_follow(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    with scripted("green garden ") as server:
        person = sit_down("--url", server.url, "--max-tokens", "12", "--seed", "7")
        asked(person, server)
        server.engine.free()
        person.see("12 tokens")
        person.see("KL 0.250 nats/token, flips 0%, seed 7, cut at the longest length")
        assert "> hello\ngreen garden green\n12 tokens, " in person.display.text
        assert re.search(r"\d tokens/s", person.display.text)
        (request,) = server.engine.requests.values()
        assert (request.sampling.seed, request.sampling.max_tokens, request.report) == (7, 12, True)
        person.press(CTRL_D)
        assert person.leaves() == 0
        assert given_back(person)


def test_an_arrow_in_mid_answer_changes_the_weights_and_marks_the_place(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    """``abc `` is four tokens."""
    with scripted("abc ") as server:
        person = sit_down("--url", server.url, "--max-tokens", "12")
        asked(person, server)
        server.engine.allow(3)
        person.until(lambda: " 3 tokens" in person.display.status)
        person.press(LEFT)
        person.until(lambda: len(server.engine.mixes) == 2)
        assert server.engine.mixes[1] == {"base": 1.0, "helpful": 0.9, "harmless": 0.5}
        person.press("2L")
        person.until(lambda: len(server.engine.mixes) == 3)
        assert server.engine.mixes[2] == {"base": 1.0, "helpful": 0.9, "harmless": 1.0}
        person.until(lambda: "[harmless 1]" in person.display.status)
        server.engine.free()
        person.see("12 tokens")
        assert "\nabc⟨helpful 1→0.9⟩⟨harmless 0.5→1⟩ abc abc\n" in person.display.text
        assert "1" in person.display.style("helpful").split(";")


def test_the_server_says_from_which_token_a_change_holds_and_there_it_is_marked(
    scripted: Callable[..., Any], sit_down: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``abc `` is four tokens: token 6 is the second c."""
    with scripted("abc ") as server:
        person = sit_down("--url", server.url, "--max-tokens", "12")
        asked(person, server)
        later: Future[dict[str, int]] = Future()
        monkeypatch.setattr(server.engine, "change", lambda *_: later)
        server.engine.allow(4)
        person.see("abc")
        person.press(LEFT)
        person.until(lambda: "…" in person.display.status)
        later.set_result(dict.fromkeys(server.engine.requests, 6))
        person.until(lambda: "…" not in person.display.status)
        server.engine.free()
        person.see("12 tokens")
        assert "abc ab⟨helpful 1→0.9⟩c abc" in person.display.text


def test_a_change_that_is_answered_late_says_since_when_it_holds(
    scripted: Callable[..., Any], sit_down: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted("abc ") as server:
        person = sit_down("--url", server.url, "--max-tokens", "12")
        asked(person, server)
        later: Future[dict[str, int]] = Future()
        monkeypatch.setattr(server.engine, "change", lambda *_: later)
        person.press(LEFT)
        person.until(lambda: "…" in person.display.status)
        server.engine.allow(7)
        person.see("abc abc")
        later.set_result(dict.fromkeys(server.engine.requests, 5))
        person.see("abc abc⟨helpful 1→0.9, 2 tokens ago⟩")
        server.engine.free()
        person.see("⟩ abc")


def test_keys_faster_than_the_network_become_one_change_and_the_latest_wins(
    scripted: Callable[..., Any], sit_down: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted() as server:
        person = sit_down("--url", server.url)
        asked(person, server)
        mixes: list[Mapping[str, float]] = []
        answers: list[Future[dict[str, int]]] = []

        def change(_: Sequence[str], mix: Mapping[str, float]) -> "Future[dict[str, int]]":
            mixes.append(mix)
            answers.append(Future())
            return answers[-1]

        monkeypatch.setattr(server.engine, "change", change)
        person.press(LEFT)
        person.until(lambda: len(mixes) == 1)
        for keys, shown in (
            (LEFT, "0.8"),
            ("h", "0.7"),
            ("-", "0.6"),
            ("0", "0"),
            ("+", "0.1"),
            ("l", "0.2"),
        ):
            person.press(keys)
            person.until(lambda shown=shown: f"[helpful {shown}…]" in person.display.status)
        assert len(mixes) == 1
        answers[0].set_result(dict.fromkeys(server.engine.requests, 0))
        person.until(lambda: len(mixes) == 2)
        answers[1].set_result(dict.fromkeys(server.engine.requests, 0))
        person.until(lambda: "[helpful 0.2]" in person.display.status)
        assert [mix["helpful"] for mix in mixes] == [0.9, 0.2]


def test_a_weight_moved_before_the_answer_has_begun_reaches_it(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    """The key is there before the server can have answered."""
    with scripted() as server:
        person = sit_down("--url", server.url)
        person.see("/help")
        person.press(f"hello\r{LEFT}")
        person.until(lambda: server.engines and len(server.engine.mixes) == 2)
        assert [mix["helpful"] for mix in server.engine.mixes] == [1.0, 0.9]


def test_later_tokens_are_drawn_under_the_new_weights(
    real: Any, sit_down: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the real engine, slow enough for fingers: what was said stays, what follows differs from the run that was
    left alone.
    """
    step = Engine.step

    def slowly(engine: Engine) -> Any:
        time.sleep(0.02)
        return step(engine)

    said = real.chat(seed=3, temperature=1, max_tokens=120, preferences={"helpful": 1.0, "harmless": 0.5})
    alone = harmless(said.json()["choices"][0]["message"]["content"])
    monkeypatch.setattr(Engine, "step", slowly)
    person = sit_down("--url", real.url, "--seed", "3", "--max-tokens", "120", columns=2000)
    person.see("/help")
    person.press("hello\r")
    person.until(lambda: re.search(r" [3-9] tokens", person.display.status))
    person.press(f"\t{SHIFT_RIGHT * 5}")
    person.see("⟨harmless 0.5→")
    person.see("nats/token, flips")
    monkeypatch.undo()
    said, _, after = person.display.text.partition("> hello\n")[2].partition("⟨harmless")
    after = after.rpartition("⟩")[2].partition("nats/token")[0].rpartition("\n")[0]
    assert said.split() and "".join(alone.split()).startswith("".join(said.split()))
    assert not "".join(alone.split()).startswith("".join((said + after).split()))


@pytest.mark.parametrize("key", [ESCAPE, CTRL_C])
def test_a_stopped_answer_is_cancelled_and_the_talk_goes_on_from_it(
    key: str, scripted: Callable[..., Any], sit_down: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    with scripted("abc ") as server:
        person = sit_down("--url", server.url)
        asked(person, server)
        server.engine.allow(6)
        person.see("abc ab")
        person.press(key)
        person.see("stopped")
        person.until(lambda: server.engine.aborted)
        asked(person, server, "go on")
        second = list(server.engine.requests.values())[1]
        read = tiny_tokenizer.decode(second.prompts["base"])
        assert read == "<|user|>hello<|end|><|assistant|>abc ab<|end|><|user|>go on<|end|><|assistant|>"


def test_an_answer_stopped_before_its_first_word_leaves_what_was_typed(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    with scripted() as server:
        person = sit_down("--url", server.url)
        asked(person, server)
        person.press(ESCAPE)
        person.see("0 tokens, stopped")
        person.until(lambda: server.engine.aborted)
        person.until(
            lambda: person.display.lines[person.display.row + len(person.display.scrolled)] == "> hello"
        )


def test_control_c_leaves_at_the_second_time(sit_down: Callable[..., Any], pretender: Any) -> None:
    person = sit_down("--url", pretender.url)
    person.see("/help")
    person.press(f"words{CTRL_C}")
    person.until(lambda: person.display.text.endswith(">"))
    person.press(CTRL_C)
    person.see("Ctrl-C again")
    person.press(f"x{CTRL_C}{CTRL_C}")
    person.see("Ctrl-C again")
    assert person.process.poll() is None
    person.press(CTRL_C)
    assert person.leaves() == 0
    assert given_back(person)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("answering", [False, True])
def test_a_deadly_signal_gives_the_terminal_back(
    number: signal.Signals, answering: bool, scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    with scripted("abc ") as server:
        person = sit_down("--url", server.url)
        person.see("/help")
        if answering:
            asked(person, server)
            server.engine.allow(3)
            person.see("abc")
        person.process.send_signal(number)
        assert person.leaves() == 128 + number
        assert given_back(person)
        assert "Traceback" not in person.shown
        if answering:
            person.until(lambda: server.engine.aborted)


def test_an_interrupt_from_outside_is_the_key_and_gives_the_terminal_back(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    with scripted("abc ") as server:
        person = sit_down("--url", server.url)
        asked(person, server)
        server.engine.allow(3)
        person.see("abc")
        person.process.send_signal(signal.SIGINT)
        person.see("stopped")
        person.until(lambda: server.engine.aborted)
        person.see("/help")
        person.process.send_signal(signal.SIGINT)
        person.see("Ctrl-C again")
        person.process.send_signal(signal.SIGINT)
        assert person.leaves() == 0
        assert given_back(person)
        assert "Traceback" not in person.shown


def test_a_server_that_wants_a_key_gets_it_with_questions_changes_and_stops(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    with scripted("abc ", keys=["sk-one", "sk-two"]) as server:
        stranger = sit_down("--url", server.url, columns=200)
        stranger.see("asks for an API key")
        assert stranger.leaves() == 2
        person = sit_down("--url", server.url, GENARM_API_KEY="sk-two")
        asked(person, server)
        server.engine.allow(3)
        person.see("abc")
        person.press(LEFT)
        person.until(lambda: len(server.engine.mixes) == 2)
        person.press(ESCAPE)
        person.see("stopped")
        person.until(lambda: server.engine.aborted)
        assert "sk-two" not in person.raw.decode()


def test_an_error_of_our_own_gives_the_terminal_back(sit_down: Callable[..., Any], pretender: Any) -> None:
    broken = (
        "import sys; from server.cli import main; from server.terminal.editor import Editor; "
        "Editor.press = lambda *_: 1 / 0; sys.exit(main(sys.argv[1:]))"
    )
    person = sit_down(command=[sys.executable, "-c", broken, "chat", "--url", pretender.url])
    person.see("/help")
    person.press("x")
    assert person.leaves() == 1
    assert "ZeroDivisionError" in person.display.text
    assert termios.tcgetattr(person.slave) == person.modes
    assert person.display._bottom == person.display.height


def test_a_terminal_that_goes_away_ends_it(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    with scripted("abc ") as server:
        person = sit_down("--url", server.url)
        asked(person, server)
        person.hang_up()
        assert person.process.wait(30) != 0
        person.until(lambda: server.engine.aborted)


def test_stopping_the_job_and_going_on_with_it(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    """A shell's job control: its own modes while we are stopped, ours and the line being typed afterwards."""
    with scripted("abc ") as server:
        person = sit_down(command=SHELL, PS1="$ ", ENV="")
        person.until(lambda: person.raw.endswith(b"$ "))
        person.press(f"{sys.executable} -m server.cli chat --url {server.url} --max-tokens 8\r")
        person.see("/help lists")
        person.press("hel")
        person.see("> hel")
        raw = termios.tcgetattr(person.slave)
        assert not raw[3] & termios.ICANON
        person.press(CTRL_Z)
        person.until(lambda: person.raw.endswith(b"$ "))
        assert termios.tcgetattr(person.slave) == person.modes
        person.press("fg\r")
        person.until(lambda: "[helpful 1]" in person.display.status)
        person.press("lo\r")
        person.until(lambda: server.engines and server.engine.requests)
        server.engine.allow(2)
        person.see("ab")
        person.press(CTRL_Z)
        person.until(lambda: person.raw.endswith(b"$ "))
        assert termios.tcgetattr(person.slave) == person.modes
        server.engine.free()
        person.press("fg\r")
        person.see("cut at the longest length")
        person.press(CTRL_D)
        person.until(lambda: person.raw.endswith(b"$ "))
        assert termios.tcgetattr(person.slave) == person.modes


def test_a_model_sends_no_escape_codes(scripted: Callable[..., Any], sit_down: Callable[..., Any]) -> None:
    with scripted("a\x1b]0;title\x07\x1b[31mb\x9b2Jc\u202ed\r\x08") as server:
        person = sit_down("--url", server.url, "--max-tokens", "40", columns=200)
        asked(person, server)
        server.engine.free()
        person.see("40 tokens")
        assert "a␛]0;title␇␛[31mb<U+009B>2Jc<U+202E>d␍␈" in person.display.text
        for code in ("\x1b]", "\x07", "\x1b[31m", "\x9b", "\u202e", "\x08"):
            assert code.encode() not in person.raw


def test_nor_does_a_server_in_its_errors_and_names(pretender: Any, sit_down: Callable[..., Any]) -> None:
    pretender.answers["GET", "/v1/preferences"] = 200, pretender.preferences(**{"he\x1b[31mlp": 0.5})
    error = {"message": "no\x1b]0;x\x07", "type": "t", "param": "p\x1b[2J", "code": None}
    pretender.answers["POST", "/v1/chat/completions"] = 400, {"error": error}
    person = sit_down("--url", pretender.url)
    person.see("[he␛[31mlp 0.5]")
    person.press("hello\r")
    person.see("no␛]0;x␇ (p␛[2J)")


def test_tokens_are_tinted_by_what_the_chosen_reward_thinks_of_them(
    pretender: Any, sit_down: Callable[..., Any]
) -> None:
    def token(text: str, gain: float) -> dict[str, Any]:
        return {
            "token": text,
            "kl": 0.5,
            "base_logprob": -5.0,
            "rewards": {"helpful": gain - 5.0},
            "base_top": "x",
        }

    words = {"loved": 3.0, "fine": 1.0, "neutral": 0.0, "disliked": -1.0, "hated": -3.0}
    events = [pretender.piece(f" {word}", tokens=[token(f" {word}", gain)]) for word, gain in words.items()]
    pretender.says(*events, pretender.piece("", "stop", guidance={"mean_kl": 0.5, "flip_rate": 0.25}))
    cues = {"loved": "1;4", "fine": "4", "neutral": "", "disliked": "2", "hated": "2;3"}
    for options, environment in (((), {}), (("--no-colour",), {}), ((), {"NO_COLOR": "1"})):
        person = sit_down("--url", pretender.url, *options, **environment)
        person.see("/help")
        person.press("hello\r")
        person.see("KL 0.500 nats/token, flips 25%")
        shown = {word: person.display.style(word).removeprefix("0;") for word in words}
        if options or environment:
            assert shown == cues
            assert not re.search(rb"\x1b\[[0-9;]*3[1-7]", person.raw.replace(b"2;3m", b"m"))
        else:
            assert shown == {
                "loved": "1;4;36",
                "fine": "4;36",
                "neutral": "",
                "disliked": "2;35",
                "hated": "2;3;35",
            }


def test_without_a_server_what_was_typed_is_kept_and_sent_when_it_is_back(
    pretender: Any, sit_down: Callable[..., Any]
) -> None:
    pretender.says(pretender.piece("well"), pretender.piece("", "stop"))
    person = sit_down("--url", pretender.url)
    person.see("/help")
    pretender.go()
    person.press("hello there\r")
    person.see(f"cannot reach {pretender.url}")
    person.until(lambda: person.display.text.endswith("> hello there"))
    pretender.come()
    person.press("\r")
    person.see("well")
    assert pretender.heard[-1][2]["messages"] == [{"role": "user", "content": "hello there"}]


@pytest.mark.parametrize("end", [None, {"error": {"message": "The engine died.", "param": None}}])
def test_an_answer_that_breaks_off_is_no_part_of_the_talk(
    end: Any, pretender: Any, sit_down: Callable[..., Any]
) -> None:
    pretender.says(pretender.piece("half of"), end)
    person = sit_down("--url", pretender.url)
    person.see("/help")
    person.press("hello\r")
    person.see("half of\n")
    person.see("broke off" if end is None else "The engine died.")
    person.until(lambda: person.display.text.endswith("> hello"))
    pretender.says(pretender.piece("whole"), pretender.piece("", "stop"))
    person.press(" again\r")
    person.see("whole")
    assert pretender.heard[-1][2]["messages"] == [{"role": "user", "content": "hello again"}]


def test_an_error_of_the_server_is_shown_in_place(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    with scripted() as server:
        person = sit_down("--url", server.url, columns=500)
        person.see("/help")
        person.press(f"{'word ' * 200}\r")
        person.see("maximum context length is 256 tokens")
        person.see("(messages) /new starts a new conversation.")
        person.until(lambda: person.display.text.endswith("word word"))


def test_a_change_that_fails_is_told_in_place_and_taken_back(
    scripted: Callable[..., Any], sit_down: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted("abc ") as server:
        person = sit_down("--url", server.url, "--max-tokens", "8")
        asked(person, server)
        failed: Future[dict[str, int]] = Future()
        failed.set_exception(EngineDead("dead"))
        with monkeypatch.context() as patch:
            patch.setattr(server.engine, "change", lambda *_: failed)
            server.engine.allow(3)
            person.see("abc")
            person.press(LEFT)
            person.see("abc ⟨")
            person.until(lambda: "[helpful 1]" in person.display.status)
        person.press(LEFT)
        person.until(lambda: len(server.engine.mixes) == 2)
        server.engine.free()
        person.see("8 tokens")


def test_weights_move_before_anything_is_typed(
    scripted: Callable[..., Any], sit_down: Callable[..., Any]
) -> None:
    with scripted() as server:
        person = sit_down("--url", server.url)
        person.see("[helpful 1]")
        person.press(f"\t{RIGHT}{RIGHT}")
        person.see("[harmless 0.7]")
        person.press("/weights helpful=-2\r")
        person.see("helpful -2, harmless 0.7")
        asked(person, server)
        assert server.engine.mixes == [{"base": 1.0, "helpful": -2.0, "harmless": 0.7}]


def test_the_commands(
    scripted: Callable[..., Any], sit_down: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    with scripted("abc ") as server:
        person = sit_down("--url", server.url, "--max-tokens", "3", columns=120)
        person.see("/help lists")
        person.press("/preset nope\r")
        person.see("no preset is called nope; there are kind, plain")
        person.press("/preset kind\r")
        person.see("helpful 0, harmless 2")
        person.press("/seed 11\r")
        person.see("\nseed 11")
        asked(person, server)
        server.engine.allow(3)
        person.see("3 tokens")
        person.press("/new\r")
        person.see("a new conversation")
        asked(person, server, "//weights")
        first, second = server.engine.requests.values()
        assert server.engine.mixes[1] == {"base": 1.0, "helpful": 0.0, "harmless": 2.0}
        assert first.sampling.seed == second.sampling.seed == 11
        assert tiny_tokenizer.decode(second.prompts["base"]) == "<|user|>/weights<|end|><|assistant|>"
        server.engine.free()
        person.until(lambda: person.display.text.count("\n3 tokens") == 2)
        person.press("/help\r")
        person.see("While an answer runs")
        person.press("/nope\r")
        person.see("there is no command /nope")
        person.press("/quit\r")
        assert person.leaves() == 0


def test_pasted_lines_are_one_message_and_move_nothing(
    scripted: Callable[..., Any], sit_down: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    with scripted("abc ") as server:
        person = sit_down("--url", server.url)
        person.see("/help")
        person.press("\x1b[200~one\rtwo\x1b[201~")
        person.see("> one␊two")
        person.press("\r")
        person.until(lambda: server.engines and server.engine.requests)
        (request,) = server.engine.requests.values()
        assert tiny_tokenizer.decode(request.prompts["base"]) == "<|user|>one\ntwo<|end|><|assistant|>"
        person.press("\x1b[200~0 hhh\x1b[201~h")
        person.until(lambda: len(server.engine.mixes) == 2)
        assert server.engine.mixes[1]["helpful"] == 0.9


def test_words_stay_whole_at_the_edge_of_any_window(pretender: Any, sit_down: Callable[..., Any]) -> None:
    text = "the kettle is hot 水をあげる前に the garden is green and wateringtheplantsbeforethesunishigh"
    pieces = [text[start:stop] for start, stop in pairwise((*range(0, len(text), 3), len(text)))]
    pretender.says(*(pretender.piece(piece) for piece in pieces), pretender.piece("", "stop"))
    person = sit_down("--url", pretender.url, columns=20, rows=30)
    person.see("/help")
    person.press("hello\r")
    person.see("tokens/s")
    lines = person.display.text.partition("> hello\n")[2].split("\n")
    assert lines[:5] == [
        "the kettle is hot",
        "水をあげる前に the",
        "garden is green and",
        "wateringtheplantsbe",
        "forethesunishigh",
    ]


def test_a_window_that_changes_its_size_keeps_its_last_row_for_the_weights(
    pretender: Any, sit_down: Callable[..., Any]
) -> None:
    pretender.says(*(pretender.piece(f"row {row}\n") for row in range(40)), pretender.piece("", "stop"))
    person = sit_down("--url", pretender.url, columns=60, rows=10)
    person.see("/help")
    person.resize(30, 6)
    person.until(lambda: person.display.status.startswith("[helpful 0.5]"))
    person.press("hello\r")
    person.see("row 39")
    person.see("tokens/s")
    assert [line for line in person.display.lines if line.startswith("row")] == [
        f"row {row}" for row in range(40)
    ]
    person.resize(50, 3)
    person.press("x")
    person.see("> x")
    assert "[helpful" not in person.display.status
    person.press(CTRL_C + CTRL_C + CTRL_C)
    assert person.leaves() == 0
