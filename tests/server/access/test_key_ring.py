"""A key is whose it is, compared in constant time; the file is followed, and a broken one changes nothing."""

import hmac
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arm_models.errors import UserError
from server.access import Caller, KeyEntry, KeyRing, Range, key_ring, plain_key
from server.access.key_file import digest
from server.config import Deployment, read_deployment

DECLARED: dict[str, Any] = {
    "model": "m",
    "base": {"model": "b"},
    "rewards": [{"name": "helpful", "model": "h"}, {"name": "harmless", "model": "s", "default": 2.0}],
    "presets": {"kind": {"harmless": 3.0}},
    "weight_ranges": {"harmless": [1.0, None]},
}


def deployment(**changes: Any) -> Deployment:
    return read_deployment({**DECLARED, **changes}, "d")


def named(ring: KeyRing, key: str) -> str | None:
    """The name of the caller with this key."""
    found = ring.caller(key.encode())
    return None if found is None else found.name


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Holds one key, "one"."""
    path = tmp_path / "keys"
    path.write_text("one\n")
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(file: Path, clock: Clock) -> KeyRing:
    return KeyRing(deployment(http={"api_key_file": str(file)}), clock=clock)


def test_without_keys_anybody_is_anonymous_and_keeps_to_the_deployments_ranges() -> None:
    ring = KeyRing(deployment())
    assert not ring.required
    assert ring.caller(b"") == ring.caller(b"whatever") == Caller(ranges={"harmless": Range(low=1.0)})
    assert Caller().name == "anonymous"
    assert (Caller().owner, Caller().admin, Caller().max_concurrent, Caller().presets) == (
        "",
        False,
        None,
        None,
    )


def test_a_key_is_its_holder_with_both_their_ranges() -> None:
    entry = KeyEntry(
        "team", digest(b"k"), True, 4, frozenset({"kind"}), {"harmless": (None, 5), "helpful": (0, 1)}
    )
    ring = KeyRing(deployment(), [entry])
    assert ring.required
    assert ring.caller(b"k") == Caller(
        owner=digest(b"k").hex(),
        name="team",
        admin=True,
        max_concurrent=4,
        presets=frozenset({"kind"}),
        ranges={"harmless": Range(1.0, 5.0), "helpful": Range(0.0, 1.0)},
    )
    assert ring.caller(b"") is ring.caller(b"K") is ring.caller(b"k ") is None


@pytest.mark.parametrize("key", ["a", "b", "c", "d", "", "a" * 10_000])
def test_every_key_is_compared_in_constant_time_whichever_fits(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    compared: list[tuple[int, int]] = []

    class Watched:
        @staticmethod
        def compare_digest(left: bytes, right: bytes) -> bool:
            compared.append((len(left), len(right)))
            return hmac.compare_digest(left, right)

    monkeypatch.setattr(key_ring, "hmac", Watched)
    ring = KeyRing(deployment(), [plain_key(one, one) for one in "abc"])
    assert named(ring, key) == (key if key in ("a", "b", "c") else None)
    # Digests, so that not even the length of a key shows.
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (KeyEntry("team", bytes(32), presets=frozenset({"nope"})), "key 'team': no preset is called 'nope'"),
        (
            KeyEntry("team", bytes(32), ranges={"nope": (0, 1)}),
            "key 'team': nothing weighed is called 'nope'",
        ),
        (KeyEntry("team", bytes(32), ranges={"harmless": (None, 0.5)}), "at least 1 and at most 0.5"),
    ],
)
def test_a_key_that_contradicts_the_deployment_is_named(entry: KeyEntry, said: str) -> None:
    with pytest.raises(UserError, match=said):
        KeyRing(deployment(), [entry])


def test_a_change_of_the_file_holds_within_a_second_and_not_at_every_call(
    ring: KeyRing, file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    state: Callable[[str], Any] = key_ring._state
    monkeypatch.setattr(key_ring, "_state", lambda path: looks.append(path) or state(path))
    file.write_text("two\nthree\n")
    for _ in range(100):
        assert (named(ring, "one"), named(ring, "two")) == ("line-1", None)
    assert looks == []
    clock.now = 1.0
    assert (named(ring, "one"), named(ring, "two"), named(ring, "three")) == (None, "line-1", "line-2")
    assert len(looks) == 1
    assert ring.required


def test_a_file_that_did_not_change_is_not_read_again(
    ring: KeyRing, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: str) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(key_ring, "read_key_file", read)
    clock.now = 5.0
    assert named(ring, "one") == "line-1"


def test_a_file_put_in_its_place_with_its_size_and_time_is_seen(
    ring: KeyRing, file: Path, clock: Clock
) -> None:
    before = file.stat()
    other = file.with_name("new")
    other.write_text("two\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    clock.now = 1.0
    assert (named(ring, "one"), named(ring, "two")) == (None, "line-1")


@pytest.mark.parametrize(
    "broken", ["", "# no key\n", "two words\n", "keys: [\n", None, "keys: [{name: a, hash: x}]\n"]
)
def test_a_broken_file_keeps_the_keys_and_is_told_once(
    ring: KeyRing, file: Path, clock: Clock, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    caplog.set_level(logging.INFO, "genarm")
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    for second in range(1, 5):
        clock.now = float(second)
        assert named(ring, "one") == "line-1"
        assert named(ring, "two") is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "the keys stay as they were" in caplog.text
    file.write_text("two\n")
    clock.now = 5.0
    assert (named(ring, "one"), named(ring, "two")) == (None, "line-1")
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_file_that_names_what_is_not_served_keeps_the_keys(ring: KeyRing, file: Path, clock: Clock) -> None:
    file.write_text(f"keys: [{{name: a, hash: 'sha256:{'0' * 64}', ranges: {{nope: [0, 1]}}}}]\n")
    clock.now = 1.0
    assert named(ring, "one") == "line-1"


def test_the_log_names_who_came_and_went_and_no_key(
    ring: KeyRing, file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "genarm")
    file.write_text(f"keys: [{{name: team, hash: 'sha256:{digest(b'sk-new').hex()}'}}]\n")
    clock.now = 1.0
    assert named(ring, "sk-new") == "team"
    assert "1 keys (added team; removed line-1)" in caplog.text
    assert digest(b"sk-new").hex() not in caplog.text


def test_another_deployment_allows_what_it_allows(ring: KeyRing) -> None:
    ring.use(deployment(weight_ranges={"helpful": [None, 1.0]}))
    found = ring.caller(b"one")
    assert found is not None
    assert found.ranges == {"helpful": Range(high=1.0)}


def test_a_file_that_names_what_comes_later_holds_from_then_on(
    ring: KeyRing, file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    entry = f"{{name: a, hash: 'sha256:{digest(b'two').hex()}', ranges: {{polite: [1, 2]}}}}"
    file.write_text(f"keys: [{entry}]\n")
    clock.now = 1.0
    assert (named(ring, "one"), named(ring, "two"), ring.bounding("polite")) == ("line-1", None, ())
    rewards = [*DECLARED["rewards"], {"name": "polite", "model": "p"}]
    ring.use(deployment(rewards=rewards))
    assert (named(ring, "one"), named(ring, "two"), ring.bounding("polite")) == (None, "a", ("a",))
    found = ring.caller(b"two")
    assert found is not None
    assert found.ranges["polite"] == Range(1.0, 2.0)
    # And is read no oftener than any file.
    caplog.clear()
    caplog.set_level(logging.INFO, "genarm")
    ring.use(deployment(rewards=rewards))
    clock.now = 9.0
    assert named(ring, "two") == "a"
    assert caplog.records == []
