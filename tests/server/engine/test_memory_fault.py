"""A step that runs out of memory: nobody can tell from an answer, and only what is too large alone ends with an error."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from arm_models.loading import ModelSource, load_family
from server.engine import ATTENTION, Engine, SamplingParams, SequenceRequest, TokenOutput
from server.engine.cache.kv_cache import Slab
from server.engine.chunk import Chunk
from server.engine.engine import OUT_OF_MEMORY
from server.engine.memory_fault import is_out_of_memory
from server.engine.places import PATIENCE, Places
from server.engine.speculation.pace import Pace
from tests.server.engine.shortage import IN_A_STEP, Famine, Shortage
from tests.server.engine.test_overlap import as_on_a_gpu, assert_same_answers, groups, overlapped, repeat

MakeEngine = Callable[..., Engine]
PROMPTS = {"base": list(range(20, 60)), "helpful": list(range(30)), "harmless": [7, 8, 9]}
MIX = {"base": 1.0, "helpful": 0.7, "harmless": -0.3}
WAYS: dict[str, dict[str, Any]] = {
    "slabs": {},
    "pages": {"cache": "pages"},
    "overlapped": {"overlap": True},
    "guesses by rewards": {"speculation": "rewards"},
    "guesses from the text": {"speculation": "prompt"},
    "little room": {"kv_tokens": 64 * 7},
}
"""Ways to run; each leaves other things half done."""


def raised(function: Callable[[], object]) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        function()
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__ + str(error)[:20],
)
def test_an_allocation_that_fails_is_out_of_memory(error: BaseException) -> None:
    assert is_out_of_memory(error)


def test_what_this_machine_raises_for_a_petabyte_is_out_of_memory() -> None:
    assert is_out_of_memory(raised(lambda: torch.empty(1 << 50, dtype=torch.uint8)))
    assert is_out_of_memory(raised(lambda: bytearray(1 << 60)))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("the size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("std::bad_alloc"),
        OSError("Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__ + str(error)[:30],
)
def test_any_other_fault_is_not(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def compare(make_engine: MakeEngine, pace: Pace | None, way: str, count: int) -> Shortage:
    """Answers of an engine that runs out of memory now and then, against those of one that never does."""
    asked = groups(count, random.Random(count))
    common: dict[str, Any] = {"prefill_chunk": 16, "max_sequences": 12, "deterministic": True, **WAYS[way]}
    short = make_engine(pace=pace, **common)
    if short._overlap:
        as_on_a_gpu(short)
    shortage = Shortage(short, random.Random(2), (60, 160))
    ours = overlapped(short, asked, random.Random(1))
    quiet = repeat(make_engine(**{**common, "overlap": False, "speculation": "off"}), asked, ours)
    assert_same_answers(ours, quiet)
    assert short.stats().memory_faults == shortage.hits.total() > 0
    return shortage


@pytest.mark.parametrize("way", ["slabs", "overlapped", "guesses by rewards"])
def test_no_answer_changes(make_engine: MakeEngine, steady: Callable[..., Pace], way: str) -> None:
    """Reports, log-probs of prompts too, grammars, penalties, several answers to one prompt, changes and aborts among them."""
    compare(make_engine, steady(3), way, 15)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_answer_changes_wherever_it_runs_out(
    make_engine: MakeEngine, steady: Callable[..., Pace], way: str
) -> None:
    shortage = compare(make_engine, steady(3), way, 200)
    assert set(shortage.hits) >= {*IN_A_STEP, "_reserve"}


def request(name: str, *, max_tokens: int = 12, **options: Any) -> SequenceRequest:
    sampling = SamplingParams(max_tokens, seed=options.pop("seed", 3), logprobs=2)
    return SequenceRequest(
        name, options.pop("prompts", PROMPTS), options.pop("mix", MIX), sampling, **options
    )


def run(engine: Engine, *requests: SequenceRequest) -> dict[str, list[TokenOutput]]:
    engine.add(*requests)
    outputs: dict[str, list[TokenOutput]] = {one.id: [] for one in requests}
    while engine.has_work:
        for output in engine.step():
            outputs[output.id].append(output)
    engine.check_integrity()
    return outputs


def run_out(engine: Engine, when: Callable[[Mapping[str, Sequence[Chunk]]], bool]) -> None:
    """Let the forwards of ``engine`` run out of memory behind their work, where ``when`` says so of what they run."""
    forward = engine._forward

    def short(chunks: Mapping[str, Sequence[Chunk]]) -> dict[str, torch.Tensor]:
        logits = forward(chunks)
        if when(chunks):
            raise torch.OutOfMemoryError("too much")
        return logits

    engine._forward = short  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("way", "every"),
    [
        ("slabs", 61),
        *(pytest.param(way, 1 if way == "slabs" else 7, marks=pytest.mark.slow) for way in WAYS),
    ],
)
def test_whichever_tensor_there_is_no_room_for_no_answer_changes(
    make_engine: MakeEngine, steady: Callable[..., Pace], way: str, every: int
) -> None:
    """Each operation that allocates, of a prompt read for two and of the tokens drawn behind it, fails once."""
    limits: dict[str, Any] = {"prefill_chunk": 16, "max_sequences": 4, "deterministic": True, **WAYS[way]}
    asked = [request(f"r{seed}", seed=seed, max_tokens=3, report=True) for seed in range(2)]
    engine = make_engine(pace=steady(3), **limits)
    with Famine(None) as plenty:
        quiet = run(engine, *asked)
    assert plenty.calls > 300
    for due in range(1, plenty.calls + 1, every):
        engine._scheduler.retreat()  # nothing is kept from before
        engine._scheduler.places = Places(limits["max_sequences"])
        with Famine(due):
            assert run(engine, *asked) == quiet, due
        assert engine.stats().memory_faults == 1, due


def test_to_undo_a_step_takes_no_memory(
    make_engine: MakeEngine, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of prompts goes from every cache before any is made smaller: these share their memory."""
    alike = {name: str(make_checkpoint("llama", f"alike-{name}", seed=1)) for name in PROMPTS}
    base, *rewards = (ModelSource(name, path) for name, path in alike.items())
    engine = make_engine(load_family(base, rewards, attention=ATTENTION), prefill_chunk=16)
    run(engine, *[request(f"r{seed}", seed=seed) for seed in range(3)])
    resize, sizes = Slab.resize, list[int]()

    def counted(slab: Slab, rows: int) -> None:
        sizes.append(rows)
        resize(slab, rows)

    monkeypatch.setattr(Slab, "resize", counted)
    engine._scheduler.retreat()
    assert set(sizes) == {0}


@pytest.mark.parametrize("cache", ["slabs", "pages"])
def test_what_goes_on_from_a_held_response_is_the_same(make_engine: MakeEngine) -> None:
    """What the parent held is gone then, and so is what the child had copied of it; scores are told as of one reading."""
    limits: dict[str, Any] = {"deterministic": True, "prefill_chunk": 16}

    def family(engine: Engine) -> list[dict[str, list[TokenOutput]]]:
        parent = run(engine, request("parent", hold=True))
        begun = [output.token for output in parent["parent"]]
        child = request("child", begun=begun[:9], parent="parent", seed=4)
        read = SequenceRequest(
            "read", PROMPTS, MIX, SamplingParams(1), begun=begun, parent="parent", scores=("base", "helpful")
        )
        answers = [parent, run(engine, child, read)]
        engine.release(["parent"])
        engine.check_integrity()
        return answers

    quiet, short = make_engine(**limits), make_engine(**limits)
    due, seen = {"parent": 6, "child": 1, "read": 2}, Counter[object]()

    def now(chunks: Mapping[str, Sequence[Chunk]]) -> bool:
        owners = {one.owner for one in chunks["base"]}
        seen.update(owners)
        return any(seen[owner] == due[str(owner)] for owner in owners)

    run_out(short, now)
    ours, expected = family(short), family(quiet)
    assert short.stats().memory_faults == 3
    assert ours[0] == expected[0]
    assert ours[1]["child"] == expected[1]["child"]
    assert ours[1]["read"][-1].scores == pytest.approx(expected[1]["read"][-1].scores)


def test_log_probs_of_a_prompt_that_is_shared_are_each_answers_own(make_engine: MakeEngine) -> None:
    """Both had the same list of them when the draw ran out; computed again one after the other, they must not."""
    sampling = SamplingParams(4, seed=1, prompt_logprobs=2)
    prompts = dict.fromkeys(PROMPTS, PROMPTS["base"])
    asked = [SequenceRequest(name, prompts, MIX, sampling) for name in ("one", "two")]
    quiet, short = make_engine(deterministic=True), make_engine(deterministic=True)
    draw, faults = short._draw, iter([True])

    def short_draw(*args: Any) -> Any:
        if next(faults, False):
            raise torch.OutOfMemoryError
        return draw(*args)

    short._draw = short_draw  # type: ignore[method-assign]
    assert run(short, *asked) == run(quiet, *asked)
    assert short.stats().memory_faults == 1


def test_what_is_too_large_alone_ends_with_an_error_and_the_others_do_not_notice(
    make_engine: MakeEngine,
) -> None:
    limits: dict[str, Any] = {"max_sequences": 4, "deterministic": True}
    others = [request(f"r{seed}", seed=seed) for seed in range(5)]
    expected = run(make_engine(**limits), *others)
    engine = make_engine(**limits)
    run_out(
        engine,
        lambda chunks: any(
            one.owner == "large" and one.start + len(one.tokens) > 45 for one in chunks["base"]
        ),
    )
    outputs = run(engine, others[0], request("large", max_tokens=60), *others[1:])
    large = outputs.pop("large")
    assert outputs == expected
    assert [one.finish_reason for one in large] == [None] * 6 + ["error"]
    assert (large[-1].index, large[-1].token, large[-1].error) == (6, -1, OUT_OF_MEMORY)


def test_after_it_everything_is_given_back_and_fewer_run_side_by_side_for_a_while(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(max_sequences=8, prefill_chunk=16)
    run(engine, request("kept", hold=True))
    engine.add(*(request(f"r{seed}", seed=seed, max_tokens=60) for seed in range(8)))
    assert len(engine.step()) == 8
    assert engine.members["base"].cache.offered_blocks > 0
    faults = iter([True])
    run_out(engine, lambda _: next(faults, False))
    assert engine.step() == []
    for member in engine.members.values():
        assert (member.cache.allocated_blocks, member.cache.offered_blocks) == (0, 0)
    most, steps, told = 0, 0, 0
    while told < PATIENCE:
        told += bool(engine.step())
        steps += 1
        most = max(most, engine.stats().running)
    assert most == 4
    while engine.has_work:
        engine.step()
        most = max(most, engine.stats().running)
    assert most > 4
    engine.release(["kept"])
    engine.check_integrity()


def test_the_tokens_of_an_overlapped_step_are_told_before_weights_can_change(make_engine: MakeEngine) -> None:
    """A change is answered with the next token's index; what was drawn before it, but not told, must not be drawn again."""
    engine = make_engine(overlap=True)
    engine.add(request("r", mix={"base": 1.0}, max_tokens=8))
    tokens: list[TokenOutput] = []
    while len(tokens) < 3:
        tokens += engine.step()
    at = engine.change("r", {"base": 1.0, "harmless": 2.0})
    assert at == 4
    faults = iter([True])
    run_out(engine, lambda _: next(faults, False))
    told = engine.step()
    assert [one.index for one in told] == [3]
    while engine.has_work:
        told += engine.step()
    tokens += told
    before = run(make_engine(), request("r", mix={"base": 1.0}, max_tokens=4))["r"]
    assert [one.token for one in tokens[:4]] == [one.token for one in before]
    begun = [one.token for one in before]
    after = run(make_engine(), request("r", mix={"base": 1.0, "harmless": 2.0}, max_tokens=8, begun=begun))[
        "r"
    ]
    assert [one.token for one in tokens[4:]] == [one.token for one in after]
