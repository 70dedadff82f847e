"""The output of a response as it grows, and the events that tell of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from server.api import schema
from server.api.schema.chat import ContentLogprob
from server.api.schema.responses import (
    ItemEvent,
    ItemStatus,
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
        self._items: list[MessageItem] = []

    def push(self, delta: schema.Delta, logprobs: Sequence[ContentLogprob]) -> Iterator[ResponseEvent]:
        """What ``delta`` adds, and with it the log-probs of the tokens whose text it holds."""
        if delta.content or logprobs:
            if not self._items:
                yield from self._message()
            yield from self._items[-1].say(delta.content or "", logprobs)

    def end(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """Ends the item under way; an answer without a word is an empty message."""
        if not self._items:
            yield from self._message()
        yield from self._items[-1].end(status)

    def break_off(self) -> Iterator[ResponseEvent]:
        """Ends the item under way, if there is one: the answer failed."""
        if self._items:
            yield from self._items[-1].end("incomplete")

    def items(self) -> list[OutputMessage]:
        """The items so far."""
        return [item.whole() for item in self._items]

    def _message(self) -> Iterator[ResponseEvent]:
        item = MessageItem(len(self._items))
        self._items.append(item)
        return item.begin()


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
