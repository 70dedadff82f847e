"""Who has been given least is served first; who has more than its share gives way, and nobody twice for the same reason."""

import random
from collections import Counter
from dataclasses import dataclass, field

from server.engine.fairness import Load, Shortage, VirtualTokens, give_way


def test_who_was_given_least_is_next_and_of_equals_the_first() -> None:
    given = VirtualTokens()
    for owner in "abc":
        given.come(owner)
    assert given.next("bca", {}) == "b"
    given.charge("a", 5)
    given.charge("b", 3)
    given.charge("c", 4)
    assert given.next("acb", dict.fromkeys("abc", 9)) == "b"


def test_who_has_less_than_its_share_comes_before_who_was_given_less() -> None:
    given = VirtualTokens()
    given.come("much")
    given.come("little")
    given.charge("much", 1000)
    # Of 4 places each may count on 2: "much" has 1, "little" the other 2.
    assert given.next(["little", "much"], {"much": 1, "little": 2}) == "much"
    assert given.next(["little", "much"], {"much": 2, "little": 2}) == "little"


def test_idleness_saves_nothing_up() -> None:
    given = VirtualTokens()
    given.come("busy")
    given.charge("busy", 1000)
    given.come("late")
    assert given["late"] == given["busy"] == 1000


def test_who_leaves_and_comes_back_still_owes_what_it_had_more() -> None:
    given = VirtualTokens()
    given.come("greedy")
    given.come("other")
    given.charge("greedy", 500)
    given.leave("greedy")
    given.come("greedy")
    assert given["greedy"] == 500
    given.leave("greedy")
    given.charge("other", 600)
    given.come("greedy")
    assert given["greedy"] == given["other"] == 600


def test_nothing_is_known_of_owners_that_owe_nothing() -> None:
    given = VirtualTokens()
    given.come("steady")
    given.charge("steady", 100)
    for number in range(1000):
        given.come(f"visitor {number}")
        given.leave(f"visitor {number}")
    given.leave("steady")
    assert given._counters == {}
    assert given.owners == 0


def places(owners: str) -> list[Load]:
    """One running response for each letter, oldest first."""
    return [Load(owner, (1,)) for owner in owners]


def test_the_youngest_of_who_has_most_gives_its_place() -> None:
    running = places("aabaab")
    assert give_way(Shortage("c", (1,), (0,), (2,)), running) == [4]


def test_who_has_no_more_than_its_share_keeps_it_and_who_asks_gives_nothing_itself() -> None:
    assert give_way(Shortage("c", (1,), (0,), (2,)), places("aabb")) == []
    assert give_way(Shortage("c", (1,), (0,), (3,)), places("ccaa")) == []
    # "a" holds more than its share of memory and "c", whose share it would be, itself the rest.
    running = [Load("c", (1, 10)), Load("c", (1, 20)), Load("a", (1, 40)), Load("a", (1, 10))]
    assert give_way(Shortage("c", (1, 10), (9, 0), (5, 40)), running) == [3]


def test_of_several_above_their_share_it_is_who_has_most() -> None:
    running = [Load("b", (1, 10)), Load("b", (1, 15)), Load("a", (1, 20)), Load("a", (1, 25))]
    assert give_way(Shortage("c", (1, 5), (9, 0), (5, 20)), running) == [3]
    assert give_way(Shortage("z", (1,), (0,), (1,)), places("aaabb")) == [2]


def test_what_gives_way_for_one_resource_counts_for_the_next() -> None:
    running = [Load("a", (1, 10)), Load("a", (1, 10)), Load("a", (1, 10))]
    assert give_way(Shortage("b", (1, 10), (0, 0), (1, 15)), running) == [2]


def test_who_has_its_share_of_places_gets_no_more() -> None:
    assert give_way(Shortage("b", (1,), (0,), (2,)), places("aabaab")) == []
    assert give_way(Shortage("a", (1,), (0,), (3,)), places("aaabbb")) == []


def test_nobody_is_left_with_nothing() -> None:
    assert give_way(Shortage("z", (1,), (0,), (1,)), places("abcdef")) == []
    assert give_way(Shortage("z", (1,), (0,), (1,)), places("abcdeef")) == [5]
    huge = [Load("a", (1, 100))]
    assert give_way(Shortage("b", (1, 40), (7, 0), (4, 50)), huge) == []


def test_memory_is_given_back_until_there_is_enough_and_no_more() -> None:
    running = [
        Load("a", (1, 30)),
        Load("a", (1, 20)),
        Load("b", (1, 10)),
        Load("a", (1, 20)),
        Load("a", (1, 20)),
    ]
    assert give_way(Shortage("c", (1, 30), (9, 0), (5, 33)), running) == [4, 3]
    assert give_way(Shortage("c", (1, 20), (9, 5), (5, 33)), running) == [4]


def test_nobody_gives_way_to_who_wants_more_than_its_share() -> None:
    running = [Load("a", (1, 30))] * 3
    assert give_way(Shortage("b", (1, 60), (9, 10), (5, 50)), running) == []


def test_nobody_gives_way_in_vain() -> None:
    # All that may be put off of "a" are 10 blocks, and 30 are missing.
    running = [Load("a", (1, 60)), Load("a", (1, 10)), Load("b", (1, 10))]
    assert give_way(Shortage("c", (1, 30), (9, 0), (5, 30)), running) == []


@dataclass
class Batch:
    """Places alone, taken as the scheduler takes them."""

    size: int
    given: VirtualTokens = field(default_factory=VirtualTokens)
    waiting: list[tuple[str, int]] = field(default_factory=list)  # owner, steps to go
    running: list[tuple[str, int]] = field(default_factory=list)
    put_off: int = 0
    before: Counter[str] = field(default_factory=Counter)  # who ran in the last step, and what the share was
    share_before: int = 0

    def come(self, owner: str, steps: int) -> None:
        self.given.come(owner)
        self.waiting.append((owner, steps))

    def has(self) -> Counter[str]:
        return Counter(owner for owner, _ in self.running)

    def step(self) -> None:
        while self.waiting:
            owner = self.given.next(dict.fromkeys(owner for owner, _ in self.waiting), self.has())
            if len(self.running) == self.size and not self.make_room(owner):
                break
            place = next(place for place, (one, _) in enumerate(self.waiting) if one == owner)
            self.running.append(self.waiting.pop(place))
        self.before, self.share_before = self.has(), self.given.share(self.size)
        left = [(owner, steps - 1) for owner, steps in self.running]
        for owner, steps in left:
            self.given.charge(owner, 2)
            if not steps:
                self.given.leave(owner)
        self.running = [one for one in left if one[1]]

    def make_room(self, owner: str) -> bool:
        shortage = Shortage(owner, (1,), (0,), (self.given.share(self.size),))
        for place in give_way(shortage, [Load(one, (1,)) for one, _ in self.running]):
            self.waiting.insert(0, self.running.pop(place))
            self.put_off += 1
        return len(self.running) < self.size


def test_shares_are_equal_at_once_and_no_arrival_puts_off_more_than_one() -> None:
    put_off = 0
    for seed in range(20):
        rng, batch, came = random.Random(seed), Batch(size=8), 0
        for _ in range(300):
            for owner, chance in (("flood", 0.5), ("sometimes", 0.05), ("seldom", 0.02)):
                if rng.random() < chance:
                    batch.come(owner, rng.randint(1, 40))
                    came += 1
            batch.step()
            has, share = batch.before, batch.share_before
            waits = {owner for owner, _ in batch.waiting}
            assert not any(has[owner] < share < max(has.values()) for owner in waits)
        assert batch.put_off <= came
        put_off += batch.put_off
    assert put_off > 20
