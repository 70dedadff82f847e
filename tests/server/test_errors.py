"""Every error has OpenAI's four keys, a status, and says no more than a stranger may know."""

import pytest

from server.errors import ApiError, ContextLengthExceeded, InvalidRequest, ModelNotFound, QueueFull, clip


def subclasses(kind: type[ApiError]) -> list[type[ApiError]]:
    return [kind, *(deep for sub in kind.__subclasses__() for deep in subclasses(sub))]


def test_the_body_has_the_four_keys() -> None:
    body = InvalidRequest("Bad.", param="stop", code="invalid_value").body()
    assert body == {
        "error": {
            "message": "Bad.",
            "type": "invalid_request_error",
            "param": "stop",
            "code": "invalid_value",
        }
    }


@pytest.mark.parametrize("kind", subclasses(ApiError))
def test_every_kind_has_a_status_and_a_type(kind: type[ApiError]) -> None:
    assert 400 <= kind.status < 600
    assert kind.type


def test_long_input_is_cut() -> None:
    error = InvalidRequest("x" * 10_000, param="y" * 10_000)
    assert len(error.message) == 1000
    assert error.param is not None
    assert len(error.param) == 200
    assert len(ModelNotFound("z" * 10_000).message) < 300


def test_echoes_are_one_encodable_line() -> None:
    assert clip("a\nb\ud800c").encode() == b"a b?c"


def test_context_overflow_names_the_three_lengths() -> None:
    error = ContextLengthExceeded(limit=64, prompt=60, answer=10, member="base", param="messages")
    assert error.code == "context_length_exceeded"
    for length in ("64", "60", "10", "70"):
        assert length in error.message


def test_retry_after_is_a_header() -> None:
    assert QueueFull("full", retry_after=3).headers == {"retry-after": "3"}
    assert InvalidRequest("x").headers == {}
