"""Names of one class in several spellings are united, and each is counted."""

import pytest

from gemma_lisa.datasets_builder.class_names import KEPT, clean, stem_of, unite_names
from gemma_lisa.datasets_builder.formats.annotated import Notes


def united(names, numbered):
    """Return the classes and the kinds of notes with their number of cases."""
    notes = Notes()
    return unite_names(names, numbered, notes), {kind: len(cases) for kind, cases in notes.cases.items()}


def test_letter_case_spaces_and_underscores_are_united_with_a_note():
    classes, kinds = united(["coffee_cup", "Coffee  cup", "coffee cup", "coffee cup", "dog"], numbered=False)
    assert classes == dict.fromkeys(["coffee_cup", "Coffee  cup", "coffee cup"], "coffee cup") | {"dog": "dog"}
    assert kinds == {
        "united class names that differ only in letter case (list them in classes.txt to keep them apart)": 1
    }


def test_the_most_frequent_spelling_is_the_class():
    assert united(["BMW", "bmw", "BMW"], numbered=False)[0] == {"BMW": "BMW", "bmw": "BMW"}
    assert united(["bmw", "BMW", "Bmw", "BMW"], numbered=True)[0]["Bmw"] == "BMW"


def test_an_underscore_alone_needs_no_note():
    assert united(["coffee_cup"], numbered=True) == ({"coffee_cup": "coffee cup"}, {})


def test_trailing_numbers_are_united_only_on_request():
    names = ["mug-1", "mug 2", "Mug", "mug3", "mug_4", "mug (5)", "mug.006"]
    classes, kinds = united(names, numbered=True)
    assert classes == dict.fromkeys(names, "mug")
    assert list(kinds.values()) == [1] and "a trailing number" in next(iter(kinds))
    assert united(names, numbered=False) == ({name: clean(name) for name in names}, {})


def test_a_note_names_all_spellings_and_the_given_advice():
    notes = Notes()
    unite_names(["mug-1", "mug 2"], True, notes, advice="rename one")
    [(kind, [case])] = notes.cases.items()
    assert kind.endswith("(rename one)") and case.where == "'mug-1', 'mug 2' are 'mug'"


def test_a_single_numbered_name_and_numbers_with_a_meaning_are_kept():
    names = ["bus 3", "A3", "A4", "class 1", "class 2", "7up", "12", "13", "model 1.5", "model 2.5"]
    assert united(names, numbered=True) == ({name: name for name in names}, {KEPT: 1})


def test_the_number_of_the_first_instance_is_removed_with_a_note():
    notes = Notes()
    assert unite_names(["mug-1", "mug-1", "plate_0"], True, notes) == {"mug-1": "mug", "plate_0": "plate"}
    [(kind, cases)] = notes.cases.items()
    assert "a trailing number" in kind
    assert [case.where for case in cases] == ["'mug-1' is 'mug'", "'plate_0' is 'plate'"]
    assert united(["mug-1"], numbered=False) == ({"mug-1": "mug-1"}, {})


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("mug-1", "mug"),
        ("mug 02", "mug"),
        ("杯1", "杯"),
        ("カップ２", "カップ"),
        ("A4", "A4"),
        ("a b 3", "a b"),
        ("", ""),
    ],
)
def test_the_stem_of_a_name(name, stem):
    assert stem_of(name) == stem
