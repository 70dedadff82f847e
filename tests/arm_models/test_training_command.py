"""``genarm train`` takes TRL's flags or a YAML file, and says in one line what is wrong with them."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from arm_models import train, training_command
from arm_models.errors import UserError
from arm_models.training import TrainConfig
from arm_models.training_command import read_config

REQUIRED = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]


def config_of(*flags: str) -> TrainConfig:
    parser = argparse.ArgumentParser()
    training_command.add_arguments(parser)
    return read_config(parser.parse_args([*REQUIRED, *flags]))


def test_without_flags_it_is_the_released_codes_run() -> None:
    config = config_of("--use_peft")
    assert (config.loss, config.beta, config.length_normalized, config.sft_weight) == (
        "arm",
        0.05,
        False,
        0.0,
    )
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.05)
    assert (config.peak_learning_rate, config.lr_scheduler_type) == (5e-4, "cosine")
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 32
    assert config_of().peak_learning_rate == 5e-7


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--learning_rate", "1e-5"], "learning_rate", 1e-5),
        (["--max_steps", "7"], "max_steps", 7),
        (["--bf16"], "bf16", True),
        (["--bf16", "false"], "bf16", False),
        (["--lora_target_modules", "q_proj", "v_proj"], "lora_target_modules", ("q_proj", "v_proj")),
        (["--resume_from_checkpoint"], "resume_from_checkpoint", "last"),
        (["--resume_from_checkpoint", "o/checkpoint-3"], "resume_from_checkpoint", "o/checkpoint-3"),
    ],
)
def test_flags_are_read_by_type(flags: list[str], name: str, value: Any) -> None:
    read = getattr(config_of(*flags), name)
    assert read == value and type(read) is type(value)


def test_a_yaml_file_has_the_same_keys_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "learning_rate: 5e-4\nbeta: 1\nlora_target_modules: [q_proj]\nresume_from_checkpoint: true\nseed: 3\n"
    )
    config = config_of("--config", str(file), "--seed", "4")
    assert (config.learning_rate, config.beta, config.seed) == (5e-4, 1.0, 4)
    assert (config.lora_target_modules, config.resume_from_checkpoint) == (("q_proj",), "last")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("betta: 1", "unknown setting 'betta'"),
        ("beta: [1]", r"beta: must be a number, got \[1\]"),
        ("beta: .nan", "beta: must be a number, got nan"),
        ("max_steps: 2.5", "max_steps: must be a whole number, got 2.5"),
        ("bf16: 1", "bf16: must be true or false, got 1"),
        ("seed: true", "seed: must be a whole number, got True"),
        ("loss: ppo", "loss: must be one of arm, .*, got 'ppo'"),
        ("lora_target_modules: [1]", "lora_target_modules: must be names"),
        ("- beta", "must be settings, `name: value` on each line"),
        ("beta: [", "run.yaml: while parsing"),
    ],
)
def test_a_bad_yaml_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        config_of("--config", str(file))
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="No such file"):
        config_of("--config", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beta", "-1"], "beta: must be at least 0, got -1"),
        (["--lora_dropout", "2"], "lora_dropout: must be from 0 to 1, got 2"),
        (["--learning_rate", "fast"], "learning_rate: must be a number, got 'fast'"),
        (["--eval_dataset", "e", "--eval_fraction", "0.1"], "eval_fraction: cannot be used together"),
        (["--eval_steps", "5"], "eval_steps: needs eval_dataset or eval_fraction"),
        (["--num_train_epochs", "0"], "num_train_epochs: must be greater than 0"),
        (["--dataset_name", ""], "--dataset_name is required"),
        (["--loss", "bt", "--beta", "0.1"], "beta: --loss bt has no such setting"),
        (
            ["--loss", "tr-dpo", "--reference_update", "hard", "--reference_mixup", "0.5"],
            "reference_mixup: a hard update",
        ),
        (
            ["--loss", "dpo", "--reference_sync_steps", "5"],
            "reference_sync_steps: --loss dpo has no such setting",
        ),
        (["--loss", "dpo", "--prefix_reduction", "mean"], "prefix_reduction: --loss dpo has no such setting"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*REQUIRED, *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"genarm: {message}") and said.count("\n") == 1


def test_unknown_flags_and_abbreviations_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--lerning_rate", "--learning"):
        with pytest.raises(SystemExit) as stopped:
            train.main([*REQUIRED, flag, "1"])
        assert stopped.value.code == 2
        assert f"unrecognized arguments: {flag} 1" in capsys.readouterr().err


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    shown = capsys.readouterr().out
    assert "--per_device_train_batch_size" in shown and "pku-saferlhf-safer" in shown
