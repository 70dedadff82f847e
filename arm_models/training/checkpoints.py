"""What a run leaves on disk. Everything is written beside and renamed: a folder is there whole or not at all.

output_dir/checkpoint-<step>/   the model as of that step, and training_state.pt to go on from it
output_dir/                     the finished reward model; config.json or adapter_config.json comes last
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from arm_models.errors import UserError
from arm_models.training.config import TrainConfig

STATE = "training_state.pt"
NAME = re.compile(r"checkpoint-(\d+)")
BESIDE = re.compile(r"\.(checkpoint-\d+|model)\.tmp")
MARKERS = ("config.json", "adapter_config.json")
WITHOUT_EFFECT = frozenset(
    {
        "output_dir",
        "reward_name",
        "eval_steps",
        "per_device_eval_batch_size",
        "logging_steps",
        "save_steps",
        "save_total_limit",
        "resume_from_checkpoint",
        "overwrite_output_dir",
    }
)
"""Settings that may differ when a run goes on: they do not touch the weights. Paths are compared by what they hold."""
PATHS = frozenset(
    {
        "model_name_or_path",
        "dataset_name",
        "objectives",
        "eval_dataset",
        "eval_objectives",
        "chat_template_path",
    }
)


@dataclass(frozen=True)
class TrainingState:
    """All that an update depends on besides the model's weights.

    step: updates done. optimizer, scheduler: their state dicts. processes: for each one its random generators and the
    sums not yet logged. log: the figures logged so far. identity: what has to be the same when the run goes on.
    reference: what the loss's reference keeps, where it has one.
    """

    step: int
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    processes: list[dict[str, Any]]
    log: list[dict[str, float]]
    identity: dict[str, Any]
    reference: dict[str, torch.Tensor] = field(default_factory=dict)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators this process draws dropout from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo of ``random_state``."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def identity(config: TrainConfig, digests: dict[str, str], world_size: int) -> dict[str, Any]:
    """What decides the weights of a run: the settings that count, hashes of model and data, the processes."""
    values = {k: v for k, v in asdict(config).items() if k not in WITHOUT_EFFECT | PATHS}
    return {**values, **digests, "processes": world_size}


def check_identity(state: TrainingState, expected: dict[str, Any], folder: Path) -> None:
    """Raises UserError naming the first thing in which ``folder`` was trained differently."""
    for name in sorted(expected.keys() | state.identity.keys()):
        before, now = state.identity.get(name), expected.get(name)
        if before != now:
            raise UserError(
                f"resume_from_checkpoint: {folder} was trained with {name} {before!r}, not {now!r}"
            )


def save_checkpoint(
    output: Path, state: TrainingState, write_model: Callable[[Path], None], keep: int
) -> None:
    """Write ``checkpoint-<step>`` and drop the oldest ones beyond ``keep`` (0: none)."""
    beside = _fresh(output / f".checkpoint-{state.step}.tmp")
    write_model(beside)
    torch.save(vars(state), beside / STATE)
    target = output / f"checkpoint-{state.step}"
    if target.exists():
        shutil.rmtree(target)
    beside.rename(target)
    for _, folder in checkpoints(output)[:-keep] if keep else []:
        shutil.rmtree(folder)


def load_state(folder: Path) -> TrainingState:
    """The state in a checkpoint folder; raises UserError where it is missing or torn."""
    file = folder / STATE
    if not file.is_file():
        raise UserError(f"resume_from_checkpoint: {folder} has no {STATE}")
    try:
        return TrainingState(**torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # pickle, zip and torch raise bare Exceptions for a torn file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"resume_from_checkpoint: {file} cannot be read: {reason}") from error


def checkpoints(output: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints below ``output``, oldest first."""
    if not output.is_dir():
        return []
    found = [(NAME.fullmatch(path.name), path) for path in output.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def find_resume(config: TrainConfig) -> Path | None:
    """The checkpoint folder to go on from, None to start anew; raises UserError where there is none such."""
    wanted = config.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted not in ("last", "auto"):
        if not Path(wanted).is_dir():
            raise UserError(f"resume_from_checkpoint: no folder {wanted!r}")
        return Path(wanted)
    found = checkpoints(Path(config.output_dir))
    if found:
        return found[-1][1]
    if wanted == "auto":
        return None
    raise UserError(f"resume_from_checkpoint: no checkpoint in {config.output_dir}")


def check_output(config: TrainConfig) -> None:
    """Raises UserError for a folder that cannot be written, or that holds what nobody asked to replace."""
    output = Path(config.output_dir)
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"output_dir: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"output_dir: {nearest} is not writable")
    if config.overwrite_output_dir or config.resume_from_checkpoint is not None or not output.is_dir():
        return
    if any(not BESIDE.fullmatch(path.name) for path in output.iterdir()):
        raise UserError(
            f"output_dir: {output} is not empty; go on with --resume_from_checkpoint or replace with --overwrite_output_dir"
        )


def clear_output(config: TrainConfig, resume: Path | None) -> None:
    """Drop what a killed run left half-written, and under ``overwrite_output_dir`` an earlier run's checkpoints."""
    output = Path(config.output_dir)
    for path in output.iterdir() if output.is_dir() else ():
        old = config.overwrite_output_dir and resume is None and NAME.fullmatch(path.name)
        if path.is_dir() and (BESIDE.fullmatch(path.name) or old):
            shutil.rmtree(path)


def publish(output: Path, write: Callable[[Path], None]) -> None:
    """Move a finished model's files into ``output``; without its marker file a folder is not a model yet."""
    beside = _fresh(output / ".model.tmp")
    write(beside)
    for marker in MARKERS:
        (output / marker).unlink(missing_ok=True)
    for old in [*output.glob("*.safetensors"), *output.glob("*.safetensors.index.json")]:
        old.unlink()
    for path in sorted(beside.iterdir(), key=lambda path: path.name in MARKERS):
        path.rename(output / path.name)
    beside.rmdir()


def _fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
