"""Very long texts in a user's files and options are shortened in error messages and warnings."""

import json

import numpy as np
import pytest
from coco_photos import Photos
from own_folder import drawn, labelme, load, mask, numbers, photo, shape, write

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.prepared import check_picture
from gemma_lisa.datasets_builder.rows import check_row, decode_mask, load_image, new_row, new_target

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised inside pycocotools
]

LONG = "iVBORw0KGgo" + "A" * 1_000_000  # an image in base64
LONGEST = 1_500  # characters of a message, with the paths of a few files


@pytest.fixture
def root(tmp_path):
    photo(tmp_path, "1.jpg")
    mask(tmp_path, "1.png", numbers(n1=slice(0, 1), n2=slice(1, 3)))
    write(tmp_path, "classes.txt", "cat\ndog\n")
    return tmp_path


def assert_short(call):
    with pytest.raises(ValueError) as refused:
        call()
    message = str(refused.value)
    assert len(message) < LONGEST and "\n" not in message, message[:LONGEST]


@pytest.mark.parametrize("column", ["image", "question", "mask", "class", "answer", "split", "explanation"])
@pytest.mark.parametrize("text", [LONG, LONG + "[SEG]", LONG + "\ud83d", LONG + "{seg}{seg}"], ids=str.__len__)
def test_long_cells_of_questions(root, column, text):
    question = {"image": "1.jpg", "question": "the cat", "class": "cat", "mask": None, "answer": "{seg}"}
    line = json.dumps(question | {column: text})
    write(root, "questions.jsonl", f"{line}\n{line}\n")  # the second is the same question again
    assert_short(lambda: load(root))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({LONG: "1.jpg"}),
        json.dumps([LONG]),
        LONG,
        "{" + LONG,
        f'{{"{LONG}": "a", "{LONG}": "b"}}',
    ],
    ids=["column", "list", "text", "broken", "twice"],
)
def test_long_lines_of_jsonl(root, content):
    write(root, "questions.jsonl", content)
    assert_short(lambda: load(root))


@pytest.mark.parametrize("content", [f"image,{LONG}\n1.jpg,a\n", f'image,question\n"{LONG}\n', f"{LONG},b\n"])
def test_long_cells_of_csv(root, content):
    write(root, "questions.csv", content)
    assert_short(lambda: load(root))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", LONG),
        ("classes.txt", f"1: {LONG}\ncat\n"),
        ("classes.json", json.dumps({"0": LONG})),
        ("classes.json", json.dumps({"1e": LONG})),
        ("classes.json", json.dumps({LONG: "1"})),
        ("classes.json", json.dumps({"9": LONG})),
        ("classes.json", json.dumps([f"1 {LONG}"])),
        ("classes.json", json.dumps(LONG)),
        ("classes.yaml", f"1: {LONG}\n1: b\n"),
    ],
)
def test_long_names_of_classes(root, name, content):
    (root / "classes.txt").unlink()
    write(root, name, content)
    assert_short(lambda: load(root))


@pytest.mark.parametrize(
    "content",
    [
        [shape(LONG, [[0, 0], [4, 4]], "line")],
        [shape("a", [[0, 0], [4, 4]], LONG)],
        [shape("a", LONG)],
        [shape("a", [[0, 0], [4, 4]], "mask") | {"mask": LONG}],
        [shape(LONG, [[0, 0], [4, 4]], "mask") | {"mask": LONG}],
        [drawn(LONG, [[0, 0], [5, 1]], np.ones((2, 3), dtype=np.uint8))],
        [shape(LONG, [[0, 0], [4, 0], [4, 4]])],
        [LONG],
        LONG,
    ],
)
def test_long_texts_in_labelme_files(root, content):
    (root / "masks/1.png").unlink()
    labelme(root, "labels/1.json", content)
    assert_short(lambda: load(root))


@pytest.mark.parametrize(
    "options",
    [
        {"text": LONG + "\ud83d"},
        {"text": [LONG]},
        {"classes": LONG},
        {"classes": [LONG, f"1 {LONG}"]},
        {"classes": {LONG: LONG}},
        {"validation_share": LONG},
        {"ignore_value": LONG},
        {"max_bad": LONG},
    ],
)
def test_long_options_of_a_folder(root, options):
    assert_short(lambda: load(root, **options))


def test_long_names_in_warnings(root, caplog):
    (root / "classes.txt").unlink()
    (root / "masks/1.png").unlink()
    shapes = [shape(LONG, [[0, 0], [0.1, 0], [0.1, 0.1]]), shape("cat", [[0, 0], [4, 0], [4, 4]])]
    labelme(root, "labels/1.json", shapes)
    assert len(load(root)) == 1
    assert "skipped objects without any pixel (1)" in caplog.text and all(
        len(text) < LONGEST for text in caplog.messages
    )


@pytest.mark.parametrize(
    "options",
    [
        {"text": LONG + "{"},
        {"text": "{" + "a" * 10**6 + "}"},
        {"instances": LONG},
        {"annotations": LONG},
        {"annotations": {"train": LONG}},
        {"images": LONG},
        {"absent": LONG},
    ],
)
def test_long_options_of_coco_instances(tmp_path, options):
    photos = Photos(tmp_path / "photos")
    photos.load()
    assert_short(lambda: load_rows("coco_instances", "train", str(photos.root), options))


@pytest.mark.parametrize(
    ("part", "key"),
    [
        *(("images", key) for key in ("id", "file_name", "height")),
        *(("annotations", key) for key in ("image_id", "category_id", "segmentation")),
        *(("categories", key) for key in ("id", "name")),
    ],
)
def test_long_values_in_coco_files(tmp_path, part, key):
    photos = Photos(tmp_path / "photos")
    photos.content[part][0][key] = LONG
    assert_short(photos.load)


def test_long_values_in_rows():
    assert_short(lambda: check_row(new_row(None, LONG, [new_target([], [])])))
    assert_short(lambda: check_row(new_row(None, LONG, [], [{"question": LONG, "answer": None}])))
    assert_short(lambda: check_row(new_row(None, LONG, [], [{"question": "", "answer": LONG + "[SEG]"}])))
    assert_short(lambda: decode_mask({"size": [1, 1], "counts": LONG}, LONG))
    assert_short(lambda: load_image({"bytes": None, "path": None}, LONG))
    assert_short(lambda: load_image(LONG.encode(), LONG))
    assert_short(lambda: check_picture({"bytes": None, "path": LONG}, "a row"))
