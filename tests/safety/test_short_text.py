import math

import pytest

from gemma_lisa.safety.short_text import (
    MESSAGE_LENGTH,
    VALUE_LENGTH,
    count_of,
    listed,
    name_of,
    on_one_line,
    reason_of,
    shorten,
    show,
)


def nested(depth, leaf=1):
    for _ in range(depth):
        leaf = [leaf, leaf]
    return leaf


@pytest.mark.parametrize(
    "value",
    [
        nested(500),
        {"a": nested(500)},
        list(range(10**6)),
        {str(number): number for number in range(10**5)},
        "x" * 10**7,
        b"x" * 10**7,
        10**5000,
        -(10**5000),
        [10**5000, "x" * 10**6],
    ],
    ids=["shared lists", "in a dict", "list", "dict", "text", "bytes", "integer", "negative", "both"],
)
def test_large_values_are_shortened(value):
    assert 0 < len(show(value)) <= VALUE_LENGTH
    assert 0 < len(name_of(value)) <= VALUE_LENGTH


@pytest.mark.parametrize("value", ["cat", "it's", 7, -1, 1.5, math.inf, None, True, [1, [2]], {"a": "b"}, (1,), 10**39])
def test_small_values_are_shown_as_their_repr(value):
    assert show(value) == repr(value)


def test_names_have_no_quotes_and_messages_keep_their_beginning():
    assert name_of("the cat") == "the cat" and name_of(7) == "7"
    message = "a.json: " + "x" * 10**6
    assert shorten(message).startswith("a.json: xxx") and len(shorten(message)) == MESSAGE_LENGTH
    assert shorten("short") == "short"
    assert listed(["cat", 3, "dog"]) == "cat, 3, dog"
    assert len(listed("x" * 10**6 for _ in range(10**9))) == 200  # most of the names are never created


def test_the_reason_of_an_error_is_one_short_line():
    assert reason_of(ValueError("first line.\n  second line.")) == "first line. second line"
    assert reason_of(ValueError()) == "ValueError"
    assert len(reason_of(ValueError("x\n" * 10**6), 50)) == 50


def test_a_count_has_the_singular_or_plural_of_its_noun():
    assert [count_of(count, "mask") for count in (0, 1, 2, 1_000)] == ["0 masks", "1 mask", "2 masks", "1,000 masks"]
    assert [count_of(number, "entry", "entries") for number in (1, 2)] == ["1 entry", "2 entries"]


def test_untrusted_text_becomes_one_line_without_control_characters():
    assert on_one_line("make\n\tbase\x1b[31m \u202ered\u2028") == "make base [31m red"
    assert on_one_line(7) == "7" and on_one_line("\x00") == ""
    assert len(on_one_line("x" * 10**7)) == len(on_one_line({"a": ["x" * 10**7]})) == VALUE_LENGTH
