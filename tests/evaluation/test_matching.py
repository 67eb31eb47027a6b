"""One-to-one matching: the largest sum of all pairings, found by trying them all and by networkx."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gemma_lisa.evaluation.matching import match


def best_sum(scores: np.ndarray) -> float:
    """Return the largest sum of min(R, C) scores in different rows and columns."""
    pairs = min(scores.shape)
    return max(
        sum(scores[row, column] for row, column in zip(rows, columns, strict=True))
        for rows in combinations(range(scores.shape[0]), pairs)
        for columns in permutations(range(scores.shape[1]), pairs)
    )


scores_of_few = st.tuples(st.integers(0, 4), st.integers(0, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 0.9, 1.0]))
)


@given(scores_of_few)
def test_no_other_matching_has_a_larger_sum(scores):
    pairs = match(scores)
    assert len(pairs) == min(scores.shape)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert sum(scores[pair] for pair in pairs) == pytest.approx(best_sum(scores))


def test_the_greedy_choice_is_not_taken():
    # Greedy takes 0.9 first and is left with 0.0. The best sum is 0.8 + 0.7
    assert match(np.array([[0.9, 0.8], [0.7, 0.0]])) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("shape", [(30, 30), (12, 40), (40, 12)])
def test_large_matchings_equal_those_of_networkx(shape):
    networkx = pytest.importorskip("networkx", reason="networkx, which torch installs, is an independent check")
    scores = np.random.default_rng(sum(shape)).random(shape)
    graph = networkx.Graph()
    for row, column in np.ndindex(shape):
        graph.add_edge(("row", row), ("column", column), weight=scores[row, column])
    edges = networkx.max_weight_matching(graph, maxcardinality=True)
    expected = sum(graph.edges[edge]["weight"] for edge in edges)
    assert sum(scores[pair] for pair in match(scores)) == pytest.approx(expected)


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        match(np.array([[np.nan]]))
