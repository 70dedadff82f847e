"""A model whose weights are split over processes: transformers' tensor parallelism."""

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.distributed import DistributedConfig

from arm_models.errors import CheckpointError
from arm_models.loading.checkpoint import Checkpoint


def split_over(ranks: int, config: PretrainedConfig, checkpoint: Checkpoint) -> Any:
    """What ``from_pretrained`` takes as ``distributed_config`` to load this process's part of ``checkpoint``.

    Raises CheckpointError as :func:`check_split` does.
    """
    check_split(ranks, config, checkpoint)
    return DistributedConfig(tp_size=ranks)


def check_split(ranks: int, config: PretrainedConfig, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where a model of this config cannot be split over so many processes."""
    if not getattr(config, "base_model_tp_plan", None):
        raise checkpoint.error(
            f"{config.model_type} has no tensor-parallel plan in transformers: it cannot be split"
        )
    heads = config.num_attention_heads
    for what, count in (
        ("attention heads", heads),
        ("heads of keys and values", getattr(config, "num_key_value_heads", None) or heads),
    ):
        if count % ranks:
            raise checkpoint.error(f"its {count} {what} cannot be divided among {ranks} processes")


def check_whole(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where what is to be split is an adapter."""
    if checkpoint.is_adapter:
        raise checkpoint.error(
            "it is an adapter; only a whole model is split over processes: merge it into its backbone"
        )


def on_a_split(adapter: Checkpoint, backbone: Path) -> CheckpointError:
    """What is wrong with an adapter whose backbone is split: its layers go beside whole ones."""
    return adapter.error(
        f"an adapter on {backbone}, which is split over processes; adapters go on whole models: merge it"
    )
