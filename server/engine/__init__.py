"""The engine: several models read the same growing responses and each request mixes them with its own weights.

Needs torch and transformers only; no web package is imported from here.
"""

from server.engine.assembly import NEGATIVE, build_members, build_more, kv_shape, release_stock
from server.engine.attention.hook import ATTENTION, register_attention
from server.engine.cache.kv_cache import BLOCK, capacity_for
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.member import Member, SelfTestError
from server.engine.output import TokenLogprobs, TokenOutput, TokenReport
from server.engine.request import CandidateScoring, Grammar, Matcher, SamplingParams, SequenceRequest
from server.engine.stats import EngineStats
from server.engine.thread import EngineDead, EngineThread

__all__ = [
    "ATTENTION",
    "BLOCK",
    "NEGATIVE",
    "CandidateScoring",
    "Engine",
    "EngineConfig",
    "EngineDead",
    "EngineStats",
    "EngineThread",
    "Grammar",
    "Matcher",
    "Member",
    "SamplingParams",
    "SelfTestError",
    "SequenceRequest",
    "TokenLogprobs",
    "TokenOutput",
    "TokenReport",
    "build_members",
    "build_more",
    "capacity_for",
    "kv_shape",
    "register_attention",
    "release_stock",
]
