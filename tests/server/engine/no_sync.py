"""Fails where Python would wait for a device, on a machine that has none."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {
    "tolist",
    "item",
    "cpu",
    "numpy",
    "nonzero",
    "unique",
    "masked_select",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
}
_WAITING_ATEN = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
}


class NoSync:
    """While it is entered, ``AssertionError`` for every operation on tensors that has a GPU's result read by Python, for lists as
    indices and for tensors made of lists anywhere but in ``server.engine.transfer``."""

    def __enter__(self) -> None:
        self._modes = _Calls(), _Operations()
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Calls(TorchFunctionMode):
    """What never reaches an operation on a CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in _WAITING, f"{name} waits for the device"
        if name in ("__getitem__", "__setitem__"):
            for index in args[1] if isinstance(args[1], tuple) else (args[1],):
                assert not isinstance(index, list), "a list as an index is copied to the device"
        if func in (torch.tensor, torch.as_tensor):
            caller = sys._getframe(1).f_code.co_filename
            assert caller.endswith("transfer.py"), f"a tensor made of a list in {caller}"
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """What is asked of a device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        assert name not in _WAITING_ATEN, f"{name} waits for the device"
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, f"{name} by a mask waits for the device"
        return func(*args, **(kwargs or {}))
