"""For keyboards, screen readers, phones and both themes."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

QUESTION = "How do I unclog the kitchen drain?"


def tab_to(page: Page, what: str) -> None:
    """Walks with Tab until the element that matches ``what`` has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("what => document.activeElement.matches(what)", what):
            return
    raise AssertionError(f"Tab does not lead to {what}")


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, ask: Callable[..., None], theme: str) -> None:
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    assert violations(page) == []
    for summary in ("Save as a preset", "Options"):
        page.get_by_text(summary).click()
    ask(page, QUESTION, seed=3)
    page.locator(".column.guided .word").nth(3).focus()
    assert violations(page) == []
    page.get_by_role("button", name="Copy as code").click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Map").click()
    page.get_by_label("Questions, one a line").fill(QUESTION)
    page.get_by_role("button", name="Draw the map").click()
    expect(page.get_by_text("25 of 25 answers")).to_have_count(2)
    page.locator(".point").nth(3).focus()
    page.keyboard.press("Enter")
    page.get_by_text("The map as a table").click()
    assert violations(page) == []


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    keyboard = page.keyboard
    tab_to(page, ".skip")
    keyboard.press("Enter")
    expect(page.get_by_label("Your question")).to_be_focused()
    keyboard.type(QUESTION)
    keyboard.press("Enter")
    page.get_by_role("button", name="Regenerate").wait_for()
    page.locator("body").evaluate("() => document.activeElement.blur()")
    tab_to(page, "input[type=range]")
    keyboard.press("Home")
    expect(page.get_by_role("slider", name="helpful")).to_have_attribute("aria-valuetext", "0, off")
    keyboard.press("ArrowRight")
    expect(page.get_by_label("helpful, as a number")).to_have_value("0.01")
    tab_to(page, ".column.guided .word")
    keyboard.press("ArrowRight")
    expect(page.locator('.column.guided [data-word="1"]')).to_be_focused()
    expect(page.get_by_role("tooltip")).to_be_visible()
    keyboard.press("Escape")
    expect(page.get_by_role("tooltip")).to_have_count(0)
    tab_to(page, "button.primary")  # rerun with the new weights
    keyboard.press("Enter")
    page.get_by_role("button", name="Regenerate").wait_for()
    expect(page.locator(".column.guided h3")).to_contain_text("helpful 0.01")


def test_the_focus_can_be_seen(page: Page) -> None:
    for what in ("input[type=range]", "select", "#question", ".chips button"):
        page.keyboard.press("Shift")  # what follows counts as done with the keyboard
        page.locator(what).first.focus()
        width = page.locator(what).first.evaluate("element => getComputedStyle(element).outlineWidth")
        assert width == "3px", what


def test_a_screen_reader_is_told_of_the_answer_once_it_is_whole(
    page: Page, ask: Callable[..., None], text_of: Callable[..., str]
) -> None:
    ask(page, QUESTION)
    expect(page.locator("main [role=status]").filter(has_text="Answer:")).to_have_text(
        f"Answer: {text_of(page, 'guided')}"
    )


def test_it_fits_a_phone(page: Page, ask: Callable[..., None]) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    ask(page, QUESTION)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    guided, base = (page.locator(f".column.{side}").bounding_box() for side in ("guided", "base"))
    assert guided and base and guided["y"] < base["y"]  # what the sliders steer is nearest to them
    page.get_by_role("link", name="Map").click()
    page.get_by_label("Questions, one a line").fill(QUESTION)
    page.get_by_role("button", name="Draw the map").click()
    expect(page.get_by_text("25 of 25 answers")).to_have_count(2)
    page.locator(".point").first.press("Enter")
    page.get_by_text("The map as a table").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    size = page.locator(".axes text").first.evaluate(
        "text => parseFloat(getComputedStyle(text).fontSize) * text.getCTM().a"
    )
    assert size > 10
    expect(page.get_by_role("button", name="Dark theme")).to_be_visible()
    page.get_by_role("link", name="Chat").click()
    # The sliders stay in sight while one reads.
    page.mouse.wheel(0, 2000)
    expect(page.get_by_role("slider", name="concise")).to_be_in_viewport()


def test_the_theme_can_be_chosen_and_stays(page: Page) -> None:
    page.get_by_role("button", name="Dark theme").click()
    dark = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    page.reload()
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == dark
    page.get_by_role("button", name="Light theme").click()
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") != dark
