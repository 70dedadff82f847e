"""What is said about a trained reward: arm.json for programs, README.md for people."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arm_models.training.config import SOME_LOSSES, TrainConfig

ARM_JSON = "arm.json"
FILES = frozenset({"objectives", "eval_objectives"})
FOLDERS = ("model_name_or_path", "dataset_name", "eval_dataset", "output_dir", "chat_template_path")


@dataclass(frozen=True)
class RewardCard:
    """A trained reward: where it comes from and what it measured.

    format, pairs, held_out, digest: of the data. results: the last training figures and the held-out ones.
    """

    config: TrainConfig
    tokenizer_hash: str
    template_hash: str | None
    eos_token: str
    format: str
    pairs: int
    held_out: int
    digest: str
    steps: int
    results: dict[str, float]

    @property
    def reward_name(self) -> str:
        """What a deployment calls it unless told otherwise."""
        return self.config.reward_name or Path(self.config.output_dir).resolve().name

    def arm_json(self) -> dict[str, Any]:
        """The content of arm.json. Paths are cut to their last part: they mean nothing elsewhere."""
        settings = {name: _portable(name, value) for name, value in asdict(self.config).items()}
        for name in ("resume_from_checkpoint", "overwrite_output_dir"):
            del settings[name]
        for name in SOME_LOSSES - self.config.objective.settings:
            del settings[name]
        return {
            "version": 1,
            "reward_name": self.reward_name,
            "loss": self.config.loss,
            **({"beta_r": self.config.beta} if "beta" in self.config.objective.settings else {}),
            "base_tokenizer_sha256": self.tokenizer_hash,
            "chat_template_sha256": self.template_hash,
            "eos_token": self.eos_token,
            "data": {
                "format": self.format,
                "pairs": self.pairs,
                "held_out_pairs": self.held_out,
                "sha256": self.digest,
            },
            "steps": self.steps,
            "results": self.results,
            "settings": settings | {"learning_rate": self.config.peak_learning_rate},
        }

    def readme(self) -> str:
        """A model card."""
        config = self.config
        kind, library = self._kind()
        figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in self.results.items())
        command = " ".join(
            shlex.quote(part)
            for name, value in config.changed().items()
            if name not in ("resume_from_checkpoint", "overwrite_output_dir")
            for part in _flag(name, _portable(name, value))
        )
        task = "text-classification" if config.objective.model == "scalar" else "text-generation"
        base = _portable("model_name_or_path", config.model_name_or_path)
        hub = f"base_model: {config.model_name_or_path}\n" if base == config.model_name_or_path else ""
        serving = config.objective.serving.format(
            name=self.reward_name,
            model=Path(config.output_dir).name,
            start=base,
            objectives=", ".join(config.data_files),
        )
        files = ", ".join(f"`{Path(file).name}`" for file in config.data_files.values())
        return (
            f"---\nlibrary_name: {library}\npipeline_tag: {task}\n{hub}tags:\n- {config.loss}\n- genarm\n---\n\n"
            f"# {self.reward_name}\n\nA {kind}, trained from `{base}`: {config.objective.summary}.\n"
            "`genarm serve` guides a base model with the same tokenizer by it:\n\n"
            f"```yaml\n{serving}\n```\n\n**Loss**: {self._loss()}.\n\n"
            f"**Data**: {files} ({self.format}): {self.pairs} pairs, {self.held_out} held out; "
            f"sha256 {self.digest[:16]}….\n\n| after {self.steps} updates | |\n|---|---|\n{figures}\n\n"
            f"```\ngenarm train {command}\n```\n"
        )

    def _kind(self) -> tuple[str, str]:
        """(what it is, the library that reads it)."""
        if self.config.objective.model == "conditioned":
            return "conditioned LoRA adapter (PBLoRA)", "genarm"
        if self.config.use_peft and self.config.objective.model == "language":
            return "LoRA adapter (PEFT)", "peft"
        return "full checkpoint", "transformers"

    def _loss(self) -> str:
        """The loss and its settings."""
        used = self.config.objective.settings - FILES
        given = [f"{name} {getattr(self.config, name)}" for name in sorted(used)]
        return ", ".join([self.config.loss, *given])


def write_card(folder: Path, card: RewardCard) -> None:
    """Write arm.json and README.md into ``folder``."""
    text = json.dumps(card.arm_json(), indent=2, ensure_ascii=False) + "\n"
    (folder / ARM_JSON).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(card.readme(), encoding="utf-8")


def _portable(name: str, value: Any) -> Any:
    if name in FILES:
        parts = (item.partition("=") for text in value for item in text.split(","))
        return tuple(f"{objective}={Path(file).name}" for objective, _, file in parts)
    if name in FOLDERS and isinstance(value, str) and Path(value).expanduser().exists():
        return Path(value).expanduser().resolve().name
    return Path(value).name if name == "output_dir" else value


def _flag(name: str, value: Any) -> list[str]:
    values = [str(item) for item in value] if isinstance(value, tuple) else [str(value)]
    return [f"--{name}", *([] if value is True else values)]
