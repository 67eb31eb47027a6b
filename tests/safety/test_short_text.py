import math

import pytest

from gemma_lisa.safety.short_text import MESSAGE_LENGTH, VALUE_LENGTH, count_of, listed, name_of, shorten, show


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
def test_a_value_of_any_size_is_shown_in_a_few_characters(value):
    assert 0 < len(show(value)) <= VALUE_LENGTH
    assert 0 < len(name_of(value)) <= VALUE_LENGTH


@pytest.mark.parametrize("value", ["cat", "it's", 7, -1, 1.5, math.inf, None, True, [1, [2]], {"a": "b"}, (1,), 10**39])
def test_a_small_value_is_shown_as_python_writes_it(value):
    assert show(value) == repr(value)


def test_a_name_is_shown_without_quotes_and_a_message_keeps_its_beginning():
    assert name_of("the cat") == "the cat" and name_of(7) == "7"
    message = "a.json: " + "x" * 10**6
    assert shorten(message).startswith("a.json: xxx") and len(shorten(message)) == MESSAGE_LENGTH
    assert shorten("short") == "short"
    assert listed(["cat", 3, "dog"]) == "cat, 3, dog"
    assert len(listed("x" * 10**6 for _ in range(10**9))) == 200  # most of them are never made


def test_a_count_has_the_singular_or_the_plural_of_its_noun():
    assert (count_of(1, "mask"), count_of(0, "mask"), count_of(1234, "mask")) == ("1 mask", "0 masks", "1,234 masks")
    assert (count_of(1, "process", "processes"), count_of(2, "process", "processes")) == ("1 process", "2 processes")
