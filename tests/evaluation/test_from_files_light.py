"""eval.py --predictions works in an environment without torch and transformers, and imports neither elsewhere."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest
from prediction_writers import dataset_of, small_benchmark, small_rows, truth, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
# What scoring needs, with their own requirements
NEEDED = ("datasets", "jinja2", "numpy", "pillow", "pyarrow", "pycocotools", "pyyaml", "tqdm")
HEAVY = ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors", "matplotlib", "gradio")
# Raises on every import of a heavy package, also in functions
BLOCKER = f"""
import runpy, sys
def refuse(event, args):
    if event == "import" and args[0].partition(".")[0] in {HEAVY!r}:
        print("imported", args[0], file=sys.stderr)
        sys.stderr.flush()
        __import__("os")._exit(70)
sys.addaudithook(refuse)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def inputs(tmp_path):
    """Prepared rows, and predictions for them."""
    (tmp_path / "rows").mkdir()
    dataset_of(small_rows()).to_parquet(tmp_path / "rows" / "test.parquet")
    write_jsonl(tmp_path / "p.jsonl", small_benchmark(), truth)
    return tmp_path


def command(folder, *more):
    data = ["--dataset", str(folder / "rows"), "--split", "test"]
    return [str(ROOT / "eval.py"), "--predictions", str(folder / "p.jsonl"), *data, *more]


def environment(folder, **more):
    # pytest's own options must not reach the child; its cache must be new
    return {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", **more}


def check_results(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["scores"]["gIoU"] == 1.0 and results["scores"]["count"] == 4
    assert (folder / "results.questions.parquet").is_file()
    return results


def test_scoring_predictions_imports_no_heavy_package(inputs):
    run = [sys.executable, "-c", BLOCKER, *command(inputs, "--output", str(inputs / "results.json"))]
    done = subprocess.run(run, capture_output=True, text=True, env=environment(inputs), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    check_results(inputs)


def test_the_blocker_finds_an_import(tmp_path):
    (tmp_path / "program.py").write_text("import os\ndef f():\n    import torch.nn\nf()\n")
    done = subprocess.run([sys.executable, "-c", BLOCKER, str(tmp_path / "program.py")], capture_output=True, text=True)
    assert done.returncode == 70 and "imported torch" in done.stderr


def required_files():
    """Return the files and folders in site-packages of `NEEDED` and of all that these require."""
    waiting, names, entries = list(NEEDED), set(), set()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in names:
            continue
        names.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # required on other systems only
        entries |= {path.parts[0] for path in distribution.files if path.parts[0] not in ("..", "__pycache__")}
        for line in distribution.requires or []:
            if "extra ==" not in line:
                waiting.append(re.match(r"[\w.-]+", line).group())
    return names, entries


@pytest.mark.slow
def test_predictions_are_scored_in_an_environment_without_torch_and_transformers(inputs):
    names, entries = required_files()
    assert {"pandas", "fsspec", "huggingface-hub"} <= names and not names & set(HEAVY)
    venv.create(inputs / "venv", symlinks=True)
    python = inputs / "venv" / "bin" / "python"
    (linked,) = (inputs / "venv" / "lib").glob("python*/site-packages")
    installed = Path(sysconfig.get_path("purelib"))
    for entry in entries:
        (linked / entry).symlink_to(installed / entry)
    (linked / "gemma_lisa").symlink_to(ROOT)
    env = environment(inputs)
    env.pop("PYTHONPATH", None)
    there = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    done = subprocess.run([python, "-c", there, *HEAVY], capture_output=True, text=True, env=env, cwd=inputs)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    run = [python, *command(inputs, "--output", str(inputs / "results.json"))]
    done = subprocess.run(run, capture_output=True, text=True, env=env, cwd=inputs)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch" not in check_results(inputs)["versions"]
    (inputs / "p.jsonl").write_text('{"id": "small/test/9#0", "masks": []}\n')
    run[run.index("--output") + 1] = str(inputs / "second.json")
    done = subprocess.run(run, capture_output=True, text=True, env=env, cwd=inputs)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "p.jsonl: small/test/9#0: no question has the id" in done.stderr and not (inputs / "second.json").exists()
