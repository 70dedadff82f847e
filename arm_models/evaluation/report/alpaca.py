"""Answers in AlpacaEval's form: [{"instruction", "output", "generator"}], as its `model_outputs`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from arm_models.evaluation.prompts import Messages, instruction
from arm_models.evaluation.summary import Row


def alpaca(rows: Sequence[Row], prompts: Sequence[Messages]) -> str:
    """One entry for every setting and prompt, the first of its samples; the setting's name is the generator."""
    entries = [
        {"instruction": instruction(messages), "output": samples[0].text, "generator": row.setting.name}
        for row in rows
        for messages, samples in zip(prompts, row.answers, strict=True)
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
