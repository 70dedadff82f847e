"""What is a whole study worth in one batch: eleven weight vectors to each of 300 prompts, against one answer at a time?"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from arm_models.demo.world.conversations import held_out_conversations
from arm_models.loading import Family
from server.bench.comparison import Comparison, Side, compare_all
from server.bench.peer import generate
from server.bench.scenarios.sweep import all_at_once, vectors_of
from server.bench.setup import Setup
from server.bench.workload import output_tokens, sample
from server.engine import Engine, SamplingParams, SequenceRequest

PROMPTS = 300
SEQUENCES = 96
"""Side by side; more of them gain nothing on a CPU."""
_LONGEST = 120


def weight_vectors(setup: Setup) -> Sequence[Comparison]:
    """The demo's held-out chats, answered to their end (other models: as ``sweep`` has them, all of one length for both sides).

    One at a time takes hours, so in a run it writes a sample of the same answers: each with as many tokens as ours had.
    """
    engine, stock = setup.engine(max_sequences=SEQUENCES), setup.stock_family()
    prompts = _prompts(setup, engine, stock)
    groups = [vectors_of(request) for request in prompts]
    lengths = _lengths(engine, groups)
    flat = [
        replace(one, sampling=replace(one.sampling, max_tokens=lengths[one.id], stop_token_ids=frozenset()))
        for group in groups
        for one in group
    ]
    turns = count()
    each_once = [
        flat[number * len(groups[0]) + next(turns) % len(groups[0])] for number in range(len(groups))
    ]
    alone = sample(each_once, setup.limits.peer_requests)
    tokens = output_tokens(alone)
    ours = Side(
        f"{len(groups[0])} vectors x {len(groups)} prompts",
        lambda: all_at_once(engine, groups),
        sum(lengths.values()),
        warm=lambda: all_at_once(engine, groups[:1]),
    )
    peers = {
        "vectors": Side("generate, one at a time", lambda: generate(stock, alone), tokens),
        "vectors, same engine": Side(
            "engine, one at a time", lambda: [engine.generate([one]) for one in alone], tokens
        ),
    }
    return compare_all(ours, peers, setup.runs, 8.0, setup.tick)


def _prompts(setup: Setup, engine: Engine, stock: Family) -> list[SequenceRequest]:
    many = setup.workload.requests if setup.limits.quick else PROMPTS
    workload = replace(setup.workload, requests=many)
    requests = workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    if not setup.is_demo:
        return requests
    sampling = SamplingParams(_LONGEST, stop_token_ids=stock.eos_ids)
    chats = held_out_conversations(many, setup.workload.seed)
    return [
        replace(
            request,
            prompts=dict.fromkeys(request.prompts, _rendered(stock, chat.messages)),
            sampling=replace(sampling, seed=request.sampling.seed),
        )
        for request, chat in zip(requests, chats, strict=True)
    ]


def _rendered(stock: Family, messages: Sequence[dict[str, str]]) -> list[int]:
    tokenizer = stock.base.tokenizer
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _lengths(engine: Engine, groups: Sequence[Sequence[SequenceRequest]]) -> dict[str, int]:
    """Tokens of each answer."""
    lengths = {request.id: 0 for group in groups for request in group}
    for output in all_at_once(engine, groups):
        lengths[output.id] += 1
    return lengths
