"""Load pickles of plain data: lists, dicts, strings and numbers. No code in a file runs, and memory use is bounded.

All instructions of a pickle are checked before the first is executed. Everything that a file of refs does not need is
refused. That includes tuples: hashing nested tuples as dict keys takes exponential time. Numbers of NumPy are read as
plain numbers by numpy_pickle.py.
"""

import io
import pickle
import pickletools
from collections.abc import Set
from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import VALUE_LENGTH, shorten

from .numpy_pickle import INSTRUCTIONS, NumpyUnpickler

# Maximum number of values, counting shared lists at every place: this many per byte, plus the allowance
SHARED_GROWTH, SHARED_ALLOWANCE = 10, 10_000
PLAIN = {
    *("MARK", "STOP", "PROTO", "FRAME", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
}
CLASSES = {"GLOBAL", "STACK_GLOBAL", "INST"}  # refused by `PlainUnpickler`, whose error names the class
ADVICE = (
    "if it is your own, convert NumPy arrays with .tolist(), or save it as JSON; otherwise download it again from its "
    "homepage"
)
_BY_CODE = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
# Size in bytes of the length field before an argument, by pickletools' constant
_LENGTH_SIZES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_STOP, _PUT, _LONG_BINPUT, _GLOBAL = ord("."), ord("p"), ord("r"), ord("c")
# Size in bytes of arguments with a fixed size; -1 for all other instructions
_FIXED = [-1] * 256
for _code, _opcode in _BY_CODE.items():
    if _opcode.name in PLAIN - {"STOP", "LONG_BINPUT"} and (_opcode.arg is None or _opcode.arg.n >= 0):
        _FIXED[_code] = 0 if _opcode.arg is None else _opcode.arg.n


class PlainUnpickler(pickle.Unpickler):
    """Unpickler of lists, dicts, strings and numbers. It never imports a name, so no code of a file can run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"it contains the class {module}.{name}; only lists, dicts, strings and numbers are supported"
        )


def unpickle(file: Path) -> Any:
    """Return the content of a pickle of Python 2 or 3. Strings of Python 2 are decoded as UTF-8, or else as Latin-1.

    Raises:
        ValueError: the file does not exist, is damaged or contains more than plain data.
    """
    try:
        stored = file.read_bytes()
        unpickler = PlainUnpickler
        if not check_instructions(stored) and b"numpy" in stored:
            check_instructions(stored, PLAIN | INSTRUCTIONS)
            unpickler = NumpyUnpickler
        try:
            content = unpickler(io.BytesIO(stored), encoding="utf-8").load()
        except UnicodeDecodeError:
            content = unpickler(io.BytesIO(stored), encoding="latin-1").load()
        check_growth(content, SHARED_GROWTH * len(stored) + SHARED_ALLOWANCE)
        return content
    except Exception as error:  # pickle raises many classes of errors on damaged files
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 2 * VALUE_LENGTH)
        raise ValueError(f"{file} cannot be read as plain data ({reason}); {ADVICE}.") from error


def check_instructions(stored: bytes, supported: Set[str] = PLAIN) -> bool:
    """Check that a pickle has only supported instructions, and no lengths or memo numbers beyond its end.

    pickle would allocate memory for these. The check stops at the first class that is not supported, which
    `PlainUnpickler` refuses. Returns whether the whole pickle was checked.

    Raises:
        ValueError: an instruction is not supported; the message has its byte offset.
    """
    at, end, fixed = 0, len(stored), _FIXED
    while at < end:
        code, place = stored[at], at
        at += 1
        if (size := fixed[code]) >= 0:
            at += size
            continue
        opcode = _BY_CODE.get(code)
        if code == _STOP:
            return True
        if opcode is not None and opcode.name in CLASSES - supported:
            return False
        if opcode is None or opcode.name not in supported:
            name = "an unknown instruction" if opcode is None else f"the instruction {opcode.name}"
            raise ValueError(
                f"{name} at byte {place}; only lists, dicts, strings and numbers are supported: save your data as JSON"
            )
        number = 0  # memo number
        if opcode.arg is None:
            continue
        if code == _LONG_BINPUT:
            number = int.from_bytes(stored[at : at + 4], "little")
            at += 4
        elif opcode.arg.n == pickletools.UP_TO_NEWLINE:
            line_end = stored.find(b"\n", at)
            if line_end < 0:
                break
            number = int(stored[at:line_end]) if code == _PUT else 0
            if code == _GLOBAL:  # two lines: module and name
                line_end = stored.find(b"\n", line_end + 1)
                if line_end < 0:
                    break
            at = line_end + 1
        else:
            size = _LENGTH_SIZES[opcode.arg.n]
            at += size + int.from_bytes(stored[at : at + size], "little")
        if number > end:
            raise ValueError(f"memo number {number} at byte {place} is larger than the file ({end} bytes)")
    raise ValueError("the file is truncated")


def check_growth(content: Any, limit: int) -> None:
    """Check that lists and dicts have at most `limit` values, counting shared ones at every place.

    Raises:
        ValueError: they have more, or one of them contains itself.
    """
    pending, count = [content], 0
    while pending:
        held = pending.pop()
        values = held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
        count += len(values)
        if count > limit:
            raise ValueError("its lists contain each other too many times")
        pending += [value for value in values if isinstance(value, list | dict)]
