"""Token ids of simulated prompts: those of one system begin alike, a session's later prompts go on where the earlier end."""

import random

from server.simulation.request import Prompt


def tokens_of(prompt: Prompt, vocab: int, salt: str = "") -> list[int]:
    """Ids from 1 on (0 ends answers of random models), the same for the same prompt and ``salt``; prompts of different salts have
    nothing in common.

    What a session's answers would have been stands in its later prompts as random tokens: only prompts are kept by a server, so
    nobody can tell. Raises ``ValueError`` where there are fewer than two ids.
    """
    if vocab < 2:
        raise ValueError(f"a vocabulary of {vocab} tokens")
    own = prompt.tokens - prompt.system_tokens
    system = _text(f"{salt} system {prompt.system}", prompt.system_tokens, vocab)
    return system + _text(f"{salt} session {prompt.session}", own, vocab)


def _text(name: str, length: int, vocab: int) -> list[int]:
    """The first tokens of an endless text."""
    rng = random.Random(name)
    return [1 + int(rng.random() * (vocab - 1)) for _ in range(length)]
