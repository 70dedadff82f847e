"""A run learns, can be cut anywhere and go on to the same bits, and leaves whole models or nothing."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from arm_models.errors import UserError
from arm_models.loading import ModelSource, load_family
from arm_models.training import TrainConfig, loop, train_reward
from arm_models.training.loop import TrainingRun

Make = Callable[..., TrainConfig]
Weights = Callable[[Path], dict[str, Tensor]]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
# Adam forgets the gradients' scale and clipping hides it; with these a wrong scale shows in the weights.
SCALE_MATTERS = {"adam_epsilon": 0.1, "max_grad_norm": 0.0, "sft_weight": 0.1, "learning_rate": 0.1}
LORA = {"use_peft": True, "lora_dropout": 0.2}


def same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if not tolerance else torch.allclose(one[k], other[k], atol=tolerance)
        for k in one
    )


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``stop_at(n)``: the n-th update from now raises, as an interrupt would; stop_at(0) takes that back."""
    update = TrainingRun.update

    def arm(number: int) -> None:
        left = [number]

        def interrupted(run: TrainingRun, indices: list[int]) -> Tensor:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return update(run, indices)

        monkeypatch.setattr(TrainingRun, "update", interrupted if number else update)

    return arm


@pytest.mark.parametrize("adapter", [{}, {"use_peft": True, "learning_rate": 2e-2}], ids=["full", "lora"])
def test_a_tiny_model_learns_a_preference(adapter: dict[str, Any], make_config: Make) -> None:
    config = make_config(**{"max_steps": 40, "eval_fraction": 0.25} | adapter)
    result = train_reward(config)
    assert result.results["eval_accuracy"] > 0.9
    assert result.results["eval_margin"] > 1.0
    assert result.results["loss"] < result.log[0]["loss"]


@pytest.mark.parametrize(
    ("loss", "adapter", "accuracy"),
    [
        ("dpo", {}, 0.85),
        ("dpo", LORA | {"learning_rate": 2e-2}, 0.85),
        ("tr-dpo", {}, 0.85),
        ("bt", {}, 0.85),
        ("bt", LORA | {"learning_rate": 2e-2}, 0.85),
        (
            "bt-prefix",
            {},
            0.7,
        ),  # a prefix without its last word says nothing here: there is little to learn from
    ],
)
def test_every_loss_learns_a_preference(
    loss: str, adapter: dict[str, Any], accuracy: float, make_config: Make
) -> None:
    """Held-out, against a run that differs in one thing: it learns nothing."""
    settings = {"loss": loss, "max_steps": 24, "eval_fraction": 0.25} | adapter
    learned = train_reward(make_config(**settings)).results
    before = train_reward(make_config("still", **settings | {"max_steps": 1, "learning_rate": 0.0})).results
    assert learned["eval_accuracy"] > max(accuracy, before["eval_accuracy"])
    # TR-DPO compares with itself some updates ago: its loss stays near log 2.
    assert learned["eval_loss"] < (1 if loss == "tr-dpo" else 0.95) * before["eval_loss"]


def test_an_update_is_the_mean_over_its_pairs_however_it_is_split(
    make_config: Make, weights_of: Weights
) -> None:
    at_once = make_config(
        "one", per_device_train_batch_size=16, gradient_accumulation_steps=1, **SCALE_MATTERS
    )
    in_parts = make_config(
        "parts", per_device_train_batch_size=4, gradient_accumulation_steps=4, **SCALE_MATTERS
    )
    one, parts = (weights_of(train_reward(config).output_dir) for config in (at_once, in_parts))
    assert same(one, parts, tolerance=1e-5)


def test_recomputing_activations_changes_nothing(make_config: Make, weights_of: Weights) -> None:
    kept = weights_of(train_reward(make_config("kept")).output_dir)
    recomputed = weights_of(train_reward(make_config("re", gradient_checkpointing=True)).output_dir)
    assert same(kept, recomputed, tolerance=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_train_epochs": 0.8, "max_steps": -1},
        LORA,
        {"loss": "dpo", "eval_fraction": 0.2},
        {"loss": "tr-dpo"},
        {"loss": "tr-dpo", "reference_update": "hard", "reference_sync_steps": 2, **LORA},
        {"loss": "bt", **LORA},
    ],
    ids=["full", "lora", "dpo", "tr-dpo", "tr-dpo-lora", "bt-lora"],
)
def test_a_run_that_was_cut_ends_in_the_same_bits(
    settings: dict[str, Any], make_config: Make, weights_of: Weights, stop_at: Callable[[int], None]
) -> None:
    config = make_config("whole", save_steps=3, logging_steps=2, **settings)
    whole = train_reward(config)
    stop_at(6)
    config = make_config("cut", save_steps=3, logging_steps=2, **settings)
    with pytest.raises(KeyboardInterrupt):
        train_reward(config)
    assert [path.name for path in Path(config.output_dir).iterdir()] == ["checkpoint-3"]
    stop_at(0)
    config = make_config("cut", save_steps=3, logging_steps=2, resume_from_checkpoint="last", **settings)
    cut = train_reward(config)
    assert same(weights_of(cut.output_dir), weights_of(whole.output_dir))
    assert cut.log == whole.log
    assert cut.results == whole.results


def in_a_file(config: TrainConfig, path: Path) -> Path:
    """``config`` as a file for ``--config``."""
    path.write_text(yaml.safe_dump(config.changed()), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    make_config: Make, weights_of: Weights, tmp_path: Path
) -> None:
    changes = LORA | {
        "save_steps": 2,
        "max_steps": 400,
        "save_total_limit": 0,
        "gradient_accumulation_steps": 1,
    }
    killed = tmp_path / "killed"
    file = in_a_file(make_config("killed", **changes), tmp_path / "run.yaml")
    command = [sys.executable, "-m", "arm_models.train", "--config", str(file)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ONE_THREAD) as run:
        while not (killed / "checkpoint-4").exists():
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    last = max(int(path.name.split("-")[1]) for path in killed.glob("checkpoint-*"))
    assert last < 400 and not (killed / "adapter_config.json").exists()
    for config in (
        make_config("whole", **changes),
        make_config("killed", resume_from_checkpoint="auto", **changes),
    ):
        stop_before(last + 3, config)
    name = f"checkpoint-{last + 2}"
    assert same(weights_of(tmp_path / "whole" / name), weights_of(killed / name))


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="processes on CPUs talk over gloo")
def test_two_launched_processes_train_the_same_model(
    make_config: Make, weights_of: Weights, tmp_path: Path
) -> None:
    """160 pairs in batches of 48: in the last batch of the epoch the second process has less to do.

    By DPO, whose reference they read each a share of.
    """
    changes = {"loss": "dpo", "max_steps": 5, "save_steps": 3, "logging_steps": 1, "eval_fraction": 0.1}
    changes |= SCALE_MATTERS
    alone = make_config("alone", per_device_train_batch_size=8, gradient_accumulation_steps=6, **changes)
    both = make_config("both", per_device_train_batch_size=8, gradient_accumulation_steps=3, **changes)
    file = in_a_file(both, tmp_path / "run.yaml")
    accelerate = Path(sys.executable).parent / "accelerate"
    launch = [str(accelerate), "launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, "-m", "arm_models.train", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("update 5 of 5") == 1
    train_reward(alone)
    one, two = (weights_of(tmp_path / name) for name in ("alone", "both"))
    assert same(one, two, tolerance=1e-5)
    figures = [
        json.loads((tmp_path / name / "arm.json").read_text())["results"] for name in ("alone", "both")
    ]
    assert figures[0] == pytest.approx(figures[1], abs=1e-4)


def stop_before(step: int, config: TrainConfig) -> None:
    """Run, and stop where update ``step`` (from 1) is due."""

    class Enough(Exception):
        pass

    class Cut(TrainingRun):
        def update(self, indices: Any) -> Tensor:
            if self.step + 1 == step:
                raise Enough
            return super().update(indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TrainingRun", Cut)
        with pytest.raises(Enough):
            train_reward(config)


def test_half_written_checkpoints_are_swept_and_old_ones_dropped(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "out/.checkpoint-99.tmp").mkdir(parents=True)
    train_reward(make_config(save_steps=1, save_total_limit=2))
    names = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert names == {"checkpoint-5", "checkpoint-6"}


def test_going_on_otherwise_than_before_is_refused(make_config: Make, tmp_path: Path, pairs: Path) -> None:
    train_reward(make_config(save_steps=3))
    shorter = tmp_path / "shorter.jsonl"
    shorter.write_bytes(b"\n".join(pairs.read_bytes().splitlines()[:-1]))
    for changes, named in (
        ({"beta": 0.1}, "beta 0.05, not 0.1"),
        ({"dataset_name": str(shorter)}, "data '"),
        ({"max_steps": 8}, "max_steps 6, not 8"),
    ):
        with pytest.raises(UserError, match=f"was trained with {named}"):
            train_reward(make_config(resume_from_checkpoint="last", **changes))
    (tmp_path / "out/checkpoint-6/training_state.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"training_state\.pt cannot be read"):
        train_reward(make_config(resume_from_checkpoint="last"))
    with pytest.raises(UserError, match="no checkpoint in"):
        train_reward(make_config("empty", resume_from_checkpoint="last"))
    with pytest.raises(UserError, match="no folder 'nowhere'"):
        train_reward(make_config(resume_from_checkpoint="nowhere"))


def test_what_is_written_loads_as_a_reward(
    make_config: Make, start: Path, pairs: Path, tmp_path: Path
) -> None:
    train_reward(make_config("polite", eval_fraction=0.1))
    train_reward(make_config("adapter", use_peft=True, lora_target_modules=("q_proj", "v_proj")))
    sources = [
        ModelSource("polite", str(tmp_path / "polite")),
        ModelSource("adapter", str(tmp_path / "adapter")),
    ]
    train_reward(make_config("scorer", loss="bt-prefix", use_peft=True, max_steps=1))
    objectives = f"one={pairs},other={pairs}"
    train_reward(make_config("parm", loss="parm", dataset_name="", objectives=(objectives,), max_steps=1))
    sources += [
        ModelSource("scorer", str(tmp_path / "scorer"), kind="scalar"),
        ModelSource("parm", str(tmp_path / "parm"), kind="conditioned"),
    ]
    family = load_family(ModelSource("base", str(start)), sources)
    assert [reward.name for reward in family.rewards] == ["polite", "adapter", "scorer", "parm"]
    card = json.loads((tmp_path / "polite/arm.json").read_text(encoding="utf-8"))
    assert (card["reward_name"], card["loss"], card["beta_r"]) == ("polite", "arm", 0.05)
    assert len(card["base_tokenizer_sha256"]) == len(card["chat_template_sha256"]) == 64
    assert card["data"]["pairs"] + card["data"]["held_out_pairs"] == 160
    assert card["settings"]["learning_rate"] == 3e-3
    assert "eval_accuracy" in card["results"]
    readme = (tmp_path / "polite/README.md").read_text(encoding="utf-8")
    assert "genarm train --model_name_or_path" in readme and "eval_accuracy" in readme
    assert "rewards:\n  - {name: polite, model: polite}" in readme
    written = (tmp_path / "polite/arm.json").read_text(encoding="utf-8") + readme
    assert str(tmp_path) not in written and str(start.parent) not in written


def test_only_the_adapter_is_trained(make_config: Make, weights_of: Weights, tmp_path: Path) -> None:
    train_reward(make_config(use_peft=True, lora_r=3, lora_target_modules=("q_proj",)))
    weights = weights_of(tmp_path / "out")
    assert len(weights) == 4 and all("q_proj.lora_" in name for name in weights)
    assert {tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name} == {3}
    assert all(bool(tensor.any()) for tensor in weights.values())


def test_mixed_precision_keeps_float32_weights(
    make_config: Make, weights_of: Weights, tmp_path: Path
) -> None:
    train_reward(make_config(bf16=True, max_steps=2))
    train_reward(make_config("lora", dtype="bfloat16", use_peft=True, max_steps=2))
    for name in ("out", "lora"):
        assert {tensor.dtype for tensor in weights_of(tmp_path / name).values()} == {torch.float32}


def test_held_out_pairs_can_come_from_their_own_file(make_config: Make, pairs: Path) -> None:
    result = train_reward(make_config(eval_dataset=str(pairs), eval_steps=3))
    assert [figures["step"] for figures in result.log if "eval_accuracy" in figures] == [3]
    assert "eval_accuracy" in result.results


def test_cuts_are_said_once(make_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "genarm.train")
    train_reward(make_config(max_prompt_length=8, max_length=16))
    said = [
        record.getMessage() for record in caplog.records if "prompts to their last 8" in record.getMessage()
    ]
    assert len(said) == 1 and said[0].startswith("cut 160 prompts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name_or_path": "nowhere"}, "model_name_or_path: no folder 'nowhere'"),
        ({"dataset_name": "nowhere.jsonl"}, "dataset nowhere.jsonl: No such file"),
        ({"eos_token": "</s>"}, "eos_token: the tokenizer has no token '</s>'"),
        ({"max_length": 300}, "max_length: 300 is more than the model's 256 positions"),
        ({"max_length": 64, "max_prompt_length": 64}, "max_prompt_length: 64 leaves no room"),
        ({"use_peft": True, "lora_target_modules": ("qq",)}, "lora_target_modules: the model has no layer named 'qq'"),
        ({"chat_template_path": "nowhere.jinja"}, "chat template nowhere.jinja cannot be read"),
        ({"learning_rate": 1e30}, "a lower learning_rate may help"),
        ({"output_dir": "/proc/version/x"}, "output_dir: /proc/version is not a folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_and_leaves_nothing(
    changes: dict[str, Any], message: str, make_config: Make, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        train_reward(make_config(**changes))
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_no_start(make_config: Make, make_adapter: Callable[..., Path], start: Path) -> None:
    with pytest.raises(UserError, match="is an adapter; start from a full model"):
        train_reward(make_config(model_name_or_path=str(make_adapter(start, "lora", seed=1))))


def test_a_folder_in_use_is_not_written_over(make_config: Make, weights_of: Weights, tmp_path: Path) -> None:
    train_reward(make_config(max_steps=1))
    before = weights_of(tmp_path / "out")
    with pytest.raises(UserError, match="is not empty; go on with --resume_from_checkpoint or replace"):
        train_reward(make_config())
    assert same(before, weights_of(tmp_path / "out"))
    train_reward(make_config(overwrite_output_dir=True))
    assert not same(before, weights_of(tmp_path / "out"))


def test_a_write_that_fails_leaves_no_model(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "write_card", full_disk)
    with pytest.raises(OSError, match="No space left"):
        train_reward(make_config(max_steps=1))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".model.tmp"]
