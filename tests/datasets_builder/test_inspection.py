"""The questions on the sheet of a data set."""

import numpy as np
import pytest
from own_folder import load, mask, numbers, photo

from gemma_lisa.datasets_builder.inspection import DEFAULT_CARDS, choose_questions, print_counts

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def rows(tmp_path):
    for number in range(30):
        photo(tmp_path, f"{number}.jpg", color=(number, 0, 0))
        mask(tmp_path, f"{number}_{'mug' if number else 'rare_cup'}.png", numbers(n1=slice(0, 2)))
    return load(tmp_path)


def test_counts_are_printed_and_each_question_has_its_rows(rows, capsys):
    places = print_counts(rows, "train")
    assert {text: len(found) for text, found in places.items()} == {"the rare cup": 1, "the mug": 29}
    assert "train: 30 targets, 30 masks, 0 without a mask" in capsys.readouterr().out


def test_every_class_and_every_remarked_photo_is_on_the_sheet(rows):
    places = print_counts(rows, "train")
    path = rows[7]["image"]["path"]
    for seed in range(5):
        chosen = choose_questions(rows, places, [path], None, np.random.default_rng(seed))
        assert len(chosen) == DEFAULT_CARDS and len({at for at, _ in chosen}) >= DEFAULT_CARDS - 1
        assert chosen[0] == (7, None) and {text for _, text in chosen} == {None, "the rare cup", "the mug"}
    assert len(choose_questions(rows, places, [path], 3, np.random.default_rng(0))) == 3


def test_many_classes_make_a_larger_sheet(rows):
    places = {f"the thing {number}": [number % 30] for number in range(25)}
    assert len(choose_questions(rows, places, [], None, np.random.default_rng(0))) == 25
