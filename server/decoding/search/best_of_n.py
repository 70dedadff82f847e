"""Best-of-N: N responses, the one with the highest score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from server.decoding.method import Parameters
from server.decoding.search.action import Answer, Grow, Score, Search, Text, grow, score_after_one
from server.decoding.search.method import SearchParameters
from server.decoding.search.roles import Rewarded, read_roles
from server.decoding.search.task import Roles, Task

if TYPE_CHECKING:
    from server.decoding.roster import Roster


class BestOfNParameters(SearchParameters):
    """``guidance`` keys of best-of-N."""

    n_candidates: int = Field(8, ge=1, le=256, description="responses to choose from")


class BestOfN(Rewarded):
    """Draws N responses to one prompt and keeps the best; of equal ones the first."""

    name = "best_of_n"
    Parameters: type[Parameters] = BestOfNParameters
    whole = True
    told = True

    def width(self, parameters: BestOfNParameters) -> int:
        """One sequence per candidate."""
        return parameters.n_candidates

    def rewrites(self, parameters: BestOfNParameters) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def roles(self, preferences: Mapping[str, float], parameters: BestOfNParameters, roster: Roster) -> Roles:
        """See ``SearchMethod``."""
        return read_roles(preferences, parameters, roster)

    def search(self, task: Task) -> Search:
        """One round of responses, one of scores."""
        count = task.parameters.n_candidates
        texts = yield from grow(
            [Grow(task.prompts, Text(), task.roles.mix, task.sampled(number)) for number in range(count)],
            note=f"best_of_n, drawing {count} candidates",
        )
        scores = yield from score_after_one(
            [Score(task.prompts, text, task.roles.score) for text in texts],
            note=f"best_of_n, scoring {count} candidates",
        )
        best = max(
            range(count), key=lambda number: scores[number].value
        )  # max() keeps the first of equal ones
        return Answer(texts[best], scores[best].value)
