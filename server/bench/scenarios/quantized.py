"""What do fewer bits cost on a CPU, and what do they gain?"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from arm_models.demo.deployment import demo_deployment
from arm_models.loading import ModelSource, load_family
from arm_models.loading.source import multiplies_int8
from server.bench.comparison import Comparison, Side, compare_all
from server.bench.rounding import Rounding
from server.bench.setup import Setup
from server.bench.workload import output_tokens
from server.engine import Engine, Member, SamplingParams, SequenceRequest
from server.engine.chunk import Chunk
from server.engine.sampling.divergence import kl

BARS = {"bfloat16": 0.001, "int8": 0.005}
"""Largest mean KL in nats."""

ANSWERS = 4
"""To every prompt of the demo."""

ANSWER_TOKENS = 96


def rounding(setup: Setup) -> Sequence[Rounding]:
    """Every member in fewer bits against itself in float32, over answers that the base gives in float32. Empty off the CPU."""
    if setup.models.device != "cpu":
        return []
    exact = setup.engine(sources=_held(setup, "float32"))
    texts = _texts(setup, exact)
    setup.tick()
    found = []
    for dtype in _dtypes():
        rounded = setup.engine(sources=_held(setup, dtype))
        for name, member in rounded.members.items():
            divergences = _divergences(exact.members[name], member, texts)
            found.append(Rounding(name, dtype, divergences, BARS[dtype]))
        setup.tick()
    return found


def speed_of_int8(setup: Setup) -> Sequence[Comparison]:
    """The guided batch, and one of its requests, in int8 against float32 and bfloat16. Empty where there is no int8."""
    if setup.models.device != "cpu" or "int8" not in _dtypes():
        return []
    engines = {dtype: setup.engine(sources=_held(setup, dtype)) for dtype in ("int8", "float32", "bfloat16")}
    vocab = engines["int8"].members["base"].vocab_size
    batch = setup.workload.build(vocab, setup.rewards, guided=True)
    results: list[Comparison] = []
    for requests in (batch[:1], batch):
        ours, *others = (_side(dtype, engine, requests) for dtype, engine in engines.items())
        peers = {f"int8 against {side.label} at {len(requests)}": side for side in others}
        results += compare_all(ours, peers, setup.runs, 0, setup.tick)
    return results


def _side(dtype: str, engine: Engine, requests: Sequence[SequenceRequest]) -> Side:
    return Side(dtype, lambda: engine.generate(requests), output_tokens(requests))


def _dtypes() -> list[str]:
    return [dtype for dtype in BARS if dtype != "int8" or multiplies_int8(torch.device("cpu"))]


def _held(setup: Setup, dtype: str) -> list[ModelSource]:
    return [replace(source, dtype=dtype) for source in setup.sources]


def _texts(setup: Setup, engine: Engine) -> list[tuple[list[int], list[int]]]:
    """Prompts with answers of the base: the demo's prompts, else random ones."""
    if not setup.is_demo:
        vocab = engine.members["base"].vocab_size
        requests = setup.workload.build(vocab, setup.rewards, guided=False)
    else:
        requests = _demo_requests(setup)
    answers = engine.generate(requests)
    return [(list(request.prompts["base"]), answers[request.id]) for request in requests]


def _demo_requests(setup: Setup) -> list[SequenceRequest]:
    """As the base reads them; the demo's rewards have its tokenizer and template."""
    base = load_family(setup.sources[0], []).base
    eos = base.tokenizer.eos_token_id
    requests = []
    for text in demo_deployment().prompts:
        rendered = base.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        prompt = base.tokenizer.encode(rendered, add_special_tokens=False)
        for seed in range(ANSWERS):
            sampling = SamplingParams(ANSWER_TOKENS, seed=seed, stop_token_ids=frozenset({eos}))
            requests.append(SequenceRequest(f"{text} {seed}", {"base": prompt}, {"base": 1.0}, sampling))
    return requests


@torch.inference_mode()
def _divergences(
    exact: Member, rounded: Member, texts: Sequence[tuple[list[int], list[int]]]
) -> tuple[float, ...]:
    """KL(exact ‖ rounded) for every token of the answers."""
    rows: list[float] = []
    for prompt, answer in texts:
        of_exact, of_rounded = (_log_probs(member, prompt, answer) for member in (exact, rounded))
        rows += kl(of_exact, of_rounded).tolist()
    return tuple(rows)


def _log_probs(member: Member, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probs [len(answer), vocab] of what each token of the answer was drawn from, in double precision."""
    tokens, owner = [*prompt, *answer[:-1]], object()
    member.cache.reserve(owner, len(tokens))
    logits = member.forward([Chunk(owner, tokens, 0, True, len(answer))])
    member.cache.free(owner)
    return logits.double().log_softmax(-1)
