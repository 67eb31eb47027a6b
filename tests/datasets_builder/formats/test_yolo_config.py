"""Class names and splits of YOLO data sets from data.yaml or classes.txt."""

import pytest
from own_folder import write

from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.yolo_config import find_config, find_yaml


def config(root, **files):
    for name, text in files.items():
        write(root, name.replace("_", "."), text)
    return find_config(root, Notes())


@pytest.mark.parametrize(
    "text", ["names: [mug, steel_plate]", "names:\n  0: mug\n  1: steel_plate", 'names: {"0": mug, "1": steel_plate}']
)
def test_names_are_a_list_or_numbered(tmp_path, text):
    found = config(tmp_path, data_yaml=f"{text}\nnc: 2\ntrain: images")
    assert found.names == {0: "mug", 1: "steel_plate"}


def test_splits_and_folder_are_as_written(tmp_path):
    text = "path: ../data\ntrain: [a, b]\nval: val.txt\ntest:\nnames: [mug]\nkpt_shape: [17, 3]"
    found = config(tmp_path, dataset_yaml=text)
    assert (found.folder, found.splits) == ("../data", {"train": ["a", "b"], "validation": ["val.txt"]})
    assert found.num_pose == 51


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: [yes, no]\nnc: 2", "class 0: the name must be text, got True"),
        ("names: {a: b}\nnc: 2", "'a' in names is not a class number"),
        ("names: mug\nnc: 1", "names must be a list"),
        ("names: [mug, '']\nnc: 2", "class 1: the name must have"),
        ("names: [mug]\ntrain: 3", "train must be a folder"),
        ("names: [mug]\npath: 3", "path must be the path of a folder"),
        ("names: [mug]\nkpt_shape: 3", "kpt_shape must be"),
        ("names: [mug\nnc: 3", "data.yaml cannot be read as YAML"),
    ],
)
def test_a_bad_yaml_file_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as refused:
        config(tmp_path, data_yaml=text)
    assert "\n" not in str(refused.value) and "data.yaml" in str(refused.value)


def test_data_yaml_is_preferred_to_other_yaml_files(tmp_path):
    found = config(tmp_path, data_yaml="names: [mug]\nnc: 1", other_yaml="names: [cat]\nnc: 1")
    assert found.names == {0: "mug"}
    (tmp_path / "data.yaml").rename(tmp_path / "second.yaml")
    with pytest.raises(ValueError, match="other.yaml, second.yaml.*keep one"):
        find_config(tmp_path, Notes())


def test_other_yaml_files_are_no_data_sets(tmp_path):
    write(tmp_path, "classes.yaml", "1: mug")
    write(tmp_path, "names.yaml", "names: [mug]")
    write(tmp_path, "train.yaml", "train: 1")
    assert find_yaml(tmp_path) == []


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "labels/classes.txt"])
def test_lines_of_text_are_numbered_from_0(tmp_path, name):
    write(tmp_path, name, "mug\nsteel plate\n\n")
    assert find_config(tmp_path, Notes()).names == {0: "mug", 1: "steel plate"}


def test_numbers_that_agree_with_the_lines_are_removed(tmp_path):
    write(tmp_path, "classes.txt", "0: mug\n1: plate")
    notes = Notes()
    assert find_config(tmp_path, notes).names == {0: "mug", 1: "plate"}
    assert list(notes.cases) == ["files of class names whose lines start with their numbers"]


@pytest.mark.parametrize(
    "text, message", [("1: mug\n2: plate", "not with 0, 1, 2"), ("mug\n\ncat", "line 2"), ("", "line 1")]
)
def test_class_lines_that_are_ambiguous_are_refused(tmp_path, text, message):
    write(tmp_path, "classes.txt", text)
    with pytest.raises(ValueError, match=f"classes.txt.*{message}"):
        find_config(tmp_path, Notes())


def test_missing_names_are_an_error_with_advice(tmp_path):
    with pytest.raises(ValueError, match="no data.yaml or classes.txt"):
        find_config(tmp_path, Notes())


def test_equal_names_and_a_wrong_count_are_noted(tmp_path):
    write(tmp_path, "data.yaml", "names: [mug, mug]\nnc: 3")
    notes = Notes()
    find_config(tmp_path, notes)
    assert sorted(notes.cases) == [
        "class numbers with the name of another number",
        "data sets whose number of classes `nc` is not their number of names",
    ]
