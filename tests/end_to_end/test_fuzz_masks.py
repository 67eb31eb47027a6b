"""Random and damaged masks decode to the encoded mask, or raise a short ValueError."""

from collections import defaultdict

import numpy as np
import pytest
from fuzzing import budget, leaves, result_or_refusal, values
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs, visible_runs
from gemma_lisa.datasets_builder.formats.label_maps import class_masks
from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask, target_masks
from gemma_lisa.interfaces.answer_json import polygons

pytestmark = [
    pytest.mark.fuzz,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
masks = st.builds(
    lambda size, seed, share: np.random.default_rng(seed).random(size) < share,
    sizes,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.97, 1.0]),
)
counts = st.one_of(
    st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30),
    st.text(max_size=8),
    st.binary(max_size=5),
    st.lists(st.sampled_from(["oooooo3", "0", "1", "P1", "o" * 20]), max_size=40).map("".join),
)


@budget()
@given(masks)
def test_a_mask_decodes_to_what_was_encoded(mask):
    rle = encode_mask(mask)
    assert (decode_mask(rle, "row") == mask).all()
    assert (coco_mask.decode({**rle, "counts": rle["counts"].encode()}) == mask).all()
    runs = segmentation_runs(rle, mask.shape, "row")
    assert (coco_mask.decode(runs) == mask).all()
    assert bool(polygons(mask)) == bool(mask.any())


@budget(2)
@given(
    st.one_of(
        st.lists(st.integers(-3, 50), max_size=3), st.lists(st.sampled_from([1, 30_000, 2**31, 10**400]), max_size=2)
    ),
    counts,
)
def test_any_rle_is_a_mask_of_its_size_or_refused(size, text):
    found = result_or_refusal(lambda: decode_mask({"size": size, "counts": text}, "row"))
    if not isinstance(found, ValueError):
        assert found.shape == tuple(size) and set(np.unique(found)) <= {0, 1}
    target = {"masks": [{"size": size, "counts": text}], "ignore": None}
    found = result_or_refusal(lambda: target_masks(target, (7, 5), "row"))
    assert isinstance(found, ValueError) or found.shape == (1, 7, 5)


numbers = st.one_of(st.floats(), st.integers(-5, 60), st.sampled_from([1e18, 1e308, -1e9, None, "a", 10**400]))
rles = st.fixed_dictionaries(
    {
        "size": st.one_of(st.just([32, 32]), leaves, st.lists(st.integers(0, 10**6), max_size=3)),
        "counts": st.one_of(counts, st.lists(st.integers(-2, 2**33), max_size=8), st.just([1024]), leaves),
    }
)
segmentations = st.one_of(st.lists(st.one_of(st.lists(numbers, max_size=10), rles), max_size=3), rles, leaves, values)


@budget(2)
@given(segmentations, st.sampled_from([(32, 32), (1, 1), (7, 50)]))
def test_any_segmentation_is_a_mask_of_its_image_or_refused(segmentation, size):
    found = result_or_refusal(lambda: segmentation_runs(segmentation, size, "a.json: annotation 1"))
    if not isinstance(found, ValueError):
        assert coco_mask.decode(found).shape == size
    result_or_refusal(lambda: visible_runs(segmentation, size, "a.json: annotation 1", defaultdict(list)))


@budget()
@given(sizes, st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.int32, np.uint16]))
def test_the_classes_of_a_label_map_cover_each_pixel_once(size, num_classes, seed, dtype):
    labels = np.random.default_rng(seed).integers(0, num_classes, size).astype(dtype)
    covered = np.zeros(size, dtype=int)
    for number, rle in class_masks(labels).items():
        mask = decode_mask(rle, "map")
        assert ((mask == 1) == (labels == number)).all()
        covered += mask
    assert (covered == 1).all()
