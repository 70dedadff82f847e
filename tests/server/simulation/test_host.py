"""What a step takes beside others: neighbours slow it, cores are shared."""

from typing import Any

import pytest

from server.simulation.host import Host


def test_alone_with_cores_to_spare_a_step_takes_what_it_takes() -> None:
    assert Host().duration(0.1, 32, 1, 1) == 0.1
    assert Host(1, 2.0, (1.0,), token_seconds=0.001).duration(0.1, 32, 0, 1) == 0.1


def test_work_beside_a_step_takes_a_core_until_there_is_none() -> None:
    host = Host(2, 2.0, (1.0, 1.2), token_seconds=0.001, request_seconds=0.01)
    # Two engines on two cores: what their tokens ask for is added.
    assert host.duration(0.1, 30, 1, 2) == pytest.approx(0.1 * 1.2 + 0.04)
    # One engine: it would have to be more than a second core can do.
    assert host.duration(0.1, 30, 1, 1) == pytest.approx(0.1)
    assert host.duration(0.1, 300, 0, 1) == pytest.approx((0.1 + 0.3) / 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 0},
        {"replicas": 3, "beside": (1.0, 1.1)},
        {"beside": (0.9,)},
        {"cores": 0.0},
        {"token_seconds": -1.0},
    ],
)
def test_what_no_machine_is_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Host(**changes)


def test_it_goes_to_a_file_and_back() -> None:
    host = Host(2, 2.0, (1.0, 1.25), 1e-4, 2e-3, 5e-3)
    assert Host.from_json(host.as_json()) == host
