"""Mixtures: exact shares, no row repeated before all were drawn, and the same samples for any number of processes."""

import pickle
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader, DistributedSampler

from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, Part
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene

SIZES = {"wide": 11, "few": 2, "words": 5}
SHARES = {"wide": 9.0, "few": 3.0, "words": 1.0}
LENGTH = 26


@pytest.fixture(scope="module")
def parts():
    """Return three data sets; the rows of the last one have no image."""
    made = []
    for number, (name, size) in enumerate(SIZES.items()):
        rows = []
        for at in range(size):
            generator = np.random.default_rng((number, at))
            row = row_of_scene(draw_scene(generator, 32), generator, True, f"{name}/{at}")
            rows.append({**row, "image": None, "targets": []} if name == "words" else row)
        made.append(Part(name, Dataset.from_list(rows, features=ROW_FEATURES), SHARES[name]))
    return made


def mixture(parts, seed=3, length=LENGTH):
    return MixtureQuestions(parts, seed, 3, length)


def said(sample):
    return sample["source"], tuple(conversation.turns for conversation in sample["conversations"])


def epoch_of(questions, epoch):
    questions.set_epoch(epoch)
    return [said(questions[at]) for at in range(len(questions))]


def test_each_epoch_has_each_set_at_its_share(parts):
    questions = mixture(parts)
    for epoch in range(4):
        sets = Counter(source.split("/")[0] for source, _ in epoch_of(questions, epoch))
        assert sets == {"wide": 18, "few": 6, "words": 2}
    assert len(questions) == LENGTH


@pytest.mark.parametrize("length", [9, 100, 1001])
def test_numbers_of_samples_differ_from_the_exact_shares_by_less_than_one(parts, length):
    counts = MixtureQuestions(parts, 0, 3, length).counts
    exact = np.array(list(SHARES.values())) / 13 * length
    assert counts.sum() == length and np.abs(counts - exact).max() < 1


def test_rows_are_repeated_only_after_all_rows_of_the_set_even_across_epochs(parts):
    questions = mixture(parts)
    drawn = [questions.place(epoch, at) for epoch in range(11) for at in range(LENGTH)]
    for part, size in enumerate(SIZES.values()):
        rows = [row for of_part, row in drawn if of_part == part]
        assert len(rows) == 11 * questions.counts[part] > size
        for start in range(0, len(rows) - size + 1, size):
            assert sorted(rows[start : start + size]) == list(range(size))


def test_order_differs_between_passes_and_between_epochs(parts):
    questions = mixture(parts)
    orders = [questions._order(0, passes).tolist() for passes in range(3)]
    assert len({tuple(order) for order in orders}) == 3 and all(sorted(order) == list(range(11)) for order in orders)
    assert epoch_of(questions, 0) != epoch_of(questions, 1)
    assert epoch_of(mixture(parts, seed=4), 0) != epoch_of(questions, 0)


@pytest.mark.parametrize("workers", [0, 2, 4])
@pytest.mark.parametrize("ranks", [1, 2])
def test_samples_are_the_same_for_any_number_of_workers_and_ranks_and_after_a_resume(parts, workers, ranks):
    expected = {at: sample for at, sample in enumerate(epoch_of(mixture(parts), 2))}
    questions = mixture(parts)
    questions.set_epoch(2)
    found = {}
    for rank in range(ranks):
        sampler = DistributedSampler(range(LENGTH), ranks, rank, shuffle=True, seed=1)
        order = list(sampler)[3:]  # resumed after three samples
        loader = DataLoader(questions, 2, sampler=order, num_workers=workers, collate_fn=list)
        found |= dict(zip(order, [said(sample) for batch in loader for sample in batch], strict=True))
    assert len(found) == LENGTH - 3 * ranks
    assert all(expected[at] == sample for at, sample in found.items())


def test_mixture_can_be_pickled(parts):
    questions = mixture(parts)
    first = epoch_of(questions, 1)
    assert epoch_of(pickle.loads(pickle.dumps(questions)), 1) == first


def test_epoch_without_samples_of_a_set_is_refused(parts):
    with pytest.raises(
        ValueError, match="epoch_length 4 is too small: an epoch would have no samples of words; increase"
    ):
        mixture(parts, length=4)


@pytest.mark.parametrize("with_conversations", [False, True])
def test_evaluation_of_selected_rows_asks_each_of_their_questions_once(with_conversations):
    def row(number, targets, turns):
        thing = {"texts": ["it"], "kind": None, "is_sentence": False, "masks": [], "answer": None}
        thing |= {"ignore": None, "explanation": None}
        conversation = [{"question": "What?", "answer": "That."}] * turns
        return {"image": None, "source": str(number), "targets": [thing] * targets, "conversation": conversation}

    rows = [row(0, 2, 0), row(1, 0, 2), row(2, 0, 0), row(3, 1, 1), row(4, 3, 0)]
    chosen = Dataset.from_list(rows, features=ROW_FEATURES).select([4, 2, 3, 1])
    questions = EvaluationQuestions(chosen, with_conversations)
    expected = [(0, 0), (0, 1), (0, 2), (2, 0), *([(2, 1), (3, 0), (3, 1)] if with_conversations else [])]
    assert [tuple(pair) for pair in questions.questions.tolist()] == expected
