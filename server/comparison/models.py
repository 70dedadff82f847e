"""The models of the comparison, each trained by `genarm train` from the demo's base or the small start model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arm_models.demo.deployment import demo_deployment
from arm_models.demo.world.preferences import preference_pair
from arm_models.whole_file import write_whole
from server.comparison.plan import Plan, Training
from server.comparison.stages import Stage

OBJECTIVES = ("helpful", "harmless")
PAIR_SEED = 1000
"""A training seed's pairs are those of the world's seed ``PAIR_SEED`` + it; nothing that is shipped has read them."""

SOUP = "soup"


@dataclass(frozen=True)
class Models:
    """Where everything lies below ``folder``, and the stages that make it."""

    plan: Plan
    folder: Path

    @property
    def base(self) -> Path:
        """The shipped base, which is guided and which policies are trained from."""
        return demo_deployment().base

    @property
    def start(self) -> Path:
        """The small model that small rewards start from."""
        return self.folder / "models" / "start"

    def model(self, seed: int, name: str) -> Path:
        """A trained model of a seed, e.g. ``helpful-arm``."""
        return self.folder / "models" / str(seed) / name

    def stages(self) -> list[Stage]:
        """Everything that has to be trained."""
        return [self._start_stage(), *(stage for seed in self.plan.seeds for stage in self._of_seed(seed))]

    def soup_points(self) -> list[float]:
        """Shares of the helpful policy in the soups between the two policies, the ends (which are these) left out."""
        last = self.plan.simplex - 1
        return [round(number / last, 6) for number in range(1, last)]

    def _of_seed(self, seed: int) -> Iterator[Stage]:
        for objective in OBJECTIVES:
            yield self._train(seed, f"{objective}-arm", "arm", objective)
            yield self._train(seed, f"{objective}-dpo", "dpo", objective)
        for kind in ("arm", "bt", "prefix"):
            yield self._train(seed, f"helpful-small-{kind}", f"small-{kind}", "helpful")
        if seed == self.plan.seeds[0]:
            for strength, beta in self.plan.dera_betas.items():
                yield self._train(seed, retrained(strength), "dpo", "helpful", {"beta": beta})
            yield self._parm(seed)
            yield self._train(seed, "helpful-tr-dpo", "tr-dpo", "helpful")
            yield self._train(seed, "helpful-small-dpo", "small-dpo", "helpful")
        yield from self._soups(seed)

    def _start_stage(self) -> Stage:
        plan = self.plan
        arguments = (str(self.start), str(self.base), str(plan.start_steps), str(plan.start_batch))
        seconds = 10 + 0.55 * plan.start_steps * plan.start_batch / 32
        return Stage(
            "start", ("-m", "server.comparison.pretraining", *arguments), (), seconds, output=self.start
        )

    def _train(
        self, seed: int, name: str, kind: str, objective: str, changes: Mapping[str, Any] | None = None
    ) -> Stage:
        training = self.plan.trainings[kind]
        data = {"dataset_name": str(self._pairs(seed, objective))}
        return self._training(seed, name, training, {**data, **(changes or {})}, _COSTS[kind])

    def _parm(self, seed: int) -> Stage:
        files = ",".join(f"{objective}={self._pairs(seed, objective)}" for objective in OBJECTIVES)
        return self._training(
            seed, "parm", self.plan.trainings["parm"], {"objectives": files}, _COSTS["parm"]
        )

    def _training(
        self, seed: int, name: str, training: Training, own: Mapping[str, Any], cost: float
    ) -> Stage:
        config = {
            "loss": training.loss,
            "model_name_or_path": str(self.start if training.small else self.base),
            "output_dir": str(self.model(seed, name)),
            "reward_name": name,
            "max_steps": training.updates,
            "per_device_train_batch_size": training.batch,
            "gradient_accumulation_steps": 1,
            "warmup_ratio": 0.05,
            "adam_beta2": 0.98,
            "save_steps": 100,
            "save_total_limit": 1,
            "resume_from_checkpoint": "auto",
            "use_cpu": True,
            "seed": seed,
            **training.settings,
            **own,
        }
        file = self.folder / "configs" / f"train-{seed}-{name}.yaml"
        text = json.dumps(config, indent=1)  # JSON is YAML
        write_whole(file, text)
        return Stage(
            f"train-{seed}-{name}",
            ("-m", "server.cli", "train", "--config", str(file)),
            after=("start",) if training.small else (),
            seconds=10 + cost * training.updates * training.batch / 16,
            inputs=text,
            output=self.model(seed, name),
        )

    def _soups(self, seed: int) -> Iterator[Stage]:
        """Rewarded Soups: the weights between the two policies."""
        helpful, harmless = (self.model(seed, f"{objective}-dpo") for objective in OBJECTIVES)
        for share in self.soup_points():
            mixed = [f"{helpful}={share:g}", f"{harmless}={round(1 - share, 6):g}"]
            arguments = ["soup", *(word for one in mixed for word in ("--model", one))]
            out = self.model(seed, f"{SOUP}-{share:g}")
            arguments += ["--base", str(self.base), "--output", str(out)]
            after = tuple(f"train-{seed}-{objective}-dpo" for objective in OBJECTIVES)
            yield Stage(
                f"soup-{seed}-{share:g}",
                ("-m", "server.cli", *arguments),
                after,
                6,
                output=out,
                resumes=False,
            )

    def _pairs(self, seed: int, objective: str) -> Path:
        """A seed's preference pairs, written the first time."""
        file = self.folder / "pairs" / f"{objective}-{seed}-{self.plan.pairs}.jsonl"
        if not file.is_file():
            lines = (json.dumps(pair) for pair in _pairs(objective, PAIR_SEED + seed, self.plan.pairs))
            write_whole(file, "\n".join(lines) + "\n")
        return file


_COSTS = {
    "arm": 1.45,
    "dpo": 1.65,
    "parm": 2.6,
    "tr-dpo": 1.95,
    "small-arm": 0.6,
    "small-dpo": 0.72,
    "small-bt": 0.33,
    "small-prefix": 0.33,
}
"""Seconds that an update of 16 pairs takes on one quiet core."""


def retrained(strength: float) -> str:
    """The name of the policy that was retrained at β/λ."""
    return f"retrained-{strength:g}"


def _pairs(objective: str, seed: int, count: int) -> Iterator[dict[str, Any]]:
    index = found = 0
    while found < count:
        pair = preference_pair(objective, seed, index)
        index += 1
        if pair.chosen != pair.rejected:
            found += 1
            yield dict(pair.as_conversation())
