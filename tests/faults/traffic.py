"""What a soak asks of a server: every request that people make, and those that nobody should, drawn at random."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
WORDS = (
    "kettle",
    "garden",
    "oven",
    "soap",
    "window",
    "bleach",
    "plants",
    "damp",
    "cloth",
    "neighbour",
    "water",
)
CODES = {429: "queue_full", 503: "queue_timeout", 504: "timeout"}
"""What a server that is asked too much may answer to any of them, or end its stream with, and the code that says why."""

TAKEN = frozenset({200, *CODES})
"""Statuses that are right where nothing is wrong with a request."""

IN_VAIN = frozenset(CODES)
"""Those of them that say that nothing came of it."""

TALKATIVE: dict[str, Any] = {
    "ignore_eos": True,
    "logprobs": True,
    "top_logprobs": 20,
    "guidance": {"report": "tokens"},
    "response_format": {"type": "text"},
    "stop": [],
}
"""What makes an answer as long as it may be, with as much to read as there can be."""


@dataclass(frozen=True)
class Asked:
    """One request, and how its answer is read.

    Attributes:
        kind: how: see :data:`WEIGHTS`.
        content: the body as it is sent, where ``body`` is none.
        allowed: statuses that are right.
    """

    kind: str
    path: str
    body: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    allowed: frozenset[int] = TAKEN

    @property
    def sent(self) -> bytes:
        """The body's bytes."""
        return json.dumps(self.body).encode() if self.content is None else self.content


def chat(rng: random.Random, **fields: Any) -> dict[str, Any]:
    """A chat under weights and sampling of its own, with a seed, so that it can be asked again."""
    body: dict[str, Any] = {
        "model": rng.choice(("tiny", "tiny", "tiny:kind")),
        "messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))}],
        "seed": rng.randrange(10**6),
        "max_tokens": rng.randint(1, 60),
        "temperature": rng.choice((0.0, 0.7, 1.0, 1.3)),
        "return_token_ids": True,
    }
    if rng.random() < 0.8:
        body["preferences"] = weights(rng)
    body["guidance"] = {
        "beta": rng.choice((0.5, 1.0, 2.0)),
        "report": rng.choice(("none", "summary", "tokens")),
    }
    for fields_too in (
        {"top_p": 0.9},
        {"top_k": 20},
        {"stop": ["e"]},
        {"ignore_eos": True},
        {"logprobs": True, "top_logprobs": 5},
        {"presence_penalty": 0.7, "frequency_penalty": 0.2},
        {"response_format": {"type": "json_object"}},
    ):
        if rng.random() < 0.15:
            body |= fields_too
    return body | fields


def weights(rng: random.Random) -> dict[str, float]:
    """Preferences, some of them off, some negative."""
    return {name: round(rng.uniform(-1, 3), 2) for name in ("helpful", "harmless") if rng.random() < 0.7}


def _whole(rng: random.Random) -> Asked:
    return Asked("whole", CHAT, chat(rng))


def _streamed(rng: random.Random) -> Asked:
    return Asked("streamed", CHAT, chat(rng, stream=True))


def _several(rng: random.Random) -> Asked:
    return Asked("several", CHAT, chat(rng, n=rng.randint(2, 3)))


def _search(rng: random.Random) -> Asked:
    guidance = {"method": "best_of_n", "n_candidates": rng.randint(2, 3), "guided": rng.random() < 0.5}
    plain = {"seed": rng.randrange(10**6), "max_tokens": 16, "preferences": {"helpful": 1.0}}
    messages = [{"role": "user", "content": rng.choice(WORDS)}]
    body = {"model": "tiny", "messages": messages, "guidance": guidance, "stream": rng.random() < 0.5}
    return Asked("search", CHAT, body | plain)


def _steered(rng: random.Random) -> Asked:
    """Greedy, of tokens that every member reads: which token is right under which weights can be asked afterwards."""
    body = {
        "model": "tiny",
        "prompt": [rng.randrange(5, 299) for _ in range(rng.randint(5, 30))],
        "preferences": weights(rng),
        "temperature": 0,
        "max_tokens": rng.randint(20, 80),
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    return Asked("steered", TEXT, body)


def _newcomer(rng: random.Random) -> Asked:
    """Of a reward that comes and goes."""
    asked = chat(rng, preferences={"newcomer": 1.0}, stream=True)
    return Asked("newcomer", CHAT, asked, allowed=TAKEN | {400})


def _endless(rng: random.Random) -> Asked:
    """More than there is time for."""
    return Asked("endless", CHAT, chat(rng, n=2, stream=rng.random() < 0.5, max_tokens=200, **TALKATIVE))


def _left(rng: random.Random) -> Asked:
    return Asked("left", CHAT, chat(rng, stream=True, ignore_eos=True, max_tokens=140))


def _impatient(rng: random.Random) -> Asked:
    return Asked("impatient", CHAT, chat(rng, ignore_eos=True, max_tokens=140))


def _slow(rng: random.Random) -> Asked:
    return Asked("slow", CHAT, chat(rng, stream=True))


def _clogged(rng: random.Random) -> Asked:
    return Asked("clogged", CHAT, chat(rng, n=2, stream=True, max_tokens=140, **TALKATIVE))


def _bad(rng: random.Random) -> Asked:
    message = [{"role": "user", "content": "hello"}]
    good = {"model": "tiny", "messages": message, "max_tokens": 1}

    def wrong(status: int, path: str = CHAT, allowed: frozenset[int] = frozenset(), **how: Any) -> Asked:
        return Asked("bad", path, allowed=allowed | {status}, **how)

    return rng.choice(
        [
            wrong(400, content=b"{"),
            wrong(400, content=b""),
            wrong(400, content=b"[]"),
            wrong(400, content=b"\xff\xfe"),
            wrong(400, content=b"[" * 50_000),
            wrong(400, content=json.dumps(good).encode()[:-1] + b', "temperature": NaN}'),
            wrong(400, body=good | {"preferences": {"nobody": 1.0}}),
            wrong(400, body=good | {"preferences": {"helpful": 1e9}}),
            wrong(400, body=good | {"unheard_of": 1}),
            wrong(400, body=good | {"messages": []}),
            wrong(400, body=good | {"n": 10**9}),
            wrong(400, body=good | {"max_tokens": 10**30}),
            # Too long is only what has been let in and tokenized.
            wrong(
                400, body=good | {"messages": [{"role": "user", "content": "soap " * 5000}]}, allowed=IN_VAIN
            ),
            wrong(404, body=good | {"model": "another"}),
            wrong(404, path=f"{CHAT}/chatcmpl-nobody", method="PATCH", body={"preferences": {}}),
            wrong(404, path="/v1/nothing", method="GET"),
            wrong(405, method="PUT", body=good),
            wrong(415, content=json.dumps(good).encode(), headers={"content-type": "text/plain"}),
            wrong(401, body=good, headers={"authorization": "Bearer nobody"}),
        ]
    )


WEIGHTS: dict[Callable[[random.Random], Asked], int] = {
    _whole: 18,
    _streamed: 22,
    _several: 8,
    _steered: 14,
    _search: 5,
    _newcomer: 3,
    _endless: 3,
    _left: 10,
    _impatient: 6,
    _slow: 5,
    _clogged: 2,
    _bad: 10,
}
"""How often each kind is asked: read whole, streamed, several answers, changed on the way, searched for, of a reward that is not
always there, longer than there is time for; left in the middle, given up soon, read slowly, hardly read at all; and wrong."""


def first(number: int, rng: random.Random) -> Asked:
    """What client ``number`` asks first: each kind comes before any comes twice."""
    kinds = list(WEIGHTS)
    return kinds[number % len(kinds)](rng)


def ask(rng: random.Random) -> Asked:
    """The next request."""
    (kind,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
    return kind(rng)
