"""What comes of a call of Serve's is told in the gateway's words, and who does not want the answer any more says so."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from server.replicas.calls import ServeReplicas
from server.replicas.errand import Errand, Gone
from server.replicas.gateway import Full, Lost

pytestmark = pytest.mark.ray

FULL = BackPressureError(num_queued_requests=3, max_queued_requests=3)


class Response:
    """Serve's generator: the batches, then ``fault``; cancelled, one that no replica had got raises that once more."""

    def __init__(self, batches: Sequence[Any], fault: BaseException | None) -> None:
        self.cancelled = 0
        self._batches, self._fault = batches, fault

    async def __aiter__(self) -> AsyncGenerator[Any]:
        for batch in self._batches:
            yield batch
        if self._fault is not None:
            raise self._fault

    def cancel(self) -> None:
        self.cancelled += 1
        if self._fault is not None and not self._batches:
            raise self._fault


class Handle:
    """Serve's handle of the replicas; ``answers``: what each says to all, None: nothing."""

    def __init__(self, response: Response | None = None, answers: Sequence[Any] = ()) -> None:
        self.response = response
        self.answers = [_Answer(one) for one in answers]

    def options(self, **_: Any) -> "Handle":
        return self

    def remote(self, *_: Any) -> Response | None:
        return self.response

    def broadcast(self, *_: Any) -> "Handle":
        return self

    async def _fetch_replica_results_async(self) -> list["_Answer"]:
        if not self.answers:
            raise DeploymentUnavailableError("replica")  # type: ignore[arg-type]
        return self.answers


class _Answer:
    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.cancelled = False

    async def get_async(self) -> Any:
        if self._answer is None:
            await asyncio.Event().wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def cancel(self) -> None:
        self.cancelled = True


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


def reached(handle: Handle) -> ServeReplicas:
    return ServeReplicas(handle)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batches", "fault", "raised"),
    [
        ([], FULL, Full),
        ([], Gone("a"), Gone),
        (["a"], None, Gone),
        ([[{}]], ActorDiedError(), Lost),
        ([[{}]], ActorUnavailableError("away", None), Lost),
        ([[{}]], asyncio.CancelledError(), Lost),
        ([], DeploymentUnavailableError("replica"), Lost),  # type: ignore[arg-type]
    ],
)
def test_what_a_request_comes_to_has_a_name(
    batches: list[Any], fault: BaseException | None, raised: type[Exception]
) -> None:
    response = Response(batches, fault)

    async def scenario() -> None:
        with pytest.raises(raised):
            async for _ in reached(Handle(response)).stream(Errand(), {}, b""):
                pass

    play(scenario)
    assert response.cancelled == 1, "whoever may still be at work is told that nobody waits"


def test_an_answer_that_is_whole_is_not_cancelled() -> None:
    response = Response([[1], [2]], None)

    async def scenario() -> None:
        assert [one async for one in reached(Handle(response)).stream(Errand(), {}, b"")] == [[1], [2]]

    play(scenario)
    assert response.cancelled == 0


def test_a_client_that_leaves_cancels_it() -> None:
    response = Response([[1], [2]], None)

    async def scenario() -> None:
        stream = reached(Handle(response)).stream(Errand(), {}, b"")
        assert await anext(stream) == [1]
        await stream.aclose()

    play(scenario)
    assert response.cancelled == 1


def test_one_that_does_not_answer_is_left_out_of_what_all_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.replicas.calls.ALL_SECONDS", 0.05)
    handle = Handle(answers=[("a", ["A"]), None, RayError("died"), ("b", ["B"])])

    async def scenario() -> None:
        assert await reached(handle).all({}) == {"a": ["A"], "b": ["B"]}

    play(scenario)
    assert [one.cancelled for one in handle.answers] == [False, True, False, False]


@pytest.mark.parametrize("answers", [(), (None, RayError("died"))])
def test_where_nobody_answers_that_is_told(monkeypatch: pytest.MonkeyPatch, answers: Sequence[Any]) -> None:
    monkeypatch.setattr("server.replicas.calls.ALL_SECONDS", 0.05)

    async def scenario() -> None:
        with pytest.raises(Lost):
            await reached(Handle(answers=answers)).all({})

    play(scenario)
