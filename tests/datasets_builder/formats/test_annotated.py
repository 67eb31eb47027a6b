"""The common form of annotations."""

from pathlib import Path

import pytest

from gemma_lisa.datasets_builder.formats.annotated import AnnotatedObject, Case, Notes, failing, loaded


def test_notes_keep_each_case_of_a_kind_in_order():
    notes = Notes()
    notes.add("skipped lines", "line 3", Path("1.jpg"))
    notes.add("skipped lines", "line 7")
    assert notes.cases == {"skipped lines": [Case("line 3", Path("1.jpg")), Case("line 7", None)]}


def test_objects_are_loaded_once_or_fail_each_time():
    objects = loaded(AnnotatedObject(name, name, None) for name in "ab")
    assert [one.name for one in objects()] == [one.name for one in objects()] == ["a", "b"]
    wrong = failing(ValueError("line 3 is wrong"))
    for _ in range(2):
        with pytest.raises(ValueError, match="line 3 is wrong"):
            wrong()
