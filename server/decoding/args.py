"""ARGS (arXiv 2402.01694): the base's k best tokens, each scored log π_base(v) + w · r with a reward model that was trained on
full responses.
"""

from server.decoding.scoring import Scoring, ScoringParameters

ARGS = Scoring("args", "responses", ScoringParameters)
