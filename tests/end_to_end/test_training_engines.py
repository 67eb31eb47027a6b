"""DDP, ZeRO-2, ZeRO-3 and FSDP2 in two processes train like one process, with configs/accelerate and train.py.

There is no GPU. `launched.py` describes its changes that make the engines shard without one.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel

from gemma_lisa import train
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.datasets_builder.mixture import load_mixture
from gemma_lisa.datasets_builder.questions import MixtureQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.scripts.export import merge_shards
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.trainer import LOSS_PARTS

ROOT = Path(train.__file__).parent
LAUNCHED = ROOT / "tests" / "launched.py"
SIZE = 32  # height and width in pixels
GLOBAL_BATCH_SIZE, STEPS_PER_EPOCH = 4, 8
LORA = ("--lora_rank", "4")
# Tolerances: absolute for losses, relative for the gradient norm
EXACT, BY_CHANCE = (1e-4, 1e-4), (0.3, 0.5)
# CPUs round products in bf16 differently: those without bf16 units most, and the gradient norm on those with AMX too
ROUNDED = (6e-3, 0.1) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (2e-2, 0.1)
# Run -> options, number of steps (a resumed run repeats the second half), tolerances
RUNS = {
    "parts": ((), 20, EXACT),
    "lora": (LORA, 6, EXACT),
    "bf16": ((*LORA, "--bf16", "true"), 4, ROUNDED),
    "nf4": ((*LORA, "--bf16", "true", "--load_in_4bit", "true"), 4, ROUNDED),
    # Every process draws its own simulated prompts
    "prompted": (("--prompted_loss_weight", "1.0"), 4, BY_CHANCE),
}
ENGINES = ("ddp", "zero2", "zero3", "zero3_offload", "fsdp2")
COMPARED = (*LOSS_PARTS, "grad_norm")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with a model and a recipe: scenes with masks, scenes with text only, and rows without an image."""
    folder = tmp_path_factory.mktemp("start")
    model, processor = build_tiny(image_size=SIZE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    rows = []
    for number in range(9):
        generator = np.random.default_rng(number)
        rows.append(row_of_scene(draw_scene(generator, SIZE), generator, True, f"drawn/{number}"))
    words = [{**row, "targets": []} for row in rows[3:]]
    text = [{**row, "image": None} for row in words]
    for name, of in {"scenes": rows[:6], "words": words, "text": text}.items():
        (folder / name).mkdir()
        Dataset.from_list(of, features=ROW_FEATURES).to_parquet(folder / name / "train-00000-of-00001.parquet")
    weights = {"scenes": 2, "words": 1, "text": 2}
    recipe = {
        "mixture": {name: {"weight": weight, "sets": [str(folder / name)]} for name, weight in weights.items()},
        "epoch_length": GLOBAL_BATCH_SIZE * STEPS_PER_EPOCH,
        "max_questions": 3,
        "eval_dataset": str(folder / "scenes"),
        "eval_split": "train",
        "eval_strategy": "no",
        "preview_samples": 0,
        "seed": 0,
        "global_batch_size": GLOBAL_BATCH_SIZE,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-4,  # gradients that are zero up to rounding must not decide the direction
        "optim": "adamw_torch",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def runs_of(engine: str | None) -> list[str]:
    """Return the runs of an engine. ZeRO-3 cannot shard 4-bit weights, and train.py refuses it."""
    return [name for name in RUNS if name != "nf4" or not (engine or "").startswith("zero3")]


def file_of(engine: str, folder: Path) -> Path:
    """Return the engine's file for the launcher. For ZeRO-3 it is a copy that shards small weights too."""
    path = ROOT / "configs" / "accelerate" / f"{engine}.yaml"
    if not engine.startswith("zero3"):
        return path
    content = yaml.safe_load(path.read_text())
    numbers = json.loads((ROOT / content["deepspeed_config"]["deepspeed_config_file"]).read_text())
    numbers["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    content["deepspeed_config"]["deepspeed_config_file"] = str(folder / "zero3.json")
    (folder / "zero3.json").write_text(json.dumps(numbers))
    (folder / "engine.yaml").write_text(yaml.safe_dump(content))
    return folder / "engine.yaml"


def run_all(start: Path, folder: Path, engine: str | None) -> str:
    """Train whole runs and resume them from the middle: with an engine in two processes, or in one. Returns stdout."""
    processes = 1 if engine is None else 2
    runs = []
    for name in runs_of(engine):
        options, steps, _ = RUNS[name]
        common = ["--config", start / "recipe.yaml", "--model", start, "--max_steps", steps, "--save_steps", steps // 2]
        common += ["--per_device_train_batch_size", GLOBAL_BATCH_SIZE // processes, "--expected_processes", processes]
        middle = folder / name / f"checkpoint-{steps // 2}"
        runs.append([*common, *options, "--output_dir", folder / name])
        resumed = ["--output_dir", folder / f"{name}-resumed", "--resume_from_checkpoint", middle]
        runs.append([*common, *options, *resumed])
    folder.mkdir(exist_ok=True)
    (folder / "runs.json").write_text(json.dumps([[str(word) for word in run] for run in runs]))
    launcher = []
    if engine is not None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = [
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            file_of(engine, folder),
            "--num_processes",
            "2",
        ]
        launcher += ["--main_process_port", str(port)]
    # On the CPU, even if there is a GPU
    here = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, LAUNCHED, folder / "runs.json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **here},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def one(start, tmp_path_factory):
    """Runs of one process with the same global batch size."""
    folder = tmp_path_factory.mktemp("one")
    run_all(start, folder, None)
    return folder


def numbers(folder: Path) -> np.ndarray:
    """Return (steps, parts) of a run; a part that no batch of a step had is 0."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return np.array([[entry.get(part, 0.0) for part in COMPARED] for entry in history if "language_loss" in entry])


def test_the_mixture_has_batches_without_masks_and_images_in_a_process(start):
    recipe = yaml.safe_load((start / "recipe.yaml").read_text())
    parts = load_mixture(recipe["mixture"], "train", None, None)
    questions = MixtureQuestions(parts, recipe["seed"], recipe["max_questions"], recipe["epoch_length"])
    alone = {"masks": 0, "image": 0}
    for step in range(STEPS_PER_EPOCH):
        pairs = [[questions[4 * step + 2 * half + at] for at in (0, 1)] for half in (0, 1)]
        has_image = [any(sample["image"] is not None for sample in half) for half in pairs]
        has_masks = [any(m is not None and len(m) for s in half for m in s["masks"]) for half in pairs]
        alone["image"] += has_image[0] != has_image[1]
        alone["masks"] += has_masks[0] != has_masks[1]
    assert alone["masks"] >= 2 and alone["image"] >= 1, alone


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_trains_saves_and_resumes_like_one_process(engine, start, one, tmp_path):
    if engine == "zero3_offload" and not shutil.which("c++"):
        pytest.skip("DeepSpeed compiles its Adam for the host, and there is no C++ compiler")
    output = run_all(start, tmp_path, engine)
    # Every process prints it in every run; a resumed run trains half of the steps
    said = [tuple(map(int, found)) for found in re.findall(r"<(\d+) steps, sharded: (\d+) of (\d+)>", output)]
    whole = [RUNS[name][1] for name in runs_of(engine)]
    assert sorted(steps for steps, _, _ in said) == sorted(2 * [*whole, *(steps // 2 for steps in whole)])
    assert all(of > 200 and found == (of if engine[:5] in ("zero3", "fsdp2") else 0) for _, found, of in said)

    for name in runs_of(engine):
        _, steps, (apart, share) = RUNS[name]
        expected = numbers(one / name)
        assert len(expected) == steps and expected[:, COMPARED.index("prompted_loss")].any() == (name == "prompted")
        found = numbers(tmp_path / name)
        assert np.allclose(found[:, :-1], expected[:, :-1], rtol=0, atol=apart), (name, np.abs(found - expected).max(0))
        assert np.allclose(found[:, -1], expected[:, -1], rtol=share, atol=0), (name, found[:, -1], expected[:, -1])
        resumed, whole = numbers(tmp_path / f"{name}-resumed")[-(steps // 2) :], found[-(steps // 2) :]
        # With offloading, DeepSpeed sums the gradient norm in no fixed order, and clips by it: use the tolerances
        near, near_share = (apart, share) if engine == "zero3_offload" else (0.0, 0.0)
        differences = (name, np.abs(resumed - whole).max(0))
        assert np.allclose(resumed[:, :-1], whole[:, :-1], rtol=0, atol=near), differences
        assert np.allclose(resumed[:, -1], whole[:, -1], rtol=near_share, atol=0), differences

    # One folder of safetensors with its code, which AutoModel opens, with the weights of the one-process run
    parts = tmp_path / "parts"
    for kind in ("*.py", "*.json", "*.jinja"):
        assert {path.name for path in parts.glob(kind)} == {path.name for path in (one / "parts").glob(kind)}
    assert json.loads((parts / "config.json").read_text()) == json.loads((one / "parts" / "config.json").read_text())
    model = AutoModel.from_pretrained(parts)
    reference = AutoModel.from_pretrained(one / "parts").state_dict()
    before = AutoModel.from_pretrained(start).state_dict()
    moved = 0
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, reference[name], rtol=0, atol=1e-4), name
        moved += not torch.equal(tensor, before[name])
    assert moved > 50
    saved = load_file(parts / "model.safetensors")
    assert "lm_head.weight" not in saved  # tied to the embedding
    for name in ("sam.shared_image_embedding.positional_embedding", "model.language_model.embed_tokens.weight"):
        assert saved[name].dtype == torch.float32

    lora = tmp_path / "lora"
    adapter = load_file(lora / "adapter_model.safetensors")
    expected = load_file(one / "lora" / "adapter_model.safetensors")
    assert adapter.keys() == expected.keys()
    for name, tensor in adapter.items():
        assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-4), name
    assert (lora / "adapter_config.json").read_text() == (one / "lora" / "adapter_config.json").read_text()
    load_checkpoint(lora)

    if engine.startswith("zero"):  # restore the model from DeepSpeed's own files in a checkpoint
        last = parts / f"checkpoint-{RUNS['parts'][1]}"
        (last / "model.safetensors").unlink()
        pieced, _ = merge_shards(last, None, "auto")
        for name, tensor in pieced.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name
