"""LoRA adapters on a shared backbone: put in place once, switched between forwards.

backbone ──┬── adapter "helpful"     one copy of the backbone's weights in memory,
           ├── adapter "harmless"    one adapter active at a time,
           └── none: the backbone itself (a base that its own rewards are adapters of)
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModelForCausalLM, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file

from arm_models.loading.checkpoint import Checkpoint, one_line

#: Ways to initialise LoRA that leave the backbone's own weights alone.
INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


class AdapterSwitch:
    """The adapters on one backbone and which of them is on. Owned by the thread that runs the forwards."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.backbone = backbone
        self.names: list[str] = []
        self.active: str | None = None
        self._peft: Any = None
        self._layers: list[Any] = []

    def add(self, name: str, checkpoint: Checkpoint) -> None:
        """Put the adapter of ``checkpoint`` on the backbone under ``name`` and switch it off.

        Raises CheckpointError where its tensors do not fit the backbone or are not all there.
        """
        config = lora_config(checkpoint)
        try:
            tensors = load_file(checkpoint.weights[0])
            with _quiet_peft():
                if self._peft is None:
                    self._peft = PeftModelForCausalLM(
                        self.backbone, config, adapter_name=name, autocast_adapter_dtype=False
                    )
                else:
                    self._peft.add_adapter(name, config)
                own = self._own_tensors(name, checkpoint, tensors)
                result = set_peft_model_state_dict(self._peft, own, adapter_name=name)
        except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            raise checkpoint.error(
                f"the adapter does not fit its backbone: {_fitting_line(error)}"
            ) from error
        if result.unexpected_keys:
            raise checkpoint.error(f"the backbone has no place for {result.unexpected_keys[0]}")
        self._peft.to(self.backbone.dtype).eval().requires_grad_(False)
        self._layers = [
            module
            for module in self.backbone.modules()
            if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        ]
        self._check_switching(name, checkpoint)
        self.names.append(name)

    def activate(self, name: str | None) -> None:
        """Switch to adapter ``name``, or to the bare backbone; nothing is touched when it is on already.

        peft's own switch also walks every module and parameter for the sake of training, which takes half as
        long as a small forward; this sets the two fields that its layers read.
        """
        if name == self.active:
            return
        fields: dict[str, Any] = {"_disable_adapters": name is None}
        if name is not None:
            fields["_active_adapter"] = [name]
        for layer in self._layers:
            layer.__dict__.update(fields)
        self.active = name

    def _check_switching(self, name: str, checkpoint: Checkpoint) -> None:
        """Holds the two fields to what peft's public properties say, so that no release of it passes unseen."""
        self.active = None
        self.activate(name)
        on = all(not layer.disable_adapters and layer.active_adapters == [name] for layer in self._layers)
        self.activate(None)
        if not on or not all(layer.disable_adapters for layer in self._layers):
            raise checkpoint.error("this release of peft switches adapters in another way")

    def _own_tensors(
        self, name: str, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The adapter's tensors, all there, without the copies of the backbone's that peft saves with some."""
        expected = get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        missing = sorted(set(expected) - set(tensors))
        if missing:
            raise checkpoint.error(f"the adapter lacks {len(missing)} tensors, the first {missing[0]}")
        shared = {_plain_name(key): tensor for key, tensor in self.backbone.state_dict().items()}
        for key in sorted(set(tensors) - set(expected)):
            kept = shared.get(_plain_name(key))
            if kept is None:
                raise checkpoint.error(f"the backbone has no place for the adapter's tensor {key}")
            copied = tensors[key].to(kept)
            if copied.shape != kept.shape or not torch.equal(copied, kept):
                raise checkpoint.error(f"it brings its own {key}, which would change the shared backbone")
        return {key: tensors[key] for key in expected}


def lora_config(checkpoint: Checkpoint) -> LoraConfig:
    """The adapter's settings; raises CheckpointError for kinds that cannot share a backbone."""
    raw = checkpoint.config
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise checkpoint.error(f"adapters of type {kind} are not supported, only LORA")
    if raw.get("task_type") not in (None, "CAUSAL_LM"):
        raise checkpoint.error(f"an adapter for {raw.get('task_type')}, not for a causal language model")
    for field_name in ("layer_replication", "alora_invocation_tokens", "megatron_config"):
        if raw.get(field_name):
            raise checkpoint.error(f"adapters with {field_name} are not supported")
    if raw.get("bias", "none") != "none":
        raise checkpoint.error(f"adapters with bias={raw['bias']!r} change the backbone, which is shared")
    if raw.get("init_lora_weights", True) not in INITIALISATIONS:
        raise checkpoint.error(
            f"adapters initialised by {raw['init_lora_weights']!r} change the backbone, which is shared; "
            "convert the adapter to plain LoRA"
        )
    try:
        with _quiet_peft():
            config = LoraConfig.from_pretrained(str(checkpoint.folder))
    except (TypeError, ValueError, KeyError) as error:
        raise checkpoint.error(f"adapter_config.json: {one_line(error)}") from error
    config.inference_mode = True
    config.task_type = "CAUSAL_LM"
    return config


def backbone_path(checkpoint: Checkpoint) -> str:
    """The folder or hub id that the adapter names as its backbone."""
    path = checkpoint.config.get("base_model_name_or_path")
    if not isinstance(path, str) or not path:
        raise checkpoint.error("adapter_config.json names no base_model_name_or_path")
    return path


def _plain_name(key: str) -> str:
    """A parameter's name as it is in the backbone without adapters."""
    return key.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _fitting_line(error: BaseException) -> str:
    """The line of a torch size-mismatch report that names a tensor, else the first line."""
    for line in str(error).splitlines():
        if "size mismatch" in line:
            return line.strip()
    return one_line(error)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """peft warns of what is checked here by hand, and asks transformers for a property by its old name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
