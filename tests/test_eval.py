"""eval.py: its results, interruption, and the files that it never overwrites."""

import json
import os
import re
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from gemma_lisa import eval as evaluation
from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.datasets_builder import mixture
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.evaluation import of_model
from gemma_lisa.evaluation.metrics import summarize
from gemma_lisa.evaluation.results_file import read_results
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.safety.errors import UsageError

SCENES = '{"image_size": 64, "train_rows": 1, "validation_rows": 1, "test_rows": 6}'


KEPT = ("scores", "by_kind", "errors", "fingerprint", "checkpoint_hash")


def plain_answers(output):
    """Return the judged questions of a results file without their times."""
    judged = read_results(output)[1]
    return [replace(one, prediction=replace(one.prediction, seconds=None)) for one in judged]


def evaluate(checkpoint, output, *more):
    arguments = ["--model", str(checkpoint), "--dataset", "shapes/easy", "--dataset_options", SCENES]
    evaluation.main([*arguments, "--max_new_tokens", "6", "--output", str(output), *more])
    return json.loads(output.read_text())


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_the_same_command_resumes_with_the_same_results(
    checkpoint, tmp_path, monkeypatch, capsys, number
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    whole = evaluate(checkpoint, tmp_path / "whole.json", "--batch_size", "4")
    asked, answers = [], of_model.by_generation

    def stopped(*args):
        asked.append(1)
        if len(asked) == 3:
            os.kill(os.getpid(), number)
        return answers(*args)

    monkeypatch.setattr(of_model, "by_generation", stopped)
    output, folder = tmp_path / "results.json", tmp_path / "results.parts"
    arguments = ["--model", str(checkpoint), "--dataset", "shapes/easy", "--dataset_options", SCENES]
    arguments += ["--max_new_tokens", "6", "--batch_size", "4", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(evaluation.main)
    assert ended.value.code == 128 + number
    message = f"stopped early: {folder} holds 8 of 30 answers; the same command resumes here"
    assert message in capsys.readouterr().err.splitlines() and not output.exists()
    with pytest.raises(UsageError, match=r"another max_new_tokens \(6, now 5\)"):
        evaluation.main([*arguments, "--max_new_tokens", "5"])
    asked.clear()
    asked.extend([0] * 3)
    evaluation.main(arguments)
    assert "resume: 8 of 30 questions are already answered" in capsys.readouterr().err
    found = json.loads(output.read_text())
    assert not folder.exists() and len(asked) == 3 + 6
    for scores in (of for one in (found, whole) for of in (one["scores"], *one["by_kind"].values())):
        scores.pop("seconds_per_question")
    assert {name: found[name] for name in KEPT} == {name: whole[name] for name in KEPT}
    assert plain_answers(output) == plain_answers(tmp_path / "whole.json")


def test_results_never_overwrite_a_file_of_the_model_or_of_the_data(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(mixture, "load_rows", lambda *_: pytest.fail("the rows were made"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "instances.json").write_text('{"images": []}')
    (tmp_path / "mine.worst.png").write_bytes(b"mine")
    for output, message in (
        (checkpoint / "config.json", "in the input folder"),
        (data / "instances.json", "in the input folder"),
        (tmp_path / "mine.json", "add --overwrite"),
    ):
        arguments = [
            "--model",
            str(checkpoint),
            "--dataset",
            "folder",
            "--data_dir",
            str(data),
            "--output",
            str(output),
        ]
        with pytest.raises(UsageError, match=message):
            evaluation.main(arguments)
    assert (tmp_path / "mine.worst.png").read_bytes() == b"mine"


@pytest.mark.parametrize("protocol, questions", [("generate", 6 * 5), ("teacher_forced", 6 * 4)])
def test_results_are_the_scores_of_the_questions_file(checkpoint, tmp_path, monkeypatch, protocol, questions):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    results = evaluate(checkpoint, tmp_path / "out" / "results.json", "--protocol", protocol)
    found, judged = read_results(tmp_path / "out" / "results.json")
    assert found == results and len(judged) == questions
    assert results["scores"] == summarize(judged, protocol)
    assert results["protocol"] == protocol and results["scores"]["count"] == 6 * 4
    assert (results["scores"]["gIoU_all"] is None) == (protocol == "teacher_forced")
    if protocol == "generate":
        right = [one.is_right for one in judged if one.is_right is not None]
        assert results["scores"]["answers_count"] == len(right) == 6
        assert results["scores"]["answers_right"] == sum(right) / 6
        assert all(one.prediction.likelihood < 0 for one in judged if one.is_right is not None)
        assert all(1 <= one.prediction.tokens <= 6 for one in judged)
    for kind, scores in results["by_kind"].items():
        ious = [one.iou for one in judged if one.question.kind == kind and one.question.targets]
        assert scores["gIoU"] == (pytest.approx(np.mean(ious)) if ious else None)
    assert sum(scores["count"] for scores in results["by_kind"].values()) == 6 * 4
    assert all(one.prediction.seconds > 0 for one in judged)
    for name in ("preview", "worst"):
        assert Image.open(tmp_path / "out" / f"results.{name}.png").width > 500
    assert "<html" in (tmp_path / "out" / "results.report.html").read_text()[:200]
    assert results["command"].startswith("eval.py --model ") and len(results["checkpoint_hash"]) == 64


def test_one_changed_row_changes_the_fingerprint(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    first = evaluate(checkpoint, tmp_path / "a.json", "--pictures", "0")
    load = mixture.load_rows

    def changed(*given):
        rows = load(*given).to_list()
        rows[3]["targets"][0]["texts"][0] += "."
        return Dataset.from_list(rows, features=ROW_FEATURES)

    monkeypatch.setattr(mixture, "load_rows", changed)
    second = evaluate(checkpoint, tmp_path / "b.json", "--pictures", "0")
    assert first["fingerprint"] != second["fingerprint"]
    assert first["checkpoint_hash"] == second["checkpoint_hash"]


def test_scores_are_printed_with_their_interval_and_their_meaning(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    results = evaluate(checkpoint, tmp_path / "r.json")
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines()}
    assert "shapes/easy test: 6 rows, 30 questions, protocol generate" in printed.splitlines()
    measured = {name for name, value in results["scores"].items() if value is not None}
    assert measured <= lines.keys() and results["scores"].keys() - measured <= set(
        lines["not"].replace(",", " ").split()
    )
    low, high = results["intervals"]["gIoU"]
    assert f"95% CI: {low:.4f} to {high:.4f}" in lines["gIoU"]
    assert lines["gIoU"].endswith("mean IoU over questions with a target")
    names = ("r.json", "r.questions.parquet", "r.worst.png", "r.preview.png", "r.report.html")
    assert lines["wrote"] == f"wrote {', '.join(str(tmp_path / name) for name in names)}"


def test_rows_limits_the_evaluation_and_pictures_0_draws_nothing(checkpoint, tmp_path):
    results = evaluate(checkpoint, tmp_path / "r.json", "--rows", "2", "--pictures", "0")
    assert results["scores"]["count"] == 8 and results["rows"] == 2
    written = ["r.json", "r.questions.parquet", "r.report.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written


def test_answers_do_not_depend_on_the_batch_size(checkpoint, tmp_path):
    for size in ("1", "5"):
        evaluate(checkpoint, tmp_path / f"{size}.json", "--rows", "2", "--pictures", "0", "--batch_size", size)
    one, five = (read_results(tmp_path / f"{size}.json")[1] for size in ("1", "5"))
    for mine, other in zip(one, five, strict=True):
        assert (mine.prediction.text, mine.prediction.tokens) == (other.prediction.text, other.prediction.tokens)
        assert (mine.intersection, mine.union, mine.error) == (other.intersection, other.union, other.error)
        # Sums in fp32 depend on the shape of the batch in their last digits
        assert mine.prediction.scores == pytest.approx(other.prediction.scores, abs=1e-5)


def test_several_data_sets_have_a_results_file_each_and_one_report(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    arguments = ["--model", str(checkpoint), "--dataset", "shapes/easy", "shapes/easy:validation", "--rows", "1"]
    arguments += ["--dataset_options", SCENES, "--max_new_tokens", "2", "--pictures", "0"]
    evaluation.main([*arguments, "--output", str(tmp_path / "r.json")])
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert sorted(found) == ["r.shapes-easy-test.json", "r.shapes-easy-validation.json"]
    places = [(found[name]["dataset"], found[name]["split"]) for name in sorted(found)]
    assert places == [("shapes/easy", "test"), ("shapes/easy", "validation")]
    assert [path.name for path in tmp_path.glob("*.html")] == ["r.report.html"] and not list(tmp_path.glob("*.parts"))


def test_base_and_tuned_models_are_compared_on_own_and_retained_data(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    arguments = ["--model", str(checkpoint), "--base", str(EXAMPLE), "--rows", "4", "--pictures", "0"]
    arguments += ["--dataset", "shapes/easy", "--dataset_options", SCENES]
    arguments += ["--retained", "shapes/easy:validation", "--retained_options", SCENES]
    evaluation.main([*arguments, "--max_new_tokens", "8", "--output", str(tmp_path / "r.json")])
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(f"compared with {EXAMPLE}:")
    assert lines[at + 1].startswith("  shapes/easy test (yours): gIoU ")
    assert lines[at + 2].startswith("  shapes/easy validation (retained): gIoU ")
    assert re.match(r"worse by 0\.\d\d \(95% CI: -.*\) on yours, .* elsewhere$", lines[at + 3]), lines[at + 3]
    assert len(list(tmp_path.glob("r.*.base.json"))) == 2


def test_predictions_need_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = ["--dataset", "shapes/easy", "--dataset_options", SCENES, "--rows", "2"]
    evaluation.main([*data, "--write_questions", str(tmp_path / "q.jsonl")])
    questions = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    lines = [{"id": one["id"], "masks": []} for one in questions if one["asks"] == "masks"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation.main([*data, "--predictions", str(tmp_path / "p.jsonl"), "--output", str(tmp_path / "r.json")])
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["scores"]["gIoU"] == 0 and results["scores"]["N-acc"] == 1 and results["model"] is None
    assert "2 questions without masks, not evaluated" in capsys.readouterr().out
    (tmp_path / "p.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(ValueError, match="zero"):
        evaluation.main([*data, "--predictions", str(tmp_path / "p.jsonl"), "--output", str(tmp_path / "m.json")])
    assert not list(tmp_path.glob("m.*"))


def test_cached_features_are_computed_once_and_give_the_same_results(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    cached = ["--cache_features", str(tmp_path / "features"), "--protocol", "teacher_forced"]
    first = evaluate(checkpoint, tmp_path / "first.json", *cached)
    assert "caching the features of 6 images" in capsys.readouterr().out
    monkeypatch.setattr(GemmaLisaForConditionalGeneration, "encode_for_sam", lambda *_: pytest.fail("SAM ran"))
    again = evaluate(checkpoint, tmp_path / "again.json", *cached)
    assert (again["scores"]["gIoU"], again["intervals"]["gIoU"]) == (
        first["scores"]["gIoU"],
        first["intervals"]["gIoU"],
    )
    assert "0.0 GB in" in (line := capsys.readouterr().out) and "6 already there" in line


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
def test_the_size_of_the_cache_must_be_a_number_above_zero(value):
    arguments = ["--model", "m", "--dataset", "shapes", "--output", "o.json", "--cache_features", "f", "--cache_gb"]
    with pytest.raises(UsageError, match="must be a number above 0"):
        evaluation.parse([*arguments, value])
    with pytest.raises(UsageError, match="no effect without --cache_features"):
        evaluation.parse([*arguments[:6], "--cache_gb", "3"])
