"""The router as Serve calls it: alike requests are offered to their replica first, a named one is found or gone."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")

from ray.serve._private.common import DeploymentID, ReplicaID

from server.replicas.affinity import ANYWHERE
from server.replicas.errand import Errand, Gone
from server.replicas.rendezvous import ranked
from server.replicas.router import SILENT_SECONDS, AffinityRouter

pytestmark = pytest.mark.ray

DEPLOYMENT = DeploymentID(name="replica", app_name="genarm")
NAMES = ["aaaaaaaa", "bbbbbbbb", "cccccccc"]


def router(loads: dict[str, int], **options: int) -> Any:
    """A router that knows these replicas and has sent them so much."""
    made: Any = AffinityRouter.__new__(AffinityRouter)
    made.initialize_state(full=4, **options)
    made._deployment_id = DEPLOYMENT
    ids = {name: ReplicaID(name, DEPLOYMENT) for name in loads}
    made._replicas = {ids[name]: SimpleNamespace(replica_id=ids[name]) for name in loads}
    made._use_replica_queue_len_cache = False
    for name, load in loads.items():
        for _ in range(load):
            made.on_send_request(ids[name])
            made.on_new_queue_len_info(ids[name], 100)
    return made


def end_all(made: Any) -> None:
    """Nothing is under way any more."""
    for id in made.curr_replicas:
        for number in range(10):
            made.on_request_completed(id, str(number))


def asked(errand: Errand) -> Any:
    return SimpleNamespace(args=[errand], routing_context=SimpleNamespace(should_backoff=False))


def offered(made: Any, errand: Errand) -> list[str]:
    ranks = asyncio.run(made.choose_replicas(list(made.curr_replicas.values()), asked(errand)))
    assert all(len(rank) == 1 for rank in ranks)
    return [rank[0].replica_id.unique_id for rank in ranks]


def test_the_favourite_is_offered_first_and_the_others_behind_it() -> None:
    favourite, second, third = ranked("k", NAMES)
    assert offered(router(dict.fromkeys(NAMES, 0)), Errand("k")) == [favourite, second, third]
    assert offered(router({favourite: 4, second: 0, third: 0}), Errand("k"))[0] == second


def test_a_favourite_is_as_good_as_ever_when_a_crowd_has_gone() -> None:
    """Whatever it said of itself in between."""
    favourite, second, third = ranked("k", NAMES)
    made = router({favourite: 4, second: 0, third: 0})
    end_all(made)
    assert offered(made, Errand("k"))[0] == favourite


def test_other_gateways_are_taken_to_have_sent_as_much() -> None:
    favourite, second, third = ranked("k", NAMES)
    assert offered(router({favourite: 1, second: 0, third: 0}, gateways=2), Errand("k"))[0] == favourite
    assert offered(router({favourite: 2, second: 0, third: 0}, gateways=2), Errand("k"))[0] == second


def test_what_goes_anywhere_is_offered_to_the_least_loaded() -> None:
    assert offered(router(dict(zip(NAMES, (2, 0, 1), strict=True))), Errand(ANYWHERE)) == [
        NAMES[1],
        NAMES[2],
        NAMES[0],
    ]


def test_one_that_takes_nothing_any_more_is_not_offered() -> None:
    favourite, second, third = ranked("k", NAMES)
    made = router(dict.fromkeys(NAMES, 0))
    assert offered(made, Errand("k", shunned=frozenset({favourite}))) == [second, third]
    assert offered(made, Errand("k", shunned=frozenset(NAMES))) == []


def test_one_that_does_not_say_that_it_has_a_request_is_offered_last(monkeypatch: pytest.MonkeyPatch) -> None:
    favourite, second, third = ranked("k", NAMES)
    made = router(dict.fromkeys(NAMES, 0))
    silent, now = ReplicaID(favourite, DEPLOYMENT), 100.0
    monkeypatch.setattr("server.replicas.router.time.monotonic", lambda: now)
    made.on_send_request(silent)
    assert offered(made, Errand("k"))[0] == favourite
    now += SILENT_SECONDS
    made.on_send_request(silent)  # the first one counts
    assert offered(made, Errand("k"))[0] == favourite
    now += 0.1
    assert offered(made, Errand("k")) == [second, third, favourite]
    assert offered(made, Errand(ANYWHERE))[-1] == favourite
    made.on_new_queue_len_info(silent, 1)
    assert offered(made, Errand("k"))[0] == favourite
    made.on_send_request(silent)
    now += 2 * SILENT_SECONDS
    assert offered(made, Errand("k"))[-1] == favourite
    made.on_request_completed(silent, "some request")
    assert offered(made, Errand("k"))[0] == favourite


def test_a_named_replica_is_chosen_at_once_and_one_that_is_no_more_is_gone() -> None:
    made = router(dict.fromkeys(NAMES, 0))
    chosen = asyncio.run(made._choose_replica_for_request(asked(Errand(replica=NAMES[2]))))
    assert chosen.replica_id.unique_id == NAMES[2]

    def dead(_: Any) -> None:
        raise ValueError("no actor of this name")

    made.create_replica_wrapper = dead
    with pytest.raises(Gone):
        asyncio.run(made._choose_replica_for_request(asked(Errand(replica="dddddddd"))))


def test_a_replica_that_drains_is_still_found_by_its_name() -> None:
    made = router(dict.fromkeys(NAMES, 0))
    made.create_replica_wrapper = lambda info: info
    info = asyncio.run(made._choose_replica_for_request(asked(Errand(replica="dddddddd"))))
    assert info.actor_name == "SERVE_REPLICA::genarm#replica#dddddddd"


def test_a_key_stays_where_it_was_sent_first_when_its_favourite_has_less_to_do_again() -> None:
    favourite, second, third = ranked("k", NAMES)
    made = router({favourite: 3, second: 0, third: 0})
    assert offered(made, Errand("k"))[0] == second
    end_all(made)
    assert offered(made, Errand("k"))[0] == second
    assert offered(made, Errand("another"))[0] == ranked("another", NAMES)[0]


def test_a_key_whose_home_is_gone_finds_another() -> None:
    favourite, second, third = ranked("k", NAMES)
    made = router(dict.fromkeys(NAMES, 0))
    assert offered(made, Errand("k"))[0] == favourite
    made._replicas = {id: one for id, one in made._replicas.items() if id.unique_id != favourite}
    assert offered(made, Errand("k")) == [second, third]
