"""What grows faster than linearly is found, along whichever axis."""

import pytest

from server.bench.growth import Cell, Growth, growths, size, slopes


def cells(power: float, axis: str = "context") -> list[Cell]:
    made = []
    for batch in (1, 8):
        for context in (128, 512, 1024):
            for kind, rewards in (("full", 0), ("full", 1), ("full", 3), ("lora", 1), ("lora", 3)):
                cell = Cell(kind, rewards, batch, context, 0.0)
                seconds = float(size(cell, axis)) ** power  # type: ignore[arg-type]
                made.append(Cell(kind, rewards, batch, context, seconds))
    return made


@pytest.mark.parametrize("axis", ["batch", "context", "rewards"])
@pytest.mark.parametrize(("power", "reached"), [(0.5, True), (1.0, True), (2.0, False)])
def test_the_slope_is_the_power(axis: str, power: float, reached: bool) -> None:
    found = {growth.axis: growth for growth in growths(cells(power, axis))}
    assert set(found) == {"batch", "context", "rewards"}
    assert found[axis].worst.value == pytest.approx(power)  # type: ignore[index]
    assert found[axis].reached is reached  # type: ignore[index]
    assert all(growth.reached for growth in found.values() if growth.axis != axis)


def test_one_cell_out_of_line_is_the_worst() -> None:
    grid = [cell for cell in cells(1.0) if not (cell.batch == 8 and cell.context == 1024)]
    grid.append(Cell("full", 1, 8, 1024, 2.0 * 1024))
    (worst,) = (growth for growth in growths(grid) if growth.axis == "context")
    assert worst.worst.high == grid[-1]
    assert worst.worst.value == pytest.approx(2.0)
    assert not worst.reached


def test_the_base_alone_begins_the_line_of_either_kind() -> None:
    found = {(slope.low.kind, slope.high.kind) for slope in slopes(cells(1.0), "rewards")}
    assert found == {("full", "full"), ("full", "lora"), ("lora", "lora")}


def test_sizes_that_differ_by_less_than_twice_say_nothing() -> None:
    pair = [Cell("full", 2, 1, 128, 1.0), Cell("full", 3, 1, 128, 9.0)]
    assert slopes(pair, "rewards") == []
    assert growths(pair) == []


def test_the_record_says_between_which_cells() -> None:
    low, high = Cell("full", 0, 1, 128, 1.0), Cell("full", 0, 8, 128, 4.0)
    (growth,) = growths([low, high])
    assert isinstance(growth, Growth)
    assert growth.record()["between"] == ["1 x 128, 0", "8 x 128, 0"]
    assert growth.record()["slope"] == pytest.approx(2 / 3)
