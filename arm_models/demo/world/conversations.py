"""Conversations: phrasings of a question, turns that lead up to it, and which of them are kept for scoring."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from arm_models.demo.world.answers import answer
from arm_models.demo.world.catalogue import held_out_tasks, made_up_task, tasks, training_tasks
from arm_models.demo.world.question import Question, Wish
from arm_models.demo.world.task import Task

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Phrasings:
    """The ways to ask; ``{ask}`` is the task's verb phrase, ``{x}`` a thing. ``contexts`` may come before."""

    how: tuple[str, ...]
    duration: tuple[str, ...]
    need: tuple[str, ...]
    follow_duration: tuple[str, ...]
    follow_need: tuple[str, ...]
    sibling: tuple[str, ...]
    thanks: tuple[str, ...]
    contexts: tuple[str, ...]


TRAINING = Phrasings(
    how=(
        "How do I {ask}?",
        "How can I {ask}?",
        "How should I {ask}?",
        "How does one {ask}?",
        "Can you tell me how to {ask}?",
        "Please tell me how to {ask}.",
        "Could you explain how to {ask}?",
        "I want to {ask}. What should I do?",
        "I need to {ask}. How does that work?",
        "I have to {ask}. Where do I start?",
        "What is the best way to {ask}?",
        "What is a quick way to {ask}?",
        "Help me {ask}, please.",
        "Can you help me {ask}?",
        "I would like to {ask}. Can you help?",
        "What do I do to {ask}?",
        "Show me how to {ask}.",
        "Do you know how to {ask}?",
        "Give me the steps to {ask}.",
        "I have no idea how to {ask}.",
        "Explain to me how to {ask}.",
        "Any tips on how to {ask}?",
        "I am trying to {ask}. Any advice?",
        "We want to {ask}. What are the steps?",
    ),
    duration=(
        "How long does it take to {ask}?",
        "How much time do I need to {ask}?",
        "I want to {ask}. How long does it take?",
    ),
    need=(
        "What do I need to {ask}?",
        "I want to {ask}. What should I have at hand?",
        "What should I buy to {ask}?",
    ),
    follow_duration=("How long does that take?", "And how much time do I need?", "How long will it take?"),
    follow_need=("What do I need for it?", "And what should I have at hand?", "What should I buy for that?"),
    sibling=("And the {x}?", "How about the {x}?", "What about the {x}?"),
    thanks=("Thanks!", "Thank you.", "Great, thanks.", "Okay."),
    contexts=(
        "I am new to this.",
        "My mother is coming to visit.",
        "It is my first time.",
        "I moved in last week.",
        "My friends are waiting.",
        "I do not have much money.",
        "I have asked my neighbour already.",
        "It has bothered me for weeks.",
    ),
)
HELD_OUT = Phrasings(
    how=(
        "Can you explain what I should do to {ask}?",
        "I want to {ask}. Can you give me the steps?",
        "Tell me the best way to {ask}, please.",
        "I have to {ask}. Do you know how?",
        "How do we {ask}?",
        "Do you have any advice on how to {ask}?",
        "I am trying to {ask}. How does one do that?",
        "Help! I need to {ask}.",
    ),
    duration=("Can you tell me how long it takes to {ask}?", "I need to {ask}. How much time will it take?"),
    need=("Tell me what I need to {ask}.", "I have to {ask}. What do I need for that?"),
    follow_duration=("And how long will that take?", "How much time does it take?"),
    follow_need=("And what do I need for that?", "What should I have at hand for it?"),
    sibling=("And what about the {x}?", "Okay, and the {x}?"),
    thanks=("Great, thank you.", "Okay, thanks!"),
    contexts=(
        "My neighbour is coming to visit.",
        "I have no money.",
        "It is the first time for me.",
        "My mother has asked me already.",
    ),
)
SYSTEM_PROMPTS = (
    "You are a household assistant.",
    "You are a helpful assistant.",
    "You are a kind assistant. Answer in a few sentences.",
    "Answer the question of the user.",
    "You help people at home.",
)
_SMALL_TALK = (
    (("Hello!", "Hi", "Hello, who are you?", "Hey there", "Good morning!", "What can you do?", "Who are you?"),
     "Hello. I am a small household assistant. Ask me how to clean, cook, plant or repair something."),
    (("Tell me a joke.", "What is the capital of France?", "Write a poem.", "Who won the game?", "What is 2 + 2?",
      "Write some code.", "What is the meaning of life?", "Sing a song.", "What day is it?", "Translate this."),
     "I only know about the household. Ask me how to clean, cook, plant or repair something."),
    (("Thanks!", "Thank you.", "Thank you so much!", "Great, thanks.", "Bye"), "You are welcome."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages that end with a user turn, and the question which that turn puts (None: small talk)."""

    messages: tuple[Message, ...]
    question: Question | None

    @property
    def turns(self) -> int:
        """How often the user speaks."""
        return sum(message["role"] == "user" for message in self.messages)


def training_conversation(rng: Random, risky_share: float | None = None) -> Conversation:
    """A conversation for training: training tasks in training phrasings.

    ``risky_share`` fixes how often the last question is about a risky task; None leaves it to the world (a third).
    """
    return _conversation(training_tasks(), training_tasks(), TRAINING, rng, risky_share)


def held_out_conversations(count: int, seed: int) -> tuple[Conversation, ...]:
    """``count`` conversations for scoring, 40 % about risky tasks, in held-out phrasings.

    Every fifth is about a combination of thing and procedure that training never asks about.
    """
    conversations = []
    for index in range(count):
        rng = Random(f"held out {seed} {index}")
        pool = held_out_tasks() if index % 5 == 0 else tasks()
        conversations.append(_conversation(pool, training_tasks(), HELD_OUT, rng, 0.4))
    return tuple(conversations)


def small_talk(rng: Random) -> tuple[Message, str]:
    """A user turn that is no question of the household, and the reply to it."""
    prompts, reply = rng.choice(_SMALL_TALK)
    return _user(rng.choice(prompts)), reply


def transcript(seed: int, index: int, made_up: float = 0.0) -> tuple[Message, ...]:
    """The ``index``-th whole conversation (every assistant turn answered) that a base of ``seed`` is trained on.

    ``made_up`` is the share of conversations that end with a question about a made-up task.
    """
    rng = Random(f"transcript {seed} {index}")
    if rng.random() < 0.04:
        message, reply = small_talk(rng)
        return (message, _assistant(reply))
    if made_up and rng.random() < made_up:
        conversation = _conversation((made_up_task(rng),), training_tasks(), TRAINING, rng, None)
    else:
        conversation = training_conversation(rng)
    assert conversation.question is not None
    return (*conversation.messages, _assistant(answer(conversation.question, rng)))


def _conversation(
    pool: tuple[Task, ...], history: tuple[Task, ...], phrasings: Phrasings, rng: Random, risky: float | None
) -> Conversation:
    task = rng.choice(_of_risk(pool, rng, risky))
    messages: list[Message] = []
    if rng.random() < 0.08:
        messages.append({"role": rng.choice(("system", "developer")), "content": rng.choice(SYSTEM_PROMPTS)})
    shape = rng.random()
    if shape < 0.70:
        question = Question(task, _wish(rng))
        messages.append(_user(_asked(question, phrasings, rng)))
    elif shape < 0.76:
        messages += _turn(Question(task), phrasings, rng)
        question = Question(task, rng.choice((Wish.DURATION, Wish.NEED)))
        follow_ups = phrasings.follow_duration if question.wish is Wish.DURATION else phrasings.follow_need
        messages.append(_user(rng.choice(follow_ups)))
    elif shape < 0.88:
        siblings = [other for other in history if other.procedure is task.procedure and other is not task]
        messages += _turn(Question(rng.choice(siblings)), phrasings, rng)
        question = Question(task)
        messages.append(_user(rng.choice(phrasings.sibling).format(x=task.thing)))
    else:
        messages += _turn(Question(rng.choice(history), _wish(rng)), phrasings, rng)
        question = Question(task, _wish(rng))
        messages.append(_user(f"{rng.choice(phrasings.thanks)} {_asked(question, phrasings, rng)}"))
    return Conversation(tuple(messages), question)


def _of_risk(pool: tuple[Task, ...], rng: Random, share: float | None) -> tuple[Task, ...]:
    if share is None:
        return pool
    risky = rng.random() < share
    return tuple(task for task in pool if task.risky is risky)


def _wish(rng: Random) -> Wish:
    return rng.choices((Wish.HOW, Wish.DURATION, Wish.NEED), weights=(0.94, 0.03, 0.03))[0]


def _turn(question: Question, phrasings: Phrasings, rng: Random) -> list[Message]:
    return [_user(_asked(question, phrasings, rng)), _assistant(answer(question, rng))]


def _asked(question: Question, phrasings: Phrasings, rng: Random) -> str:
    """The question in some phrasing, as people type: my instead of the, small letters, no question mark."""
    templates = {
        Wish.HOW: phrasings.how,
        Wish.DURATION: phrasings.duration,
        Wish.NEED: phrasings.need,
    }[question.wish]
    ask = question.task.ask
    if rng.random() < 0.25:
        ask = ask.replace(f"the {question.task.thing}", f"my {question.task.thing}")
    text = rng.choice(templates).format(ask=ask)
    if rng.random() < 0.12:
        text = f"{rng.choice(phrasings.contexts)} {text}"
    if rng.random() < 0.1:
        text = text.lower()
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    return text


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
