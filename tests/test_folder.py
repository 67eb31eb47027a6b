"""A user's own folder: photos with masks or LabelMe's shapes, and the questions beside them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from own_folder import SIZE, areas, drawn, labelme, load, mask, numbers, photo, refusal, shape, turned, write
from PIL import Image

from gemma_lisa.datasets_builder.ade20k import NAMES
from gemma_lisa.datasets_builder.mixture import builder_of, load_rows, make_rows
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import IGNORE_VALUE, decode_mask

# pycocotools' own business with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ONES = np.ones((2, 3), dtype=np.uint8)
SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


# --- masks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["1.jpg", "1.JPEG", "1.png", "1.webp", "1.tif", "1.bmp"])
def test_a_photo_with_a_mask_is_a_row_that_asks_by_the_option(root, name):
    photo(root, name)
    mask(root, "1.png", numbers(n255=slice(0, 2)))
    rows = load(root, text="the mug")
    assert rows[0]["source"] == "folder/train/1" and areas(rows[0]) == {"the mug": 16}
    assert rows[0]["image"] == {"bytes": None, "path": str(root / "images" / name)}
    assert rows[0]["targets"][0]["is_sentence"] is False
    sample = EvaluationQuestions(rows, with_conversations=False)[0]
    assert sample["masks"][0].tolist() == [[[1] * 8] * 2 + [[0] * 8] * 4]


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "I"])
def test_whatever_is_not_0_is_the_thing_in_any_mode(root, mode):
    photo(root, "1.jpg")
    labels = numbers(n1=slice(0, 1), n7=slice(3, 4))
    if mode == "1":
        mask(root, "1.png", labels.astype(bool))
    elif mode == "P":
        (root / "masks").mkdir()
        picture = Image.fromarray(labels).convert("P")
        picture.putpalette([9, 9, 9] * 256)
        picture.save(root / "masks/1.png")
    else:
        suffix = "tif" if mode == "I" else "png"
        mask(root, f"1.{suffix}", labels.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]))
    assert Image.open(next((root / "masks").iterdir())).mode == mode
    assert areas(load(root, text="the mug")[0]) == {"the mug": 16}


def test_a_mask_of_1_and_255_does_not_count_255(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 2), n255=slice(2, 3)))
    masks = EvaluationQuestions(load(root, text="the mug"), with_conversations=False)[0]["masks"][0]
    assert masks[0, :, 0].tolist() == [1, 1, IGNORE_VALUE, 0, 0, 0]
    assert areas(load(root, text="the mug", ignore_value=0)[0]) == {"the mug": 24}


def test_it_must_be_clear_whether_255_is_the_thing(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 2)))
    photo(root, "2.jpg")
    mask(root, "2.png", numbers(n255=slice(0, 2)))
    assert "2.png: marks with 255, but" in (said := refusal(root, text="the mug")) and "ignore_value to 0" in said
    assert len(load(root, text="the mug", ignore_value=0)) == 2
    mask(root, "1.png", numbers(n90=slice(0, 1), n180=slice(1, 2), n255=slice(2, 3)))
    assert "1.png: holds 3 numbers besides 0" in (said := refusal(root, text="the mug")) and "soft edges" in said


def test_a_mask_without_a_name_needs_the_option_text(root):
    photo(root, "1.jpg")
    mask(root, "1_mask.png", numbers(n255=slice(0, 2)))
    said = refusal(root)
    assert "1.jpg: what do its masks mark?" in said and '{"text": "the mug"}' in said and "classes.txt" in said
    assert areas(load(root, text="Where is it?")[0]) == {"Where is it?": 16}
    assert load(root, text="Where is it?")[0]["targets"][0]["is_sentence"] is True


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "coffee_cup\ndog\n"),
        ("classes.txt", "_background_\ncoffee_cup\ndog\n"),
        ("classes.txt", "__ignore__\n_background_\ncoffee_cup\ndog\n"),
        ("classes.txt", "0: background\n2: dog\n1: coffee cup\n"),
        ("masks/classes.json", '{"1": "coffee cup", "2": "dog"}'),
        ("classes.json", '{"background": 0, "coffee_cup": 1, "dog": 2}'),
        ("classes.json", '["coffee cup", "dog"]'),
        ("classes.yaml", "1: coffee cup\n2: dog\n"),
        ("classes.txt", "\ufeff0 background\r\n1 coffee cup\r\n2 dog\r\n"),
        ("classes.txt", "1. coffee cup\n\n2.dog\n"),
        ("classes.txt", "1) coffee cup\n2 - dog\n"),
        ("classes.txt", "1,coffee cup\n2, dog\n"),
        ("classes.txt", "01;coffee cup\n2 ; dog\n"),
        ("classes.txt", "1\tcoffee cup\n2=dog\n"),
        ("classes.txt", "coffee cup: 1\ndog,2\n"),
        ("classes.yml", "- background\n- coffee cup\n- dog\n"),
        (None, {"1": "coffee cup", "2": "dog"}),
        (None, ["coffee cup", "dog"]),
    ],
)
def test_classes_are_named_by_a_file_or_the_option(root, name, text):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3), n255=slice(5, 6)))
    if name:
        write(root, name, text)
    [row] = load(root, **({} if name else {"classes": text}))
    assert areas(row) == {"the coffee cup": 8, "the dog": 16}
    assert [decode_mask(target["ignore"], "").sum() for target in row["targets"]] == [8, 8]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("7up\nA4 sheet, white\nbus 3\n", ["7up", "A4 sheet, white", "bus 3"]),
        ("1: 3 wheeler\n2: label\n3: a, b\n", ["3 wheeler", "label", "a, b"]),
        ("class 1\nclass 2\nclass\n", ["class 1", "class 2", "class"]),
    ],
)
def test_names_with_numbers_in_them_stay_whole(root, text, names):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3), n3=slice(3, 6)))
    write(root, "classes.txt", text)
    assert list(areas(load(root)[0])) == [f"the {name}" for name in names]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1: cat\ndog\n", "line 2: it is not clear whether 'dog' has a number; write a number and a name"),
        ("cat\n\n3 wheeler\n", "line 3: it is not clear whether '3 wheeler' has a number; .*`1: cat`"),
        ("cat: 1\ndog\n", "line 2: it is not clear whether 'dog'"),
        ("1: cat\n2:\n", "line 2: it is not clear whether '2:'"),
        ("1.5 litre bottle\n2.5 litre bottle\n", "line 1: it is not clear whether '1.5 litre bottle'"),
        ("0 1 cat\n1 2 dog\n", "line 1: it is not clear whether '0 1 cat'"),
        ("1,cat,255,0,0\n", "line 1: it is not clear whether '1,cat,255,0,0'"),
        ("1\tcat\tred\n", r"line 1: it is not clear whether '1\\tcat\\tred'"),
        ("1\n2\n", "line 1: it is not clear whether '1'"),
        ("3-wheeler\ncat\n", "line 1: it is not clear whether '3-wheeler'"),
        ("# classes\ncat\ndog\n", "line 1: '# classes' looks like a comment, a heading or another format; take it out"),
        ("1 cat\n// dogs\n2 dog\n", "line 2: '// dogs' looks like"),
        ("id,name\n1,cat\n", "line 1: 'id,name' looks like"),
        ('1,"cat"\n', "line 1: it is not clear whether '1,\"cat\"'"),
        ("Class_Name\ncat\n", "line 1: 'Class_Name' looks like"),
        ("1: cat\n2: dog\n01 cow\n", "line 3: the number 1 is there twice, also in line 1"),
        ("cat: 1\ndog: 1\n", "line 2: the number 1 is there twice, also in line 1"),
    ],
)
def test_a_text_of_classes_that_may_mean_something_else_is_refused_with_its_line(root, text, said):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    write(root, "classes.txt", text)
    with pytest.raises(ValueError, match=f"classes.txt {said}") as refused:
        load(root)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("classes.json", '{"1": "cat", "01": "dog"}', "the number 1 is there twice; each class needs one of its own"),
        ("classes.json", '{"1": "cat", "1": "dog"}', "cannot be read ('1' is there twice)"),
        ("classes.json", '{"cat": 1, "dog": 1}', "the number 1 is there twice"),
        ("classes.json", '["0 background", "1 cat"]', "the name '0 background' begins with a number"),
        ("classes.json", '{"1": "c\\ud83dat"}', r"'c\ud83dat' holds half a character"),
        ("classes.json", '{"1e": "cat"}', "'1e' and 'cat' are no number and name"),
        ("classes.json", f'{{"{"1" * 5000}": "cat"}}', "are no number and name"),
        ("classes.json", '{"1": true}', "'1' and True are no number and name"),
        ("classes.yaml", "1: cat\n2: dog\n1: cow\n", "cannot be read ('1' is there twice)"),
    ],
)
def test_what_is_wrong_with_classes_is_said_with_the_file(root, name, text, said):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    write(root, name, text)
    assert name in (refused := refusal(root)) and said in refused


@pytest.mark.parametrize("name", ["Classes.txt", "CLASSES.TXT", "masks/Classes.TXT"])
def test_a_file_of_classes_may_be_written_in_upper_case(root, name):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    write(root, name, "cat\n")
    assert areas(load(root)[0]) == {"the cat": 8}
    write(root, name, "dog\n")
    assert areas(load(root)[0]) == {"the dog": 8}
    write(root, name.lower(), "cat\n")
    assert "are both there; keep one" in refusal(root)


@pytest.mark.parametrize("name", ["class.txt", "classes.csv", "masks/classes.txt.txt", "classes (1).txt"])
def test_a_file_of_classes_under_another_name_is_not_passed_over(root, name):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    assert areas(load(root, text="the mug")[0]) == {"the mug": 8}
    write(root, name, "cat\n")
    said = refusal(root, text="the mug")
    assert f"{name}: is not read under this name; save it as classes.json or classes.txt or" in said


def test_several_numbers_of_one_name_are_one_mask(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    assert areas(load(root, classes={"1": "dog", "2": "dog"})[0]) == {"the dog": 24}


def test_a_single_class_may_be_marked_with_255(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n255=slice(0, 1)))
    assert areas(load(root, classes=["dog"])[0]) == {"the dog": 8}


def test_each_class_may_have_a_mask_of_its_own(root, caplog):
    photo(root, "1.jpg")
    photo(root, "1_a.jpg")
    for name, rows in (("1_coffee_cup", slice(0, 1)), ("1_dog", slice(1, 3)), ("1_a_dog", slice(0, 6))):
        mask(root, f"{name}.png", numbers(n255=rows))
    photo(root, "2.jpg")
    mask(root, "masks/2/dog.png", numbers(n255=slice(0, 2)))
    mask(root, "masks/2/cat.png", numbers())
    rows = load(root)
    assert [row["source"] for row in rows] == ["folder/train/1", "folder/train/1_a", "folder/train/2"]
    assert [areas(row) for row in rows] == [{"the coffee cup": 8, "the dog": 16}, {"the dog": 48}, {"the dog": 16}]
    assert "left out 1 masks of nothing; the first: cat in" in caplog.text


def test_numbered_masks_of_a_listed_class_are_united(root):
    photo(root, "1.jpg")
    for at, name in enumerate(("1_Dog_1", "1_Dog_2", "1_3")):
        mask(root, f"{name}.png", numbers(n255=slice(at, at + 1)))
    assert areas(load(root, classes={"3": "cat", "4": "dog"})[0]) == {"the cat": 8, "the dog": 16}
    assert "1_3.png: 3 is no name; rename it" in refusal(root)
    (root / "masks/1_3.png").unlink()
    assert areas(load(root)[0]) == {"the Dog 1": 8, "the Dog 2": 8}
    assert "1_Dog_1.png: 'Dog 1' is no class; there are: cat" in refusal(root, classes=["cat"])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("as_stored", [False, True])
def test_a_mask_lies_on_the_upright_photo_or_on_the_stored_pixels_where_only_these_fit(root, orientation, as_stored):
    photo(root, "1.jpg", exif=turned(orientation))
    upright = np.zeros((8, 6) if orientation in (6, 8) else (6, 8), dtype=np.uint8)
    upright[:2, :3] = 1  # no symmetry
    back = {1: 0, 3: 0, 6: 1, 8: 3}[orientation]  # quarter turns, anticlockwise, from upright to stored
    mask(root, "1.png", np.ascontiguousarray(np.rot90(upright, back)) if as_stored else upright)
    sample = EvaluationQuestions(load(root, text="the mug"), with_conversations=False)[0]
    assert np.array_equal(sample["masks"][0][0], upright)


@pytest.mark.skipif(not (SAMPLES / "ade20k").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_a_real_label_map_has_the_pixels_that_are_known_of_it(root):
    for folder, kind in (("images", "images"), ("masks", "annotations")):
        shutil.copytree(SAMPLES / "ade20k" / kind / "validation", root / folder)
    write(root, "classes.txt", "\n".join(NAMES))
    found = areas(load(root)[0])
    known = {"building": 123_406, "sky": 134_492, "wall": 14_538, "tree": 8_784, "road": 1_755}
    known |= {"grass": 53_099, "plant": 10_009}
    assert found == {f"the {name}": area for name, area in known.items()}


# --- LabelMe ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["images", "labels"])
def test_shapes_of_labelme_are_masks_by_their_labels(root, place):
    photo(root, "1.jpg", (40, 30))
    shapes = [
        shape("coffee_cup", [[0, 0], [10, 0], [10, 5], [0, 5]]),
        shape("coffee_cup", [[30, 20], [20, 30]], "rectangle"),  # from any corner
        shape("ball", [[20, 10], [25, 10]], "circle"),
        shape("sun", [[0, 30], [3, 30]], "circle"),  # reaches out of the picture
        shape("__ignore__", [[0, 28], [40, 28], [40, 30], [0, 30]]),
    ]
    labelme(root, f"{place}/1.json", shapes, (40, 30))
    [row] = load(root)
    found = areas(row)
    assert list(found) == ["the coffee cup", "the ball", "the sun"] and found["the coffee cup"] == 50 + 100
    assert abs(found["the ball"] - np.pi * 25) < 4 and abs(found["the sun"] - np.pi * 9 / 4) < 2
    ball = decode_mask(row["targets"][1]["masks"][0], "")
    assert ball[10, 20] and ball[5:15, 15:25].sum() == ball.sum()
    assert all(decode_mask(target["ignore"], "").sum() == 80 for target in row["targets"])


@pytest.mark.parametrize(("kind", "marked"), [(bool, 1), (np.uint8, 1), (np.uint8, 255)])
def test_a_mask_of_labelmes_ai_lies_from_the_first_pixel_of_its_box_to_the_last(root, kind, marked):
    photo(root, "1.jpg")
    pixels = (np.array([[1, 0, 1], [0, 1, 1]]) * marked).astype(kind)
    labelme(root, "labels/1.json", [drawn("mug", [[2, 3], [4, 4]], pixels)])
    mug = decode_mask(load(root)[0]["targets"][0]["masks"][0], "")
    assert np.argwhere(mug).tolist() == [[3, 2], [3, 4], [4, 3], [4, 4]]


def test_a_mask_of_labelmes_ai_may_reach_over_the_border_and_its_box_be_a_pixel_larger(root):
    photo(root, "1.jpg")
    everything = np.ones((3, 3), dtype=np.uint8)
    shapes = [
        drawn("left", [[-1, -1], [1, 1]], everything),
        drawn("right", [[6, 4], [8, 6]], everything[:2, :2]),  # as the older versions cut it off
        drawn("moved", [[2.4, 2.6], [4.6, 4.4]], everything),  # a box between the pixels
    ]
    labelme(root, "labels/1.json", shapes)
    [row] = load(root)
    masks = {target["texts"][0]: decode_mask(target["masks"][0], "") for target in row["targets"]}
    expected = {"the left": (slice(0, 2), slice(0, 2)), "the right": (slice(4, 6), slice(6, 8))}
    expected["the moved"] = (slice(3, 6), slice(2, 5))
    for name, (rows, columns) in expected.items():
        assert masks[name][rows, columns].all() and masks[name].sum() == masks[name][rows, columns].size


@pytest.mark.parametrize("kind", ["rectangle", "oriented_rectangle", "rotation"])
def test_a_rectangle_of_four_corners_is_the_polygon_that_they_are(root, kind):
    photo(root, "1.jpg", (20, 20))
    corners = [[4, 2], [12, 2], [12, 5], [4, 5]]
    labelme(root, "labels/1.json", [shape("mug", corners, kind)], (20, 20))
    mug = decode_mask(load(root)[0]["targets"][0]["masks"][0], "")
    assert mug[2:5, 4:12].all() and mug.sum() == 24
    tilted = [[10, 0], [20, 10], [10, 20], [0, 10]]
    labelme(root, "labels/1.json", [shape("mug", tilted, kind)], (20, 20))
    mug = decode_mask(load(root)[0]["targets"][0]["masks"][0], "")
    assert mug[10, 1] and not mug[1, 1] and not mug[18, 18] and abs(int(mug.sum()) - 200) <= 20


def test_labels_that_are_listed_are_united_and_others_refused(root):
    photo(root, "1.jpg")
    labelme(root, "labels/1.json", [shape(f"dog-{at}", [[0, at], [8, at + 1]], "rectangle") for at in (1, 3)])
    assert areas(load(root, classes=["dog"])[0]) == {"the dog": 16}
    assert "1.json: 'dog-1' is no class; there are: cat" in refusal(root, classes=["cat"])


def test_shapes_on_a_turned_photo_follow_the_rule_of_masks(root):
    photo(root, "1.jpg", (8, 6), exif=turned(6))
    labelme(root, "images/1.json", [shape("mug", [[0, 0], [3, 2]], "rectangle")], (6, 8))
    upright = decode_mask(load(root)[0]["targets"][0]["masks"][0], "")
    assert upright.shape == (8, 6) and upright[:2, :3].all() and upright.sum() == 6
    labelme(root, "images/1.json", [shape("mug", [[0, 3], [2, 6]], "rectangle")], (8, 6))  # the same, as stored
    assert np.array_equal(decode_mask(load(root)[0]["targets"][0]["masks"][0], ""), upright)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([shape("a", [[0, 0], [4, 4]], "line")], r"1.json: its shape 1 \(a\): a line is no area here; draw"),
        ([shape("a", [[0, 0], [4, 4], [8, 8]], "circle")], "a circle of 3 points"),
        ([shape("a", [[0, 0], [4, 0], [4, 4]], "rectangle")], "a rectangle of 3 points"),
        ([shape("a", [[0, 0], [4, 4]], "mask")], r"its shape 1 \(a\): its mask is no PNG in base64; draw it again"),
        ([shape("a", [[0, 0], [4, 4]], "mask") | {"mask": "AAAA"}], r"\(a\): its mask cannot be read"),
        ([drawn("a", [[0, 0]], ONES)], "a mask of 1 points"),
        ([drawn("a", [[0, 0], [5, 1]], ONES)], "mask is 3 x 2 pixels .* its box 6 x 2; draw it again"),
        ([drawn("a", [[9, 0], [11, 1]], ONES)], "reaches out of its image, which is 8 x 6 pixels"),
        ([drawn("a", [[0, 0], [2, 1]], np.dstack([ONES] * 3))], "its mask is a picture in RGB"),
        ([shape("c\ud83dat", [])], r"1.json: the label of its shape 1: 'c\\ud83dat' holds half a character"),
        ([shape("a", [[0, 0], [4, 4]])], "its shape 1 .*three points"),
        ([shape("a", [[0, 0], [80, 0], [80, 40]])], r"its shape 1 .*its image is 8 x 6"),
        ([shape("a", ["x"])], "its points are no pairs of numbers"),
        ([shape(" ", [])], "its shape 1 has no label"),
        (["a"], "its shape 1 has no label"),
        (None, "1.json: has no shapes, imageHeight and imageWidth"),
    ],
)
def test_what_is_wrong_with_a_shape_is_said_in_one_line(root, content, said):
    photo(root, "1.jpg")
    labelme(root, "labels/1.json", content)
    with pytest.raises(ValueError, match=said) as refused:
        load(root)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_json_file_that_is_none_of_labelme_is_refused(root, text):
    photo(root, "1.jpg")
    write(root, "images/1.json", text)
    assert "images/1.json" in refusal(root)


# --- splits -----------------------------------------------------------------------------------------------------------
def test_splits_are_the_folders_that_hold_images(root):
    for folder, rows in (("train", slice(0, 1)), ("val", slice(0, 2)), ("test", slice(0, 3))):
        photo(root, f"{folder}/images/1.jpg")
        mask(root, f"{folder}/masks/1.png", numbers(n1=rows))
    write(root, "classes.txt", "cat")
    for split, pixels in (("train", 8), ("validation", 16), ("test", 24)):
        assert areas(load(root, split)[0]) == {"the cat": pixels}
    write(root, "questions.csv", "image,question,split\n1.jpg,the mug,val\ntrain/images/1.jpg,the cup,\n")
    assert areas(load(root, "validation")[0]) == {"the mug": 16} and areas(load(root)[0]) == {"the cup": 8}
    write(root, "questions.csv", "image,question\n1.jpg,the mug\n")
    assert "line 2: '1.jpg' is in test and train and validation; say which in a column split" in refusal(root)
    write(root, "questions.csv", "image,question,split\ntrain/images/1.jpg,the mug,test\n")
    assert "line 2: no picture of test is called 'train/images/1.jpg'" in refusal(root)


def test_questions_may_lie_in_the_folder_of_their_split(root):
    for folder in ("train", "valid"):
        photo(root, f"{folder}/images/1.jpg")
        mask(root, f"{folder}/masks/1.png", numbers(n1=slice(0, 1)))
        write(root, f"{folder}/questions.csv", f"image,question,mask\n1.jpg,the {folder} mug,masks/1.png\n")
    assert areas(load(root)[0]) == {"the train mug": 8}
    assert areas(load(root, "validation")[0]) == {"the valid mug": 8}


def test_a_folder_without_splits_is_split_by_its_questions_or_a_share(root):
    for at in range(40):
        photo(root, f"{at}.jpg")
        mask(root, f"{at}.png", numbers(n1=slice(0, 1)))
    train, validation = (
        set(load(root, split, text="it", validation_share=0.3)["source"]) for split in ("train", "validation")
    )
    assert len(train) + len(validation) == 40 and 5 < len(validation) < 20
    photo(root, "new.jpg")
    mask(root, "new.png", numbers(n1=slice(0, 1)))
    again = {name for name in load(root, "validation", text="it", validation_share=0.3)["source"]}
    assert again - {"folder/validation/new"} == validation
    write(root, "questions.csv", "image,question,split\n3.jpg,a,test\n4.jpg,b,validation\n5.jpg,c,\n")
    found = {split: load(root, split)["source"] for split in ("train", "validation", "test")}
    assert found == {"train": ["folder/train/5"], "validation": ["folder/validation/4"], "test": ["folder/test/3"]}
    write(root, "questions.csv", "image,question,split\n3.jpg,a,test\n3.jpg,b,train\n")
    assert "line 3: says train of 3.jpg, but" in refusal(root)
    (root / "questions.csv").unlink()
    assert "validation_share 0.0001 finds a folder of validation there already, or leaves" in refusal(
        root, text="it", validation_share=0.0001
    )


# --- what does not fit ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "masks/2.png").unlink(), "images/2.jpg: has no mask; draw masks/2.png"),
        (
            lambda root: (root / "images/2.jpg").unlink(),
            "masks/2.png: is the mask of no picture; add its picture to images/",
        ),
        (
            lambda root: (root / "images/2.jpg").rename(root / "images/2.HEIC"),
            "masks/2.png: its picture 2.HEIC cannot be opened here; save it as JPEG or PNG",
        ),
        (
            lambda root: mask(root, "2.png", np.ones((9, 6), dtype=np.uint8)),
            "masks/2.png: noted as 6 x 9 pixels .*2.jpg is 8 x 6",
        ),
        (lambda root: mask(root, "2.png", numbers(n3=slice(0, 1))), "2.png: holds the number 3, .*there are: 1 cat, 2"),
        (
            lambda root: Image.new("RGB", SIZE).save(root / "masks/2.png"),
            "2.png: .* this is a picture in RGB. A mask is a PNG file in greyscale",
        ),
        (
            lambda root: (root / "masks/2.png").unlink() or Image.new("L", SIZE).save(root / "masks/2.jpg"),
            "masks/2.jpg: JPEG does not keep the numbers",
        ),
        (lambda root: (root / "masks/2.png").write_bytes(b""), "masks/2.png cannot be read"),
        (lambda root: (root / "images/2.jpg").write_bytes(b""), "images/2.jpg cannot be read"),
        (lambda root: photo(root, "2.png"), "images/2.png: 2.jpg has the same name; rename one"),
        (lambda root: photo(root, "images/new/3.jpg"), "images/new: is a folder in images/; move its pictures up"),
        (lambda root: labelme(root, "labels/2.json", []), "2.json: .*masks/2.png is of the same picture; keep one"),
        (lambda root: labelme(root, "labels/3.json", []), "3.json: is the LabelMe file of no picture"),
        (
            lambda root: (root / "masks/2.png").unlink() or labelme(root, "labels/2.json", [shape("\ud83d", [])]),
            r"2.json: the label of its shape 1: '\\ud83d' holds half a character; write it again",
        ),
        (lambda root: mask(root, "masks/3/cat.png", numbers()), "masks/3: is the folder of masks of no picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_one_line_and_may_be_left_out(root, spoil, said, caplog):
    for stem in ("1", "2"):
        photo(root, f"{stem}.jpg")
        mask(root, f"{stem}.png", numbers(n1=slice(0, 1), n2=slice(2, 3)))
    write(root, "classes.txt", "cat\ndog")
    assert len(load(root)) == 2
    spoil(root)
    with pytest.raises(ValueError, match=said) as refused:
        load(root)
    assert "\n" not in str(refused.value)
    assert 1 <= len(load(root, max_bad=2)) <= 2
    assert "left out, as max_bad allows" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"validation_share": "half"}, "validation_share is 'half'"),
        ({"ignore_value": -1}, "ignore_value is -1"),
        ({"text": " "}, "text is ' '"),
        ({"text": "the \ud83d"}, "the option text: 'the \\ud83d' holds half a character"),
        ({"classes": ["c\ud83dat"]}, "the option classes: 'c\\ud83dat' holds half a character"),
        ({"classes": {"0": "cat"}}, "the option classes: calls 0 'cat', but 0 is the background; number"),
        ({"classes": {"cat": "dog"}}, "the option classes: 'cat' and 'dog' are no number and name"),
        ({"classes": "cat"}, "the option classes: names no classes"),
        ({"classes": []}, "the option classes: names no classes"),
    ],
)
def test_options_that_make_no_sense_are_refused(root, options, said):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    assert said in refusal(root, **options)


def test_what_is_wrong_is_listed_where_no_picture_is_whole(root):
    for stem in ("1", "2"):
        mask(root, f"{stem}.png", numbers(n1=slice(0, 1)))
    (root / "images").mkdir()
    builder = builder_of("folder", str(root), {"max_bad": 9})
    make_rows(builder)
    assert [str(error).partition(" of no")[0][-18:] for error in builder.bad] == [
        f"{stem}.png: is the mask" for stem in ("1", "2")
    ]
    assert "1.png: is the mask of no picture" in refusal(root)


@pytest.mark.parametrize(
    "name", ["images/caf\udce9.jpg", "labels/caf\udce9.json", "masks/caf\udce9.png", "masks/1/\udce9.png"]
)
def test_a_name_that_is_not_in_utf_8_is_a_line_that_names_it_and_may_be_left_out(root, name):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes((root / "images/1.jpg").read_bytes())
    assert (said := refusal(root, text="the mug")).isascii() and said.endswith(": its name is not in UTF-8; rename it.")
    assert ascii(name)[1:-1] in said
    (root / "masks/caf\udce9.txt").write_bytes(b"")  # nobody reads it
    assert areas(load(root, text="the mug", max_bad=1)[0]) == {"the mug": 8}


def test_a_folder_whose_name_is_not_in_utf_8_is_refused_by_it(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    broken = root.rename(root.with_name("caf\udce9"))
    assert "caf\\udce9': a folder's name is not in UTF-8; rename it" in refusal(broken, text="the mug")


@pytest.mark.parametrize(("name", "text"), [("classes.json", "{"), ("classes.yaml", "a: ["), ("classes.txt", "")])
def test_a_file_of_classes_that_names_none_is_refused(root, name, text):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    write(root, name, text)
    assert name in (said := refusal(root)) and "write a line `1: cat` for each" in said


def test_a_folder_that_holds_something_else_is_refused_with_what_it_should_hold(root):
    assert "holds neither images/ nor train/images/; put the pictures into images/" in refusal(root)
    (root / "images").mkdir()
    assert "images/ holds no picture" in refusal(root)
    photo(root, "train/images/1.jpg")
    assert "holds images/ and also train/images/" in refusal(root)
    (root / "images").rmdir()
    for name in ("val", "valid"):
        photo(root, f"{name}/images/1.jpg")
    assert "val and valid are both validation; keep one" in refusal(root)
    with pytest.raises(ValueError, match="folder: data_dir is missing"):
        load_rows("folder", "train")


def test_files_of_the_system_are_passed_over_and_others_counted(root, caplog):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    at_root = (".DS_Store", "README.md", "labels.txt", "questions.csv.bak", "~$questions.xlsx", "question.png", "x.csv")
    for name in (*at_root, "images/.DS_Store", "images/Thumbs.db", "masks/._1.png", "images/notes.txt"):
        write(root, name, "x")
    assert len(load(root, text="the mug")) == 1
    assert "left out 1 files that are no pictures; the first" in caplog.text and "notes.txt" in caplog.text


def test_what_was_left_out_is_said_at_every_start(root, caplog):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    mask(root, "1_cat.png", numbers())
    write(root, "images/notes.txt", "x")
    for _ in range(2):
        caplog.clear()
        assert len(load(root, text="the mug")) == 1
        assert "left out 1 files that are no pictures" in caplog.text and "left out 1 masks of nothing" in caplog.text


def test_a_picture_in_which_nothing_is_marked_is_left_out_and_counted(root, caplog):
    for stem, rows in (("1", slice(0, 1)), ("2", slice(0, 0))):
        photo(root, f"{stem}.jpg")
        mask(root, f"{stem}.png", numbers(n1=rows))
    assert len(load(root, text="the mug")) == 1
    assert "left out 1 of its records, in which nothing can be asked; the first:" in caplog.text
    assert "2.jpg" in caplog.text


def test_changed_files_are_prepared_anew(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    assert areas(load(root, text="the mug")[0]) == {"the mug": 8}
    mask(root, "1.png", numbers(n1=slice(0, 5)))
    assert areas(load(root, text="the mug")[0]) == {"the mug": 40}
    write(root, "classes.txt", "dog")
    assert areas(load(root, text="the mug")[0]) == {"the dog": 40}
    write(root, "questions.csv", "image,question\n1.jpg,the cat\n")
    assert areas(load(root, text="the mug")[0]) == {"the cat": 40}
