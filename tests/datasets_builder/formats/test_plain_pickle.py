import pickle
import struct

import pytest

from gemma_lisa.datasets_builder.formats import plain_pickle
from gemma_lisa.datasets_builder.formats.plain_pickle import unpickle


@pytest.fixture
def stored(tmp_path):
    def write(content):
        (tmp_path / "refs(unc).p").write_bytes(content)
        return tmp_path / "refs(unc).p"

    return write


def doubled(depth, leaf, make):
    for _ in range(depth):
        leaf = make(leaf)
    return leaf


def itself():
    held = []
    held.append(held)
    return held


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_in_every_protocol(stored, protocol):
    sentences = [{"sent": "the café", "sent_id": 10**30, "tokens": ["the", "café"]}]
    content = [{"ref_id": 1, "box": [1.5, -2, None, True], "sentences": sentences}] * 2 + ["x" * 1000]
    assert unpickle(stored(pickle.dumps(content, protocol=protocol))) == content


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([{"ann_id": doubled(24, 1, lambda x: [x, x])}], 2),
        pickle.dumps(doubled(200, 1, lambda x: [x, x]), 4),
        pickle.dumps(doubled(200, 1, lambda x: {"a": x, "b": x}), 2),
        pickle.dumps([doubled(40, (1,), lambda x: (x, x))], 2),
        pickle.dumps(itself(), 2),
        pickle.dumps({frozenset([1])}, 4),
        b"\x80\x02" + b"]" + b"r\xff\xff\xff\x7f" + b".",  # a memo of 16 GB
        b"]p99999999999\n.",
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",  # a string of 1 TB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"x.",
        b"\x80\x02(" + b"(" * 1000 + b"2222.",
        b"\x80\x02]2a.",  # DUP
        b"I" + b"9" * 10_000 + b"\n.",
        b"S'never ends",
        b"\xff.",
    ],
)
def test_a_small_pickle_that_needs_much_memory_is_refused_with_a_short_message(stored, content):
    with pytest.raises(ValueError, match=r"refs\(unc\).p cannot be read as plain data") as refused:
        unpickle(stored(content))
    assert len(str(refused.value)) < 500 + len(str(stored(content)))


def test_nested_tuples_are_refused_before_they_are_hashed(stored, monkeypatch):
    monkeypatch.setattr(plain_pickle.PlainUnpickler, "load", lambda self: pytest.fail("it was unpickled"))
    key = b"K\x01\x85" + b"q\x00h\x00\x86" * 40  # (1,), then pairs of the previous tuple: hashing takes 2 ** 40 steps
    with pytest.raises(ValueError, match="instruction TUPLE1"):
        unpickle(stored(b"\x80\x02}" + key + b"K\x01s."))


def test_long_numbers_and_deep_lists_are_read(stored):
    assert unpickle(stored(pickle.dumps([2**100_000], 2))) == [2**100_000]
    deep = unpickle(stored(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."))
    assert isinstance(deep, list) and len(deep) == 1
