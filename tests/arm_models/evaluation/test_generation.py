"""The plain answerer against a loop that has neither batch nor cache."""

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from arm_models.demo.architecture import Shape, new_model
from arm_models.demo.tokenizer import train_tokenizer
from arm_models.demo.world.conversations import held_out_conversations, transcript
from arm_models.evaluation.generation import PlainAnswerer, Prompt


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(
        (turn["content"] for index in range(100) for turn in transcript(0, index)), 400, 256
    )


@pytest.fixture(scope="module")
def answerer(tokenizer: PreTrainedTokenizerFast) -> PlainAnswerer:
    shape = Shape(layers=1, hidden=32, intermediate=64, heads=2, kv_heads=1, tied=False)
    models: list[LlamaForCausalLM] = [new_model(shape, tokenizer, seed).eval() for seed in range(3)]
    for model in models:
        # Untrained models hardly tell tokens apart; larger weights make the mix matter.
        model.lm_head.weight.data.mul_(20.0)
    return PlainAnswerer(
        models[0], {"helpful": models[1], "harmless": models[2]}, tokenizer, max_tokens=12, batch_size=3
    )


@torch.inference_mode()
def one_by_one(answerer: PlainAnswerer, prompt: Prompt) -> str:
    """z_base + Σ α z_arm from whole forwards, drawn by the same uniforms."""
    tokenizer = answerer.tokenizer
    ids = tokenizer.apply_chat_template(
        list(prompt.messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    uniforms = torch.rand(answerer.max_tokens, generator=torch.Generator().manual_seed(prompt.seed))
    answer: list[int] = []
    while len(answer) < answerer.max_tokens and tokenizer.eos_token_id not in answer:
        whole = torch.tensor([ids + answer])
        logits = answerer.base(whole).logits[0, -1]
        for name, model in answerer.rewards.items():
            logits = logits + prompt.weights.get(name, 0.0) * model(whole).logits[0, -1]
        cumulative = logits.double().softmax(-1).cumsum(-1)
        answer.append(int((cumulative <= uniforms[len(answer)].double() * cumulative[-1]).sum()))
    text: str = tokenizer.decode(answer, skip_special_tokens=True)
    return text


def test_answers_are_those_of_plain_forwards_row_by_row(answerer: PlainAnswerer) -> None:
    weights = ({}, {"helpful": 1.5}, {"helpful": 0.5, "harmless": -1.0}, {"harmless": 2.0}, {"helpful": 1.0})
    prompts = [
        Prompt(conversation.messages, weights[index % 5], index)
        for index, conversation in enumerate(held_out_conversations(7, 0))
    ]
    assert answerer(prompts) == [one_by_one(answerer, prompt) for prompt in prompts]


def test_weights_and_seeds_change_the_answer(answerer: PlainAnswerer) -> None:
    messages = held_out_conversations(1, 0)[0].messages
    prompts = [Prompt(messages, {}, 0), Prompt(messages, {"helpful": 2.0}, 0), Prompt(messages, {}, 1)]
    assert len(set(answerer(prompts))) == 3
