"""`--loss parm` trains one adapter that answers every preference vector in its own way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from arm_models.conditioned import load_conditioned, merged
from arm_models.data import PairEncoder, read_pairs
from arm_models.errors import UserError
from arm_models.loading.checkpoint import open_checkpoint
from arm_models.losses import arm_loss, parm_loss, sampled_preference, sequence_log_probs
from arm_models.training import TrainConfig, loop, train_reward
from arm_models.training.batches import BatchOrder, Example, collate
from arm_models.training.loop import TrainingRun

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def objectives(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Two that disagree: "polite" prefers the answer that "blunt" rejects. The second has fewer pairs."""
    blunt = tmp_path_factory.mktemp("blunt") / "blunt.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()[:100]]
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    blunt.write_text("".join(json.dumps(row) + "\n" for row in turned))
    return (f"polite={pairs},blunt={blunt}",)


@pytest.fixture
def parm(make_config: Make, objectives: tuple[str, ...]) -> Make:
    """``make_config`` for `--loss parm`."""

    def make(output: str = "out", **changes: Any) -> TrainConfig:
        settings = {"loss": "parm", "dataset_name": "", "objectives": objectives, "learning_rate": 2e-2}
        return make_config(output, **settings | changes)

    return make


def test_each_objective_gets_its_way_under_its_own_preference(
    parm: Make, start: Path, pairs: Path, tmp_path: Path
) -> None:
    result = train_reward(parm("both", max_steps=30, eval_fraction=0.25))
    assert result.results["eval_accuracy_polite"] > 0.9
    assert result.results["eval_accuracy_blunt"] > 0.9
    backbone = AutoModelForCausalLM.from_pretrained(start)
    model = load_conditioned(backbone, open_checkpoint("both", str(tmp_path / "both"))).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "both")
    encoder = PairEncoder(tokenizer, tokenizer.eos_token_id, 64, 128)
    batch = collate([Example(encoder.encode(pair)) for pair in read_pairs(pairs).pairs[:20]], 1)
    for p, sign in (((1.0, 0.0), 1), ((0.0, 1.0), -1)):
        with torch.no_grad():
            plain = merged(model, torch.tensor(p))
            logits = plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        better, worse = sequence_log_probs(logits, batch.labels).chunk(2)
        assert float((sign * (better - worse) > 0).float().mean()) > 0.9
    readme = (tmp_path / "both/README.md").read_text()
    assert "conditioned: {name: both, model: both, objectives: [polite, blunt]}" in readme
    assert str(pairs.parent) not in readme + (tmp_path / "both/arm.json").read_text()


def test_an_updates_loss_is_the_papers(parm: Make, objectives: tuple[str, ...], start: Path) -> None:
    """Before the first update ΔW is 0, so the start model says what L = Σ p_i L_i is. Batches of 16 pairs and of 4."""
    config = parm(max_steps=1, logging_steps=1, per_device_train_batch_size=24, seed=5)
    files = [part.split("=")[1] for part in objectives[0].split(",")]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    encoder = PairEncoder(tokenizer, tokenizer.eos_token_id, 128, 256)
    losses = []
    for file in files:
        pairs = read_pairs(file).pairs
        indices = BatchOrder(len(pairs), 48, 5).indices(0)
        batch = collate([Example(encoder.encode(pairs[index])) for index in indices], 1)
        with torch.no_grad():
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        losses.append(arm_loss(*sequence_log_probs(logits, batch.labels).chunk(2), 0.05))
    expected = parm_loss(losses, sampled_preference(5, 0, 2))
    assert train_reward(config).results["loss"] == pytest.approx(float(expected), abs=1e-5)


def test_objectives_of_unlike_size_are_weighed_alike(parm: Make) -> None:
    """The last batch of the smaller objective's epoch has 4 pairs beside 16: each objective still counts p_i in all."""
    seen: list[dict[str, float]] = []

    class Observed(TrainingRun):
        def update(self, batch: Any) -> Tensor:
            own = {id(pair) for pair in self.pairs.train["polite"]}
            polite = sum(example.weight for example in batch if id(example.pair) in own)
            seen.append({"share": polite / len(batch), "p": self.preference(self.step)[0], "n": len(batch)})
            return super().update(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TrainingRun", Observed)
        train_reward(parm(max_steps=7))
    assert [row["n"] for row in seen] == [32] * 6 + [20]
    assert [row["share"] for row in seen] == pytest.approx([row["p"] for row in seen])


def test_a_run_that_was_cut_ends_in_the_same_bits(parm: Make, weights_of: Callable[..., Any]) -> None:
    whole = train_reward(parm("whole", save_steps=3))
    train_reward(parm("cut", save_steps=3))
    folder = Path(parm("cut").output_dir)
    (folder / "adapter_model.safetensors").unlink()
    again = parm("cut", save_steps=3, resume_from_checkpoint=str(folder / "checkpoint-3"))
    cut = train_reward(again)
    one, other = weights_of(whole.output_dir), weights_of(cut.output_dir)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert cut.log == whole.log


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ()}, "objectives: --loss parm needs two or more"),
        ({"objectives": ("a=x,b",)}, "objectives: must be NAME=FILE, got 'b'"),
        ({"objectives": ("a=x,a=y",)}, "objectives: 'a' is there twice"),
        ({"eval_objectives": ("a=x,b=y",)}, "eval_objectives: must be the names of objectives"),
        ({"dataset_name": "d.jsonl"}, "dataset_name: --loss parm has no such setting"),
        ({"use_peft": True}, "use_peft: --loss parm has no such setting"),
        ({"loss": "arm", "dataset_name": "d.jsonl"}, "objectives: --loss arm has no such setting"),
    ],
)
def test_what_parm_cannot_use_is_refused(changes: dict[str, Any], message: str, parm: Make) -> None:
    with pytest.raises(UserError, match=message):
        parm(**changes)
