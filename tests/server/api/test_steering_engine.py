"""Changes over HTTP against the real engine: before the first token, for every choice, while put off to make room.

In every case the tokens from the answered index on are those of a fresh request on the prompt and the tokens before, under
the new weights. Only `helpful` is moved: it reads the same tokens as the base, so that a completion can be that fresh request.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.runtime import load_runtime


@pytest.fixture
def tight(declared: dict[str, Any], serve: Callable[..., Any]) -> Iterator[Any]:
    """A server whose cache holds two long answers, and that says the same to the last bit alone and in any batch."""
    from server.config import read_deployment

    engine = {"deterministic": True, "kv_tokens": 512, "max_sequences": 4}
    with serve(read_deployment({**declared, "engine": engine}, "test"), load_runtime) as server:
        yield server


def spoken(chunks: list[Any]) -> tuple[list[int], dict[int, list[int]], dict[str, Any]]:
    """The prompt's tokens, each choice's tokens, and the guidance of a stream's chunks."""
    prompt: list[int] = []
    tokens: dict[int, list[int]] = {}
    guidance: dict[str, Any] = {}
    for chunk in chunks:
        prompt = chunk.get("prompt_token_ids") or prompt
        guidance = chunk.get("guidance") or guidance
        for choice in chunk["choices"]:
            tokens.setdefault(choice["index"], []).extend(choice.get("token_ids") or ())
    return prompt, tokens, guidance


def fresh(server: Any, context: list[int], helpful: float, count: int) -> list[int]:
    """What a request on these tokens says under this weight."""
    fields = {"preferences": {"helpful": helpful}, "return_token_ids": True, "ignore_eos": True}
    answer = server.complete(context, temperature=0, max_tokens=count, **fields)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["choices"][0]["token_ids"])


def composed(
    server: Any, prompt: list[int], count: int, began: float, changes: list[tuple[int, float]]
) -> list[int]:
    """What is to be said when each of ``changes`` (token, weight) holds from its token on."""
    said: list[int] = []
    ends = [at for at, _ in changes[1:]] + [count]
    spans = [(began, changes[0][0]), *((weight, end) for (_, weight), end in zip(changes, ends, strict=True))]
    for weight, end in spans:
        if end > len(said):
            said += fresh(server, prompt + said, weight, end - len(said))
    return said


FIELDS: dict[str, Any] = {
    "temperature": 0,
    "ignore_eos": True,
    "return_token_ids": True,
    "preferences": {"helpful": 0.0},
}


def test_before_the_first_token_it_holds_for_the_whole_answer(tight: Any, until: Any) -> None:
    """The request waits until others, which fill the batch, are over."""
    with ThreadPoolExecutor(1) as pool, tight.client() as client, tight.client() as other:
        crowd = pool.submit(tight.chat, n=4, max_tokens=100, ignore_eos=True)
        until(lambda: tight.serving.dispatcher.stats.running == 4)
        with tight.open(client, max_tokens=30, **FIELDS) as events:
            chunks = [next(events)]
            url = f"/v1/chat/completions/{chunks[0]['id']}"
            assert other.get(url).json()["status"] == "queued"
            changed = other.patch(url, json={"preferences": {"helpful": 4}})
            assert changed.json()["at_token"] == 0
            chunks += [chunk for chunk in events if chunk != "[DONE]"]
        assert crowd.result().status_code == 200
    prompt, tokens, _ = spoken(chunks)
    assert tokens[0] == fresh(tight, prompt, 4.0, 30)
    assert tokens[0] != fresh(tight, prompt, 0.0, 30)


def test_it_holds_for_every_choice_from_its_own_token_on(tight: Any) -> None:
    with tight.client() as client, tight.open(client, n=3, max_tokens=60, **FIELDS) as events:
        chunks = [next(events)]
        while not chunks[-1]["choices"][0].get("token_ids"):
            chunks.append(next(events))
        with tight.client() as other:
            url = f"/v1/chat/completions/{chunks[0]['id']}"
            changed = other.patch(url, json={"preferences": {"helpful": 4}}).json()
        chunks += [chunk for chunk in events if chunk != "[DONE]"]
    prompt, tokens, guidance = spoken(chunks)
    (change,) = guidance["changes"]
    assert change["choices"] == changed["choices"]
    assert [choice["index"] for choice in change["choices"]] == [0, 1, 2]
    for choice in change["choices"]:
        assert 0 < choice["at_token"] < 60
        assert tokens[choice["index"]] == composed(tight, prompt, 60, 0.0, [(choice["at_token"], 4.0)])


def test_answers_that_are_put_off_to_make_room_are_steered_all_the_same(tight: Any, until: Any) -> None:
    streams: list[list[Any]] = [[], [], [], []]

    def read(number: int) -> None:
        fields = {**FIELDS, "messages": [{"role": "user", "content": "water the plants " * (number + 1)}]}
        with tight.client() as client, tight.open(client, max_tokens=170, **fields) as events:
            for chunk in events:
                if chunk != "[DONE]":
                    streams[number].append(chunk)

    dispatcher = tight.serving.dispatcher
    put_off = 0
    with ThreadPoolExecutor(4) as pool, tight.client() as other:
        reading = [pool.submit(read, number) for number in range(4)]
        until(lambda: all(streams))
        urls = [f"/v1/chat/completions/{chunks[0]['id']}" for chunks in streams]
        weight = 0
        while not all(one.done() for one in reading):
            weight = weight % 5 + 1
            for url in urls:
                state = other.get(url)
                if state.status_code == 200 and state.json()["tokens"]:
                    somebody_is_out = dispatcher.stats.running < dispatcher.admitted
                    made = other.patch(url, json={"preferences": {"helpful": weight}}).status_code == 200
                    put_off += made and somebody_is_out
        for one in reading:
            one.result()
    assert dispatcher.stats.preemptions > 0
    assert put_off > 0
    for chunks in streams:
        prompt, tokens, guidance = spoken(chunks)
        assert len(tokens[0]) == 170
        changes = [(change["at_token"], change["preferences"]["helpful"]) for change in guidance["changes"]]
        assert changes
        assert changes == sorted(changes, key=lambda change: change[0])
        assert tokens[0] == composed(tight, prompt, 170, 0.0, changes)
