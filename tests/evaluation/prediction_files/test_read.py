"""The format is chosen by the content, and files of no format are one-line errors."""

import gzip
import json
import os

import pytest
from prediction_writers import small_benchmark, truth, write_agent, write_coco, write_jsonl, write_lmms, write_pngs

from gemma_lisa.evaluation.prediction_files.read import AGENT, ANSWERS, COCO, PNGS, open_predictions
from gemma_lisa.safety.errors import WriteError

WRITERS = {write_jsonl: ANSWERS, write_coco: COCO, write_lmms: ANSWERS, write_agent: AGENT, write_pngs: PNGS}


@pytest.mark.parametrize(("write", "name"), WRITERS.items())
def test_the_format_is_chosen_by_the_content(tmp_path, write, name):
    opened = open_predictions(write(tmp_path / "predictions", small_benchmark(), truth))
    assert opened.format == name and not opened.has_words
    assert len(opened.entries_for(small_benchmark())) == (3 if name == COCO else 4)


def records(benchmark):
    return [{"id": question.id, "masks": question.targets} for question in benchmark]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_every_unicode_encoding_and_line_ending_is_read(tmp_path, encoding, end):
    lines = [{"id": "a#0", "masks": [], "text": "犬 \u2028 [SEG]"}, {"id": "b#0", "masks": []}]
    text = "".join(json.dumps(line, ensure_ascii=False) + end for line in lines)
    (tmp_path / "p.jsonl").write_bytes(text.encode(encoding))
    opened = open_predictions(tmp_path / "p.jsonl")
    assert [entry.name for entry in opened.entries] == ["a#0", "b#0"] and opened.has_words
    assert opened.entries[0].facts["text"] == "犬 \u2028 [SEG]"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("shape", ["list", "object", "one"])
def test_answers_can_be_a_list_an_object_or_one_line(tmp_path, indent, shape):
    answers = records(small_benchmark())
    content = {"list": answers, "object": {one["id"]: {"masks": one["masks"]} for one in answers}, "one": answers[0]}
    (tmp_path / "p.json").write_text(json.dumps(content[shape], indent=indent))
    opened = open_predictions(tmp_path / "p.json")
    assert opened.format == ANSWERS and len(opened.entries) == (1 if shape == "one" else 4)


def test_outputs_of_the_agent_can_be_in_one_file(tmp_path):
    one = {"pred_masks": [], "orig_img_h": 4, "orig_img_w": 6}
    for content in ({"a#0": one, "b#0": one}, [{**one, "id": "a#0"}, {**one, "id": "b#0"}]):
        (tmp_path / "p.json").write_text(json.dumps(content))
        opened = open_predictions(tmp_path / "p.json")
        assert opened.format == AGENT and [entry.name for entry in opened.entries] == ["a#0", "b#0"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty; expected COCO results, JSON Lines"),
        (b" \n", "the file is empty"),
        (b"[]", "the list is empty"),
        (b"{}", "the content is {}; expected COCO results"),
        (b"3", "the content is 3; expected COCO results"),
        (b"[3]", "record 0 is 3; expected COCO results"),
        (b'[{"image": 1}]', "record 0 is {'image': 1}; expected"),
        (b"not JSON", r"not valid JSON \(Expecting value.*\); expected COCO results"),
        (b'{"id": "a", "masks": []}\n{"id": "b", "masks": [', r"line 2: not valid JSON \("),
        (
            b'{"id": "a", "masks": []}\n{"id": "b", "id": "c", "masks": []}',
            r"line 2: not valid JSON \('id' occurs twice",
        ),
        (b'{"a#0": {"masks": []}, "a#0": {"masks": []}}', r"not valid JSON \('a#0' occurs twice\)"),
        (b'{"images": [], "annotations": []}', "this is a COCO annotation file; give COCO results"),
        ('{"id": "ä", "masks": []}'.encode("latin-1"), "the text cannot be decoded .byte 8 is not utf-8"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "the text cannot be decoded"),
        (
            b'{"a#0": {"pred_masks": [], "orig_img_h": 4, "orig_img_w": 6}, "b#0": 3}',
            "b#0: expected an object with the key pred_masks, got 3",
        ),
        (b"[" * 100_000, "not valid JSON .its lists and objects are nested too deeply"),
    ],
)
def test_files_of_no_format_are_one_line_errors_that_name_the_file(tmp_path, content, problem):
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{tmp_path}/p.json: {problem}") as found:
        open_predictions(tmp_path / "p.json")
    assert "\n" not in str(found.value) and len(str(found.value)) < 1000


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"^{tmp_path}/none: no such file or folder"):
        open_predictions(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"^{tmp_path}/empty: the folder has no PNG masks and no files"):
        open_predictions(tmp_path / "empty")
    if os.geteuid():  # root can read every file
        (tmp_path / "closed.json").touch(mode=0)
        with pytest.raises(WriteError, match="closed.json: cannot be read .Permission denied"):
            open_predictions(tmp_path / "closed.json")


def test_a_compressed_file_must_be_unpacked(tmp_path):
    path = tmp_path / "answers.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a#0", "masks": []}\n'))
    with pytest.raises(ValueError, match=f"^{path}: the file is compressed; unpack it"):
        open_predictions(path)
