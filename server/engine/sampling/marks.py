"""What members say of tokens that are there already: nothing is drawn."""

from collections.abc import Mapping, Sequence

import torch

from server.engine.chunk import Chunk
from server.engine.sequence import Sequence as Running
from server.engine.transfer import upload


def collect(
    chunks: Sequence[Chunk],
    rows: torch.Tensor,
    member: str,
    reading: Mapping[object, Running],
    *,
    scalar: bool,
) -> None:
    """Add to the marks of the sequences ``reading``, by owner, what one member's logits ``rows`` [Σ chunk.logits, vocab] say.

    ``scalar``: they are values [Σ chunk.logits, 1].
    """
    start = 0
    for chunk in chunks:
        own = rows[start : start + chunk.logits]
        start += chunk.logits
        sequence = reading.get(chunk.owner)
        if sequence is not None and chunk.logits:
            said = own[:, 0] if scalar else _logprobs(chunk, own, sequence, member)
            sequence.marks.setdefault(member, []).append(said)


def total(parts: Sequence[torch.Tensor]) -> float:
    """Σ log π over all tokens of these parts, each [n] float32; or the value that is the only one."""
    return float(torch.cat(list(parts)).double().sum()) if parts else 0.0


def _logprobs(chunk: Chunk, rows: torch.Tensor, sequence: Running, member: str) -> torch.Tensor:
    """Log-probs [n] of the tokens behind the last of the chunk's; behind the context's last there is none."""
    end = chunk.start + len(chunk.tokens)
    following = sequence.tokens(member, end - chunk.logits + 1, min(end + 1, sequence.total(member)))
    index = upload(following, rows.device, torch.long)[:, None]
    return rows[: len(following)].log_softmax(-1).gather(-1, index)[:, 0]
