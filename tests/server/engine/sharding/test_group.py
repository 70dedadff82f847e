"""Two processes that share a base say what one says: log-probs, tokens, whatever happens in between."""

import random
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from server.engine import Engine, Member, SamplingParams, SequenceRequest
from tests.server.engine.sharding.conftest import Pair

MIXES: Sequence[dict[str, float]] = (
    {"base": 1.0},
    {"base": 1.0, "helpful": 0.7},
    {"base": 1.0, "harmless": -0.4},
    {"base": 1.0, "helpful": 0.5, "harmless": 0.5, "kind": 0.3},
    {"base": 1.5, "base.negative": -0.5, "kind": 0.2},
    {"helpful": 1.0, "harmless": 0.2},
)
"""Members of every place, alone and together."""

MEMBERS = ("base", "helpful", "harmless", "kind", "base.negative")


def request(number: int, length: int = 24, **options: Any) -> SequenceRequest:
    """A greedy request with a prompt and a mix of its own; the base's negative prompt is another."""
    rng = random.Random(number)
    prompts = {
        name: [rng.randrange(5, 300) for _ in range(rng.randint(3, 50))] for name in ("base", "base.negative")
    }
    prompts |= dict.fromkeys(MEMBERS[1:4], prompts["base"])
    sampling = SamplingParams(temperature=0.0, max_tokens=length, seed=number)
    given = {"prompts": prompts, "mix": MIXES[number % len(MIXES)], "sampling": sampling, **options}
    return SequenceRequest(id=f"r{number}", **given)


def drive(
    engine: Engine,
    requests: Sequence[SequenceRequest],
    between: Callable[[Engine, int], None] = lambda *_: None,
) -> dict[str, list[int]]:
    """Tokens by id; all requests are there from the beginning, and ``between`` is called before every step."""
    engine.add(*requests)
    told: dict[str, list[int]] = {one.id: [] for one in requests}
    steps = 0
    while engine.has_work:
        between(engine, steps)
        for output in engine.step():
            assert output.error is None
            told[output.id].append(output.token)
        steps += 1
    engine.check_integrity()
    return told


def by_name(members: Sequence[Member], name: str) -> Member:
    return next(member for member in members if member.name == name)


@pytest.mark.parametrize("name", MEMBERS)
@torch.inference_mode()
def test_log_probs_are_those_of_one_process(pair: Pair, name: str) -> None:
    tokens = torch.randint(5, 300, (60,), generator=torch.Generator().manual_seed(7)).tolist()
    plain = AutoModelForCausalLM.from_pretrained(pair.folders[name.removesuffix(".negative")])
    expected = plain(torch.tensor([tokens])).logits[0].log_softmax(-1)
    split = by_name(pair.members, name).log_probs(tokens, chunk=16)
    assert (split - expected).abs().max().item() < 1e-4


def test_greedy_tokens_are_those_of_one_process_with_any_weights(pair: Pair) -> None:
    requests = [request(number) for number in range(6)]
    engine = pair.engine()
    assert drive(engine, requests) == drive(pair.lone_engine(), requests)
    assert engine.stats().preemptions == 0


def test_weights_that_change_in_mid_answer_are_the_same_on_both(pair: Pair) -> None:
    requests = [request(number) for number in range(6)]

    def turn(engine: Engine, step: int) -> None:
        if step in (5, 11, 17):
            for number, one in enumerate(requests):
                engine.change_all([one.id], MIXES[(number + step) % len(MIXES)])
        if step == 13:
            engine.abort("r2")

    assert drive(pair.engine(), requests, turn) == drive(pair.lone_engine(), requests, turn)


@pytest.mark.slow
def test_who_is_put_off_for_want_of_memory_goes_on_as_before(pair: Pair) -> None:
    requests = [request(number, length=110) for number in range(6)]
    engine = pair.engine()
    assert drive(engine, requests) == drive(pair.lone_engine(), requests)
    assert engine.stats().preemptions > 0, "there was room for all: the test tests nothing"


@pytest.mark.slow
def test_a_prompt_is_read_once_for_several_answers_and_kept_for_later_ones(pair: Pair) -> None:
    text = list(range(10, 60))
    prompts = {"base": text, "base.negative": [7], "helpful": text, "harmless": text, "kind": text}
    one = request(3, prompts=prompts)
    several = [SequenceRequest(f"n{i}", one.prompts, MIXES[3], one.sampling) for i in range(3)]
    later = [SequenceRequest("later", one.prompts, MIXES[3], one.sampling)]
    told: list[Any] = []
    for engine in (pair.engine(), pair.lone_engine()):
        told.append((drive(engine, several), drive(engine, later), engine.stats().prefix_hits))
    assert told[0] == told[1]
    assert told[0][2] >= 48, "nothing was kept"


@pytest.mark.slow
def test_guesses_and_steps_that_overlap_change_no_token(pair: Pair) -> None:
    requests = [request(number) for number in range(6)]
    expected = drive(pair.lone_engine(), requests)
    assert drive(pair.engine(overlap=True), requests) == expected
    engine = pair.engine(speculation="prompt")
    assert drive(engine, requests) == expected
    assert engine.stats().draft_tokens > 0


@pytest.mark.slow
def test_a_reward_that_both_have_is_read_by_both(pair: Pair) -> None:
    runner: Any = by_name(pair.members, "helpful").runner
    homes: set[int] = set()
    real = runner._announce

    def watch(lanes: Any, chunks: Any, at: dict[str, list[int]], drawn: Any) -> Any:
        homes.update(home for ranks in at.values() for home in ranks)
        return real(lanes, chunks, at, drawn)

    runner._announce = watch
    try:
        drive(pair.engine(), [request(number, mix={"base": 1.0, "helpful": 1.0}) for number in range(4)])
    finally:
        del runner._announce
    assert homes == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("what", [signal.SIGUSR1, signal.SIGUSR2], ids=["a cache", "a reward's forward"])
def test_a_rank_that_runs_out_of_memory_delays_and_changes_nothing(pair: Pair, what: int) -> None:
    requests = [request(number) for number in range(6)]
    expected = drive(pair.lone_engine(), requests)

    def strike(_: Engine, step: int) -> None:
        if step in (3, 12):
            pair.follower.send_signal(what)

    engine = pair.engine()
    assert drive(engine, requests, strike) == expected
    assert engine.stats().memory_faults >= 1


@pytest.mark.slow
def test_rank_0_without_memory_is_put_back_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request(number) for number in range(6)]
    expected = drive(pair.lone_engine(), requests)
    cache: Any = by_name(pair.members, "base").cache
    reserve, left = cache._real.reserve, [4]

    def short(*arguments: Any) -> bool:
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("no memory for a row")
        return bool(reserve(*arguments))

    monkeypatch.setattr(cache._real, "reserve", short)
    engine = pair.engine()
    assert drive(engine, requests) == expected
    assert engine.stats().memory_faults == 1


@pytest.mark.slow
def test_a_member_that_leaves_is_gone_everywhere_and_the_rest_goes_on(pair: Pair) -> None:
    """The last: it does not come back."""
    requests = [request(number, mix={"base": 1.0, "kind": 0.3}) for number in range(4)]
    reading = [
        SequenceRequest(
            one.id, {"base": one.prompts["base"], "kind": one.prompts["kind"]}, one.mix, one.sampling
        )
        for one in requests
    ]
    engine = pair.engine()
    engine.remove_members(["harmless", "helpful"])
    assert set(engine.members) == {"base", "kind", "base.negative"}
    assert drive(engine, reading) == drive(pair.lone_engine(), reading)
    with pytest.raises(ValueError, match="there is no member 'helpful'"):
        engine.add(request(2))
