"""Members come and go between two steps; nobody's answer changes, and what is gone is gone."""

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from arm_models.errors import CheckpointError
from arm_models.loading import Family, ModelSource, load_family, load_more
from server.engine import (
    ATTENTION,
    Engine,
    EngineConfig,
    Member,
    SamplingParams,
    SequenceRequest,
    build_members,
    build_more,
    register_attention,
    release_stock,
)
from server.engine.speculation.pace import AdaptivePace

PROMPT = list(range(20, 60))
MakePath = Callable[..., Path]
CONFIG = EngineConfig(max_sequences=8, prefill_chunk=16)


@pytest.fixture(scope="module")
def base(make_checkpoint: MakePath) -> Path:
    return make_checkpoint("llama", "membership-base", seed=1)


@pytest.fixture(scope="module")
def paths(make_checkpoint: MakePath) -> dict[str, Path]:
    """Rewards by name: two that share the base's forward, and two that come later."""
    kinds = {"helpful": "llama", "harmless": "llama", "helpful#2": "llama", "polite#3": "gpt2"}
    return {
        name: make_checkpoint(kind, f"membership-{seed}", seed=seed)
        for seed, (name, kind) in enumerate(kinds.items(), 2)
    }


@pytest.fixture
def family(base: Path, paths: Mapping[str, Path]) -> Family:
    """Freshly loaded: what is given back must be held by nobody else."""
    return make_family(base, paths, "helpful", "harmless")


def make_family(base: Path, paths: Mapping[str, Path], *names: str) -> Family:
    register_attention()
    sources = [ModelSource(name, str(paths[name])) for name in names]
    return load_family(ModelSource("base", str(base)), sources, attention=ATTENTION)


def make_engine(family: Family, config: EngineConfig = CONFIG) -> Engine:
    return Engine(build_members(family, config), config)


def joining(
    engine: Engine, paths: Mapping[str, Path], *names: str, config: EngineConfig = CONFIG
) -> list[Member]:
    sources = [ModelSource(name, str(paths[name])) for name in names]
    loaded = load_more(engine.members["base"].loaded, sources, attention=ATTENTION)
    return build_more(loaded, config, tokens=1024)


def request(identity: str, *rewards: str, begins: int = 0, **options: Any) -> SequenceRequest:
    """Greedy, so that two engines whose rounding differs in the last bits agree."""
    prompt = [token + begins for token in PROMPT]
    sampling = SamplingParams(max_tokens=options.pop("max_tokens", 24), temperature=0.0)
    names = ("base", *rewards)
    return SequenceRequest(
        identity, dict.fromkeys(names, prompt), dict.fromkeys(names, 1.0), sampling, **options
    )


def run(engine: Engine) -> dict[str, list[int]]:
    said: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            said.setdefault(output.id, []).append(output.token)
    return said


def test_who_joins_is_read_from_the_next_step_on_and_disturbs_nobody(
    base: Path, paths: Mapping[str, Path], family: Family
) -> None:
    alone = make_engine(family).generate([request("old", "helpful", "harmless")])["old"]
    fresh = make_engine(make_family(base, paths, "helpful#2", "harmless"))
    expected = fresh.generate([request("new", "helpful#2", "harmless")])["new"]
    assert alone != expected

    engine = make_engine(family)
    engine.add(request("old", "helpful", "harmless"))
    said: list[int] = []
    while len(said) < 8:
        said += [output.token for output in engine.step()]
    with pytest.raises(ValueError, match="no member 'helpful#2'"):
        engine.add(request("early", "helpful#2"))
    engine.add_members(joining(engine, paths, "helpful#2"))
    engine.add(request("new", "helpful#2", "harmless"))
    both = run(engine)
    assert said + both["old"] == alone
    assert both["new"] == expected
    assert engine.stats().forwards["helpful#2"] > 0
    engine.check_integrity()
    with pytest.raises(ValueError, match="there is a member 'helpful#2' already"):
        engine.add_members([engine.members["helpful#2"]])


def test_who_is_read_by_anybody_cannot_be_removed(family: Family) -> None:
    engine = make_engine(family)
    # It could be weighted in.
    engine.add(replace(request("off", "harmless", hold=True), mix={"base": 1.0}))
    for again in ("waiting", "running"):
        with pytest.raises(ValueError, match="harmless is read by a response"):
            engine.remove_members(["helpful", "harmless"])
        assert set(engine.members) == {"base", "helpful", "harmless"}, again
        engine.step()
    run(engine)
    with pytest.raises(ValueError, match="under way or held"):
        engine.remove_members(["harmless"])
    engine.release(["off"])
    engine.remove_members(["helpful", "harmless"])
    assert set(engine.members) == {"base"}
    with pytest.raises(ValueError, match="no member 'harmless'"):
        engine.remove_members(["harmless"])
    with pytest.raises(ValueError, match="base is the base"):
        engine.remove_members(["base"])


@pytest.mark.parametrize("cache", ["slabs", "pages"])
def test_what_a_member_held_is_given_back_and_the_others_go_on(
    base: Path, paths: Mapping[str, Path], cache: str
) -> None:
    config = EngineConfig(max_sequences=8, prefill_chunk=16, cache=cache, kv_tokens=1024)
    family = make_family(base, paths, "helpful", "harmless")
    expected = make_engine(family, config).generate([request("a", "harmless")])["a"]
    members = build_members(family, config)
    release_stock(members)
    engine = Engine(members, config)
    del family, members
    assert len(set(map(id, (member.runner for member in engine.members.values())))) == 1, "one forward"
    shared, lone = engine.members["helpful"], joining(engine, paths, "polite#3", config=config)
    engine.add_members(lone)
    engine.generate([request("b", "helpful", "polite#3"), request("c", "harmless")])  # all keep prompts
    gone: list[Callable[[], object]] = [
        weakref.ref(lone[0].loaded.model),
        weakref.ref(shared.loaded.model),
        *(weakref.ref(member.cache) for member in lone),
        weakref.ref(shared.loaded.tokenizer),
    ]
    weights = weakref.ref(_projection(engine, "helpful"))
    budget = engine.members["base"].cache
    before = getattr(budget.store, "num_blocks", None)  # type: ignore[attr-defined]
    del shared, lone
    engine.remove_members(["polite#3", "helpful"])
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    assert weights() is None
    if before is not None:
        assert budget.store.num_blocks == before // 3 * 2  # type: ignore[attr-defined]
    stats = engine.stats()
    assert set(stats.cache_usage) == set(stats.forwards) == set(stats.tokens) == {"base", "harmless"}
    assert engine.generate([request("d", "harmless")])["d"] == expected
    engine.check_integrity()


def test_an_adapters_lane_is_left_empty_and_its_neighbours_go_on(base: Path, make_adapter: MakePath) -> None:
    paths = {name: make_adapter(base, f"membership-{name}", seed) for seed, name in enumerate("ab", 8)}
    family = make_family(base, paths, "a", "b")
    expected = make_engine(family).generate([request("x", "b")])["x"]
    engine = make_engine(family)
    engine.generate([request("y", "a", "b")])
    engine.remove_members(["a"])
    assert engine.generate([request("x", "b")])["x"] == expected
    with pytest.raises(ValueError, match="no member 'a'"):
        engine.add(request("z", "a"))
    engine.check_integrity()


def test_an_adapter_joins_on_a_backbone_of_its_own(base: Path, make_adapter: MakePath) -> None:
    paths = {"a": make_adapter(base, "membership-late", 8)}
    expected = make_engine(make_family(base, paths, "a")).generate([request("x", "a")])["x"]
    engine = make_engine(make_family(base, paths))
    (member,) = joining(engine, paths, "a")
    engine.add_members([member])
    assert member.loaded.model is not engine.members["base"].loaded.model
    assert engine.generate([request("x", "a")])["x"] == expected


def test_another_vocabulary_cannot_join(
    family: Family, make_checkpoint: MakePath, make_tokenizer: Callable[..., Any]
) -> None:
    other = make_checkpoint("llama", "membership-other", seed=9, tokenizer=make_tokenizer(size=280))
    with pytest.raises(CheckpointError, match="late: its vocabulary is not the base's"):
        load_more(family.base, [ModelSource("late", str(other))], attention=ATTENTION)


def test_what_loading_does_to_the_default_dtype_reaches_no_step(family: Family) -> None:
    """transformers sets it for the whole process while it makes a model in another dtype."""
    report: dict[str, Any] = {"report": True, "max_kl": 0.5}
    engine = make_engine(family)
    penalized = SamplingParams(24, 0.8, 0.9, 40, 0.01, 3, frequency_penalty=0.5, logprobs=2)
    asked = replace(request("a", "helpful", "harmless", **report), sampling=penalized)
    engine.add(asked)
    expected = _outputs(engine)
    torch.set_default_dtype(torch.float16)
    try:
        engine.add(asked)
        assert _outputs(engine) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_guessing_learned_about_a_member_goes_with_it() -> None:
    pace = AdaptivePace()
    for names in (("base",), ("base", "helpful"), ("base", "harmless")):
        pace.begin()
        pace.considers(1, frozenset(names), plain=True)
        pace.end(1, 1)
    pace.forget("helpful")
    assert set(pace._costs) == {frozenset({"base"}), frozenset({"base", "harmless"})}


@pytest.mark.slow
def test_fifty_swaps_leave_nothing_behind(base: Path, paths: Mapping[str, Path]) -> None:
    engine = make_engine(make_family(base, paths, "helpful"))
    now, sizes = "helpful", []
    for version in range(2, 52):
        name = f"helpful#{version}"
        members = joining(engine, {name: paths["helpful#2"]}, name)
        engine.add_members(members)
        del members
        assert len(engine.generate([request("a", name)])["a"]) == 24
        engine.remove_members([now])
        now = name
        gc.collect()
        sizes.append(_tensors())
        assert set(engine.members) == {"base", now}
    assert sizes[5:] == [sizes[5]] * len(sizes[5:])
    engine.check_integrity()


def _tensors() -> int:
    """Bytes of all tensors that Python can reach; those whose type cannot be asked safely are none."""
    return sum(one.nbytes for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))


def _projection(engine: Engine, name: str) -> Any:
    """A weight that only this member goes through."""
    packed: Any = engine.members[name].runner.model
    lane = [one.name for one in engine.members[name].runner.lanes].index(name)
    return packed.models[packed._model_of[lane]].layers[0].projections["qkv"]


def _outputs(engine: Engine) -> list[Any]:
    told = []
    while engine.has_work:
        told += engine.step()
    return told
