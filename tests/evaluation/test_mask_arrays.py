"""Intersections and unions of masks as arrays."""

import numpy as np
import pytest

from gemma_lisa.evaluation.mask_arrays import intersection_and_union, unite


def test_ignored_pixels_are_in_neither_intersection_nor_union():
    pred = np.array([[True, True, False, True]])
    target = np.array([[1, 255, 255, 0]], dtype=np.uint8)
    assert intersection_and_union(pred, target) == (1, 2)


def test_logits_and_masks_of_another_size_are_refused():
    target = np.zeros((2, 2), dtype=np.uint8)
    with pytest.raises(ValueError, match="threshold"):
        intersection_and_union(np.ones((2, 2), dtype=np.float32), target)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        intersection_and_union(np.ones((2, 3), dtype=bool), target)
    with pytest.raises(ValueError, match="float32"):
        unite(np.ones((1, 2, 2), dtype=np.float32), (2, 2))
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        unite(np.ones((1, 2, 2), dtype=bool), (4, 4))


def test_in_a_union_foreground_wins_over_ignored_and_ignored_over_background():
    masks = np.array([[[0, 1, 255, 0]], [[255, 255, 1, 0]]], dtype=np.uint8)
    united = unite(masks, (1, 4))
    assert united.dtype == np.uint8 and united.tolist() == [[255, 1, 1, 0]]


def test_the_union_of_predictions_is_bool():
    united = unite(np.array([[[True, False, False]], [[True, True, False]]]), (1, 3))
    assert united.dtype == bool and united.tolist() == [[True, True, False]]


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_the_union_of_no_masks_is_an_empty_mask_of_the_image_size(dtype):
    united = unite(np.zeros((0, 0, 0), dtype=dtype), (2, 3))
    assert united.shape == (2, 3) and united.dtype == dtype and not united.any()
