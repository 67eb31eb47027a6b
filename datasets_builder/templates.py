"""How a row is put into words: questions and answers for a target, chosen by a generator that (seed, epoch, index) fix.

A present thing is answered with one `{seg}` for each mask; a missing one in words that begin with the language's "No",
and no other answer of these begins so: the first word of an answer tells whether the model takes the thing for present.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gemma_lisa.safety.short_text import show

from .rows import SEG_SLOT

# How often a target is answered in the data set's own words, where it has some.
OWN_ANSWER_SHARE = 0.75
# How often a target that comes with an explanation is asked for it.
EXPLAIN_SHARE = 0.5


@dataclass(frozen=True)
class Language:
    """The wordings of one language: `{text}` is what a row asks for, `{question}` a whole question, `{seg}` a mask.

    Answers have one wording each: several would be a guess that the model has to make before it says what it sees.
    """

    phrase_questions: tuple[str, ...]  # the first is the plain one, that evaluation asks: what a person would type
    sentence_questions: tuple[str, ...]
    explain: str
    one_answer: str
    several_answer: str  # its one {seg} stands for all of them, joined as below
    comma: str
    last_comma: str  # before the last of several
    refusal: str
    article: str = ""  # of English phrases, that this language leaves out


LANGUAGES = {
    "en": Language(
        phrase_questions=(
            "{text}",
            "Segment {text}.",
            "Where is {text}?",
            "Please show me {text}.",
            "Can you find {text}?",
        ),
        sentence_questions=("{text}", "{text} Please answer with a mask.", "{text} Please segment it."),
        explain="{question} Please explain why.",
        one_answer="It is {seg}.",
        several_answer="They are {seg}.",
        comma=", ",
        last_comma=" and ",
        refusal="No, I see none.",
    ),
    "ja": Language(
        phrase_questions=(
            "{text}",
            "{text}をセグメントしてください。",
            "{text}はどこですか？",
            "{text}を示してください。",
            "{text}を見つけてください。",
        ),
        sentence_questions=(
            "{text}",
            "{text} マスクで答えてください。",
            "{text} その部分をセグメントしてください。",
        ),
        explain="{question} 理由も説明してください。",
        one_answer="それは {seg} です。",
        several_answer="それらは {seg} です。",
        comma="、",
        last_comma=" と ",
        refusal="いいえ、見当たりません。",
        article="the ",
    ),
}
ENGLISH = "en"  # what the data sets themselves are written in


@dataclass(frozen=True)
class Phrasing:
    """How training asks.

    Args:
        shares: of the questions in each language, relative to each other.
        conversation_share: share of the rows whose targets are asked as the turns of one conversation, in random order,
            so that follow-up questions are learned. In the other rows, each target is a conversation of its own.
        translations: for a language, what its phrases say for those of the data, without an article: {"ja": {"wall":
            "壁"}}. What is not in it stays as it is.
    """

    shares: dict[str, float] = field(default_factory=lambda: {ENGLISH: 1.0})
    translations: dict[str, dict[str, str]] = field(default_factory=dict)
    conversation_share: float = 0.0

    def __post_init__(self):
        for name in [*self.shares, *self.translations]:
            if name not in LANGUAGES:
                raise ValueError(f"No language is called {show(name)}; there are: {', '.join(LANGUAGES)}.")
        shares = self.shares.values()
        if not shares or not all(isinstance(share, int | float) and 0 < share < float("inf") for share in shares):
            raise ValueError(f"languages: {self.shares} are no shares; each must be a number above 0.")
        for name, phrases in self.translations.items():
            if not isinstance(phrases, dict) or not all(isinstance(phrase, str) for phrase in phrases.values()):
                raise ValueError(f'translations: {name} needs a phrase for a phrase, as {{"wall": "壁"}}.')
        if not 0 <= self.conversation_share <= 1:
            raise ValueError(f"conversation_share is {self.conversation_share}; it must lie between 0 and 1.")

    def draw(self, generator: np.random.Generator) -> str:
        if len(self.shares) == 1:
            return next(iter(self.shares))
        shares = np.array(list(self.shares.values()))
        return list(self.shares)[generator.choice(len(shares), p=shares / shares.sum())]

    def phrase(self, text: str, language: str) -> str:
        """A phrase of the data as this language says it."""
        bare = text.removeprefix("the ")
        translated = self.translations.get(language, {}).get(bare)
        return translated or text.removeprefix(LANGUAGES[language].article)


@dataclass(frozen=True)
class Conversation:
    """One conversation about a row's image: turns of (question, answer), and the targets they ask for, if any.

    The masks of the targets stand in the order of the `{seg}` of all answers.
    """

    turns: tuple[tuple[str, str], ...]
    targets: tuple[dict[str, Any], ...] = ()


def ask(
    row: dict[str, Any], generator: np.random.Generator, max_questions: int, phrasing: Phrasing | None = None
) -> list[Conversation]:
    """A row's training conversations in varied words: at most `max_questions` of its targets, then its own dialogue.

    phrasing: English, if none is given. The row's own dialogue stays in the words of its data set.
    """
    phrasing = phrasing or Phrasing()
    targets = row["targets"]
    if len(targets) > max_questions:
        targets = [targets[at] for at in sorted(generator.permutation(len(targets))[:max_questions])]
    conversations = [Conversation((_ask_target(target, generator, phrasing),), (target,)) for target in targets]
    if phrasing.conversation_share and len(conversations) > 1 and generator.random() < phrasing.conversation_share:
        conversations = [conversations[at] for at in generator.permutation(len(conversations))]
        conversations = [
            Conversation(
                sum((conversation.turns for conversation in conversations), ()),
                sum((conversation.targets for conversation in conversations), ()),
            )
        ]
    return conversations + _own_conversation(row)


def ask_plainly(row: dict[str, Any]) -> list[Conversation]:
    """A row's conversations in the plain words of evaluation: every target by its first text, every VQA question."""
    english, conversations = LANGUAGES[ENGLISH], []
    for target in row["targets"]:
        question = english.phrase_questions[0].format(text=target["texts"][0])
        conversations.append(Conversation(((question, _plain_answer(target, english)),), (target,)))
    return conversations + _own_conversation(row)


def _ask_target(target: dict[str, Any], generator: np.random.Generator, phrasing: Phrasing) -> tuple[str, str]:
    name = phrasing.draw(generator)
    language = LANGUAGES[name]
    text = target["texts"][generator.integers(len(target["texts"]))]
    if not target["is_sentence"]:
        text = phrasing.phrase(text, name)
    questions = language.sentence_questions if target["is_sentence"] else language.phrase_questions
    question = questions[generator.integers(len(questions))].format(text=text)
    answer = _plain_answer(target, language)
    if name != ENGLISH:
        return question, answer  # a data set's own answers and explanations are in English
    if target["answer"] is not None and generator.random() < OWN_ANSWER_SHARE:
        answer = target["answer"]
    if target["explanation"] is not None and generator.random() < EXPLAIN_SHARE:
        question, answer = language.explain.format(question=question), f"{answer} {target['explanation']}"
    return question, answer


def _plain_answer(target: dict[str, Any], language: Language) -> str:
    """In the same words always: "It is {seg}.", "They are {seg}, {seg} and {seg}." or the refusal."""
    slots = [SEG_SLOT] * len(target["masks"])
    if not slots:
        return language.refusal
    if len(slots) == 1:
        return language.one_answer
    joined = language.last_comma.join([language.comma.join(slots[:-1]), slots[-1]])
    return language.several_answer.replace(SEG_SLOT, joined)


def _own_conversation(row: dict[str, Any]) -> list[Conversation]:
    turns = tuple((turn["question"], turn["answer"]) for turn in row["conversation"])
    return [Conversation(turns)] if turns else []
