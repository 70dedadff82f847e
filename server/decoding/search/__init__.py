"""Searches over whole responses: best-of-N, Transfer-Q*, DARWIN.

A search is a generator: it yields rounds of actions (texts that go on, texts to score, chats to render), is sent what became
of them, and returns its answer. It knows no threads and no HTTP. ``Execution`` turns rounds into the engine's requests;
``run_searches`` drives many over an engine, the API drives each over the engine's thread.
"""

from server.decoding.search.action import Answer, Cost, Message, Prompts, Render, Search, Text
from server.decoding.search.best_of_n import BestOfN
from server.decoding.search.darwin import Darwin
from server.decoding.search.driver import SearchRequest, run_searches
from server.decoding.search.execution import Execution, SearchFailed, Work
from server.decoding.search.method import SearchMethod, SearchParameters
from server.decoding.search.rewriting import instruction_of
from server.decoding.search.task import Chat, Roles, Task, Watch
from server.decoding.search.transfer_q import TransferQ

SEARCHES: tuple[SearchMethod, ...] = (BestOfN(), Darwin(), TransferQ())
"""Every search on offer."""

__all__ = [
    "SEARCHES",
    "Answer",
    "BestOfN",
    "Chat",
    "Cost",
    "Darwin",
    "Execution",
    "Message",
    "Prompts",
    "Render",
    "Roles",
    "Search",
    "SearchFailed",
    "SearchMethod",
    "SearchParameters",
    "SearchRequest",
    "Task",
    "Text",
    "TransferQ",
    "Watch",
    "Work",
    "instruction_of",
    "run_searches",
]
