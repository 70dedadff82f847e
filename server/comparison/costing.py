"""Times and counts every setting of a list by itself.

``python -m server.comparison.costing CONFIG SETTINGS PROMPTS SEED TOKENS OUT``, each as ``main`` takes it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from arm_models.evaluation.answers import SweepPlan
from arm_models.evaluation.prompts import demo_prompts
from arm_models.evaluation.settings import read_settings
from arm_models.whole_file import write_whole
from server.config import read_config_file, read_deployment
from server.evaluation.engine_answers import EngineAnswers


def main(config: Path, listed: Path, prompts: int, seed: int, max_tokens: int, out: Path) -> None:
    """Answer ``prompts`` of the demo's held-out prompts under each setting, one setting after the other in one engine.

    Each is run once on one prompt before it counts. ``out`` gets {name: cost} as JSON.
    """
    deployment, settings = read_deployment(read_config_file(config), str(config)), read_settings(listed)
    costs = {}
    # Without reports: to tell the KL the base is read where the method itself has no use for it.
    with EngineAnswers.load(deployment, print, settings, max_tokens=max_tokens, report=False) as answering:
        for setting in settings:
            # Other prompts than those that count: what is kept of them must not help.
            warm, counted = (
                SweepPlan([setting], demo_prompts(*one), {}).cells()
                for one in ((1, seed + 1), (prompts, seed))
            )
            answering(warm, lambda _: None)
            costs[setting.name] = asdict(answering(counted, lambda _: None))
    write_whole(out, json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    words = sys.argv[1:]
    main(Path(words[0]), Path(words[1]), int(words[2]), int(words[3]), int(words[4]), Path(words[5]))
