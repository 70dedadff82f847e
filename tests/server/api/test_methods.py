"""Every method over a real socket: what it answers with is its formula over plain forwards of its models."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from arm_models.conditioned import load_conditioned, merged
from arm_models.loading.checkpoint import open_checkpoint
from server.config import read_deployment
from server.runtime import load_runtime

Shares = dict[str, torch.Tensor]
"""Log-probs [vocab] of the next token under each member, float64."""

QUESTION = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "how do I clean the oven?"},
]
AGAINST = {"negative_prompt": "be rude"}


@pytest.fixture(scope="module")
def models(make_checkpoint: Callable[..., Path]) -> dict[str, Path]:
    """What each member is loaded from."""
    return {
        "base": make_checkpoint("llama", "methods-base", seed=21),
        "arm": make_checkpoint("llama", "methods-arm", seed=22),
        "safe": make_checkpoint("llama", "methods-safe", seed=23),
        "kind": make_checkpoint("llama", "methods-kind", seed=24),
        "small": make_checkpoint("qwen2", "methods-small", seed=25),
    }


@pytest.fixture(scope="module")
def conditioned(
    make_checkpoint: Callable[..., Path], make_conditioned: Callable[..., Path]
) -> tuple[Path, Path]:
    """A backbone, and an adapter on it that is conditioned on helpful and harmless."""
    backbone = make_checkpoint("llama", "methods-backbone", seed=26)
    return backbone, make_conditioned(backbone, "methods-parm", seed=27)


@pytest.fixture(scope="module")
def scorers(make_scorer: Callable[..., Path]) -> dict[str, Path]:
    """Reward models with a scalar head."""
    return {
        "whole": make_scorer("llama", "methods-whole", seed=31),
        "prefix": make_scorer("llama", "methods-prefix", seed=32),
    }


@pytest.fixture(scope="module")
def family(
    models: dict[str, Path],
    scorers: dict[str, Path],
    conditioned: tuple[Path, Path],
    serve: Callable[..., Any],
) -> Iterator[Any]:
    """A server with every role; shared, so leave nothing running."""
    declared = {
        "model": "family",
        "base": {"model": str(models["base"]), "negative_prompt": True},
        "rewards": [
            {"name": "arm", "model": str(models["arm"])},
            {"name": "expert", "model": str(models["kind"]), "reference": str(models["small"])},
            {"name": "implicit", "model": str(models["safe"]), "reference": "base"},
        ],
        "policies": [
            {"name": "safe", "model": str(models["safe"])},
            {"name": "kind", "model": str(models["kind"]), "reference": str(models["small"])},
        ],
        "scorers": [
            {"name": "whole", "model": str(scorers["whole"]), "trained_on": "responses"},
            {"name": "prefix", "model": str(scorers["prefix"]), "trained_on": "prefixes"},
        ],
        "conditioned": {"name": "parm", "model": str(conditioned[1]), "objectives": ["helpful", "harmless"]},
        "presets": {"armed": {"arm": 1.0}},
    }
    with serve(read_deployment(declared, "test"), load_runtime) as server:
        yield server


def ask(
    server: Any, method: str, preferences: dict[str, float] | None = None, **guidance: Any
) -> dict[str, Any]:
    """The answer to ``QUESTION``, with the log-prob of every token."""
    response = server.chat(
        messages=QUESTION,
        preferences=preferences,
        guidance={"method": method, **guidance},
        logprobs=True,
        return_token_ids=True,
        max_tokens=6,
        ignore_eos=True,
        seed=7,
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def shares_of(server: Any, models: dict[str, Path], answer: dict[str, Any]) -> list[Shares]:
    """What each model alone says about each token of the answer, by transformers' own forward."""
    tokens = answer["choices"][0]["token_ids"]
    tokenizer = server.serving.runtime.tokenizer
    against = [{"role": "system", "content": "be rude"}, QUESTION[1]]
    prompt = list(tokenizer.prompts(QUESTION)["base"])
    read = {name: (path, prompt) for name, path in models.items()}
    read["negative"] = (models["base"], list(tokenizer.prompts(against)["base"]))
    said = {}
    for name, (path, begin) in read.items():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
        with torch.inference_mode():
            logits = model(torch.tensor([begin + tokens])).logits[0, len(begin) - 1 : -1]
        said[name] = logits.log_softmax(-1)
    return [{name: rows[place] for name, rows in said.items()} for place in range(len(tokens))]


CASES: list[tuple[str, dict[str, float] | None, dict[str, Any], Callable[[Shares], torch.Tensor]]] = [
    ("genarm", {"arm": 0.7}, {}, lambda p: p["base"] + 0.7 * p["arm"]),
    (
        "genarm",
        {"implicit": 0.4, "arm": -0.3},
        {},
        lambda p: 0.6 * p["base"] + 0.4 * p["safe"] - 0.3 * p["arm"],
    ),
    ("dera", None, {"policy": "safe", "lambda": 0.0}, lambda p: p["base"]),
    ("dera", None, {"policy": "safe", "lambda": 1.0}, lambda p: p["safe"]),
    ("dera", None, {"policy": "kind", "lambda": 1.5}, lambda p: 1.5 * p["kind"] - 0.5 * p["small"]),
    ("dera", {"arm": 1.0}, {"policy": "kind", "beta": 2.0}, lambda p: p["kind"] + 0.5 * p["arm"]),
    ("proxy", {"expert": 0.8}, {}, lambda p: p["base"] + 0.8 * (p["kind"] - p["small"])),
    ("mod", {"safe": 0.3, "kind": 0.7}, {}, lambda p: 0.3 * p["safe"] + 0.7 * p["kind"]),
    (
        "mod",
        {"safe": 0.3, "kind": 0.7},
        {"divergence": "forward_kl"},
        lambda p: -(0.3 * (-p["safe"]).exp() + 0.7 * (-p["kind"]).exp()).log(),
    ),
    (
        "mod",
        {"safe": 0.3, "kind": 0.7},
        {"divergence": "alpha", "divergence_alpha": 0.5},
        lambda p: -2 * (0.3 * (-0.5 * p["safe"]).exp() + 0.7 * (-0.5 * p["kind"]).exp()).log(),
    ),
    ("cfg", None, {"gamma": 0.5, **AGAINST}, lambda p: 1.5 * p["base"] - 0.5 * p["negative"]),
    ("cfg", {"arm": 0.5}, AGAINST, lambda p: 2 * p["base"] - p["negative"] + 0.5 * p["arm"]),
]


@pytest.mark.parametrize(("method", "preferences", "guidance", "formula"), CASES)
def test_an_answer_is_the_methods_formula(
    family: Any,
    models: dict[str, Path],
    method: str,
    preferences: dict[str, float] | None,
    guidance: dict[str, Any],
    formula: Callable[[Shares], torch.Tensor],
) -> None:
    answer = ask(family, method, preferences, report="summary", **guidance)
    (choice,) = answer["choices"]
    told = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    shares = shares_of(family, models, answer)
    mixed = [formula(share).log_softmax(-1) for share in shares]
    expected = [row[token].item() for row, token in zip(mixed, choice["token_ids"], strict=True)]
    assert told == pytest.approx(expected, abs=1e-4)
    kl = [(row.exp() * (row - share["base"])).sum().item() for row, share in zip(mixed, shares, strict=True)]
    assert answer["guidance"]["mean_kl"] == pytest.approx(math.fsum(kl) / len(kl), abs=1e-4)


@pytest.mark.parametrize(
    ("method", "preferences", "guidance", "members"),
    [
        ("proxy", {"expert": 1.0}, {}, {"expert", "expert.reference"}),
        ("dera", {"arm": 1.0}, {"policy": "safe", "lambda": 0.5}, {"implicit", "arm"}),
        ("cfg", None, AGAINST, {"base.negative"}),
        ("parm", None, {}, {"parm"}),
    ],
)
def test_a_report_has_every_other_member_that_was_weighted(
    family: Any,
    method: str,
    preferences: dict[str, float] | None,
    guidance: dict[str, Any],
    members: set[str],
) -> None:
    told = ask(family, method, preferences, report="summary", **guidance)["guidance"]
    assert set(told["rewards"]) == members


def test_each_request_conditions_the_one_reward_by_its_own_preferences(
    family: Any, models: dict[str, Path], conditioned: tuple[Path, Path]
) -> None:
    asked = [{"helpful": 1.5, "harmless": 0.5}, {"harmless": 1.0}, {"helpful": 0.2}, {}]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda preferences: ask(family, "parm", preferences), asked))
    adapted = load_conditioned(
        AutoModelForCausalLM.from_pretrained(conditioned[0]), open_checkpoint("parm", str(conditioned[1]))
    )
    prompt = list(family.serving.runtime.tokenizer.prompts(QUESTION)["base"])
    for preferences, answer in zip(asked, answers, strict=True):
        (choice,) = answer["choices"]
        weights = [preferences.get(name, 0.0) for name in ("helpful", "harmless")]
        total = sum(weights)
        tokens = torch.tensor([prompt + choice["token_ids"]])
        with torch.inference_mode():
            base = AutoModelForCausalLM.from_pretrained(models["base"])(tokens).logits
            shares = torch.tensor([weight / (total or 1.0) for weight in weights])
            reward = merged(adapted, shares)(tokens).logits
        mixed = (base.log_softmax(-1) + total * reward.log_softmax(-1)).log_softmax(-1)[
            0, len(prompt) - 1 : -1
        ]
        expected = [row[token].item() for row, token in zip(mixed, choice["token_ids"], strict=True)]
        told = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert told == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "scorer", "guidance", "preferences"),
    [
        ("args", "whole", {"k": 4, "w": 1.5}, None),
        ("args", "whole", {"k": 4, "beta": 2.0}, {"whole": 3.0}),
        ("pargs", "prefix", {}, None),
    ],
)
def test_greedy_scoring_takes_the_best_candidate(
    family: Any,
    models: dict[str, Path],
    scorers: dict[str, Path],
    method: str,
    scorer: str,
    guidance: dict[str, Any],
    preferences: dict[str, float] | None,
) -> None:
    response = family.chat(
        messages=QUESTION,
        preferences=preferences,
        guidance={"method": method, **guidance},
        temperature=0,
        return_token_ids=True,
        max_tokens=8,
        ignore_eos=True,
    )
    assert response.status_code == 200, response.text
    base = AutoModelForCausalLM.from_pretrained(models["base"])
    reward = AutoModelForSequenceClassification.from_pretrained(scorers[scorer])
    weight = 2.0 if method == "pargs" else 1.5
    text = list(family.serving.runtime.tokenizer.prompts(QUESTION)["base"])
    expected = []
    for _ in range(8):
        with torch.inference_mode():
            log_probs, best = (
                base(torch.tensor([text])).logits[0, -1].log_softmax(-1).topk(guidance.get("k", 10))
            )
            values = [reward(torch.tensor([[*text, token]])).logits[0, 0].item() for token in best.tolist()]
        scores = log_probs + weight * torch.tensor(values)
        expected.append(int(best[scores.argmax()]))
        text.append(expected[-1])
    assert response.json()["choices"][0]["token_ids"] == expected


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        ("parm", {"helpful": 1.0}, {"harmless": 2.0}),
        ("parm", {}, {"helpful": 1.0}),
        ("args", {"whole": 1.0}, {"whole": 0.0}),
    ],
)
def test_what_follows_a_change_is_what_a_fresh_request_would_get(
    family: Any, method: str, before: dict[str, float], after: dict[str, float]
) -> None:
    guidance = {"method": method}
    fields: dict[str, Any] = {
        "messages": QUESTION,
        "guidance": guidance,
        "temperature": 0,
        "max_tokens": 180,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    tokens: list[int] = []
    with (
        family.client() as client,
        family.client() as other,
        family.open(client, preferences=before, **fields) as events,
    ):
        first = next(events)
        made = other.patch(f"/v1/chat/completions/{first['id']}", json={"preferences": after})
        assert made.status_code == 200, made.text
        at = made.json()["at_token"]
        for event in events:
            if event != "[DONE]" and event["choices"]:
                tokens += event["choices"][0].get("token_ids", [])
    assert at < len(tokens) == 180
    fresh = {key: value for key, value in fields.items() if key != "messages"} | {"max_tokens": 180 - at}
    answer = family.complete(first["prompt_token_ids"] + tokens[:at], preferences=after, **fresh).json()
    assert answer["choices"][0]["token_ids"] == tokens[at:]


def text_of(chunks: list[dict[str, Any]]) -> str:
    said = (chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    return "".join(said)


def test_a_stream_says_what_the_answer_in_one_piece_does(family: Any) -> None:
    fields: dict[str, Any] = {
        "guidance": {"method": "cfg", **AGAINST},
        "max_tokens": 12,
        "seed": 3,
        "ignore_eos": True,
    }
    whole = family.chat(**fields).json()
    chunks = family.stream(**fields)
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["guidance"] == whole["guidance"]


def test_several_answers_differ_and_the_first_is_the_one_alone(family: Any) -> None:
    fields: dict[str, Any] = {
        "guidance": {"method": "mod", "divergence": "forward_kl"},
        "max_tokens": 8,
        "seed": 3,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    alone = family.chat(**fields).json()["choices"][0]["token_ids"]
    first, second = (one["token_ids"] for one in family.chat(n=2, **fields).json()["choices"])
    assert first == alone != second


def test_the_policies_of_a_running_answer_change(family: Any) -> None:
    fields = {
        "guidance": {"method": "mod"},
        "preferences": {"safe": 1.0},
        "max_tokens": 200,
        "ignore_eos": True,
    }
    with family.client() as client, family.client() as other, family.open(client, **fields) as events:
        url = f"/v1/chat/completions/{next(events)['id']}"
        assert other.get(url).json()["method"] == "mod"
        refused = other.patch(url, json={"preferences": {"safe": 0.5}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "preferences")
        made = other.patch(url, json={"preferences": {"kind": 1.0}})
        assert made.status_code == 200, made.text
        assert made.json()["preferences"] == {
            "safe": 0.0,
            "kind": 1.0,
            "arm": 0.0,
            "expert": 0.0,
            "implicit": 0.0,
        }
        other.delete(url)
        list(events)


def test_what_a_method_was_asked_is_told_and_a_preset_gives_it_rewards(family: Any) -> None:
    answer = ask(family, "dera", policy="kind", **{"lambda": 0.5})
    told = answer["guidance"]
    assert (told["method"], told["parameters"]) == ("dera", {"policy": "kind", "lambda": 0.5})
    preset = family.chat(
        model="family:armed", guidance={"method": "dera", "policy": "kind"}, max_tokens=1
    ).json()
    assert preset["guidance"]["preferences"] == {"arm": 1.0, "expert": 0.0, "implicit": 0.0}


def test_a_completion_is_steered_away_from_a_prompt_of_its_own(family: Any) -> None:
    fields: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
    plain = family.complete("the kettle is", preferences={}, **fields).json()
    same = {"method": "cfg", "negative_prompt": "the kettle is"}
    steered = family.complete("the kettle is", guidance=same, **fields).json()
    assert steered["choices"][0]["token_ids"] == plain["choices"][0]["token_ids"], "2 z − z is z"
    chat = {"method": "cfg", "negative_messages": [{"role": "user", "content": "x"}]}
    error = family.complete("the kettle is", guidance=chat, **fields).json()["error"]
    assert error["param"] == "guidance.negative_messages"


def test_a_chat_may_be_steered_away_from_another_chat(family: Any) -> None:
    fields: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
    plain = family.chat(messages=QUESTION, preferences={}, **fields).json()
    same = {"method": "cfg", "negative_messages": QUESTION}
    steered = family.chat(messages=QUESTION, guidance=same, **fields).json()
    assert steered["choices"][0]["token_ids"] == plain["choices"][0]["token_ids"]


@pytest.mark.parametrize(
    ("guidance", "preferences", "param"),
    [
        ({"method": "args", "max_kl": 1.0}, None, "guidance.max_kl"),
        ({"method": "args", "scorer": "prefix"}, None, "guidance.scorer"),
        ({"method": "parm"}, {"helpful": -1.0}, "preferences.helpful"),
        ({"method": "genarm"}, {"whole": 1.0}, "preferences.whole"),
        ({"method": "args", "w": 1.0}, {"whole": 1.0}, "guidance.w"),
        ({"method": "dera"}, None, "guidance.policy"),
        ({"method": "mod", "divergence": "forward_kl"}, {"safe": 1.0, "arm": 1.0}, "preferences.arm"),
        ({"method": "proxy"}, {"arm": 1.0}, "preferences.arm"),
        ({"method": "cfg"}, None, "guidance.negative_prompt"),
        ({"method": "cfg", "negative_prompt": "x" * 4000}, None, "guidance.negative_prompt"),
        ({"method": "cfg", "negative_prompt": "x y z q " * 70}, None, "guidance.negative_prompt"),
    ],
)
def test_what_a_deployment_or_a_method_cannot_do_is_refused_by_name(
    family: Any, guidance: dict[str, Any], preferences: dict[str, float] | None, param: str
) -> None:
    response = family.chat(guidance=guidance, preferences=preferences, max_tokens=1)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("spent", [{"whole": 0.0}, {"whole": 2.0}])
def test_a_report_of_scored_candidates_is_over_the_candidates(family: Any, spent: dict[str, float]) -> None:
    answer = family.chat(
        preferences=spent,
        guidance={"method": "args", "k": 3, "report": "tokens"},
        logprobs=True,
        top_logprobs=5,
        max_tokens=5,
        n=2,
        ignore_eos=True,
    ).json()
    assert 0 < answer["guidance"]["mean_kl"] < math.inf
    for choice in answer["choices"]:
        for entry, told in zip(choice["logprobs"]["content"], choice["guidance"]["tokens"], strict=True):
            likely = [one for one in entry["top_logprobs"] if one["logprob"] > -9999.0]
            assert len(likely) == 3
            assert math.fsum(math.exp(one["logprob"]) for one in likely) == pytest.approx(1.0, abs=1e-4)
            assert told["kl"] > 0


def test_prompts_are_not_scored(family: Any) -> None:
    asked: dict[str, Any] = {"guidance": {"method": "args"}, "echo": True, "max_tokens": 2}
    assert family.complete("the kettle", logprobs=1, **asked).json()["error"]["param"] == "logprobs"
    assert family.complete("the kettle", **asked).json()["choices"][0]["text"].startswith("the kettle")
