"""Grids and files of settings: what they come to, and one line for what cannot be read."""

from pathlib import Path

import pytest

from arm_models.errors import UserError
from arm_models.evaluation.settings import Setting, check_settings, read_grid, read_settings, read_values


def test_values_are_a_list_or_steps_that_reach_the_end() -> None:
    assert read_values("0:1:0.1") == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert read_values("-1,0.5") == [-1.0, 0.5]
    assert read_values("2:2:1") == [2.0]


@pytest.mark.parametrize(
    "text", ["", "a", "0:1", "1:0:0.1", "0:1:0", "0:1:-1", "0:1e9:1e-9", "inf", "0:nan:1"]
)
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"list of numbers|must be finite"):
        read_values(text)


def test_a_grid_is_every_combination_the_last_fastest() -> None:
    settings = read_grid("dera", ["helpful=0,1", "guidance.lambda=0:1:0.5"], {"policy": "safe"})
    assert [one.name for one in settings][:2] == [
        "dera helpful 0 policy=safe lambda=0.0",
        "dera helpful 0 policy=safe lambda=0.5",
    ]
    assert len(settings) == 6
    assert settings[-1] == Setting(
        "dera helpful 1 policy=safe lambda=1.0", "dera", {"helpful": 1.0}, {"policy": "safe", "lambda": 1.0}
    )


def test_no_grid_is_the_method_as_it_is() -> None:
    assert read_grid("genarm", [], {}) == [Setting("genarm")]


@pytest.mark.parametrize("texts", [["helpful"], ["=1"], ["a=1", "a=2"], ["guidance.=1"]])
def test_a_grid_that_cannot_be_read_is_quoted(texts: list[str]) -> None:
    with pytest.raises(UserError, match=f"--grid {texts[-1]}"):
        read_grid("genarm", texts, {})


def test_a_file_holds_settings_and_grids(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "settings:\n"
        "- {name: base, preferences: {}}\n"
        "- {method: mod, grid: {preferences: {helpful: '0:1:0.5'}}, parameters: {divergence: alpha}}\n"
        "- {name: kind, method: cfg, parameters: {negative_prompt: Be rude., gamma: 2}}\n"
        "- {method: dera}\n"
    )
    settings = read_settings(file)
    assert [one.preferences for one in settings] == [
        {},
        *({"helpful": weight} for weight in (0.0, 0.5, 1.0)),
        None,
        None,
    ]
    assert settings[1].parameters == {"divergence": "alpha"}
    assert (settings[0].name, settings[4].name, settings[5].name) == ("base", "kind", "dera")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: 1}", "a list of settings"),
        ("- 1", r"settings\[0\]: must be a mapping"),
        ("- {prefs: {}}", r"settings\[0\].prefs: unknown key"),
        ("- {method: 1}", r"settings\[0\].method"),
        ("- {preferences: {a: x}}", r"settings\[0\].preferences.a: must be a finite number"),
        ("- {preferences: {a: true}}", "finite number"),
        ("- {grid: {a: [1]}}", r"settings\[0\].grid.a: unknown key"),
        ("- {grid: {preferences: {a: 1}}}", r"settings\[0\].grid.preferences.a: must be a list"),
        ("- {grid: {parameters: {a: '1:2'}}}", r"settings\[0\].grid.parameters.a: '1:2' is no list"),
        ("- {}\n- {}", "two settings are called 'genarm'"),
        ("- {name: 3}", r"settings\[0\].name"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_meant_names_the_entry_and_key(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_settings(file)


def test_no_settings_are_no_sweep() -> None:
    with pytest.raises(UserError, match="at least one"):
        check_settings([])
