"""Brush masks of Label Studio are decoded as its own package does."""

import numpy as np
import pytest

from gemma_lisa.datasets_builder.formats.label_studio_rle import brush_mask, decode_rgba
from gemma_lisa.datasets_builder.rows import decode_mask

LENGTHS = (3, 4, 8, 16)  # bits of Label Studio's run lengths


def packed(num_values, *blocks, lengths=LENGTHS, bits=8, cut=0):
    """Return the bytes of blocks (kind of the run length, values, whether they are repeated)."""
    text = f"{num_values:032b}{bits - 1:05b}" + "".join(f"{length - 1:04b}" for length in lengths)
    for kind, values, is_repeated in blocks:
        text += f"{is_repeated:b}{kind:02b}{len(values) - 1:0{lengths[kind]}b}"
        text += "".join(f"{value:0{bits}b}" for value in (values[:1] if is_repeated else values))
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text) - 8 * cut, 8))


def blocks_of(values, generator):
    """Return blocks that contain the values: repeated runs, single values and lists of values."""
    blocks, at = [], 0
    while at < len(values):
        same = 1
        while at + same < len(values) and values[at + same] == values[at]:
            same += 1
        is_repeated = same > 1
        length = min(same if is_repeated else int(generator.integers(1, 40)), len(values) - at, 2**16)
        kind = next(kind for kind, bits in enumerate(LENGTHS) if length <= 2**bits)
        blocks.append((kind, values[at : at + length], is_repeated))
        at += length
    return blocks


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (150, 200)])
@pytest.mark.parametrize("density", [0, 0.02, 0.5, 1])
def test_values_are_decoded(size, density):
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (*size, 4)) * (generator.random((*size, 1)) < density)
    content = packed(values.size, *blocks_of(values.ravel().tolist(), generator))
    assert np.array_equal(decode_rgba(content, size), values)
    assert np.array_equal(decode_rgba(list(content), size), values)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (0, 153), (30, 160), (127, 255), (0, 0)])
def test_marked_pixels_have_more_than_half_of_the_largest_alpha(low, high):
    alpha = np.full((4, 6), low)
    alpha[1:3, 2:5] = high
    rgba = np.zeros((4, 6, 4), dtype=int)
    rgba[..., 3] = alpha
    rgba[..., 0] = 255  # the color does not count
    content = packed(rgba.size, *blocks_of(rgba.ravel().tolist(), np.random.default_rng(0)))
    mask = decode_mask(brush_mask(content, (4, 6)), "")
    assert np.array_equal(mask, (alpha > high // 2) & (high > 0))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its rle has 0 bytes for 0 values, but a mask of 3 x 2 pixels must have 24 values of 8 bits"),
        (packed(24)[:6], "its rle has 6 bytes"),
        (packed(25, (3, [0] * 25, True)), "its rle has 10 bytes for 25 values"),
        (packed(24, (3, [0] * 24, True), bits=16), "its rle has 11 bytes for 24 values"),
        (packed(24, (3, [0] * 23, True)), "its rle ends after 23 of 24 values"),
        (packed(24, (3, [0] * 25, True)), "its rle ends after 0 of 24 values"),
        (packed(24, (3, list(range(24)), False), cut=1), "its rle ends after 0 of 24 values"),
        ([1, 2, 300], "its rle must be a list of bytes"),
        (["a"], "its rle must be a list of bytes"),
        ("abc", "its rle has 0 bytes"),
        (None, "its rle has 0 bytes"),
    ],
)
def test_a_damaged_mask_is_refused(content, reason):
    with pytest.raises(ValueError, match=reason):
        decode_rgba(content, (2, 3))


def test_a_mask_larger_than_the_limit_is_not_allocated():
    with pytest.raises(ValueError, match="more than the maximum of 100,000,000"):
        decode_rgba(packed(4 * 10_001 * 10_000), (10_001, 10_000))
