"""A sweep answered by a server: many requests side by side, each one chat completion."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from arm_models.evaluation.answers import Answer, Cell, Cost
from arm_models.evaluation.settings import DEFAULT_METHOD, Setting
from server.evaluation.chat_service import ChatService


@dataclass(frozen=True)
class UrlAnswers:
    """Answers by ``service``, at most ``parallel`` at a time.

    A setting that says nothing beyond OpenAI's API is asked for with OpenAI's fields alone, so that any server can answer it.
    ``report``: others are also asked what guidance did, which some searches cannot say.
    """

    service: ChatService
    temperature: float
    max_tokens: int
    parallel: int = 16
    report: bool = True

    def __call__(self, cells: Sequence[Cell], done: Callable[[Answer], None]) -> Cost:
        """See ``Answering``."""
        started, tokens = time.monotonic(), 0
        with ThreadPoolExecutor(max_workers=self.parallel) as pool:
            futures = [pool.submit(self._answer, cell) for cell in cells]
            try:
                for future in as_completed(futures):
                    answer = future.result()
                    tokens += answer.tokens
                    done(answer)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return Cost(time.monotonic() - started, len(cells), tokens)

    def _answer(self, cell: Cell) -> Answer:
        body = {
            "messages": [dict(message) for message in cell.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": cell.seed,
            **_guided(cell.setting, self.report),
        }
        completion = self.service.complete(body)
        tokens = int(completion.usage.get("completion_tokens") or 0)
        mean = completion.guidance.get("mean_kl")
        kl = float(mean) * tokens if isinstance(mean, int | float) and tokens else None
        return Answer(
            cell.setting.name, cell.prompt, cell.sample, completion.text, tokens, kl, completion.finish_reason
        )


def _guided(setting: Setting, report: bool) -> dict[str, Any]:
    """The fields that are not OpenAI's."""
    if setting.preferences is None and setting.method == DEFAULT_METHOD and not setting.parameters:
        return {}
    preferences = {} if setting.preferences is None else {"preferences": dict(setting.preferences)}
    told = {"report": "summary"} if report else {}
    return {**preferences, "guidance": {"method": setting.method, **told, **setting.parameters}}
