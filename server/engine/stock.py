"""The forward of transformers itself, for models whose own one is not known here."""

from collections.abc import Collection, Sequence

import torch

from arm_models.errors import CheckpointError
from arm_models.loading import LoadedModel
from server.engine.attention.attention_layout import AttentionLayout


class StockModel:
    """One member run by transformers, with the engine's attention hooked in.

    Raises:
        CheckpointError: the member is to be run in 8 bits, which transformers' own layers are not.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        if loaded.quantize:
            raise CheckpointError(
                f"{loaded.name}: dtype int8 is for Llama, Mistral, Qwen2 and Qwen3 and, without deterministic, plain "
                f"LoRA adapters on them, not for this {type(loaded.model).__name__}; use float32 or bfloat16"
            )
        self._loaded = loaded

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        counts: Sequence[int],  # noqa: ARG002  (one lane has all rows)
        keep: torch.Tensor,
        kept: Sequence[int],  # noqa: ARG002
        layout: AttentionLayout,
        conditions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As :meth:`server.engine.decoder.Decoder.forward`, with one lane."""
        self._loaded.activate(None if conditions is None else conditions[None])
        output = self._loaded.model(
            input_ids=tokens[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=keep,
            cache_layout=layout,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def vacate(self, lanes: Collection[int]) -> None:
        """Nothing: its one lane leaves with the whole forward."""
