"""A server's life: loading, ready, full, draining, dead; and clients that come without a key or leave early."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from arm_models.errors import UserError
from server.access import KeyRing
from server.api.serving import Phase, Serving


def error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    found: dict[str, Any] = body["error"]
    return found


def test_while_loading_health_answers_and_requests_wait_outside(
    deployment: Any, serve: Callable[..., Any]
) -> None:
    gate = threading.Event()

    def load(*_: Any) -> Any:
        gate.wait(30)
        raise UserError("stopped by the test")

    with serve(deployment, load, wait=False) as server, server.client() as client:
        assert client.get("/health").status_code == 200
        for response in (client.get("/ready"), server.chat()):
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert error(response)["code"] == "loading"
        assert client.get("/v1/models").status_code == 200
        gate.set()


def test_models_that_cannot_be_loaded_are_reported_once(
    deployment: Any, serve: Callable[..., Any], until: Any
) -> None:
    seen: list[BaseException] = []

    def load(*_: Any) -> Any:
        raise UserError("no such folder: /secret")

    with serve(deployment, load, on_dead=seen.append) as server, server.client() as client:
        until(lambda: seen)
        assert [str(one) for one in seen] == ["no such folder: /secret"]
        for response in (client.get("/health"), client.get("/ready"), server.chat()):
            assert response.status_code == 503
            assert "secret" not in response.text


def test_a_full_queue_answers_429_at_once_and_takes_requests_again(
    scripted: Callable[..., Any], until: Any
) -> None:
    with (
        scripted(engine={"max_sequences": 1}, http={"max_queue": 2}) as server,
        ThreadPoolExecutor(3) as pool,
    ):
        running = [pool.submit(server.chat, max_tokens=3) for _ in range(3)]
        until(lambda: server.serving.dispatcher.admitted == 3)
        began = time.monotonic()
        refused = server.chat(max_tokens=3)
        assert time.monotonic() - began < 2
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert error(refused)["type"] == "rate_limit_error"
        server.engine.free()
        assert [future.result().status_code for future in running] == [200] * 3
        until(lambda: server.serving.dispatcher.admitted == 0)
        assert server.chat(max_tokens=3).status_code == 200


def test_refused_requests_give_their_place_back(scripted: Callable[..., Any]) -> None:
    with scripted(engine={"max_sequences": 1}, http={"max_queue": 0}) as server:
        server.engine.free()
        for _ in range(5):
            assert server.chat(max_tokens=100_000).status_code == 400
            assert server.chat(messages=[{"role": "user", "content": "x" * 5000}]).status_code == 400
        assert server.serving.dispatcher.admitted == 0
        assert server.chat(max_tokens=1).status_code == 200


def test_an_engine_that_refuses_a_sequence_is_the_clients_error(
    scripted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future

    with scripted() as server:
        refused: Future[None] = Future()
        refused.set_exception(ValueError("base has an empty prompt"))
        monkeypatch.setattr(server.engine, "add", lambda _: refused)
        response = server.chat()
        assert response.status_code == 400
        assert "empty prompt" in error(response)["message"]
        assert server.serving.dispatcher.admitted == 0


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_ends_the_work(scripted: Callable[..., Any], until: Any, streamed: bool) -> None:
    with scripted() as server:
        server.engine.allow(2)
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.3) as client:
            client.post("/v1/chat/completions", json=server.body(stream=streamed))
        until(lambda: len(server.engine.aborted) == 1)
        until(lambda: server.serving.dispatcher.admitted == 0)


def test_a_client_that_leaves_disturbs_nobody(real: Any, until: Any) -> None:
    alone = real.chat(max_tokens=40, seed=3, ignore_eos=True).json()["choices"]
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(real.chat, max_tokens=40, seed=3, ignore_eos=True)
        for _ in range(5):
            with real.client() as client, real.open(client, max_tokens=200, ignore_eos=True) as events:
                next(events)
        assert stays.result().json()["choices"] == alone
    until(lambda: real.serving.dispatcher.admitted == 0)
    until(lambda: real.serving.dispatcher.stats.running == 0)


def test_death_is_told_once_to_everybody(scripted: Callable[..., Any], until: Any) -> None:
    dead: list[BaseException] = []
    with scripted(on_dead=dead.append) as server, ThreadPoolExecutor(2) as pool, server.client() as client:
        whole = pool.submit(server.chat, max_tokens=50)
        with server.open(client, max_tokens=50) as events:
            until(lambda: len(server.engine.requests) == 2)
            server.engine.allow(3)
            server.engine.kill()
            told = list(events)
        assert "[DONE]" not in told
        assert [set(event) == {"error"} for event in told].count(True) == 1
        assert set(told[-1]["error"]) == {"message", "type", "param", "code"}
        assert whole.result().status_code == 503
        assert whole.result().headers["retry-after"]
        until(lambda: len(dead) == 1)
        assert client.get("/health").status_code == 503
        assert client.get("/ready").status_code == 503
        later = server.chat()
        assert later.status_code == 503
        assert later.headers["retry-after"]
        for text in (str(told), whole.result().text, later.text):
            assert "secret" not in text
            assert "boom" not in text


def test_a_failed_sequence_fails_alone(scripted: Callable[..., Any], until: Any) -> None:
    from server.engine import TokenOutput

    with scripted() as server, ThreadPoolExecutor(2) as pool:
        pending = [pool.submit(server.chat, max_tokens=3) for _ in range(2)]
        until(lambda: len(server.engine.requests) == 2)
        first = next(iter(server.engine.requests))
        server.engine.abort(first)
        server.serving.dispatcher.on_outputs([TokenOutput(first, 0, -1, "error", "/secret: not finite")])
        until(lambda: any(future.done() for future in pending))
        server.engine.free()
        responses = sorted((future.result() for future in pending), key=lambda response: response.status_code)
        assert [response.status_code for response in responses] == [200, 500]
        assert "secret" not in responses[1].text
        assert error(responses[1])["type"] == "server_error"


def test_draining_finishes_what_runs_and_takes_nothing_new(scripted: Callable[..., Any], until: Any) -> None:
    import asyncio

    with scripted() as server, server.client() as client, server.open(client, max_tokens=5) as events:
        next(events)
        drained = asyncio.run_coroutine_threadsafe(server.serving.drain(30), server.serving.dispatcher._loop)
        until(lambda: server.serving.phase is Phase.DRAINING)
        with server.client() as other:
            assert other.get("/ready").status_code == 503
            assert other.get("/health").status_code == 200
        assert server.chat().status_code == 503
        assert not drained.done()
        server.engine.free()
        assert list(events)[-1] == "[DONE]"
        drained.result(10)


def test_a_signal_before_the_server_has_begun_ends_it(deployment: Any) -> None:
    import asyncio

    serving = Serving(
        deployment, load=lambda *_: pytest.fail("nothing is to be loaded"), keys=KeyRing(deployment)
    )
    asyncio.run(asyncio.wait_for(serving.drain(30), 5))
    assert serving.phase is Phase.DRAINING


def test_a_deadline_ends_what_does_not_finish(scripted: Callable[..., Any]) -> None:
    import asyncio

    with scripted() as server, server.client() as client, server.open(client) as events:
        next(events)
        asyncio.run_coroutine_threadsafe(server.serving.drain(0.1), server.serving.dispatcher._loop).result(
            10
        )
        told = list(events)
        assert [set(event) for event in told] == [{"error"}]


def test_with_keys_every_route_but_health_and_ready_is_closed(scripted: Callable[..., Any]) -> None:
    with scripted(keys=["secret-key"]) as server:
        server.engine.free()
        with server.client() as client:
            assert client.get("/health").status_code == 200
            assert client.get("/ready").status_code == 200
            for path in (
                "/v1/models",
                "/v1/preferences",
                "/metrics",
                "/openapi.json",
                "/nope",
                "/health/",
                f"{server.url}//health",
            ):
                response = client.get(path)
                assert response.status_code == 401, path
                assert error(response)["code"] == "invalid_api_key"
            for wrong in ("Bearer nope", "Bearer", "secret-key", "Basic secret-key", "Bearer secret-key2"):
                response = client.get("/v1/models", headers={"authorization": wrong})
                assert response.status_code == 401, wrong
                # LiteLLM tells a refused key from a bad request by OpenAI's own words.
                assert error(response)["message"].startswith("Incorrect API key provided")
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.headers["x-request-id"]
        for right in ("Bearer secret-key", "bearer secret-key"):
            with server.client(authorization=right) as client:
                assert client.get("/v1/models").status_code == 200
                assert client.post("/v1/chat/completions", json=server.body(max_tokens=1)).status_code == 200


def test_without_keys_any_authorization_is_fine(real: Any) -> None:
    for given in ("Bearer", "Bearer x", "nonsense"):
        with real.client(authorization=given) as client:
            assert client.get("/v1/models").status_code == 200


def test_metrics_count_what_happened(scripted: Callable[..., Any]) -> None:
    with scripted() as server, server.client() as client:

        def value(name: str, **labels: str) -> float:
            for line in client.get("/metrics").text.splitlines():
                if line.startswith(f"genarm_{name}{{") and all(
                    f'{k}="{v}"' in line for k, v in labels.items()
                ):
                    return float(line.rsplit(" ", 1)[1])
            return 0.0

        with server.open(client, max_tokens=4) as events:
            next(events)
            with server.client() as other:
                text = other.get("/metrics").text
            assert 'genarm_num_requests_running{model_name="tiny"} 1.0' in text
            assert 'genarm_kv_cache_usage_perc{member="base",model_name="tiny"} 0.5' in text
            server.engine.free()
            list(events)
        prompt = server.chat(max_tokens=3).json()["usage"]["prompt_tokens"]
        server.chat(max_tokens=0)
        assert value("request_success_total", finished_reason="length") == 2
        assert value("request_failure_total", status="400") == 1
        assert value("generation_tokens_total") == 7
        assert value("prompt_tokens_total") == 2 * prompt
        assert value("time_to_first_token_seconds_count") == 2
        assert value("inter_token_latency_seconds_count") == 3 + 2  # one less than each answer has tokens
        assert value("e2e_request_latency_seconds_count") == 2
        assert value("num_requests_running") == value("num_requests_waiting") == 0
