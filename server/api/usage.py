"""The ``usage`` of a response."""

from __future__ import annotations

from server.api import schema
from server.api.generation import Ticket


def usage(ticket: Ticket, tokens: int) -> schema.Usage:
    """With ``tokens`` in the answers so far."""
    return schema.Usage(
        prompt_tokens=ticket.prompt_tokens,
        completion_tokens=tokens,
        total_tokens=ticket.prompt_tokens + tokens,
        prompt_tokens_details=schema.PromptTokensDetails(cached_tokens=0),
        completion_tokens_details=schema.CompletionTokensDetails(reasoning_tokens=0),
    )
