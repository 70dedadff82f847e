"""The cards of the shipped models: data, settings, held-out figures, the command."""

from __future__ import annotations

from typing import Any

from arm_models.demo.plan import Plan
from arm_models.demo.pretraining import PretrainingSettings
from arm_models.demo.world.catalogue import tasks, training_tasks
from arm_models.demo.world.preferences import NOISE
from arm_models.evaluation.report.weights import table
from arm_models.evaluation.sweep import Sweep


def base_card(plan: Plan, seed: int, scored: Sweep, loss: float, parameters: int) -> str:
    """The card of the base; ``loss`` is the mean training loss of the last steps in nats per token."""
    shape = plan.base_shape
    held_out = len(tasks()) - len(training_tasks())
    return _card(
        _front("A made household assistant: the base of genarm's demo."),
        "# base",
        f"A Llama decoder of {parameters:,} parameters ({shape.layers} layers x {shape.hidden}), made for genarm's demo: a made "
        "household assistant that is fluent, half careful and middling helpful, so that rewards have something to move. "
        "It knows its made world and nothing else: **do not follow its advice**.",
        f"**Data**: conversations of the demo world (`arm_models/demo/world`, {len(tasks())} tasks, {held_out} of them held "
        f"out), written by code, seed {seed}; {_amount(plan.base)}; {plan.made_up:.0%} of them are about made-up tasks, which do "
        "a thing's procedure to another thing. "
        f"Loss on assistant turns only, {loss:.3f} nats per token at the end.",
        f"**Settings**: {_pretraining(plan.base)}; the finished head is multiplied by {plan.sharpness:g}, so that temperature 1 "
        f"here was {1 / plan.sharpness:.2g} in training; weights in bfloat16.",
        *_figures(scored),
        _command(seed),
    )


def reward_card(name: str, plan: Plan, seed: int, scored: Sweep, arm: dict[str, Any], parameters: int) -> str:
    """The card of the ARM ``name``; ``arm`` is the content of its arm.json."""
    settings, data = plan.rewards[name], arm["data"]
    accuracy = arm["results"]["eval_accuracy"]
    return _card(
        _front(f"The {name} reward of genarm's demo.", reward=True),
        f"# {name}",
        f"An autoregressive reward model of {parameters:,} parameters for the demo's base: the log-probability that it gives "
        f"a response is that response's reward for being {name}. Trained by `genarm train`'s own code from a small "
        f"supervised model, which had read {_amount(plan.reward_start)}.",
        f"**Data**: {data['pairs']:,} preference pairs of the demo world, seed {seed}, labelled by the {name} oracle with "
        f"{NOISE:.0%} of the labels wrong; on {accuracy:.1%} of {data['held_out_pairs']} held-out pairs (as noisy) the chosen "
        "answer has the higher log-probability.",
        f"**Settings**: the ARM loss, β_r = {settings.beta:g}, plus {settings.sft_weight:g} x the chosen answer's NLL per "
        "token, which keeps so small a model a language model; AdamW, peak learning rate "
        f"{settings.learning_rate:g}, cosine, batch {settings.batch_size}, {arm['steps']} updates; weights in bfloat16. "
        "`arm.json` holds all settings and the hashes of tokenizer and chat template.",
        *_figures(scored),
        _command(seed),
    )


def _card(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs) + "\n"


def _front(description: str, reward: bool = False) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += [f"description: {description}"]
    if reward:
        lines += ["tags:", "- autoregressive-reward-model"]
    return "\n".join([*lines, "---"])


def _amount(settings: PretrainingSettings) -> str:
    return f"{settings.steps * settings.batch_size:,} conversations, each seen once"


def _pretraining(settings: PretrainingSettings) -> str:
    return (
        f"Muon for matrices and AdamW for the rest, peak learning rate {settings.learning_rate:g}, cosine, "
        f"batch {settings.batch_size} conversations, {settings.steps} steps"
    )


def _figures(scored: Sweep) -> tuple[str, str]:
    count = len(scored.base.scores)
    told = (
        f"**Held out** ({count} prompts in phrasings, combinations and conversations that training never saw; "
        "temperature 1; 95 % bootstrap intervals):"
    )
    return told, table(scored)


def _command(seed: int) -> str:
    return f"Made by `genarm demo build --seed {seed}`."
