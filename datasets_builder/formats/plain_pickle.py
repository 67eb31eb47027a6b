"""Pickles of plain data: lists, dicts, texts and numbers. No code of a file runs, and memory stays in proportion to it.

The instructions of a pickle are checked before any is carried out. Tuples are refused with everything else that a file
of refs does not need: as keys of a dict, nested ones take exponential time to hash.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import VALUE_LENGTH, shorten

# How many values a file can hold when each shared list is counted at every place, per byte, and beside that
SHARED_GROWTH, SHARED_ALLOWANCE = 10, 10_000
PLAIN = {
    *("MARK", "STOP", "PROTO", "FRAME", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
}
CLASSES = {"GLOBAL", "STACK_GLOBAL", "INST"}  # refused by `PlainUnpickler`, which knows the name of the class
_BY_CODE = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
# Size in bytes of the length that is written before an argument, by pickletools' constant for it
_LENGTH_SIZES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_STOP, _PUT, _LONG_BINPUT = ord("."), ord("p"), ord("r")
# Size in bytes of the argument where it is fixed; other instructions are looked at one by one
_FIXED = [-1] * 256
for _code, _opcode in _BY_CODE.items():
    if _opcode.name in PLAIN - {"STOP", "LONG_BINPUT"} and (_opcode.arg is None or _opcode.arg.n >= 0):
        _FIXED[_code] = 0 if _opcode.arg is None else _opcode.arg.n


class PlainUnpickler(pickle.Unpickler):
    """Builds lists, dicts, texts and numbers; nothing that a file names is ever looked up, so none of it can run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and a file of refs needs no class")


def unpickle(file: Path) -> Any:
    """What a pickle of Python 2 or 3 holds; the texts of the former are bytes, in UTF-8 or else in Latin-1.

    Raises:
        ValueError: no such file, a damaged one, or one that holds more than data.
    """
    try:
        stored = file.read_bytes()
        check_instructions(stored)
        try:
            content = PlainUnpickler(io.BytesIO(stored), encoding="utf-8").load()
        except UnicodeDecodeError:
            content = PlainUnpickler(io.BytesIO(stored), encoding="latin-1").load()
        check_growth(content, SHARED_GROWTH * len(stored) + SHARED_ALLOWANCE)
        return content
    except Exception as error:  # on a damaged file pickle raises a dozen different classes
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 2 * VALUE_LENGTH)
        raise ValueError(f"{file} cannot be read as plain data ({reason}); get it again from its homepage.") from error


def check_instructions(stored: bytes) -> None:
    """Refuse a pickle with other instructions than PLAIN, or with lengths and memo numbers beyond its end.

    pickle itself would set memory aside for them. The check ends at the first class, which `PlainUnpickler` refuses.

    Raises:
        ValueError: what is wrong, and at which byte.
    """
    at, end, fixed = 0, len(stored), _FIXED
    while at < end:
        code, place = stored[at], at
        at += 1
        if (size := fixed[code]) >= 0:
            at += size
            continue
        opcode = _BY_CODE.get(code)
        if code == _STOP or (opcode is not None and opcode.name in CLASSES):
            return
        if opcode is None or opcode.name not in PLAIN:
            name = "no instruction" if opcode is None else f"the instruction {opcode.name}"
            raise ValueError(
                f"{name} at byte {place}; lists, dicts, texts and numbers are read: save it as JSON if it is your own"
            )
        number = 0  # of the memo
        if code == _LONG_BINPUT:
            number = int.from_bytes(stored[at : at + 4], "little")
            at += 4
        elif opcode.arg.n == pickletools.UP_TO_NEWLINE:
            line_end = stored.find(b"\n", at)
            if line_end < 0:
                break
            number = int(stored[at:line_end]) if code == _PUT else 0
            at = line_end + 1
        else:
            size = _LENGTH_SIZES[opcode.arg.n]
            at += size + int.from_bytes(stored[at : at + size], "little")
        if number > end:
            raise ValueError(f"the memo number {number} at byte {place} of {end}")
    raise ValueError("it is cut off")


def check_growth(content: Any, limit: int) -> None:
    """Refuse lists and dicts that hold more than `limit` values when shared ones are counted at every place.

    Raises:
        ValueError: they do, or one of them holds itself.
    """
    pending, count = [content], 0
    while pending:
        held = pending.pop()
        values = held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
        count += len(values)
        if count > limit:
            raise ValueError("its lists hold each other again and again")
        pending += [value for value in values if isinstance(value, list | dict)]
