"""Memory as a process may have it: the machine's, or its container's."""

from pathlib import Path

import pytest
import torch

from server.doctor.machine import host_memory, this_machine

KIB = 1024


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   600 kB\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    return tmp_path


def limit(root: Path, most: str, used: int, droppable: int) -> None:
    group = root / "sys/fs/cgroup"
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {droppable}\n")


def test_without_a_container_it_is_the_machine_s(root: Path) -> None:
    assert host_memory(root) == (1000 * KIB, 600 * KIB)
    limit(root, "max", 5, 0)
    assert host_memory(root) == (1000 * KIB, 600 * KIB)


def test_a_container_s_limit_counts_where_it_is_less(root: Path) -> None:
    limit(root, str(500 * KIB), 300 * KIB, 200 * KIB)
    assert host_memory(root) == (500 * KIB, 400 * KIB)
    limit(root, str(900 * KIB), 200 * KIB, 0)
    assert host_memory(root) == (900 * KIB, 600 * KIB)


def test_this_machine_has_a_cpu_with_memory() -> None:
    machine = this_machine()
    cpu = machine.devices[0]
    assert cpu.name == "cpu"
    assert 0 < cpu.free <= cpu.total
    assert machine.cores >= 1
    assert machine.threads == torch.get_num_threads()
    assert len(machine.devices) == 1 + torch.cuda.device_count()
    assert machine.device("cuda:99") is None
