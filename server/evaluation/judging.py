"""Everything a judge has to say about a sweep: each setting against one reference, many comparisons side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from arm_models.evaluation.cache import ScoreCache, key_of
from arm_models.evaluation.prompts import Messages, instruction
from arm_models.evaluation.scores.judge import compare
from server.evaluation.chat_service import ChatService


@dataclass(frozen=True)
class Judging:
    """A judge behind ``service``. ``model`` and ``criterion`` are part of what a kept verdict belongs to."""

    service: ChatService
    model: str
    criterion: str = ""
    max_tokens: int = 16
    parallel: int = 8

    def verdicts(
        self,
        prompts: Sequence[Messages],
        reference: Sequence[str],
        answers: Mapping[str, Sequence[str]],
        cache: ScoreCache,
        tick: Callable[[], object] = lambda: None,
    ) -> dict[str, list[float]]:
        """By setting, points against ``reference`` per prompt (1, ½, 0). ``reference`` and ``answers``: one text per prompt.

        What ``cache`` has is not asked again; every new verdict is in it before ``tick`` is called.
        """
        keys = {
            (name, number): key_of(self.model, self.criterion, messages, texts[number], reference[number])
            for name, texts in answers.items()
            for number, messages in enumerate(prompts)
        }
        with ThreadPoolExecutor(max_workers=self.parallel) as pool:
            asked = {
                pool.submit(self._compare, prompts[number], answers[name][number], reference[number]): key
                for (name, number), key in keys.items()
                if key not in cache
            }
            try:
                for future in as_completed(asked):
                    cache[asked[future]] = future.result()
                    tick()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {
            name: [float(cache[keys[name, number]]["points"]) for number in range(len(prompts))]
            for name in answers
        }

    def _compare(self, messages: Messages, ours: str, other: str) -> dict[str, object]:
        verdict = compare(self._ask, instruction(messages), ours, other, self.criterion)
        return {"points": verdict.points, "first": verdict.first, "second": verdict.second}

    def _ask(self, message: str) -> str:
        body = {
            "messages": [{"role": "user", "content": message}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        return self.service.complete(body).text
