"""A user's own folder: masks, splits and invalid files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from own_folder import SIZE, areas, labelme, load, mask, numbers, photo, refusal, shape, turned, write
from PIL import Image

from gemma_lisa.datasets_builder.mixture import builder_of, load_rows, make_rows
from gemma_lisa.datasets_builder.published.ade20k import NAMES
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import IGNORE_VALUE

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised inside pycocotools
]

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


# --- masks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["1.jpg", "1.JPEG", "1.png", "1.webp", "1.tif", "1.bmp"])
def test_a_photo_with_a_mask_is_a_row_with_the_question_of_the_option(root, name):
    photo(root, name)
    mask(root, "1.png", numbers(n255=slice(0, 2)))
    rows = load(root, text="the mug")
    assert rows[0]["source"] == "folder/train/1" and areas(rows[0]) == {"the mug": 16}
    assert rows[0]["image"] == {"bytes": None, "path": str(root / "images" / name)}
    assert rows[0]["targets"][0]["is_sentence"] is False
    sample = EvaluationQuestions(rows, with_conversations=False)[0]
    assert sample["masks"][0].tolist() == [[[1] * 8] * 2 + [[0] * 8] * 4]


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "I"])
def test_all_nonzero_pixels_are_the_object_in_any_mode(root, mode):
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


def test_255_is_ignored_in_a_mask_of_1_and_255(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 2), n255=slice(2, 3)))
    masks = EvaluationQuestions(load(root, text="the mug"), with_conversations=False)[0]["masks"][0]
    assert masks[0, :, 0].tolist() == [1, 1, IGNORE_VALUE, 0, 0, 0]
    assert areas(load(root, text="the mug", ignore_value=0)[0]) == {"the mug": 24}


def test_an_ambiguous_255_is_refused(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 2)))
    photo(root, "2.jpg")
    mask(root, "2.png", numbers(n255=slice(0, 2)))
    assert (
        "2.png: marks the object with 255, but" in (said := refusal(root, text="the mug"))
        and "ignore_value to 0" in said
    )
    assert len(load(root, text="the mug", ignore_value=0)) == 2
    mask(root, "1.png", numbers(n90=slice(0, 1), n180=slice(1, 2), n255=slice(2, 3)))
    assert "1.png: has 3 numbers besides 0" in (said := refusal(root, text="the mug")) and "soft edges" in said


def test_a_mask_without_a_name_needs_the_option_text(root):
    photo(root, "1.jpg")
    mask(root, "1_mask.png", numbers(n255=slice(0, 2)))
    said = refusal(root)
    assert "1.jpg: its masks have no class name" in said and '{"text": "the mug"}' in said and "classes.txt" in said
    assert areas(load(root, text="Where is it?")[0]) == {"Where is it?": 16}
    assert load(root, text="Where is it?")[0]["targets"][0]["is_sentence"] is True


def test_numbers_with_the_same_name_are_one_mask(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    assert areas(load(root, classes={"1": "dog", "2": "dog"})[0]) == {"the dog": 24}


def test_a_single_class_can_be_marked_with_255(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n255=slice(0, 1)))
    assert areas(load(root, classes=["dog"])[0]) == {"the dog": 8}


def test_each_class_can_have_its_own_mask_file(root, caplog):
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
    assert "skipped empty masks (1), first: cat in" in caplog.text


def test_numbered_masks_of_a_listed_class_are_merged(root):
    photo(root, "1.jpg")
    for at, name in enumerate(("1_Dog_1", "1_Dog_2", "1_3")):
        mask(root, f"{name}.png", numbers(n255=slice(at, at + 1)))
    assert areas(load(root, classes={"3": "cat", "4": "dog"})[0]) == {"the cat": 8, "the dog": 16}
    assert "1_3.png: 3 is not a class name; rename the file" in refusal(root)
    (root / "masks/1_3.png").unlink()
    assert areas(load(root)[0]) == {"the Dog 1": 8, "the Dog 2": 8}
    assert "1_Dog_1.png: 'Dog 1' is not a class; the classes are: cat" in refusal(root, classes=["cat"])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("as_stored", [False, True])
def test_a_mask_matches_the_upright_photo_or_the_stored_pixels_by_its_size(root, orientation, as_stored):
    photo(root, "1.jpg", exif=turned(orientation))
    upright = np.zeros((8, 6) if orientation in (6, 8) else (6, 8), dtype=np.uint8)
    upright[:2, :3] = 1  # not symmetric
    back = {1: 0, 3: 0, 6: 1, 8: 3}[orientation]  # quarter turns counterclockwise from upright to stored
    mask(root, "1.png", np.ascontiguousarray(np.rot90(upright, back)) if as_stored else upright)
    sample = EvaluationQuestions(load(root, text="the mug"), with_conversations=False)[0]
    assert np.array_equal(sample["masks"][0][0], upright)


@pytest.mark.skipif(not (SAMPLES / "ade20k").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_a_real_label_map_has_the_known_areas(root):
    for folder, kind in (("images", "images"), ("masks", "annotations")):
        shutil.copytree(SAMPLES / "ade20k" / kind / "validation", root / folder)
    write(root, "classes.txt", "\n".join(NAMES))
    found = areas(load(root)[0])
    known = {"building": 123_406, "sky": 134_492, "wall": 14_538, "tree": 8_784, "road": 1_755}
    known |= {"grass": 53_099, "plant": 10_009}
    assert found == {f"the {name}": area for name, area in known.items()}


# --- splits -----------------------------------------------------------------------------------------------------------
def test_splits_are_the_folders_that_contain_images(root):
    for folder, rows in (("train", slice(0, 1)), ("val", slice(0, 2)), ("test", slice(0, 3))):
        photo(root, f"{folder}/images/1.jpg")
        mask(root, f"{folder}/masks/1.png", numbers(n1=rows))
    write(root, "classes.txt", "cat")
    for split, pixels in (("train", 8), ("validation", 16), ("test", 24)):
        assert areas(load(root, split)[0]) == {"the cat": pixels}
    write(root, "questions.csv", "image,question,split\n1.jpg,the mug,val\ntrain/images/1.jpg,the cup,\n")
    assert areas(load(root, "validation")[0]) == {"the mug": 16} and areas(load(root)[0]) == {"the cup": 8}
    write(root, "questions.csv", "image,question\n1.jpg,the mug\n")
    assert "line 2: '1.jpg' is in train and validation and test; add a column split" in refusal(root)
    write(root, "questions.csv", "image,question,split\ntrain/images/1.jpg,the mug,test\n")
    assert "line 2: there is no photo 'train/images/1.jpg' in test" in refusal(root)


def test_questions_can_be_in_the_folder_of_their_split(root):
    for folder in ("train", "valid"):
        photo(root, f"{folder}/images/1.jpg")
        mask(root, f"{folder}/masks/1.png", numbers(n1=slice(0, 1)))
        write(root, f"{folder}/questions.csv", f"image,question,mask\n1.jpg,the {folder} mug,masks/1.png\n")
    assert areas(load(root)[0]) == {"the train mug": 8}
    assert areas(load(root, "validation")[0]) == {"the valid mug": 8}


def test_a_folder_without_splits_is_divided_by_its_questions_or_a_share(root):
    for at in range(40):
        photo(root, f"{at}.png", color=(at, 0, 0))
        mask(root, f"{at}.png", numbers(n1=slice(0, 1)))
    train, validation = (
        set(load(root, split, text="it", validation_share=0.3)["source"]) for split in ("train", "validation")
    )
    assert len(train) == 28 and len(validation) == 12
    photo(root, "new.jpg", (8, 7))
    mask(root, "new.png", np.ones((7, 8), dtype=np.uint8))
    again = {name for name in load(root, "validation", text="it", validation_share=0.3)["source"]}
    assert len((again ^ validation) - {"folder/validation/new"}) <= 1
    write(root, "questions.csv", "image,question,split\n3.png,a,test\n4.png,b,validation\n5.png,c,\n")
    found = {split: load(root, split)["source"] for split in ("train", "validation", "test")}
    assert found == {"train": ["folder/train/5"], "validation": ["folder/validation/4"], "test": ["folder/test/3"]}
    write(root, "questions.csv", "image,question,split\n3.png,a,test\n3.png,b,train\n")
    assert "line 3: split of 3.png is train, but" in refusal(root)
    (root / "questions.csv").unlink()
    for at in range(1, 40):
        (root / f"images/{at}.png").unlink()
        (root / f"masks/{at}.png").unlink()
    (root / "images/new.jpg").unlink()
    (root / "masks/new.png").unlink()
    assert "validation_share 0.5 needs at least 2 different photos in images/, found 1" in refusal(
        root, text="it", validation_share=0.5
    )


def test_a_share_and_a_validation_folder_exclude_each_other(root):
    for split in ("train", "val"):
        photo(root, f"{split}/images/1.jpg")
        mask(root, f"{split}/masks/1.png", numbers(n1=slice(0, 1)))
    said = refusal(root, text="it", validation_share=0.5)
    assert "validation_share is 0.5, but the data already has validation photos; remove validation_share" in said


# --- invalid files ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "masks/2.png").unlink(), "images/2.jpg: the photo has no mask; add masks/2.png"),
        (
            lambda root: (root / "images/2.jpg").unlink(),
            "masks/2.png: there is no photo for this mask; add a photo with this name to images/",
        ),
        (
            lambda root: (root / "images/2.jpg").rename(root / "images/2.HEIC"),
            "masks/2.png: its photo 2.HEIC cannot be opened; save it as JPEG or PNG",
        ),
        (
            lambda root: mask(root, "2.png", np.ones((9, 6), dtype=np.uint8)),
            "masks/2.png: its size is 6 x 9 pixels .*2.jpg is 8 x 6",
        ),
        (
            lambda root: mask(root, "2.png", numbers(n3=slice(0, 1))),
            "2.png: contains the number 3, .*the classes are: 1 cat, 2",
        ),
        (
            lambda root: Image.new("RGB", SIZE).save(root / "masks/2.png"),
            "2.png: .* got an image in mode RGB. A mask must be a grayscale or palette PNG",
        ),
        (
            lambda root: (root / "masks/2.png").unlink() or Image.new("L", SIZE).save(root / "masks/2.jpg"),
            "masks/2.jpg: JPEG compression changes the numbers",
        ),
        (lambda root: (root / "masks/2.png").write_bytes(b""), "masks/2.png cannot be read"),
        (lambda root: (root / "images/2.jpg").write_bytes(b""), "images/2.jpg cannot be read"),
        (lambda root: photo(root, "2.png"), "images/2.png: 2.jpg has the same name; rename one"),
        (lambda root: photo(root, "images/new/3.jpg"), "images/new: is a folder inside images/; move its photos into"),
        (lambda root: labelme(root, "labels/2.json", []), "2.json: .*masks/2.png belongs to the same photo; keep one"),
        (lambda root: labelme(root, "labels/3.json", []), "3.json: there is no photo for this LabelMe file"),
        (
            lambda root: (root / "masks/2.png").unlink() or labelme(root, "labels/2.json", [shape("\ud83d", [])]),
            r"2.json: the label of shape 1: '\\ud83d' contains half of a character",
        ),
        (lambda root: mask(root, "masks/3/cat.png", numbers()), "masks/3: there is no photo for this folder of masks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_file_is_one_line_and_can_be_skipped(root, spoil, said, caplog):
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
    assert "skipped: " in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation_share": 1.0}, "validation_share must be at least 0 and less than 1, such as 0.2, got 1.0"),
        ({"validation_share": "half"}, "validation_share must be at least 0 and less than 1, such as 0.2, got 'half'"),
        ({"ignore_value": -1}, "ignore_value must be an integer of at least 1, or 0 for none, got -1"),
        ({"text": " "}, "text must be a phrase such as \"the mug\", got ' '"),
        ({"text": "the \ud83d"}, "the option text: 'the \\ud83d' contains half of a character"),
        ({"classes": ["c\ud83dat"]}, "the option classes: 'c\\ud83dat' contains half of a character"),
        ({"classes": {"0": "cat"}}, "the option classes: number 0 is 'cat', but 0 is the background; number"),
        ({"classes": {"cat": "dog"}}, "the option classes: 'cat': 'dog' is not a number and a name"),
        ({"classes": "cat"}, "the option classes: there are no classes"),
        ({"classes": []}, "the option classes: there are no classes"),
    ],
)
def test_invalid_options_are_refused(root, options, said):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    assert said in refusal(root, **options)


def test_errors_are_listed_if_no_photo_is_valid(root):
    for stem in ("1", "2"):
        mask(root, f"{stem}.png", numbers(n1=slice(0, 1)))
    (root / "images").mkdir()
    builder = builder_of("folder", str(root), {"max_bad": 9})
    make_rows(builder)
    assert [str(error).partition(" for this mask")[0][-24:] for error in builder.bad] == [
        f"{stem}.png: there is no photo" for stem in ("1", "2")
    ]
    assert "1.png: there is no photo for this mask" in refusal(root)


@pytest.mark.parametrize(
    "name", ["images/caf\udce9.jpg", "labels/caf\udce9.json", "masks/caf\udce9.png", "masks/1/\udce9.png"]
)
def test_a_file_name_that_is_not_utf_8_is_one_line_and_can_be_skipped(root, name):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes((root / "images/1.jpg").read_bytes())
    assert (said := refusal(root, text="the mug")).isascii() and "': the name is not in UTF-8; rename it. " in said
    assert ascii(name)[1:-1] in said
    (root / "masks/caf\udce9.txt").write_bytes(b"")  # an ignored file
    assert areas(load(root, text="the mug", max_bad=1)[0]) == {"the mug": 8}


def test_a_folder_name_that_is_not_utf_8_is_refused(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    broken = root.rename(root.with_name("caf\udce9"))
    assert "caf\\udce9': the name of the folder is not in UTF-8; rename it" in refusal(broken, text="the mug")


def test_a_folder_with_another_layout_is_refused_with_the_expected_layout(root):
    assert "contains neither images/ nor train/images/, only nothing; put the photos into images/" in refusal(root)
    (root / "images").mkdir()
    assert "images/ contains no photo" in refusal(root)
    photo(root, "train/images/1.jpg")
    assert "contains images/ and also train/images/" in refusal(root)
    (root / "images").rmdir()
    for name in ("val", "valid"):
        photo(root, f"{name}/images/1.jpg")
    assert "val and valid are both validation; keep one" in refusal(root)
    with pytest.raises(ValueError, match="folder: data_dir is missing"):
        load_rows("folder", "train")


def test_photos_without_any_mask_are_one_line_that_says_where_to_put_them(root, caplog):
    for stem in ("1", "2"):
        photo(root, f"{stem}.jpg")
    mask(root, "annotations/1.png", numbers(n1=slice(0, 1)))
    for max_bad in (0, 9):
        said = refusal(root, text="the mug", max_bad=max_bad)
        assert "none of the 2 photos has a mask or a LabelMe file, such as masks/1.png or labels/1.json" in said
    (root / "annotations").rename(root / "mask")
    assert len(load(root, text="the mug", max_bad=1)) == 1
    assert f"{root}/mask: used as masks/, which does not exist" in caplog.text


def test_system_files_are_ignored_and_other_files_counted(root, caplog):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    at_root = (".DS_Store", "README.md", "labels.txt", "questions.csv.bak", "~$questions.xlsx", "question.png", "x.csv")
    for name in (*at_root, "images/.DS_Store", "images/Thumbs.db", "masks/._1.png", "images/notes.txt"):
        write(root, name, "x")
    assert len(load(root, text="the mug")) == 1
    assert "skipped files that are not images (1), first" in caplog.text and "notes.txt" in caplog.text


def test_warnings_about_skipped_files_are_logged_at_every_start(root, caplog):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    mask(root, "1_cat.png", numbers())
    write(root, "images/notes.txt", "x")
    for _ in range(2):
        caplog.clear()
        assert len(load(root, text="the mug")) == 1
        assert "skipped files that are not images (1)" in caplog.text and "skipped empty masks (1)" in caplog.text


def test_a_photo_with_an_empty_mask_is_skipped_and_counted(root, caplog):
    for stem, rows in (("1", slice(0, 1)), ("2", slice(0, 0))):
        photo(root, f"{stem}.jpg")
        mask(root, f"{stem}.png", numbers(n1=rows))
    assert len(load(root, text="the mug")) == 1
    assert "skipped records without a question (1), first:" in caplog.text
    assert "2.jpg" in caplog.text


def test_changed_files_are_prepared_again(root):
    photo(root, "1.jpg")
    mask(root, "1.png", numbers(n1=slice(0, 1)))
    assert areas(load(root, text="the mug")[0]) == {"the mug": 8}
    mask(root, "1.png", numbers(n1=slice(0, 5)))
    assert areas(load(root, text="the mug")[0]) == {"the mug": 40}
    write(root, "classes.txt", "dog")
    assert areas(load(root, text="the mug")[0]) == {"the dog": 40}
    write(root, "questions.csv", "image,question\n1.jpg,the cat\n")
    assert areas(load(root, text="the mug")[0]) == {"the cat": 40}
