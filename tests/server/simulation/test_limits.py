"""Limits are checked when they are made; contexts are rounded up as the caches do."""

from typing import Any

import pytest

from server.simulation.limits import Limits


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kv_tokens": 63}, "kv_tokens"),
        ({"max_sequences": 0}, "max_sequences"),
        ({"prefill_chunk": 0}, "prefill_chunk"),
        ({"prefix_share": 1.5}, "prefix_share"),
        ({"max_queue": -1}, "max_queue"),
        ({"cache": "heap"}, "cache"),
        ({"max_step_tokens": 100}, "max_step_tokens"),
    ],
)
def test_what_is_out_of_range_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Limits(**({"kv_tokens": 6400} | changes))


def test_rows_grow_in_steps_and_pages_in_blocks() -> None:
    rows, pages = Limits(64 * 100), Limits(64 * 100, cache="pages")
    lengths = [1, 64, 65, 129, 193, 257, 400]
    assert [rows.blocks_for(length) for length in lengths] == [1, 1, 2, 3, 4, 6, 8]
    assert [pages.blocks_for(length) for length in lengths] == [1, 1, 2, 3, 4, 5, 7]


def test_the_longest_context_is_one_that_fits_a_row() -> None:
    assert Limits(64 * 10).longest == 64 * 8
    assert Limits(64 * 10, cache="pages").longest == 64 * 10
    for blocks in range(1, 70):
        limits = Limits(64 * blocks)
        assert limits.blocks_for(limits.longest) <= blocks < limits.blocks_for(limits.longest + 1)


def test_they_go_to_a_file_and_back() -> None:
    limits = Limits(6400, max_sequences=7, cache="pages")
    assert Limits.from_json(limits.as_json()) == limits
