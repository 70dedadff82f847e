"""The ``guidance`` of requests and of responses."""

from __future__ import annotations

from typing import Any

from server.access import Caller, check_weights
from server.api import schema
from server.api.choice import Token
from server.api.generation import Change, Generation
from server.api.schema import SamplingFields
from server.api.serving import Serving
from server.api.tally import Tally, finite
from server.decoding import METHODS, Guidance, initial_preferences, method_named, read_parameters
from server.errors import ModelNotFound
from server.text import TokenBytes


def read_guidance(body: SamplingFields, server: Serving, caller: Caller) -> Guidance:
    """The guidance a request asks for: its own preferences, or its preset's, or the method's defaults.

    Raises:
        ModelNotFound: no such model or preset, or none for this caller.
        InvalidRequest: no such method, parameter or preference; or weights the method refuses.
    """
    roster, preset = server.roster, _preset(body.model, server, caller)
    asked = body.guidance or schema.GuidanceFields()
    method = METHODS[0] if asked.method is None else method_named(asked.method, roster)
    parameters = read_parameters(method, asked.parameters)
    preferences = initial_preferences(method, parameters, roster, given=body.preferences, preset=preset)
    guidance = Guidance(method, parameters, preferences, roster)
    _ = guidance.row, guidance.roles  # refuses now what it would refuse later
    return guidance


def check_allowed(guidance: Guidance, caller: Caller) -> None:
    """Raises InvalidRequest where ``guidance`` weighs something as ``caller`` may not."""
    weighed = guidance.weighed
    check_weights(
        caller.ranges,
        drawn=weighed.drawn,
        judged=weighed.judged,
        fades=weighed.fades,
        asked=guidance.preferences,
    )


def guidance_report(generation: Generation, *, summary: bool) -> schema.GuidanceReport:
    """The ``guidance`` object of a response; with ``summary`` what it did to all choices together."""
    began = generation.ticket.guidance
    extra: dict[str, Any] = {} if began.max_kl is None else {"max_kl": began.max_kl}
    if began.own_parameters:
        extra["parameters"] = began.own_parameters
    return schema.GuidanceReport(
        method=began.method.name,
        preferences=dict(began.preferences),
        beta=began.beta,
        changes=[change_report(generation, change) for change in generation.changes],
        cancelled=generation.cancelled,
        **extra,
        **(_summary(generation) if summary else {}),
    )


def change_report(generation: Generation, change: Change) -> schema.Change:
    """One change made in mid-answer."""
    return schema.Change(
        at_token=change.at_token,
        preferences=dict(change.guidance.preferences),
        beta=change.guidance.beta,
        **choice_changes(generation, change),
    )


def choice_changes(generation: Generation, change: Change) -> dict[str, list[schema.ChoiceChange]]:
    """``choices`` of a change, where there are several."""
    if len(generation.choices) == 1:
        return {}
    return {
        "choices": [
            schema.ChoiceChange(index=index, at_token=at_token)
            for index, at_token in sorted(change.choices.items())
        ]
    }


def guided_tokens(tokens: list[Token], guidance: Guidance, token_bytes: TokenBytes) -> schema.GuidedTokens:
    """What ``guidance`` did to each of ``tokens``, which come with their reports."""
    labels = guidance.roster.labels
    return schema.GuidedTokens(
        tokens=[
            schema.GuidedToken(
                token=token_bytes.text(token.id),
                kl=token.report.kl,
                base_logprob=finite(token.report.base_logprob),
                rewards={
                    labels.get(name, name): finite(logprob) for name, logprob in token.report.rewards.items()
                },
                base_top=token_bytes.text(token.report.base_top),
                **({} if guidance.max_kl is None else {"scale": token.report.scale}),
            )
            for token in tokens
            if token.report is not None
        ]
    )


def _summary(generation: Generation) -> dict[str, Any]:
    tally = Tally.total(choice.tally for choice in generation.choices)
    labels = generation.ticket.guidance.roster.labels
    return {
        "mean_kl": tally.kl / tally.tokens if tally.tokens else None,
        "flip_rate": tally.flips / tally.tokens if tally.tokens else None,
        "rewards": {labels.get(name, name): logprob for name, logprob in tally.rewards.items()},
        "base_logprob": tally.base_logprob,
    }


def _preset(model: str, server: Serving, caller: Caller) -> dict[str, float] | None:
    """The rewards' weights that a model id stands for, if it is a preset's."""
    deployment = server.deployment
    name, colon, preset = model.partition(":")
    known = not colon or (preset in deployment.presets and caller.may_ask_for(preset))
    if name != deployment.model or not known:
        raise ModelNotFound(model)
    return deployment.whole(deployment.presets[preset]) if colon else None
