"""The classes in the names of mask files: technical words, random names and several spellings are no classes."""

import pytest
from own_folder import areas, load, mask, numbers, photo, refusal, write

from gemma_lisa.datasets_builder.custom.folder_files import pair_up
from gemma_lisa.datasets_builder.custom.folder_names import TEXT_WINS, is_number_map, is_technical, name_masks
from gemma_lisa.datasets_builder.formats.annotated import Notes

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised inside pycocotools
]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def classes_of(root, *rests, text=None, names=None):
    """Return the class of each mask masks/1_REST.png, and the kinds of notes with their number of cases."""
    photo(root, "1.jpg")
    for rest in rests:
        mask(root, f"1_{rest}.png", numbers(n1=slice(0, 1)))
    shown, notes = pair_up(root, set()).photos["1"], Notes()
    name_masks({"train": [shown]}, {"train": names or {}}, text, notes)
    found = {path.stem.removeprefix("1_"): name for name, path in shown.masks}
    return [found[rest] for rest in rests], {kind: len(cases) for kind, cases in notes.cases.items()}


@pytest.mark.parametrize(
    "rest",
    ["mask", "Mask", "MASK_1", "segmentation", "seg", "label", "labelIds", "gt", "gtFine_color", "ground_truth", "L"]
    + ["groundTruth", "annotation", "matte", "alpha", "binary", "object_2", "instance_01", "mask-1", "instanceIds"],
)
def test_words_for_masks_are_no_class(root, rest):
    assert is_technical(rest) and is_number_map(rest)
    assert classes_of(root, rest) == ([None], {})
    assert "1.jpg: its masks have no class name; set the option text" in refusal(root)
    assert areas(load(root, text="the mug")[0]) == {"the mug": 8}


@pytest.mark.parametrize("rest", ["0001f", "a3f9c2", "12", "0", "x7Gk2p", "3e7b-11ee-9c0a", "7f3a" * 16])
def test_numbers_and_random_names_are_no_class(root, rest):
    assert classes_of(root, rest) == ([None], {})
    assert not is_technical(rest)


@pytest.mark.parametrize("rest", ["mug", "coffee cup", "traffic_light", "A4", "face", "7up", "杯"])
def test_other_names_are_classes(root, rest):
    assert classes_of(root, rest) == ([rest.replace("_", " ")], {})


@pytest.mark.parametrize(
    ("rest", "name", "num_notes"),
    [("bed1", "bed", 1), ("bed-0", "bed", 1), ("bed_01", "bed", 1), ("cafe2", "cafe2", 1), ("type_1", "type 1", 0)],
)
def test_a_single_trailing_number_is_removed_if_it_is_0_or_1_and_noted_otherwise(root, rest, name, num_notes):
    found, kinds = classes_of(root, rest)
    assert found == [name] and len(kinds) == num_notes


def test_names_are_random_if_most_are(root):
    assert classes_of(root, "0001f", "0a02c", "9b1c", "123a", "abc12", "deaf")[0][3:] == [None] * 3


def test_spellings_of_a_class_are_united_with_a_note(root):
    found, kinds = classes_of(root, "mug-1", "Mug", "mug_2", "mug3", "plate")
    assert found == ["mug"] * 4 + ["plate"] or found == ["Mug"] * 4 + ["plate"]
    assert list(kinds.values()) == [1] and "list them in classes.txt" in next(iter(kinds))


def test_the_option_text_wins_over_names_with_a_note(root, caplog):
    assert classes_of(root, "cat", "dog", "mask", text="the mug") == ([None] * 3, {TEXT_WINS: 2})
    mask(root, "1_dog.png", numbers(n1=slice(1, 2)))
    assert areas(load(root, text="the mug")[0]) == {"the mug": 16}
    assert f"{TEXT_WINS} (2), first: " in caplog.text


def test_listed_names_and_numbers_win_over_the_option_text(root):
    names = {1: "mug", 2: "object", 3: "dog"}
    found, _ = classes_of(root, "mug", "2", "object", "mask", "a3f9c2", "mug_2", "9", text="it", names=names)
    assert found == ["mug", "object", "object", None, None, "mug 2", "9"]
    write(root, "classes.txt", "1: mug\n2: object\n3: dog\n9: cow\n")
    assert set(areas(load(root, text="it")[0])) == {"the mug", "the object", "the cow"}


def test_a_word_for_masks_at_the_end_of_all_classes_is_removed(root):
    found, kinds = classes_of(root, "cat_mask", "dog_mask")
    assert found == ["cat", "dog"] and list(kinds.values()) == [2]


def test_a_word_for_masks_in_the_only_class_is_kept_with_a_note(root):
    found, kinds = classes_of(root, "face_mask")
    assert found == ["face mask"] and list(kinds.values()) == [1]
    found, kinds = classes_of(root, "face_mask", "nose")
    assert found == ["face mask", "nose"] and list(kinds.values()) == [1]


def test_random_names_in_the_folder_of_a_photo_are_one_object(root):
    photo(root, "ab12.png")
    for at, name in enumerate(("0001f", "0002c")):
        mask(root, f"masks/ab12/{name}.png", numbers(n255=slice(at, at + 1)))
    assert "its masks have no class name; set the option text" in refusal(root)
    assert areas(load(root, text="the cell")[0]) == {"the cell": 16}
    write(root, "classes.txt", "nucleus")
    assert areas(load(root)[0]) == {"the nucleus": 16}


@pytest.mark.parametrize(
    ("one", "other"), [("1", "1_color"), ("1_labelIds", "1_instanceIds"), ("1_mask", "1_gt"), ("1_mask_1", "1_seg_1")]
)
def test_two_versions_of_a_mask_are_refused(root, one, other):
    photo(root, "1.jpg")
    for name in (one, other):
        mask(root, f"{name}.png", numbers(n1=slice(0, 1)))
    said = refusal(root, text="the mug")
    assert "is also a mask of 1.jpg; keep one of the two" in said and f"{one}.png" in said and f"{other}.png" in said


@pytest.mark.parametrize(("one", "other"), [("1_mask_1", "1_mask_2"), ("1_0001f", "1_0002c"), ("1_1", "1_2")])
def test_parts_of_a_mask_are_united(root, one, other):
    photo(root, "1.jpg")
    for at, name in enumerate((one, other)):
        mask(root, f"{name}.png", numbers(n1=slice(at, at + 1)))
    assert areas(load(root, text="the mug")[0]) == {"the mug": 16}
