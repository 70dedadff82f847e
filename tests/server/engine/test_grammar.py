"""A grammar decides which tokens may be drawn; what it trips over ends its own response only."""

from collections.abc import Callable

import pytest
import torch

from server.engine import Engine, SamplingParams, SequenceRequest, TokenOutput

PROMPTS = {"base": [1, 2, 3], "helpful": [4, 5]}
MIX = {"base": 1.0, "helpful": 0.5}
WORD = [7, 8, 9, 10]


class Spelling:
    """Allows the tokens of ``word`` one after the other, then nothing."""

    def __init__(self, word: list[int], fault: int | None = None) -> None:
        self.word = word
        self.read = 0
        self.fault = fault

    @property
    def ended(self) -> bool:
        return self.read == len(self.word)

    def allowed(self) -> torch.Tensor:
        if self.read == self.fault:
            raise RuntimeError("too complex")
        mask = torch.zeros(300, dtype=torch.bool)
        mask[self.word[self.read]] = True
        return mask

    def accept(self, token: int) -> None:
        assert token == self.word[self.read]
        self.read += 1


class AnyNumber(Spelling):
    """Tokens 50 to 59, and token 0 to end it."""

    ended = False

    def allowed(self) -> torch.Tensor:
        mask = torch.zeros(300, dtype=torch.bool)
        mask[50:60] = True
        mask[0] = True
        return mask

    def accept(self, token: int) -> None:
        assert 50 <= token < 60


def run(engine: Engine) -> dict[str, list[TokenOutput]]:
    outputs: dict[str, list[TokenOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    engine.check_integrity()
    return outputs


def test_only_what_the_grammar_allows_is_drawn_and_its_end_ends_the_response(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    engine.add(SequenceRequest("r", PROMPTS, MIX, SamplingParams(20), grammar=lambda: Spelling(WORD)))
    engine.add(SequenceRequest("free", PROMPTS, MIX, SamplingParams(20, seed=3)))
    outputs = run(engine)
    assert [output.token for output in outputs["r"]] == WORD
    assert [output.finish_reason for output in outputs["r"]] == [None, None, None, "stop"]
    expected = make_engine().generate([SequenceRequest("free", PROMPTS, MIX, SamplingParams(20, seed=3))])
    assert [output.token for output in outputs["free"]] == expected["free"]


def test_a_stop_token_that_the_grammar_allows_is_not_shown_to_it(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    sampling = SamplingParams(200, stop_token_ids=frozenset({0}), min_tokens=5, logit_bias={0: 100.0})
    engine.add(SequenceRequest("r", PROMPTS, MIX, sampling, grammar=lambda: AnyNumber([])))
    outputs = run(engine)["r"]
    assert all(50 <= output.token < 60 for output in outputs[:-1])
    assert (len(outputs), outputs[-1].token, outputs[-1].finish_reason) == (6, 0, "stop")


def test_each_answer_of_a_group_has_a_matcher_of_its_own(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.add(
        *(
            SequenceRequest(
                f"r{seed}", PROMPTS, MIX, SamplingParams(9, seed=seed), grammar=lambda: Spelling(WORD)
            )
            for seed in range(4)
        )
    )
    assert all([output.token for output in one] == WORD for one in run(engine).values())


def test_a_preempted_response_goes_on_in_its_grammar(make_engine: Callable[..., Engine]) -> None:
    word = [number % 250 + 10 for number in range(90)]
    engine = make_engine(kv_tokens=256)
    for name in ("a", "b", "c"):
        engine.add(SequenceRequest(name, PROMPTS, MIX, SamplingParams(100), grammar=lambda: Spelling(word)))
    outputs = run(engine)
    assert engine.stats().preemptions > 0
    assert all([output.token for output in one] == word for one in outputs.values())


@pytest.mark.parametrize("fault", [0, 2])
def test_a_grammar_that_fails_ends_its_own_response_only(
    make_engine: Callable[..., Engine], fault: int
) -> None:
    engine = make_engine()
    engine.add(SequenceRequest("bad", PROMPTS, MIX, SamplingParams(9), grammar=lambda: Spelling(WORD, fault)))
    engine.add(SequenceRequest("good", PROMPTS, MIX, SamplingParams(9), grammar=lambda: Spelling(WORD)))
    outputs = run(engine)
    assert outputs["bad"][-1].finish_reason == "error"
    assert "too complex" in str(outputs["bad"][-1].error)
    assert [output.token for output in outputs["good"]] == WORD


def test_a_grammar_that_allows_nothing_is_an_error_and_one_that_cannot_begin_is_refused(
    make_engine: Callable[..., Engine],
) -> None:
    class Nothing(AnyNumber):
        def allowed(self) -> torch.Tensor:
            return torch.zeros(300, dtype=torch.bool)

    def broken() -> Spelling:
        raise RuntimeError("no such rule")

    engine = make_engine()
    engine.add(SequenceRequest("r", PROMPTS, MIX, SamplingParams(9), grammar=lambda: Nothing([])))
    assert run(engine)["r"][-1].error == "no token is allowed"
    with pytest.raises(ValueError, match="no such rule"):
        engine.add(SequenceRequest("r", PROMPTS, MIX, SamplingParams(9), grammar=broken))
    assert not engine.has_work
