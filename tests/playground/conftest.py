"""A real Chromium in front of a real demo server, each as a process."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect, sync_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 60_000  # ms; the models run on the same two cores
CHATS = re.compile(r"/v1/chat/completions$")
PUBLIC = re.compile(r"/(page/[\w.-]+|ready|v1/models|v1/preferences|v1/chat/completions(/[\w-]+)?)?$")
"""Paths that the page may ask for: its own files and the public API."""


class Demo:
    """A ``genarm serve`` of the shipped demo at a port of its own, which it keeps when it is started again."""

    def __init__(self, *flags: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Demo":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "server.cli", "serve", "--port", str(self.port), *self._flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            self._wait(time.monotonic() + 240)
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    def _wait(self, deadline: float) -> None:
        assert self._process is not None
        while not self._ready():
            assert self._process.poll() is None, "the demo did not start"
            assert time.monotonic() < deadline, "the demo is not ready in time"
            time.sleep(0.1)

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ready").status_code == 200
        return False


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """A shared server, without keys."""
    server = Demo().start()
    yield server
    server.kill()


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Demo]:
    """A server of one's own that wants the key "sk-page"."""
    (tmp_path / "keys").write_text("sk-page\n")
    server = Demo("--api-key-file", str(tmp_path / "keys")).start()
    yield server
    server.kill()


# One per module: while it is open a loop runs in this thread, in which other tests want to run theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("the page's tests need Chromium (Debian: apt-get install chromium)")
        pytest.skip("no chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile. Fails the test if a script failed, the policy was broken, or a request left the origin or the
    public API.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    # Most tests need not wait until everything has been read; `slowly` undoes it.
    context.add_init_script(
        "if (location.protocol === 'http:') sessionStorage['genarm.settings'] ??= JSON.stringify({paced: false})"
    )
    wrong: list[str] = []
    asked: list[Request] = []
    context.on("request", lambda request: asked.append(request))
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
    yield context
    urls = [urlsplit(request.url) for request in asked if not request.url.startswith("blob:")]
    for page in context.pages:
        page.unroute_all(behavior="ignoreErrors")  # what was asked may still be on its way
    context.close()
    assert wrong == []
    assert len({(url.scheme, url.netloc) for url in urls}) <= 1, urls
    assert [url.path for url in urls if not PUBLIC.match(url.path)] == []


@pytest.fixture
def page(context: BrowserContext, demo: Demo) -> Page:
    """The page of the shared demo, ready to be used."""
    page = context.new_page()
    page.goto(demo.url)
    expect(page.get_by_role("status").filter(has_text="ready")).to_be_visible()
    return page


@pytest.fixture
def ask() -> Callable[..., None]:
    """``ask(page, question, seed=…)``: types and sends; ``done`` waits for the end of the answer."""

    def ask(page: Page, question: str, seed: int | None = None, done: bool = True) -> None:
        if seed is not None:
            option(page, "Seed", str(seed))
        page.get_by_label("Your question").fill(question)
        press(page, "Send", done)

    return ask


@pytest.fixture
def again() -> Callable[[Page, str], None]:
    """``again(page, "Regenerate")``: presses what asks anew, and waits for the end of that answer."""
    return press


def press(page: Page, button: str, done: bool = True) -> None:
    # In one go: a turn that is there may be gone a moment later.
    before = page.evaluate("[...document.querySelectorAll('.turn')].at(-1)?.dataset.number ?? '0'")
    page.get_by_role("button", name=button).click()
    expect(page.locator(".turn").last).not_to_have_attribute("data-number", before)
    if done:
        page.get_by_role("button", name="Regenerate").wait_for()


@pytest.fixture
def set_option() -> Callable[[Page, str, str], None]:
    return option


def option(page: Page, name: str, value: str) -> None:
    panel = page.locator("details", has_text="Options")
    if panel.get_attribute("open") is None:
        panel.get_by_text("Options").click()
    field = panel.get_by_label(name, exact=True)
    field.fill(value)
    field.press("Tab")


@pytest.fixture
def slowly() -> Callable[[Page], None]:
    """``slowly(page)``: words appear at reading pace, as they do in the demo unless told otherwise."""

    def slowly(page: Page) -> None:
        page.evaluate("sessionStorage['genarm.settings'] = '{}'")
        page.reload()
        page.get_by_text("Options").click()
        expect(page.get_by_label("Show words at reading pace")).to_be_checked()

    return slowly


@pytest.fixture
def text_of() -> Callable[[Page, str], str]:
    """``text_of(page, "guided" | "base")``: the last answer of that column as it reads, without marks."""

    def text_of(page: Page, column: str) -> str:
        return str(
            page.locator(f".column.{column} .answer p").last.evaluate(
                "p => [...p.childNodes].filter(n => !n.matches?.('.mark, .caret')).map(n => n.textContent).join('')"
            )
        )

    return text_of


@pytest.fixture
def recite() -> Callable[..., list[dict[str, Any]]]:
    """``recite(page, word, …)``: from now on every answer is these words, whatever the models say. A word is its text or
    what its token's report holds; the list that is given has the bodies of the requests.
    """

    def recite(page: Page, *words: str | dict[str, Any]) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []
        reports = [{"token": word} if isinstance(word, str) else word for word in words]
        chunks = [recited(one) for one in reports] + [recited(None)]
        events = [f"data: {one if one == '[DONE]' else json.dumps(one)}\n\n" for one in (*chunks, "[DONE]")]

        def answer(route: Route) -> None:
            asked.append(route.request.post_data_json)
            route.fulfill(body="".join(events), content_type="text/event-stream")

        page.route(CHATS, answer)
        return asked

    return recite


def recited(report: dict[str, Any] | None) -> dict[str, Any]:
    """The chunk of a token, or the one that ends the answer."""
    choice: dict[str, Any] = {"delta": {}, "finish_reason": None if report else "stop", "logprobs": None}
    if report:
        token = report["token"]
        plain = {"kl": 0.25, "base_logprob": -1.0, "rewards": {}, "base_top": token}
        choice["delta"] = {"content": token}
        choice["guidance"] = {"tokens": [plain | report]}
        choice["logprobs"] = {"content": [{"logprob": -0.5, "top_logprobs": [{"token": token}]}]}
    return {"id": "chatcmpl-recited", "choices": [choice]}


@pytest.fixture
def load(demo: Demo) -> Iterator[None]:
    """Keeps the shared server busy, so that an answer takes long enough to be steered."""
    over = threading.Event()
    body = {
        "model": "genarm-demo",
        "messages": [{"role": "user", "content": "How do I clean the gutters?"}],
        "ignore_eos": True,
        "max_tokens": 180,
        "stream": True,
    }

    def keep_busy() -> None:
        while not over.is_set():
            with httpx.stream("POST", f"{demo.url}/v1/chat/completions", json=body, timeout=120) as answer:
                for _ in answer.iter_lines():
                    if over.is_set():
                        break

    threads = [threading.Thread(target=keep_busy) for _ in range(12)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()
