"""``deterministic`` holds over processes where it is confirmed at start: a seed's tokens are the same alone and in any batch."""

import pytest

from server.engine import SamplingParams, SequenceRequest
from tests.server.engine.sharding.conftest import MakePair
from tests.server.engine.sharding.test_group import MEMBERS, drive, request


@pytest.mark.slow
def test_a_request_is_bitwise_the_same_alone_and_among_others(make_pair: MakePair) -> None:
    pair = make_pair(deterministic=True)
    sampling = SamplingParams(temperature=1.0, max_tokens=40, seed=5, logprobs=0)
    prompts = dict.fromkeys(MEMBERS, tuple(range(20, 70)))
    wanted = SequenceRequest("wanted", prompts, {"base": 1.0, "helpful": 0.8, "harmless": 0.4}, sampling)

    def told(*others: SequenceRequest) -> list[tuple[int, float]]:
        engine = pair.engine(deterministic=True)
        engine.add(wanted, *others)
        outputs = []
        while engine.has_work:
            outputs += [one for one in engine.step() if one.id == "wanted"]
        return [(one.token, one.logprobs.logprob) for one in outputs if one.logprobs is not None]

    alone = told()
    assert len(alone) == 40
    assert told(*(request(number) for number in range(5))) == alone
    assert drive(pair.engine(deterministic=True), [wanted])["wanted"] == [token for token, _ in alone]
