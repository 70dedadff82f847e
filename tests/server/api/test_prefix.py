"""A prompt that was read before is not read again, usage says so, and nobody feels what others sent."""

from collections.abc import Callable
from typing import Any

import httpx

# Longer than a chunk of 128 tokens, in every member's template.
SYSTEM = [11 + number * 3 % 250 for number in range(150)]


def cached(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    tokens: int = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return tokens


def test_the_second_request_says_what_it_found(real: Any) -> None:
    asked: dict[str, Any] = {"max_tokens": 4, "seed": 1, "temperature": 0}
    assert cached(real.complete([*SYSTEM, 20, 21], **asked)) == 0
    assert cached(real.complete([*SYSTEM, 30], **asked)) == 128
    chunks = real.stream_completion([*SYSTEM, 40], stream_options={"include_usage": True}, **asked)
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 128}
    assert cached(real.complete([9, *SYSTEM], **asked)) == 0


def test_several_choices_count_a_prompt_once(real: Any) -> None:
    prompt = [*reversed(SYSTEM)]
    assert cached(real.complete(prompt, n=3, max_tokens=2)) == 0
    assert cached(real.complete(prompt, n=3, max_tokens=2)) == 128


def test_the_metrics_count_tokens_asked_for_and_found(real: Any) -> None:
    def counts() -> list[float]:
        with real.client() as client:
            lines = client.get("/metrics").text.splitlines()
        names = ("genarm_prefix_cache_queries_total{", "genarm_prefix_cache_hits_total{")
        return [float(line.rsplit(" ", 1)[1]) for name in names for line in lines if line.startswith(name)]

    prompt = [token + 1 for token in SYSTEM]
    before = counts()
    for _ in range(2):
        real.complete(prompt, max_tokens=1)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [300, 128]


def test_keys_share_no_prompts(scripted: Callable[..., Any]) -> None:
    with scripted(keys=["mine", "theirs"]) as server:
        server.engine.free()
        for key in ("mine", "mine", "theirs"):
            with server.client(authorization=f"Bearer {key}") as client:
                body = {"model": "tiny", "prompt": [5, 6], "max_tokens": 1}
                assert client.post("/v1/completions", json=body).status_code == 200
        first, second, other = (request.salt for request in server.engine.requests.values())
    assert first == second != other
    assert "" not in (first, other)
    assert "mine" not in first
