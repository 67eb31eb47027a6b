"""The masks decide whether a list of class names without numbers counts from 0 or from 1."""

import json

import pytest
from own_folder import areas, load, mask, numbers, photo, refusal, write
from PIL import Image

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised inside pycocotools
]
BOTH = "`0: wall`, `1: mug`, ... if 0 is the first class, or `1: wall`, `2: mug`, ... if 0 is the background"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "photos"
    for stem in ("1", "2"):
        photo(root, f"{stem}.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    mask(root, "2.png", numbers(n1=slice(0, 2), n255=slice(2, 3)))
    return root


@pytest.mark.parametrize("name", ["classes.txt", "classes.json", "classes.yaml", None])
def test_a_list_is_refused_if_its_last_number_is_in_no_mask(root, name):
    listed = ["wall", "mug", "plate"]
    texts = {"classes.txt": "\n".join(listed), "classes.json": json.dumps(listed), "classes.yaml": json.dumps(listed)}
    options = {} if name else {"classes": listed}
    if name:
        write(root, name, texts[name])
    said = refusal(root, **options)
    assert "no mask contains the number 3, so it is not clear whether 'wall' is number 0 or 1" in said and BOTH in said


def test_the_advice_gives_the_class_0_or_the_background_0(root):
    write(root, "classes.txt", "0: wall\n1: mug\n2: plate\n")
    assert [areas(row) for row in load(root)] == [
        {"the wall": 24, "the mug": 8, "the plate": 16},
        {"the wall": 24, "the mug": 16},
    ]
    write(root, "classes.txt", "1: wall\n2: mug\n3: plate\n")
    assert [areas(row) for row in load(root)] == [{"the wall": 8, "the mug": 16}, {"the wall": 16}]


def test_the_last_number_in_any_mask_of_any_split_counts_from_1(root):
    write(root, "classes.txt", "wall\nmug\nplate\n")
    (root / "test").mkdir()
    for name in ("images", "masks"):
        (root / name).rename(root / "test" / name)
    photo(root, "train/images/3.jpg")
    mask(root, "train/masks/3.png", numbers(n3=slice(5, 6)))
    assert [areas(row) for row in load(root, "test")] == [{"the wall": 8, "the mug": 16}, {"the wall": 16}]
    assert areas(load(root)[0]) == {"the plate": 8}


def test_an_ignored_number_decides_nothing(root):
    write(root, "classes.txt", "wall\nmug\nplate\n")
    assert BOTH in refusal(root)
    mask(root, "2.png", numbers(n3=slice(0, 2), n255=slice(2, 3)))
    assert areas(load(root)[1]) == {"the plate": 16}


def test_a_background_at_the_start_counts_from_0(root):
    write(root, "classes.txt", "background\nmug\nplate\nwall\n")
    assert areas(load(root)[0]) == {"the mug": 8, "the plate": 16}


def test_names_in_file_names_need_no_decision_but_numbers_do(root):
    for stem in ("1", "2"):
        (root / f"masks/{stem}.png").unlink()
    mask(root, "1_wall.png", numbers(n255=slice(0, 1)))
    mask(root, "2_mug.png", numbers(n255=slice(0, 2)))
    write(root, "classes.txt", "wall\nmug\nplate\n")
    assert [areas(row) for row in load(root)] == [{"the wall": 8}, {"the mug": 16}]
    mask(root, "1_1.png", numbers(n255=slice(1, 2)))
    assert areas(load(root)[0]) == {"the wall": 16}
    mask(root, "2_0.png", numbers(n255=slice(2, 3)))
    assert [areas(row) for row in load(root)] == [{"the wall": 8, "the mug": 8}, {"the wall": 8, "the mug": 16}]


def test_the_mask_of_a_question_decides_too(root):
    write(root, "classes.txt", "wall\nmug\nplate\n")
    mask(root, "./other.png", numbers(n3=slice(0, 1)))
    write(root, "questions.csv", "image,question,mask,class\n1.jpg,the plate,other.png,plate\n")
    assert areas(load(root)[0]) == {"the plate": 8}


def test_an_unreadable_mask_is_its_own_error(root):
    write(root, "classes.txt", "wall\nmug\n")
    (root / "masks/1.png").write_bytes(b"")
    Image.new("L", (8, 6)).save(root / "masks/2.png", "JPEG")
    mask(root, "3.png", numbers(n2=slice(0, 1)))
    photo(root, "3.jpg")
    assert "masks/1.png cannot be read" in refusal(root)
    assert len(load(root, max_bad=2)) == 1
