"""The thread that owns the engine: commands come in through a queue, a step's outputs go out in one call."""

import logging
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from server.engine.engine import Engine
from server.engine.member import Member
from server.engine.output import TokenOutput
from server.engine.request import CandidateScoring, SequenceRequest
from server.engine.stats import EngineStats

logger = logging.getLogger(__name__)


class EngineDead(RuntimeError):
    """The engine ended, by a fault or because it was stopped, and takes no more work."""


class EngineThread:
    """Runs an engine until it is stopped or a step raises. Every method may be called from any thread.

    ``on_outputs`` gets the outputs of a step, ``on_death`` the fault that ended the engine, after every response in flight
    has got its one error through ``on_outputs``. Both are called in the engine's thread and must not block. ``over`` is
    entered for as long as the engine does something, which has to come to an end.
    """

    def __init__(
        self,
        engine: Engine,
        on_outputs: Callable[[list[TokenOutput]], None],
        on_death: Callable[[BaseException], None],
        over: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._engine = engine
        self._over = over
        self._on_outputs = on_outputs
        self._on_death = on_death
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._open = False
        self._stats = engine.stats()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the engine takes work."""
        return self._open

    @property
    def stats(self) -> EngineStats:
        """What the engine was doing after its last step."""
        return self._stats

    def start(self) -> None:
        """Begin to take work."""
        self._open = True
        self._thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """End after the step under way; what is in flight gets an error. False when that took longer than ``timeout`` seconds."""
        self._commands.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def add(self, *requests: SequenceRequest) -> "Future[None]":
        """Queue responses, all or none; the future holds ``ValueError`` when the engine refuses them, ``EngineDead`` when it
        has ended."""
        return self._submit(lambda: self._engine.add(*requests))

    def change(
        self,
        sequence_ids: Sequence[str],
        mix: Mapping[str, float],
        conditions: Mapping[str, tuple[float, ...]] | None = None,
        candidates: CandidateScoring | None = None,
    ) -> "Future[dict[str, int]]":
        """Change the weights, the preference vectors and how candidates are scored, of several responses between the same two
        steps.

        The future holds, for those still under way, the first token index drawn under the new ones, or ``ValueError``.
        """
        return self._submit(lambda: self._engine.change_all(sequence_ids, mix, conditions, candidates))

    def abort(self, sequence_id: str) -> "Future[None]":
        """End a response early; its last output has finish_reason "abort"."""
        return self._submit(lambda: self._emit(self._engine.abort(sequence_id)))

    def has_begun(self, prefix: str) -> "Future[bool]":
        """Whether any response under way whose id begins with ``prefix`` has left the queue."""
        return self._submit(lambda: self._engine.has_begun(prefix))

    def release(self, sequence_ids: Sequence[str]) -> "Future[None]":
        """Give back what held responses hold; those under way will not be held, others are no error."""
        return self._submit(lambda: self._engine.release(sequence_ids))

    def add_members(self, members: Sequence[Member]) -> "Future[None]":
        """Let responses read with more members from the next step on; the future holds ``ValueError`` as of
        :meth:`Engine.add_members`."""
        return self._submit(lambda: self._engine.add_members(members))

    def remove_members(self, names: Collection[str]) -> "Future[None]":
        """Forget members between two steps; the future holds ``ValueError`` as of :meth:`Engine.remove_members`."""
        return self._submit(lambda: self._engine.remove_members(names))

    def _submit(self, command: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        with self._closing:
            if self._open:
                self._commands.put((command, future))
            else:
                future.set_exception(EngineDead("the engine has ended"))
        return future

    def _run(self) -> None:
        try:
            while self._obey():
                with self._over():
                    outputs = self._engine.step()
                # First: who has read the tokens finds them counted.
                self._stats = self._engine.stats()
                self._emit(outputs)
            fault: BaseException | None = None
        except Exception as error:
            logger.exception("the engine died")
            fault = error
        self._close()
        self._emit(self._engine.fail_all("the engine stopped" if fault is None else "the engine died"))
        if fault is not None:
            self._on_death(fault)

    def _obey(self) -> bool:
        """Carry out queued commands, waiting for one when there is nothing else to do; False when told to stop."""
        while True:
            try:
                item = self._commands.get(block=not self._engine.has_work)
            except queue.Empty:
                return True
            if item is None:
                return False
            self._carry_out(*item)
            self._stats = self._engine.stats()

    def _carry_out(self, command: Callable[[], Any], future: "Future[Any]") -> None:
        """A command's own error goes to whoever gave it and does not stop the engine."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            with self._over():
                result = command()
        except (KeyError, ValueError) as error:
            future.set_exception(error)
        except BaseException as error:
            future.set_exception(error)  # whoever gave it hears of it before the engine dies of it
            raise
        else:
            future.set_result(result)

    def _emit(self, outputs: list[TokenOutput]) -> None:
        if outputs:
            self._on_outputs(outputs)

    def _close(self) -> None:
        """Take no more commands and refuse those that came too late."""
        with self._closing:
            self._open = False
        while True:
            try:
                item = self._commands.get_nowait()
            except queue.Empty:
                return
            if item is not None and item[1].set_running_or_notify_cancel():
                item[1].set_exception(EngineDead("the engine has ended"))
