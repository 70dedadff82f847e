"""What the server tells a client that something went wrong: one tree, one body, one place that knows the
status.

    ApiError                      500  server_error
    ├── InvalidRequest            400  invalid_request_error; ``param`` names the field
    │   └── ContextLengthExceeded      code context_length_exceeded, with the three lengths
    ├── InvalidKey                401  invalid_api_key
    ├── Forbidden                 403  forbidden: the key is right, but not for this
    ├── NotFound                  404
    │   ├── ModelNotFound              code model_not_found
    │   └── UnknownRoute               code unknown_url
    ├── MethodNotAllowed          405
    ├── Conflict                  409  conflict: not as things are now
    ├── BodyTooLarge              413
    ├── SlowReader                408  slow_reader: for log and metrics, its stream is closed
    ├── NotJson                   415
    ├── QueueFull                 429  with Retry-After
    │   └── ConcurrencyLimit           code concurrency_limit: the key's own bound
    ├── Unavailable               503  with Retry-After: loading, draining or dead
    │   └── QueueTimeout               code queue_timeout: it waited too long for its turn
    └── TimedOut                  504  timeout: the answer took too long

Messages are for strangers: they name fields and limits and echo at most ``ECHO`` characters of what was sent;
they never hold internal
text, paths or tracebacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

ECHO = 200
MESSAGE = 1000


def clip(text: object, limit: int = ECHO) -> str:
    """``str(text)`` cut to ``limit`` characters, on one line and encodable: what may be echoed to a client."""
    line = " ".join(str(text).split()).encode("utf-8", "replace").decode()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def known(names: Iterable[str]) -> str:
    """The names a message lists as allowed, e.g. ``helpful, harmless``."""
    return ", ".join(names) or "none"


VERSION_MARK = "#"
"""Between a reward's name and the version of its models in the names of members; no reward's own name holds it."""


def shown_name(member: str) -> str:
    """How clients know a member: without the version that it has when it came to a server that was running."""
    return member.partition(VERSION_MARK)[0]


class ApiError(Exception):
    """An answer that is not 2xx.

    ``param`` is the field at fault as a path (``messages[0].role``), ``code`` OpenAI's or ours.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = clip(message, MESSAGE)
        self.param = None if param is None else clip(param)
        self.code = code or self.default_code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to this error."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, always with all four keys."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ApiError):
    """Something in the request is wrong or not offered."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer together do not fit into what the models can read."""

    default_code = "context_length_exceeded"

    def __init__(self, *, limit: int, prompt: int, answer: int | None, member: str, param: str) -> None:
        asked = f"{prompt} in the {param}" + ("" if answer is None else f", {clip(answer)} in the completion")
        total = clip(prompt + (answer or 0))
        super().__init__(
            f"This model's maximum context length is {limit} tokens (the limit of {shown_name(member)}). "
            f"However, you requested {total} tokens ({asked}). Please reduce the length of either one.",
            param=param,
        )


class InvalidKey(ApiError):
    """No or a wrong API key, when keys are set."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """Names the scheme, as RFC 9110 asks of a 401."""
        return {"www-authenticate": "Bearer"}


class Forbidden(ApiError):
    """The key is known, but may not do this."""

    status = 403
    type = "invalid_request_error"
    default_code = "forbidden"


class NotFound(ApiError):
    """No such thing, or not yours."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class ModelNotFound(NotFound):
    """The model id is neither the served model nor one of its presets."""

    default_code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model '{clip(model)}' does not exist.", param="model")


class UnknownRoute(NotFound):
    """No such URL."""

    default_code = "unknown_url"


class MethodNotAllowed(ApiError):
    """The URL exists, the verb does not."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str | None = None) -> None:
        super().__init__(message)
        self.allow = allow

    @property
    def headers(self) -> dict[str, str]:
        """The verbs that are allowed."""
        return {} if self.allow is None else {"allow": self.allow}


class Conflict(ApiError):
    """Nothing is wrong with the request, but it cannot be done as things are now."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class BodyTooLarge(ApiError):
    """The body is over the deployment's limit."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class SlowReader(ApiError):
    """Whoever asked does not read the answer."""

    status = 408
    type = "invalid_request_error"
    default_code = "slow_reader"


class NotJson(ApiError):
    """The body is not declared as JSON."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class QueueFull(ApiError):
    """As many requests as the deployment allows are running or waiting."""

    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"


class ConcurrencyLimit(QueueFull):
    """As many choices as the key may have are under way."""

    default_code = "concurrency_limit"


class Unavailable(ApiError):
    """The server cannot take requests now: it loads, drains or is dead."""

    status = 503
    type = "server_error"
    default_code = "unavailable"


class QueueTimeout(Unavailable):
    """The request waited longer for its turn than the deployment lets it."""

    default_code = "queue_timeout"


class TimedOut(ApiError):
    """The answer took longer than the deployment lets it."""

    status = 504
    type = "server_error"
    default_code = "timeout"
