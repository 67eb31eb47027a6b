"""`.eval_results/*.yaml`: the Hub's own class reads it, and what a reader must know about a score is in its notes."""

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from gemma_lisa.checkpoints.eval_results import EVAL_RESULTS, write_eval_results
from gemma_lisa.checkpoints.hub_repository import complete, files_of
from gemma_lisa.checkpoints.model_card import Facts

RESULT = {
    "dataset": "reason_seg_x",
    "split": "test",
    "rows": None,
    "protocol": "generate",
    "style": "exact",
    "date": "2026-11-29T10:00:00+00:00",
    "scores": {"count": 773, "gIoU": 0.55963, "cIoU": 0.4921, "N-acc": None, "T-acc": 0.9},
    "leakage": {"allow_leakage": False, "held_out": []},
    "weights": None,
}


def entry_of(folder, name="results.yaml"):
    [entry] = parse_eval_result_entries(yaml.safe_load((folder / EVAL_RESULTS / name).read_text()))
    return entry


def test_the_hubs_own_class_reads_the_entry(tmp_path):
    assert write_eval_results(tmp_path, {"results.json": RESULT}, {}, "me/model") == []
    entry = entry_of(tmp_path)
    assert (entry.dataset_id, entry.task_id, entry.value) == ("sj9909/ReasonSegX_test", "default", 0.5596)
    assert entry.date == "2026-11-29T10:00:00+00:00"
    assert entry.source_url == "https://huggingface.co/me/model/blob/main/results.json"
    assert entry.notes == (
        "gIoU between 0 and 1; cIoU 0.4921; T-acc 0.9000; test split, 773 questions; generated answers"
    )


def test_a_folder_that_is_not_uploaded_has_no_link(tmp_path):
    write_eval_results(tmp_path, {"results.json": RESULT}, {})
    assert entry_of(tmp_path).source_url is None


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"protocol": "teacher_forced"}, "teacher_forced protocol: the right answer is given, so the score is not"),
        ({"style": "lisa"}, "computed with LISA's arithmetic"),
        ({"weights": "nf4"}, "weights quantized to nf4"),
        ({"leakage": None}, "it is not recorded whether photos of evaluation splits were trained on"),
        ({"leakage": {"allow_leakage": True}}, "photos of evaluation splits could be trained on"),
    ],
)
def test_conditions_of_the_measurement_are_noted(tmp_path, change, note):
    write_eval_results(tmp_path, {"results.json": {**RESULT, **change}}, {})
    notes = entry_of(tmp_path).notes
    assert note in notes and ("generated answers;" in f"{notes};") == (
        "protocol" not in change or "comparable" in notes
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "shapes/hard"}, "no data set of the Hub is known for shapes/hard; give it with --hub_datasets"),
        ({"dataset": "reason_seg"}, "no data set of the Hub is known for reason_seg"),
        ({"rows": 100}, "only the first 100 rows were evaluated"),
        ({"predictions": "others.json"}, "it holds the predictions of a file, not of this checkpoint"),
        ({"scores": {**RESULT["scores"], "count": 772}}, "772 questions were evaluated, but 773 are published"),
        ({"scores": {**RESULT["scores"], "gIoU": None}}, "it has no gIoU"),
    ],
)
def test_result_without_an_entry_is_named_with_its_reason(tmp_path, change, reason):
    [line] = write_eval_results(tmp_path, {"part.json": {**RESULT, **change}}, {})
    assert line.startswith("part.json: no entry in .eval_results, because ") and reason in line
    assert not (tmp_path / EVAL_RESULTS).exists()


def test_given_names_of_the_hub_are_used_and_every_results_file_has_its_own_entry(tmp_path):
    results = {"easy.json": {**RESULT, "dataset": "shapes/easy"}, "hard.json": {**RESULT, "dataset": "shapes/hard"}}
    names = {"shapes/easy": "me/easy", "shapes/hard": "me/hard"}
    assert write_eval_results(tmp_path, results, names) == []
    assert [entry_of(tmp_path, f"{name}.yaml").dataset_id for name in ("easy", "hard")] == ["me/easy", "me/hard"]


def test_the_entries_are_files_of_the_repository_beside_the_model_index(tmp_path):
    missing = complete(tmp_path, Facts("me/model", results={"results.json": RESULT}))
    paths = [path.as_posix() for path in files_of(tmp_path)]
    assert missing == [] and f"{EVAL_RESULTS}/results.yaml" in paths and "README.md" in paths
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/x.yaml").touch()
    assert [path.as_posix() for path in files_of(tmp_path)] == paths
    assert "model-index" in (tmp_path / "README.md").read_text()
