"""Keys, refusals, a server that goes away and comes back."""

from collections.abc import Callable
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

QUESTION = "How do I descale the kettle?"


def test_it_asks_for_a_key_survives_a_restart_and_keeps_what_was_typed(
    context: BrowserContext,
    keyed: Any,
    ask: Callable[..., None],
    again: Callable[..., None],
    text_of: Callable[..., str],
    slowly: Callable[[Page], None],
) -> None:
    page = context.new_page()
    page.goto(keyed.url)
    key = page.get_by_label("API key")
    assert Axe().run(page).violations_count == 0
    key.fill("sk-wrong")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("alert")).to_contain_text("Incorrect API key")
    key.fill("sk-page")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_label("Your question")).to_be_visible()
    assert "sk-page" not in page.evaluate("JSON.stringify(localStorage)")
    ask(page, QUESTION)
    page.get_by_role("button", name="Copy as code").click()
    assert "sk-page" not in page.locator("dialog").inner_text()
    page.get_by_role("button", name="Close").click()

    slowly(page)
    ask(page, "How do I clean the gutters?", done=False)
    page.locator(".turn").last.locator(".column.guided .word").nth(2).wait_for()
    page.get_by_label("Your question").fill("And then?")
    keyed.kill()
    expect(page.locator(".head [role=status]")).to_have_text("offline, trying again")
    expect(page.locator(".composer [role=alert]")).to_contain_text("Offline")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    said = text_of(page, "guided")
    assert said

    keyed.start()
    expect(page.locator(".head [role=status]")).to_have_text("ready")
    expect(page.get_by_label("Your question")).to_have_value("And then?")
    assert text_of(page, "guided") == said
    again(page, "Regenerate")
    expect(page.locator(".column .problem")).to_have_count(0)


def test_the_servers_refusal_is_shown_where_it_belongs_and_the_question_is_kept(
    page: Page, ask: Callable[..., None], again: Callable[..., None], set_option: Callable[..., None]
) -> None:
    set_option(page, "Temperature", "5")
    ask(page, QUESTION)
    expect(page.locator(".column.guided [role=alert]")).to_contain_text("temperature")
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Your question")).to_have_value(QUESTION)
    set_option(page, "Temperature", "1")
    again(page, "Send")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_change_that_is_refused_does_not_disturb_the_answer(page: Page, ask: Callable[..., None]) -> None:
    def refuse(route: Any) -> None:
        if route.request.method != "PATCH":
            return route.fallback()
        error = {
            "error": {
                "message": "no such weight",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        }
        return route.fulfill(status=400, json=error)

    page.route("**/v1/chat/completions/*", refuse)
    ask(page, QUESTION, done=False)
    page.get_by_role("slider", name="concise").press("End")
    page.get_by_role("button", name="Regenerate").wait_for()
    refused = page.locator(".turn > .problem")
    if refused.count():  # else the answer was over before the change was sent
        expect(refused).to_contain_text("no such weight")
    expect(page.locator(".column.guided .mark")).to_have_count(0)
    assert page.locator(".column.guided .word").count() > 3


def test_a_draft_outlives_a_reload(page: Page) -> None:
    page.get_by_label("Your question").fill("half a quest")
    page.reload()
    expect(page.get_by_label("Your question")).to_have_value("half a quest")


def test_a_page_opened_before_the_server_is_ready_goes_on_by_itself(
    context: BrowserContext, demo: Any
) -> None:
    page = context.new_page()
    page.route("**/ready", lambda route: route.fulfill(status=503, json={}))
    page.goto(demo.url)
    expect(page.locator("main")).to_contain_text("loading its models")
    page.unroute("**/ready")
    expect(page.get_by_label("Your question")).to_be_visible()
