"""Random pickles and YAML load as plain values in bounded memory, or raise a short ValueError."""

import pickle

import numpy as np
import pytest
import yaml
from fuzzing import budget, damaged, result_or_refusal, values
from hypothesis import given
from hypothesis import strategies as st

from gemma_lisa.datasets_builder.custom.folder_classes import read_classes
from gemma_lisa.datasets_builder.formats.plain_pickle import unpickle
from gemma_lisa.datasets_builder.formats.refs_files import convert, read_refs
from gemma_lisa.safety.parsing import parse_json, parse_yaml
from gemma_lisa.safety.short_text import VALUE_LENGTH, show

pytestmark = pytest.mark.fuzz

PLAIN = (list, dict, str, bytes, int, float, bool, type(None))
pickles = st.builds(pickle.dumps, values, st.integers(0, 5))
numbers = st.sampled_from([np.int64(-5), np.float32(1.5), np.bool_(True), np.arange(2), np.dtype("i8"), (1, 2), "a"])
pickles |= st.builds(pickle.dumps, st.lists(numbers, max_size=4), st.integers(0, 5))
# Instructions that grow: lists, tuples, sets, memo, and what calls code
INSTRUCTIONS = [
    b"]",
    b"}",
    b"(",
    b")",
    b"a",
    b"e",
    b"s",
    b"u",
    b"l",
    b"d",
    b"t",
    b"2",
    b"0",
    b"1",
    b"N",
    b"K\x01",
    b".",
]
INSTRUCTIONS += [
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"\x94",
    b"q\x00",
    b"h\x00",
    b"r\xff\xff\xff\x7f",
]
INSTRUCTIONS += [b"cos\nsystem\n", b"R", b"b", b"\x81", b"X\x01\x00\x00\x00a", b"p0\n", b"g0\n", b"S'a'\n", b"I1\n"]
INSTRUCTIONS += [b"cnumpy\ndtype\n", b"cnumpy._core.multiarray\nscalar\n", b"S'i1'\n", b"S'<'\n"]


def is_plain(value) -> bool:
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, [*value, *value.values()]))
    return type(value) in PLAIN


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "refs(unc).p"


@budget(2)
@given(
    st.one_of(
        pickles,
        damaged(pickles),
        st.lists(st.sampled_from(INSTRUCTIONS), max_size=60).map(b"".join),
        st.binary(max_size=120),
    )
)
def test_any_pickle_is_plain_values_or_refused(file, content):
    file.write_bytes(content)
    found = result_or_refusal(lambda: unpickle(file))
    assert isinstance(found, ValueError) or is_plain(found)
    result_or_refusal(lambda: read_refs(file))
    file.with_suffix(".json").unlink(missing_ok=True)
    result_or_refusal(lambda: convert(file))


@budget()
@given(values)
def test_a_pickle_of_plain_values_loads_unchanged(file, value):
    for protocol in (0, 2, 4):
        file.write_bytes(pickle.dumps(value, protocol))
        assert show(unpickle(file)) == show(value)


PIECES = [
    "a: ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "\n",
    "&x ",
    "*x",
    "*y",
    "<<: ",
    "? ",
    "!!int ",
    "!!binary ",
    "|\n",
    "  ",
]
PIECES += [
    "1",
    "1:59:59",
    "0x" + "f" * 2000,
    "9" * 5000,
    "2001-99-99",
    "~",
    "yes",
    '"',
    "'",
    "#",
    "\t",
    "é",
    "\0",
    "---\n",
]


@budget(2)
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.text(max_size=80)))
def test_any_yaml_is_a_value_or_refused(file, text):
    found = result_or_refusal(lambda: parse_yaml(text))
    if not isinstance(found, ValueError):
        assert show(found) == show(yaml.safe_load(text))
    path = file.with_name("classes.yaml")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    result_or_refusal(lambda: read_classes(path))


@budget(0.5)
@given(st.integers(2, 60), st.integers(2, 9), st.sampled_from(["[{}]", "{{a: [{}]}}"]))
def test_nested_aliases_are_refused(depth, width, form):
    text = "&a0 [x, x]" + "".join(
        f", &a{at} {form.format(', '.join([f'*a{at - 1}'] * width))}" for at in range(1, depth)
    )
    found = result_or_refusal(lambda: parse_yaml(f"[{text}]"))
    assert isinstance(found, ValueError) or width**depth < 10**6


@budget()
@given(values)
def test_any_value_is_shown_with_bounded_length(value):
    for _ in range(200):
        value = [value, value]
    assert len(show(value)) <= VALUE_LENGTH


@budget()
@given(
    st.one_of(
        st.text(max_size=50), st.binary(max_size=50), st.lists(st.sampled_from('[]{}",:1e9'), max_size=60).map("".join)
    )
)
def test_any_text_is_json_or_refused(text):
    result_or_refusal(lambda: parse_json(text))
