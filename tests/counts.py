"""Random counts of questions for tests of the metrics."""

import numpy as np


def random_counts(count: int, seed: int) -> np.ndarray:
    """Return random counts, (count, 5) int64, with the columns of `summarize_counts`."""
    generator = np.random.default_rng(seed)
    unions = generator.integers(0, 1000, count)
    columns = [
        generator.integers(0, unions + 1),
        unions,
        generator.integers(0, 4, count),
        generator.integers(0, 3, count),
        generator.integers(0, 2, count),
    ]
    return np.stack(columns, axis=1)
