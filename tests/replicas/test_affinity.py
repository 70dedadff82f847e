"""What begins alike goes to one replica, and all of them get some."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.replicas.cluster import Cluster
from tests.replicas.places import Places, stayed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ALIKE = 0.95
"""At least so many of all requests are where what they begin with was read."""

BATCH = 16
"""``engine.max_sequences`` of the deployment."""


@pytest.fixture(scope="module")
def places(cluster: Cluster) -> Iterator[Places]:
    with Places(cluster) as found:
        yield found


def test_conversations_stay_where_they_began_and_what_was_said_is_not_read_again(
    cluster: Cluster, places: Places
) -> None:
    """One turn after the other; counted by the ids, and again by the replicas' own counts."""
    before = cluster.samples("genarm_request_success_total")
    hits = cluster.samples("genarm_prefix_cache_hits_total")
    went = places.converse([f"talk {number}" for number in range(12)], turns=4)
    assert stayed(went) >= ALIKE
    count = Counter(place for conversation in went for place in conversation)
    assert len(count) == 2, "one replica has all of it"
    after = cluster.samples("genarm_request_success_total")
    assert {name: after[name] - before.get(name, 0) for name in after} == count
    found = cluster.samples("genarm_prefix_cache_hits_total")
    assert all(found[name] > hits[name] for name in count)


def test_conversations_at_once_stay_too(places: Places) -> None:
    went = places.converse([f"at once {number}" for number in range(12)], turns=4, at_once=12)
    assert stayed(went) >= ALIKE
    assert len({conversation[0] for conversation in went}) == 2


@pytest.mark.parametrize("role", ["system", "user"])
def test_questions_to_one_document_go_where_it_was_read(places: Places, role: str) -> None:
    """In the system's prompt, or before the question."""
    went = []
    for document in range(6):
        text = f"document {document}, {role}: " + "the kettle is hot and the garden is green " * 15
        asked = []
        for number in range(5):
            question = {"role": "user", "content": f"question {number}"}
            messages = [{"role": "system", "content": text}, question]
            if role == "user":
                messages = [{"role": "user", "content": text + question["content"]}]
            place, answer = places.ask(messages=messages, max_tokens=1)
            asked.append(place)
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert (cached > 0) == (number > 0), "it was read once"
        went.append(asked)
    assert stayed(went) >= ALIKE
    assert len({asked[0] for asked in went}) == 2


def test_a_session_stays_together_whatever_it_says(places: Places) -> None:
    went = [places.ask({"x-session-id": "s"}, text=f"other {number}", max_tokens=1)[0] for number in range(6)]
    assert len(set(went)) == 1


def test_what_one_replica_has_no_room_for_goes_to_the_other_and_comes_back(places: Places) -> None:
    session = {"x-session-id": "crowded"}

    def ask(number: int) -> str:
        return places.ask(session, text=f"crowd {number}", max_tokens=200)[0]

    home = ask(0)
    # Each of two gateways has more than a batch of them, whatever it knows of the other's.
    with ThreadPoolExecutor(4 * BATCH) as pool:
        went = Counter(pool.map(ask, range(1, 4 * BATCH + 1)))
    assert len(went) == 2
    assert went[home] >= BATCH, "as long as there is a place it stays"
    places.cluster.idle()
    assert {places.ask(session, text=f"after {number}", max_tokens=1)[0] for number in range(6)} == {home}
