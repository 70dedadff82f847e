"""What can be trained: how it is loaded, how it reads a batch of pairs, and what it leaves on disk.

model.py        what every kind has in common
language.py     a causal language model, read by the log-probs it gives the answers
scalar.py       the same with a scalar head, read by its values behind the answers' tokens
conditioned.py  a language model under an adapter that depends on a preference vector
lora.py         which layers get an adapter
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from arm_models.loading.checkpoint import Checkpoint
from arm_models.training.config import TrainConfig
from arm_models.training.models.conditioned import ConditionedModel
from arm_models.training.models.language import LanguageModel
from arm_models.training.models.model import TrainedModel
from arm_models.training.models.scalar import ScalarModel

__all__ = ["ConditionedModel", "TrainedModel", "load_model"]

KINDS: Mapping[str, type[TrainedModel]] = MappingProxyType(
    {"language": LanguageModel, "scalar": ScalarModel, "conditioned": ConditionedModel}
)


def load_model(config: TrainConfig, start: Checkpoint, resume: Path | None) -> TrainedModel:
    """The model that ``config.loss`` trains, on the CPU, with the weights of ``resume`` where given; raises UserError."""
    return KINDS[config.objective.model](config, start, resume)
