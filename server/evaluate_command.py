"""``genarm evaluate``: the demo answers held-out prompts and its oracles score them; or the answers of a sweep are scored."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arm_models.errors import UserError
from server.evaluation import sweep_report

if TYPE_CHECKING:
    from arm_models.evaluation.generation import Prompt
    from arm_models.loading import Family, LoadedModel
    from server.engine import Engine

MAX_TOKENS = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``genarm evaluate``."""
    parser.add_argument(
        "--demo",
        action="store_true",
        help="answer the demo world's held-out prompts and let its oracles score them",
    )
    parser.add_argument("--prompts", type=int, default=240, metavar="N", help="held-out prompts, default 240")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts and of every draw, default 0")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write the rows to FILE, .json or .csv"
    )
    parser.add_argument("--base", metavar="MODEL", help="a base instead of the shipped one")
    parser.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help="rewards instead of the shipped ones",
    )
    sweep_report.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table and the bars; 0 when every bar holds, 1 when one is missed. Raises ``UserError`` on misuse."""
    if args.sweep is not None:
        if args.demo:
            raise UserError("--demo and --sweep are two things to evaluate: give one")
        return sweep_report.run(args)
    if not args.demo:
        raise UserError("evaluate needs to know on what: pass --demo, or --sweep FOLDER")
    if args.prompts < 10:
        raise UserError(f"--prompts must be at least 10, not {args.prompts}")
    from arm_models.evaluation.bars import bars
    from arm_models.evaluation.report import weights as report
    from arm_models.evaluation.sweep import demo_weights, sweep

    if args.output is not None:
        report.check_output(args.output)
    base, rewards = _models(args)
    generate = _EngineAnswers.load(base, rewards)

    from tqdm import tqdm

    from arm_models.demo.world.conversations import held_out_conversations

    weights = demo_weights(tuple(rewards))
    started = time.monotonic()
    with tqdm(total=len(weights), desc="evaluating", unit="row", disable=not sys.stderr.isatty()) as bar:
        scored = sweep(
            generate,
            held_out_conversations(args.prompts, args.seed),
            weights,
            args.seed,
            done=bar.update,
        )
    checked = bars(scored) if {"helpful", "harmless", "concise"} <= set(rewards) else ()
    print(report.table(scored))
    print(
        f"\n{args.prompts} held-out prompts, seed {args.seed}, temperature 1, 95 % bootstrap intervals, ",
        end="",
    )
    print(f"standard deviation of the base's helpful scores {scored.base.helpful_spread:.2f}")
    if checked:
        print(f"\n{report.bars_text(checked)}")
    if args.output is not None:
        settings = {"prompts": args.prompts, "seed": args.seed, "base": base, "rewards": rewards}
        settings["seconds"] = round(time.monotonic() - started, 1)
        report.write(scored, checked, settings, args.output)
    return 0 if all(bar.holds for bar in checked) else 1


def _models(args: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """The base and the rewards by name, the shipped ones where none are given."""
    from arm_models.demo.deployment import demo_deployment

    demo = demo_deployment()
    rewards: dict[str, str] = {}
    for text in args.reward:
        name, equals, model = text.partition("=")
        if not (name and equals and model):
            raise UserError(f"--reward {text}: write NAME=MODEL")
        if name in rewards or name == "base":
            raise UserError(f"--reward {text}: the name {name} is taken")
        rewards[name] = model
    if demo.missing and not (args.base and rewards):
        raise UserError(f"the demo models are not there ({demo.missing[0]}): run `genarm demo build`")
    return args.base or os.fspath(demo.base), rewards or {
        reward.name: os.fspath(reward.path) for reward in demo.rewards
    }


@dataclass(frozen=True)
class _EngineAnswers:
    """Answers with the engine: all prompts of a call in one continuous batch, at temperature 1."""

    engine: Engine
    family: Family

    @classmethod
    def load(cls, base: str, rewards: dict[str, str]) -> _EngineAnswers:
        from arm_models.loading import ModelSource, load_family
        from server.engine import (
            ATTENTION,
            Engine,
            EngineConfig,
            SelfTestError,
            build_members,
            register_attention,
        )

        register_attention()
        family = load_family(
            ModelSource("base", base),
            [ModelSource(name, path) for name, path in rewards.items()],
            attention=ATTENTION,
        )
        config = EngineConfig()
        try:
            return cls(Engine(build_members(family, config), config), family)
        except SelfTestError as error:
            raise UserError(str(error)) from None

    def __call__(self, prompts: Sequence[Prompt]) -> list[str]:
        """See ``arm_models.evaluation.generation.Generate``."""
        from server.engine import SamplingParams, SequenceRequest

        members = (self.family.base, *self.family.rewards)
        requests = [
            SequenceRequest(
                id=str(index),
                prompts={member.name: _rendered(member, prompt) for member in members},
                mix={"base": 1.0, **prompt.weights},
                sampling=SamplingParams(MAX_TOKENS, seed=prompt.seed, stop_token_ids=self.family.eos_ids),
            )
            for index, prompt in enumerate(prompts)
        ]
        responses = self.engine.generate(requests)
        tokenizer = self.family.base.tokenizer
        return [
            tokenizer.decode(responses[str(index)], skip_special_tokens=True) for index in range(len(prompts))
        ]


def _rendered(member: LoadedModel, prompt: Prompt) -> list[int]:
    text = member.tokenizer.apply_chat_template(
        [dict(message) for message in prompt.messages], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = member.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
