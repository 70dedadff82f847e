"""The forward of Llama-like decoders over packed tokens."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from server.engine.attention.attention_layout import AttentionLayout
from server.engine.decoder.adapters import AdapterGroup, Adapters
from server.engine.decoder.lanes import Lanes
from server.engine.decoder.projection import Projection
from server.engine.decoder.weights import ModelWeights


@dataclass(frozen=True, slots=True)
class Lane:
    """One member of the forward: the index of its weights, and that of its adapter where it has one."""

    model: int
    adapter: int | None = None


class Decoder:
    """Models of one shape in one forward, each lane with its own weights, or with its own adapter on shared ones.

    Everything but the projections is computed for all rows together. On the CPU activations are float32 whatever the weights
    are; elsewhere they have the weights' dtype.
    """

    def __init__(
        self, models: Sequence[ModelWeights], lanes: Sequence[Lane], adapters: Adapters | None = None
    ) -> None:
        """``lanes`` must be in the order of their models.

        Raises:
            ValueError: the models have different shapes, or the lanes are out of order.
        """
        if any(model.shape != models[0].shape for model in models):
            raise ValueError("models of one forward have one shape")
        if [lane.model for lane in lanes] != sorted(lane.model for lane in lanes):
            raise ValueError("lanes of one model lie side by side")
        self.models = tuple(models)
        self.shape = models[0].shape
        self._adapters = adapters
        self._model_of = [lane.model for lane in lanes]
        self._adapter_of = [lane.adapter for lane in lanes]
        self._norms = [_layer_norms(self.models, layer) for layer in range(self.shape.layers)]
        self._last_norm = torch.stack([model.norm for model in self.models])
        self._dtype = torch.float32 if self.shape.device.type == "cpu" else self.shape.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that a forward of all lanes reads of weights: those of every model once, and every adapter."""
        held = {id(model): model for model in self.models}
        return sum(model.nbytes for model in held.values()) + (self._adapters.nbytes if self._adapters else 0)

    def vacate(self, lanes: Collection[int]) -> None:
        """No row will be of ``lanes`` any more: weights that no other lane goes through are given back. Some lane must be left;
        adapters stay with the forward."""
        used = {model for lane, model in enumerate(self._model_of) if lane not in lanes}
        in_place = self.models[min(used)]  # nothing goes through it under the other's index
        self.models = tuple(model if index in used else in_place for index, model in enumerate(self.models))

    def lanes(self, counts: Sequence[int], factors: torch.Tensor | None = None) -> Lanes:
        """The lanes of packed rows of which the n-th lane has ``counts[n]``; ``factors``: see :class:`Lanes`."""
        return Lanes.of(counts, self._model_of, self._adapter_of, factors)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        counts: Sequence[int],
        keep: torch.Tensor,
        kept: Sequence[int],
        layout: AttentionLayout,
        conditions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run all lanes.

        Args:
            tokens, positions: [rows] int64, lane after lane; ``counts`` rows of each.
            keep: [n] int64, the rows whose logits are wanted, lane after lane; ``kept`` of each.
            layout: where keys and values go and what each row attends to.
            conditions: [rows, objectives] float32, the preference vector of each row of a conditioned lane; of no account in
                other rows, None where no lane is conditioned.

        Returns:
            [n, vocab] logits.
        """
        factors = None if conditions is None else F.pad(conditions, (1, 0), value=1.0)
        lanes = self.lanes(counts, factors)
        hidden = self._embed(tokens, lanes)
        turn = self._rotation(positions)
        of_row = self._model_of_row(lanes, len(tokens))
        for layer in range(self.shape.layers):
            heads = self._attend(layer, hidden, turn, lanes, of_row, layout)
            if layer == self.shape.layers - 1:
                # Keys and values are written: of what is left, only the rows whose logits are wanted.
                if not len(keep):
                    return hidden.new_zeros(0, self.models[0].head.out_features)
                heads, hidden, lanes = (
                    heads.index_select(0, keep),
                    hidden.index_select(0, keep),
                    self.lanes(kept, None if factors is None else factors.index_select(0, keep)),
                )
                of_row = None if of_row is None else of_row.index_select(0, keep)
            hidden = hidden + self._layer(layer, "out", heads, lanes)
            hidden = hidden + self._mlp(layer, hidden, lanes, of_row)
        hidden = self._norm(hidden, self._last_norm, of_row)
        adapters = self._adapters.head if self._adapters else None
        return self._project(hidden, [model.head for model in self.models], adapters, lanes)

    def _embed(self, tokens: torch.Tensor, lanes: Lanes) -> torch.Tensor:
        parts = [
            F.embedding(tokens[start:stop], self.models[index].embedding)
            for index, start, stop in lanes.models
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self._dtype)

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines [rows, 1, head_dim]: ``x·cos + swap(x)·sin`` turns a head whose halves ``swap`` exchanges."""
        like = torch.empty((), dtype=self._dtype, device=positions.device)
        cos, sin = self.models[0].rotary(like, positions[None])
        half = sin.shape[-1] // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        return cos[0, :, None], signed[0, :, None]

    def _model_of_row(self, lanes: Lanes, rows: int) -> torch.Tensor | None:
        """[rows] which model each row goes through; None where there is one only."""
        if len(self.models) == 1:
            return None
        # Filled on the device: a copy from the host could not be part of a CUDA graph.
        index = torch.empty(rows, dtype=torch.long, device=self.shape.device)
        for model, start, stop in lanes.models:
            index[start:stop] = model
        return index

    def _attend(
        self,
        layer: int,
        hidden: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        lanes: Lanes,
        of_row: torch.Tensor | None,
        layout: AttentionLayout,
    ) -> torch.Tensor:
        """What the heads have attended to, [rows, heads * head_dim]; keys and values of the rows are in the cache then."""
        shape = self.shape
        normed = self._norm(hidden, self._norms[layer]["attention"], of_row)
        heads = self._layer(layer, "qkv", normed, lanes).view(len(hidden), -1, shape.head_dim)
        turned = heads[:, : shape.heads + shape.kv_heads]
        if shape.head_norms:
            turned = self._head_norms(layer, turned, of_row)
        cos, sin = turn
        # Not addcmul: whether it rounds once or twice depends on where in the batch a row lies.
        turned = turned * cos + turned.roll(shape.head_dim // 2, -1) * sin
        layout.write(layer, turned[:, shape.heads :], heads[:, shape.heads + shape.kv_heads :])
        return layout.attend(layer, turned[:, : shape.heads], shape.scale).flatten(1)

    def _head_norms(self, layer: int, heads: torch.Tensor, of_row: torch.Tensor | None) -> torch.Tensor:
        """Query and key heads, normalised each by its own norm."""
        count, norms = self.shape.heads, self._norms[layer]
        queries = self._norm(heads[:, :count], norms["query"], of_row)
        return torch.cat((queries, self._norm(heads[:, count:], norms["key"], of_row)), dim=1)

    def _mlp(
        self, layer: int, hidden: torch.Tensor, lanes: Lanes, of_row: torch.Tensor | None
    ) -> torch.Tensor:
        normed = self._norm(hidden, self._norms[layer]["mlp"], of_row)
        both = self._layer(layer, "gate_up", normed, lanes)
        gate, up = both[:, : self.shape.intermediate], both[:, self.shape.intermediate :]
        return self._layer(layer, "down", self.models[0].activation(gate) * up, lanes)

    def _norm(self, x: torch.Tensor, weights: torch.Tensor, of_row: torch.Tensor | None) -> torch.Tensor:
        """RMS norm over the last dimension, each row with the weight of its model: ``weights`` [models, size]."""
        normed = F.rms_norm(x, x.shape[-1:], None, self.shape.norm_eps)
        if of_row is None:
            return normed * weights[0]
        chosen = weights.index_select(0, of_row)
        return normed * (chosen if x.dim() == 2 else chosen[:, None])

    def _layer(self, layer: int, group: str, x: torch.Tensor, lanes: Lanes) -> torch.Tensor:
        projections = [model.layers[layer].projections[group] for model in self.models]
        adapters = self._adapters.layers[layer][group] if self._adapters else None
        return self._project(x, projections, adapters, lanes)

    def _project(
        self, x: torch.Tensor, projections: Sequence[Projection], adapters: AdapterGroup | None, lanes: Lanes
    ) -> torch.Tensor:
        """Every row through the projection of its model, with its adapter's addition, in the activations' dtype."""
        own = x.to(self.shape.dtype)
        parts = [projections[index](own[start:stop]) for index, start, stop in lanes.models]
        out = (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self._dtype)
        if adapters is not None and lanes.adapters:
            adapters.add(out, x, lanes)
        return out


def _layer_norms(models: Sequence[ModelWeights], layer: int) -> dict[str, torch.Tensor]:
    """The norms of one layer by what they are for, [models, size]."""
    layers = [model.layers[layer] for model in models]
    norms = {
        "attention": [one.attention_norm for one in layers],
        "mlp": [one.mlp_norm for one in layers],
        "query": [one.query_norm for one in layers if one.query_norm is not None],
        "key": [one.key_norm for one in layers if one.key_norm is not None],
    }
    return {name: torch.stack(tensors) for name, tensors in norms.items() if tensors}
