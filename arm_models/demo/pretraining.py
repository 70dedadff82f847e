"""Supervised training of the demo's base, and of the smaller model that its reward models start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from arm_models.demo.muon import muon_with_adamw

Transcript = Sequence[dict[str, str]]
_IGNORED = -100
_WINDOW = 64


@dataclass(frozen=True, slots=True)
class PretrainingSettings:
    """How long and how fast; the data of step n depends on ``seed`` and n alone, so a resumed run repeats none."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 6e-3
    warmup: int = 50
    seed: int = 0
    checkpoint_every: int = 100


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    transcript: Callable[[int], Transcript],
    settings: PretrainingSettings,
    state_file: Path,
    title: str,
) -> float:
    """Train ``model`` in place on ``transcript(0), transcript(1), ...``; the mean loss of the last 50 steps (nats).

    Only assistant turns count. The state is written to ``state_file`` every ``checkpoint_every`` steps (beside, then
    renamed) and taken up from there when the file exists; the run after a kill ends bit-equal to one without.
    """
    optimizers = muon_with_adamw(model)
    done, losses = _resume(model, optimizers, state_file)
    batches = _Batches(tokenizer, transcript, settings)
    model.train()
    with tqdm(total=settings.steps, initial=done, desc=title, unit="step", mininterval=2.0) as bar:
        for step in range(done, settings.steps):
            ids, labels = batches[step]
            loss = _assistant_loss(model, ids, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * _schedule(step, settings)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses = [*losses[-49:], float(loss.detach())]
            bar.update()
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.3f}", refresh=False)
            if (step + 1) % settings.checkpoint_every == 0:
                _save(model, optimizers, step + 1, losses, state_file)
    model.eval()
    return sum(losses) / max(1, len(losses))


def encode(tokenizer: PreTrainedTokenizerBase, transcript: Transcript) -> tuple[list[int], list[int]]:
    """Token ids of a whole conversation and its labels: the ids of assistant turns with their eos, else ignored."""
    ids: list[int] = []
    labels: list[int] = []
    for message in transcript:
        start = tokenizer.convert_tokens_to_ids([f"<|{message['role']}|>"])
        turn = tokenizer(message["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        ids += start + turn
        labels += [_IGNORED, *(turn if message["role"] == "assistant" else [_IGNORED] * len(turn))]
    return ids, labels


class _Batches:
    """Batches of transcripts of similar length: windows of 64 batches are sorted by length, then shuffled."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        transcript: Callable[[int], Transcript],
        settings: PretrainingSettings,
    ) -> None:
        self._tokenizer = tokenizer
        self._transcript = transcript
        self._settings = settings
        self._window = lru_cache(maxsize=1)(self._make_window)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and labels of ``step``: [B, T] int64 each, right-padded."""
        return self._window(step // _WINDOW)[step % _WINDOW]

    def _make_window(self, window: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        size = self._settings.batch_size
        first = window * _WINDOW * size
        rows = [
            encode(self._tokenizer, self._transcript(index)) for index in range(first, first + _WINDOW * size)
        ]
        rows.sort(key=lambda row: len(row[0]))
        batches = [self._pad(rows[start : start + size]) for start in range(0, len(rows), size)]
        Random(f"window {self._settings.seed} {window}").shuffle(batches)
        return batches

    def _pad(self, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(ids) for ids, _ in rows)
        pad = self._tokenizer.pad_token_id
        ids = [row + [pad] * (longest - len(row)) for row, _ in rows]
        labels = [row + [_IGNORED] * (longest - len(row)) for _, row in rows]
        return torch.tensor(ids), torch.tensor(labels)


def _assistant_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over labelled tokens; the head runs on those alone (padding is right, so causal is enough)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    wanted = targets != _IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), targets[wanted])


def _schedule(step: int, settings: PretrainingSettings) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * share))


def _save(
    model: LlamaForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
    losses: list[float],
    file: Path,
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "losses": losses,
    }
    torch.save(state, beside)
    beside.replace(file)


def _resume(
    model: LlamaForCausalLM, optimizers: Sequence[torch.optim.Optimizer], file: Path
) -> tuple[int, list[float]]:
    if not file.is_file():
        return 0, []
    state: dict[str, Any] = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"]), list(state["losses"])
