"""The training loop: score pairs, step, log, evaluate, save. One update is a mean over its pairs, however it is split."""

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

from arm_models.data import EncodedPair, PairEncoder
from arm_models.errors import UserError
from arm_models.loading.checkpoint import one_line
from arm_models.losses import ScoredPairs, sampled_preference
from arm_models.tokenizer_hash import template_hash, tokenizer_hash
from arm_models.training import checkpoints
from arm_models.training.batches import BatchOrder, Example, MicroBatch, micro_batches
from arm_models.training.card import RewardCard, write_card
from arm_models.training.checkpoints import TrainingState
from arm_models.training.config import TrainConfig
from arm_models.training.models import ConditionedModel, TrainedModel, load_model
from arm_models.training.pairs import PairSets, read_pair_sets
from arm_models.training.reference import (
    FixedReference,
    MovingReference,
    Reference,
    beside,
    reference_log_probs,
)
from arm_models.training.start import length_limits, open_start, quiet, start_tokenizer

DISTRIBUTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
log = logging.getLogger("genarm.train")


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the model's folder, updates, last figures (also in arm.json), and the figures logged on the way.

    Figures: loss, accuracy (share of pairs whose chosen answer is ranked higher), margin (mean difference of the two:
    of summed log-probs or of their log-ratios to the reference in nats, or of scalar values), eval_… the same on
    held-out pairs.
    """

    output_dir: Path
    steps: int
    results: dict[str, float]
    log: list[dict[str, float]]


def train_reward(config: TrainConfig, *, progress: bool = True) -> TrainResult:
    """Train a model on preference pairs and write it to ``config.output_dir``.

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
    pairs = read_pair_sets(config, encoder, progress and accelerator.is_main_process)
    if notice := encoder.notice():
        say(notice)
    digests = pairs.digests | {"objectives": ", ".join(pairs.train)}
    digests |= {"model": start.digest, "tokenizer": tokenizer_hash(tokenizer)}
    digests |= {"template": template_hash(tokenizer) or "none", "eos": str(eos_id)}
    identity = checkpoints.identity(config, digests, accelerator.num_processes)
    if state is not None and resume is not None:
        checkpoints.check_identity(state, identity, resume)
    torch.manual_seed(config.seed)
    model = load_model(config, start, resume)
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
        model: TrainedModel,
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
        size = config.per_device_train_batch_size * config.gradient_accumulation_steps
        self.orders = [
            BatchOrder(len(part), size * accelerator.num_processes, config.seed)
            for part in pairs.train.values()
        ]
        self.steps = config.max_steps
        if config.max_steps < 1:
            epoch = max(order.steps_per_epoch for order in self.orders)
            self.steps = max(1, math.ceil(config.num_train_epochs * epoch))
        self.trained = model
        self._prepare()
        self.reference: Reference | None = None
        if config.objective.reference == "moving":
            self.reference = MovingReference(model.module, model.trained, self._read_plain, config)
        self.step = 0
        self.log: list[dict[str, float]] = []
        self._window: list[Tensor] = []
        torch.manual_seed(config.seed + accelerator.process_index)

    def _prepare(self) -> None:
        config, plain = self.config, self.trained.plain
        if config.gradient_checkpointing:
            # transformers gave it this name in 5.23; before, it is the one its authors now call deprecated
            enable = getattr(plain, "activation_checkpointing_enable", None)
            (enable or plain.gradient_checkpointing_enable)({"use_reentrant": False})
        optimizer = torch.optim.AdamW(
            list(self.trained.trained.values()),
            lr=config.peak_learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )
        self.model, self.optimizer = self.accelerator.prepare(self.trained.module, optimizer)
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
        if self.config.objective.reference == "fixed":
            self.reference = FixedReference(state.reference)
        elif self.reference is not None:
            self.reference.state = {
                name: weight.to(self.accelerator.device) for name, weight in state.reference.items()
            }

    def train(self) -> TrainResult:
        """Run the updates that are left and write the model."""
        if self.config.objective.reference == "fixed" and self.reference is None:
            self.reference = FixedReference(self._read_reference())
        self.model.train()
        with tqdm(
            total=self.steps, initial=self.step, desc="train", disable=None if self.progress else True
        ) as bar:
            while self.step < self.steps:
                self._window.append(self.update(self.batch(self.step)))
                self.step += 1
                bar.update()
                self._report(bar)
                if self.config.save_steps and self.step % self.config.save_steps == 0:
                    self._save_checkpoint()
        return self._finish()

    def batch(self, step: int) -> list[Example]:
        """The pairs of update ``step``, counted from 0."""
        picked = [order.indices(step) for order in self.orders]
        total = sum(map(len, picked))
        # Weights whose mean is 1, by which a mean over all pairs is Σ p_i L_i over the objectives' own means.
        return [
            Example(pairs[index], weight=share * total / len(indices), place=index)
            for pairs, indices, share in zip(
                self.pairs.train.values(), picked, self.preference(step), strict=True
            )
            for index in indices
        ]

    def preference(self, step: int) -> tuple[float, ...]:
        """How much each objective counts in update ``step``."""
        if isinstance(self.trained, ConditionedModel):
            return sampled_preference(self.config.seed, step, len(self.orders))
        return (1.0,)

    def update(self, batch: Sequence[Example]) -> Tensor:
        """One step of the optimizer on ``batch``; returns this process's sums [loss, right, margin, n]."""
        if isinstance(self.trained, ConditionedModel):
            self.trained.condition(self.preference(self.step))
        parts = list(self._parts(batch, self.config.per_device_train_batch_size))
        sums = torch.zeros(4, dtype=torch.float64)
        for number, part in enumerate(parts):
            with self._synchronised(number == len(parts) - 1):
                losses, margins = self.score(part, "train")
                # Gradients are averaged over processes: with this factor their mean is that of the whole batch.
                share = self.accelerator.num_processes / len(batch)
                self.accelerator.backward((losses * part.weights).sum() * share)
            sums += _sums(losses, margins, part.weights)
        if not math.isfinite(float(sums[0])):
            raise UserError(
                f"the loss is {float(sums[0])} at update {self.step + 1}; a lower learning_rate may help"
            )
        if self.config.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.reference is not None:
            self.reference.follow(self.step + 1)
        return sums

    def score(self, batch: MicroBatch, split: str) -> tuple[Tensor, Tensor]:
        """(loss, margin) of every pair ``[B]`` under the model. split: "train" or "held_out", where the pairs are from."""
        loss = self.config.objective
        # Before the model itself: a reference that moves stands in its place while it reads.
        reference = None if self.reference is None else self.reference.log_probs(batch, split)
        pairs = self._read(self.model, batch)
        if reference is not None:
            pairs = beside(pairs, reference)
        return loss.terms(pairs, self.config.loss_settings), loss.margin(pairs)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss, accuracy and margin on the held-out pairs, under names that begin with eval_.

        Several objectives are each read with all the preference on themselves; their accuracies are there one by one, too.
        """
        self.model.eval()
        total, figures = torch.zeros(4, dtype=torch.float64), dict[str, float]()
        for number, (name, pairs) in enumerate(self.pairs.held_out.items()):
            if isinstance(self.trained, ConditionedModel):
                self.trained.condition([float(place == number) for place in range(len(self.orders))])
            sums = torch.zeros(4, dtype=torch.float64)
            for part in self._parts(_held_out(pairs), self.config.per_device_eval_batch_size):
                sums += _sums(*self.score(part, "held_out"), part.weights)
            if name:
                figures[f"eval_accuracy_{name}"] = self._means(sums)["accuracy"]
            total += sums
        self.model.train()
        return {f"eval_{name}": value for name, value in self._means(total).items()} | figures

    def _read(self, module: Any, batch: MicroBatch) -> ScoredPairs:
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.config.bf16):
            return self.trained.read(module, batch)

    def _read_plain(self, batch: MicroBatch) -> ScoredPairs:
        """By this process alone."""
        return self._read(self.trained.module, batch.to(self.accelerator.device))

    def _read_reference(self) -> dict[str, Tensor]:
        """What the model says before its first update, of the pairs that the run will see."""
        (pairs,), (held_out,) = self.pairs.train.values(), self.pairs.held_out.values()
        steps = range(min(self.steps, self.orders[0].steps_per_epoch))
        seen = [example for step in steps for example in self.batch(step)]
        self.trained.module.eval()
        return {
            split: reference_log_probs(
                examples,
                count,
                self._read_plain,
                max(self.config.per_device_train_batch_size, self.config.per_device_eval_batch_size),
                (self.accelerator.process_index, self.accelerator.num_processes),
                self.pad_id,
                self.progress,
            )
            for split, examples, count in (
                ("train", seen, len(pairs)),
                ("held_out", _held_out(held_out), len(held_out)),
            )
        }

    def _parts(self, batch: Sequence[Example], size: int) -> Iterator[MicroBatch]:
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
                {} if self.reference is None else self.reference.state,
            )
            output, keep = Path(self.config.output_dir), self.config.save_total_limit
            checkpoints.save_checkpoint(output, state, self._save_model, keep)
        self.accelerator.wait_for_everyone()

    def _save_model(self, folder: Path) -> None:
        with quiet():
            self.trained.save(folder)
        self._complete(folder)

    def _publish_model(self, folder: Path) -> None:
        with quiet():
            self.trained.publish(folder, self.pad_id)
        self._complete(folder)

    def _complete(self, folder: Path) -> None:
        # peft's own card says nothing of this run
        (folder / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)

    def _finish(self) -> TrainResult:
        trained = [figures for figures in self.log if "loss" in figures]
        results = {name: trained[-1][name] for name in ("loss", "accuracy", "margin")} if trained else {}
        if self.pairs.held_out_count:
            results |= self.evaluate()
        card = RewardCard(
            config=self.config,
            tokenizer_hash=self.identity["tokenizer"],
            template_hash=template_hash(self.tokenizer),
            eos_token=str(self.tokenizer.eos_token),
            format=self.pairs.format,
            pairs=self.pairs.count,
            held_out=self.pairs.held_out_count,
            digest=self.pairs.digest,
            steps=self.steps,
            results=results,
        )
        output = Path(self.config.output_dir)
        if self.accelerator.is_main_process:

            def write(folder: Path) -> None:
                self._publish_model(folder)
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


def _held_out(pairs: Sequence[EncodedPair]) -> list[Example]:
    return [Example(pair, place=place) for place, pair in enumerate(pairs)]


def _sums(losses: Tensor, margins: Tensor, weights: Tensor) -> Tensor:
    """[Σ loss, pairs ranked right, Σ margin, pairs], float64 on the CPU, every pair counted by its weight."""
    columns = torch.stack([losses, (margins > 0).to(losses), margins, torch.ones_like(margins)]).detach()
    return (columns * weights).double().sum(-1).cpu()


def _line(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "step")
