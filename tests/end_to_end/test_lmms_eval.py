"""The plug-in of integrations/lmms_eval in the installed lmms-eval: tasks, model and the same scores as eval.py."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_formats import scenes, write_grefcoco, write_reason_seg, write_refcoco

from gemma_lisa import eval as evaluation
from gemma_lisa.datasets_builder import __main__ as datasets_builder

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "integrations/lmms_eval"
PACKAGES = PLUGIN / "packages"
EXAMPLE = ROOT / "examples/shapes-tiny"
TASKS = {"reason_seg": "reasonseg", "refcoco": "refcoco_mask", "grefcoco": "grefcoco_mask"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PACKAGES.is_dir() and importlib.util.find_spec("lmms_eval") is None,
        reason="lmms-eval is not installed; run `make lmms-eval`",
    ),
]


def run(*command, cwd, paths=()):
    """Run a program with these folders before others on its path, and return its output."""
    ahead = [*map(str, paths), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in ahead if path)}
    ended = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return folders with lmms-eval and the plug-in, whose entry point is found there."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("packages", "build", "*.egg-info"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run("-m", "pip", "install", *options, "--target", folder / "target", folder / "source", cwd=folder)
    return [folder / "target", *([PACKAGES] if PACKAGES.is_dir() else [])]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Return a folder with data in each format, and its prepared rows."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        drawn = scenes(4)
        write_reason_seg(folder / "data", drawn, ignore=(0, 0, 40, 40))
        write_refcoco(folder / "data", drawn)
        write_grefcoco(folder / "data", drawn)
        for name in TASKS:
            output = folder / "prepared" / name
            datasets_builder.main(["prepare", name, "--data_dir", str(folder / "data"), "--output", str(output)])
    return folder


def test_the_model_and_all_tasks_are_found(installed, tmp_path):
    code = (
        "from lmms_eval.models import get_model; from lmms_eval.tasks import TaskManager; import sys; "
        "print('found', get_model('gemma_lisa').__module__); "
        "names = TaskManager(include_path=sys.argv[1], include_defaults=False).all_tasks; print('tasks', *names)"
    )
    said = run("-c", code, installed[0] / "gemma_lisa_lmms_eval/tasks", cwd=tmp_path, paths=installed)
    assert "found gemma_lisa_lmms_eval.model" in said
    splits = {"reasonseg": ("val", "test"), "refcoco_mask": ("val", "testA", "testB")}
    splits["grefcoco_mask"] = splits["refcoco_mask"]
    expected = {f"{group}_{split}" for group, some in splits.items() for split in some} | set(splits)
    assert set(said.split("tasks ")[1].split()) == expected


def test_scores_of_the_example_are_those_of_eval_py(installed, work, monkeypatch, own_cache):
    monkeypatch.chdir(work)
    data = ["--data_dir", "data", "--split", "validation", "--pictures", "0"]
    asked = ["--model", str(EXAMPLE), "--batch_size", "1"]
    options = ("--include_path", installed[0] / "gemma_lisa_lmms_eval/tasks", "--batch_size", "1", "--device", "cpu")
    logged = ("--output_path", work / "out", "--log_samples")
    model = ("--model", "gemma_lisa", "--model_args", f"pretrained={EXAMPLE}")
    tasks = ",".join(f"{task}_val" for task in TASKS.values())
    run("-m", "lmms_eval", *model, "--tasks", tasks, *options, *logged, cwd=work, paths=installed)
    [file] = (work / "out").rglob("*_results.json")
    results = json.loads(file.read_text())["results"]
    for name, task in TASKS.items():
        evaluation.main([*asked, "--dataset", name, *data, "--output", f"{name}.json"])
        scores = json.loads((work / f"{name}.json").read_text())["scores"]
        found = results[f"{task}_val"]
        for metric in ("gIoU", "gIoU_all", "cIoU", "N-acc", "T-acc"):
            if scores[metric] is not None:
                assert found[f"{metric},none"] == pytest.approx(scores[metric], abs=1e-12), (name, metric)
        assert found["invalid,none"] == 0
        assert 0.3 < scores["gIoU"] <= 1, name  # the example knows these scenes
        # The log of lmms-eval is a prediction file
        [log] = (work / "out").rglob(f"*samples_{task}_val.jsonl")
        evaluation.main(["--predictions", str(log), "--dataset", name, *data, "--output", f"{name}.again.json"])
        same = json.loads((work / f"{name}.again.json").read_text())["scores"]
        assert [same[key] for key in ("gIoU", "cIoU", "count")] == [scores[key] for key in ("gIoU", "cIoU", "count")]
