"""Which reward moved which word: a token's gain under the chosen reward, as colour and as weight of type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.terminal.service import GuidedToken

LEVELS = (
    (2.0, "36", "1;4"),
    (0.5, "36", "4"),
    (-0.5, "", ""),
    (-2.0, "35", "2"),
    (float("-inf"), "35", "2;3"),
)
"""From which gain in nats on: the colour, and the second cue, which does without colour: bold and underlined,
underlined, plain, faint, faint and italic.
"""


@dataclass(frozen=True, slots=True)
class Palette:
    """SGR parameters, without those of colours where there are to be none."""

    colour: bool

    @property
    def notice(self) -> str:
        """What is not part of the conversation."""
        return "2"

    @property
    def said(self) -> str:
        """What was typed."""
        return "1"

    @property
    def mark(self) -> str:
        """Where weights changed."""
        return "1;33" if self.colour else "1"

    @property
    def error(self) -> str:
        """What went wrong."""
        return "1;31" if self.colour else "1"

    def gain(self, gain: float | None) -> str:
        """A token with this gain; plain without one."""
        if gain is None:
            return ""
        hue, cue = next((hue, cue) for least, hue, cue in LEVELS if gain >= least)
        return f"{cue};{hue}" if self.colour and hue else cue


def gain(token: GuidedToken, reward: str | None) -> float | None:
    """log π_reward − log π_base of the token, in nats; None where the reward was not weighted."""
    logprob = token.rewards.get(reward) if reward is not None else None
    return None if logprob is None else logprob - token.base_logprob


def runs(
    text: str, tokens: Sequence[GuidedToken], reward: str | None
) -> Iterator[tuple[str, float | None, int]]:
    """``text`` cut at the borders of the tokens that it came with: (text, gain, tokens).

    Where the text is not the tokens' own (a character made of several tokens, a stop string held back), what is
    left goes together and has the gain of its tokens together. A run may be empty: a token without text.
    """
    at = 0
    for index, token in enumerate(tokens):
        if not token.text or not text.startswith(token.text, at):
            rest = tokens[index:]
            gains = [one for one in (gain(other, reward) for other in rest) if one is not None]
            yield text[at:], sum(gains) if gains else None, len(rest)
            return
        at += len(token.text)
        yield token.text, gain(token, reward), 1
    if at < len(text):
        # A server that reports no tokens: every piece counts as one.
        yield text[at:], None, 0 if tokens else 1
