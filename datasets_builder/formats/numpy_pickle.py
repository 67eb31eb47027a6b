"""Load pickles of plain data with numbers of NumPy, such as np.int64(7), as plain numbers. No name is imported.

NumPy stores a number as a call of three functions with the bytes of the number. This unpickler decodes these bytes. It
knows the functions only by name, and refuses every other call. Tuples exist only as arguments of these calls.
"""

import pickle
import struct
from typing import Any

# Instructions besides those of plain data; `plain_pickle.check_instructions` must have checked the whole pickle.
INSTRUCTIONS = {
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
}
SCALAR, DTYPE, ENCODE = "scalar", "dtype", "encode"
FUNCTIONS = {
    ("numpy._core.multiarray", SCALAR),
    ("numpy.core.multiarray", SCALAR),  # NumPy 1
    ("numpy", DTYPE),
    ("_codecs", ENCODE),  # bytes in protocols 0 to 2
}
# Codes of `struct`, by the type in NumPy's notation
CODES = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
CODES |= {"f2": "e", "f4": "f", "f8": "d"}
PLAIN_TYPES = (str, bytes, int, float, bool, type(None))


class _Function:
    """One of FUNCTIONS. It cannot be called or be a key."""

    __slots__ = ("name",)
    __hash__ = None

    def __init__(self, name: str):
        self.name = name


class _NumberType:
    """A type of numbers: NumPy's dtype."""

    __slots__ = ("code", "order")
    __hash__ = None

    def __init__(self, code: str):
        self.code, self.order = code, "<"


class _Tuple(list):
    """A tuple in the pickle. A list cannot be a key, so nested tuples are never hashed."""


class NumpyUnpickler(pickle._Unpickler):
    """Unpickler of lists, dicts, strings, and numbers of Python and NumPy. It never imports a name.

    The base class is Python's reference implementation, because the implementation in C calls functions itself.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def load(self) -> Any:
        content = super().load()
        _check_plain(content)
        return content

    def find_class(self, module: str, name: str) -> _Function:
        if (module, name) not in FUNCTIONS:
            raise pickle.UnpicklingError(
                f"it contains the class {module}.{name}; only lists, dicts, strings and numbers are supported"
            )
        return _Function(name)

    def load_tuple(self) -> None:
        items = self.pop_mark()
        self.append(_Tuple(items))

    def load_short_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise pickle.UnpicklingError("a tuple has too few items")
        self.stack[len(self.stack) - length :] = [_Tuple(self.stack[len(self.stack) - length :])]

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Function or type(arguments) is not _Tuple:
            raise pickle.UnpicklingError("it calls something that is not a function of NumPy")
        self.append(self._called(function.name, arguments))

    def load_build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        is_state = type(state) is _Tuple and len(state) > 1 and state[1] in ("<", ">", "|", "=")
        if type(built) is not _NumberType or not is_state:
            raise pickle.UnpicklingError("it changes something that is not a type of numbers")
        built.order = "<" if state[1] in "|=" else state[1]

    def _called(self, name: str, arguments: _Tuple) -> Any:
        """Return what a function returns. Raises UnpicklingError for arguments that are not those of a number."""
        first, second = (*arguments, None, None)[:2]
        if name == DTYPE and isinstance(first, str) and first.lstrip("<>|=") in CODES:
            return _NumberType(first.lstrip("<>|="))
        if name == ENCODE and isinstance(first, str) and second in ("latin1", "latin-1"):
            return first.encode("latin-1")
        if name == SCALAR and type(first) is _NumberType and isinstance(second, str | bytes):
            stored = second.encode(self.encoding) if isinstance(second, str) else second  # a string in Python 2
            form = first.order + CODES[first.code]
            if len(stored) == struct.calcsize(form):
                return struct.unpack(form, stored)[0]
        raise pickle.UnpicklingError("it contains a NumPy object that is not a number; convert it to plain Python")


def _check_plain(content: Any) -> None:
    """Raise UnpicklingError if the content has other values than plain ones, such as a tuple."""
    pending, seen = [content], set()
    while pending:
        held = pending.pop()
        if type(held) in (list, dict):
            if id(held) not in seen:
                seen.add(id(held))
                pending += held.values() if isinstance(held, dict) else held
        elif type(held) not in PLAIN_TYPES:
            kind = "a tuple" if type(held) is _Tuple else "a function or type of NumPy"
            raise pickle.UnpicklingError(f"it contains {kind}; only lists, dicts, strings and numbers are supported")


NumpyUnpickler.dispatch[pickle.TUPLE[0]] = NumpyUnpickler.load_tuple
NumpyUnpickler.dispatch[pickle.REDUCE[0]] = NumpyUnpickler.load_reduce
NumpyUnpickler.dispatch[pickle.BUILD[0]] = NumpyUnpickler.load_build
for _length, _code in enumerate((pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)):
    NumpyUnpickler.dispatch[_code[0]] = lambda self, length=_length: self.load_short_tuple(length)
