"""MMR in its original layout, with small files made here. What it shares with MUSE is tested there."""

import json

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.__main__ import main as datasets_main
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published.mmr import Mmr
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import encode_mask

pytestmark = pytest.mark.usefixtures("own_cache")


def thing(name, left, right):
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[:, left:right] = 1
    return {"category_name": name, "category_id": 1, "image_id": 9, "segmentation": encode_mask(mask)}


CAN, LID = thing("trash_can", 0, 4), thing("trash_can:lid", 0, 1)
RECORD = {
    "file_name": "train2017/000000000009.jpg",
    "height": 6,
    "width": 8,
    "image_id": 9,
    "not_exhaustive_category_ids": [3],
    "neg_category_ids": [4],
    "coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg",
    "questions": ["Where do I throw this?", "What do I lift?", "What then?"],
    "annotations": [CAN, LID],
    "answers": [[CAN, LID], [LID], [CAN]],
    "text_answers": ["Into the can {seg}, under its lid {seg}.", "The lid {seg}.", ""],
    "raw_answers": ["...", "...", "..."],
}
FILES = {
    "train": "MMR_train.json",
    "validation": "MMR_val.json",
    "test_mixed": "MMR_test_mixed.json",
    "test_obj_only": "MMR_test_obj_only.json",
    "test_part_only": "MMR_test_part_only.json",
}


@pytest.fixture
def root(tmp_path):
    """Return a data folder in which each split has a different number of records."""
    root = tmp_path / "data"
    for folder in ("coco/train2017", "MMR"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(root / "coco/train2017/000000000009.jpg")
    for count, name in enumerate(FILES.values(), start=1):
        (root / "MMR" / name).write_text(json.dumps([RECORD] * count))
    return root


def test_questions_have_their_own_answers_and_masks_can_overlap(root):
    rows = load_rows("mmr", "train", str(root))
    [row] = rows
    assert row["source"] == "mmr/train/000000000009-0"
    assert row["image"] == {"bytes": None, "path": str(root / "coco/train2017/000000000009.jpg")}
    assert [target["texts"][0] for target in row["targets"]] == RECORD["questions"]
    assert [target["answer"] for target in row["targets"]] == [*RECORD["text_answers"][:2], None]
    questions = EvaluationQuestions(rows, with_conversations=False)
    assert [questions[at]["masks"][0][:, 0].sum(axis=1).tolist() for at in range(3)] == [[4, 1], [1], [4]]


def test_published_sizes_are_numbers_of_questions(root, tmp_path, capsys):
    datasets_main(["inspect", "mmr", "--data_dir", str(root), "--output", str(tmp_path / "sheet.png")])
    assert "1 row with 3 questions (published: 154,127 questions)\n" in capsys.readouterr().out


def test_each_split_has_its_own_file(root):
    counts = {split: len(load_rows("mmr", split, str(root))) for split in FILES}
    assert counts == {split: count for count, split in enumerate(FILES, start=1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "../MMR/MMR_val.json"}, "is outside of"),
        ({"file_name": "train2017/8.jpg"}, "8.jpg: no such file.*val2017.zip"),
        ({"file_name": None}, "file_name must be a text that is not empty, got None"),
        ({"answers": [[CAN], [LID], [CAN]]}, "question 0: its text answer and masks do not match .{seg}: 2, masks: 1"),
        ({"answers": [[CAN, {}], [LID], [CAN]]}, "question 0: object 1 has no segmentation"),
        (
            {"answers": [[CAN, {"segmentation": {"size": [8, 6], "counts": "0"}}], [LID], [CAN]]},
            r"question 0: object 1: the size of its RLE is \[8, 6\]",
        ),
    ],
)
def test_bad_record_is_refused_or_skipped_with_max_bad(root, change, message, caplog):
    (root / "MMR/MMR_train.json").write_text(json.dumps([{**RECORD, **change}, RECORD]))
    with pytest.raises(ValueError, match=f"MMR_train.json: record 0 .*{message}"):
        load_rows("mmr", "train", str(root))
    rows = load_rows("mmr", "train", str(root), {"max_bad": 1})
    assert rows[-1]["source"] == "mmr/train/000000000009-1" and "skipped: " in caplog.text
    # of a question that is wrong, the others of its photo stay
    whole = len(rows[-1]["targets"])
    assert [len(row["targets"]) for row in [*rows][:-1]] == ([whole - 1] if "question 0" in message else [])


def test_missing_files_are_refused_with_download_instructions(tmp_path):
    with pytest.raises(ValueError, match="MMR: no such folder.*into MMR"):
        load_rows("mmr", "train", str(tmp_path))


def test_dataset_info_has_license_homepage_and_citation():
    info = Mmr(config_name="default", data_dir=".").info
    assert info.license and info.homepage and info.citation
