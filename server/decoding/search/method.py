"""What a search method is: what every method has, and how a request becomes a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import Field

from server.decoding.method import Offered, Parameters
from server.decoding.search.action import Search
from server.decoding.search.roles import scorer_of
from server.decoding.search.task import Roles, Task
from server.decoding.weighed import Weighed

if TYPE_CHECKING:
    from server.decoding.roster import Roster


class SearchParameters(Parameters):
    """Keys of ``guidance`` that every search has."""

    scorer: str | None = Field(
        None, description="the scorer that responses are chosen by; null: Σ (α/β) · log π of the rewards"
    )
    guided: bool = Field(
        False, description="draw from the base guided by the preferences, not the base alone"
    )

    def weighed(self, preferences: Mapping[str, float], roster: Roster) -> Weighed:
        """Drawn at α/β if ``guided``, else without any; chosen by the scorer at 1, or else by the rewards at α/β."""
        weights = super().weighed(preferences, roster).drawn
        scorer = scorer_of(self, roster)
        rewards = {name: weight for name, weight in weights.items() if weight}
        return Weighed(weights if self.guided else {}, rewards if scorer is None else {scorer: 1.0})


@runtime_checkable
class SearchMethod(Offered, Protocol):
    """A way to find one response among several. To add one, add a file and name it in ``server.decoding.METHODS``.

    ``whole``: whether each response is drawn by one sequence from its first token to its last, so that a form (tools,
    ``response_format``) can hold for it. ``told``: whether its tokens are draws of a mix, which reports are of.
    """

    whole: bool
    told: bool

    def width(self, parameters: Any) -> int:
        """Sequences it has in the engine at once, at most."""

    def rewrites(self, parameters: Any) -> bool:
        """Whether it renders other chats than the request's."""

    def roles(self, preferences: Mapping[str, float], parameters: Any, roster: Roster) -> Roles:
        """Which members draw and which score.

        Raises:
            InvalidRequest: the deployment has no such member, or there is nothing to score by.
        """

    def search(self, task: Task) -> Search:
        """The search; parameters and roles are the task's."""
