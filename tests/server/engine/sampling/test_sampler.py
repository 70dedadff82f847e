"""Draws follow the distribution they are given, keyed by seed and position, and truncation keeps what it promises."""

import math

import pytest
import torch

from server.engine.sampling.sampler import NOISE_RANGE, Draw, noise, race, sample, scale, truncate
from tests.server.engine.no_sync import NoSync

LOGITS = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5, -3.0])


def chi_square_p(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities.double() * counts.sum()
    cells = expected >= 5
    statistic = ((counts[cells] - expected[cells]) ** 2 / expected[cells]).sum()
    degrees = torch.tensor((int(cells.sum()) - 1) / 2, dtype=torch.double)
    return float(torch.special.gammaincc(degrees, statistic / 2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocab", [6, 3000])
def test_draws_follow_the_softmax(temperature: float, vocab: int) -> None:
    torch.manual_seed(0)
    logits = LOGITS if vocab == 6 else torch.randn(vocab) * 4
    rows = 50_000
    counts = torch.zeros(vocab, dtype=torch.double)
    for start in range(0, rows, 2000):
        draws = [Draw(seed, 7, temperature) for seed in range(start, start + 2000)]
        counts += torch.bincount(sample(logits.expand(2000, -1), draws), minlength=vocab)
    assert chi_square_p(counts, (logits / temperature).softmax(-1)) > 0.001
    assert chi_square_p(counts, (logits / temperature * 1.05).softmax(-1)) < 0.001


def test_positions_of_one_seed_are_independent() -> None:
    draws = [Draw(42, position) for position in range(40_000)]
    tokens = sample(LOGITS.expand(len(draws), -1), draws)
    pairs = torch.bincount(tokens[:-1] * 6 + tokens[1:], minlength=36)
    p = LOGITS.softmax(-1)
    assert chi_square_p(pairs.double(), (p[:, None] * p).flatten()) > 0.001


def test_a_draw_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(1)
    logits = torch.randn(64, 500) * 3
    draws = [Draw(n, n, temperature=n % 3 * 0.6, top_p=0.9 if n % 2 else 1.0, top_k=n % 5) for n in range(64)]
    together = sample(logits, draws)
    alone = torch.cat([sample(logits[n : n + 1], [draws[n]]) for n in range(64)])
    assert torch.equal(together, alone)


def test_temperature_zero_is_the_arg_max_and_tiny_ones_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 2e4, -1e4]]).repeat(3, 1)
    assert sample(logits, [Draw(0, 0, 0.0), Draw(0, 0, 1e-12), Draw(0, 0, 2.0)]).tolist() == [1, 1, 1]


def test_a_forbidden_token_is_never_drawn() -> None:
    logits = torch.full((500, 4), -torch.inf)
    logits[:, 2] = -1e30
    assert set(sample(logits, [Draw(n, 0, 2.0) for n in range(500)]).tolist()) == {2}


def kept(logits: torch.Tensor, **options: float) -> set[int]:
    draw = Draw(0, 0, 1.0, **options)  # type: ignore[arg-type]
    out = truncate(scale(logits[None], [1.0]), [draw])[0]
    return set(out.isfinite().nonzero().flatten().tolist())


def test_truncation_by_hand() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.3, 0.2, 0.05])
    logits = probabilities.log()
    assert kept(logits, top_k=2) == {1, 2}
    assert kept(logits, top_p=0.39) == {1}
    assert kept(logits, top_p=0.41) == {1, 2}
    assert kept(logits, top_p=0.89) == {1, 2, 3}
    assert kept(logits, min_p=0.45) == {1, 2, 3}
    assert kept(logits, min_p=1.0) == {1}
    assert kept(logits, top_p=1e-9) == {1}
    # top_p counts shares of what top_k left: 0.4/0.7 ≥ 0.57 is enough.
    assert kept(logits, top_k=2, top_p=0.57) == {1}
    # … and of what min_p left.
    assert kept(logits, min_p=0.45, top_p=0.44) == {1}
    assert kept(logits, min_p=0.45, top_p=0.45) == {1, 2}


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
@pytest.mark.parametrize(
    "options", [{"top_p": 0.95}, {"top_k": 1500}, {"top_k": 50, "top_p": 0.5}, {"min_p": 0.02}]
)
def test_truncation_of_a_large_vocabulary_equals_a_full_sort(
    spread: float, options: dict[str, float]
) -> None:
    torch.manual_seed(2)
    logits = torch.randn(5000) * spread
    order = logits.argsort(descending=True)
    p = logits.softmax(-1)[order]
    if "min_p" in options:
        p = torch.where(p >= options["min_p"] * p[0], p, 0.0)
    p[int(options.get("top_k", 5000)) :] = 0
    p = p / p.sum()
    count = int(((p.cumsum(-1) - p < options.get("top_p", 1.0)) & (p > 0)).sum())
    got = kept(logits, **options)
    # Rounding of the running sum may move the border by a token.
    assert abs(len(got) - count) <= 1
    assert set(order[: min(len(got), count)].tolist()) <= got


def test_sparse_and_dense_races_have_the_same_winners() -> None:
    torch.manual_seed(3)
    peaked = torch.randn(50, 4000) * 12
    peaked -= peaked.amax(-1, keepdim=True)
    draws = [Draw(n, 3) for n in range(50)]
    assert (peaked > -NOISE_RANGE).float().mean() < 1 / 8
    flat = torch.cat([peaked, torch.zeros(400, 4000)])
    dense = race(flat, [*draws, *[Draw(n, 4) for n in range(400)]])[:50]
    assert torch.equal(race(peaked, draws), dense)


def test_noise_is_gumbel_and_stays_within_its_range() -> None:
    keys = torch.arange(1000)[:, None] * 2654435761 % 2**31
    values = noise(keys, keys // 7, torch.arange(1000)[None]).double()
    assert values.isfinite().all()
    assert values.max() - values.min() < NOISE_RANGE
    assert values.mean() == pytest.approx(0.5772, abs=0.01)
    assert values.std() == pytest.approx(math.pi / math.sqrt(6), abs=0.01)


def test_any_integer_is_a_seed() -> None:
    draws = [Draw(seed, 0) for seed in (0, -1, 2**63 - 1, -(2**63), 2**80)]
    assert sample(torch.randn(5, 100), draws).shape == (5,)


KINDS: list[dict[str, float]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.3},
    {"top_p": 0.9},
    {"top_k": 3},
    {"top_k": 1500, "top_p": 0.5},
    {"top_k": 40, "top_p": 0.95, "temperature": 1.5},
    {"min_p": 0.05},
    {"min_p": 0.01, "top_p": 0.8, "temperature": 0.8},
]


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("vocab", [6, 5000])
@pytest.mark.parametrize("cold", [[], [{"temperature": 1e-5}]])
def test_who_does_not_wait_for_the_device_draws_the_same(
    spread: float, vocab: int, cold: list[dict[str, float]]
) -> None:
    torch.manual_seed(4)
    kinds = [*KINDS, *cold]
    draws = [Draw(n, 3 * n, **kinds[n % len(kinds)]) for n in range(120)]  # type: ignore[arg-type]
    logits = torch.randn(len(draws), vocab) * spread
    logits[::7, ::5] = -torch.inf
    with NoSync():
        tokens = sample(logits, draws, sync=False)
    assert torch.equal(tokens, sample(logits, draws))
    assert len(set(tokens.tolist())) > 3


def test_who_does_not_wait_for_the_device_follows_the_softmax() -> None:
    counts = torch.zeros(6, dtype=torch.double)
    for start in range(0, 40_000, 2000):
        draws = [Draw(seed, 7) for seed in range(start, start + 2000)]
        counts += torch.bincount(sample(LOGITS.expand(2000, -1), draws, sync=False), minlength=6)
    assert chi_square_p(counts, LOGITS.softmax(-1)) > 0.001
    assert chi_square_p(counts, (LOGITS * 1.05).softmax(-1)) < 0.001


def test_top_p_is_of_what_a_wide_top_k_leaves() -> None:
    """… wherever its border lies."""
    logits = torch.zeros(4000)
    logits[:1200] = 1e-3
    # Of 2,000 tokens about alike half are 1,000, fewer than are looked at first; of all 4,000 it would be 2,000.
    assert len(kept(logits, top_k=2000, top_p=0.5)) == pytest.approx(1000, abs=2)
