"""A machine by its data sheet: steps by hand, its memory, and that nobody takes it for a measured one."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from server.simulation.assumed import Chip, Weights, assume
from server.simulation.load import MemberLoad
from server.simulation.measured import Measured

CHIP = Chip(bandwidth=2e12, flops=1e15, memory=80e9, reached=0.5, launch=1e-3)
LLAMA = Weights.of(layers=32, hidden=4096, heads=32, kv_heads=8, head=128, intermediate=14336, vocab=32000)


def test_weights_of_a_known_model() -> None:
    """Mistral 7B: 7.24 billion parameters without its norms, 128 KiB of cache a token."""
    assert LLAMA.parameters == pytest.approx(7.24e9, rel=0.001)
    assert LLAMA.width * LLAMA.kv == 128 * 1024


def test_few_tokens_read_the_weights_and_many_multiply() -> None:
    member = Weights(parameters=7e9, multiplied=7e9, kv=65536, attention=1e6)
    read = 1e-3 + 2 * 7e9 / 1e12
    assert member.seconds(MemberLoad(1, 1), CHIP) == pytest.approx(read)
    assert member.seconds(MemberLoad(64, 64), CHIP) == pytest.approx(read)
    assert member.seconds(MemberLoad(5000), CHIP) == pytest.approx(1e-3 + 2 * 7e9 * 5000 / 5e14)
    cached = member.seconds(MemberLoad(1, 1, attended=1000), CHIP) - read
    assert cached == pytest.approx(1000 * 2 * 65536 / 1e12)
    attending = member.seconds(MemberLoad(1, 1, read=1000), CHIP) - read
    assert attending == pytest.approx(1000 * 1e6 / 5e14)


def test_a_made_up_machine_is_like_a_measured_one_and_says_what_it_is(
    make_measured: Callable[..., Measured],
) -> None:
    measured = make_measured()
    reward = Weights(1e9, 1e9, 16384, 1e5)
    made = assume(CHIP, [LLAMA, reward, reward], 64, measured, {"command": "a command"})
    assert str(made.about["machine"]).startswith("assumed, not measured")
    assert made.about["assumed"]["reached"] == 0.5
    assert (made.server, made.central) == (measured.server, measured.central)
    assert made.errors().p95 < 0.05
    room = 0.8 * 80e9 - 2 * (LLAMA.parameters + 2e9)
    assert made.limits.kv_tokens == int(room / (2 * (65536 + 2 * 16384)))
    assert made.limits.max_sequences == 64
    alone = [MemberLoad(8, 8, 8 * 1024, 0), MemberLoad(), MemberLoad()]
    assert made.cost().seconds(alone) == pytest.approx(LLAMA.seconds(alone[0], CHIP), rel=0.05)


def test_what_does_not_fit_is_refused(make_measured: Callable[..., Measured]) -> None:
    small = replace(CHIP, memory=16e9)
    with pytest.raises(ValueError, match="too few for the models"):
        assume(small, [LLAMA, LLAMA, LLAMA], 64, make_measured(), {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("bandwidth", 0.0), ("flops", -1.0), ("memory", float("nan")), ("reached", 1.1), ("launch", -1.0)],
)
def test_numbers_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"--{name}"):
        replace(CHIP, **{name: value})
