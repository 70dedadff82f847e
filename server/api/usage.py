"""The ``usage`` of a response."""

from __future__ import annotations

from server.api import schema
from server.api.generation import Generation


def usage(generation: Generation, tokens: int) -> schema.Usage:
    """With ``tokens`` in the answers so far."""
    ticket = generation.ticket
    extra = {} if not generation.searches else {"search": _searched(generation)}
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
        **extra,
    )


def _searched(generation: Generation) -> schema.SearchUsage:
    costs = [search.cost for search in generation.searches.values()]
    scores = [search.answer.score for search in generation.searches.values() if search.answer is not None]
    return schema.SearchUsage(
        generated_tokens=sum(cost.generated_tokens for cost in costs),
        scored_tokens=sum(cost.scored_tokens for cost in costs),
        engine_requests=sum(cost.engine_requests for cost in costs),
        score=max((score for score in scores if score is not None), default=None),
    )
