"""The ways of answering that are compared: a method with its preferences and parameters, alone or as a grid."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from arm_models.errors import UserError

DEFAULT_METHOD = "genarm"
_KEYS = ("name", "method", "preferences", "parameters", "grid")
_MOST = 10_000


@dataclass(frozen=True)
class Setting:
    """One way of answering: what goes into a request's ``guidance`` and ``preferences``.

    ``preferences`` None leaves them to the method. ``name`` is unique in a sweep and says what was set.
    """

    name: str
    method: str = DEFAULT_METHOD
    preferences: Mapping[str, float] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As a sweep's file holds it."""
        preferences = None if self.preferences is None else dict(self.preferences)
        return {
            "name": self.name,
            "method": self.method,
            "preferences": preferences,
            "parameters": dict(self.parameters),
        }


def described(method: str, preferences: Mapping[str, float] | None, parameters: Mapping[str, Any]) -> str:
    """A setting's name unless it is given one, e.g. "genarm helpful 0.5 harmless 1 beta=2"."""
    words = [f"{name} {weight:g}" for name, weight in (preferences or {}).items()]
    words += [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in parameters.items()
    ]
    return " ".join([method, *words])


def grid(
    method: str,
    preferences: Mapping[str, Sequence[float]],
    parameters: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> list[Setting]:
    """Every combination of the values that preferences and parameters may have, the last one varying fastest."""
    settings = []
    for weights in itertools.product(*preferences.values()):
        for values in itertools.product(*parameters.values()):
            chosen = dict(zip(preferences, weights, strict=True)) if preferences else None
            given = dict(zip(parameters, values, strict=True))
            settings.append(Setting(described(method, chosen, given), method, chosen, given))
    return settings


def read_values(text: str) -> list[float]:
    """ "0:1:0.25" (start, end that is reached, step) or "0,0.5,2" as numbers; raises ``UserError``."""
    parts = text.split(":")
    try:
        if len(parts) == 1:
            values = [float(part) for part in text.split(",")]
        elif len(parts) == 3:
            values = _steps(*map(float, parts))
        else:
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(f"{text!r} is no list of numbers: write start:end:step or value,value,…") from None
    if not all(map(math.isfinite, values)):
        raise UserError(f"{text!r}: every value must be finite")
    return values


def read_grid(method: str, texts: Sequence[str], parameters: Mapping[str, Any]) -> list[Setting]:
    """A grid from the command line: ``NAME=VALUES`` for a preference, ``guidance.NAME=VALUES`` for a parameter.

    ``parameters`` hold in every setting. Raises ``UserError`` that quotes what cannot be read.
    """
    weights: dict[str, list[float]] = {}
    values: dict[str, list[Any]] = {name: [value] for name, value in parameters.items()}
    for text in texts:
        name, equals, listed = text.partition("=")
        target: dict[str, Any] = values if name.startswith("guidance.") else weights
        name = name.removeprefix("guidance.")
        if not (name and equals):
            raise UserError(f"--grid {text}: write NAME=VALUES")
        if name in target:
            raise UserError(f"--grid {text}: {name} is given twice")
        target[name] = read_values(listed)
    return grid(method, weights, values)


def read_settings(path: Path) -> list[Setting]:
    """The settings a YAML file lists; raises ``UserError`` naming the file, the entry and the key at fault.

    An entry has ``method``, ``preferences``, ``parameters``, ``name``, and ``grid: {preferences: …, parameters: …}`` whose values
    are lists, or numbers as ``read_values`` reads them.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    entries = content.get("settings") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: must be a list of settings, or have one under `settings`")
    settings: list[Setting] = []
    for number, entry in enumerate(entries):
        settings += _entry(entry, f"{path}: settings[{number}]")
    check_settings(settings)
    return settings


def check_settings(settings: Sequence[Setting]) -> None:
    """Raise ``UserError`` for none, too many to be meant, and two of one name."""
    if not settings:
        raise UserError("a sweep needs at least one setting")
    if len(settings) > _MOST:
        raise UserError(f"a sweep has at most {_MOST} settings, this one {len(settings)}")
    names = [setting.name for setting in settings]
    twice = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if twice is not None:
        raise UserError(f"two settings are called {twice!r}")


def _steps(start: float, end: float, step: float) -> list[float]:
    if not step > 0 or end < start or not math.isfinite(end - start) or (end - start) / step > _MOST:
        raise ValueError
    count = math.floor((end - start) / step + 1e-9) + 1
    # Rounded so that 0.1 steps are called 0.3 and not 0.30000000000000004.
    return [round(start + number * step, 12) for number in range(count)]


def _entry(entry: object, at: str) -> Iterator[Setting]:
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        raise UserError(f"{at}: must be a mapping with the keys {', '.join(_KEYS)}")
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{at}.{key}: unknown key (known: {', '.join(_KEYS)})")
    grids = _mapping(entry.get("grid"), f"{at}.grid")
    for key in grids:
        if key not in ("preferences", "parameters"):
            raise UserError(f"{at}.grid.{key}: unknown key (known: preferences, parameters)")
    method = entry.get("method", DEFAULT_METHOD)
    if not isinstance(method, str):
        raise UserError(f"{at}.method: must be a method's name")
    fixed = _mapping(entry.get("preferences"), f"{at}.preferences")
    weights = {name: [_number(value, f"{at}.preferences.{name}")] for name, value in fixed.items()}
    for name, values in _mapping(grids.get("preferences"), f"{at}.grid.preferences").items():
        where = f"{at}.grid.preferences.{name}"
        weights[name] = [_number(value, where) for value in _listed(values, where)]
    parameters = {
        name: [value] for name, value in _mapping(entry.get("parameters"), f"{at}.parameters").items()
    }
    for name, values in _mapping(grids.get("parameters"), f"{at}.grid.parameters").items():
        parameters[name] = _listed(values, f"{at}.grid.parameters.{name}")
    found = grid(method, weights, parameters)
    # Given but empty is a choice (every weight 0), other than leaving it to the method.
    if isinstance(entry.get("preferences"), dict) and not weights:
        found = [Setting(one.name, method, {}, one.parameters) for one in found]
    yield from _named(found, entry.get("name"), at)


def _named(settings: Sequence[Setting], name: object, at: str) -> Iterable[Setting]:
    if name is None:
        return settings
    if not isinstance(name, str) or not name:
        raise UserError(f"{at}.name: must be text")
    if len(settings) == 1:
        return [Setting(name, one.method, one.preferences, one.parameters) for one in settings]
    return [Setting(f"{name}: {one.name}", one.method, one.preferences, one.parameters) for one in settings]


def _mapping(value: object, at: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{at}: must be a mapping")
    return value


def _listed(values: object, at: str) -> list[Any]:
    if isinstance(values, str):
        try:
            return list(read_values(values))
        except UserError as error:
            raise UserError(f"{at}: {error}") from None
    if not isinstance(values, list) or not values:
        raise UserError(f"{at}: must be a list of values, or text such as '0:1:0.1'")
    return values


def _number(value: object, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{at}: must be a finite number, got {value!r}")
    return float(value)
