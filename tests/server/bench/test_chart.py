"""The chart shows every step line and every bar, or says at once why it cannot."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from arm_models.errors import UserError
from server.bench.chart import check_chart, compared_with_bar, draw, lines
from server.bench.comparison import Comparison
from server.bench.cost import Cost
from server.bench.findings import Finding
from server.bench.growth import Cell, growths
from server.bench.scenarios.steps import StepTable

CELLS = tuple(
    Cell("full", rewards, batch, context, 0.001 * batch * context * (1 + rewards))
    for rewards in (0, 1, 3)
    for batch in (1, 8)
    for context in (128, 512)
)


def findings() -> list[Finding]:
    results: list[Any] = [
        Comparison("fast", "ours", "peer", 8.0, (9.0,), (1.0,)),
        Cost("dear", "ours", "peer", 1.4, 1.1, (1.9,), (1.0,)),
        StepTable(CELLS, 0),
        *growths(CELLS),
    ]
    return [Finding.of("some", result) for result in results]


@pytest.mark.parametrize(("name", "begins"), [("chart.png", b"\x89PNG"), ("chart.svg", b"<?xml")])
def test_it_is_drawn_whole(tmp_path: Path, name: str, begins: bytes) -> None:
    path = tmp_path / name
    draw(findings(), path)
    assert path.read_bytes().startswith(begins)
    assert list(tmp_path.iterdir()) == [path]


def test_comparisons_alone_are_drawn_too(tmp_path: Path) -> None:
    draw(findings()[:2], tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="anything to draw"):
        draw([], tmp_path / "chart.png")


def test_a_value_stands_beside_its_bar() -> None:
    fast, dear, table, *_ = findings()
    assert compared_with_bar(fast) == (9.0, 8.0, True)
    assert compared_with_bar(dear) == (pytest.approx(1.9 / 1.4), 1.1, False)
    assert compared_with_bar(table) is None


def test_a_line_has_the_cells_that_differ_along_it_only() -> None:
    cells = findings()[2].record["cells"]
    drawn = lines("batch", cells)
    assert drawn["128 context, 0 rewards"] == [(1, pytest.approx(128)), (8, pytest.approx(1024))]
    assert all([point[0] for point in points] == [1, 8] for points in drawn.values())
    assert all([point[0] for point in points] == [0, 1, 3] for points in lines("rewards", cells).values())


def test_what_cannot_be_drawn_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_chart(tmp_path / "chart.svg")
    with pytest.raises(UserError, match=r"must end with \.png or \.svg"):
        check_chart(tmp_path / "chart.pdf")
    with pytest.raises(UserError, match="does not exist"):
        check_chart(tmp_path / "nowhere" / "chart.png")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"needs matplotlib: pip install 'genarm\[bench\]'"):
        check_chart(tmp_path / "chart.png")
