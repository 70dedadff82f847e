"""Which errors say that there was no memory: what raised them can be done again with less in hand."""

import torch

_WORDS = (
    "DefaultCPUAllocator: ",  # torch's allocator on a CPU: "can't allocate memory", "not enough memory"
    "std::bad_alloc",
    "CUDA error: out of memory",  # the driver's own, for what does not go through torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is an allocation that failed, on whichever device, and nothing else is wrong."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
