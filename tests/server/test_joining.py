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


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", "joining", seed=1)


@pytest.fixture(scope="module")
def family(folder: Path) -> Family:
    register_attention()
    return load_family(ModelSource("base", str(folder)), [], attention=ATTENTION)


def test_what_has_joined_is_known_by_its_member_name(family: Family, folder: Path) -> None:
    join = Joining(family.base, EngineConfig(), tokens=1024)
    wanted = {name: MemberSettings(model=str(folder)) for name in ("arm#2", "arm.reference#2")}
    joined = join(wanted, {})
    assert [member.name for member in joined.members] == list(wanted)
    assert len({id(member.runner) for member in joined.members}) == 1, "a pair of one shape is one forward"
    for told in (joined.tokenizers, joined.parts, joined.max_context):
        assert set(told) == set(wanted)
    assert joined.max_context["arm#2"] == 256
    assert joined.parts["arm#2"].cache_bytes == 1024 * 2 * 2 * 2 * 8 * 4
    assert joined.parts["arm#2"].device == "cpu"


@pytest.mark.parametrize(
    ("limits", "free", "taken", "said"),
    [
        ({"cpu_cache_bytes": 262144 + 100}, None, 101, r"arm: its cache of 1024 tokens .* cpu_cache_bytes"),
        ({"kv_tokens": 1024}, 262143, 0, r"arm: its cache .* 262143 are left; engine\.kv_tokens"),
    ],
)
def test_a_cache_has_to_fit_beside_the_others(
    monkeypatch: pytest.MonkeyPatch,
    family: Family,
    folder: Path,
    limits: dict[str, Any],
    free: int | None,
    taken: int,
    said: str,
) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda _: free)
    monkeypatch.setattr(loading, "weight_bytes", lambda _: 0)
    join = Joining(family.base, EngineConfig(**limits), tokens=1024)
    wanted = {"arm": MemberSettings(model=str(folder))}
    with pytest.raises(NoRoom, match=said):
        join(wanted, {"base": Part("", taken, "cpu"), "far": Part("", 10**12, "cuda:0")})


def test_weights_that_do_not_fit_are_not_read(
    monkeypatch: pytest.MonkeyPatch, family: Family, folder: Path
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(loading, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(loading, "load_more", never)
    with pytest.raises(NoRoom, match=r"arm: loading it takes \d+ bytes of memory on cpu; 1000 are left"):
        Joining(family.base, EngineConfig(), 1024)({"arm": MemberSettings(model=str(folder))}, {})
