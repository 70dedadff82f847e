"""The commands of a conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.terminal.cells import one_line
from server.terminal.talk import Talk
from server.terminal.weights import number, read_weights

HELP = (
    "/weights [NAME=NUMBER …]   show or set the weights",
    "/preset [NAME]             list the presets or take one",
    "/seed [N | off]            show or set the seed of every draw",
    "/new                       forget the conversation",
    "/help, /quit               //… says something that begins with a slash",
)
KEYS = (
    "While an answer runs: Tab, ↑ ↓ or a digit choose a reward; ← → (h l, - +) move its weight by 0.1,",
    "with Shift (H L) by 0.5; 0 turns it off; Esc or Ctrl-C stops. Before you type, Tab and ← → work too.",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command answers; ``leave`` ends the conversation, ``bad`` says that it was not understood."""

    lines: tuple[str, ...] = ()
    leave: bool = False
    bad: bool = False


def is_command(line: str) -> bool:
    """Whether ``line`` is for us and not for the model."""
    return line.startswith("/") and not line.startswith("//")


def message(line: str) -> str:
    """What ``line`` says to the model."""
    return line[1:] if line.startswith("//") else line


def obey(line: str, talk: Talk, *, keys: bool) -> Reply:
    """Does what the command says; with ``keys``, help tells of them too."""
    name, *words = line.split()
    commands: dict[str, Callable[[list[str], Talk], Reply]] = {
        "/weights": _weights,
        "/preset": _preset,
        "/seed": _seed,
        "/new": _new,
        "/quit": lambda _, __: Reply(leave=True),
        "/help": lambda _, __: Reply((*HELP, *(KEYS if keys else ()))),
    }
    if name not in commands:
        return Reply((f"there is no command {one_line(name)[:80]}; /help lists them",), bad=True)
    try:
        return commands[name](words, talk)
    except ValueError as error:
        return Reply((one_line(str(error)),), bad=True)


def _weights(words: list[str], talk: Talk) -> Reply:
    if words:
        talk.weights.update(read_weights(words))
        return Reply((_in_words(talk),))
    values = talk.weights.values
    names = max((len(reward.name) for reward in talk.weights.rewards), default=0)
    lines = tuple(
        one_line(f"{reward.name}").ljust(names)
        + f"  {number(values[reward.name]):>5}  ({number(reward.low)} to {number(reward.high)})"
        + (f"  {one_line(reward.description)}" if reward.description else "")
        for reward in talk.weights.rewards
    )
    return Reply(lines or ("this server has no rewards",))


def _preset(words: list[str], talk: Talk) -> Reply:
    if not words:
        lines = tuple(
            one_line(f"{name}: {', '.join(f'{reward} {number(value)}' for reward, value in weights.items())}")
            for name, weights in talk.presets.items()
        )
        return Reply(lines or ("this server has no presets",))
    name = " ".join(words)
    if name not in talk.presets:
        raise ValueError(f"no preset is called {name[:80]}; there are {', '.join(talk.presets) or 'none'}")
    talk.weights.replace(talk.presets[name])
    return Reply((_in_words(talk),))


def _seed(words: list[str], talk: Talk) -> Reply:
    if words:
        talk.seed = None if words == ["off"] else read_seed(" ".join(words))
    return Reply(("every draw is its own" if talk.seed is None else f"seed {talk.seed}",))


def _new(_: list[str], talk: Talk) -> Reply:
    talk.messages.clear()
    return Reply(("a new conversation",))


def read_seed(word: str) -> int:
    """A seed as servers take it. Raises ``ValueError``."""
    try:
        seed = int(word)
    except ValueError:
        seed = 2**63
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed {word[:80]}: a seed is an integer of at most 64 bits")
    return seed


def _in_words(talk: Talk) -> str:
    return one_line(", ".join(f"{name} {number(value)}" for name, value in talk.weights.values.items()))
