"""What became of a request that was let in, once it is over: the figures for metrics, log and traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.api.choice import Choice
from server.api.generation import Generation
from server.api.tally import Tally
from server.tracing import Stretch


@dataclass(frozen=True)
class Outcome:
    """Figures of ``generation``, which ended at ``ended`` on ``time.monotonic()``'s clock; times are seconds, and None where
    it did not come to that.
    """

    generation: Generation
    ended: float

    @property
    def status(self) -> int:
        """200, or the status of the error it ended with, which a stream tells in its last event."""
        return self.generation.error.status if self.generation.error else 200

    @property
    def reasons(self) -> list[str]:
        """Why each choice is over; ``abort`` when its reader left or cancelled."""
        return [self._reason(choice) for choice in self.generation.choices]

    @property
    def queued(self) -> float | None:
        """From being taken by the engine to the first chunk of its first choice to be begun."""
        waits = (choice.queued for choice in self.generation.choices)
        return min((wait for wait in waits if wait is not None), default=None)

    @property
    def first(self) -> float | None:
        """From arrival to the first token of any choice."""
        first = self.generation.first_token
        return None if first is None else first - self.generation.ticket.arrived

    @property
    def gaps(self) -> list[float]:
        """From each token of each choice to its next."""
        return [gap for choice in self.generation.choices for gap in choice.gaps]

    @property
    def whole(self) -> float:
        """From arrival to the end of the last choice."""
        return self.ended - self.generation.ticket.arrived

    @property
    def kl(self) -> float | None:
        """Mean KL(guided ‖ base) in nats per token; None where no report was asked for."""
        tally = Tally.total(choice.tally for choice in self.generation.choices)
        return tally.kl / tally.tokens if tally.tokens else None

    @property
    def weights(self) -> dict[str, float]:
        """α/β by name, as the request began."""
        guidance = self.generation.ticket.guidance
        return {name: alpha / guidance.beta for name, alpha in guidance.preferences.items()}

    @property
    def parts(self) -> list[Stretch]:
        """Its life in stretches of time, as far as it came."""
        ticket, first = self.generation.ticket, self.generation.first_token
        parts = [Stretch("tokenize", ticket.arrived, ticket.prepared)]
        if self.queued is None or first is None:
            return parts
        begun = min(ticket.prepared + self.queued, first)
        parts.append(Stretch("queue", ticket.prepared, begun))
        if self.generation.searches:
            return [*parts, Stretch("search", begun, self.ended)]
        last = max(choice.last_token or first for choice in self.generation.choices)
        return [*parts, Stretch("prefill", begun, first), Stretch("decode", first, last)]

    @property
    def line(self) -> dict[str, object]:
        """Its part of the log's line."""
        generation, ticket, gaps = self.generation, self.generation.ticket, self.gaps
        return {
            "id": ticket.id,
            "model": ticket.model,
            "method": ticket.guidance.method.name,
            "preferences": dict(ticket.guidance.preferences),
            "beta": ticket.guidance.beta,
            "changes": len(generation.changes),
            "streamed": ticket.streamed,
            "choices": len(generation.choices),
            "prompt_tokens": ticket.prompt_tokens,
            "cached_tokens": generation.cached_tokens,
            "completion_tokens": generation.tokens,
            "queue_s": rounded(self.queued),
            "ttft_s": rounded(self.first),
            "per_token_s": rounded(sum(gaps) / len(gaps) if gaps else None),
            "kl": rounded(self.kl),
            "finish_reason": None if generation.error else ",".join(sorted(set(self.reasons))),
        }

    @property
    def attributes(self) -> Mapping[str, object]:
        """Its part of the span's attributes."""
        ticket = self.generation.ticket
        weights = {f"genarm.preference.{name}": alpha for name, alpha in ticket.guidance.preferences.items()}
        return {
            "genarm.id": ticket.id,
            "genarm.method": ticket.guidance.method.name,
            "genarm.beta": ticket.guidance.beta,
            **weights,
            "gen_ai.request.model": ticket.model,
            "gen_ai.usage.input_tokens": ticket.prompt_tokens,
            "gen_ai.usage.output_tokens": self.generation.tokens,
            "gen_ai.response.finish_reasons": [] if self.generation.error else self.reasons,
        }

    def _reason(self, choice: Choice) -> str:
        reason = choice.finish_reason
        return reason if reason and not self.generation.cancelled else "abort"


def rounded(value: float | None) -> float | None:
    """As a line of the log has it."""
    return None if value is None else round(value, 4)
