"""Read an answer: the phrase of each mask, whether the answer repeats itself, and its status."""

import re

# Status of an answer or a mask
FOUND = "found"
LOW_CONFIDENCE = "low confidence"
NOTHING_FOUND = "nothing found"
NOT_THERE = "not there"
TEXT_ONLY = "text only"
INCOMPLETE = "incomplete"
STATUSES = (FOUND, LOW_CONFIDENCE, NOTHING_FOUND, NOT_THERE, TEXT_ONLY, INCOMPLETE)

# Scores below this are low confidence. A score is SAM's own estimate of the IoU of a mask with the object.
MIN_SCORE = 0.5

MIN_REPETITIONS = 3
MAX_REPEATED_WORDS = 8
# Words that never occur three times in a row in a correct answer. "none" and "circle" do, in a list of grid cells.
_FUNCTION_WORDS = frozenset("i a an the this it they there is are was were of in on at see".split())
_END_OF_SENTENCE = ".!?。"
_SEPARATORS = (",", ";", ":", "、")  # items of a list can be equal

# Every pattern here takes linear time: adjacent repetitions cannot match the same characters.
_REFUSAL = re.compile(r"no\b|いいえ|[^:]*: none\.?\s*\Z", re.IGNORECASE)
# Words around a `[SEG]` that name no object: "Sure, it is", ", and", and the same in Japanese
_NAMELESS = re.compile(r"(\b(sure|yes|here|there|it|they|this|is|are|and)\b|それら?は|です|と|[\s,.:;、。])*", re.I)
_LEADING = re.compile(r"^(sure|yes|and|here|there)\b[\s,]*((it|they|here|there) (is|are)\s+)?", re.I)
_PUNCTUATION = re.compile(r"[,.:;、。\n]")


def mask_status(area: int, score: float) -> str:
    """Return the status of one mask.

    Args:
        area: pixels of the mask, after thresholding.
        score: SAM's own estimate of the mask's IoU.

    Returns:
        NOTHING_FOUND if the mask is empty, LOW_CONFIDENCE if the score is below MIN_SCORE, otherwise FOUND.
    """
    if not area:
        return NOTHING_FOUND
    return FOUND if score >= MIN_SCORE else LOW_CONFIDENCE


def answer_status(text: str, complete: bool, mask_statuses: list[str]) -> str:
    """Return the status of an answer.

    Args:
        text: the answer without `[SEG]`.
        complete: the model ended its turn, and the answer does not repeat itself (see `repeats_itself`).
        mask_statuses: `mask_status` of each mask; empty if the answer has no `[SEG]`.

    Returns:
        one of STATUSES, the first that applies:
        INCOMPLETE: the answer was cut off, repeats itself, or is empty. It can still have masks.
        NOTHING_FOUND: all masks are empty.
        LOW_CONFIDENCE: at least one mask that is not empty has a score below MIN_SCORE.
        FOUND: at least one mask is not empty.
        NOT_THERE: there is no mask, and the answer is a refusal: it begins with "No" (or "いいえ"), or it ends with
        ": none". A "No" to a question that asks for no object is also called so.
        TEXT_ONLY: there is no mask, for instance because the question was "How many dogs are there?".
    """
    if not complete or not (text or mask_statuses):
        return INCOMPLETE
    for status in (LOW_CONFIDENCE, FOUND, NOTHING_FOUND):
        if status in mask_statuses:
            return status
    return NOT_THERE if _REFUSAL.match(text) else TEXT_ONLY


def repeats_itself(raw_text: str, seg_token: str = "[SEG]") -> bool:
    """Return whether an answer repeats a word or a sequence of words at least three times in a row.

    "No, I I I see see see none." repeats itself. Lists do not: "They are [SEG] cup, [SEG] cup, [SEG] cup." and "none
    none none circle" (one word per cell of a grid) are correct answers. Therefore, a repetition counts only if

    - it contains no `[SEG]` and no separator such as a comma, and
    - it contains an English function word ("I", "the", "is", ...), or any word if the answer has a `[SEG]`.

    A noun that is repeated in an answer without a `[SEG]` is not detected.

    Args:
        raw_text: the answer with `[SEG]`.
        seg_token: the token that stands for a mask.
    """
    words = [word.rstrip(_END_OF_SENTENCE) for word in raw_text.replace(seg_token, f" {seg_token} ").split()]
    words = [word if word == seg_token else word.lower() for word in words]
    has_mask = seg_token in words
    for length in range(1, MAX_REPEATED_WORDS + 1):
        equal = 0  # consecutive words that equal the word `length` places before
        for at in range(length, len(words)):
            equal = equal + 1 if words[at] == words[at - length] else 0
            if equal == length * (MIN_REPETITIONS - 1):
                repeated = words[at - length + 1 : at + 1]
                if seg_token in repeated or any(word.endswith(_SEPARATORS) for word in repeated):
                    continue
                if any(word in _FUNCTION_WORDS or (has_mask and word.isalpha()) for word in repeated):
                    return True
    return False


def phrases_of(words: list[str]) -> list[str]:
    """Return the phrase of each `[SEG]`, or "" if it has none.

    The phrase is the text before the `[SEG]`, after a colon if there is one. It is the text after it if the answer
    begins with words like "It is", or with the name of several: "The red shapes: [SEG] star, [SEG] ring."

    Args:
        words: the answer, split at its `[SEG]` tokens.
    """
    if len(words) == 1:
        return []
    after = [_PUNCTUATION.split(word.lstrip(" ,、"))[0] for word in words[1:]]
    lists_names = len(words) > 2 and [at for at, word in enumerate(words) if word.rstrip().endswith(":")] == [0]
    named_after = (lists_names or _NAMELESS.fullmatch(words[0])) and not _NAMELESS.fullmatch(after[0])
    before = [word.rpartition(": ")[2] if word.rpartition(": ")[2].strip() else word for word in words[:-1]]
    phrases = [phrase.strip(" \n.,;:、。").removesuffix(" and") for phrase in (after if named_after else before)]
    return ["" if _NAMELESS.fullmatch(phrase) else _LEADING.sub("", phrase) for phrase in phrases]
