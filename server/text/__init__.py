"""Between text and tokens: chat templates, tokenizing in one thread, incremental detokenizing, stop strings."""

from server.text.detokenizer import Detokenizer
from server.text.stop import StopStrings
from server.text.tokenizing import ChatTokenizer, Message, Prompts, TokenizerThread

__all__ = ["ChatTokenizer", "Detokenizer", "Message", "Prompts", "StopStrings", "TokenizerThread"]
