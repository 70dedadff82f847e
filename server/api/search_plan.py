"""What a request asks of a search: refused where it has no meaning, or made into the searches of its choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.api.choice import Choice, Ending
from server.api.schema import ChatCompletionRequest, SamplingFields
from server.api.search import Rewriting, SearchRun
from server.api.serving import Serving
from server.decoding import Guidance
from server.decoding.search import Chat, Message, Prompts, SearchMethod, Task, instruction_of
from server.errors import InvalidRequest
from server.text import Detokenizer, StopStrings

if TYPE_CHECKING:
    from server.engine import Grammar, SamplingParams


@dataclass(frozen=True)
class Conversation:
    """The chat of a request, and how another one becomes prompts as it did."""

    messages: Sequence[Message]
    render: Callable[[Sequence[Message]], Prompts]


class SearchPlan:
    """The searches of one request.

    Raises:
        InvalidRequest: a field has no meaning with this method; names it.
    """

    def __init__(
        self, method: SearchMethod, guidance: Guidance, body: SamplingFields, server: Serving
    ) -> None:
        self._method = method
        self._guidance = guidance
        self._body = body
        self._server = server
        self._runtime = server.runtime
        _check_draws(method, body)

    @property
    def width(self) -> int:
        """Sequences that one search has at once, at most; it takes as many places."""
        return self._method.width(self._guidance.parameters)

    def check(self, conversation: Conversation | None, grammar: Grammar | None) -> None:
        """What can be told once the input has been read.

        Raises:
            InvalidRequest: there is nothing to rewrite, or a form that cannot hold.
        """
        if self._method.rewrites(self._guidance.parameters):
            if conversation is None:
                raise InvalidRequest(
                    "'guidance.mutate' needs a chat, whose last message is rewritten.",
                    param="guidance.mutate",
                )
            if instruction_of(conversation.messages) is None:
                raise InvalidRequest(
                    "'guidance.mutate' rewrites the last message, which must be the user's.", param="messages"
                )
        if grammar is not None and not self._method.whole:
            called = isinstance(self._body, ChatCompletionRequest) and bool(self._body.tools)
            raise InvalidRequest(
                f"No form can be asked of answers by guidance.method '{self._method.name}'; best_of_n has it.",
                param="tools" if called else "response_format",
            )

    def run(
        self,
        choice: Choice,
        prompts: Prompts,
        sampling: SamplingParams,
        *,
        ending: Ending,
        detokenizer: Callable[[], Detokenizer],
        grammar: Grammar | None,
        conversation: Conversation | None,
        owner: str,
    ) -> SearchRun:
        """The search for one choice."""
        guidance, runtime = self._guidance, self._runtime
        assert guidance.roles is not None, "a search has roles"
        decode = runtime.tokenizer.decode
        task = Task(
            prompts=prompts,
            sampling=sampling,
            parameters=guidance.parameters,
            roles=guidance.roles,
            max_context=runtime.max_context,
            chat=None if conversation is None else Chat(conversation.messages, decode),
            watch=(lambda: Watcher(ending, detokenizer())) if ending.stops else None,
            grammar=grammar,
            report=self._body.report != "none",
            salt=owner,
            owner=owner,
        )
        rewriting = None
        if conversation is not None:
            rewriting = Rewriting(self._server.tokenizers, conversation.render, owner)
        return SearchRun(choice, self._method, task, rewriting)


class Watcher:
    """Says of each token whether a stop string is complete with it."""

    def __init__(self, ending: Ending, detokenizer: Detokenizer) -> None:
        self._min_tokens = ending.min_tokens
        self._stops = StopStrings(ending.stops)
        self._detokenizer = detokenizer
        self._tokens = 0

    def __call__(self, token: int) -> bool:
        """Reads one token more."""
        self._tokens += 1
        self._stops.push(self._detokenizer.push(token), armed=self._tokens >= self._min_tokens)
        return self._stops.hit


def _check_draws(method: SearchMethod, body: SamplingFields) -> None:
    """Refuses what is of draws from a mix where there are none."""
    if method.told:
        return
    given = {
        "guidance.report": body.report != "none",
        "top_p": body.top_p not in (None, 1),
        "top_k": body.top_k not in (None, 0, -1),
        "min_p": bool(body.min_p),
        "logit_bias": bool(body.logit_bias),
        "presence_penalty": bool(body.presence_penalty),
        "frequency_penalty": bool(body.frequency_penalty),
        "repetition_penalty": body.repetition_penalty not in (None, 1),
    }
    for field in (field for field, is_given in given.items() if is_given):
        raise InvalidRequest(
            f"'{field}' has no meaning with guidance.method '{method.name}', which draws from scored candidates.",
            param=field,
        )
