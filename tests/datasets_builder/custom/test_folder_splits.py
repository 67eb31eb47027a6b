"""The photos of a user's own folder are divided by their questions, or by an exact share."""

import pytest
from own_folder import photo

from gemma_lisa.datasets_builder.custom.folder_files import pair_up
from gemma_lisa.datasets_builder.custom.folder_splits import split_up
from gemma_lisa.datasets_builder.custom.folder_tables import Question


def question(image, split="", where="questions.csv line 2"):
    return Question(where, image, "the cat", "", "", "", split, "", points=True)


@pytest.fixture
def photos(tmp_path):
    """30 different photos, by stem."""
    for at in range(30):
        photo(tmp_path, f"{at}.png", (8 + at, 6))
    return pair_up(tmp_path, set()).photos


def stems(splits, split="validation"):
    return {found.stem for found in splits.get(split, [])}


def first(photos, count):
    return {stem: found for stem, found in photos.items() if int(stem) < count}


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(24, 0.25, 6), (30, 0.3, 9), (10, 0.25, 3), (10, 0.01, 1), (10, 0.99, 9), (2, 0.5, 1), (2, 0.1, 1), (24, 0, 0)],
)
def test_the_share_is_exact_with_at_least_one_photo_on_each_side(photos, count, share, expected):
    splits, errors = split_up(first(photos, count), share)
    assert errors == [] and len(stems(splits)) == expected
    assert len(stems(splits, "train")) == count - expected


def test_the_order_of_the_photos_does_not_matter(photos):
    backwards = dict(reversed(photos.items()))
    assert stems(split_up(photos, 0.3)[0]) == stems(split_up(backwards, 0.3)[0])
    assert [found.stem for found in split_up(backwards, 0.3)[0]["train"]] == [
        stem for stem in backwards if stem in stems(split_up(photos, 0.3)[0], "train")
    ]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_new_photo_moves_at_most_one_other_photo(photos, share):
    for count in range(4, 30):
        before, after = (stems(split_up(first(photos, size), share)[0]) for size in (count, count + 1))
        assert len((before ^ after) - {str(count)}) <= 1


def test_one_photo_cannot_be_divided(photos):
    assert split_up(first(photos, 1), 0.5)[0] == {"train": [photos["0"]]}


def test_copies_of_a_photo_stay_together(photos):
    for stem in ("1", "2", "3"):
        photos[stem].path.write_bytes(photos["0"].path.read_bytes())
    copies = {"0", "1", "2", "3"}
    for share in (0.1, 0.2, 0.5, 0.8):
        splits, _ = split_up(photos, share)
        assert copies <= stems(splits) or copies <= stems(splits, "train")
        assert len(stems(splits)) == round(30 * share)
    splits, _ = split_up({stem: photos[stem] for stem in [*copies, "9"]}, 0.2)
    assert stems(splits) == {"9"} and stems(splits, "train") == copies
    photos["2"].questions = [question("2.png", "test")]
    splits, _ = split_up(photos, 0.3)
    assert stems(splits, "test") == copies and len(stems(splits)) == round(26 * 0.3)


def test_different_files_of_the_same_size_are_not_copies(photos):
    for stem in ("0", "1"):
        photos[stem].path.write_bytes(b"x" * 100 + stem.encode())
    assert len(stems(split_up({stem: photos[stem] for stem in ("0", "1")}, 0.5)[0])) == 1


def test_questions_have_precedence_over_the_share(photos):
    photos["3"].questions = [question("3.png", "test"), question("3.png")]
    photos["4"].questions = [question("4.png", "train")]
    splits, errors = split_up(photos, 0.25)
    assert errors == [] and stems(splits, "test") == {"3"} and "4" in stems(splits, "train")
    assert len(stems(splits)) == 7  # of the 28 others


def test_a_photo_in_two_splits_is_an_error(photos):
    photos["3"].questions = [question("3.png", "test"), question("3.png", "train", "questions.csv line 5")]
    splits, [error] = split_up(photos, 0)
    expected = "questions.csv line 5: split of 3.png is train, but questions.csv line 2 has test; use one."
    assert str(error) == expected and "3" not in stems(splits, "train") and len(splits["train"]) == 29
