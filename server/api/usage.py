"""The ``usage`` of a response."""

from __future__ import annotations

from server.api import schema
from server.api.generation import Generation


def usage(generation: Generation, tokens: int) -> schema.Usage:
    """With ``tokens`` in the answers so far."""
    ticket = generation.ticket
    return schema.Usage(
        prompt_tokens=ticket.prompt_tokens,
        completion_tokens=tokens,
        total_tokens=ticket.prompt_tokens + tokens,
        prompt_tokens_details=schema.PromptTokensDetails(cached_tokens=generation.cached_tokens),
        completion_tokens_details=schema.CompletionTokensDetails(
            reasoning_tokens=0,
            accepted_prediction_tokens=generation.accepted_drafts,
            rejected_prediction_tokens=generation.rejected_drafts,
        ),
    )
