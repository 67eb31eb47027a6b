"""JSON lists of photos with several questions and answers, the common format of MUSE and MMR."""

import json
from dataclasses import dataclass

import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import make_rows
from gemma_lisa.datasets_builder.published.archives import Archive, ArchiveConfig
from gemma_lisa.datasets_builder.published.multi_target import MultiTargetBuilder, index_of, text_of
from gemma_lisa.datasets_builder.rows import check_row, decode_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # from pycocotools

SEGMENTATION = [[0, 0, 4, 0, 4, 6, 0, 6]]  # left half of a photo of 8 x 6
RECORD = {
    "photo": "train2017/1.jpg",
    "height": 6,
    "width": 8,
    "questions": ["What is left? ", "And now?"],
    "answers": [[{"segmentation": SEGMENTATION}], [{"segmentation": SEGMENTATION}] * 2],
    "text_answers": [" {seg} is. ", None],
}


@dataclass
class MadeConfig(ArchiveConfig):
    def index_paths(self):
        return index_of(self, "made")


class Made(MultiTargetBuilder):
    BUILDER_CONFIG_CLASS = MadeConfig
    BUILDER_CONFIGS = [MadeConfig(name="default")]
    ARCHIVE = Archive("Made", "made", "Draw it.", "https://example.org", "none", "Nobody")
    FILES = {"train": "made_train.json", "validation": "made_val.json"}

    def photo(self, record, where):
        return text_of(record, "photo", where)


@pytest.fixture
def build(tmp_path):
    for name in ("made", "coco/train2017"):
        (tmp_path / "data" / name).mkdir(parents=True)
    Image.new("L", (8, 6)).save(tmp_path / "data/coco/train2017/1.jpg")

    def make(*records, file="made_train.json", **options):
        (tmp_path / "data/made" / file).write_text(json.dumps(records))
        builder = Made(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), **options)
        make_rows(builder)
        return builder

    return make


def test_record_is_a_row_and_question_a_target_with_one_mask_per_object(build):
    [row] = build(RECORD).as_dataset(split="train")
    check_row(row)
    assert row["source"].endswith("/train/1-0") and row["conversation"] == []
    first, second = row["targets"]
    assert (first["texts"], first["answer"], first["is_sentence"]) == (["What is left?"], "{seg} is.", True)
    assert second["answer"] is None and len(second["masks"]) == 2
    assert decode_mask(first["masks"][0], "").sum() == 24


def test_only_the_bad_question_is_skipped_with_max_bad(build):
    bad = {**RECORD, "text_answers": [None, "{seg} alone."]}
    with pytest.raises(ValueError, match="question 1: its text answer and masks do not match .{seg}: 1, masks: 2"):
        build(bad)
    builder = build(bad, max_bad=1)
    assert [target["texts"] for target in builder.as_dataset(split="train")[0]["targets"]] == [["What is left?"]]
    assert len(builder.bad) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo": " "}, "photo must be a text that is not empty, got ' '"),
        ({"photo": "../1.jpg"}, "is outside of"),
        ({"photo": "train2017/2.jpg"}, "no such file. Made: Draw it. Homepage: https://example.org"),
        ({"height": 0}, "height and width must be integers above 0 .pixels., got 0 and 8"),
        ({"questions": "what?"}, "questions must be a list, got 'what.'"),
        ({"answers": []}, "answers must be a list of 2, one per question, got 0"),
        ({"text_answers": ["[SEG]", None]}, r"question 0: its text answer contains \[SEG\]; write"),
        (
            {"answers": [[], [{"segmentation": SEGMENTATION}]]},
            r"question 0: its answer must be a list of objects with segmentation, got \[\]",
        ),
    ],
)
def test_errors_name_the_record(build, change, message):
    with pytest.raises(ValueError, match=f"made_train.json: record 0 .*{message}"):
        build({**RECORD, **change})


def test_file_names_are_not_case_sensitive_but_must_be_unique(build):
    assert list(build(RECORD, file="MADE_Val.json").info.splits) == ["validation"]
    with pytest.raises(ValueError, match="MADE_Val.json, made_val.json have names that differ only in case; keep one"):
        build(RECORD, file="made_val.json")


def test_index_paths_are_the_json_files_and_the_folders_of_photos(build, tmp_path):
    config = build(RECORD).config
    found = [path.relative_to(tmp_path / "data").as_posix() for path in config.index_paths()]
    assert found == ["made/made_train.json", "coco/train2014", "coco/train2017", "coco/val2017"]
