"""An engine of which a test writes the model and the reward. Tokens are characters; "." ends a text."""

from collections.abc import Callable, Sequence

from server.engine import SequenceRequest, TokenLogprobs, TokenOutput

STOP = ord(".")

Model = Callable[[SequenceRequest, str], str]
"""(request, text so far) → the next character."""

Reward = Callable[[str], float]
"""Text → score, the same under every scorer; its weights count."""

Best = Callable[[str], Sequence[tuple[str, float]]]
"""Text → the model's best next characters with their log-probs."""


def tokens(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def text_of(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


class ScriptedEngine:
    """Every step gives every sequence one token, or its score. ``asked`` keeps all requests in the order of their coming."""

    def __init__(self, model: Model, reward: Reward, best: Best = lambda _: ()) -> None:
        self._model, self._reward, self._best = model, reward, best
        self.asked: list[SequenceRequest] = []
        self.running: dict[str, tuple[SequenceRequest, list[int]]] = {}
        self.held: set[str] = set()
        self.aborted: list[str] = []
        self.released: list[str] = []
        self._fault: str | None = None

    def add(self, *requests: SequenceRequest) -> None:
        for request in requests:
            assert request.id not in self.running
            assert request.parent is None or request.parent in self.held, "a parent was let go too early"
            self.asked.append(request)
            self.running[request.id] = (request, list(request.begun))

    def abort(self, sequence_id: str) -> list[TokenOutput]:
        self.aborted.append(sequence_id)
        self.running.pop(sequence_id, None)
        return []

    def release(self, ids: Sequence[str]) -> None:
        self.released += ids
        self.held -= set(ids)

    def step(self) -> list[TokenOutput]:
        assert self.running, "a driver waits for nothing"
        return [self._next(*entry) for entry in list(self.running.values())]

    def fail(self, reason: str) -> str:
        """For a model that cannot go on: its sequence ends with an error that says so."""
        self._fault = reason
        return "!"

    def drawn(self) -> list[tuple[str, str]]:
        """(prompt, begun) of every request that draws."""
        return [(text_of(one.prompts["base"]), text_of(one.begun)) for one in self.asked if not one.scores]

    def scored(self) -> list[str]:
        """Every text that was handed to be scored."""
        return [text_of(one.begun) for one in self.asked if one.scores]

    def _next(self, request: SequenceRequest, drawn: list[int]) -> TokenOutput:
        so_far = text_of(drawn)
        if request.scores:
            scores = dict.fromkeys(request.scores, self._reward(so_far))
            self._end(request)
            return TokenOutput(request.id, len(drawn), -1, "length", scores=scores)
        token = ord(self._model(request, so_far))
        if self._fault is not None:
            del self.running[request.id]
            return TokenOutput(request.id, len(drawn), -1, "error", self._fault)
        drawn.append(token)
        over = "length" if len(drawn) >= request.sampling.max_tokens else None
        reason = "stop" if token in request.sampling.stop_token_ids else over
        if reason is not None:
            self._end(request)
        logprobs = None
        if request.sampling.logprobs is not None:
            logprobs = TokenLogprobs(-1.0, tuple((ord(one), value) for one, value in self._best(so_far)))
        return TokenOutput(request.id, len(drawn) - 1, token, reason, logprobs=logprobs)

    def _end(self, request: SequenceRequest) -> None:
        del self.running[request.id]
        if request.hold:
            self.held.add(request.id)
