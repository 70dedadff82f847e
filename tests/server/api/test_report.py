"""``guidance.report``: what guidance did to an answer, in sum and for each token, against plain forwards."""

from typing import Any

import pytest
import torch

WEIGHTS = {"helpful": 1.0, "harmless": 0.5}
FIELDS: dict[str, Any] = {
    "preferences": WEIGHTS,
    "seed": 4,
    "max_tokens": 10,
    "ignore_eos": True,
    "return_token_ids": True,
}


@pytest.fixture(scope="module")
def answer(real: Any) -> dict[str, Any]:
    response = real.complete("the kettle is", guidance={"report": "tokens"}, **FIELDS)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.fixture(scope="module")
def rows(answer: dict[str, Any], declared: Any) -> dict[str, torch.Tensor]:
    """Each member's log-probs [tokens, vocab] of the answer's tokens, by plain forwards."""
    from transformers import AutoModelForCausalLM

    (choice,) = answer["choices"]
    tokens = [*choice["prompt_token_ids"], *choice["token_ids"]]
    begin = len(choice["prompt_token_ids"])
    paths = {"base": declared["base"]["model"]}
    paths |= {reward["name"]: reward["model"] for reward in declared["rewards"]}
    found = {}
    with torch.inference_mode():
        for name, path in paths.items():
            logits = AutoModelForCausalLM.from_pretrained(path)(torch.tensor([tokens])).logits[0]
            found[name] = logits[begin - 1 : -1].log_softmax(-1)
    return found


def test_each_tokens_figures_are_those_of_plain_forwards(
    real: Any, answer: dict[str, Any], rows: dict[str, torch.Tensor]
) -> None:
    (choice,) = answer["choices"]
    told = choice["guidance"]["tokens"]
    assert len(told) == 10
    mixed = rows["base"] + sum(weight * rows[name] for name, weight in WEIGHTS.items())
    mixed = mixed.log_softmax(-1)
    token_bytes = real.serving.runtime.tokenizer.token_bytes
    for place, (token, entry) in enumerate(zip(choice["token_ids"], told, strict=True)):
        assert set(entry) == {"token", "kl", "base_logprob", "rewards", "base_top"}
        assert entry["token"] == token_bytes.text(token)
        base = rows["base"][place]
        assert entry["base_logprob"] == pytest.approx(base[token].item(), abs=1e-4)
        for name in WEIGHTS:
            assert entry["rewards"][name] == pytest.approx(rows[name][place, token].item(), abs=1e-4)
        kl = (mixed[place].exp() * (mixed[place] - base)).sum().item()
        assert entry["kl"] == pytest.approx(kl, abs=1e-4)
        assert entry["base_top"] == token_bytes.text(int(base.argmax()))


def test_the_summary_is_over_all_tokens(answer: dict[str, Any], rows: dict[str, torch.Tensor]) -> None:
    told = answer["choices"][0]["guidance"]["tokens"]
    summary = answer["guidance"]
    assert summary["mean_kl"] == pytest.approx(sum(entry["kl"] for entry in told) / 10)
    assert summary["base_logprob"] == pytest.approx(sum(entry["base_logprob"] for entry in told))
    for name in WEIGHTS:
        assert summary["rewards"][name] == pytest.approx(sum(entry["rewards"][name] for entry in told))
    mixed = rows["base"] + sum(weight * rows[name] for name, weight in WEIGHTS.items())
    flips = (mixed.argmax(-1) != rows["base"].argmax(-1)).float().mean().item()
    assert summary["flip_rate"] == pytest.approx(flips)
    assert flips > 0


def test_a_summary_comes_without_tokens_and_none_without_either(real: Any, alike: Any) -> None:
    figures = {"mean_kl", "flip_rate", "rewards", "base_logprob"}
    fields = {key: value for key, value in FIELDS.items() if key != "return_token_ids"}
    whole = real.chat(guidance={"report": "summary"}, **fields).json()
    assert figures < set(whole["guidance"])
    assert "guidance" not in whole["choices"][0]
    chunks = real.stream(guidance={"report": "summary"}, **fields)
    assert alike(chunks[-1]["guidance"], whole["guidance"])
    assert all("guidance" not in part for chunk in chunks for part in chunk["choices"])
    for report in ("none", None):
        plain = real.chat(guidance={"report": report}, **fields).json()
        assert not figures & set(plain["guidance"])
        assert plain["choices"] == whole["choices"]


def test_tokens_are_streamed_with_their_text(real: Any) -> None:
    chunks = real.stream(guidance={"report": "tokens"}, **FIELDS)
    for chunk in chunks:
        for part in chunk["choices"]:
            told = part.get("guidance", {"tokens": []})["tokens"]
            assert len(told) == len(part["token_ids"])


def test_where_the_base_speaks_alone_nothing_is_moved(real: Any) -> None:
    body = real.chat(preferences={}, guidance={"report": "tokens"}, seed=1, max_tokens=5).json()
    assert body["guidance"]["mean_kl"] == pytest.approx(0, abs=1e-6)
    assert body["guidance"]["flip_rate"] == 0
    assert body["guidance"]["rewards"] == {}


def test_several_answers_are_summed_up_together(real: Any) -> None:
    body = real.chat(n=3, guidance={"report": "tokens"}, seed=1, max_tokens=6).json()
    told = [entry for choice in body["choices"] for entry in choice["guidance"]["tokens"]]
    assert len(told) == body["usage"]["completion_tokens"]
    assert body["guidance"]["mean_kl"] == pytest.approx(sum(entry["kl"] for entry in told) / len(told))


def test_an_answer_without_tokens_has_no_means(real: Any) -> None:
    body = real.complete("a", echo=True, max_tokens=0, guidance={"report": "summary"}).json()
    summary = body["guidance"]
    assert (summary["mean_kl"], summary["flip_rate"]) == (None, None)
    assert (summary["rewards"], summary["base_logprob"]) == ({}, 0.0)


def test_max_kl_binds_every_token_and_says_what_it_left(real: Any) -> None:
    free = real.chat(guidance={"report": "tokens"}, **FIELDS).json()
    assert "max_kl" not in free["guidance"]
    assert max(entry["kl"] for entry in free["choices"][0]["guidance"]["tokens"]) > 0.3
    bound = real.chat(guidance={"report": "tokens", "max_kl": 0.25}, **FIELDS).json()
    assert bound["guidance"]["max_kl"] == 0.25
    told = bound["choices"][0]["guidance"]["tokens"]
    assert all(entry["kl"] <= 0.25 + 1e-3 for entry in told)
    assert all(0 <= entry["scale"] <= 1 for entry in told)
    assert any(entry["scale"] < 1 for entry in told)
    base = real.chat(guidance={"max_kl": 0}, **FIELDS).json()["choices"][0]["token_ids"]
    assert base == real.chat(**{**FIELDS, "preferences": {}}).json()["choices"][0]["token_ids"]
