"""One chat completion from whoever serves OpenAI's API, tried again where that may help."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from arm_models.errors import UserError

SECONDS = 600.0
ATTEMPTS = 5
_AGAIN = (408, 409, 429, 500, 502, 503, 504)
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Completion:
    """The first choice of a response, and the response's ``usage`` and ``guidance``."""

    text: str
    finish_reason: str
    usage: Mapping[str, Any]
    guidance: Mapping[str, Any]


class ChatService:
    """A server at ``url`` ("…/v1", or without) that answers as ``model``. May be used from several threads.

    ``key``: sent as a bearer token. ``pause``: sleeps between two attempts. Its connections end with
    a ``with`` block.
    """

    def __init__(
        self, url: str, model: str, key: str | None = None, pause: Callable[[float], object] = time.sleep
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
        self._model = model
        self._pause = pause
        self._client = httpx.Client(
            timeout=SECONDS, headers=headers, limits=httpx.Limits(max_connections=None)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """POST ``body`` with the model's name; what it answered.

        Raises ``UserError`` in one line: the server refuses, cannot be reached, or answers with something else.
        """
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                response = self._client.post(self._url, json={"model": self._model, **body})
            except httpx.TransportError as error:
                if last:
                    raise UserError(f"{self._url}: no answer: {error or type(error).__name__}") from None
                self._pause(_pause(attempt, None))
                continue
            if response.status_code in _AGAIN and not last:
                self._pause(_pause(attempt, response.headers.get("retry-after")))
                continue
            break
        if response.status_code != 200:
            raise UserError(f"{self._url}: {response.status_code}: {_message(response)}")
        return _completion(response, self._url)


def _pause(attempt: int, asked: str | None) -> float:
    """Seconds: what the server asked for, else 1, 2, 4, …"""
    try:
        return min(max(float(asked or ""), 0.0), _LONGEST_PAUSE)
    except ValueError:
        return min(2.0**attempt, _LONGEST_PAUSE)


def _message(response: httpx.Response) -> str:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:200] or "no message"
    return " ".join(str(message).split())


def _completion(response: httpx.Response, url: str) -> Completion:
    try:
        body = response.json()
        choice = body["choices"][0]
        text = choice["message"]["content"]
        return Completion(
            text if isinstance(text, str) else "",
            str(choice.get("finish_reason") or "stop"),
            body.get("usage") or {},
            body.get("guidance") or {},
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise UserError(f"{url}: the answer is no chat completion") from None
