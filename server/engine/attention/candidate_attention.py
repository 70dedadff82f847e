"""Attention of candidates for one and the same place: each sees the context before it and itself, not the others."""

import torch


def attend_candidates(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    own: tuple[torch.Tensor, torch.Tensor],
    scale: float,
) -> torch.Tensor:
    """``count`` candidates behind each of several contexts.

    Args:
        query: [rows, count, heads, head_dim].
        keys, values: [rows, kv_heads, length, head_dim] of the contexts; heads is a multiple of kv_heads.
        mask: [rows, 1, 1, length] additive; the values of what it hides must be finite.
        own: the candidates' own keys and values, each [rows, count, kv_heads, head_dim].
        scale: of the scores.

    Returns:
        [rows, count, heads, head_dim].
    """
    rows, count, heads, width = query.shape
    kv_heads = keys.shape[1]
    # Query heads that share a key head are queries of that head: [rows, kv_heads, groups, count, head_dim].
    grouped = query.view(rows, count, kv_heads, heads // kv_heads, width).permute(0, 2, 3, 1, 4)
    own_key, own_value = (side.transpose(1, 2)[:, :, None] for side in own)
    flat = grouped.reshape(rows, kv_heads, -1, width)
    before = torch.add(mask, flat @ keys.transpose(2, 3), alpha=scale)
    itself = (grouped * own_key).sum(-1).flatten(2)[..., None] * scale
    weights = torch.cat((before, itself), dim=-1).softmax(-1)
    out = (weights[..., :-1] @ values).view(grouped.shape)
    out = out + weights[..., -1].view(*grouped.shape[:4], 1) * own_value
    return out.permute(0, 3, 1, 2, 4).reshape(query.shape)
