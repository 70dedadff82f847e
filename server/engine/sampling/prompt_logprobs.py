"""Log-probs of a prompt's own tokens under the mix, collected as its members read it."""

from collections.abc import Mapping, Sequence

import torch

from server.engine.chunk import Chunk
from server.engine.sampling.divergence import limit
from server.engine.sampling.mix import Contribution, mix_logits
from server.engine.sampling.report import token_logprobs
from server.engine.sequence import Sequence as Running


def collect(
    chunks: Mapping[str, Sequence[Chunk]], logits: Mapping[str, torch.Tensor], sequence: Running
) -> None:
    """Add to the prompt log-probs of ``sequence`` what its members say in this step.

    ``chunks``: what each member read; ``logits``: by member [Σ chunk.logits, vocab] float32 behind these.
    """
    parts, tokens = _contributions(chunks, logits, sequence)
    request, collected = sequence.request, sequence.prompt_logprobs
    if not collected:
        collected.append(None)  # nothing predicts the first token
    if not tokens:
        return
    mixed = mix_logits(list(parts.values()), len(tokens), [request.power] * len(tokens))
    if request.max_kl is not None:
        base = next(iter(parts.values())).logits.to(mixed.device)
        mixed, _ = limit(mixed, base, [request.max_kl] * len(tokens))
    count = request.sampling.prompt_logprobs or 0
    collected.extend(token_logprobs(mixed, tokens, [count] * len(tokens)))


def _contributions(
    chunks: Mapping[str, Sequence[Chunk]], logits: Mapping[str, torch.Tensor], sequence: Running
) -> tuple[dict[str, Contribution], list[int]]:
    """What each member says about the prompt tokens behind those that ``sequence`` read, and these tokens."""
    parts: dict[str, Contribution] = {}
    tokens: list[int] = []
    for name in logits:
        end = 0
        for chunk in chunks[name]:
            end += chunk.logits
            if chunk.owner != sequence.id:
                continue
            prompt = sequence.contexts[name].prompt
            tokens = list(prompt[chunk.start + 1 : chunk.start + len(chunk.tokens) + 1])
            begin = end - chunk.logits
            if tokens:
                rows = logits[name][begin : begin + len(tokens)]
                weights = [sequence.mix.get(name, 0.0)] * len(tokens)
                parts[name] = Contribution(rows, range(len(tokens)), weights)
    return parts, tokens
