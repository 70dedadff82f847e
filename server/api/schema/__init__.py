"""Bodies of requests and responses: OpenAI's names and shapes, ours beside them.

Every request field is honoured, harmless and accepted, or refused by name. Any optional field may be null.
"""

from server.api.schema.chat import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatMessage,
    Choice,
    ChunkChoice,
    Delta,
)
from server.api.schema.common import (
    Answer,
    Body,
    Change,
    Content,
    ErrorBody,
    ErrorDetail,
    GuidanceFields,
    GuidanceReport,
    Only,
    Preferences,
    Stops,
    StreamOptions,
    TextPart,
    Usage,
)
from server.api.schema.running import (
    Cancelled,
    Changed,
    ChangedGuidance,
    ChangeRequest,
    RunningState,
)

__all__ = [
    "Answer",
    "AnswerMessage",
    "Body",
    "Cancelled",
    "Change",
    "ChangeRequest",
    "Changed",
    "ChangedGuidance",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionRequest",
    "ChatMessage",
    "Choice",
    "ChunkChoice",
    "Content",
    "Delta",
    "ErrorBody",
    "ErrorDetail",
    "GuidanceFields",
    "GuidanceReport",
    "Only",
    "Preferences",
    "RunningState",
    "Stops",
    "StreamOptions",
    "TextPart",
    "Usage",
]
