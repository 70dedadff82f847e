"""Every method that is a mix of log-probs, all in one batch of the engine, equals its formula on plain forwards."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from arm_models.conditioned import load_conditioned, merged
from arm_models.loading import Family, ModelSource, load_family
from arm_models.loading.checkpoint import open_checkpoint
from server.engine import (
    ATTENTION,
    NEGATIVE,
    Engine,
    SamplingParams,
    SequenceRequest,
    TokenOutput,
    register_attention,
)

LogProbs = Mapping[str, torch.Tensor]
"""log π of every member behind every token of one answer, [tokens, vocab] float64."""
Formula = Callable[[LogProbs], torch.Tensor]
"""The method's log π, but for a constant of each row."""

KINDS = {
    "base": "llama",
    "helpful": "llama",
    "safe": "qwen3",
    "kind": "llama",
    "expert": "llama",
    "anti": "gpt2",
}
PROMPTS = {
    name: [place, *range(30, 40 + 3 * place)] for place, name in enumerate([*KINDS, "parm", NEGATIVE], 5)
}


@dataclass(frozen=True)
class Case:
    """What a method asks of the engine, and what it says it does."""

    mix: Mapping[str, float]
    formula: Formula
    power: float = 0.0
    conditions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def dera(strength: float) -> Case:
    """λ z_safe + (1 − λ) z_kind (arXiv 2402.02992)."""
    return Case(
        {"safe": strength, "kind": 1 - strength},
        lambda p: strength * p["safe"] + (1 - strength) * p["kind"],
    )


def mod(power: float, *weights: float) -> Case:
    """Policies' power mean, (Σ w_i π_i^-a)^(-1/a); for a = 0 the geometric one (arXiv 2406.18853)."""
    names = ("safe", "kind", "expert")[: len(weights)]

    def formula(p: LogProbs) -> torch.Tensor:
        if not power:
            return torch.stack([w * p[name] for w, name in zip(weights, names, strict=True)]).sum(0)
        raised = [w * p[name].exp() ** -power for w, name in zip(weights, names, strict=True)]
        return torch.stack(raised).sum(0).log() / -power

    return Case(dict(zip(names, weights, strict=True)), formula, power)


def parm(strength: float, *p: float) -> Case:
    """log π_base + Σ α/β · log π_parm(p) (arXiv 2505.06274)."""
    return Case(
        {"base": 1.0, "parm": strength},
        lambda told: told["base"] + strength * told[f"parm {p}"],
        conditions={"parm": p},
    )


CASES = {
    "genarm": Case(
        {"base": 1.0, "helpful": 0.7, "expert": -1.5},
        lambda p: p["base"] + 0.7 * p["helpful"] - 1.5 * p["expert"],
    ),
    **{f"dera {strength}": dera(strength) for strength in (-0.5, 0.0, 0.5, 1.0, 2.0)},
    "implicit reward": Case(
        {"base": 1.0, "safe": 0.6, "kind": -0.6}, lambda p: p["base"] + 0.6 * (p["safe"] - p["kind"])
    ),
    "proxy tuning": Case(
        {"base": 1.0, "expert": 1.4, "anti": -1.4}, lambda p: p["base"] + 1.4 * (p["expert"] - p["anti"])
    ),
    "mod reverse KL": mod(0.0, 0.2, 0.5, 0.3),
    "mod forward KL": mod(1.0, 0.2, 0.5, 0.3),
    "mod alpha": mod(0.3, 0.2, 0.5, 0.3),
    "mod of one": mod(0.5, 1.0),
    "cfg": Case({"base": 2.5, NEGATIVE: -1.5}, lambda p: 2.5 * p["base"] - 1.5 * p[NEGATIVE]),
    "parm": parm(1.0, 0.2, 0.8),
    "parm otherwise": parm(2.0, 0.9, 0.1),
    "genarm, parm and cfg": Case(
        {"base": 2.0, NEGATIVE: -1.0, "helpful": 0.4, "parm": 0.5},
        lambda p: 2 * p["base"] - p[NEGATIVE] + 0.4 * p["helpful"] + 0.5 * p["parm (0.2, 0.8)"],
        conditions={"parm": (0.2, 0.8)},
    ),
}


@dataclass(frozen=True)
class Models:
    """A family, and the same models in float64 without the engine: by member; the conditioned one by ``parm p``."""

    family: Family
    plain: Mapping[str, torch.nn.Module]

    @torch.no_grad()
    def log_probs(self, response: Sequence[int]) -> LogProbs:
        told = {}
        for name, model in self.plain.items():
            prompt = PROMPTS[name.split(" ")[0]]
            logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
            told[name] = logits[len(prompt) - 1 : -1].log_softmax(-1)
        return told


@pytest.fixture(scope="module")
def models(make_checkpoint: Callable[..., Path], make_conditioned: Callable[..., Path]) -> Models:
    register_attention()
    folders = {
        name: make_checkpoint(kind, f"linear-{name}", seed=seed)
        for seed, (name, kind) in enumerate(KINDS.items())
    }
    adapter = make_conditioned(folders["base"], "linear-parm", 9)
    sources = [ModelSource(name, str(folder)) for name, folder in folders.items()]
    special = ModelSource("parm", str(adapter), kind="conditioned")
    family = load_family(sources[0], [*sources[1:], special], attention=ATTENTION)
    plain = {
        name: AutoModelForCausalLM.from_pretrained(folder).double().eval() for name, folder in folders.items()
    }
    conditioned = AutoModelForCausalLM.from_pretrained(folders["base"])
    load_conditioned(conditioned, open_checkpoint("parm", str(adapter)))
    for p in {case.conditions["parm"] for case in CASES.values() if case.conditions}:
        plain[f"parm {p}"] = merged(conditioned, torch.tensor(p)).double().eval()
    return Models(family, plain | {NEGATIVE: plain["base"]})


@pytest.fixture(scope="module")
def answers(models: Models) -> Mapping[str, list[TokenOutput]]:
    """Every case answered in one batch, half of them with a report."""
    from server.engine import EngineConfig, build_members

    config = EngineConfig(prefill_chunk=16)
    engine = Engine(build_members(models.family, config, negative=True), config)
    sampling = SamplingParams(12, seed=3, temperature=0.8, logprobs=300)
    engine.add(
        *(
            SequenceRequest(
                name,
                PROMPTS,
                case.mix,
                sampling,
                report=number % 2 == 0,
                power=case.power,
                conditions=case.conditions,
            )
            for number, (name, case) in enumerate(CASES.items())
        )
    )
    outputs: dict[str, list[TokenOutput]] = {name: [] for name in CASES}
    while engine.has_work:
        for output in engine.step():
            outputs[output.id].append(output)
    engine.check_integrity()
    return outputs


def told_row(output: TokenOutput) -> torch.Tensor:
    """The whole distribution of a step as it was told."""
    assert output.logprobs is not None
    row = torch.full((300,), -torch.inf, dtype=torch.double)
    for token, logprob in output.logprobs.top:
        row[token] = logprob
    return row


@pytest.mark.parametrize("name", CASES)
def test_a_methods_distribution_is_its_formula(
    models: Models, answers: Mapping[str, list[TokenOutput]], name: str
) -> None:
    outputs = answers[name]
    members = models.log_probs([output.token for output in outputs])
    expected = CASES[name].formula(members).log_softmax(-1)
    for row, base, output in zip(expected, members["base"], outputs, strict=True):
        torch.testing.assert_close(told_row(output), row, atol=1e-4, rtol=0)
        if output.report is not None:
            assert output.report.kl == pytest.approx((row.exp() * (row - base)).sum().item(), abs=1e-4)


@pytest.mark.parametrize(("strength", "policy"), [(0.0, "kind"), (1.0, "safe")])
def test_at_its_ends_dera_is_each_of_the_two_models_bit_for_bit(
    make_engine: Callable[..., Engine], models: Models, strength: float, policy: str
) -> None:
    engine = make_engine(models.family)
    sampling = SamplingParams(12, seed=1, logprobs=300, prompt_logprobs=None)
    prompts = {name: PROMPTS[name] for name in ("base", "safe", "kind")}
    got = []
    for mix in (dera(strength).mix, {policy: 1.0}):
        for report in (False, True):
            engine.add(SequenceRequest("r", prompts, mix, sampling, report=report))
            outputs: list[TokenOutput] = []
            while engine.has_work:
                outputs += engine.step()
            got.append([(output.token, output.logprobs) for output in outputs])
    assert got[0] == got[1] == got[2] == got[3]


@pytest.mark.parametrize("power", [0.0, 0.4, 1.0])
def test_mod_of_one_model_is_that_model(
    make_engine: Callable[..., Engine], models: Models, power: float
) -> None:
    engine = make_engine(models.family)
    sampling = SamplingParams(12, seed=1, logprobs=300)
    prompts = {name: PROMPTS[name] for name in ("base", "safe")}
    engine.add(SequenceRequest("alone", prompts, {"safe": 1.0}, sampling))
    engine.add(SequenceRequest("mod", prompts, {"safe": 1.0}, sampling, power=power))
    outputs: dict[str, list[TokenOutput]] = {"alone": [], "mod": []}
    while engine.has_work:
        for output in engine.step():
            outputs[output.id].append(output)
    for one, other in zip(outputs["alone"], outputs["mod"], strict=True):
        if power == 0.0:
            assert (one.token, one.logprobs) == (other.token, other.logprobs)
        assert one.token == other.token
        torch.testing.assert_close(told_row(other), told_row(one), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, 0.3])
def test_log_probs_of_a_prompt_are_those_of_the_power_mean(
    make_engine: Callable[..., Engine], models: Models, power: float
) -> None:
    text = list(range(60, 90))
    case = mod(power, 0.25, 0.75)
    sampling = SamplingParams(0, prompt_logprobs=0)
    engine = make_engine(models.family)
    engine.add(SequenceRequest("r", dict.fromkeys(case.mix, text), case.mix, sampling, power=power))
    outputs: list[TokenOutput] = []
    while engine.has_work:
        outputs += engine.step()
    with torch.no_grad():
        rows = {
            name: models.plain[name](input_ids=torch.tensor([text])).logits[0, :-1].log_softmax(-1)
            for name in case.mix
        }
    expected = case.formula(rows).log_softmax(-1)[range(len(text) - 1), text[1:]]
    assert outputs[0].prompt_logprobs is not None
    got = [entry.logprob for entry in outputs[0].prompt_logprobs if entry is not None]
    assert got == pytest.approx(expected.tolist(), abs=1e-4)
    assert not math.isclose(got[0], rows["safe"][0, text[1]].item(), abs_tol=1e-3)
