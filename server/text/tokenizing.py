"""Chats and raw text to each member's prompt tokens, and tokens back to text.

Fast tokenizers are not thread-safe, so one thread encodes for everybody.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import TemplateError

from server.errors import ContextLengthExceeded, InvalidRequest, QueueFull, clip, shown_name
from server.fair_thread import FairThread
from server.structured import CallStyle, FormatError, ToolFormat, Vocabulary, call_style
from server.text.codec import Codec
from server.text.detokenizer import Detokenizer
from server.text.raw_prompt import RawPrompt, offsets
from server.text.token_bytes import TokenBytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
"""One message as a chat template sees it: role, content and what else the client gave. ``tool_calls`` are ``ToolCall``
objects, which become what each template wants.
"""

Tool = Mapping[str, Any]
"""A tool as a chat template sees it, in OpenAI's form."""

Prompts = Mapping[str, tuple[int, ...]]
"""Prompt token ids by member name; members that read the same tokens share one tuple."""

T = TypeVar("T")


class TokenizerThread:
    """Runs work on tokenizers in the one thread that may touch them; ``most``: pieces of it that one owner may have waiting."""

    def __init__(self, most: int = 1024) -> None:
        self._thread = FairThread("tokenizer")
        self._most = most

    async def run(self, work: Callable[[], T], owner: str = "") -> T:
        """The result of ``work()``, run after everything that ``owner`` asked for before, and in turn with others' work.

        Raises:
            QueueFull: too much of this owner's waits.
        """
        if self._thread.waiting(owner) >= self._most:
            raise QueueFull("Too many of your texts wait to be tokenized; try again later.", retry_after=1)
        return await asyncio.wrap_future(self._thread.submit(work, owner))

    def stop(self) -> None:
        """Drops what has not begun; returns at once."""
        self._thread.stop()


class ChatTokenizer:
    """Renders a chat with every member's own template. Members with the same template and tokenizer share
    the tokens.

    Args:
        tokenizers: by member name, "base" among them; all have the base's vocabulary. A reward without a
            template uses the base's.
        max_context: tokens each member can read.
    """

    def __init__(
        self, tokenizers: Mapping[str, PreTrainedTokenizerBase], max_context: Mapping[str, int]
    ) -> None:
        self._max_context = dict(max_context)
        self._base = tokenizers["base"]
        self._groups = _grouped({"base": self._base, **tokenizers}, self._base, {})
        self._backend = self._base.backend_tokenizer
        self.token_bytes = TokenBytes(self._base)
        self._longest_token = max((len(token) for token in self._base.get_vocab()), default=1)
        self.hidden = frozenset(
            token for token, added in self._base.added_tokens_decoder.items() if added.special
        )
        self._tool_format: ToolFormat | FormatError | None = None

    def changed(
        self,
        added: Mapping[str, PreTrainedTokenizerBase],
        members: Collection[str],
        max_context: Mapping[str, int],
    ) -> ChatTokenizer:
        """The same for other ``members``, the base among them: those of ``added`` read with tokenizers that nobody uses yet, the
        others as they do here.

        In any thread: no tokenizer in use is touched. A large vocabulary takes seconds.
        """
        left = {
            key: (reader, kept)
            for key, (reader, names) in self._groups.items()
            if (kept := tuple(name for name in names if name in members))
        }
        other = copy(self)
        other._groups = _grouped(added, self._base, left)
        other._max_context = dict(max_context)
        return other

    @property
    def _readers(self) -> tuple[tuple[_Reader, tuple[str, ...]], ...]:
        """Members grouped by how they read, the base's group first."""
        return tuple(self._groups.values())

    @property
    def codec(self) -> Codec:
        """Text that is no chat, as the base reads and writes it."""
        return Codec(self._base)

    def prompts(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        members: Collection[str] | None = None,
    ) -> Prompts:
        """The prompt of each of ``members``, by default of all. Call it in the tokenizer thread.

        A reward whose template does not show ``tools`` reads none; calls of earlier answers, which it may not show
        either, it reads as the base wrote them.

        It ends with what the template puts before an answer (``add_generation_prompt``), or inside the last
        message, which the answer goes on with (``continue_final_message``), or behind it.

        Raises:
            InvalidRequest: a template refuses these messages, with its reason.
            ContextLengthExceeded: the text is so long that no tokenization of it fits.
        """
        prompts: dict[str, tuple[int, ...]] = {}
        for reader, group in self._readers:
            reading = [name for name in group if members is None or name in members]
            if not reading:
                continue
            text = reader.render(
                self._readable(messages, reader, reading[0]),
                reading[0],
                tools=tools,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                continue_final_message=continue_final_message,
            )
            self._check_length(text, reading, "messages")
            tokens = reader.encode(text)
            prompts.update(dict.fromkeys(reading, tokens))
        return prompts

    def raw_prompt(self, prompt: str | Sequence[int], *, echo: bool = False) -> RawPrompt:
        """A prompt that is no chat: text as the base's tokenizer reads it, special tokens it adds included, or
        token ids as they are. With ``echo`` it knows its text. Call it in the tokenizer thread.

        Raises:
            InvalidRequest: nothing is left to read.
            ContextLengthExceeded: the text is so long that no tokenization of it fits.
        """
        if isinstance(prompt, str):
            self._check_length(prompt, self._max_context, "prompt")
            encoding = self._backend.encode(prompt, add_special_tokens=True)
            tokens, unsaid = tuple(encoding.ids), encoding.special_tokens_mask
        else:
            tokens, unsaid = tuple(prompt), [0] * len(prompt)
        if not tokens and self._base.bos_token_id is not None:
            tokens, unsaid = (int(self._base.bos_token_id),), [1]
        if not tokens:
            raise InvalidRequest(
                "The prompt is empty, and this model has no token to begin a text with: give it at least one.",
                param="prompt",
            )
        if not echo:
            return RawPrompt(tokens)
        text = prompt if isinstance(prompt, str) else self.codec.decode(tokens)
        return RawPrompt(tokens, text, offsets(tokens, unsaid, self.codec.decode, len(text)))

    @property
    def members(self) -> tuple[str, ...]:
        """Every member's name, the base first."""
        return tuple(name for _, names in self._readers for name in names)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens`` without special tokens; leaves the tokenizer as it is, so any thread may call
        it.
        """
        text: str = self._backend.decode(list(tokens), skip_special_tokens=True)
        return text

    def detokenizer(self, before: Sequence[int] = (), *, shown: frozenset[int] = frozenset()) -> Detokenizer:
        """For one answer; ``before`` are tokens of the text it goes on with. The special tokens of ``shown`` are spelled
        out in it.
        """
        if not shown:
            return Detokenizer(self.decode, self.hidden, before)
        return Detokenizer(self.codec.decode, self.hidden - shown, before)

    def vocabulary(self, size: int, ends: frozenset[int]) -> Vocabulary:
        """The base's tokens as grammars see them; ids are below ``size``, and ``ends`` end an answer."""
        added = {token: entry.content for token, entry in self._base.added_tokens_decoder.items()}
        return Vocabulary(self._backend.to_str, size, ends, added, self.hidden)

    def tool_format(self, ends: Sequence[str]) -> ToolFormat:
        """How the base writes tool calls; ``ends`` are the texts of the tokens that end an answer. Call it in the
        tokenizer thread.

        Raises:
            FormatError: its template shows no tools or writes calls that cannot be read back.
        """
        if self._tool_format is None:
            reader, _ = self._readers[0]
            try:
                self._tool_format = ToolFormat.derive(reader.sketch, ends)
            except FormatError as error:
                self._tool_format = error
        if isinstance(self._tool_format, FormatError):
            raise FormatError(*self._tool_format.args)
        return self._tool_format

    def _readable(self, messages: Sequence[Message], reader: _Reader, member: str) -> Sequence[Message]:
        """``messages`` with their tool calls in the way that the reader's template shows them."""
        if not any(message.get("tool_calls") or message.get("tool_call_id") for message in messages):
            return messages
        if reader.call_style is not None:
            return [reader.call_style.message(message) for message in messages]
        called = any(message.get("tool_calls") for message in messages)
        is_base = reader is self._readers[0][0]
        if called and (is_base or not isinstance(self._tool_format, ToolFormat)):
            raise InvalidRequest(
                f"The chat template of '{shown_name(member)}' does not show tool calls.", param="messages"
            )
        return [self._spelled(message) for message in messages]

    def _spelled(self, message: Message) -> Message:
        """A message whose calls are part of its content."""
        calls = message.get("tool_calls")
        if not calls or not isinstance(self._tool_format, ToolFormat):
            return message
        kept = {key: value for key, value in message.items() if key != "tool_calls"}
        return {**kept, "content": message["content"] + self._tool_format.write(calls)}

    def _check_length(self, text: str, members: Iterable[str], param: str) -> None:
        # Megabytes of text would hold up everybody's tokenizing only to be refused afterwards.
        tightest = min(members, key=lambda name: self._max_context[name])
        limit = self._max_context[tightest]
        at_least = len(text) // self._longest_token
        if at_least >= limit:
            raise ContextLengthExceeded(
                limit=limit, prompt=at_least, answer=None, member=tightest, param=param
            )


class _Reader:
    """One way to read a chat: a template, one for chats with tools, which is mostly the same, and the tokenizer that goes
    with them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        tool_template: str | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.tool_template = tool_template

    @cached_property
    def call_style(self) -> CallStyle | None:
        """How the template wants the calls of earlier answers; None where it does not show them."""
        return call_style(self.sketch)

    def sketch(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
    ) -> str:
        """What the template makes of them; raises whatever the template does."""
        text: str = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=None if tools is None else [dict(tool) for tool in tools],
            chat_template=self.tool_template if tools else self.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        return text

    def render(
        self,
        messages: Sequence[Message],
        member: str,
        *,
        tools: Sequence[Tool] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> str:
        """The same for a client, who is told what the template of ``member`` refuses."""
        if self.template is None:
            raise InvalidRequest("The served model has no chat template.", param="messages")
        try:
            return self.sketch(
                messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
            )
        except TemplateError as error:
            raise _refusal(member, clip(error.message or type(error).__name__)) from error
        except Exception as error:  # a template is a program: whatever it trips over is about these messages
            if continue_final_message and isinstance(error, ValueError):
                raise _refusal(member, "it does not show the last one so that it could go on") from error
            raise _refusal(member, "it failed on them") from error

    def encode(self, text: str) -> tuple[int, ...]:
        # The template writes special tokens itself; adding them again would double the first one.
        return tuple(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


_Groups = Mapping[Hashable, tuple[_Reader, tuple[str, ...]]]
"""By how they read, the members that read so."""


def _refusal(member: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The chat template of '{shown_name(member)}' refuses these messages: {reason}", param="messages"
    )


def _grouped(
    tokenizers: Mapping[str, PreTrainedTokenizerBase], base: PreTrainedTokenizerBase, groups: _Groups
) -> _Groups:
    """``groups`` and the members of ``tokenizers``, each with those that read alike; a group's first member lends its
    tokenizer.
    """
    grown = dict(groups)
    base_templates = _templates(base)
    for name, tokenizer in tokenizers.items():
        own = _templates(tokenizer)
        templates = base_templates if own[0] is None else own
        variables = tuple(sorted((key, str(token)) for key, token in tokenizer.special_tokens_map.items()))
        vocabulary = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).digest()
        key = (templates, variables, vocabulary)
        if key not in grown:
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
            grown[key] = (_Reader(tokenizer, *templates), ())
        reader, names = grown[key]
        grown[key] = (reader, (*names, name))
    return grown


def _templates(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str | None]:
    """The tokenizer's template for chats, and the one for chats with tools."""
    template: str | dict[str, str] | None = tokenizer.chat_template
    if isinstance(template, dict):
        return template.get("default"), template.get("tool_use", template.get("default"))
    return template, template
