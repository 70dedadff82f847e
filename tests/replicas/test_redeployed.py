"""Behind kills and a redeploy, if these ran before: replicas have other names then, and what begins alike is together there."""

import pytest

from tests.replicas.cluster import Cluster
from tests.replicas.places import Places, stayed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_conversations_stay_with_replicas_that_came_later_too(cluster: Cluster) -> None:
    names = cluster.wait_for_replicas(2)
    with Places(cluster) as places:
        went = places.converse([f"later {number}" for number in range(12)], turns=3, at_once=4)
    assert stayed(went) >= 0.95
    assert {place for conversation in went for place in conversation} == names
