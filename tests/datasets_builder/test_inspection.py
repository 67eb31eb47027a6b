"""The questions on the sheet of a data set."""

import numpy as np
import pytest
from own_folder import load, mask, numbers, photo

from gemma_lisa.datasets_builder.inspection import DEFAULT_CARDS, MAX_CARDS, choose_questions, print_counts

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
        chosen = choose_questions(rows, places, [["missing.jpg", path], [path]], None, np.random.default_rng(seed))
        assert len(chosen) == DEFAULT_CARDS and len({at for at, _ in chosen}) >= DEFAULT_CARDS - 1
        assert chosen[:2] == [(7, "the mug"), (0, "the rare cup")]
    assert len(choose_questions(rows, places, [[path]], 3, np.random.default_rng(0))) == 3


def test_all_questions_of_a_remarked_photo_are_shown(tmp_path):
    photo(tmp_path, "1.jpg")
    for name in ("cup", "plate"):
        mask(tmp_path, f"1_{name}.png", numbers(n1=slice(0, 2)))
    rows = load(tmp_path)
    chosen = choose_questions(rows, {}, [[rows[0]["image"]["path"]]], None, np.random.default_rng(0))
    assert sorted(text for _, text in chosen) == ["the cup", "the plate"]


def test_a_sheet_of_too_many_classes_shows_as_many_as_possible(rows):
    places = {f"the thing {number}": [number % 30] for number in range(300)}
    chosen = choose_questions(rows, places, [], None, np.random.default_rng(0))
    assert len({text for _, text in chosen}) == MAX_CARDS
    assert len({text for _, text in choose_questions(rows, places, [], 250, np.random.default_rng(0))}) == 250


def test_many_classes_make_a_larger_sheet(rows):
    places = {f"the thing {number}": [number % 30] for number in range(25)}
    assert len(choose_questions(rows, places, [], None, np.random.default_rng(0))) == 25
