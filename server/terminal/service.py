"""The server at the other end, over its public API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from server.terminal.cells import one_line
from server.terminal.weights import Reward

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""A server that works on an answer sends at least a comment every 15 seconds."""

PATH = "/v1/chat/completions"


class ServiceError(Exception):
    """No answer, and why, on one line that can be shown.

    ServiceError
    ├── Refused        the server said no; ``status``, ``param`` and ``code`` are its own
    └── Unreachable    there is no server, or it went away
    """


class Refused(ServiceError):
    """The server's own error."""

    def __init__(
        self, message: str, *, status: int, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(one_line(message) + (f" ({one_line(param)})" if param else ""))
        self.status = status
        self.param = param
        self.code = code


class Unreachable(ServiceError):
    """No connection, or one that broke."""


@dataclass(frozen=True, slots=True)
class GuidedToken:
    """A token as the server reports it: its text, KL(guided ‖ base) in nats, log-probs."""

    text: str
    kl: float
    base_logprob: float
    rewards: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """What guidance did to an answer; figures that the server does not give are None."""

    mean_kl: float | None
    flip_rate: float | None
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of an answer: ``id`` is the answer's, ``summary`` comes with the ``finish_reason``."""

    id: str
    text: str
    tokens: tuple[GuidedToken, ...] = ()
    finish_reason: str | None = None
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offers: its model ids, rewards and presets."""

    models: tuple[str, ...]
    rewards: tuple[Reward, ...]
    presets: Mapping[str, Mapping[str, float]]


class Service:
    """A server and the key for it. Every method raises ``ServiceError``."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def offer(self) -> Offer:
        """What the server offers."""
        models = await self._json("GET", "/v1/models")
        preferences = await self._json("GET", "/v1/preferences")
        try:
            return Offer(
                models=tuple(_text(model["id"]) for model in models["data"]),
                rewards=tuple(_reward(entry) for entry in preferences["data"]),
                presets={
                    _text(name): {_text(reward): float(value) for reward, value in weights.items()}
                    for name, weights in preferences.get("presets", {}).items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused(f"{self.url} does not answer as a genarm server does", status=200) from None

    async def answer(self, body: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """The events of a streamed answer; ends when the server has said that it is whole. To be closed."""
        try:
            async with self._http.stream("POST", PATH, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _refusal(response)
                async with aclosing(_events(response)) as events:
                    async for event in events:
                        if event == b"[DONE]":
                            return
                        piece = _piece(event)
                        if piece is not None:
                            yield piece
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        raise Unreachable("the answer broke off")

    async def change(self, id: str, preferences: Mapping[str, float]) -> int:
        """Other weights for a running answer; the index of the first token under them."""
        made = await self._json("PATCH", f"{PATH}/{id}", {"preferences": dict(preferences)})
        at = made.get("at_token")
        if not isinstance(at, int):
            raise Refused("the server does not say from which token the weights hold", status=200)
        return at

    async def cancel(self, id: str) -> None:
        """Ends a running answer; its stream then ends well."""
        await self._json("DELETE", f"{PATH}/{id}")

    async def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code != 200:
            raise _refusal(response)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Refused(f"{self.url} does not answer as a genarm server does", status=200)
        return answer

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        if isinstance(error, httpx.ReadTimeout):
            return Unreachable(f"{self.url} has said nothing for {SILENCE_SECONDS:g} seconds")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return Unreachable(f"cannot reach {self.url}: {one_line(str(error)) or 'no answer in time'}")
        return Unreachable(f"the connection to {self.url} broke")


async def _events(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The data of each event. Lines end at a line feed only: JSON may hold what Unicode calls a line break."""
    rest = b""
    async for data in response.aiter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _piece(event: bytes) -> Piece | None:
    """The event's piece; None for one without choices."""
    try:
        chunk = json.loads(event)
        if "error" in chunk:
            raise _error(chunk["error"], 200)
        if not chunk["choices"]:
            return None
        choice, guidance = chunk["choices"][0], chunk.get("guidance")
        tokens = (choice.get("guidance") or {}).get("tokens") or ()
        return Piece(
            id=_text(chunk["id"]),
            text=_text(choice["delta"].get("content") or ""),
            tokens=tuple(_token(token) for token in tokens),
            finish_reason=choice["finish_reason"],
            summary=None if guidance is None else _summary(guidance),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise Refused("the server sent an event that is no piece of an answer", status=200) from None


def _token(token: Mapping[str, Any]) -> GuidedToken:
    return GuidedToken(
        text=_text(token["token"]),
        kl=float(token["kl"]),
        base_logprob=float(token["base_logprob"]),
        rewards={name: float(logprob) for name, logprob in token["rewards"].items()},
    )


def _summary(guidance: Mapping[str, Any]) -> Summary:
    mean_kl, flip_rate = guidance.get("mean_kl"), guidance.get("flip_rate")
    return Summary(
        mean_kl=None if mean_kl is None else float(mean_kl),
        flip_rate=None if flip_rate is None else float(flip_rate),
        cancelled=bool(guidance.get("cancelled")),
    )


def _reward(entry: Mapping[str, Any]) -> Reward:
    low, high = _pair(entry.get("range") or (0.0, 1.0))
    return Reward(
        name=_text(entry["name"]),
        description=_text(entry.get("description") or ""),
        default=float(entry["default"]),
        low=low,
        high=high,
    )


def _pair(values: Sequence[Any]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _refusal(response: httpx.Response) -> Refused:
    """What the server said was wrong, in OpenAI's shape or, from something in between, just the status."""
    try:
        return _error(response.json()["error"], response.status_code)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Refused(f"HTTP {response.status_code} {response.reason_phrase}", status=response.status_code)


def _error(error: Mapping[str, Any], status: int) -> Refused:
    param, code = error.get("param"), error.get("code")
    return Refused(
        _text(error["message"]),
        status=status,
        param=param if isinstance(param, str) else None,
        code=code if isinstance(code, str) else None,
    )
