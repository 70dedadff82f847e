"""A sweep is answered alike by the engine in this process and by a server of the same models."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from arm_models.errors import UserError
from arm_models.evaluation.answers import Answer, SweepPlan
from arm_models.evaluation.folder import SweepFolder
from arm_models.evaluation.prompts import PromptSet, file_prompts
from arm_models.evaluation.settings import Setting
from server.cli import main
from server.config import Deployment
from server.evaluation.chat_service import ChatService
from server.evaluation.engine_answers import EngineAnswers
from server.evaluation.url_answers import UrlAnswers

SETTINGS = (
    Setting("base", preferences={}),
    Setting("helpful", preferences={"helpful": 1.5}),
    Setting("both", preferences={"helpful": 0.5, "harmless": -1.0}, parameters={"beta": 2.0}),
)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    file = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in ("hello", "how do I clean the oven?"))
    )
    return file_prompts(file)


@pytest.fixture(scope="module")
def engine(deployment: Deployment) -> Iterator[EngineAnswers]:
    with EngineAnswers.load(deployment, settings=SETTINGS, max_tokens=12) as answers:
        yield answers


def answered(plan: SweepPlan, answering: Any) -> dict[tuple[str, int, int], Answer]:
    found: list[Answer] = []
    cost = answering(plan.cells(), found.append)
    assert cost.answers == len(found) == len(plan.cells())
    assert cost.tokens == sum(one.tokens for one in found)
    assert cost.seconds > 0
    return {one.key: one for one in found}


def test_engine_and_server_give_the_same_answers_tokens_and_kl(
    prompts: PromptSet, engine: EngineAnswers, real: Any
) -> None:
    plan = SweepPlan(SETTINGS, prompts, {}, samples=2, max_tokens=12)
    ours = answered(plan, engine)
    with ChatService(real.url + "/v1", real.serving.deployment.model) as service:
        theirs = answered(plan, UrlAnswers(service, 1.0, 12, parallel=5))
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        assert replace(one, kl=None) == replace(theirs[key], kl=None)
        assert one.kl == pytest.approx(theirs[key].kl, abs=1e-4)
    assert len({one.text for one in ours.values()}) > 6
    assert all(one.kl == pytest.approx(0.0, abs=1e-6) for one in ours.values() if one.setting == "base")


SEARCHES = (
    Setting("best", "best_of_n", {"helpful": 1.0}, {"n_candidates": 3}),
    Setting("evolved", "darwin", {"helpful": 1.0}, {"iterations": 1, "mutations": 2, "m": 4, "keep": 1}),
    Setting("transfer", "transfer_q", {"helpful": 1.0}, {"k": 2, "rollout_tokens": 2}),
)


def test_searches_of_a_sweep_are_those_of_the_server(
    prompts: PromptSet, engine: EngineAnswers, real: Any
) -> None:
    plan = SweepPlan((SETTINGS[0], *SEARCHES), prompts, {}, max_tokens=6)
    with ChatService(real.url, real.serving.deployment.model) as service:
        theirs = answered(plan, UrlAnswers(service, 1.0, 12, parallel=2, report=False))
    ours = answered(plan, engine)
    for key, one in ours.items():
        assert (one.text, one.tokens) == (theirs[key].text, theirs[key].tokens)
        assert (one.generated or one.tokens) >= one.tokens
    best = [one for one in ours.values() if one.setting == "best"]
    assert all(
        one.generated is not None and one.generated > 2 * one.tokens for one in best if one.tokens == 12
    )


def test_the_kl_of_transfer_q_is_that_of_what_it_draws_from(
    prompts: PromptSet, engine: EngineAnswers
) -> None:
    whole = Setting("whole", "transfer_q", {"helpful": 1.0}, {"k": 300, "w": 0.0})
    one = Setting("one", "transfer_q", {"helpful": 1.0}, {"k": 1, "w": 0.0})
    kl = {key: answer.kl for key, answer in answered(SweepPlan([whole, one], prompts, {}), engine).items()}
    assert kl["whole", 0, 0] == pytest.approx(0.0, abs=1e-3)
    assert kl["one", 0, 0] is not None
    assert kl["one", 0, 0] > 1.0


def test_a_setting_that_is_refused_is_named_before_anything_is_loaded(deployment: Deployment) -> None:
    settings = [Setting("good", preferences={}), Setting("bad", preferences={"nope": 1.0})]
    broken = deployment.model_copy(update={"base": deployment.base.model_copy(update={"model": "/nowhere"})})
    with (
        pytest.raises(UserError, match=r"setting 'bad': .*nope"),
        EngineAnswers.load(broken, settings=settings),
    ):
        pass


def test_a_server_that_knows_nothing_of_preferences_gets_openais_fields_alone(
    prompts: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[dict[str, Any]] = []

    def post(_client: httpx.Client, url: str, **sent: Any) -> httpx.Response:
        bodies.append(sent["json"])
        reply = {"choices": [{"message": {"content": "hi"}}], "usage": {"completion_tokens": 3}}
        return httpx.Response(200, json=reply, request=httpx.Request("POST", url))

    monkeypatch.setattr(httpx.Client, "post", post)
    plan = SweepPlan([Setting("plain")], prompts, {})
    with ChatService("http://x", "m") as service:
        answers = answered(plan, UrlAnswers(service, 0.5, 9))
    assert {one.kl for one in answers.values()} == {None}
    assert set(bodies[0]) == {"model", "messages", "temperature", "max_tokens", "seed"}


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([(400, {"error": {"message": "no such field"}})], "400: no such field"),
        ([(503, {})] * 5, "503"),
        ([(200, {"choices": []})], "no chat completion"),
        ([(200, [])], "no chat completion"),
        ([httpx.ConnectError("refused")] * 5, "no answer: refused"),
    ],
)
def test_what_a_server_says_is_one_line(
    replies: list[Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, pauses = len(replies), script(monkeypatch, replies)
    with (
        ChatService("http://x/v1", "m", pause=pauses.append) as service,
        pytest.raises(UserError, match=message),
    ):
        service.complete({})
    assert len(pauses) == attempts - 1
    assert not replies


def test_a_busy_server_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = (200, {"choices": [{"message": {"content": None}, "finish_reason": "length"}]})
    pauses = script(monkeypatch, [(429, {}), httpx.ReadTimeout("slow"), fine])
    with ChatService("http://x/v1/", "m", pause=pauses.append) as service:
        completion = service.complete({})
    assert (completion.text, completion.finish_reason) == ("", "length")
    assert pauses == [7.0, 2.0]


def script(monkeypatch: pytest.MonkeyPatch, replies: list[Any]) -> list[float]:
    """Every request gets the next of ``replies``; 429 says that it wants 7 seconds."""

    def post(_client: httpx.Client, url: str, **_: Any) -> httpx.Response:
        assert url == "http://x/v1/chat/completions"
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        headers = {"retry-after": "7"} if reply[0] == 429 else {}
        return httpx.Response(reply[0], json=reply[1], headers=headers, request=httpx.Request("POST", url))

    monkeypatch.setattr(httpx.Client, "post", post)
    return []


def test_the_command_answers_goes_on_and_its_answers_are_scored(
    declared: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "deployment.yaml"
    config.write_text(json.dumps(declared))
    command = ["sweep", "--output", str(tmp_path / "s"), "--config", str(config), "--count", "4"]
    command += ["--grid", "helpful=0,1", "--max-tokens", "5", "--parameter", "beta=2.0"]
    assert main(command) == 0
    assert "2 settings, 4 prompts, 8 answers" in capsys.readouterr().out
    journal = tmp_path / "s" / "answers.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:5]) + "\n")
    assert main(command) == 0
    assert sorted(journal.read_text().splitlines()) == sorted(lines)
    files = {name: str(tmp_path / f"out.{name}") for name in ("json", "csv", "html")}
    alpaca = str(tmp_path / "alpaca.json")
    score = ["evaluate", "--sweep", str(tmp_path / "s"), "--report", files["html"], "--alpaca", alpaca]
    assert main([*score, "--output", files["json"]]) == 0
    assert main([*score, "--output", files["csv"], "--objectives", "helpful,harmless,concise"]) == 0
    written = json.loads(Path(files["json"]).read_text())
    assert [row["name"] for row in written["rows"]] == [
        "genarm helpful 0 beta=2.0",
        "genarm helpful 1 beta=2.0",
    ]
    assert written["frontiers"][0]["objectives"] == ["helpful", "harmless"]
    assert len(json.loads(Path(alpaca).read_text())) == 8
    report = Path(files["html"]).read_text()
    assert "data:image/png;base64," in report
    assert "<td>genarm</td><td>helpful</td>" in report  # at equal KL
    printed = capsys.readouterr().out
    assert "KL/token" in printed
    assert folder_is_whole(tmp_path / "s")


def folder_is_whole(path: Path) -> bool:
    folder = SweepFolder.open(path)
    return all(len(folder.of(setting.name)) == folder.prompts for setting in folder.settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--output", "x", "--count", "0"], "--count must be at least 1"),
        (["sweep", "--output", "x", "--temperature", "-1"], "--temperature"),
        (["sweep", "--output", "x", "--settings", "f", "--grid", "a=1"], "--settings says all"),
        (["sweep", "--output", "x", "--url", "u", "--config", "f"], "two ways to answer"),
        (["sweep", "--output", "x", "--parameter", "beta"], "--parameter beta"),
        (
            ["sweep", "--output", "x", "--url", "http://x", "--key-variable", "NONE_SUCH"],
            "NONE_SUCH is not set",
        ),
        (["evaluate", "--sweep", "/nowhere"], "holds no sweep.json"),
        (["evaluate", "--sweep", "x", "--demo"], "give one"),
        (["evaluate", "--sweep", "x", "--judge-url", "u"], "go together"),
        (["evaluate", "--sweep", "x", "--report", "r.txt"], "must end in .html"),
    ],
)
def test_misuse_is_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
