"""The processes of one group, and what they say to each other: rows of integers, rows of logits, nothing that is unpickled."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from arm_models.errors import UserError
from server.engine.sharding.lifeline import Lifeline

FOREVER = timedelta(days=365)
"""An idle follower waits in a collective for the next request. Whether anybody is still there is the lifeline's business."""

MEETING = timedelta(minutes=5)
"""What may pass from the start of the first process to that of the last."""

FIRST = 1024
"""Integers of a message's first piece; most messages have no second."""


class Ranks:
    """A group that this process has joined.

    Attributes:
        rank: which of them it is; 0 leads.
        size: how many they are.
        device: where logits are exchanged: this process's own device of the kind that the base is on.
        lifeline: who is still there.
    """

    def __init__(self, rank: int, size: int, device: torch.device, lifeline: Lifeline, control: Any) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        self.lifeline = lifeline
        self._control = control  # a group over gloo: integers, and logits that are on CPUs

    @classmethod
    def join(
        cls,
        kind: str,
        *,
        rank: int,
        size: int,
        local_rank: int,
        host: str,
        watch: Callable[[Lifeline], None],
        listening: int | None = None,
    ) -> "Ranks":
        """Meet the others, for a base on devices of ``kind`` ("cpu" or "cuda"); waits until all are there.

        ``local_rank``: which of this machine's processes it is; ``host``: where rank 0 is reached. torch finds the others by the
        variables that torchrun sets; ``listening``: on rank 0, a socket's number at which they come, where there is one already.
        ``watch`` begins to look who is still there, as soon as that can be done.

        Raises:
            UserError: the devices are not those that transformers would split a model over, or the others cannot be met.
        """
        device = _own_device(kind, rank, local_rank)
        try:
            store = _store(size, listening)
            lifeline = Lifeline(store, rank, size, host)
            watch(lifeline)
            dist.init_process_group(
                "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl",
                store=PrefixStore("genarm", store),
                rank=rank,
                world_size=size,
                timeout=FOREVER,
            )
            control = dist.new_group(backend="gloo", timeout=FOREVER)
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()
            raise UserError(
                f"rank {rank} cannot meet the other processes at {host}: "
                f"{reason[0] if reason else type(error).__name__}"
            ) from error
        return cls(rank, size, device, lifeline, control)

    def tell(self, words: Sequence[int]) -> None:
        """On rank 0: say a message to all others."""
        head = torch.zeros(FIRST, dtype=torch.long)
        head[0] = len(words)
        begin = words[: FIRST - 1]
        head[1 : 1 + len(begin)] = torch.tensor(begin, dtype=torch.long)
        dist.broadcast(head, 0, group=self._control)
        if len(words) > len(begin):
            rest = torch.tensor(words[len(begin) :], dtype=torch.long)
            dist.broadcast(rest, 0, group=self._control)

    def hear(self) -> list[int]:
        """On the others: the next message, for which they may have to wait long."""
        head = torch.zeros(FIRST, dtype=torch.long)
        dist.broadcast(head, 0, group=self._control)
        count = int(head[0])
        words: list[int] = head[1 : 1 + min(count, FIRST - 1)].tolist()
        if count > len(words):
            rest = torch.zeros(count - len(words), dtype=torch.long)
            dist.broadcast(rest, 0, group=self._control)
            words.extend(rest.tolist())
        return words

    def worst(self, status: int) -> int:
        """The largest of what all say; all have to."""
        value = torch.tensor([status], dtype=torch.long)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._control)
        return int(value)

    def least(self, values: Sequence[int]) -> list[int]:
        """The smallest at each place of what all say; all have to, equally many."""
        told = torch.tensor(values, dtype=torch.long)
        dist.all_reduce(told, dist.ReduceOp.MIN, group=self._control)
        result: list[int] = told.tolist()
        return result

    def check_alike(self, said: Mapping[str, str]) -> None:
        """All have to say as many things, of the same names, which have to be the same.

        Raises:
            UserError: names the first that is not.
        """
        hashes = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") for text in said.values()]
        told = self.least([*hashes, *(-number for number in hashes)])
        for name, least, most in zip(said, told, told[len(hashes) :], strict=False):
            if least != -most:
                raise UserError(f"{name}: not the same in all {self.size} processes")

    def share_drawn(self, drawn: torch.Tensor | None, rows: int) -> torch.Tensor:
        """Rank 0's ``drawn`` [rows] int64, on every rank's :attr:`device`."""
        if drawn is None:
            tokens = torch.zeros(rows, dtype=torch.long, device=self.device)
        else:
            tokens = drawn.to(self.device, torch.long).contiguous()
        dist.broadcast(tokens, 0, group=self._exchange)
        return tokens

    def answer(self, status: int, logits: torch.Tensor | None) -> None:
        """To rank 0: how this rank's part went, and its logits (any shape, float32) where it went well and there are some."""
        dist.send(torch.tensor([status], dtype=torch.long), 0, group=self._control)
        if logits is not None and logits.numel():
            dist.send(logits.to(self.device).contiguous(), 0, group=self._exchange)

    def status_of(self, rank: int) -> int:
        """On rank 0: the status that ``rank`` answers."""
        status = torch.zeros(1, dtype=torch.long)
        dist.recv(status, rank, group=self._control)
        return int(status)

    def logits_of(self, rank: int, numbers: int) -> torch.Tensor:
        """On rank 0: [numbers] float32, the logits that ``rank`` answers; on :attr:`device`."""
        logits = torch.zeros(numbers, dtype=torch.float32, device=self.device)
        if numbers:
            dist.recv(logits, rank, group=self._exchange)
        return logits

    @property
    def _exchange(self) -> Any:
        """The group that moves tensors of :attr:`device`."""
        return self._control if self.device.type == "cpu" else dist.group.WORLD


def _store(size: int, listening: int | None) -> Any:
    """Where the processes leave each other word. Raises what torch does where they do not all come."""
    if listening is None:
        store, _, _ = next(rendezvous("env://", timeout=MEETING))
        return store
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(  # type: ignore[attr-defined]  # public, but not marked as exported
        address, port, size, is_master=True, timeout=MEETING, master_listen_fd=listening
    )


def _own_device(kind: str, rank: int, local_rank: int) -> torch.device:
    """Raises UserError where transformers, which splits over the machine's accelerators, would take other devices."""
    there = torch.cuda.device_count()
    if kind == "cuda" and local_rank >= there:
        raise UserError(
            f"base.tensor_parallel: a GPU for every process, but rank {rank} is process {local_rank + 1} of a machine "
            f"with {there}"
        )
    if kind == "cpu" and there:
        raise UserError(
            "base.tensor_parallel: on a machine with GPUs the base is split over these: set base.device to cuda, or "
            "hide them (CUDA_VISIBLE_DEVICES=)"
        )
    if kind == "cpu":
        return torch.device("cpu")
    device = torch.device(kind, local_rank)
    torch.cuda.set_device(device)
    return device
