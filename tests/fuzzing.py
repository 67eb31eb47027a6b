"""Settings and input strategies of the tests with random inputs.

In CI, each property is tested with the same few dozen inputs. `make fuzz` tests FUZZ_EXAMPLES new ones. A failing
property prints the smallest failing input.
"""

import io
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES_VARIABLE = "FUZZ_EXAMPLES"
CI_EXAMPLES = 60
LONGEST_ERROR = 3_000  # characters; file names have up to 255 bytes
_long = os.environ.get(EXAMPLES_VARIABLE)


def budget(share: float = 1.0) -> settings:
    """Return settings for this share of the usual number of examples."""
    return settings(
        max_examples=max(1, round(share * int(_long or CI_EXAMPLES))),
        derandomize=_long is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def result_or_refusal(do: Callable[[], Any]) -> Any:
    """Return the result of `do`, or its ValueError, which must be short. Other errors fail the test."""
    try:
        return do()
    except ValueError as error:
        assert len(str(error)) <= LONGEST_ERROR, f"an error of {len(str(error)):,} characters"
        return error


def damaged(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy of files with changed bytes, optionally truncated."""
    flips = st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6)

    def damage(stored: bytes, flips: list[tuple[float, int]], cut: float) -> bytes:
        changed = bytearray(stored)
        for place, value in flips:
            if changed:
                changed[int(place * len(changed))] = value
        return bytes(changed[: round(cut * len(changed))])

    return st.builds(damage, content, flips, st.one_of(st.just(1.0), st.floats(0, 1)))


def picture_bytes(picture, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


# JSON values with the keys and types that the readers expect
KEYS = [
    *("id", "image_id", "category_id", "file_name", "height", "width", "segmentation", "size", "counts", "iscrowd"),
    *("images", "annotations", "categories", "name", "shapes", "imageHeight", "imageWidth", "points", "label"),
    *("shape_type", "ref_id", "ann_id", "split", "sentences", "sent", "1", "cat", "image", "question", "text"),
    *("conversations", "from", "value", "questions", "query", "outputs", "is_sentence"),
]
WORDS = ["1.jpg", "cat", "../../etc/passwd", "a\0b", "polygon", "rectangle", "circle", "mask", "testAB", "val", "train"]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**20),
    st.sampled_from([10**400, -(10**400), 2**63, 1e308, "\ud800", "x" * 10_000]),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(WORDS),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)),
    max_leaves=25,
)
