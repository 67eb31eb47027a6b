"""Results files are read as they were written, and broken ones are errors that name the file."""

import hashlib
import json

import numpy as np
import pyarrow.parquet
import pytest

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.metrics import summarize
from gemma_lisa.evaluation.records import Prediction, Question
from gemma_lisa.evaluation.results_file import content_of, questions_file, read_results, write_results

FACTS = {"dataset": "d", "split": "test"}


def mask(*place):
    drawn = np.zeros((6, 8), dtype=np.uint8)
    drawn[place] = 1
    return encode_mask(drawn)


def judged():
    """Return four judged questions of two rows: two with targets, one without, and a VQA question without an image."""
    left, right, edge = mask(slice(0, 3), slice(0, 4)), mask(slice(0, 3), slice(4, 8)), mask(slice(5, 6))
    questions = [
        Question("a#0", "d", "a", "colour", "left", "It is {seg}.", (6, 8), [left], edge, [right], [["l"], ["r"], []]),
        Question("a#1", "d", "a", None, "ü", "It is {seg}.", (6, 8), [right], None, [left], [["r"], ["l"], []]),
        Question("b#0", "d", "b", "absent", "gone", "No.", (6, 8), [], None, []),
        Question("c#0", "d", "c", None, "How many?", "Two.", None, None, None, []),
    ]
    predictions = [
        Prediction("a#0", [left, right], [0.1 + 0.2, 0.5], "[SEG] [SEG]", ["l", ""], True, 4, 0.25),
        Prediction("a#1", [], [], "No.", None, False, 3, 0.5),
        Prediction("b#0", [edge], [0.75], None, refused=True),
        Prediction("c#0", [], [], "two", likelihood=-0.125),
    ]
    return [judge(*pair) for pair in zip(questions, predictions, strict=True)]


@pytest.mark.parametrize("style", ["exact", "lisa"])
def test_a_results_file_is_read_as_it_was_written(tmp_path, style):
    expected = judged()
    content = content_of(expected, "generate", style, FACTS)
    write_results(tmp_path / "r.json", content, expected)
    found, read = read_results(tmp_path / "r.json")
    assert read == expected
    digest = hashlib.sha256((tmp_path / "r.questions.parquet").read_bytes()).hexdigest()
    added = {"questions_file": "r.questions.parquet", "questions_hash": digest}
    assert found == json.loads(json.dumps(content)) | added
    assert found["scores"] == summarize(read, "generate", style) and set(found["by_kind"]) == {"absent", "colour"}
    assert ("exact_scores" in found) == (style == "lisa")
    assert sum(of["count"] for of in found["errors"].values()) == 3
    table = pyarrow.parquet.ParquetFile(tmp_path / "r.questions.parquet")
    assert table.metadata.row_group(0).column(0).compression == "ZSTD" and table.metadata.num_rows == 4


def test_no_results_file_is_written_if_the_questions_file_cannot_be_written(tmp_path):
    questions_file(tmp_path / "r.json").mkdir()
    with pytest.raises(OSError, match="r.questions.parquet: cannot be written"):
        write_results(tmp_path / "r.json", content_of(judged(), "generate", "exact", FACTS), judged())
    assert not (tmp_path / "r.json").exists()


def test_a_results_file_refuses_the_questions_file_of_another_evaluation(tmp_path):
    """A stopped command can have replaced the questions file, but not yet the results file."""
    for name, expected in (("r", judged()), ("other", judged()[:1])):
        write_results(tmp_path / f"{name}.json", content_of(expected, "generate", "exact", FACTS), expected)
    questions_file(tmp_path / "other.json").replace(questions_file(tmp_path / "r.json"))
    with pytest.raises(ValueError, match=r"r.questions.parquet: it does not belong to .*r.json"):
        read_results(tmp_path / "r.json")


def test_broken_files_are_errors_that_name_them(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"dataset": "d"}')
    with pytest.raises(ValueError, match=r"r.json: not a results file of eval.py \(the key 'split' is missing\)"):
        read_results(path)
    expected = judged()
    write_results(path, content_of(expected, "generate", "exact", FACTS), expected)
    whole = questions_file(path).read_bytes()
    for broken in (b"", whole[:-9], b"{}"):
        questions_file(path).write_bytes(broken)
        with pytest.raises(ValueError, match="r.questions.parquet: not a questions file of eval.py"):
            read_results(path)
    questions_file(path).unlink()
    with pytest.raises(ValueError, match=r"r.questions.parquet: this file is missing; it must be beside .*r.json\.$"):
        read_results(path)


def test_a_broken_mask_of_a_questions_file_is_refused(tmp_path):
    expected = judged()
    expected[0].prediction.masks[0]["counts"] = "0"  # covers no pixel
    write_results(tmp_path / "r.json", content_of(judged(), "generate", "exact", FACTS), expected)
    with pytest.raises(ValueError, match="a#0: invalid mask RLE"):
        read_results(tmp_path / "r.json")
