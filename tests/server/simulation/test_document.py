"""The document says what was found, and what was not found yet."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from server.cli import main
from server.simulation.bottleneck import Central
from server.simulation.document import Findings, write_document
from server.simulation.measured import Measured
from server.simulation.pictures import fit_picture
from server.simulation.report import bottlenecks, costs_table, sweep_table, validation_table
from server.simulation.sweep import Plan, Results, Simulations, grid
from server.simulation.table import percent, seconds, table
from server.simulation.traffic import TrafficSettings

PNG = b"\x89PNG"


@pytest.fixture
def cells(make_measured: Callable[..., Measured]) -> list[dict[str, object]]:
    settings = TrafficSettings(think="1", output="4-12", message="4-12", system_tokens=130, longest=400)
    grown = grid((1, 3), ("least", "session"), (0.0, 1.0), (0.4, 0.8))
    simulations = Simulations(make_measured(), Plan(grown, settings, 30, 1000, 0))
    results = Results(None, {})
    for cell in grown:
        results.add(cell, simulations.capacity(cell.guided), simulations.run(cell))
    return list(results.cells.values())


def case(error: float) -> dict[str, object]:
    summary = {
        "throughput": 100.0,
        **{name: {"p50": 0.1, "p95": 2.0} for name in ("ttft", "between", "end_to_end")},
    }
    return {
        "replicas": 2, "load": "never idle", "requests": 64, "simulated": summary, "runs": [summary] * 3,
        "throughput": 100.0 / (1 + error), "error": error, "noise": 0.05, "bar": 0.2, "reached": abs(error) <= 0.2,
    }  # fmt: skip


def test_with_nothing_it_says_by_which_command_it_would_be(tmp_path: Path) -> None:
    (written,) = write_document(tmp_path, Findings())
    text = written.read_text()
    assert text.count("Not measured yet") == 4
    assert "genarm simulate all" in text
    assert not re.search(r"@[A-Z_]+@", text)
    assert "](scale-" not in text


def test_with_everything_it_has_tables_and_pictures(
    tmp_path: Path, make_measured: Callable[..., Measured], cells: list[dict[str, object]]
) -> None:
    measured = make_measured()
    findings = Findings(
        measured,
        {"cases": [case(0.1)]},
        cells,
        price=2.0,
        commands={"measured.json": "genarm simulate measure"},
    )
    document, *pictures = write_document(tmp_path, findings)
    text = document.read_text()
    assert "Not measured yet" not in text
    assert "Not measured, and so not compared: proxy, gateways, registry" in text
    assert "`genarm simulate measure`:" in text
    assert "The first to be full as replicas are added is metrics scrape" in text
    assert costs_table(measured) in text
    assert sweep_table(cells, 2.0) in text
    assert len(pictures) == 4
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)
    named = re.findall(r"\]\((scale-\w+\.png)\)", text)
    assert sorted(named) == sorted(picture.name for picture in pictures)


def test_a_picture_is_the_same_twice(make_measured: Callable[..., Measured]) -> None:
    assert fit_picture(make_measured()) == fit_picture(make_measured())


def test_a_missed_bar_is_said() -> None:
    assert "missed" not in validation_table([case(0.1)])
    assert "± 20 %, missed" in validation_table([case(-0.3)])
    assert "-30.0 %" in validation_table([case(-0.3)])


def test_a_price_is_a_column_only_where_there_is_one(cells: list[dict[str, object]]) -> None:
    assert "cost / 10⁶" not in sweep_table(cells)
    assert "cost / 10⁶" in sweep_table(cells, 1.0)
    assert sweep_table(cells).count("\n") == len(cells) + 1


def test_the_fullest_is_told_for_each_number(
    make_measured: Callable[..., Measured], cells: list[dict[str, object]]
) -> None:
    _, fullest = bottlenecks(make_measured(), cells[0], Central(scrape_interval=0.1), (1, 1000))
    assert fullest[1000].name == "metrics scrape"


def test_tables_and_units() -> None:
    lines = table(["a", "long"], [["1", "2"]]).splitlines()
    assert lines == ["| a   | long |", "| --- | ---- |", "| 1   | 2    |"]
    assert seconds(0.0123) == "12.3 ms"
    assert seconds(1.234) == "1.23 s"
    assert seconds(None) == percent(None) == "–"
    assert percent(0.5) == "50.0 %"


def test_the_document_in_docs_is_what_its_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the files in benchmarks/results/scale."""
    root = Path(__file__).resolve().parents[3]
    monkeypatch.chdir(root)
    told = re.search(r"`genarm (simulate document .*)`\.", (root / "docs/scale.md").read_text())
    assert told is not None
    assert main([*shlex.split(told[1]), "--docs", str(tmp_path)]) == 0
    assert (tmp_path / "scale.md").read_text() == (root / "docs/scale.md").read_text()
    for picture in tmp_path.glob("*.png"):
        assert (root / "docs" / picture.name).is_file()
