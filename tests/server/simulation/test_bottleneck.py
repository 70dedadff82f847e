"""What is full first, worked out by hand."""

import math
from collections.abc import Callable

import pytest

from server.simulation.bottleneck import Central, Resource, Share, first, resources
from server.simulation.measured import Measured

SHARE = Share(tokens=200.0, requests=2.0, engine=0.8, cache=0.3)


def by_name(
    measured: Measured, central: Central | None = None, policy: str = "session"
) -> dict[str, Resource]:
    found = resources(measured, SHARE, policy, central or Central())
    return {resource.name: resource for resource in found}


def test_what_a_replica_has_of_its_own_is_as_full_with_a_thousand(
    make_measured: Callable[..., Measured],
) -> None:
    found = by_name(make_measured())
    for name, use in (("engine steps", 0.8), ("HTTP thread", 200 * 1e-4 + 2 * 2e-3), ("cache", 0.3)):
        assert found[name].at(1) == found[name].at(1000) == pytest.approx(use)
        assert found[name].most() == math.inf


def test_what_is_there_once_is_full_at_a_number(make_measured: Callable[..., Measured]) -> None:
    found = by_name(make_measured(), Central(scrape_interval=3.0))
    assert found["metrics scrape"].at(100) == pytest.approx(100 * 0.006 / 3)
    assert found["metrics scrape"].most() == 500
    router = found["choice of a replica"]
    assert router.at(10) == pytest.approx(10 * 2 * 1.1e-6)
    # A choice takes longer among more: 2 N (1e-8 N + 1e-6) = 1.
    assert router.most() == pytest.approx((-1e-6 + math.sqrt(1e-12 + 2e-8)) / 2e-8, rel=0.01)


def test_what_nobody_has_measured_is_not_compared(make_measured: Callable[..., Measured]) -> None:
    found = by_name(make_measured())
    for name in ("proxy", "gateways", "registry"):
        assert found[name].at(10) is None
        assert found[name].most() is None
    assert first(list(found.values()), 10).name == "engine steps"


def test_gateways_choose_too_and_are_as_many_as_one_likes(make_measured: Callable[..., Measured]) -> None:
    costs = {"gateway_token_seconds": 1e-4, "gateway_request_seconds": 1e-3}
    measured = make_measured()
    found = by_name(make_measured(central={**measured.central, **costs}), Central(gateways=4))
    choice = found["choice of a replica"].at(100)
    assert choice == pytest.approx(100 * 2 * 2e-6 / 4)
    assert found["gateways"].at(100) == pytest.approx(100 * (200 * 1e-4 + 2 * 1e-3) / 4 + choice)
    assert found["gateways"].most() == 181
    assert first(list(found.values()), 100).name == "engine steps"
    assert first(list(found.values()), 1000).name == "gateways"


def test_the_registry_hears_of_replicas_and_of_requests(make_measured: Callable[..., Measured]) -> None:
    measured = make_measured()
    central = {**measured.central, "registry_call_seconds": 1e-3}
    found = by_name(make_measured(central=central), Central(report_interval=0.5))
    assert found["registry"].at(10) == pytest.approx(10 * (2 + 2 * 2) * 1e-3)
    assert found["registry"].most() == 166


def test_a_proxy_is_on_each_node(make_measured: Callable[..., Measured]) -> None:
    costs = {"proxy_token_seconds": 5e-4, "proxy_request_seconds": 2e-3}
    found = by_name(make_measured(central={**make_measured().central, **costs}))
    assert found["proxy"].at(1) == found["proxy"].at(1000) == pytest.approx(200 * 5e-4 + 2 * 2e-3)


def test_a_replica_that_is_overfull_itself_is_no_use() -> None:
    assert Resource("x", True, lambda _: 1.5, "").most() == 0.0
    assert Resource("x", False, lambda n: n * 1e-12, "").most() == math.inf
