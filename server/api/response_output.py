"""The output of a response as it grows, and the events that tell of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from server.api import schema
from server.api.schema.chat import ContentLogprob
from server.api.schema.responses import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemEvent,
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputText,
    PartEvent,
    ResponseEvent,
    TextDelta,
    TextDone,
)


class Output:
    """The items of one response. What the events say, taken together, is what ``items`` has."""

    def __init__(self) -> None:
        self._items: list[MessageItem | CallItem] = []

    def push(self, delta: schema.Delta, logprobs: Sequence[ContentLogprob]) -> Iterator[ResponseEvent]:
        """What ``delta`` adds, and with it the log-probs of the tokens whose text it holds.

        Calls have no log-probs: those of their tokens go out with no event.
        """
        last = self._items[-1] if self._items else None
        if delta.content or (logprobs and not delta.tool_calls and not isinstance(last, CallItem)):
            if not isinstance(last, MessageItem):
                last = MessageItem(len(self._items))
                yield from self._add(last)
            yield from last.say(delta.content or "", logprobs)
        for call in delta.tool_calls or ():
            yield from self._call(call)

    def end(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """Ends the item under way; an answer without a word is an empty message."""
        if not self._items:
            yield from self._add(MessageItem(0))
        yield from self._items[-1].end(status)

    def break_off(self) -> Iterator[ResponseEvent]:
        """Ends the item under way, if there is one: the answer failed."""
        if self._items:
            yield from self._items[-1].end("incomplete")

    def items(self) -> list[OutputItem]:
        """The items so far."""
        return [item.whole() for item in self._items]

    def _add(self, item: MessageItem | CallItem) -> Iterator[ResponseEvent]:
        """A new item, which ends the one before."""
        if self._items:
            yield from self._items[-1].end("completed")
        self._items.append(item)
        yield from item.begin()

    def _call(self, delta: schema.ToolCallDelta) -> Iterator[ResponseEvent]:
        function = delta.function
        if delta.id is not None:
            yield from self._add(CallItem(len(self._items), delta.id, function.name or ""))
        item = self._items[-1]
        assert isinstance(item, CallItem), "a call's first delta has its id"
        if function.arguments:
            yield from item.say(function.arguments)


class MessageItem:
    """One message: item ``index`` of the output, with one part of text."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._id = f"msg_{secrets.token_hex(16)}"
        self._status: ItemStatus = "in_progress"
        self._text: list[str] = []
        self._logprobs: list[ContentLogprob] = []

    def begin(self) -> Iterator[ResponseEvent]:
        """The item, empty, and its part."""
        yield self._event("response.output_item.added", self._message([]))
        yield self._part_event("response.content_part.added")

    def say(self, text: str, logprobs: Sequence[ContentLogprob]) -> Iterator[ResponseEvent]:
        """More text."""
        self._text.append(text)
        self._logprobs += logprobs
        yield TextDelta(
            type="response.output_text.delta",
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            delta=text,
            logprobs=list(logprobs),
        )

    def end(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """The whole text, the whole part, the whole item."""
        self._status = status
        part = self._part()
        yield TextDone(
            type="response.output_text.done",
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            text=part.text,
            logprobs=part.logprobs,
        )
        yield self._part_event("response.content_part.done")
        yield self._event("response.output_item.done", self.whole())

    def whole(self) -> OutputMessage:
        """The message so far."""
        return self._message([self._part()])

    def _message(self, content: list[OutputText]) -> OutputMessage:
        return OutputMessage(
            id=self._id, type="message", status=self._status, role="assistant", content=content
        )

    def _part(self) -> OutputText:
        return OutputText(
            type="output_text",
            text="".join(self._text),
            annotations=[],
            logprobs=list(self._logprobs),
        )

    def _event(self, type: str, item: OutputMessage) -> ItemEvent:
        return ItemEvent(type=type, output_index=self._index, item=item)

    def _part_event(self, type: str) -> PartEvent:
        return PartEvent(
            type=type, item_id=self._id, output_index=self._index, content_index=0, part=self._part()
        )


class CallItem:
    """One call of a function: item ``index`` of the output."""

    def __init__(self, index: int, call_id: str, name: str) -> None:
        self._index = index
        self._id = f"fc_{secrets.token_hex(16)}"
        self._call_id = call_id
        self._name = name
        self._status: ItemStatus = "in_progress"
        self._arguments: list[str] = []

    def begin(self) -> Iterator[ResponseEvent]:
        """The item, without arguments."""
        yield ItemEvent(type="response.output_item.added", output_index=self._index, item=self.whole())

    def say(self, arguments: str) -> Iterator[ResponseEvent]:
        """More of the arguments."""
        self._arguments.append(arguments)
        yield ArgumentsDelta(
            type="response.function_call_arguments.delta",
            item_id=self._id,
            output_index=self._index,
            delta=arguments,
        )

    def end(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """All arguments, the whole item."""
        self._status = status
        call = self.whole()
        yield ArgumentsDone(
            type="response.function_call_arguments.done",
            item_id=self._id,
            output_index=self._index,
            name=call.name,
            arguments=call.arguments,
        )
        yield ItemEvent(type="response.output_item.done", output_index=self._index, item=call)

    def whole(self) -> OutputCall:
        """The call so far."""
        return OutputCall(
            id=self._id,
            type="function_call",
            status=self._status,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._arguments),
        )
