"""A method's row in the engine's words."""

from __future__ import annotations

from typing import Any

from server.decoding import Row


def asked(row: Row) -> dict[str, Any]:
    """Fields of a ``SequenceRequest`` besides the mix; those that are off are left out."""
    return {**({"power": row.power} if row.power else {}), **changeable(row)}


def changeable(row: Row) -> dict[str, Any]:
    """Those of them that a change in mid-answer gives anew."""
    fields: dict[str, Any] = {}
    if row.conditions:
        fields["conditions"] = dict(row.conditions)
    if row.candidates is not None:
        from server.engine import CandidateScoring

        fields["candidates"] = CandidateScoring(row.candidates.k, dict(row.candidates.weights))
    return fields
