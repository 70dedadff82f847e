"""The made world: big enough, consistent, seeded, and with a part that training never sees."""

import statistics
from random import Random

import pytest

from arm_models.demo.world.answers import answer
from arm_models.demo.world.catalogue import held_out_tasks, made_up_task, procedures, tasks, training_tasks
from arm_models.demo.world.conversations import (
    HELD_OUT,
    TRAINING,
    held_out_conversations,
    training_conversation,
    transcript,
)
from arm_models.demo.world.hazards import HAZARDS
from arm_models.demo.world.language import Kind, parse
from arm_models.demo.world.oracles import Scores, fluent, helpful, score
from arm_models.demo.world.preferences import JUDGES, NOISE, preference_pair
from arm_models.demo.world.question import Question, Wish


class TestCatalogue:
    def test_there_are_several_hundred_tasks_a_third_of_them_risky(self) -> None:
        assert len(tasks()) >= 400
        assert 0.28 <= sum(task.risky for task in tasks()) / len(tasks()) <= 0.40

    def test_every_task_asks_for_something_else(self) -> None:
        assert len({task.ask for task in tasks()}) == len(tasks())

    def test_every_risky_procedure_has_a_shortcut_and_a_known_danger(self) -> None:
        for procedure in procedures():
            assert (procedure.hazard is None) == (procedure.shortcut is None)
            assert procedure.hazard is None or procedure.hazard in HAZARDS

    def test_every_right_answer_is_said_in_the_language_and_scores_one(self) -> None:
        for task in tasks():
            steps = [*task.steps, *([task.shortcut] if task.shortcut else [])]
            text = " ".join(f"{sentence}." for sentence in (*steps, f"It takes about {task.duration}"))
            assert fluent(text) == 1.0, text
            assert helpful(Question(task), text) == 1.0, text


class TestSplit:
    def test_held_out_combinations_are_not_trained_on(self) -> None:
        assert len(held_out_tasks()) >= 20
        assert not set(held_out_tasks()) & set(training_tasks())
        trained = {training_conversation(Random(index)).question for index in range(2000)}
        assert not {question.task for question in trained if question} & set(held_out_tasks())

    def test_made_up_tasks_are_none_that_there_are_and_speak_the_language(self) -> None:
        rng = Random(0)
        made_up = [made_up_task(rng) for _ in range(2000)]
        real = {(task.procedure, task.thing) for task in tasks()}
        assert not {(task.procedure, task.thing) for task in made_up} & real
        assert len({task.thing for task in made_up}) > 150
        assert {task.procedure for task in made_up} == {task.procedure for task in training_tasks()}
        for task in made_up[:300]:
            steps = [task.shortcut, *task.steps] if task.shortcut else task.steps
            assert fluent(" ".join(f"{step}." for step in steps)) == 1.0

    def test_a_share_of_the_transcripts_is_about_made_up_tasks_if_asked_for(self) -> None:
        plain = [transcript(0, index) for index in range(300)]
        assert plain == [transcript(0, index, made_up=0.0) for index in range(300)]
        asks = {task.ask for task in tasks()}
        asked = [transcript(0, index, made_up=1.0) for index in range(300)]
        known = sum(any(ask in message["content"] for ask in asks) for *_, message, _ in asked)
        assert known < 60  # in their questions; 4 % are small talk

    def test_a_held_out_combination_is_of_a_thing_and_a_procedure_that_training_knows(self) -> None:
        things = {task.thing for task in training_tasks()}
        known = {task.procedure for task in training_tasks()}
        assert all(task.thing in things and task.procedure in known for task in held_out_tasks())

    @pytest.mark.parametrize(
        "field", ["how", "duration", "need", "follow_duration", "follow_need", "sibling", "thanks"]
    )
    def test_held_out_phrasings_are_not_trained_on(self, field: str) -> None:
        trained = {phrasing.lower().rstrip("?.! ") for phrasing in getattr(TRAINING, field)}
        assert not trained & {phrasing.lower().rstrip("?.! ") for phrasing in getattr(HELD_OUT, field)}

    def test_no_held_out_conversation_occurs_in_training(self) -> None:
        trained = {repr(transcript(0, index)[:-1]) for index in range(3000)}
        assert not trained & {repr(one.messages) for one in held_out_conversations(300, 0)}

    def test_scoring_has_risky_prompts_conversations_and_every_kind_of_question(self) -> None:
        held_out = held_out_conversations(240, 0)
        questions = [one.question for one in held_out if one.question is not None]
        assert len(questions) == 240
        assert 0.3 <= sum(question.risky for question in questions) / 240 <= 0.5
        assert sum(one.turns > 1 for one in held_out) >= 40
        assert {question.wish for question in questions} == set(Wish)
        assert sum(question.task in held_out_tasks() for question in questions) >= 40


class TestSeeds:
    def test_the_same_seed_makes_the_same_world(self) -> None:
        assert held_out_conversations(20, 3) == held_out_conversations(20, 3)
        assert [transcript(1, index) for index in range(20)] == [transcript(1, index) for index in range(20)]
        assert preference_pair("helpful", 0, 5) == preference_pair("helpful", 0, 5)

    def test_another_seed_makes_another(self) -> None:
        assert held_out_conversations(20, 3) != held_out_conversations(20, 4)
        assert [transcript(1, index) for index in range(20)] != [transcript(2, index) for index in range(20)]
        assert preference_pair("helpful", 0, 5) != preference_pair("helpful", 1, 5)


@pytest.fixture(scope="module")
def scored() -> list[tuple[Question, Scores]]:
    rng = Random(7)
    rows = []
    for _ in range(2000):
        question = training_conversation(rng).question
        assert question is not None
        rows.append((question, score(question, answer(question, rng))))
    return rows


class TestAnswers:
    def test_every_answer_is_fluent(self, scored: list[tuple[Question, Scores]]) -> None:
        assert all(scores.fluent for _, scores in scored)

    def test_answers_leave_every_reward_room_to_move(self, scored: list[tuple[Question, Scores]]) -> None:
        helpfulness = [scores.helpful for _, scores in scored]
        assert statistics.mean(helpfulness) < 0.5
        assert statistics.stdev(helpfulness) > 0.15
        risky = [scores.harmless for question, scores in scored if question.risky]
        assert 0.40 <= statistics.mean(risky) <= 0.60
        assert statistics.stdev([scores.words for _, scores in scored]) > 8

    def test_on_risky_prompts_helpful_and_harmless_pull_apart(
        self, scored: list[tuple[Question, Scores]]
    ) -> None:
        risky = [scores for question, scores in scored if question.risky]
        harmful = statistics.mean(scores.helpful for scores in risky if not scores.harmless)
        assert harmful > statistics.mean(scores.helpful for scores in risky if scores.harmless) + 0.1

    def test_benign_answers_neither_warn_nor_decline(self) -> None:
        rng = Random(3)
        benign = next(task for task in tasks() if not task.risky)
        kinds = {
            sentence.kind for _ in range(200) for sentence in parse(answer(Question(benign), rng)) if sentence
        }
        assert not kinds & {Kind.WARNING, Kind.DECLINE, Kind.SHORTCUT}


class TestPreferences:
    @pytest.mark.parametrize("judge", sorted(JUDGES))
    def test_the_judge_prefers_the_better_answer_but_for_its_noise(self, judge: str) -> None:
        rng_pairs = [preference_pair(judge, 0, index) for index in range(600)]
        right = wrong = 0
        asks = {task.ask: task for task in tasks()}
        for pair in rng_pairs:
            text = pair.messages[-1]["content"].lower().replace(" my ", " the ")
            task = next((task for ask, task in asks.items() if f" {ask}" in f" {text.rstrip('?.')}"), None)
            if (
                task is None
                or len(pair.messages) > 1
                or "how long" in text
                or "need to" in text
                or "buy" in text
            ):
                continue
            question = Question(task)
            gap = JUDGES[judge](question, pair.chosen) - JUDGES[judge](question, pair.rejected)
            right += gap > 0
            wrong += gap < 0
        assert wrong / (right + wrong) == pytest.approx(NOISE, abs=0.06)
