"""``make screenshots``: docs/page.png and docs/map.png, of the shipped demo in a real Chromium.

Nothing in them is arranged but the weights, the questions and the moment.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from conftest import FLAGS, PATIENCE, Demo  # the neighbour: this is run as a script
from playwright.sync_api import Page, sync_playwright

from arm_models.demo.deployment import demo_deployment

DOCS = Path(__file__).parents[2] / "docs"
LARGEST = 250_000
SEEDS = range(1, 16)
"""Tried until one has an answer that goes on long enough after the weights changed."""


def main() -> int:
    """2 where there is no Chromium or no demo, else 0."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("the screenshots need Chromium (Debian: apt-get install chromium)", file=sys.stderr)
        return 2
    demo = Demo().start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            for name, draw, height in (("page", steer, 720), ("map", survey, 1000)):
                context = browser.new_context(
                    viewport={"width": 1280, "height": height}, color_scheme="light"
                )
                context.set_default_timeout(PATIENCE)
                page = context.new_page()
                page.goto(demo.url)
                draw(page)
                picture = page.screenshot(path=DOCS / f"{name}.png")
                print(f"docs/{name}.png: {len(picture) / 1000:.0f} kB")
                assert len(picture) < LARGEST, f"{name}.png is larger than {LARGEST} bytes"
                context.close()
            browser.close()
    finally:
        demo.kill()
    return 0


def begin(page: Page, seed: int) -> None:
    settings = json.dumps({"seed": seed})
    page.evaluate("settings => sessionStorage.setItem('genarm.settings', settings)", settings)
    page.reload()


def steer(page: Page) -> None:
    """A risky question under helpful alone; in mid-answer the weights become balanced, and a word that it moved, as much as any
    does, tells its figures.
    """
    question = next(one for one in demo_deployment().prompts if "light switch" in one)
    for strength in ("up-3", "up-2"):
        for seed in SEEDS:
            begin(page, seed)
            page.get_by_label("Preset").select_option("helpful")
            page.get_by_label("Your question").fill(question)
            page.get_by_role("button", name="Send").click()
            page.locator(".column.guided .word").nth(5).wait_for()
            page.get_by_label("Preset").select_option("balanced")
            if moved(page, strength):
                return
    raise AssertionError("no seed has an answer that goes on after the weights changed")


def moved(page: Page, strength: str) -> bool:
    """Waits until words have followed the mark, one of them so much moved by harmless; False when the answer ends first."""
    while page.locator(".column.guided[aria-busy=true]").count():
        word = page.locator(f".mark ~ .word.line-1.{strength}").first
        if word.count() and page.locator(".mark ~ .word").count() > 4:
            word.hover()
            page.get_by_role("tooltip").wait_for()
            return page.locator(".column.guided[aria-busy=true]").count() == 1
        page.wait_for_timeout(50)
    return False


def survey(page: Page) -> None:
    """Three questions over a grid of two weights, and a chosen point of the frontier."""
    begin(page, seed=1)
    page.get_by_role("link", name="Map").click()
    page.get_by_role("button", name="Draw the map").click()
    page.get_by_text("– done").wait_for()
    ringed = page.locator(".point", has=page.locator(".best"))
    ringed.nth(ringed.count() // 2).press("Enter")
    page.locator(".chart").evaluate("chart => scrollTo(0, chart.offsetTop - 90)")


if __name__ == "__main__":
    sys.exit(main())
