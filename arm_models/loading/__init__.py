"""From ids and folders to a family of models that can be mixed: ``load_family`` is the one way in.

source.py         what a deployment names: a path, a device, a dtype, a template
checkpoint.py     a folder on disk whose files are all there and whole
architecture.py   is it a decoder whose attention the engine can stand in for?
adapter.py        LoRA adapters: many on one backbone, one switched on at a time (conditioned ones: ``arm_models.conditioned``)
scalar.py         reward models with a scalar head, called as language models are
vocabulary.py     tokenizers, chat templates, and whether token ids mean the same everywhere
family.py         the base and its rewards, loaded and checked against each other
"""

from arm_models.loading.family import Family, LoadedModel, fingerprint, load_family
from arm_models.loading.source import ModelSource

__all__ = ["Family", "LoadedModel", "ModelSource", "fingerprint", "load_family"]
