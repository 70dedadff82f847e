"""Chats to each member's prompt tokens, and tokens back to text.

Fast tokenizers are not thread-safe, so one thread encodes for everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import TemplateError

from server.errors import ContextLengthExceeded, InvalidRequest, clip
from server.text.codec import Codec
from server.text.detokenizer import Detokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
"""One message as a chat template sees it: role, content and what else the client gave."""

Prompts = Mapping[str, tuple[int, ...]]
"""Prompt token ids by member name; members that read the same tokens share one tuple."""

T = TypeVar("T")


class TokenizerThread:
    """Runs work on tokenizers in the one thread that may touch them."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work()``, run after everything asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def stop(self) -> None:
        """Drops what has not begun; returns at once."""
        self._executor.shutdown(wait=False, cancel_futures=True)


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
        self._readers = _readers(tokenizers)
        self._backend = self._base.backend_tokenizer
        self._longest_token = max((len(token) for token in self._base.get_vocab()), default=1)
        self.hidden = frozenset(
            token for token, added in self._base.added_tokens_decoder.items() if added.special
        )
        for reader, _ in self._readers:
            reader.tokenizer.backend_tokenizer.no_truncation()
            reader.tokenizer.backend_tokenizer.no_padding()

    @property
    def codec(self) -> Codec:
        """Text that is no chat, as the base reads and writes it."""
        return Codec(self._base)

    def prompts(self, messages: Sequence[Message]) -> Prompts:
        """Every member's prompt. Call it in the tokenizer thread.

        Raises:
            InvalidRequest: a template refuses these messages, with its reason.
            ContextLengthExceeded: the text is so long that no tokenization of it fits.
        """
        prompts: dict[str, tuple[int, ...]] = {}
        for reader, members in self._readers:
            text = reader.render(messages)
            self._check_length(text, members)
            tokens = reader.encode(text)
            prompts.update(dict.fromkeys(members, tokens))
        return prompts

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens`` without special tokens; leaves the tokenizer as it is, so any thread may call
        it.
        """
        text: str = self._backend.decode(list(tokens), skip_special_tokens=True)
        return text

    def detokenizer(self) -> Detokenizer:
        """For one answer."""
        return Detokenizer(self.decode, self.hidden)

    def _check_length(self, text: str, members: Sequence[str]) -> None:
        # Megabytes of text would hold up everybody's tokenizing only to be refused afterwards.
        tightest = min(members, key=lambda name: self._max_context[name])
        limit = self._max_context[tightest]
        at_least = len(text) // self._longest_token
        if at_least >= limit:
            raise ContextLengthExceeded(
                limit=limit, prompt=at_least, answer=None, member=tightest, param="messages"
            )


class _Reader:
    """One way to read a chat: a template and the tokenizer that goes with it."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.template = template

    def render(self, messages: Sequence[Message]) -> str:
        if self.template is None:
            raise InvalidRequest("The served model has no chat template.", param="messages")
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except TemplateError as error:
            raise self._refusal(clip(error.message or type(error).__name__)) from error
        except Exception as error:  # a template is a program: whatever it trips over is about these messages
            raise self._refusal("it failed on them") from error
        return text

    def encode(self, text: str) -> tuple[int, ...]:
        # The template writes special tokens itself; adding them again would double the first one.
        return tuple(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def _refusal(self, reason: str) -> InvalidRequest:
        return InvalidRequest(
            f"The chat template of '{self.name}' refuses these messages: {reason}", param="messages"
        )


def _readers(
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> tuple[tuple[_Reader, tuple[str, ...]], ...]:
    """Members grouped by how they read, the base's group first."""
    groups: dict[tuple[object, ...], tuple[_Reader, list[str]]] = {}
    base_template = _template(tokenizers["base"])
    for name in ("base", *(name for name in tokenizers if name != "base")):
        tokenizer = tokenizers[name]
        template = _template(tokenizer) or base_template
        variables = tuple(sorted((key, str(token)) for key, token in tokenizer.special_tokens_map.items()))
        key = (template, variables, tokenizer.backend_tokenizer.to_str())
        groups.setdefault(key, (_Reader(name, tokenizer, template), []))[1].append(name)
    return tuple((reader, tuple(names)) for reader, names in groups.values())


def _template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template: str | dict[str, str] | None = tokenizer.chat_template
    if isinstance(template, dict):
        return template.get("default")
    return template
