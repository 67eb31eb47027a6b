"""Fixtures of the feature cache's tests."""

import pytest
from feature_cached import all_of, cache_of, rows_of

from gemma_lisa.feature_cache.filling import fill
from gemma_lisa.scripts.init_tiny import build_tiny


@pytest.fixture(scope="module")
def small():
    """(model, processor) for 32 × 32 images, with random weights."""
    model, processor = build_tiny(image_size=32)
    return model.eval(), processor


@pytest.fixture
def filled(small, tmp_path):
    """(rows, cache) with the features of five photos."""
    rows, cache = rows_of(range(5)), cache_of(tmp_path / "cache", small)
    assert fill(cache, *small, all_of(rows), show_progress=False) == 0
    return rows, cache
