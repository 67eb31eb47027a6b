"""The adapter in examples/reason-270m: small, without its base model, and as good as its recorded answers.

`make reason-base` makes the base model. It needs the packages of requirements-reason.txt.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from real_gemma import IMAGE_TOKENS, start_model

from gemma_lisa import app, predict, train
from gemma_lisa import eval as evaluation
from gemma_lisa.checkpoints.adapter_base import Base, fingerprint, read_base, write_base
from gemma_lisa.checkpoints.checksums import check_checksums
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.interfaces.web.cards import MAX_CARDS, cards_of
from gemma_lisa.scripts import export
from gemma_lisa.scripts.export import answer_examples

ROOT = Path(__file__).resolve().parents[2]
ADAPTER, BASE = ROOT / "examples" / "reason-270m", ROOT / "outputs" / "gemma-3-270m"
MAX_SIZE = 12_000_000  # bytes
MIN_IOU = 0.95


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------
def test_the_folder_contains_the_adapter_only():
    names = {path.name for path in ADAPTER.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "base.json", "training.json", "SHA256SUMS"} <= names
    assert not [name for name in names if name.startswith("tokenizer") or name.endswith((".py", ".bin", ".pt"))]
    assert sum(path.stat().st_size for path in ADAPTER.rglob("*") if path.is_file()) <= MAX_SIZE
    check_checksums(ADAPTER)


def test_the_base_is_that_of_make_reason_base():
    record = json.loads((ADAPTER / "base.json").read_text())
    assert record["name"] == "../../outputs/gemma-3-270m" and record["made_by"] == "make reason-base"
    assert read_base(ADAPTER).name == str(BASE.resolve())
    makefile = (ROOT / "Makefile").read_text()
    assert "REASON_BASE := outputs/gemma-3-270m\n" in makefile and "\nreason-base:" in makefile
    assert f"--vision examples/shapes-tiny --image_tokens {IMAGE_TOKENS} " in makefile


def test_the_terms_of_gemma_are_passed_on():
    card = ModelCard.load(ADAPTER / "README.md")
    assert card.data.license == "gemma" and card.data.base_model == ["google/gemma-3-270m"]
    assert "Gemma Terms of Use" in card.text and "make reason-base" in card.text
    notice = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    assert (ADAPTER / "NOTICE").read_text().startswith(notice)
    assert "Gemma Terms of Use" in (ADAPTER / "GEMMA_TERMS.txt").read_text()


def test_the_page_shows_its_own_cards():
    cards = cards_of(ADAPTER)
    assert len(cards) == MAX_CARDS and all(ADAPTER.resolve() in card.path.parents for card in cards)
    assert cards[0].question == "the shape coloured like a banana"


# ---------------------------------------------------------------------------------------------------------------------
# Without the base model, and without its packages
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("program", ["predict", "eval", "app", "train", "export"])
def test_every_program_names_the_command_that_makes_a_missing_base(program, tmp_path, monkeypatch):
    adapter = tmp_path / "examples" / "mine"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    write_base(adapter, Base("../../outputs/base", None, "0", "make my-base"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "check_address", lambda host, port: None)
    out, data = str(tmp_path / "out"), ["--dataset", "shapes/easy"]
    main, options = {
        "predict": (predict.main, ["--image", str(ROOT / "docs" / "scene.png"), "--query", "a", "--output", "a.png"]),
        "eval": (evaluation.main, [*data, "--output", f"{out}.json"]),
        "app": (app.main, []),
        "train": (train.main, [*data, "--output_dir", out, "--max_steps", "1", "--use_cpu", "true"]),
        "export": (export.main, ["--output", out]),
    }[program]
    with pytest.raises(ValueError) as refusal:
        main(["--model", "examples/mine", *options])
    assert str(refusal.value) == (
        "The base model of examples/mine is not at outputs/base; make it with `make my-base`."
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("is_installed", [True, False])
def test_make_reason_base_needs_the_packages_and_runs_once(tmp_path, is_installed):
    """A stub takes the place of Python: it writes down its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "constraints.txt", "pyproject.toml", ".venv/.installed"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\ncase "$2" in "import gguf,"*) exit {0 if is_installed else 1};; esac\n'
        'echo "$@" >> calls\ncase "$2" in *assemble*) touch outputs/gemma-3-270m-q4_k_m.gguf;; esac\n'
    )
    python.chmod(0o755)

    def make(target):
        environment = {"PATH": os.environ["PATH"]}
        return subprocess.run(["make", target], cwd=tmp_path, capture_output=True, text=True, env=environment)

    done = make("reason-base")
    if not is_installed:
        assert done.returncode == 2 and "make reason-packages" in done.stderr.splitlines()[0]
        assert not (tmp_path / "outputs").exists() and not (tmp_path / "calls").exists()
        return
    assert done.returncode == 0, done.stderr
    assembled, joined = (tmp_path / "calls").read_text().splitlines()
    assert "overwrite=True" in assembled and "--gemma outputs/gemma-3-270m-q4_k_m.gguf --vision" in joined
    assert not list((tmp_path / "outputs").iterdir())
    (tmp_path / "outputs" / "gemma-3-270m").mkdir()
    (tmp_path / "outputs" / "gemma-3-270m" / "config.json").touch()
    assert make("reason-base").stdout == "Base model: outputs/gemma-3-270m exists\n"
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


# ---------------------------------------------------------------------------------------------------------------------
# With the real base model
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def base(request):
    """The folder that `make reason-base` would make."""
    return start_model(request.config.cache.mkdir("real_gemma"))


@pytest.mark.slow
def test_a_new_base_has_the_recorded_weights_and_gives_the_recorded_answers(base, tmp_path):
    assert fingerprint(base) == read_base(ADAPTER).fingerprint, "the base model differs; export the adapter again"
    recorded = json.loads((ADAPTER / "examples" / "answers.json").read_text())
    model, processor = load_checkpoint(base, torch.float32, ADAPTER)  # as when they were recorded
    asked = [[str(ADAPTER / entry["image"]), entry["text"]] for entry in recorded[:MAX_CARDS]]
    found = answer_examples(model, processor, asked, tmp_path)
    for before, after in zip(recorded, found, strict=False):
        assert after["raw_text"] == before["raw_text"], before["text"]
        for one, other in zip(before["masks"], after["masks"], strict=True):
            old, new = (np.asarray(Image.open(path)) > 0 for path in (ADAPTER / one["mask"], tmp_path / other["mask"]))
            assert (old & new).sum() / (old | new).sum() >= MIN_IOU, before["text"]


@pytest.mark.slow
def test_predict_answers_with_the_adapter(base, tmp_path):
    model = ["--model", base, "--adapter", "examples/reason-270m"]
    scene, question = "docs/reason_scene.png", "the shape coloured like a banana"
    done = subprocess.run(
        [sys.executable, "predict.py", *model, "--image", scene, "--query", question, "--output", tmp_path / "a.png"],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 900},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 mask" in done.stdout and (tmp_path / "a.png").is_file()
