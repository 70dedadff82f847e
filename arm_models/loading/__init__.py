"""From ids and folders to a family of models that can be mixed: ``load_family`` is the one way in, ``load_more`` the way for
those who come later.

source.py         what a deployment names: a path, a device, a dtype, a template
checkpoint.py     a folder on disk whose files are all there and whole
architecture.py   is it a decoder whose attention the engine can stand in for?
adapter.py        LoRA adapters: many on one backbone, one switched on at a time (conditioned ones: ``arm_models.conditioned``)
scalar.py         reward models with a scalar head, called as language models are
split.py          models whose weights are split over processes
vocabulary.py     tokenizers, chat templates, and whether token ids mean the same everywhere
family.py         the base and its rewards, loaded and checked against each other
footprint.py      how much memory a model will take, and how much there is
"""

from arm_models.loading.family import (
    Family,
    LoadedModel,
    common_fingerprint,
    fingerprint,
    imprint,
    load_family,
    load_more,
)
from arm_models.loading.footprint import free_bytes, weight_bytes
from arm_models.loading.source import ModelSource

__all__ = [
    "Family",
    "LoadedModel",
    "ModelSource",
    "common_fingerprint",
    "fingerprint",
    "free_bytes",
    "imprint",
    "load_family",
    "load_more",
    "weight_bytes",
]
