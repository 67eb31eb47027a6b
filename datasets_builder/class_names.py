"""Unite the spellings of class names that users type: "Mug", "mug_" and, on request, "mug-1" and "mug 2"."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from gemma_lisa.safety.short_text import listed, show

from .formats.annotated import Notes

TRAILING_NUMBER = re.compile(r"(?P<stem>.*[^\W\d_])[\s.#-]*[\[(]?(?P<number>\d{1,9})[\])]?")
# Their number is part of the name: "class 1" and "class 2" are never one class
NUMBERED_WORDS = {"class", "type", "kind", "category", "group", "grade", "level", "stage", "phase", "zone", "version"}
SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")
KEEP_APART = "list them in classes.txt to keep them apart"
FIRST_NUMBERS = (0, 1)  # of instances: "mug-1" in every photo
KEPT = "class names that end with a number, which no other name of the class has; the number is kept"


def clean(name: str) -> str:
    """Return a class name with single spaces instead of underscores."""
    return " ".join(name.replace("_", " ").split())


def question_of(name: str) -> str:
    """Return the question about a class: "the mug"; a class that is a sentence is the question itself."""
    return name if name.endswith(SENTENCE_ENDS) else f"the {name}"


def stem_of(name: str) -> str:
    """Return a clean name without its trailing number: "mug" for "mug-1", "mug 2" and "mug (3)".

    "A4" and "class 1" are returned unchanged: a single Latin letter is no name, and a class needs its number.
    """
    match = TRAILING_NUMBER.fullmatch(name)
    if match is None:
        return name
    stem = match["stem"].rstrip()
    is_letter = len(stem) == 1 and stem.isascii()
    return name if is_letter or stem.casefold() in NUMBERED_WORDS else stem


def unite_names(names: Iterable[str], numbered: bool, notes: Notes, advice: str = KEEP_APART) -> dict[str, str]:
    """Return the class of each name. Names that differ only in letter case, spaces or underscores are one class.

    A class has the spelling that occurs most often, or of those the first, with spaces instead of underscores.

    Args:
        names: of all splits, as in the files. They can be repeated.
        numbered: also unite names that differ only in a trailing number. If only one name has its stem, 0 and 1 are
            removed, because they number the first instance, and other numbers are kept: "bus 3" without another bus.
        notes: gets a case for each class of several names.
        advice: how to keep such names apart.
    """
    count = Counter(names)
    groups = defaultdict(list)
    for name in count:
        groups[clean(name).casefold()].append(name)
    if numbered:
        stems = defaultdict(list)
        for key in groups:
            stems[stem_of(key)].append(key)
    else:
        stems = {key: [key] for key in groups}
    class_of = {}
    for stem, keys in stems.items():
        united = [name for key in keys for name in groups[key]]
        has_numbers = len(keys) > 1 or (keys[0] != stem and _number_of(keys[0]) in FIRST_NUMBERS)
        spellings = Counter()
        for name in united:
            spellings[stem_of(clean(name)) if has_numbers else clean(name)] += count[name]
        label = spellings.most_common(1)[0][0]
        class_of |= dict.fromkeys(united, label)
        _note(united, label, has_numbers, notes, advice)
        if keys[0] != stem and not has_numbers:
            notes.add(KEPT, show(united[0]))
    return class_of


def _number_of(name: str) -> int:
    return int(TRAILING_NUMBER.fullmatch(name)["number"])


def _note(united: list[str], label: str, has_numbers: bool, notes: Notes, advice: str) -> None:
    if {clean(name) for name in united} == {label}:
        return  # spaces instead of underscores are no other name
    differ = "a trailing number" if has_numbers else "letter case"
    where = f"{listed(map(show, united))} {'is' if len(united) == 1 else 'are'} {show(label)}"
    notes.add(f"united class names that differ only in {differ} ({advice})", where)
