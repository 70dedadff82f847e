"""What the loop knows of the model it trains."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor

from arm_models.loading.checkpoint import Checkpoint
from arm_models.losses import ScoredPairs
from arm_models.training.batches import MicroBatch
from arm_models.training.config import TrainConfig


class TrainedModel(ABC):
    """A model under training, its weights from ``start``, or from the checkpoint ``resume``.

    module: what is called and optimised. plain: the model of transformers in it.
    """

    module: Any
    plain: Any

    @abstractmethod
    def __init__(self, config: TrainConfig, start: Checkpoint, resume: Path | None) -> None: ...

    @abstractmethod
    def read(self, module: Any, batch: MicroBatch) -> ScoredPairs:
        """What ``module`` (this one, or what data parallel has made of it) says of ``batch``, without a reference."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what a run goes on from."""

    def publish(self, folder: Path, pad_id: int) -> None:  # noqa: ARG002  not every kind needs it
        """Write what is served. It may end the training: weights can be merged for it. pad_id: of the tokenizer."""
        self.save(folder)

    @property
    def trained(self) -> dict[str, Tensor]:
        """The weights that training changes, by name."""
        return {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}
