"""Grammars made ready off the event loop and off the engine's thread, kept, and bounded in time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from server.errors import InvalidRequest, Unavailable, clip
from server.fair_thread import FairThread
from server.structured.matcher import MatchError, TokenMatcher
from server.structured.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

T = TypeVar("T")

KEPT = 32
"""Compiled grammars that are kept, the ones used last, each for its owner alone: else time would tell what others sent."""

SHARED = 64
"""Answers after which a grammar is compiled anew: those made from one share its automata, which grow with all they write."""

SECONDS = 10.0
"""What compiling one grammar may take."""

QUEUE_SECONDS = 30.0
"""What waiting for the grammars before it may take."""

ITEMS_IN_ROW = 8_000
LEXER_STATES = 20_000
"""Bounds of a compiled grammar: alternatives at one place, which grow with the properties of an object, and states of its
automata, at 1 to 2 kB each.
"""

MakeMatcher = Callable[[], TokenMatcher]
"""Makes the matcher of one answer."""


@dataclass
class _Compiled:
    """One grammar, ready, and how many answers may be made from it by now."""

    origin: LLMatcher
    answers: int = 0


class GrammarCompiler:
    """Compiles grammars over one vocabulary, one after the other in a thread of its own, its owners' in turn."""

    def __init__(self, vocabulary: Vocabulary, *, seconds: float = SECONDS) -> None:
        self.vocabulary = vocabulary
        self._seconds = seconds
        self._kept: OrderedDict[tuple[str, str], _Compiled] = OrderedDict()
        self._worker = FairThread("grammar")

    async def compile(
        self, grammar: str, *, param: str, ends: bool = True, answers: int = 1, owner: str = ""
    ) -> MakeMatcher:
        """Matchers of ``grammar``, a Lark grammar as llguidance reads it, for so many ``answers`` of ``owner``. Call it on the
        event loop.

        ``ends`` is the matchers' (see ``TokenMatcher``); ``param`` is the field that the grammar was made from.

        Raises:
            InvalidRequest: it does not compile, allows nothing, or takes too long.
            Unavailable: other grammars take too long.
        """
        key = owner, grammar
        compiled = self._kept.get(key)
        if compiled is None or compiled.answers >= SHARED:
            compiled = await self._bounded(lambda: _compile(grammar, param, self.vocabulary), param, owner)
            self._kept[key] = compiled
        compiled.answers += answers
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return partial(_matcher, compiled.origin, self.vocabulary, ends)

    async def run(self, work: Callable[[], T], *, param: str, owner: str = "") -> T:
        """The result of ``work()``, which makes grammars or asks the vocabulary for ``owner``, in the thread that compiles.

        Raises:
            InvalidRequest: the tokenizer cannot be used, or it takes too long; ``param`` is the field that asks for it.
            Unavailable: other grammars take too long.
        """
        return await self._bounded(work, param, owner)

    def stop(self) -> None:
        """Drops what has not begun; returns at once."""
        self._worker.stop()

    async def _bounded(self, work: Callable[[], T], param: str, owner: str) -> T:
        """The result of ``work()`` in the one thread, unless it or its turn takes too long."""
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def prepared() -> T:
            _prepare(self.vocabulary, param)
            loop.call_soon_threadsafe(begun.set)
            return work()

        future = asyncio.wrap_future(self._worker.submit(prepared, owner))
        done = asyncio.ensure_future(begun.wait())
        try:
            await asyncio.wait((future, done), timeout=QUEUE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not future.done() and not begun.is_set():
                raise Unavailable("The server is busy compiling other requests' schemas.", retry_after=5)
            return await asyncio.wait_for(asyncio.shield(future), self._seconds)
        except TimeoutError:
            raise InvalidRequest(
                f"'{param}' takes longer than {self._seconds:g} s to compile.", param=param
            ) from None
        finally:
            done.cancel()
            future.cancel()


def _prepare(vocabulary: Vocabulary, param: str) -> None:
    """Makes llguidance's view of the tokens, which takes a while the first time, whatever the grammar."""
    try:
        _ = vocabulary.tokens
    except Exception as error:
        raise InvalidRequest(
            f"'{param}' cannot be honoured: the served model's tokenizer is of a kind that grammars do not support.",
            param=param,
        ) from error


def _compile(grammar: str, param: str, vocabulary: Vocabulary) -> _Compiled:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(
        max_items_in_row=ITEMS_IN_ROW, max_lexer_states=LEXER_STATES, verbose_errors=False
    )
    try:
        origin = LLMatcher(vocabulary.tokens, grammar, log_level=0, limits=limits)
    except BaseException as error:  # a panic of the compiler is no Exception; it is about this grammar
        raise InvalidRequest(f"'{param}' cannot be compiled.", param=param) from error
    if origin.is_error():
        raise InvalidRequest(f"'{param}' is not supported: {clip(origin.get_error())}", param=param)
    try:
        _matcher(origin, vocabulary, ends=True)
    except MatchError as error:
        raise InvalidRequest(f"'{param}' allows no answer: {clip(error)}.", param=param) from None
    return _Compiled(origin)


def _matcher(origin: LLMatcher, vocabulary: Vocabulary, ends: bool) -> TokenMatcher:
    # A copy goes its own way through the grammar; its origin stays before the first token.
    return TokenMatcher(origin.deep_copy(), vocabulary, ends=ends)
