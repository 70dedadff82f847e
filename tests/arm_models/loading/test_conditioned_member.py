"""A conditioned adapter is a member like others: on a backbone that is in memory once, and off when others run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from arm_models.conditioned import load_conditioned, merged
from arm_models.errors import CheckpointError
from arm_models.loading import Family, LoadedModel, ModelSource, fingerprint, load_family
from arm_models.loading.checkpoint import open_checkpoint

PROMPT = torch.tensor([[7, 100, 33, 250, 8]])


@pytest.fixture(scope="module")
def base(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", "conditioned-base", seed=1)


@pytest.fixture(scope="module")
def adapter(base: Path, make_conditioned: Callable[..., Path]) -> Path:
    return make_conditioned(base, "conditioned", 4)


def family_of(base: Path, *sources: ModelSource) -> Family:
    return load_family(ModelSource("base", str(base)), sources)


def conditioned(path: Path, name: str = "parm") -> ModelSource:
    return ModelSource(name, str(path), kind="conditioned")


@torch.no_grad()
def logits(member: LoadedModel, p: torch.Tensor | None = None) -> torch.Tensor:
    member.activate(p)
    output: torch.Tensor = member.model(input_ids=PROMPT, use_cache=False).logits[0]
    return output


@pytest.mark.parametrize("first", [True, False])
def test_base_lora_and_conditioned_adapter_share_a_backbone_and_do_not_disturb_each_other(
    base: Path, adapter: Path, make_adapter: Callable[..., Path], first: bool
) -> None:
    sources = [conditioned(adapter), ModelSource("lora", str(make_adapter(base, "lora", 5)))]
    family = family_of(base, *(sources if first else sources[::-1]))
    members = {member.name: member for member in (family.base, *family.rewards)}
    assert list(members) == ["base", *([one.name for one in sources] if first else ["lora", "parm"])]
    assert len({id(member.model) for member in members.values()}) == 1
    assert [member.objectives for member in members.values()].count(("helpful", "harmless")) == 1
    p = torch.tensor([0.3, 0.7])
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        alone = plain(input_ids=PROMPT).logits[0]
    lora = logits(family_of(base, sources[1]).rewards[0])
    whole = merged(load_conditioned(plain, open_checkpoint("parm", str(adapter))), p)
    with torch.no_grad():
        expected = whole(input_ids=PROMPT).logits[0]
    for _ in range(2):  # in any order, again and again
        torch.testing.assert_close(logits(members["parm"], p), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(logits(members["lora"]), lora)
        assert torch.equal(logits(members["base"]), alone)
    assert (expected - alone).abs().max() > 0.1


def test_nothing_of_it_can_be_trained_by_accident(base: Path, adapter: Path) -> None:
    (member,) = family_of(base, conditioned(adapter)).rewards
    assert not any(parameter.requires_grad for parameter in member.model.parameters())


def test_the_fingerprint_changes_with_the_adapter(
    base: Path, adapter: Path, make_conditioned: Callable[..., Path]
) -> None:
    other = make_conditioned(base, "conditioned", 5)
    assert fingerprint(family_of(base, conditioned(adapter))) != fingerprint(
        family_of(base, conditioned(other))
    )


def test_what_is_not_a_conditioned_adapter_is_refused_in_one_line(
    base: Path, adapter: Path, make_adapter: Callable[..., Path]
) -> None:
    lora = make_adapter(base, "lora", 5)
    for source, reason in (
        (conditioned(base), "a full model; a conditioned one is an adapter of type PBLORA"),
        (conditioned(lora), "peft_type must be PBLORA"),
        (ModelSource("parm", str(adapter)), "adapters of type PBLORA are not supported"),
    ):
        with pytest.raises(CheckpointError, match=reason) as error:
            family_of(base, source)
        assert str(error.value).startswith("parm: ") and "\n" not in str(error.value)


def test_a_backbone_has_one_conditioned_adapter_at_most(base: Path, adapter: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^second: .*a conditioned adapter already"):
        family_of(base, conditioned(adapter), conditioned(adapter, "second"))
