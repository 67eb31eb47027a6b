"""eval.py in two processes gives the answers of one process, number for number."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from picture_files import ROOT

from gemma_lisa import eval as evaluation
from gemma_lisa.evaluation import of_model
from gemma_lisa.evaluation.results_file import read_results

SCENES = '{"image_size": 64, "train_rows": 1, "validation_rows": 1, "test_rows": 6}'
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def options(checkpoint, output):
    arguments = ["--model", str(checkpoint), "--dataset", "shapes/easy", "--dataset_options", SCENES]
    return [*arguments, "--max_new_tokens", "6", "--batch_size", "4", "--pictures", "0", "--output", str(output)]


def evaluate(launcher, checkpoint, output, folder):
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, str(ROOT / "eval.py"), *options(checkpoint, output)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_two_processes_give_the_answers_of_one(checkpoint, tmp_path):
    found = []
    for count, launcher in ((1, [sys.executable]), (2, TORCHRUN)):
        output = tmp_path / f"{count}.json"
        done = evaluate(launcher, checkpoint, output, tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("shapes/easy test: 6 rows, 30 questions") == 1
        content, judged = read_results(output)
        assert content["processes"] == count and not output.with_suffix(".parts").exists()
        found.append([replace(one, prediction=replace(one.prediction, seconds=None)) for one in judged])
    assert len(found[0]) == 30 and found[0] == found[1]


@pytest.mark.slow
def test_two_processes_resume_an_evaluation_of_one(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked, answers = [], of_model.by_generation

    def stopped(*given):
        asked.append(given)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return answers(*given)

    output = tmp_path / "r.json"
    with monkeypatch.context() as changed, pytest.raises(KeyboardInterrupt):
        changed.setattr(of_model, "by_generation", stopped)
        evaluation.main(options(checkpoint, output))
    done = evaluate(TORCHRUN, checkpoint, output, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resume: 12 of 30 questions are already answered" in done.stderr
    content, judged = read_results(output)
    assert content["processes"] == 2 and len(judged) == 30
