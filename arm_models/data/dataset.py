"""A JSONL file of preference pairs: every line is used, counted as a tie, or refused by its number."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arm_models.data.helpsteer import HELPSTEER2, HELPSTEER3
from arm_models.data.hh_rlhf import HH_RLHF
from arm_models.data.pair import Format, PreferencePair, Row, RowError, Tie
from arm_models.data.pku_saferlhf import PKU_BETTER, PKU_SAFER
from arm_models.data.standard import IMPLICIT, STANDARD
from arm_models.data.ultrafeedback import ULTRAFEEDBACK
from arm_models.errors import UserError

FORMATS = (HELPSTEER2, HELPSTEER3, PKU_BETTER, PKU_SAFER, ULTRAFEEDBACK, HH_RLHF, STANDARD, IMPLICIT)
"""Every form of preference data; the first that matches the first row is the file's."""
AUTO = "auto"


@dataclass(frozen=True)
class PreferenceData:
    """The pairs of a file in its order, its form, how many ties it had, and the sha256 of its bytes."""

    pairs: tuple[PreferencePair, ...]
    format: str
    ties: int
    digest: str


def read_pairs(path: Path | str, dataset_format: str = AUTO) -> PreferenceData:
    """The preference pairs of a JSONL file.

    dataset_format: a name in ``FORMATS``, or "auto": by the columns of the first row. Raises UserError with the line
    number and the field for a line that is not of that form, for a missing file, and for one without pairs.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"dataset {path}: {error.strerror or error}") from error
    pairs: list[PreferencePair] = []
    ties = 0
    chosen_format: Format | None = None
    for number, row in _rows(path, content):
        try:
            chosen_format = chosen_format or find_format(dataset_format, row)
            pair = chosen_format.pair(row)
            if pair.chosen == pair.rejected:
                raise Tie
            pairs.append(pair)
        except Tie:
            ties += 1
        except RowError as error:
            raise UserError(f"{path} line {number}: {error}") from error
    if chosen_format is None or not pairs:
        raise UserError(
            f"dataset {path}: no preference pairs in it" + (f", only {ties} ties" if ties else "")
        )
    return PreferenceData(tuple(pairs), chosen_format.name, ties, hashlib.sha256(content).hexdigest())


def find_format(name: str, row: Row) -> Format:
    """The form called ``name``, or under "auto" the one whose columns ``row`` has.

    Raises UserError for an unknown name, RowError when the columns fit no form or the choice is not ours.
    """
    if name != AUTO:
        named = [form for form in FORMATS if form.name == name]
        if not named:
            known = ", ".join(form.name for form in FORMATS)
            raise UserError(f"dataset_format: no form {name!r}; there are auto, {known}")
        return named[0]
    if PKU_BETTER.matches(row) and PKU_SAFER.matches(row):
        raise RowError(
            "better_response_id, safer_response_id: both are here; say which one to learn with "
            f"--dataset_format {PKU_BETTER.name} or {PKU_SAFER.name}"
        )
    for form in FORMATS:
        if form.matches(row):
            return form
    if "chosen" not in row or "rejected" not in row:
        missing = "chosen" if "chosen" not in row else "rejected"
        raise RowError(f"{missing}: missing, and the columns {sorted(row)} are of no known form")
    kinds = ", ".join(
        f"{field} {type(row.get(field)).__name__}" for field in ("prompt", "chosen", "rejected")
    )
    raise RowError(f"prompt, chosen, rejected: must all be text or all be lists of messages, got {kinds}")


def split_by_prompt(
    pairs: tuple[PreferencePair, ...], fraction: float, seed: int
) -> tuple[tuple[PreferencePair, ...], tuple[PreferencePair, ...]]:
    """(training, held out): ``fraction`` of the PROMPTS with all their pairs are held out, chosen by ``seed``.

    Raises UserError where one side would be empty.
    """
    prompts = {pair.prompt_key for pair in pairs}
    ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed}\0{prompt}".encode()).digest())
    held_out = set(ranked[: round(fraction * len(ranked))])
    if not held_out or len(held_out) == len(prompts):
        raise UserError(f"eval_fraction: {fraction} of {len(prompts)} prompts leaves one side empty")
    return (
        tuple(pair for pair in pairs if pair.prompt_key not in held_out),
        tuple(pair for pair in pairs if pair.prompt_key in held_out),
    )


def _rows(path: Path, content: bytes) -> Iterator[tuple[int, Row]]:
    """(line number from 1, object) of every line that is not blank; raises UserError."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: must be a JSON object, got {type(row).__name__}")
        yield number, row
