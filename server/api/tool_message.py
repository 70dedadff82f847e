"""A message that may call tools."""

from __future__ import annotations

from collections.abc import Sequence

from server.api import schema
from server.api.choice import FinishReason
from server.api.message import Message, Reason
from server.structured import ArgumentsPiece, CallBegun, Content, Event, ToolReader


class ToolMessage(Message):
    """The message of one choice whose text ``reader`` reads; ``named``: the request names the function that is called."""

    def __init__(self, reader: ToolReader, *, named: bool) -> None:
        super().__init__()
        self._reader = reader
        self._named = named
        self._calls: list[tuple[CallBegun, list[str]]] = []

    def push(self, text: str) -> schema.Delta | None:
        """What ``text`` adds to the message; None for nothing."""
        return self._delta(self._reader.push(text))

    def end(self, reason: FinishReason) -> tuple[schema.Delta, Reason]:
        """What the end of the text adds, and why the message is over."""
        delta = self._delta(self._reader.flush()) or schema.Delta()
        # OpenAI says "stop" where the request itself chose the function.
        called = reason == "stop" and self._reader.complete and not self._named
        return delta, "tool_calls" if called else reason

    def whole(self) -> schema.AnswerMessage:
        """The message so far."""
        message = super().whole()
        if not self._calls:
            return message
        calls = [
            schema.ToolCall(
                id=call.id,
                type="function",
                function=schema.CalledFunction(name=call.name, arguments="".join(arguments)),
            )
            for call, arguments in self._calls
        ]
        return schema.AnswerMessage(
            role="assistant", content=message.content or None, refusal=None, tool_calls=calls
        )

    def _delta(self, events: Sequence[Event]) -> schema.Delta | None:
        """All of ``events`` in one delta."""
        content = super().push("".join(event.text for event in events if isinstance(event, Content)))
        calls = [self._call(event) for event in events if not isinstance(event, Content)]
        if not calls:
            return content
        if content is None:
            return schema.Delta(tool_calls=calls)
        return schema.Delta(content=content.content, tool_calls=calls)

    def _call(self, event: CallBegun | ArgumentsPiece) -> schema.ToolCallDelta:
        if isinstance(event, CallBegun):
            self._calls.append((event, []))
            function = schema.CalledFunctionDelta(name=event.name, arguments="")
            return schema.ToolCallDelta(index=event.index, id=event.id, type="function", function=function)
        self._calls[event.index][1].append(event.text)
        return schema.ToolCallDelta(
            index=event.index, function=schema.CalledFunctionDelta(arguments=event.text)
        )
