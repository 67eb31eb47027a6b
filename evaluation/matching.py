"""Match predicted masks with targets one to one."""

import numpy as np


def match(scores: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs (row, column) of the one-to-one matching with the largest sum of scores, sorted by row.

    It is exact: the Hungarian method with shortest augmenting paths (Kuhn 1955; Jonker and Volgenant 1987), as
    `scipy.optimize.linear_sum_assignment`, in O(rows² columns).

    Args:
        scores: (R, C) finite numbers. min(R, C) pairs are returned.
    """
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite numbers of shape (R, C), got shape {scores.shape}.")
    if scores.shape[0] > scores.shape[1]:
        return sorted((row, column) for column, row in match(scores.T))
    if scores.shape[0] == 1:
        return [(0, int(scores[0].argmax()))]
    row_of = np.full(scores.shape[1], -1)  # row of each matched column
    row_prices, column_prices = np.zeros(scores.shape[0]), np.zeros(scores.shape[1])
    for row in range(scores.shape[0]):
        _augment(-scores, row, row_of, row_prices, column_prices)
    return sorted((int(row), int(column)) for column, row in enumerate(row_of) if row >= 0)


def _augment(
    costs: np.ndarray, start: int, row_of: np.ndarray, row_prices: np.ndarray, column_prices: np.ndarray
) -> None:
    """Match one more row along the shortest augmenting path. The last three arrays are changed in place.

    Args:
        costs: (R, C).
        start: row to match.
        row_of: (C,) row of each column; -1: not matched yet.
        row_prices, column_prices: (R,) and (C,) dual variables.
    """
    distances = np.full(len(row_of), np.inf)
    before = np.full(len(row_of), -1)  # column before each column on its path; -1: the path starts there
    is_done = np.zeros(len(row_of), dtype=bool)
    row, last, length = start, -1, 0.0
    while True:
        reached = length + costs[row] - row_prices[row] - column_prices
        is_shorter = ~is_done & (reached < distances)
        distances[is_shorter], before[is_shorter] = reached[is_shorter], last
        last = int(np.where(is_done, np.inf, distances).argmin())
        length = distances[last]
        is_done[last] = True
        if row_of[last] < 0:
            break
        row = row_of[last]
    slack = length - distances[is_done]
    column_prices[is_done] -= slack
    inner = is_done & (row_of >= 0)
    row_prices[row_of[inner]] += length - distances[inner]
    row_prices[start] += length
    while last >= 0:
        row_of[last] = start if before[last] < 0 else row_of[before[last]]
        last = before[last]
