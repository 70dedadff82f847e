"""The pipeline that makes the demo's models, stage by stage; a stage that is done is not repeated.

    tokenizer → base → start (the small model that ARMs start from) → helpful, harmless, concise → cards

Everything under way lies in ``DIR/.build``; a stage counts as done when its folder has its final name.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from arm_models.demo.architecture import MAX_LENGTH, Shape, new_model
from arm_models.demo.cards import base_card, reward_card
from arm_models.demo.plan import REWARDS, Plan, full_plan, quick_plan
from arm_models.demo.pretraining import PretrainingSettings, Transcript, pretrain
from arm_models.demo.tokenizer import train_tokenizer
from arm_models.demo.world.conversations import held_out_conversations, transcript
from arm_models.demo.world.preferences import preference_pair
from arm_models.errors import UserError
from arm_models.evaluation.generation import PlainAnswerer
from arm_models.evaluation.sweep import Sweep, sweep
from arm_models.training import TrainConfig, train_reward
from arm_models.whole_file import write_whole

BUILD_JSON = "build.json"
_HELD_OUT_PAIRS = 256
# The two supervised models read different conversations of one seed.
_START_OFFSET = 10_000_000
_PAIR_OFFSET = 1_000_000


@dataclass(frozen=True)
class Build:
    """One build: where it goes, and what decides its result."""

    out: Path
    seed: int
    quick: bool

    @property
    def plan(self) -> Plan:
        """Sizes and lengths."""
        return quick_plan(self.seed) if self.quick else full_plan(self.seed)

    @property
    def work(self) -> Path:
        """Where unfinished stages live."""
        return self.out / ".build"

    @property
    def identity(self) -> dict[str, Any]:
        """What two builds have in common when one may go on with the other's stages."""
        return {"seed": self.seed, "quick": self.quick, "plan": asdict(self.plan)}

    def run(self, say: Callable[[str], None]) -> None:
        """Run every stage that is not done. Raises ``UserError`` when ``out`` holds a build of other settings."""
        if self._is_complete():
            say(f"{self.out} is complete: nothing to do")
            return
        self._begin()
        started = time.monotonic()
        self._stage("tokenizer", self._make_tokenizer, say)
        self._stage("base", self._make_base, say)
        self._stage("start", self._make_start, say)
        for reward in REWARDS:
            self._train_reward(reward, say)
        self._publish(started, say)

    def _is_complete(self) -> bool:
        if (self.out / BUILD_JSON).is_file():
            self._check_identity(self.out / BUILD_JSON)
            return True
        return False

    def _begin(self) -> None:
        record = self.work / BUILD_JSON
        if record.is_file():
            self._check_identity(record)
            return
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out}: is a file")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {self.out}: {error.strerror}") from error
        _write_json(record, self.identity)

    def _check_identity(self, record: Path) -> None:
        found = json.loads(record.read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(self.identity))
        if {name: found.get(name) for name in wanted} != wanted:
            raise UserError(
                f"--out {self.out}: holds a build with other settings (seed {found.get('seed')}, "
                f"quick {found.get('quick')}); remove it or choose another folder"
            )

    def _stage(self, name: str, make: Callable[[Path], None], say: Callable[[str], None]) -> None:
        """``make`` a folder beside its place and rename it, unless it is there."""
        if (self.work / name).is_dir():
            say(f"{name}: done before")
            return
        say(f"{name} ...")
        with _beside(self.work / name) as folder:
            make(folder)

    def _make_tokenizer(self, folder: Path) -> None:
        texts = (
            message["content"]
            for index in range(self.plan.tokenizer_texts)
            for message in transcript(self.seed, index)
        )
        train_tokenizer(texts, self.plan.vocabulary, MAX_LENGTH).save_pretrained(folder)

    def _make_base(self, folder: Path) -> None:
        plan = self.plan
        read = partial(transcript, self.seed, made_up=plan.made_up)
        self._pretrain("base", plan.base_shape, plan.base, read, folder)

    def _make_start(self, folder: Path) -> None:
        plan = self.plan
        self._pretrain(
            "start",
            plan.reward_shape,
            plan.reward_start,
            lambda index: transcript(self.seed, _START_OFFSET + index),
            folder,
        )

    def _pretrain(
        self,
        name: str,
        shape: Shape,
        settings: PretrainingSettings,
        read: Callable[[int], Transcript],
        folder: Path,
    ) -> None:
        tokenizer = AutoTokenizer.from_pretrained(self.work / "tokenizer")
        model = new_model(shape, tokenizer, self.seed)
        state = self.work / f"{name}.state.pt"
        loss = pretrain(model, tokenizer, read, settings, state, name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _write_json(folder / "pretraining.json", {"loss": round(loss, 4)})

    def _train_reward(self, reward: str, say: Callable[[str], None]) -> None:
        """An ARM through ``genarm train``'s own entry; it resumes and publishes by itself."""
        folder = self.work / reward
        if (folder / "arm.json").is_file():
            say(f"{reward}: done before")
            return
        say(f"{reward} ...")
        settings = self.plan.rewards[reward]
        train = self._write_pairs(reward, "train", 0, settings.steps * settings.batch_size)
        held_out = self._write_pairs(reward, "held-out", _PAIR_OFFSET, _HELD_OUT_PAIRS)
        train_reward(
            TrainConfig(
                model_name_or_path=str(self.work / "start"),
                dataset_name=str(train),
                eval_dataset=str(held_out),
                output_dir=str(folder),
                reward_name=reward,
                beta=settings.beta,
                sft_weight=settings.sft_weight,
                learning_rate=settings.learning_rate,
                warmup_ratio=0.05,
                adam_beta2=0.98,
                num_train_epochs=1.0,
                per_device_train_batch_size=settings.batch_size,
                gradient_accumulation_steps=1,
                save_steps=max(1, settings.steps // 4),
                save_total_limit=1,
                resume_from_checkpoint="auto",
                seed=self.seed,
                use_cpu=True,
            )
        )

    def _write_pairs(self, reward: str, split: str, first: int, count: int) -> Path:
        """``count`` pairs of different answers as JSONL, beside and then renamed."""
        file = self.work / f"{reward}-{split}.jsonl"
        if not file.is_file():
            part = file.with_suffix(".part")
            with part.open("w", encoding="utf-8") as lines:
                for pair in _pairs(reward, self.seed, first, count):
                    lines.write(json.dumps(pair) + "\n")
            part.replace(file)
        return file

    def _publish(self, started: float, say: Callable[[str], None]) -> None:
        """Halve the weights, score the models on held-out prompts, write the cards, and move all into place."""
        say("held-out figures and cards ...")
        for name in ("base", *REWARDS):
            with _beside(self.work / "ready" / name) as folder:
                _half_precision(self.work / name, folder, self.plan.sharpness if name == "base" else 1.0)
        scored = self._scored()
        for name in ("base", *REWARDS):
            folder = self.work / "ready" / name
            if name == "base":
                loss = json.loads((self.work / "base" / "pretraining.json").read_text(encoding="utf-8"))[
                    "loss"
                ]
                card = base_card(self.plan, self.seed, scored, loss, _parameters(folder))
            else:
                arm = json.loads((folder / "arm.json").read_text(encoding="utf-8"))
                card = reward_card(name, self.plan, self.seed, scored, arm, _parameters(folder))
            (folder / "README.md").write_text(card, encoding="utf-8")
            shutil.rmtree(self.out / name, ignore_errors=True)
            folder.rename(self.out / name)
        minutes = round((time.monotonic() - started) / 60, 1)
        _write_json(self.out / BUILD_JSON, self.identity)
        shutil.rmtree(self.work)
        say(f"{self.out}: base and {', '.join(REWARDS)}, {minutes} minutes")

    def _scored(self) -> Sweep:
        """The base, and the base with each reward at weight 1."""
        models = {name: _load(self.work / "ready" / name) for name in ("base", *REWARDS)}
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.work / "tokenizer")
        answerer = PlainAnswerer(models.pop("base"), models, tokenizer)
        weights = [{}, *({reward: 1.0} for reward in REWARDS)]
        return sweep(
            answerer, held_out_conversations(self.plan.held_out_prompts, self.seed), weights, self.seed
        )


def _pairs(reward: str, seed: int, first: int, count: int) -> Iterator[dict[str, Any]]:
    found, index = 0, first
    while found < count:
        pair = preference_pair(reward, seed, index)
        index += 1
        if pair.chosen != pair.rejected:
            found += 1
            yield dict(pair.as_conversation())


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A fresh folder beside ``folder`` that takes its name when the block ends well."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _load(folder: Path) -> LlamaForCausalLM:
    model: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def _half_precision(source: Path, target: Path, sharpness: float) -> None:
    """The checkpoint in bfloat16, its head scaled, with its tokenizer and, for an ARM, its arm.json."""
    model = _load(source)
    if sharpness != 1.0:
        model.lm_head.weight.data.mul_(sharpness)
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    if (source / "arm.json").is_file():
        shutil.copyfile(source / "arm.json", target / "arm.json")


def _parameters(folder: Path) -> int:
    return sum(parameter.numel() for parameter in _load(folder).parameters())


def _write_json(file: Path, value: dict[str, Any]) -> None:
    write_whole(file, json.dumps(value, indent=2) + "\n")
