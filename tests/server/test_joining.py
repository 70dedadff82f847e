"""A model that is to join has to fit: it is refused before it takes what the answers under way need."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arm_models import loading
from arm_models.loading import Family, ModelSource, load_family
from server.config import MemberSettings
from server.engine import ATTENTION, EngineConfig, register_attention
from server.joining import Joining, NoRoom, Part

PRICE = 2 * 2 * 2 * 8 * 4
"""Bytes of keys and values of a token: layers, both, heads, their width, float32."""


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", "joining", seed=1)


@pytest.fixture(scope="module")
def family(folder: Path) -> Family:
    register_attention()
    return load_family(ModelSource("base", str(folder)), [], attention=ATTENTION)


def test_what_has_joined_is_known_by_its_member_name(family: Family, folder: Path) -> None:
    join = Joining(family.base, EngineConfig(), tokens=1024, context=200)
    wanted = {name: MemberSettings(model=str(folder)) for name in ("arm#2", "arm.reference#2")}
    joined = join(wanted, {})
    assert [member.name for member in joined.members] == list(wanted)
    assert len({id(member.runner) for member in joined.members}) == 1, "a pair of one shape is one forward"
    for told in (joined.tokenizers, joined.parts, joined.max_context):
        assert set(told) == set(wanted)
    assert joined.max_context["arm#2"] == 256
    assert joined.parts["arm#2"].cache_bytes == 1024 * PRICE
    assert joined.parts["arm#2"].device == "cpu"


@pytest.mark.parametrize(
    ("limits", "free", "tokens"),
    [
        ({"cpu_cache_bytes": 2000 * PRICE}, None, 1024),
        ({"cpu_cache_bytes": 600 * PRICE}, None, 576),
        ({"kv_tokens": 1024}, 300 * PRICE, 256),
    ],
)
def test_its_cache_is_the_bases_or_what_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
    family: Family,
    folder: Path,
    limits: dict[str, Any],
    free: int | None,
    tokens: int,
) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda _: free)
    monkeypatch.setattr(loading, "weight_bytes", lambda _: 0)
    join = Joining(family.base, EngineConfig(**limits), tokens=1024, context=200)
    joined = join({"arm": MemberSettings(model=str(folder))}, {"far": Part("", 10**12, "cuda:0")})
    assert joined.parts["arm"].cache_bytes == tokens * PRICE


@pytest.mark.parametrize(
    ("limits", "free", "said"),
    [
        (
            {"cpu_cache_bytes": 355 * PRICE},
            None,
            r"arm: .* 256 tokens takes 65536 bytes on cpu; 65280 .*cpu_cache",
        ),
        ({"kv_tokens": 1024}, 65535, r"arm: to cache one longest context .*; 65535 are left of the memory"),
    ],
)
def test_a_longest_context_has_to_fit_beside_the_other_caches(
    monkeypatch: pytest.MonkeyPatch,
    family: Family,
    folder: Path,
    limits: dict[str, Any],
    free: int | None,
    said: str,
) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda _: free)
    monkeypatch.setattr(loading, "weight_bytes", lambda _: 0)
    join = Joining(family.base, EngineConfig(**limits), tokens=1024, context=200)
    with pytest.raises(NoRoom, match=said):
        join({"arm": MemberSettings(model=str(folder))}, {"base": Part("", 100 * PRICE, "cpu")})


def test_weights_that_do_not_fit_are_not_read(
    monkeypatch: pytest.MonkeyPatch, family: Family, folder: Path
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(loading, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(loading, "load_more", never)
    with pytest.raises(NoRoom, match=r"arm: loading it takes \d+ bytes of memory on cpu; 1000 are left"):
        Joining(family.base, EngineConfig(), 1024, 200)({"arm": MemberSettings(model=str(folder))}, {})
