"""Who runs when: decoding before prompts, one grid for every prompt, members in step, the youngest gives way."""

from collections.abc import Sequence as List

import pytest
import torch

from server.engine import EngineConfig, SamplingParams, SequenceRequest
from server.engine.cache.kv_cache import KVCache, KVShape
from server.engine.cache.paged_cache import PagedKVCache
from server.engine.scheduler import Scheduler, Step
from server.engine.sequence import Sequence

SHAPE = KVShape(1, 1, 2, torch.float32, torch.device("cpu"))


def scheduler(
    tokens: int = 64 * 100, cache: type[KVCache] | type[PagedKVCache] = KVCache, **limits: int
) -> Scheduler:
    config = EngineConfig(**{"prefill_chunk": 16, "max_step_tokens": 48, "max_sequences": 8} | limits)
    return Scheduler({"base": cache(SHAPE, tokens), "reward": cache(SHAPE, tokens)}, config)


def sequence(name: str, base: int, reward: int = 0, owner: str = "") -> Sequence:
    prompts = {"base": [0] * base} | ({"reward": [0] * reward} if reward else {})
    mix = {"base": 1.0, "reward": 1.0 if reward else 0.0}
    return Sequence.begin(SequenceRequest(name, prompts, mix, SamplingParams(1000), owner=owner))


def chunks(step: Step) -> dict[str, List[tuple[object, int, int, bool]]]:
    """Per member: (owner, start, tokens, wants logits)."""
    return {
        name: [(chunk.owner, chunk.start, len(chunk.tokens), chunk.logits > 0) for chunk in chunks]
        for name, chunks in step.chunks.items()
    }


def draw(step: Step) -> List[str]:
    """Let every drawing sequence draw a token."""
    for one in step.drawing:
        one.response.append(7)
    return [one.id for one in step.drawing]


def test_a_prompt_is_cut_on_the_grid_and_its_last_chunk_draws() -> None:
    plan = scheduler()
    plan.add(sequence("a", 35))
    assert chunks(plan.schedule()) == {"base": [("a", 0, 16, False)]}
    assert chunks(plan.schedule()) == {"base": [("a", 16, 16, False)]}
    step = plan.schedule()
    assert chunks(step) == {"base": [("a", 32, 3, True)]}
    assert draw(step) == ["a"]
    assert chunks(plan.schedule()) == {"base": [("a", 35, 1, True)]}


@pytest.mark.parametrize(("cache", "room"), [(KVCache, 384 - 260), (PagedKVCache, 320 - 260)])
def test_guesses_stay_within_what_a_sequence_has_reserved(
    cache: type[KVCache] | type[PagedKVCache], room: int
) -> None:
    plan = scheduler(cache=cache)
    one = sequence("a", 260)
    plan.add(one)
    plan.schedule()
    assert plan.spare(one) == room


def test_a_member_waits_with_its_last_chunk_for_the_slowest() -> None:
    plan = scheduler()
    plan.add(sequence("a", 3, reward=40))
    assert chunks(plan.schedule()) == {"reward": [("a", 0, 16, False)]}
    assert chunks(plan.schedule()) == {"reward": [("a", 16, 16, False)]}
    assert chunks(plan.schedule()) == {"base": [("a", 0, 3, True)], "reward": [("a", 32, 8, True)]}


def test_a_weight_that_leaves_zero_is_caught_up_in_chunks_while_others_draw() -> None:
    plan = scheduler()
    late = sequence("late", 20, reward=20)
    late.mix["reward"] = 0.0
    plan.add(late)
    plan.add(sequence("other", 1))
    for _ in range(6):
        draw(plan.schedule())
    assert len(late.response) == 5
    late.mix["reward"] = 2.0
    written = len(late.response)
    drew = [draw(plan.schedule()) for _ in range(3)]
    assert drew == [["other"], ["other"], ["other", "late"]]
    assert len(late.response) == written + 1


def test_decoding_goes_before_prompts_within_the_token_budget() -> None:
    plan = scheduler(max_step_tokens=24)
    plan.add(sequence("prompt", 100))
    for name in ("a", "b"):
        plan.add(sequence(name, 4))
    step = plan.schedule()
    assert chunks(step) == {"base": [("prompt", 0, 16, False), ("a", 0, 4, True), ("b", 0, 4, True)]}
    draw(step)
    assert chunks(plan.schedule())["base"] == [
        ("a", 4, 1, True),
        ("b", 4, 1, True),
        ("prompt", 16, 16, False),
    ]


def test_a_chunk_that_does_not_fit_the_budget_is_not_cut_but_waits() -> None:
    plan = scheduler(max_step_tokens=24)
    plan.add(sequence("a", 16))
    plan.add(sequence("b", 16))
    assert chunks(plan.schedule()) == {"base": [("a", 0, 16, True)]}


def test_no_more_sequences_run_than_allowed_and_they_start_in_order() -> None:
    plan = scheduler(max_sequences=2)
    for name in "abc":
        plan.add(sequence(name, 1))
    assert draw(plan.schedule()) == ["a", "b"]
    plan.remove(plan.get("a"))
    assert draw(plan.schedule()) == ["b", "c"]


def test_when_memory_runs_out_the_youngest_is_computed_again_later() -> None:
    plan = scheduler(tokens=64 * 3)
    old, young = sequence("old", 60), sequence("young", 60)
    plan.add(old)
    plan.add(young)
    while len(old.response) < 4 or plan.preemptions == 0:
        draw(plan.schedule())
    assert plan.running == [old]
    assert list(plan.waiting) == [young]
    assert young.contexts["base"].computed == 0
    assert young.response
    plan.remove(old)
    before = len(young.response)
    sizes = []
    while len(young.response) == before:
        step = plan.schedule()
        sizes.append([size for _, _, size, _ in chunks(step)["base"]])
        draw(step)
    # Its prompt on the grid, then the tokens it had drawn, in one go.
    assert sizes == [[16], [16], [16], [12], [before]]


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_a_removed_sequence_gives_everything_back(state: str) -> None:
    plan = scheduler(max_sequences=1)
    plan.add(sequence("first", 4, reward=4))
    plan.add(sequence("second", 4))
    plan.schedule()
    plan.remove(plan.get("first" if state == "running" else "second"))
    assert len(plan) == 1
    plan.schedule()
    for one in plan.all():
        plan.remove(one)
    assert all(cache.free_blocks == cache.num_blocks for cache in plan._caches.values())


def flood(plan: Scheduler, count: int, base: int = 20) -> None:
    for number in range(count):
        plan.add(sequence(f"flood {number}", base, owner="flood"))


def steps_to_draw(plan: Scheduler, one: Sequence) -> int:
    """Steps from now to the first token of ``one``; responses of others end after 30 tokens and new ones follow."""
    plan.add(one)
    for step in range(1, 100):
        drew = draw(plan.schedule())
        if one.id in drew:
            return step
        for other in [other for other in plan.running if len(other.response) >= 30]:
            plan.remove(other)
    raise AssertionError("it never drew")


@pytest.mark.parametrize("budget", [48, 16])
def test_a_flood_of_one_owner_delays_the_first_token_of_another_by_few_steps(budget: int) -> None:
    quiet, busy = (scheduler(max_sequences=8, max_step_tokens=budget) for _ in range(2))
    flood(busy, 100)
    for _ in range(40):
        draw(busy.schedule())
    for number in range(20):
        wait = []
        for plan in (quiet, busy):
            mine = sequence(f"mine {number}", 16 + number, owner="me")
            wait.append(steps_to_draw(plan, mine))
            plan.remove(mine)
        assert wait[1] - wait[0] <= 10
    assert busy.preemptions <= 20


def test_a_full_batch_makes_room_for_an_owner_below_its_share_and_goes_on_as_it_was() -> None:
    plan = scheduler(max_sequences=4, max_step_tokens=96)
    flood(plan, 6, base=1)
    draw(plan.schedule())
    plan.add(sequence("mine", 1, owner="me"))
    assert draw(plan.schedule()) == ["flood 0", "flood 1", "flood 2", "mine"]
    assert [one.id for one in plan.waiting] == ["flood 3", "flood 4", "flood 5"]
    assert plan.get("flood 3").response == [7]
    plan.remove(plan.get("mine"))
    draw(plan.schedule())  # it reads its prompt again
    assert draw(plan.schedule()) == ["flood 0", "flood 1", "flood 2", "flood 3"]
    assert plan.get("flood 3").response == [7, 7]


def test_owners_that_all_want_more_get_equal_parts_of_the_places() -> None:
    plan = scheduler(max_sequences=8)
    flood(plan, 20, base=1)
    draw(plan.schedule())
    for number in range(20):
        plan.add(sequence(f"mine {number}", 1, owner="me"))
    draw(plan.schedule())
    assert plan._started() == {"flood": 4, "me": 4}
    put_off = plan.preemptions
    for _ in range(24):
        plan.remove(plan.running[0])
        draw(plan.schedule())
        assert plan._started() == {"flood": 4, "me": 4}
    assert plan.preemptions == put_off == 4


def test_memory_is_shared_too_but_no_owners_oldest_gives_way() -> None:
    plan = scheduler(tokens=64 * 4)
    flood(plan, 4)
    draw(plan.schedule())
    plan.add(sequence("large", 150, owner="me"))  # three blocks: more than half
    draw(plan.schedule())
    assert plan.preemptions == 0
    plan.remove(plan.get("large"))
    plan.add(sequence("fair", 100, owner="me"))
    draw(plan.schedule())
    assert [one.id for one in plan.running] == ["flood 0", "flood 1", "fair"]
    plan.add(sequence("fair too", 20, owner="me"))
    draw(plan.schedule())
    assert [one.id for one in plan.running] == ["flood 0", "flood 1", "fair"]


def test_when_memory_runs_out_who_has_most_responses_gives_way() -> None:
    plan = scheduler(tokens=64 * 4)
    flood(plan, 3, base=60)
    plan.add(sequence("mine", 60, owner="me"))
    while not plan.preemptions:
        draw(plan.schedule())
    assert [one.id for one in plan.waiting] == ["flood 1", "flood 2"]
    assert plan.get("mine").preemptions == 0


def test_who_has_nothing_yet_is_not_passed_by_while_its_prompt_finds_no_room() -> None:
    plan = scheduler(tokens=64 * 4)
    flood(plan, 1)
    draw(plan.schedule())
    plan.add(sequence("large", 220, owner="me"))
    plan.add(sequence("flood later", 20, owner="flood"))
    draw(plan.schedule())
    assert [one.id for one in plan.running] == ["flood 0"]
    plan.remove(plan.get("flood 0"))
    draw(plan.schedule())
    assert [one.id for one in plan.running] == ["large"]


def test_prompts_are_read_in_the_order_of_what_their_owners_were_given() -> None:
    plan = scheduler(max_step_tokens=32, max_sequences=4)
    flood(plan, 2, base=200)
    for _ in range(2):
        plan.schedule()
    plan.add(sequence("mine", 40, owner="me"))
    owners = [[owner for owner, *_ in chunks(plan.schedule())["base"]] for _ in range(3)]
    assert owners[0] == ["flood 0", "flood 1"]  # they came first and nobody was given less
    assert [step[0] for step in owners[1:]] == ["mine", "mine"]


def test_what_is_computed_again_counts_once_unless_its_owner_wanted_that() -> None:
    plan = scheduler(max_sequences=2)
    one = sequence("one", 16, owner="a")
    plan.add(one)
    plan.add(sequence("other", 16, owner="b"))
    draw(plan.schedule())
    assert plan._given["a"] == 16
    plan._preempt(one)
    plan.schedule()
    assert plan._given["a"] == 16
    plan.release(one, "base")
    plan.schedule()
    assert plan._given["a"] == 16 + 16
