"""What the keys do to the weights."""

from __future__ import annotations

from server.terminal.keys import Key
from server.terminal.weights import Weights

STEP, STRIDE = 0.1, 0.5
MOVES = {"left": -STEP, "right": STEP, "shift-left": -STRIDE, "shift-right": STRIDE}
TURNS = {"tab": 1, "back-tab": -1}
LETTERS = {"h": -STEP, "l": STEP, "-": -STEP, "+": STEP, "=": STEP, "H": -STRIDE, "L": STRIDE, "_": -STRIDE}
LETTER_TURNS = {"j": 1, "k": -1}


def move(weights: Weights, key: Key) -> bool:
    """What ``key`` does to the weights where no text is typed; False for other keys."""
    if key.name in MOVES:
        weights.move(MOVES[key.name])
    elif key.name in TURNS:
        weights.turn(TURNS[key.name])
    else:
        return False
    return True


def steer(weights: Weights, key: Key) -> bool:
    """What ``key`` does to the weights while an answer runs; False for other keys."""
    if move(weights, key):
        return True
    if key.name in ("up", "down"):
        weights.turn(1 if key.name == "down" else -1)
    elif key.text in LETTERS:
        weights.move(LETTERS[key.text])
    elif key.text in LETTER_TURNS:
        weights.turn(LETTER_TURNS[key.text])
    elif key.text == "0":
        weights.off()
    elif len(key.text) == 1 and key.text in "123456789":
        weights.choose(int(key.text) - 1)
    else:
        return False
    return True
