"""Numbers of NumPy in pickles become plain numbers, and nothing else of NumPy is loaded."""

import os
import pickle
import struct

import numpy as np
import pytest

from gemma_lisa.datasets_builder.formats import numpy_pickle
from gemma_lisa.datasets_builder.formats.plain_pickle import unpickle

NUMBERS = [np.int8(-5), np.uint8(200), np.int16(-300), np.uint16(65535), np.int32(7), np.uint32(2**32 - 1)]
NUMBERS += [np.int64(-(2**40)), np.uint64(2**64 - 1), np.float16(0.5), np.float32(1.5), np.float64(0.1), np.bool_(True)]


@pytest.fixture
def stored(tmp_path):
    def write(content):
        (tmp_path / "refs(unc).p").write_bytes(content)
        return tmp_path / "refs(unc).p"

    return write


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_numbers_of_numpy_are_read_in_every_protocol(stored, protocol, module):
    records = [{"ref_id": number, "ann_id": [number, 3], "sent": "the café"} for number in NUMBERS]
    content = pickle.dumps(records, protocol)
    if protocol != 4 and protocol != 5:  # the length of the name is not stored
        content = content.replace(b"numpy._core.multiarray", module)
    found = unpickle(stored(content))
    assert found == [{"ref_id": number.item(), "ann_id": [number.item(), 3], "sent": "the café"} for number in NUMBERS]
    assert [type(record["ref_id"]) for record in found] == [type(number.item()) for number in NUMBERS]


def test_numbers_in_big_endian_and_of_python_2_are_read(stored):
    swapped = np.array([258], dtype=">i4")[0]
    assert unpickle(stored(pickle.dumps([swapped.item(), np.dtype(">i4").type(258)], 2))) == [258, 258]
    type_of = b"cnumpy\ndtype\n(U\x02i4I0\nI1\ntR(I3\nU\x01%bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffI0\ntb"
    for order, form in ((b">", ">i"), (b"<", "<i")):
        for number in (7, 300, -2, 1000000):  # its bytes are ASCII, or not
            raw = struct.pack(form, number)
            content = b"\x80\x02cnumpy.core.multiarray\nscalar\n(" + type_of % order + b"U\x04" + raw + b"tR."
            assert unpickle(stored(content)) == number


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_code_beside_numbers_of_numpy_is_refused_and_not_run(stored, tmp_path, protocol):
    with pytest.raises(ValueError, match="it contains the class .*mkdir; only lists, dicts"):
        unpickle(stored(pickle.dumps([np.int64(1), Malice(tmp_path / "proof")], protocol)))
    assert not (tmp_path / "proof").exists()


SCALAR = b"cnumpy.core.multiarray\nscalar\n"
TYPE = b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR"
SETTING = b"(I3\nS'<'\ntb"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps([np.arange(3)]), "_reconstruct; only lists"),
        (pickle.dumps([np.str_("a")]), "a NumPy object that is not a number; convert it to plain Python"),
        (pickle.dumps([np.datetime64("2020-01-01")]), "a NumPy object that is not a number"),
        (pickle.dumps([np.longdouble(1)]), "a NumPy object that is not a number"),
        (pickle.dumps([np.complex64(1)]), "a NumPy object that is not a number"),
        (pickle.dumps([np.int64(1), (1, 2)]), "it contains a tuple"),
        (pickle.dumps([np.int64(1), {(1, 2): 3}]), "unhashable"),
        (pickle.dumps([np.dtype("i8")]), "a function or type of NumPy"),
        (SCALAR + b".", "a function or type of NumPy"),
        (b"}" + TYPE + b"I1\ns.", "unhashable"),
        (b"}" + SCALAR + b"I1\ns.", "unhashable"),
        (SCALAR + b"(" + TYPE + b"S'short'\ntR.", "not a number"),
        (SCALAR + b"(S'i8'\nS'12345678'\ntR.", "not a number"),
        (SCALAR + b"tR.", ""),
        (SCALAR + b"(I1\nI2\ntI1\nR.", "not a function of NumPy"),
        (SCALAR + b"]R.", "not a function of NumPy"),
        (SCALAR + SETTING + b".", "not a type of numbers"),  # would set attributes of the function
        (SCALAR + b"]" + SETTING + b".", "not a type of numbers"),
        (TYPE + b"}b.", "not a type of numbers"),
        (b"cnumpy\ndtype\n(S'O'\nI0\nI1\ntR.", "not a number"),
        (b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.numpy", "not a number"),
        (b"cnumpy\ndtype", "truncated"),
        (b"cnumpy", "truncated"),
        (SCALAR + b"r\xff\xff\xff\x7f.", "memo number"),
        (SCALAR + b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.", "truncated"),
        (SCALAR + b"2.", "instruction DUP"),
        (SCALAR + b"\x81.", "instruction NEWOBJ"),
        (b"(ios\nsystem\n.numpy", "os.system; only lists"),
    ],
)
def test_everything_else_is_refused_in_one_short_line(stored, content, words):
    with pytest.raises(ValueError, match=r"refs\(unc\).p cannot be read as plain data") as refusal:
        unpickle(stored(content))
    message = str(refusal.value)
    assert words in message and "\n" not in message and len(message) < 700 + len(str(stored(content)))
    assert ".tolist()" in message


def test_nested_tuples_are_not_hashed(stored):
    key = b"K\x01\x85" + b"q\x00h\x00\x86" * 40  # hashing takes 2 ** 40 steps
    with pytest.raises(ValueError, match="unhashable"):
        unpickle(stored(b"\x80\x02" + SCALAR + b"}" + key + b"K\x01s."))


def test_the_functions_have_no_state_that_a_file_can_change():
    function = numpy_pickle.NumpyUnpickler(open(os.devnull, "rb")).find_class("numpy", "dtype")
    assert not hasattr(function, "__dict__") and not callable(function)
