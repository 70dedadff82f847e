"""How a chat template wants the calls of earlier answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.structured.tool_call import ToolCall

SHORT_ID = 9
"""Characters of an id where a template takes no others."""


@dataclass(frozen=True, slots=True)
class CallStyle:
    """What differs between templates.

    Attributes:
        short_ids: ids must have nine letters and digits.
        text_arguments: arguments are wanted as JSON text, not as an object.
    """

    short_ids: bool = False
    text_arguments: bool = False

    def call(self, call: ToolCall) -> dict[str, Any]:
        """One call as the template gets it."""
        arguments = call.arguments if self.text_arguments else json.loads(call.arguments)
        function = {"name": call.name, "arguments": arguments}
        return {"id": self.id(call.id), "type": "function", "function": function}

    def id(self, id: str) -> str:
        """The id that stands for ``id``; the same for the call and for its result."""
        if not self.short_ids or (len(id) == SHORT_ID and id.isascii() and id.isalnum()):
            return id
        return hashlib.blake2b(id.encode()).hexdigest()[:SHORT_ID]

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message whose ``tool_calls``, if it has any, are ``ToolCall`` objects, as the template gets it."""
        shown = dict(message)
        if shown.get("tool_calls"):
            shown["tool_calls"] = [self.call(call) for call in shown["tool_calls"]]
        if shown.get("tool_call_id"):
            shown["tool_call_id"] = self.id(shown["tool_call_id"])
        return shown
