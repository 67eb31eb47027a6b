"""How a row is put into words: questions and answers for a target, chosen by a generator that (seed, epoch, index) fix.

A present thing is answered with one `{seg}` for each mask; a missing one in words that begin with "No", and no other
answer of these begins so: the first word of an answer tells whether the model takes the thing for present.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .rows import SEG_SLOT

# The first question is the plain one, that evaluation asks: the words a person would type.
PHRASE_QUESTIONS = (
    "{text}",
    "Segment {text}.",
    "Where is {text}?",
    "Please show me {text}.",
    "Can you find {text}?",
)
SENTENCE_QUESTIONS = (
    "{text}",
    "{text} Please answer with a mask.",
    "{text} Please segment it.",
)
EXPLAIN = "{question} Please explain why."
# One wording each: several would be a guess that the model has to make before it says what it sees.
ONE_ANSWER = "It is {seg}."
SEVERAL_ANSWER = "They are {seg}."
REFUSAL = "No, I see none."

# How often a target is answered in the data set's own words, where it has some.
OWN_ANSWER_SHARE = 0.75
# How often a target that comes with an explanation is asked for it.
EXPLAIN_SHARE = 0.5


@dataclass(frozen=True)
class Chat:
    """One conversation about a row's image: rounds of (question, answer), and the target it asks for, if any."""

    rounds: tuple[tuple[str, str], ...]
    target: dict[str, Any] | None = None


def ask(row: dict[str, Any], generator: np.random.Generator, max_questions: int) -> list[Chat]:
    """A row's training conversations in varied words: at most `max_questions` of its targets, then its own dialogue."""
    targets = row["targets"]
    if len(targets) > max_questions:
        targets = [targets[at] for at in sorted(generator.permutation(len(targets))[:max_questions])]
    chats = [Chat((_ask_target(target, generator),), target) for target in targets]
    return chats + _dialogue(row)


def ask_plainly(row: dict[str, Any]) -> list[Chat]:
    """A row's conversations in the plain words of evaluation: every target by its first text, every VQA question."""
    chats = [
        Chat(((PHRASE_QUESTIONS[0].format(text=_first(target)), _plain_answer(target)),), target)
        for target in row["targets"]
    ]
    return chats + _dialogue(row)


def _ask_target(target: dict[str, Any], generator: np.random.Generator) -> tuple[str, str]:
    text = target["texts"][generator.integers(len(target["texts"]))]
    questions = SENTENCE_QUESTIONS if target["is_sentence"] else PHRASE_QUESTIONS
    question = questions[generator.integers(len(questions))].format(text=text)
    answer = _plain_answer(target)
    if target["answer"] is not None and generator.random() < OWN_ANSWER_SHARE:
        answer = target["answer"]
    if target["explanation"] is not None and generator.random() < EXPLAIN_SHARE:
        question, answer = EXPLAIN.format(question=question), f"{answer} {target['explanation']}"
    return question, answer


def _plain_answer(target: dict[str, Any]) -> str:
    """In the same words always: "It is {seg}.", "They are {seg}, {seg} and {seg}." or the refusal."""
    slots = [SEG_SLOT] * len(target["masks"])
    if not slots:
        return REFUSAL
    if len(slots) == 1:
        return ONE_ANSWER
    return SEVERAL_ANSWER.replace(SEG_SLOT, f"{', '.join(slots[:-1])} and {slots[-1]}")


def _first(target: dict[str, Any]) -> str:
    return target["texts"][0]


def _dialogue(row: dict[str, Any]) -> list[Chat]:
    rounds = tuple((turn["question"], turn["answer"]) for turn in row["conversation"])
    return [Chat(rounds)] if rounds else []
