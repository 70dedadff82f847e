"""What a search may ask for, and what it gets: texts that go on, scores of texts, chats rendered. No threads, no HTTP."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.engine import SamplingParams, TokenOutput

Prompts = Mapping[str, Sequence[int]]
"""Prompt token ids by member name."""

Message = Mapping[str, Any]
"""One message of a chat: role, content and what else the client gave."""


@dataclass(frozen=True, slots=True)
class Text:
    """A response so far.

    Attributes:
        drawn: its tokens as the engine told them, the one that ended it included.
        finish_reason: "stop" or "length" where it is over.
        held: the engine's sequence that still has its contexts, if one has.
    """

    drawn: tuple[TokenOutput, ...] = ()
    finish_reason: str | None = None
    held: str | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """Its token ids."""
        return tuple(output.token for output in self.drawn)

    def __len__(self) -> int:
        return len(self.drawn)


@dataclass(frozen=True, slots=True)
class Grow:
    """Go on with ``text`` behind ``prompts``, drawn from ``mix`` as ``sampling`` says; its ``max_tokens`` counts the whole text.

    Gives a :class:`Text`. ``parent`` is a sequence that may have read some of it already. ``watched``: stop strings end it.
    ``plain``: without the request's report, bound and form, for texts that are no answers.
    """

    prompts: Prompts
    text: Text
    mix: Mapping[str, float]
    sampling: SamplingParams
    parent: str | None = None
    watched: bool = True
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """Score ``text`` behind ``prompts``: Σ weight · (a scorer's value, or a causal member's Σ log π) over ``weights``.

    Gives a :class:`Scored`. ``parent``: as for :class:`Grow`.
    """

    prompts: Prompts
    text: Text
    weights: Mapping[str, float]
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Render:
    """The prompts of a chat. Gives :data:`Prompts`, or None where a template refuses it or it fits no context."""

    messages: Sequence[Message]


Action = Grow | Score | Render


@dataclass(frozen=True, slots=True)
class Scored:
    """A score, and the sequence that still has the contexts it was read in."""

    value: float
    held: str | None = None


Result = Text | Scored | Prompts | None


@dataclass(frozen=True, slots=True)
class Round:
    """Actions that are carried out together.

    Attributes:
        actions: all of one kind.
        kept: sequences of earlier rounds that are held on to when this one is done; the others' contexts are let go.
        note: where the search stands, for whoever waits.
    """

    actions: Sequence[Action]
    kept: Sequence[str | None] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a search took.

    Attributes:
        generated_tokens: tokens drawn, those of texts that were not chosen included.
        scored_tokens: tokens of responses that were handed to be scored, each time anew.
        engine_requests: sequences given to the engine.
    """

    generated_tokens: int = 0
    scored_tokens: int = 0
    engine_requests: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search ends with: its text, and the score it was chosen for (None where nothing was scored).

    ``kl``: Σ KL(drawn from ‖ base) over its tokens in nats, before temperature, where the search draws token by token from a
    distribution that it knows; else None.
    """

    text: Text
    score: float | None
    cost: Cost = field(default=Cost())
    kl: float | None = None


Search = Generator[Round, Sequence[Result], Answer]
"""Yields rounds, is sent the results of their actions in order, returns the answer."""


def grow(
    actions: Sequence[Grow], kept: Sequence[str | None] = (), note: str = ""
) -> Generator[Round, Sequence[Result], list[Text]]:
    """One round of texts that go on."""
    results = yield Round(actions, kept, note)
    return [result for result in results if isinstance(result, Text)]


def score(
    actions: Sequence[Score], kept: Sequence[str | None] = (), note: str = ""
) -> Generator[Round, Sequence[Result], list[Scored]]:
    """One round of scores."""
    results = yield Round(actions, kept, note)
    return [result for result in results if isinstance(result, Scored)]


def score_after_one(
    actions: Sequence[Score], kept: Sequence[str | None] = (), note: str = ""
) -> Generator[Round, Sequence[Result], list[Scored]]:
    """Scores of texts behind the same prompts. Where nobody has read these yet, the first text is scored alone, so that the
    others copy what it read of them."""
    first, *others = actions
    if first.parent is not None or not others:
        return (yield from score(actions, kept, note))
    (one,) = yield from score([first], kept, note)
    rest = [replace(other, parent=other.parent or one.held) for other in others]
    return [one, *(yield from score(rest, (*kept, one.held), note))]


def render(
    actions: Sequence[Render], kept: Sequence[str | None] = (), note: str = ""
) -> Generator[Round, Sequence[Result], list[Prompts | None]]:
    """One round of chats rendered."""
    results = yield Round(actions, kept, note)
    return [result if isinstance(result, Mapping) else None for result in results]
