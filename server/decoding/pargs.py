"""PARGS (arXiv 2406.07780): as ARGS, with a reward model that was trained on every prefix of a response."""

from pydantic import Field

from server.config import MAX_WEIGHT
from server.decoding.scoring import Scoring, ScoringParameters


class PargsParameters(ScoringParameters):
    """The same keys; the authors' weight is 2."""

    w: float = Field(2.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, description="weight of the scorer")


PARGS = Scoring("pargs", "prefixes", PargsParameters)
