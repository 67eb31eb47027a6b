"""Phrasings of questions and answers for the targets of a row, drawn with a random generator.

The answer for a target in the image has one `{seg}` per mask. The answer for an absent target starts with "No" in the
language of the question. No other answer of the templates starts with this word, so the first word of an answer shows
whether the model found the target. A data set's own answers can have another form.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from datasets import Dataset

from gemma_lisa.safety.short_text import show

from .rows import SEG_SLOT

# Share of targets that are answered with the data set's own answer, if it has one.
OWN_ANSWER_SHARE = 0.75
# Share of targets with an explanation that are asked for it.
EXPLAIN_SHARE = 0.5


@dataclass(frozen=True)
class Language:
    """Templates of one language: `{text}` is the text of the target, `{question}` a question, `{seg}` a mask.

    There is only one template per kind of answer. With several, the model would have to guess one of them before it
    answers.
    """

    phrase_questions: tuple[str, ...]  # evaluation uses the first: what a user would type
    sentence_questions: tuple[str, ...]
    explain: str
    one_answer: str
    several_answer: str  # {seg} is replaced by all masks, joined with the commas below
    comma: str
    last_comma: str  # before the last mask
    refusal: str
    article: str = ""  # English article to remove from phrases


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
ENGLISH = "en"  # the language of the data sets


@dataclass(frozen=True)
class Phrasing:
    """Languages and conversations of training questions.

    Args:
        shares: share of the questions in each language, relative to each other: {"en": 3.0, "ja": 1.0}.
        translations: for a language, translations of the data sets' phrases without article: {"ja": {"wall": "壁"}}.
            Phrases without translation stay in English.
        conversation_share: share of rows whose targets become the turns of one conversation, in random order, to train
            follow-up questions. In the other rows, each target is a separate conversation.
    """

    shares: dict[str, float] = field(default_factory=lambda: {ENGLISH: 1.0})
    translations: dict[str, dict[str, str]] = field(default_factory=dict)
    conversation_share: float = 0.0

    def __post_init__(self):
        for name in [*self.shares, *self.translations]:
            if name not in LANGUAGES:
                raise ValueError(f"Unknown language {show(name)}; choose from: {', '.join(LANGUAGES)}.")
        shares = self.shares.values()
        if not shares or not all(isinstance(share, int | float) and 0 < share < float("inf") for share in shares):
            raise ValueError(f"languages: each share must be a number above 0, got {show(self.shares)}.")
        for name, phrases in self.translations.items():
            if not isinstance(phrases, dict) or not all(isinstance(phrase, str) for phrase in phrases.values()):
                raise ValueError(
                    f'translations: {name} must map phrases to phrases, such as {{"wall": "壁"}}, got {show(phrases)}.'
                )
        if not 0 <= self.conversation_share <= 1:
            raise ValueError(f"conversation_share must be between 0 and 1, got {self.conversation_share}.")

    def draw(self, generator: np.random.Generator) -> str:
        """Return the key of a language, drawn with the shares as probabilities."""
        if len(self.shares) == 1:
            return next(iter(self.shares))
        shares = np.array(list(self.shares.values()))
        return list(self.shares)[generator.choice(len(shares), p=shares / shares.sum())]

    def phrase(self, text: str, language: str) -> str:
        """Return a phrase of the data set in this language, if it has a translation."""
        bare = text.removeprefix("the ")
        translated = self.translations.get(language, {}).get(bare)
        return translated or text.removeprefix(LANGUAGES[language].article)


@dataclass(frozen=True)
class Conversation:
    """A conversation about a row's image: (question, answer) turns, and the targets they ask for.

    The masks of the targets are in the order of the `{seg}` in the answers.
    """

    turns: tuple[tuple[str, str], ...]
    targets: tuple[dict[str, Any], ...] = ()


def ask(
    row: dict[str, Any], generator: np.random.Generator, max_questions: int, phrasing: Phrasing | None = None
) -> list[Conversation]:
    """Return the training conversations of a row: at most `max_questions` of its targets, then its own conversation.

    Args:
        row: a row with `rows.ROW_FEATURES`.
        generator: draws the targets and the phrasings.
        max_questions: maximum number of targets.
        phrasing: languages and conversations; English without conversations if None. The row's own conversation is
            not rephrased.
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
    """Return the evaluation conversations of a row: each target by its first text, then its own conversation.

    The last question of a conversation is the one that is evaluated. A row's own conversation gives one evaluation
    conversation per turn, with the turns before it and their right answers.
    """
    english, conversations = LANGUAGES[ENGLISH], []
    for target in row["targets"]:
        question = english.phrase_questions[0].format(text=target["texts"][0])
        conversations.append(Conversation(((question, _plain_answer(target, english)),), (target,)))
    turns = _own_turns(row)
    return conversations + [Conversation(turns[: number + 1]) for number in range(len(turns))]


def place_questions(rows: Dataset, with_conversations: bool) -> np.ndarray:
    """Return the place of each evaluation question, (Q, 2) int32: its row, and its number in `ask_plainly` of that row.

    Args:
        rows: rows with `rows.ROW_FEATURES`.
        with_conversations: whether to include the conversations of VQA rows. Each turn is a question.
    """
    table = rows.select_columns(["targets", "conversation"]).with_format("arrow")[:]
    counts = _list_lengths(table["targets"])
    if with_conversations:
        counts = counts + _list_lengths(table["conversation"])
    starts = np.cumsum(counts) - counts
    at = np.repeat(np.arange(len(counts)), counts)
    return np.stack([at, np.arange(len(at)) - starts[at]], axis=1).astype(np.int32)


def _list_lengths(column: pyarrow.ChunkedArray) -> np.ndarray:
    """Return the length of the list in each row, (R,) int64; 0 for a missing list."""
    return pyarrow.compute.list_value_length(column).fill_null(0).to_numpy().astype(np.int64)


def _ask_target(target: dict[str, Any], generator: np.random.Generator, phrasing: Phrasing) -> tuple[str, str]:
    """Return a (question, answer) for a target."""
    name = phrasing.draw(generator)
    language = LANGUAGES[name]
    text = target["texts"][generator.integers(len(target["texts"]))]
    if not target["is_sentence"]:
        text = phrasing.phrase(text, name)
    questions = language.sentence_questions if target["is_sentence"] else language.phrase_questions
    question = questions[generator.integers(len(questions))].format(text=text)
    answer = _plain_answer(target, language)
    if name != ENGLISH:
        return question, answer  # the data sets' answers and explanations are in English
    if target["answer"] is not None and generator.random() < OWN_ANSWER_SHARE:
        answer = target["answer"]
    if target["explanation"] is not None and generator.random() < EXPLAIN_SHARE:
        question, answer = language.explain.format(question=question), f"{answer} {target['explanation']}"
    return question, answer


def _plain_answer(target: dict[str, Any], language: Language) -> str:
    """Return "It is {seg}.", "They are {seg}, {seg} and {seg}." or the refusal."""
    slots = [SEG_SLOT] * len(target["masks"])
    if not slots:
        return language.refusal
    if len(slots) == 1:
        return language.one_answer
    joined = language.last_comma.join([language.comma.join(slots[:-1]), slots[-1]])
    return language.several_answer.replace(SEG_SLOT, joined)


def _own_conversation(row: dict[str, Any]) -> list[Conversation]:
    turns = _own_turns(row)
    return [Conversation(turns)] if turns else []


def _own_turns(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((turn["question"], turn["answer"]) for turn in row["conversation"])
