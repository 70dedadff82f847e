"""Between text and tokens: chat templates, tokenizing in one thread, incremental detokenizing, stop strings."""

from server.text.detokenizer import Detokenizer
from server.text.raw_prompt import RawPrompt
from server.text.stop import StopStrings
from server.text.token_bytes import TokenBytes
from server.text.tokenizing import ChatTokenizer, Message, Prompts, TokenizerThread

__all__ = [
    "ChatTokenizer",
    "Detokenizer",
    "Message",
    "Prompts",
    "RawPrompt",
    "StopStrings",
    "TokenBytes",
    "TokenizerThread",
]
