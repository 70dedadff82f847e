"""One draw per row from the mixed distribution.

Order, as OpenAI's: temperature → min_p → top_k → top_p → draw. The draw is an exponential race (Gumbel-max): token v wins iff
``E_v / p_v`` is the smallest, where the noise ``E_v`` is a hash of (seed, position, token). A draw therefore never depends on
the batch, and two distributions drawn with the same noise give the same token as often as they can.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from server.engine.transfer import upload

NOISE_RANGE = 26.0
"""More than the largest difference of two noises (−log E spans 25.7): a token whose scaled logit lies further below the
row's best can never win, so it needs no noise."""

TOP_WIDTH = 1024
"""Candidates looked at before a row falls back to sorting its whole vocabulary."""

CACHED_VALUES = 1 << 16
"""Values of 4 bytes of which a handful of tensors fit into a core's cache."""

_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is drawn. ``position``: where the token will stand in its context."""

    seed: int
    position: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    @property
    def truncates(self) -> bool:
        """Whether any of top_p, top_k, min_p removes tokens."""
        return self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0


def sample(logits: torch.Tensor, draws: Sequence[Draw], *, sync: bool | None = None) -> torch.Tensor:
    """Draw one token per row.

    Args:
        logits: [rows, vocab] float32, finite maximum in every row; -inf forbids a token.
        draws: one per row; temperature 0 takes the arg max.
        sync: whether Python may look at numbers on the device to save it work; unless told, where the device is the CPU.
            The tokens are the same.

    Returns:
        [rows] int64 tokens.
    """
    sync = logits.device.type == "cpu" if sync is None else sync
    drawn = [row for row, draw in enumerate(draws) if draw.temperature > 0]
    if not drawn:
        return logits.argmax(-1)
    index = upload(drawn, logits.device, torch.long)
    chosen = [draws[row] for row in drawn]
    picked = logits if len(drawn) == len(draws) else logits.index_select(0, index)
    scaled = scale(picked, [draw.temperature for draw in chosen])
    cut = [row for row, draw in enumerate(chosen) if draw.truncates]
    if cut:
        places = upload(cut, logits.device, torch.long)
        shortened = truncate(scaled.index_select(0, places), [chosen[row] for row in cut], sync=sync)
        scaled.index_copy_(0, places, shortened)
    winners = race(scaled, chosen, sync=sync)
    return winners if len(drawn) == len(draws) else logits.argmax(-1).index_copy(0, index, winners)


def scale(logits: torch.Tensor, temperatures: Sequence[float]) -> torch.Tensor:
    """``(z − max z) / T`` per row [rows, vocab]: at most 0, and 0 for the best token, however small T is."""
    column = upload(temperatures, logits.device, torch.float64)[:, None]
    shifted = logits - logits.amax(-1, keepdim=True)
    if min(temperatures) >= 1e-3:
        return shifted / column.float()
    return (shifted.double() / column).float()


def truncate(scaled: torch.Tensor, draws: Sequence[Draw], *, sync: bool = True) -> torch.Tensor:
    """Forbid (-inf) what min_p, top_k and top_p remove from ``scaled`` [rows, vocab], row by row.

    top_k keeps the k best of what min_p left; top_p keeps the smallest set of the best whose share of what top_k left
    reaches p. The best token always stays. ``sync``: as for :func:`sample`.
    """
    vocab = scaled.shape[1]
    width = min(vocab, TOP_WIDTH)
    if not sync:
        return _truncate_sorted(scaled, draws, width)
    values, tokens = scaled.topk(width, dim=-1)
    keep, complete = _keep(scaled, values, draws)
    kept = _only(scaled, values, tokens, keep)
    missing = [row for row, done in enumerate(complete.tolist()) if not done]
    if missing:
        places = upload(missing, scaled.device, torch.long)
        kept[places] = _truncate_sorted(scaled[places], [draws[row] for row in missing], vocab)
    return kept


def _truncate_sorted(scaled: torch.Tensor, draws: Sequence[Draw], width: int) -> torch.Tensor:
    """Truncation by the order of the whole vocabulary; from the best ``width`` tokens alone where those are enough, so that
    sums are rounded alike whoever asks."""
    values, tokens = scaled.sort(dim=-1, descending=True, stable=True)
    keep, _ = _keep(scaled, values, draws)
    if width < scaled.shape[1]:
        among_best, complete = _keep(scaled, values[:, :width], draws)
        padded = pad(among_best, (0, scaled.shape[1] - width))
        keep = torch.where(complete[:, None], padded, keep)
    return _only(scaled, values, tokens, keep)


def _keep(
    scaled: torch.Tensor, values: torch.Tensor, draws: Sequence[Draw]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the best ``values`` [rows, width] of ``scaled`` stay, and for which rows there were enough of them."""
    device, vocab, width = scaled.device, scaled.shape[1], values.shape[1]
    most = [draw.top_k if 0 < draw.top_k < vocab else vocab for draw in draws]
    top_k = upload(most, device, torch.long)
    top_p = upload([draw.top_p for draw in draws], device, torch.float32)
    # The best token's scaled logit is 0, so p ≥ min_p · p_max reads z ≥ log(min_p).
    floor = upload([draw.min_p for draw in draws], device, torch.float32).log()[:, None]
    allowed = values >= floor
    allowed[:, 0] = True
    allowed &= torch.arange(width, device=device) < top_k[:, None]
    everything = torch.where(scaled >= floor, scaled, -torch.inf).logsumexp(-1, keepdim=True)
    among_top = torch.where(allowed, values, -torch.inf)
    total = torch.where((top_k == vocab)[:, None], everything, among_top.logsumexp(-1, keepdim=True))
    share = (among_top - total).exp()
    before = share.cumsum(-1) - share
    nucleus = (before < top_p[:, None]) | (top_p >= 1.0)[:, None]
    nucleus[:, 0] = True
    keep = allowed & nucleus
    if width == vocab:
        return keep, torch.ones_like(keep[:, 0])
    # The last one kept means there may be more behind it; so does a k that goes beyond it, which shares are of.
    return keep, ~keep[:, -1] & ((top_k <= width) | (top_k == vocab))


def _only(
    scaled: torch.Tensor, values: torch.Tensor, tokens: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """``scaled`` with -inf for all but those of the best ``tokens``, and their ``values``, that stay."""
    return torch.full_like(scaled, -torch.inf).scatter_(1, tokens, torch.where(keep, values, -torch.inf))


def race(scaled: torch.Tensor, draws: Sequence[Draw], *, sync: bool = True) -> torch.Tensor:
    """The winner of each row's exponential race [rows] int64; ``scaled`` [rows, vocab] has its maximum at 0. ``sync``: as for
    :func:`sample`; then there is noise only where probability is."""
    keys = upload([_keys(draw.seed, draw.position) for draw in draws], scaled.device, torch.long)
    running = scaled > -NOISE_RANGE
    if not sync or int(running.sum()) * 8 > scaled.numel():
        return _race_of_all(scaled, keys)
    rows, tokens = running.nonzero(as_tuple=True)
    scores = scaled[rows, tokens] + noise(keys[rows, 0], keys[rows, 1], tokens)
    best = scores.new_full((len(draws),), -torch.inf).scatter_reduce_(0, rows, scores, "amax")
    winners = torch.where(scores == best[rows], tokens, scaled.shape[1])
    lowest = torch.full_like(tokens[:1], scaled.shape[1]).repeat(len(draws))
    return lowest.scatter_reduce_(0, rows, winners, "amin")


def _race_of_all(scaled: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """:func:`race` with noise for every token, a few rows at a time: what is computed in between then stays in a CPU's cache."""
    tokens = torch.arange(scaled.shape[1], device=scaled.device)[None]
    rows = max(1, CACHED_VALUES // scaled.shape[1]) if scaled.device.type == "cpu" else scaled.shape[0]
    winners = [
        (
            scaled[start : start + rows]
            + noise(keys[start : start + rows, :1], keys[start : start + rows, 1:], tokens)
        ).argmax(-1)
        for start in range(0, len(scaled), rows)
    ]
    return torch.cat(winners)


def noise(first: torch.Tensor, second: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Gumbel noise ``−log E`` float32 for each token, E exponential, from two 32-bit keys; shapes broadcast.

    Small E decide races, so the uniform behind E is fine-grained near 0: E = −log(1 − u).
    """
    bits = _scramble(tokens.to(torch.int32) * -1640531527 + first.to(torch.int32))
    bits = _scramble(bits.bitwise_xor_(second.to(torch.int32)))
    low = (bits & 0xFF).to(torch.float32).add_(0.5).mul_(2.0**-32)
    high = bits.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).to(torch.float32)
    uniform = high.mul_(2.0**-24).add_(low).clamp_max_(1.0 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _scramble(bits: torch.Tensor) -> torch.Tensor:
    """The finaliser of MurmurHash3 on int32, in place; shifts made logical by masks; products wrap."""
    bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF)).mul_(-2048144789)
    bits.bitwise_xor_((bits >> 13).bitwise_and_(0x7FFFF)).mul_(-1028477387)
    return bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF))


def _keys(seed: int, position: int) -> tuple[int, int]:
    """Two signed 32-bit keys of (seed, position), by SplitMix64."""
    mixed = _split_mix(_split_mix(seed & _MASK64) ^ position)
    return _signed(mixed >> 32), _signed(mixed & 0xFFFFFFFF)


def _split_mix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
    return state ^ (state >> 31)


def _signed(bits: int) -> int:
    return bits - (1 << 32) if bits >= 1 << 31 else bits
