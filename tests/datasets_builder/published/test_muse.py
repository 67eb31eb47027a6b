"""MUSE in its original layout, with small files made here."""

import json

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published.muse import Muse
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.rows import check_row, decode_mask

URL = "http://images.cocodataset.org"


pytestmark = pytest.mark.usefixtures("own_cache")


def thing(name, left, right):
    """Return an object that covers all rows from column `left` to `right` of a photo of 8 x 6."""
    polygon = [left, 0, right, 0, right, 6, left, 6]
    return {"category_name": name, "category_id": 1, "bbox": [left, 0, right - left, 6], "segmentation": [polygon]}


CUP, LID = {**thing("cup", 0, 2), "rephrased_name": "the white cup"}, thing("lid", 5, 7)
FIRST = {
    "coco_url": f"{URL}/train2017/000000000009.jpg",
    "height": 6,
    "width": 8,
    "ann_list": [CUP, LID],
    "questions": ["What closes what? ", "Which {thing} holds {0} tea?", "And the rest?"],
    "answers": [[LID, CUP], [CUP], [CUP, LID]],
    "text_answers": ["The lid {seg} closes {it}, the cup {seg}.", "The cup{seg}: {x!r}, {}", None],
}
SECOND = {
    "file_name": "COCO_train2014_000000000030.jpg",
    "height": 6,
    "width": 8,
    "ann_list": [CUP],
    "questions": ["Where is tea?"],
    "answers": [[CUP]],
}


def write(root, name, records):
    (root / "muse").mkdir(parents=True, exist_ok=True)
    (root / "muse" / name).write_text(json.dumps(records))


@pytest.fixture
def root(tmp_path):
    for name in ("train2017/000000000009", "val2017/000000000139", "train2014/COCO_train2014_000000000030"):
        path = tmp_path / "data/coco" / f"{name}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("L", (8, 6)).save(path)
    write(tmp_path / "data", "muse_train.json", [FIRST, SECOND])
    write(tmp_path / "data", "MUSE_val.json", [{**FIRST, "coco_url": f"{URL}/val2017/000000000139.jpg"}])
    write(tmp_path / "data", "muse_test_less.json", [SECOND])
    write(tmp_path / "data", "muse_test_many.json", [FIRST, FIRST])
    return tmp_path / "data"


def test_each_question_has_its_own_answer_and_masks_in_the_order_of_the_answer(root):
    first, second = load_rows("muse", "train", str(root))
    assert [row["source"] for row in (first, second)] == [
        "muse/train/000000000009-0",
        "muse/train/COCO_train2014_000000000030-1",
    ]
    assert [target["texts"] for target in first["targets"]] == [
        ["What closes what?"],
        ["Which {thing} holds {0} tea?"],
        ["And the rest?"],
    ]
    assert [target["answer"] for target in first["targets"]] == FIRST["text_answers"]
    columns = [[decode_mask(mask, "")[0].tolist() for mask in target["masks"]] for target in first["targets"]]
    cup, lid = [1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 0]
    assert columns == [[lid, cup], [cup], [cup, lid]]
    assert all(target["is_sentence"] for target in first["targets"])
    assert second["targets"][0]["answer"] is None


def test_photos_are_found_by_url_and_by_file_name(root):
    paths = [row["image"]["path"] for row in load_rows("muse", "train", str(root))]
    names = ("train2017/000000000009.jpg", "train2014/COCO_train2014_000000000030.jpg")
    assert paths == [str(root / "coco" / name) for name in names]
    [row] = load_rows("muse", "validation", str(root))
    assert row["image"] == {"bytes": None, "path": str(root / "coco/val2017/000000000139.jpg")}


def test_splits_are_named_like_their_files_and_a_photo_can_have_two_rows(root):
    assert len(load_rows("muse", "test_less", str(root))) == 1
    sources = load_rows("muse", "test_many", str(root))["source"]
    assert list(sources) == ["muse/test_many/000000000009-0", "muse/test_many/000000000009-1"]


def test_braces_in_the_texts_are_not_formatted(root):
    rows = load_rows("muse", "train", str(root))
    for row in rows:
        check_row(row)
    questions = TrainingQuestions(rows, seed=0, max_questions=3)
    seen = set()
    for epoch in range(9):
        questions.set_epoch(epoch)
        for conversation, masks in zip(questions[0]["conversations"], questions[0]["masks"], strict=True):
            assert conversation.turns[0][1].count("{seg}") == len(masks)
            seen.add(conversation.turns[0])
    assert any("{0}" in question and answer == "The cup{seg}: {x!r}, {}" for question, answer in seen)
    plain = EvaluationQuestions(rows, with_conversations=False)
    assert plain[1]["conversations"][0].turns[0][0] == "Which {thing} holds {0} tea?"


def test_masks_are_rotated_by_the_exif_orientation_of_their_photo(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 6)).save(root / "coco/train2017/000000000009.jpg", exif=exif)
    sample = EvaluationQuestions(load_rows("muse", "train", str(root)), with_conversations=False)[1]
    assert sample["image"].size == (6, 8)
    expected = np.zeros((1, 8, 6), dtype=np.uint8)
    expected[:, :2] = 1  # the columns on the left become the rows at the top
    assert np.array_equal(sample["masks"][0], expected)


CLIMBS = {"coco_url": f"{URL}/../x.jpg"}
NO_PHOTO = {"coco_url": f"{URL}/train2017/7.jpg"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"text_answers": ["{seg} {seg}", "{seg} {seg}", None]},
            "question 1: its text answer and masks do not match .{seg}: 2, masks: 1",
        ),
        (
            {"text_answers": ["{seg}", "{seg}", None]},
            "question 0: its text answer and masks do not match .{seg}: 1, masks: 2",
        ),
        (
            {"text_answers": ["{ seg } {seg}", "{seg}", None]},
            "question 0: its text answer and masks do not match .{seg}: 1",
        ),
        ({"text_answers": ["{seg} {seg}", "{seg} [SEG]", None]}, r"question 1: its text answer contains \[SEG\]"),
        ({"text_answers": ["{seg} {seg}", 7, None]}, "question 1: its text answer must be a text or null, got 7"),
        ({"text_answers": ["{seg} {seg}"]}, "text_answers must be a list of 3, one per question, got 1"),
        ({"answers": [[LID, CUP], [CUP]]}, "answers must be a list of 3, one per question, got 2"),
        ({"answers": None}, "answers must be a list of 3, one per question, got 0"),
        (
            {"answers": [[LID, CUP], [], [CUP, LID]]},
            r"question 1: its answer must be a list of objects with segmentation, got \[\]",
        ),
        ({"answers": [[LID, CUP], CUP, [CUP, LID]]}, "question 1: its answer must be a list of objects"),
        ({"answers": [[LID, {**CUP, "segmentation": []}], [CUP], [CUP]]}, "question 0: object 1 has no segmentation"),
        ({"answers": [[LID, thing("x", 3, 3)], [CUP], [CUP]]}, "question 0: object 1 has an empty mask"),
        ({"answers": [[LID, thing("x", 3, 30)], [CUP], [CUP]]}, "question 0: object 1: a polygon extends"),
        ({"questions": "Who?"}, r"questions must be a list, got 'Who\?'"),
        ({"questions": ["Who?", " ", "Who?"]}, "question 1 must be a text that is not empty, got ' '"),
        ({"height": 7}, "8 x 7"),
        ({"height": "6"}, "height and width must be integers above 0 .*, got '6' and 8"),
        ({"width": None}, "height and width must be integers above 0 .*, got 6 and None"),
        ({"coco_url": None}, "coco_url must be a text that is not empty, got None"),
        ({"file_name": 3}, "file_name must be a text that is not empty, got 3"),
        ({"file_name": "../../x.jpg"}, "is outside of"),
        (CLIMBS, "is outside of"),
        (NO_PHOTO, "7.jpg: no such file.*train2017.zip"),
    ],
)
def test_bad_record_is_refused_or_skipped_with_max_bad(root, change, message, caplog):
    write(root, "muse_train.json", [{**FIRST, **change}, SECOND])
    with pytest.raises(ValueError, match=f"muse_train.json: record 0 .*{message}") as caught:
        load_rows("muse", "train", str(root))
    assert "\n" not in str(caught.value)
    rows = load_rows("muse", "train", str(root), {"max_bad": 1})
    assert rows[-1]["source"] == "muse/train/COCO_train2014_000000000030-1"
    # of a question that is wrong, the others of its photo stay
    assert [len(row["targets"]) for row in [*rows][:-1]] == ([2] if message.startswith("question ") else [])
    assert "skipped: " in caplog.text


def test_photo_without_questions_is_skipped_and_counted(root, caplog):
    unasked = {key: value for key, value in FIRST.items() if key not in ("questions", "answers", "text_answers")}
    write(root, "muse_train.json", [unasked, SECOND])
    assert len(load_rows("muse", "train", str(root))) == 1
    assert "MUSE: skipped records without a question (1)" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("{}", "must be a list of records"), ("[7]", "must be a JSON object, got 7")],
)
def test_file_without_a_list_of_records_is_refused(root, content, message):
    (root / "muse/muse_train.json").write_text(content)
    with pytest.raises(ValueError, match=f"muse_train.json.*{message}"):
        load_rows("muse", "train", str(root))


def test_segmentation_can_be_rle_and_several_polygons_are_united(root):
    runs = {**CUP, "segmentation": {"size": [6, 8], "counts": [0, 12, 36]}}
    several = {**CUP, "segmentation": [*CUP["segmentation"], *LID["segmentation"], *CUP["segmentation"]]}
    write(root, "muse_train.json", [{**SECOND, "answers": [[runs, several]]}])
    [target] = load_rows("muse", "train", str(root))[0]["targets"]
    columns = [decode_mask(mask, "")[0].tolist() for mask in target["masks"]]
    assert columns == [[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1, 1, 0]]


def test_missing_files_are_refused_with_download_instructions(tmp_path):
    with pytest.raises(ValueError, match="muse: no such folder.*train2014.zip"):
        load_rows("muse", "train", str(tmp_path))
    (tmp_path / "muse").mkdir()
    with pytest.raises(
        ValueError, match="none of muse_train.json, muse_val.json.* exists. MUSE: Download the JSON files"
    ):
        load_rows("muse", "train", str(tmp_path))


def test_changed_file_is_prepared_again(root):
    assert len(load_rows("muse", "train", str(root))) == 2
    write(root, "muse_train.json", [SECOND])
    assert len(load_rows("muse", "train", str(root))) == 1


def test_missing_photo_is_read_after_it_was_added(root):
    photo = root / "coco/train2017/000000000009.jpg"
    content = photo.read_bytes()
    photo.unlink()
    assert len(load_rows("muse", "train", str(root), {"max_bad": 9})) == 1
    photo.write_bytes(content)
    assert len(load_rows("muse", "train", str(root), {"max_bad": 9})) == 2


def test_dataset_info_has_license_homepage_and_citation():
    info = Muse(config_name="default", data_dir=".").info
    assert info.license and info.homepage and info.citation
