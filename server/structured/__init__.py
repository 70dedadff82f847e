"""Answers that must have a form: JSON of a schema, tool calls. What may come next is a mask over the base's tokens, and
tool calls are read back from the text.
"""

from server.structured.call_style import CallStyle
from server.structured.compiler import GrammarCompiler
from server.structured.json_grammar import check_schema, json_object, json_schema
from server.structured.matcher import MatchError, TokenMatcher
from server.structured.tool_call import ArgumentsPiece, CallBegun, Content, Event, ToolCall
from server.structured.tool_format import FormatError, Render, ToolFormat, call_style
from server.structured.tool_grammar import Tool, ToolChoice, format_marks, tool_grammar
from server.structured.tool_reader import ToolReader
from server.structured.vocabulary import Vocabulary

__all__ = [
    "ArgumentsPiece",
    "CallBegun",
    "CallStyle",
    "Content",
    "Event",
    "FormatError",
    "GrammarCompiler",
    "MatchError",
    "Render",
    "TokenMatcher",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolFormat",
    "ToolReader",
    "Vocabulary",
    "call_style",
    "check_schema",
    "format_marks",
    "json_object",
    "json_schema",
    "tool_grammar",
]
