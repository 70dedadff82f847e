"""Asking, steering in mid-answer, comparing with the base."""

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from playwright.sync_api import Locator, Page, Request, Route, expect

from arm_models.demo.deployment import demo_deployment
from server import serve_command

QUESTION = "Can you help me replace the light switch?"
CHATS = re.compile(r"/v1/chat/completions$")


def weigh(page: Page, name: str, weight: float) -> None:
    page.get_by_label(f"{name}, as a number").fill(str(weight))


def whole_at_once(route: Route) -> None:
    """Lets the page have an answer only when the server has finished it."""
    route.fulfill(response=route.fetch(timeout=60_000))


def test_an_answer_streams_into_both_columns(
    page: Page, ask: Callable[..., None], slowly: Callable[[Page], None]
) -> None:
    slowly(page)
    ask(page, QUESTION, done=False)
    guided = page.locator(".column.guided")
    expect(guided.locator(".word").nth(2)).to_be_visible()
    expect(guided).to_have_attribute("aria-busy", "true")  # it is shown before it is over
    page.get_by_role("button", name="Regenerate").wait_for()
    for column in ("guided", "base"):
        assert page.locator(f".column.{column} .word").count() > 5
        expect(page.locator(f".column.{column}")).to_have_attribute("aria-busy", "false")
        assert re.search(r"KL\s*\d+\.\d\d", page.locator(f".column.{column} .figures").inner_text())
    expect(page.get_by_label("Your question")).to_have_value("")


def test_a_suggestion_is_asked_with_one_click(page: Page) -> None:
    page.get_by_role("list", name="Questions to try").get_by_role("button").first.click()
    expect(page.locator(".question")).to_contain_text(demo_deployment().prompts[0])
    page.get_by_role("button", name="Stop").click()


def test_at_weight_0_both_columns_say_the_same(
    page: Page, ask: Callable[..., None], again: Callable[..., None], text_of: Callable[..., str]
) -> None:
    page.get_by_label("Preset").select_option("base")
    ask(page, QUESTION)
    assert text_of(page, "guided") == text_of(page, "base") != ""
    expect(page.locator(".column.guided .figures")).to_contain_text("0.00")
    page.get_by_label("Preset").select_option("helpful")
    again(page, "Rerun with these weights")
    assert text_of(page, "guided") != text_of(page, "base")


@pytest.mark.usefixtures("load")
def test_a_slider_moved_in_mid_answer_changes_the_words_from_the_mark_on(
    page: Page, ask: Callable[..., None], text_of: Callable[..., str], set_option: Callable[..., None]
) -> None:
    changes: list[Request] = []
    page.on("request", lambda request: changes.append(request) if request.method == "PATCH" else None)
    page.get_by_label("Preset").select_option("base")
    set_option(page, "β", "0.1")
    ask(page, QUESTION, seed=11)
    plain = text_of(page, "guided")

    mark = page.locator(".column.guided .mark")
    for _ in range(8):  # the answer may be over before the key is pressed
        page.get_by_role("button", name="New chat").click()
        ask(page, QUESTION, done=False)
        page.locator(".column.guided .word").nth(1).wait_for()
        page.get_by_role("slider", name="helpful").press("End")
        page.get_by_role("button", name="Regenerate").wait_for()
        if mark.count() and changes[-1].response().ok:
            break
        page.get_by_role("slider", name="helpful").press("Home")

    steered = text_of(page, "guided")
    before = str(
        mark.last.evaluate(
            "m => { let t = ''; for (let n = m.previousSibling; n; n = n.previousSibling)"
            " if (!n.matches?.('.mark')) t = n.textContent + t; return t }"
        )
    )
    assert plain.startswith(before)
    assert before
    assert steered.startswith(before)
    assert steered != plain
    expect(mark.last).to_contain_text("helpful 1")
    assert text_of(page, "base") == plain
    answer = changes[-1].response()
    assert answer is not None
    changed = answer.json()
    assert changed["preferences"]["helpful"] == 1
    expect(mark.last).to_have_attribute("title", re.compile(f"From token {changed['at_token']} on"))


def test_an_answer_that_the_server_has_finished_goes_on_from_what_is_shown(
    page: Page, ask: Callable[..., None], slowly: Callable[[Page], None], text_of: Callable[..., str]
) -> None:
    slowly(page)
    asked: list[dict[str, Any]] = []
    page.on("request", lambda one: asked.append(one.post_data_json) if CHATS.search(one.url) else None)
    page.route(CHATS, whole_at_once)
    page.get_by_label("Preset").select_option("harmless")
    ask(page, QUESTION, done=False)
    page.locator(".column.guided .word").nth(4).wait_for()
    weigh(page, "harmless", 0)
    weigh(page, "helpful", 1)
    page.locator(".column.guided .mark").wait_for()
    page.get_by_role("button", name="Regenerate").wait_for()
    last = asked[-1]
    assert last["continue_final_message"] is True
    assert last["preferences"] == {"helpful": 1, "harmless": 0, "concise": 0}
    begun = last["messages"][-1]
    assert begun["role"] == "assistant"
    assert text_of(page, "guided").startswith(begun["content"])
    assert {body["seed"] for body in asked} == {last["seed"]}


def test_of_many_quick_moves_the_last_one_wins(
    page: Page, ask: Callable[..., None], slowly: Callable[[Page], None]
) -> None:
    slowly(page)
    page.route(CHATS, whole_at_once)
    ask(page, QUESTION, done=False)
    page.locator(".column.guided .word").nth(2).wait_for()
    slider = page.get_by_role("slider", name="concise")
    for _ in range(30):
        slider.press("ArrowRight")
    expect(page.locator(".column.guided .mark").last).to_contain_text("concise 0.3")
    assert page.locator(".column.guided .mark").count() < 10
    page.get_by_role("button", name="Stop").click()


def test_stop_keeps_what_is_shown_and_regenerate_draws_anew(
    page: Page,
    ask: Callable[..., None],
    again: Callable[..., None],
    slowly: Callable[[Page], None],
    text_of: Callable[..., str],
) -> None:
    slowly(page)
    ask(page, QUESTION, done=False)
    page.locator(".column.guided .word").nth(2).wait_for()
    page.get_by_role("button", name="Stop").click()
    kept = text_of(page, "guided")
    expect(page.locator(".column.guided")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".column.guided .figures")).to_contain_text("stopped")
    seed = page.get_by_text(re.compile(r"^seed \d+")).inner_text()
    again(page, "Regenerate")
    assert page.get_by_text(re.compile(r"^seed \d+")).inner_text() != seed
    assert kept
    assert page.locator(".turn").count() == 1


def test_words_tell_their_figures(page: Page, ask: Callable[..., None]) -> None:
    ask(page, QUESTION, seed=3)
    word = page.locator(".column.guided .word").first
    word.hover()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("helpful")
    expect(tip).to_contain_text("KL")
    word.focus()
    expect(word).to_have_attribute("aria-describedby", str(tip.get_attribute("id")))


def guided_word(page: Page, text: str) -> Locator:
    return page.locator(".column.guided .word", has_text=re.compile(f"^{text}$"))


def line_under(word: Locator) -> list[str]:
    """Kind, thickness and colour of the line under a word; nothing without one."""
    style = (
        "word => (({textDecorationLine: line, textDecorationStyle: kind, textDecorationThickness: thickness,"
        " textDecorationColor: colour}) => line === 'underline' ? [kind, thickness, colour] : [])"
        "(getComputedStyle(word))"
    )
    return list(word.evaluate(style))


def test_words_are_tinted_by_the_reward_that_moved_them_most_or_by_a_chosen_one(
    page: Page, ask: Callable[..., None], recite: Callable[..., Any]
) -> None:
    """The kind of line is the cue besides colour; helpful weighs 0.5 and harmless 1."""
    recite(
        page,
        {"token": "Open", "rewards": {"helpful": 0.0, "harmless": -1.0}},
        {"token": " safely", "rewards": {"helpful": 0.0, "harmless": -0.4}, "scale": 0.5},
        {"token": " the", "rewards": {"helpful": -1.0, "harmless": -1.1}},
        {"token": " valve", "rewards": {"helpful": -0.5, "harmless": -9.0}, "base_top": " door"},
    )
    ask(page, QUESTION)
    opened, safely = line_under(guided_word(page, "Open")), line_under(guided_word(page, "safely"))
    assert opened[:2] == ["solid", "1px"]
    assert safely[0] == "double"
    assert opened[2] != safely[2]
    assert line_under(guided_word(page, "the")) == line_under(guided_word(page, "valve")) == []
    assert page.locator(".column.base .word[class*='up-']").count() == 0
    expect(page.locator(".legend")).to_contain_text("helpful harmless concise")

    page.get_by_role("radio", name="harmless").check()
    expect(page.locator(".legend")).to_contain_text("harmless likes better than the base does")
    assert line_under(guided_word(page, "Open")) == []
    assert line_under(guided_word(page, "safely"))[0] == "solid"
    assert line_under(guided_word(page, "valve"))[:2] == ["dotted", "3.5px"]

    page.get_by_role("radio", name="nothing").check()
    expect(page.locator(".legend")).to_have_count(0)
    assert line_under(guided_word(page, "safely")) == line_under(guided_word(page, "valve")) == []
    tip = page.get_by_role("tooltip")
    guided_word(page, "safely").hover()
    expect(tip).to_contain_text("+0.60 over the base")
    expect(tip).to_contain_text("The limit of KL left 0.5 of the weights")
    guided_word(page, "valve").hover()
    expect(tip).to_contain_text("The base alone prefers “door”")


def test_a_slider_that_is_dragged_for_long_is_heard_while_it_moves(
    page: Page, ask: Callable[..., None], slowly: Callable[[Page], None], recite: Callable[..., Any]
) -> None:
    slowly(page)
    asked = recite(page, *(f" {index}" for index in range(200)))
    ask(page, QUESTION, done=False)
    expect(page.locator("main")).to_contain_text("Move a slider now")
    page.locator(".column.guided .word").nth(1).wait_for()
    heard = page.get_by_role("slider", name="concise").evaluate(
        """slider => new Promise(done => {
            let moves = 0
            const drag = setInterval(() => {
                slider.value = Math.random()
                slider.dispatchEvent(new Event('input', {bubbles: true}))
                const mark = document.querySelector('.mark')
                if (mark || ++moves === 200) { clearInterval(drag); done(mark !== null) }
            }, 30)
        })"""
    )
    assert heard
    expect(page.locator("main")).not_to_contain_text("Move a slider now")
    page.get_by_role("button", name="Stop").click()
    assert len(asked) >= 3  # both columns', and at least one that goes on with the guided one


def test_the_conversation_goes_on_with_each_columns_own_answers(page: Page, ask: Callable[..., None]) -> None:
    asked: list[dict[str, Any]] = []
    page.on("request", lambda one: asked.append(one.post_data_json) if CHATS.search(one.url) else None)
    ask(page, QUESTION)
    ask(page, "How long does that take?")
    guided, base = asked[2:]
    assert [message["role"] for message in guided["messages"]] == ["user", "assistant", "user"]
    shown = page.locator(".turn").first
    for body, column in ((guided, "guided"), (base, "base")):
        words = shown.locator(f".column.{column} .word").all_inner_texts()
        assert "".join(words).split() == body["messages"][1]["content"].replace(" ", "").split()
    assert base["preferences"] == {"helpful": 0, "harmless": 0, "concise": 0}


@pytest.mark.parametrize("side", ["question", "answer"])
def test_a_script_stays_text(
    page: Page, ask: Callable[..., None], text_of: Callable[..., str], side: str
) -> None:
    evil = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    if side == "answer":
        chunk = {"id": "chatcmpl-1", "choices": [{"delta": {"content": evil}, "finish_reason": "stop"}]}
        body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        page.route(CHATS, lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    ask(page, evil)
    said = page.locator(".question").inner_text() if side == "question" else text_of(page, "guided")
    assert evil in said
    assert page.title() == "genarm playground"
    assert page.locator("main img, main script").count() == 0


def test_the_request_is_given_as_code_that_runs(
    page: Page, ask: Callable[..., None], text_of: Callable[..., str]
) -> None:
    ask(page, 'Isn\'t it "hard" to descale the kettle?', seed=5)
    page.get_by_role("button", name="Copy as code").click()
    said: list[str] = []
    code = page.get_by_role("region", name="The request in Python").inner_text()
    exec(compile(code, "snippet", "exec"), {"print": lambda text, **_: said.append(text)})
    assert "".join(said) == text_of(page, "guided")
    curl = page.get_by_role("region", name="The request in curl").inner_text()
    if not (shutil.which("curl") and shutil.which("bash")):
        body = json.loads(curl.split("-d '")[1].rstrip("'\n").replace("'\\''", "'"))
        assert (body["seed"], body["stream"]) == (5, True)
        return
    events = subprocess.run(
        ["bash", "-c", curl], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    *chunks, done = (line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: "))
    assert done == "[DONE]"
    pieces = [choice["delta"].get("content") for chunk in chunks for choice in json.loads(chunk)["choices"]]
    assert "".join(piece or "" for piece in pieces) == text_of(page, "guided")


def test_weights_are_saved_as_a_preset_in_a_file_that_the_server_starts_with(page: Page) -> None:
    weigh(page, "helpful", 0.35)
    page.get_by_text("Save as a preset").click()
    name = page.get_by_label(re.compile("^Name for"))
    name.fill("base")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("has a preset of this name")
    name.fill("mine")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    options = argparse.ArgumentParser()
    serve_command.add_arguments(options)
    deployment = serve_command.deployment_from(options.parse_args(["--presets", str(download.value.path())]))
    mine = {"helpful": 0.35, "harmless": 1.0, "concise": 0.0}
    assert deployment.presets["mine"] == mine
    assert "balanced" in deployment.presets
    assert yaml.safe_load(download.value.path().read_text())["presets"]["mine"] == mine
    page.reload()
    page.get_by_label("Preset").select_option("mine")
    expect(page.get_by_label("helpful, as a number")).to_have_value("0.35")
    page.get_by_text("Save as a preset").click()
    page.get_by_role("button", name="Forget mine").click()
    expect(page.get_by_label("Preset")).to_have_value("")
    page.reload()
    expect(page.get_by_label("Preset").get_by_text("mine")).to_have_count(0)
