"""The shipped checkpoints: they are there, they fit together and their cards, and they do what the README says."""

import json
import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arm_models.demo.deployment import CHECKPOINTS, demo_deployment
from arm_models.demo.plan import REWARDS, full_plan
from arm_models.demo.world.conversations import held_out_conversations
from arm_models.evaluation.generation import PlainAnswerer
from arm_models.evaluation.sweep import Sweep, sweep
from arm_models.loading import ModelSource, load_family
from arm_models.tokenizer_hash import template_hash, tokenizer_hash

NAMES = ("base", *REWARDS)
MEGABYTE = 1_000_000


def test_they_are_all_there_within_30_megabytes() -> None:
    assert not demo_deployment().missing
    assert sum(file.stat().st_size for file in CHECKPOINTS.rglob("*") if file.is_file()) <= 30 * MEGABYTE


def test_they_load_as_one_family() -> None:
    demo = demo_deployment()
    family = load_family(
        ModelSource("base", str(demo.base)), [ModelSource(one.name, str(one.path)) for one in demo.rewards]
    )
    assert [reward.name for reward in family.rewards] == list(REWARDS)
    assert family.eos_ids == {family.base.tokenizer.convert_tokens_to_ids("<|end|>")}


@pytest.mark.parametrize("reward", REWARDS)
def test_arm_json_names_the_reward_and_the_hashes_of_the_base(reward: str) -> None:
    arm = json.loads((CHECKPOINTS / reward / "arm.json").read_text())
    base = AutoTokenizer.from_pretrained(CHECKPOINTS / "base")
    plan = full_plan(0).rewards[reward]
    assert arm["reward_name"] == reward
    assert arm["beta_r"] == plan.beta
    assert arm["steps"] == plan.steps
    assert arm["base_tokenizer_sha256"] == tokenizer_hash(base)
    assert arm["chat_template_sha256"] == template_hash(base)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_the_size_the_data_the_figures_and_the_command(name: str) -> None:
    card = (CHECKPOINTS / name / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / name)
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in card
    for said in ("**Data**", "**Settings**", "**Held out** (240 prompts", "genarm demo build --seed 0"):
        assert said in card


def test_presets_and_ranges_name_shipped_rewards() -> None:
    demo = demo_deployment()
    ranges = {reward.name: reward.range for reward in demo.rewards}
    for weights in demo.presets.values():
        for name, weight in weights.items():
            low, high = ranges[name]
            assert low <= weight <= high
    assert {"balanced", "helpful", "harmless", "concise"} <= set(demo.presets)


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    assert demo_deployment(tmp_path).missing[0] == tmp_path / "base"


@pytest.fixture(scope="module")
def scored() -> Sweep:
    models = {
        name: AutoModelForCausalLM.from_pretrained(CHECKPOINTS / name, dtype=torch.float32).eval()
        for name in NAMES
    }
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "base")
    weights = ({}, {"helpful": 1.0}, {"harmless": 1.0}, {"concise": 1.0})
    return sweep(
        PlainAnswerer(models.pop("base"), models, tokenizer), held_out_conversations(60, 1), weights, 1
    )


@pytest.mark.slow
def test_each_reward_moves_its_own_score_and_answers_stay_fluent(scored: Sweep) -> None:
    base = scored.base
    lift = statistics.mean(scored.row(helpful=1.0).helpful) - statistics.mean(base.helpful)
    assert lift > 0.7 * base.helpful_spread
    assert 0.25 <= statistics.mean(base.harmless) <= 0.75
    assert statistics.mean(scored.row(harmless=1.0).harmless) >= 0.8
    assert statistics.mean(scored.row(concise=1.0).words) <= 0.75 * statistics.mean(base.words)
    for row in scored.rows:
        assert statistics.mean(row.fluent) >= 0.88
