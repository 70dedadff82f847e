"""What one user asks for. Tokens are never there: a prompt is who it belongs to and how long it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """``tokens`` long; its first ``system_tokens`` are those of system prompt ``system``, which sessions share. Behind that
    everything belongs to ``session``, whose later prompts go on where its earlier ones end."""

    system: int
    system_tokens: int
    session: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Request:
    """One answer of ``output`` tokens.

    ``members``: who reads it, by number; 0 is the base, the others are the rewards with a weight.
    """

    number: int
    prompt: Prompt
    output: int
    members: tuple[int, ...]

    @property
    def guided(self) -> bool:
        """Whether a reward is weighed in."""
        return len(self.members) > 1
