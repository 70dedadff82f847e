"""The training loop: score pairs, step, log, evaluate, save. One update is a mean over its pairs, however it is split."""

import inspect
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, get_scheduler

from arm_models.data import EncodedPair, PairEncoder, PreferencePair, read_pairs, split_by_prompt
from arm_models.errors import UserError
from arm_models.loading.checkpoint import one_line
from arm_models.losses import LOSSES, ScoredPairs, answer_lengths, sequence_log_probs
from arm_models.tokenizer_hash import template_hash, tokenizer_hash
from arm_models.training import checkpoints
from arm_models.training.batches import BatchOrder, MicroBatch, micro_batches
from arm_models.training.card import RewardCard, write_card
from arm_models.training.checkpoints import TrainingState
from arm_models.training.config import TrainConfig
from arm_models.training.start import (
    length_limits,
    load_trainable,
    open_start,
    quiet,
    start_tokenizer,
)

DISTRIBUTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
log = logging.getLogger("genarm.train")


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the model's folder, updates, last figures (also in arm.json), and the figures logged on the way.

    Figures: loss, accuracy (share of pairs whose chosen answer has the higher summed log-prob), margin (mean
    difference of the two, nats), eval_… the same on held-out pairs.
    """

    output_dir: Path
    steps: int
    results: dict[str, float]
    log: list[dict[str, float]]


@dataclass(frozen=True)
class PairSets:
    """Token ids to train on and to hold out, and where they come from."""

    train: list[EncodedPair]
    held_out: list[EncodedPair]
    format: str
    digests: dict[str, str]


def train_reward(config: TrainConfig, *, progress: bool = True) -> TrainResult:
    """Train an autoregressive reward model and write it to ``config.output_dir``.

    progress: a bar on stderr where that is a terminal, log lines elsewhere. Seeds torch's global generators. Runs in
    this process, or as one of those `accelerate launch` has started. Raises UserError in one line for anything a user
    can put right; ``output_dir`` then holds whole checkpoints or nothing new.
    """
    checkpoints.check_output(config)
    resume = checkpoints.find_resume(config)
    state = checkpoints.load_state(resume) if resume is not None else None
    start = open_start(config)
    tokenizer, eos_id = start_tokenizer(config, start)
    accelerator = _accelerator(config)
    say = log.info if accelerator.is_main_process and progress else log.debug
    positions = start.config.get("max_position_embeddings", start.config.get("n_positions"))
    limits = length_limits(config, positions if isinstance(positions, int) else None)
    encoder = PairEncoder(tokenizer, eos_id, limits.prompt, limits.total)
    pairs = _read(config, encoder, progress and accelerator.is_main_process)
    if notice := encoder.notice():
        say(notice)
    digests = pairs.digests | {"model": start.digest, "tokenizer": tokenizer_hash(tokenizer)}
    digests |= {"template": template_hash(tokenizer) or "none", "eos": str(eos_id)}
    identity = checkpoints.identity(config, digests, accelerator.num_processes)
    if state is not None and resume is not None:
        checkpoints.check_identity(state, identity, resume)
    torch.manual_seed(config.seed)
    model = load_trainable(config, start, resume)
    run = TrainingRun(config, accelerator, model, tokenizer, pairs, identity, progress)
    if state is not None:
        run.resume(state)
        say("going on from %s", resume)
    if accelerator.is_main_process:
        checkpoints.clear_output(config, resume)
    return run.train()


class TrainingRun:
    """A run under way: the model, its optimizer and where it is in the data."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        pairs: PairSets,
        identity: dict[str, Any],
        progress: bool,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.tokenizer = tokenizer
        self.pairs = pairs
        self.identity = identity
        self.progress = progress and accelerator.is_main_process
        self.pad_id = int(
            tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        )
        self.order = BatchOrder(
            len(pairs.train),
            config.per_device_train_batch_size
            * config.gradient_accumulation_steps
            * accelerator.num_processes,
            config.seed,
        )
        self.steps = config.max_steps
        if config.max_steps < 1:
            self.steps = max(1, math.ceil(config.num_train_epochs * self.order.steps_per_epoch))
        self._prepare(model)
        self.step = 0
        self.log: list[dict[str, float]] = []
        self._window: list[Tensor] = []
        torch.manual_seed(config.seed + accelerator.process_index)

    def _prepare(self, model: Any) -> None:
        config = self.config
        plain = model.get_base_model() if config.use_peft else model
        if config.gradient_checkpointing:
            # transformers gave it this name in 5.23; before, it is the one its authors now call deprecated
            enable = getattr(plain, "activation_checkpointing_enable", None)
            (enable or plain.gradient_checkpointing_enable)({"use_reentrant": False})
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            lr=config.peak_learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )
        self._keeps_logits = "logits_to_keep" in inspect.signature(plain.forward).parameters
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # Not prepared: accelerate would step it once per process.
        self.scheduler = get_scheduler(
            config.lr_scheduler_type, optimizer, math.ceil(config.warmup_ratio * self.steps), self.steps
        )

    def resume(self, state: TrainingState) -> None:
        """Take up optimizer, schedule, random generators and log where ``state`` left them."""
        self.optimizer.load_state_dict(state.optimizer)
        self.scheduler.load_state_dict(state.scheduler)
        own = state.processes[self.accelerator.process_index]
        checkpoints.set_random_state(own, self.accelerator.device)
        self._window = list(own["window"])
        self.step = state.step
        self.log = list(state.log)

    def train(self) -> TrainResult:
        """Run the updates that are left and write the model."""
        self.model.train()
        with tqdm(
            total=self.steps, initial=self.step, desc="train", disable=None if self.progress else True
        ) as bar:
            while self.step < self.steps:
                self._window.append(self.update(self.order.indices(self.step)))
                self.step += 1
                bar.update()
                self._report(bar)
                if self.config.save_steps and self.step % self.config.save_steps == 0:
                    self._save_checkpoint()
        return self._finish()

    def update(self, indices: Sequence[int]) -> Tensor:
        """One step of the optimizer on the pairs at ``indices``; returns this process's sums [loss, right, margin, n]."""
        batch = [self.pairs.train[index] for index in indices]
        parts = list(self._parts(batch, self.config.per_device_train_batch_size))
        sums = torch.zeros(4, dtype=torch.float64)
        for number, part in enumerate(parts):
            with self._synchronised(number == len(parts) - 1):
                losses, pairs = self.score(part)
                # Gradients are averaged over processes: with this factor their mean is that of the whole batch.
                share = self.accelerator.num_processes / len(batch)
                self.accelerator.backward((losses * part.weights).sum() * share)
            sums += _sums(losses, pairs, part.weights)
        if not math.isfinite(float(sums[0])):
            raise UserError(
                f"the loss is {float(sums[0])} at update {self.step + 1}; a lower learning_rate may help"
            )
        if self.config.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return sums

    def score(self, batch: MicroBatch) -> tuple[Tensor, ScoredPairs]:
        """(loss of every pair ``[B]``, the pairs' log-probs) under the model."""
        keep: dict[str, int] = {}
        labels = batch.labels
        if self._keeps_logits:
            # Logits of the shared prompt are not needed, and with a large vocabulary they are most of the memory.
            first = max(0, int((labels >= 0).int().argmax(-1).min()) - 1)
            keep = {"logits_to_keep": labels.shape[1] - first}
            labels = labels[:, first:]
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.config.bf16):
            logits = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **keep
            ).logits
        chosen, rejected = sequence_log_probs(logits, labels).chunk(2)
        pairs = ScoredPairs(chosen, rejected, *answer_lengths(labels).chunk(2))
        return LOSSES[self.config.loss](pairs, self.config.loss_settings), pairs

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss, accuracy and margin on the held-out pairs, under names that begin with eval_."""
        self.model.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        for part in self._parts(self.pairs.held_out, self.config.per_device_eval_batch_size):
            losses, pairs = self.score(part)
            sums += _sums(losses, pairs, part.weights)
        self.model.train()
        return {f"eval_{name}": value for name, value in self._means(sums).items()}

    def _parts(self, batch: Sequence[EncodedPair], size: int) -> Iterator[MicroBatch]:
        device = self.accelerator.device
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        for part in micro_batches(batch, size, rank, processes, self.pad_id):
            yield part.to(device)

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = nullcontext() if last else self.accelerator.no_sync(self.model)
        return context

    def _means(self, sums: Tensor) -> dict[str, float]:
        loss, right, margin, count = (
            float(value) for value in sum(gather_object([sums]), torch.zeros(4, dtype=torch.float64))
        )
        return {"loss": loss / count, "accuracy": right / count, "margin": margin / count}

    def _report(self, bar: Any) -> None:
        config = self.config
        due = self.step % config.logging_steps == 0 or self.step == self.steps
        evaluate = config.eval_steps and self.step % config.eval_steps == 0 and self.step < self.steps
        if not due and not evaluate:
            return
        figures: dict[str, float] = {"step": self.step, "learning_rate": self.scheduler.get_last_lr()[0]}
        if due and self._window:
            figures |= self._means(torch.stack(self._window).sum(0))
            self._window.clear()
        if evaluate:
            figures |= self.evaluate()
        self.log.append(figures)
        if self.progress:
            bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items() if name != "step"})
            if bar.disable:
                log.info("update %d of %d: %s", self.step, self.steps, _line(figures))

    def _save_checkpoint(self) -> None:
        own = checkpoints.random_state(self.accelerator.device) | {"window": self._window}
        states = gather_object([own])
        if self.accelerator.is_main_process:
            state = TrainingState(
                self.step,
                self.optimizer.state_dict(),
                self.scheduler.state_dict(),
                states,
                self.log,
                self.identity,
            )
            output, keep = Path(self.config.output_dir), self.config.save_total_limit
            checkpoints.save_checkpoint(output, state, self._write_model, keep)
        self.accelerator.wait_for_everyone()

    def _write_model(self, folder: Path) -> None:
        model = self.accelerator.unwrap_model(self.model)
        with quiet():
            model.save_pretrained(folder)
        # peft's own card says nothing of this run
        (folder / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)

    def _finish(self) -> TrainResult:
        trained = [figures for figures in self.log if "loss" in figures]
        results = {name: trained[-1][name] for name in ("loss", "accuracy", "margin")} if trained else {}
        if self.pairs.held_out:
            results |= self.evaluate()
        card = RewardCard(
            config=self.config,
            tokenizer_hash=self.identity["tokenizer"],
            template_hash=template_hash(self.tokenizer),
            eos_token=str(self.tokenizer.eos_token),
            format=self.pairs.format,
            pairs=len(self.pairs.train),
            held_out=len(self.pairs.held_out),
            digest=self.pairs.digests["data"],
            steps=self.steps,
            results=results,
        )
        output = Path(self.config.output_dir)
        if self.accelerator.is_main_process:

            def write(folder: Path) -> None:
                self._write_model(folder)
                write_card(folder, card)

            checkpoints.publish(output, write)
        self.accelerator.wait_for_everyone()
        if self.progress:
            log.info("%s written: %s", output, _line(results))
        return TrainResult(output, self.steps, results, self.log)


def _accelerator(config: TrainConfig) -> Accelerator:
    # Launched processes without a GPU find each other over gloo only when accelerate is told that they are on CPUs.
    several = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    try:
        accelerator = Accelerator(cpu=config.use_cpu or several)
    except ValueError as error:  # accelerate keeps one device for the life of a process
        raise UserError(f"use_cpu: {one_line(error)}") from error
    if accelerator.distributed_type not in DISTRIBUTED:
        raise UserError(
            f"accelerate's {accelerator.distributed_type.value} is not supported; use one process or plain data parallel"
        )
    return accelerator


def _read(config: TrainConfig, encoder: PairEncoder, progress: bool) -> PairSets:
    data = read_pairs(config.dataset_name, config.dataset_format)
    train, held_out = data.pairs, tuple[PreferencePair, ...]()
    digests = {"data": data.digest}
    if config.eval_dataset:
        other = read_pairs(config.eval_dataset, config.dataset_format)
        held_out = other.pairs
    elif config.eval_fraction:
        train, held_out = split_by_prompt(train, config.eval_fraction, config.seed)
    if data.ties and progress:
        log.info("%d pairs of %s left out: neither answer is preferred", data.ties, config.dataset_name)
    with tqdm(
        total=len(train) + len(held_out), desc="tokenise", disable=None if progress else True, leave=False
    ) as bar:
        encoded: tuple[list[EncodedPair], list[EncodedPair]] = ([], [])
        for target, source in zip(encoded, (train, held_out), strict=True):
            for pair in source:
                target.append(encoder.encode(pair))
                bar.update()
    return PairSets(encoded[0], encoded[1], data.format, digests)


def _sums(losses: Tensor, pairs: ScoredPairs, weights: Tensor) -> Tensor:
    """[Σ loss, pairs ranked right, Σ margin, pairs], float64 on the CPU, of the pairs whose weight is 1."""
    margins = pairs.chosen - pairs.rejected
    columns = torch.stack([losses, (margins > 0).to(losses), margins, torch.ones_like(margins)]).detach()
    return (columns * weights).double().sum(-1).cpu()


def _line(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "step")
