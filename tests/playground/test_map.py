"""The same question under a grid of weights."""

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Response, expect


@pytest.fixture
def drawn(page: Page) -> Page:
    """A map of 5 × 5 weights over one question, done."""
    page.get_by_role("link", name="Map").click()
    page.get_by_label("Questions, one a line").fill("How do I descale the kettle?")
    page.get_by_role("button", name="Draw the map").click()
    expect(page.get_by_text("25 of 25 answers")).to_have_count(2)
    return page


def test_a_map_has_a_point_for_each_weighting_and_each_shows_its_text_and_sets_the_sliders(
    drawn: Page,
) -> None:
    points = drawn.locator(".point")
    assert points.count() == 25
    labels = points.evaluate_all(
        "points => points.map(point => point.getAttribute('aria-label').split('. ')[0])"
    )
    assert len(set(labels)) == 25
    # None lies under another.
    for index in (0, 7, 24):
        points.nth(index).click(position={"x": 10, "y": 10})
    point = drawn.locator('[data-at="2 4"]')
    point.click()
    expect(point).to_have_attribute("aria-pressed", "true")
    expect(drawn.get_by_label("helpful, as a number")).to_have_value("0.5")
    expect(drawn.get_by_label("harmless, as a number")).to_have_value("1")
    expect(drawn.locator(".chosen .answer")).not_to_be_empty()


def test_the_table_has_what_the_chart_has(drawn: Page) -> None:
    drawn.get_by_text("The map as a table").click()
    rows = drawn.locator("tbody tr")
    assert rows.count() == 25
    label = str(drawn.locator('[data-at="3 1"]').get_attribute("aria-label"))
    cells = rows.nth(8).locator("td").all_inner_texts()
    assert cells[:2] == ["0.75", "0.25"]
    assert round(float(cells[2]), 2) == pytest.approx(float(label.split("token ")[1].split(";")[0]), abs=0.01)
    assert cells[4]
    rows.nth(8).get_by_role("button").click()
    expect(drawn.get_by_label("harmless, as a number")).to_have_value("0.25")


def test_the_frontier_is_that_of_the_two_chosen_measures(page: Page) -> None:
    """Measures and frontier are computed again here, from what the server said."""
    told: list[Response] = []
    page.on("response", lambda response: told.append(response) if response.request.method == "POST" else None)
    page.get_by_role("link", name="Map").click()
    page.get_by_label("Questions, one a line").fill("How do I descale the kettle?")
    page.get_by_role("button", name="Draw the map").click()
    expect(page.get_by_text("25 of 25 answers")).to_have_count(2)
    places = {}
    for response in told:
        weights, body = response.request.post_data_json["preferences"], response.json()
        guidance, tokens = body["guidance"], body["usage"]["completion_tokens"]
        over = (guidance["rewards"]["harmless"] - guidance["base_logprob"]) / tokens
        places[round(weights["helpful"], 2), round(weights["harmless"], 2)] = guidance["mean_kl"], over
    assert len(places) == 25
    best = {
        key
        for key, (kl, over) in places.items()
        if not any(x <= kl and y >= over and (x, y) != (kl, over) for x, y in places.values())
    }
    page.get_by_label("Across").select_option("kl")
    page.get_by_label("Up").select_option("lift:harmless")
    ringed = page.locator(".point", has=page.locator(".best"))
    expect(ringed).to_have_count(len(best))
    marked = ringed.evaluate_all("points => points.map(point => point.dataset.at)")
    assert {tuple(int(step) / 4 for step in at.split()) for at in marked} == best
    for point in (ringed.first, page.locator(".point").nth(12)):
        label = str(point.get_attribute("aria-label"))
        column, row = (int(step) / 4 for step in str(point.get_attribute("data-at")).split())
        shown = [float(figure) for figure in re.findall(r"per token (-?[\d.]+)", label)]
        assert shown == pytest.approx(places[column, row], abs=0.006)
        assert label.endswith("on the frontier") == ((column, row) in best)
    page.get_by_label("Across").select_option("tokens")  # neither more nor less of it is better
    expect(ringed).to_have_count(0)


def test_keys_walk_the_grid_and_choose(drawn: Page) -> None:
    drawn.locator('[data-at="0 0"]').focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Enter"):
        drawn.keyboard.press(key)
    expect(drawn.locator('[data-at="2 1"]')).to_have_attribute("aria-pressed", "true")
    expect(drawn.get_by_label("helpful, as a number")).to_have_value("0.5")


def test_a_reward_at_0_is_measured_and_changes_nothing(page: Page, demo: Any) -> None:
    bodies = []
    page.on("request", lambda one: bodies.append(one.post_data_json) if one.method == "POST" else None)
    page.get_by_role("link", name="Map").click()
    page.get_by_label("Questions, one a line").fill("How do I descale the kettle?")
    page.get_by_role("button", name="Draw the map").click()
    expect(page.get_by_text("25 of 25 answers")).to_have_count(2)
    body = next(one for one in bodies if max(one["preferences"].values()) < 1e-6)
    plain = {**body, "preferences": {}}
    text = [
        httpx.post(f"{demo.url}/v1/chat/completions", json=one, timeout=60).json()["choices"][0]["message"]
        for one in (body, plain)
    ]
    assert text[0] == text[1]
    assert page.locator(".point").first.get_attribute("aria-label")


def test_a_map_can_be_cancelled_and_gone_on_with(page: Page) -> None:
    page.get_by_role("link", name="Map").click()
    page.get_by_label("Questions, one a line").fill("How do I descale the kettle?")
    page.get_by_label("Grid").select_option("9")
    page.get_by_role("button", name="Draw the map").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("not finished")).to_be_visible()
    before = page.locator("progress").evaluate("bar => bar.value")
    assert before < 81
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("progress")).not_to_have_js_property("value", before)
    page.get_by_role("button", name="Cancel").click()
