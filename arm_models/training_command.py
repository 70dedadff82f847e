"""``genarm train``: flags and a YAML file → one training run."""

import argparse
import logging
import sys
from dataclasses import Field
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from arm_models.data import FORMATS
from arm_models.errors import UserError
from arm_models.training import TrainConfig, config_from, train_reward
from arm_models.training.config import settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for every setting of ``TrainConfig``, and ``--config``."""
    parser.allow_abbrev = False
    parser.usage = "%(prog)s --model_name_or_path MODEL --dataset_name PAIRS.jsonl --output_dir FOLDER [settings, see --help]"
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="settings by the same names, one to a line; flags win over it"
    )
    for name, setting in settings().items():
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=_help(setting), **_shape(setting))


def run(args: argparse.Namespace) -> int:
    """Train as the flags and the YAML file say; raises UserError for what a user did wrong."""
    config = read_config(args)
    logger = logging.getLogger("genarm.train")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        train_reward(config)
    except OSError as error:
        raise UserError(f"{error.filename or config.output_dir}: {error.strerror or error}") from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            "out of GPU memory; a smaller per_device_train_batch_size, gradient_checkpointing or use_peft needs less"
        ) from error
    finally:
        logger.removeHandler(handler)
    return 0


def read_config(args: argparse.Namespace) -> TrainConfig:
    """The run that parsed flags and their ``--config`` file describe; raises UserError."""
    given = {name: value for name, value in vars(args).items() if name in settings()}
    stored = read_yaml(Path(args.config)) if args.config is not None else {}
    return config_from(stored | given)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file; raises UserError for one that is none and for keys that are no settings."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"config {path}: must be settings, `name: value` on each line")
    unknown = [key for key in content if key not in settings()]
    if unknown:
        raise UserError(f"config {path}: unknown setting {str(unknown[0])!r}")
    return content


def _help(setting: Field[Any]) -> str:
    text = str(setting.metadata["help"])
    if setting.name == "dataset_format":
        text += f" ({', '.join(form.name for form in FORMATS)})"
    default = setting.default
    if default in (None, "", False, ()):
        return text.replace("%", "%%")
    shown = ", ".join(default) if isinstance(default, tuple) else default
    return f"{text} (default {shown})".replace("%", "%%")


def _shape(setting: Field[Any]) -> dict[str, Any]:
    """How a flag's value looks: `--bf16` alone means true, as `--resume_from_checkpoint` alone means the last one."""
    if setting.metadata["choices"]:
        return {"choices": setting.metadata["choices"]}
    if setting.type is bool:
        return {"nargs": "?", "const": "true", "metavar": "true|false"}
    if setting.name == "resume_from_checkpoint":
        return {"nargs": "?", "const": "last", "metavar": "last|auto|FOLDER"}
    if setting.type == tuple[str, ...]:
        return {"nargs": "+", "metavar": "NAME=FILE" if "objectives" in setting.name else "NAME"}
    options = get_args(setting.type) or (setting.type,)
    return {"metavar": "N" if int in options else "X" if float in options else "TEXT"}
