"""GET / and the files of the page."""

from collections.abc import Callable
from typing import Any

import httpx

from server.playground import read_assets


def test_it_is_served_under_a_strict_policy(real: Any) -> None:
    with real.client() as client:
        page = client.get("/")
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["img-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert policy["trusted-types"] == "'none'"
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "<script>" not in page.text
        assert " style=" not in page.text


def test_its_files_are_served_as_what_they_are_and_nothing_else_is(real: Any) -> None:
    with real.client() as client:
        for path, asset in read_assets().items():
            answer = client.get(path)
            assert answer.content == asset.content
            assert answer.headers["content-type"].startswith(asset.media_type)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert ("immutable" in answer.headers["cache-control"]) == asset.lasting
            assert client.head(path).content == b""
        for path in (
            "/index.html",
            "/page/",
            "/page/nope.js",
            "/page/../app.py",
            "/sources.sha256",
            "/source/main.tsx",
        ):
            assert client.get(path).status_code == 404, path
        assert client.post("/").status_code == 405


def test_it_is_open_where_everything_else_needs_a_key(scripted: Callable[..., Any]) -> None:
    with scripted(keys=["secret"]) as server, httpx.Client(base_url=server.url) as client:
        for path in read_assets():
            assert client.get(path).status_code == 200, path
        for path in ("/v1/preferences", "/page/nope.js", "/index.html"):
            assert client.get(path).status_code == 401, path
