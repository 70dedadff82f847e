"""Bytes and operations of a step are those of the weights that are loaded."""

from pathlib import Path

import pytest

from arm_models.loading import load_family
from server.bench.shapes import LORA_RANK, SHAPES, Models, Shape
from server.bench.weighing import cache_bytes, step_load


def layers(shape: Shape) -> int:
    """Values of all linear layers but the head; Llama's feed-forward has three."""
    config = shape.config()
    return shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * config.intermediate_size)


def norms(shape: Shape) -> int:
    return shape.hidden * (2 * shape.layers + 1)


def test_a_full_reward_adds_all_it_has(models: Models) -> None:
    sources = models.sources(1)
    family = load_family(sources[0], sources[1:])
    batch, context = 3, 100
    load = step_load(family, batch, context)
    weights = products = cache = rows = attention = 0
    for shape in SHAPES["tiny"]:
        weights += layers(shape) + shape.hidden * shape.vocab + norms(shape)
        products += layers(shape) + shape.hidden * shape.vocab
        cache += 2 * shape.layers * shape.hidden * context
        rows += shape.hidden
        attention += 4 * shape.layers * shape.hidden * context
    assert load.bytes == 4 * (weights + batch * (cache + rows))
    assert load.flops == batch * (2 * products + attention)
    assert cache_bytes(family, context) == 4 * cache


def test_an_untied_embedding_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tied = SHAPES["tiny"][0]
    untied = Shape(tied.layers, tied.hidden, tied.vocab, head=32)
    monkeypatch.setitem(SHAPES, "untied", (untied, untied))
    loads = []
    for name in ("tiny", "untied"):
        family = load_family(Models(name, tmp_path / name).base(), [])
        loads.append(step_load(family, 1, 10))
    assert loads[0] == loads[1]


def test_adapters_share_the_backbone_in_bytes_but_not_in_operations(models: Models) -> None:
    sources = models.adapters(2)
    one, three = load_family(sources[0], []), load_family(sources[0], sources[1:])
    shape = SHAPES["tiny"][0]
    wide = shape.config().intermediate_size
    adapter = shape.layers * LORA_RANK * (4 * 2 * shape.hidden + 3 * (shape.hidden + wide))
    alone, together = step_load(one, 1, 10), step_load(three, 1, 10)
    assert cache_bytes(three, 10) == 3 * cache_bytes(one, 10)
    own = cache_bytes(one, 10) + 4 * shape.hidden
    assert together.bytes == alone.bytes + 2 * (4 * adapter + own)
    assert together.flops == 3 * alone.flops + 2 * 2 * adapter
