"""Shorten values and texts from files and users so that they fit into an error message."""

import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

VALUE_LENGTH, MESSAGE_LENGTH = 120, 2_000  # characters
_CUT = "…"
_LONGEST_INTEGER = 10**40  # str() of an integer takes quadratic time, and at most 4,300 digits


class _ShortRepr(reprlib.Repr):
    """repr() of a few elements on a few levels only, because a value with shared parts can be exponentially long."""

    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxarray = self.maxdeque = 6
        self.maxdict = 6
        self.maxstring = self.maxother = VALUE_LENGTH

    def repr_int(self, value: int, level: int) -> str:
        if abs(value) < _LONGEST_INTEGER:
            return repr(value)
        return f"an integer of {value.bit_length():,} bits"

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[: self.maxother])


_short_repr = _ShortRepr()


def show(value: Any, length: int = VALUE_LENGTH) -> str:
    """Return repr(value), cut to `length` characters. The time does not depend on the size of the value."""
    return shorten(_short_repr.repr(value), length)


def name_of(value: Any, length: int = VALUE_LENGTH) -> str:
    """Return a name or an id as text: a string without quotes, anything else as `show` writes it."""
    return shorten(value, length) if isinstance(value, str) else show(value, length)


def on_one_line(value: Any, length: int = VALUE_LENGTH) -> str:
    """Return a text of an untrusted file on one line: without control characters and direction marks, and cut."""
    text = name_of(value, 2 * length)
    return shorten(" ".join("".join(letter if letter.isprintable() else " " for letter in text).split()), length)


def shorten(text: str, length: int = MESSAGE_LENGTH) -> str:
    """Return the text, cut to `length` characters."""
    return text if len(text) <= length else text[: length - len(_CUT)] + _CUT


def reason_of(error: BaseException, length: int = 3 * VALUE_LENGTH) -> str:
    """Return the message of an error on one line without a full stop, or its class if it has no message."""
    return shorten(" ".join(str(error).split()), length).rstrip(".") or type(error).__name__


def listed(names: Iterable[Any], length: int = 200) -> str:
    """Return the names separated by commas, cut to `length` characters. Names beyond that are not read."""
    return shorten(", ".join(name_of(name) for name in islice(names, length)), length)


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as "1 process" or "2 processes". plural: singular + "s" if None."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"
