"""Freed memory is kept, in this process and in one that is started."""

import os
import subprocess
import sys

import pytest

from server.bench.malloc import malloc_environment

FAULTS = """
import resource, sys, threading
import torch
if sys.argv[1] == "here":
    from server.bench.malloc import tune_malloc
    assert tune_malloc()
def work():
    for _ in range(12):  # until it has settled
        torch.ones(64 << 20, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(64 << 20, dtype=torch.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[1] == "here":
    work()
else:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc only")
def test_freed_memory_is_asked_for_again_without_page_faults() -> None:
    assert faults("thread") > 10_000
    assert faults("here") < 1_000
    assert faults("thread", **malloc_environment()) < 1_000


def faults(where: str, **variables: str) -> int:
    """Page faults of the main thread, or of another, that takes and frees the same memory."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, where],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)
