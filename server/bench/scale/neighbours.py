"""How much slower steps become when other engines take theirs on the same machine."""

import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection

import torch

from server.bench.malloc import tune_malloc
from server.bench.setup import Setup
from server.bench.steady import Steady
from server.engine import Engine

BATCH = 8
CONTEXT = 512
EACH = 10
"""Steps of a run."""


def slowdowns(setup: Setup, most: int, runs: int) -> list[float]:
    """By how many engines are busy, 1 to ``most``: how many times as long a step takes as alone, never less than 1.

    Decode steps with every reward weighed in, alone and beside the others in turn; medians over ``runs`` of the ratios.

    Raises:
        RuntimeError: a neighbour ended before its time.
    """
    found = [1.0]
    engine = _engine(setup)
    with ExitStack() as neighbours:
        switches: list[Callable[[bool], None]] = []
        for _ in range(most - 1):
            switches.append(neighbours.enter_context(_neighbour(setup)))
            found.append(max(1.0, _ratio(engine, setup, switches, runs)))
            setup.tick()
    return found


def _ratio(engine: Engine, setup: Setup, switches: list[Callable[[bool], None]], runs: int) -> float:
    steady = _steady(engine, setup, 2 * EACH * runs)
    steady.begin()
    ratios = []
    for _ in range(runs):
        alone = statistics.median(steady.run(EACH))
        for switch in switches:
            switch(True)
        beside = statistics.median(steady.run(EACH))
        for switch in switches:
            switch(False)
        ratios.append(beside / alone)
    steady.end()
    return statistics.median(ratios)


def _engine(setup: Setup) -> Engine:
    return setup.engine(max_sequences=BATCH, kv_tokens=2 * BATCH * CONTEXT)


def _steady(engine: Engine, setup: Setup, steps: int) -> Steady:
    context = min(CONTEXT, *engine.max_context.values())
    mix = {"base": 1.0} | dict.fromkeys(setup.rewards, 0.5)
    return Steady(engine, BATCH, context, steps, mix)


@contextmanager
def _neighbour(setup: Setup) -> Iterator[Callable[[bool], None]]:
    """A process with an engine like ours; what switches it on and off, and returns when it is."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    setup.sources  # noqa: B018  the models are written here, not there
    plain = replace(setup, tick=_nothing)
    process = context.Process(target=_work, args=(theirs, plain, setup.threads), daemon=True)
    process.start()
    theirs.close()

    def switch(on: bool) -> None:
        try:
            ours.send(on)
            ours.recv()
        except (EOFError, OSError):
            raise RuntimeError("a neighbour ended before its time") from None

    try:
        switch(False)  # its models are loaded
        yield switch
    finally:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.kill()


def _nothing() -> None:
    """What a neighbour's setup calls for each part."""


def _work(connection: Connection, setup: Setup, threads: int) -> None:
    """Take steps while switched on, until the other end is closed."""
    torch.set_num_threads(threads)
    tune_malloc()
    engine = _engine(setup)
    steady = _steady(engine, setup, CONTEXT // 2)
    on = False
    while True:
        if not on or connection.poll():
            try:
                on = connection.recv()
                connection.send(on)
            except (EOFError, OSError):
                return
        if on:
            if not engine.has_work:
                steady.begin()
            engine.step()
