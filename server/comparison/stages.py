"""Stages: commands in processes of their own, side by side as far as they may be, none repeated that is done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from arm_models.errors import UserError
from arm_models.whole_file import write_whole

_POLL = 0.1
_SHOWN = 15


@dataclass(frozen=True)
class Stage:
    """One command of Python.

    Attributes:
        name: unique; also of its log.
        arguments: behind the interpreter's name.
        after: names of stages that must be done before.
        seconds: an estimate on one quiet core.
        alone: nothing runs beside it, because it takes times.
        inputs: what its result depends on besides the arguments, such as the content of a file they name.
        output: the folder that it makes. What a stage of this name but of other inputs left there is removed.
        resumes: whether it goes on with what a stopped run of its own left there; else that is removed too.
    """

    name: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()
    seconds: float = 1.0
    alone: bool = False
    inputs: str = ""
    output: Path | None = None
    resumes: bool = True

    @property
    def digest(self) -> str:
        """Changes when the stage would do something else."""
        return hashlib.sha256(json.dumps([self.arguments, self.inputs]).encode()).hexdigest()


def chained(stages: Sequence[Stage]) -> list[Stage]:
    """``stages``, each depending on what those it comes after do; these must be listed before it (``KeyError`` else)."""
    digests: dict[str, str] = {}
    found = []
    for stage in stages:
        one = replace(stage, inputs=stage.inputs + "".join(digests[name] for name in stage.after))
        digests[one.name] = one.digest
        found.append(one)
    return found


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)


class Runner:
    """Runs stages below ``folder``: ``logs/NAME.log``, ``begun/NAME`` with the digest of what was begun, ``done/NAME``
    with that and the seconds of what is done."""

    def __init__(self, folder: Path, jobs: int, threads: int = 1) -> None:
        self.folder = folder
        self.jobs = jobs
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        for name in ("begun", "done"):
            (folder / name).mkdir(exist_ok=True)

    def is_done(self, stage: Stage) -> bool:
        """Whether it was run to its end as it is now."""
        marker = self.folder / "done" / stage.name
        return marker.is_file() and json.loads(marker.read_text())["digest"] == stage.digest

    def seconds(self, stage: Stage) -> float:
        """What it took; raises ``KeyError`` where it is not done."""
        if not self.is_done(stage):
            raise KeyError(stage.name)
        return float(json.loads((self.folder / "done" / stage.name).read_text())["seconds"])

    def estimate(self, stages: Sequence[Stage]) -> float:
        """Seconds that what is not done will take, if estimates hold and there is always something for every job."""
        left = [stage for stage in stages if not self.is_done(stage)]
        alone = sum(stage.seconds for stage in left if stage.alone)
        return alone + sum(stage.seconds for stage in left if not stage.alone) / self.jobs

    def run(self, stages: Sequence[Stage], told: Callable[[Stage], object] = lambda _: None) -> None:
        """Run all that is not done; ``told`` hears of each that ends.

        Raises ``UserError`` with the end of its log for one that fails, and ends the others first; an interruption ends all too.
        """
        waiting = {stage.name: stage for stage in stages if not self.is_done(stage)}
        running: list[_Running] = []
        try:
            while waiting or running:
                self._start(waiting, running)
                time.sleep(_POLL)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    self._finish(one)
                    told(one.stage)
        finally:
            for one in running:
                one.process.terminate()
            for one in running:
                one.process.wait()

    def _start(self, waiting: dict[str, Stage], running: list[_Running]) -> None:
        pending = {*waiting, *(one.stage.name for one in running)}
        for stage in list(waiting.values()):
            if len(running) >= self.jobs or any(one.stage.alone for one in running):
                return
            if pending & set(stage.after) or (stage.alone and running):
                continue
            running.append(_Running(stage, self._launch(stage)))
            del waiting[stage.name]

    def _launch(self, stage: Stage) -> subprocess.Popen[bytes]:
        begun = self.folder / "begun" / stage.name
        own = begun.is_file() and begun.read_text() == stage.digest
        if stage.output is not None and not (own and stage.resumes):
            shutil.rmtree(stage.output, ignore_errors=True)
        begun.write_text(stage.digest)
        with (self.folder / "logs" / f"{stage.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *stage.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def _finish(self, one: _Running) -> None:
        if one.process.returncode != 0:
            log = self.folder / "logs" / f"{one.stage.name}.log"
            end = "\n".join(log.read_text(errors="replace").splitlines()[-_SHOWN:])
            print(end, file=sys.stderr)
            raise UserError(
                f"stage {one.stage.name} failed with code {one.process.returncode}; its log is {log}"
            )
        seconds = round(time.monotonic() - one.started, 1)
        done = json.dumps({"digest": one.stage.digest, "seconds": seconds}) + "\n"
        write_whole(self.folder / "done" / one.stage.name, done)
