"""eval.py: its results, interruption, and the files that it never overwrites."""

import json
import os
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from gemma_lisa import eval as evaluation
from gemma_lisa.evaluation.metrics import QueryResult, summarize
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.safety.errors import UsageError

SCENES = '{"image_size": 64, "train_rows": 1, "validation_rows": 1, "test_rows": 6}'


def evaluate(checkpoint, output, *more):
    arguments = ["--model", str(checkpoint), "--dataset", "shapes/easy", "--dataset_options", SCENES]
    evaluation.main([*arguments, "--max_new_tokens", "6", "--output", str(output), *more])
    return json.loads(output.read_text())


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_the_samples_file_holds_the_finished_answers(checkpoint, tmp_path, monkeypatch, capsys, number):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked, answers = [], evaluation.by_generation

    def stopped(*args):
        asked.append(1)
        if len(asked) == 3:
            os.kill(os.getpid(), number)
        return answers(*args)

    monkeypatch.setattr(evaluation, "by_generation", stopped)
    output = tmp_path / "results.json"
    arguments = ["--model", str(checkpoint), "--dataset", "shapes/easy", "--dataset_options", SCENES]
    arguments += ["--max_new_tokens", "2", "--batch_size", "4", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(evaluation.main)
    assert ended.value.code == 128 + number
    samples = tmp_path / "results.samples.jsonl"
    assert len([json.loads(line) for line in samples.read_text().splitlines()]) == 8
    message = f"stopped early: {samples} holds 8 of 30 answers; {output} was not written"
    assert message in capsys.readouterr().err.splitlines() and not output.exists()


def test_results_never_overwrite_a_file_of_the_model_or_of_the_data(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "load_rows", lambda *_: pytest.fail("the rows were made"))
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
def test_results_are_the_scores_of_the_sample_lines(checkpoint, tmp_path, monkeypatch, protocol, questions):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    results = evaluate(checkpoint, tmp_path / "out" / "results.json", "--protocol", protocol)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.samples.jsonl").read_text().splitlines()]
    assert len(lines) == questions
    names = ("intersection", "union", "num_targets", "num_predictions", "complete")
    expected = summarize(
        QueryResult(line["source"], line["question"], *(line[name] for name in names))
        for line in lines
        if "union" in line
    )
    if protocol == "teacher_forced":
        expected["gIoU_all"] = None
    assert {name: results["scores"][name] for name in expected} == expected
    assert results["protocol"] == protocol and results["scores"]["count"] == 6 * 4
    if protocol == "generate":
        right = [line["is_right"] for line in lines if "is_right" in line]
        assert results["scores"]["answers_count"] == len(right) == 6
        assert results["scores"]["answers_right"] == sum(right) / 6
    for kind, scores in results["by_kind"].items():
        of_kind = [line for line in lines if line.get("kind") == kind]
        ious = [line["iou"] for line in of_kind if line["num_targets"]]
        assert scores["count"] == len(of_kind) > 0
        assert scores["gIoU"] == (pytest.approx(np.mean(ious), abs=1e-4) if ious else None)
        assert protocol == "generate" or scores["gIoU_all"] is None
    assert sum(scores["count"] for scores in results["by_kind"].values()) == 6 * 4
    for name in ("preview", "worst"):
        assert Image.open(tmp_path / "out" / f"results.{name}.png").width > 500


def test_scores_are_printed_with_their_interval_and_their_meaning(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    results = evaluate(checkpoint, tmp_path / "r.json")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["shapes/easy"] == "shapes/easy test: 6 rows, 30 questions, protocol generate"
    assert all(name in lines for name in results["scores"])
    low, high = results["intervals"]["gIoU"]
    assert f"95% CI: {low:.4f} to {high:.4f}" in lines["gIoU"]
    assert lines["gIoU"].endswith("mean IoU over questions with a target")
    assert "(6 questions)" in " ".join(lines.values()) or all(
        f"({scores['count']} questions)" in lines[kind.split()[0]] for kind, scores in results["by_kind"].items()
    )
    names = ("r.json", "r.samples.jsonl", "r.worst.png", "r.preview.png")
    assert lines["wrote"] == f"wrote {', '.join(str(tmp_path / name) for name in names)}"


def test_rows_limits_the_evaluation_and_pictures_0_draws_nothing(checkpoint, tmp_path):
    results = evaluate(checkpoint, tmp_path / "r.json", "--rows", "2", "--pictures", "0")
    assert results["scores"]["count"] == 8 and results["rows"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.samples.jsonl"]


def test_answers_do_not_depend_on_the_batch_size(checkpoint, tmp_path):
    for size in ("1", "5"):
        evaluate(checkpoint, tmp_path / f"{size}.json", "--rows", "2", "--pictures", "0", "--batch_size", size)
    assert (tmp_path / "1.samples.jsonl").read_text() == (tmp_path / "5.samples.jsonl").read_text()


def test_cached_features_are_computed_once_and_give_the_same_results(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    cached = ["--cache_features", str(tmp_path / "features"), "--protocol", "teacher_forced"]
    first = evaluate(checkpoint, tmp_path / "first.json", *cached)
    assert "caching the features of 6 images" in capsys.readouterr().out
    monkeypatch.setattr(GemmaLisaForConditionalGeneration, "encode_for_sam", lambda *_: pytest.fail("SAM ran"))
    again = evaluate(checkpoint, tmp_path / "again.json", *cached)
    assert again["scores"] == first["scores"]
    assert "0.0 GB in" in (line := capsys.readouterr().out) and "6 already there" in line


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
def test_the_size_of_the_cache_must_be_a_number_above_zero(value):
    arguments = ["--model", "m", "--dataset", "shapes", "--output", "o.json", "--cache_features", "f", "--cache_gb"]
    with pytest.raises(UsageError, match="must be a number above 0"):
        evaluation.parse([*arguments, value])
    with pytest.raises(UsageError, match="no effect without --cache_features"):
        evaluation.parse([*arguments[:6], "--cache_gb", "3"])
