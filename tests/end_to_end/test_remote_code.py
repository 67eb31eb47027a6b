"""A Python process that has transformers but not this project loads, runs and trains a checkpoint."""

import json
import os
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
import torch

from gemma_lisa.checkpoints.loading import load_checkpoint

CODE_FILES = {
    "answers_gemma_lisa.py",
    "chat_template_gemma_lisa.py",
    "compatibility_gemma_lisa.py",
    "configuration_gemma_lisa.py",
    "generation_gemma_lisa.py",
    "images_gemma_lisa.py",
    "lazy_images_gemma_lisa.py",
    "outputs_gemma_lisa.py",
    "sam_layers_gemma_lisa.py",
    "packing_gemma_lisa.py",
    "losses_gemma_lisa.py",
    "modeling_gemma_lisa.py",
    "pipeline_gemma_lisa.py",
    "prefix_gemma_lisa.py",
    "processing_gemma_lisa.py",
    "bridge_gemma_lisa.py",
    "mask_decoding_gemma_lisa.py",
    "session_gemma_lisa.py",
    "targets_gemma_lisa.py",
    "versions_gemma_lisa.py",
}
# Requirements of the project that a checkpoint must not need
NOT_NEEDED = {"datasets", "pycocotools", "trl", "peft", "cv2", "matplotlib"}
ANSWER = "It is [SEG], a circle, and [SEG].<end_of_turn>"
ARRAYS = ("sequences", "pred_masks", "iou_scores", "masks", "scores", "logits", "loss")

# Also run in this process, so that both sides run the same code.
SEGMENT = '''
import numpy as np
import torch
from PIL import Image


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def say(model, processor, answer):
    """Make the model generate a given answer."""
    script = iter(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])

    def forced(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[:, -1, next(script)] = 1
        return logits

    return model.lm_head.register_forward_hook(forced)


def training_batch(processor):
    """Return a training batch made only of the output of the processor."""
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "the circle"}]},
        {"role": "assistant", "content": "It is [SEG]."},
    ]
    batch = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    is_answer = batch.pop("assistant_masks")
    batch["labels"] = batch["input_ids"].masked_fill(is_answer == 0, -100)
    mask = torch.zeros(1, 40, 60, dtype=torch.uint8)
    mask[:, 10:30, 20:40] = 1
    batch["mask_labels"] = [mask]
    return batch


@torch.no_grad()
def segment(model, processor, answer):
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": "the red circle"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    hook = say(model, processor, answer)
    output = model.segment(**inputs, max_new_tokens=64)
    hook.remove()
    (found,) = processor.post_process_segmentation(output, inputs)
    learned = model(**training_batch(processor))
    arrays = {name: output[name] for name in ("sequences", "pred_masks", "iou_scores")}
    arrays |= {"masks": found["masks"], "scores": found["scores"], "logits": learned.logits, "loss": learned.loss}
    return found["raw_text"], {name: array.numpy() for name, array in arrays.items()}
'''

REMOTE = (
    """
import json
import sys

site_packages, checkpoint, output, answer = sys.argv[1:]
sys.path.append(site_packages)
try:
    import gemma_lisa
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("gemma_lisa can be imported: this would prove nothing")
"""
    + SEGMENT
    + """
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor


def load(path, auto=AutoModel):
    processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
    return auto.from_pretrained(path, trust_remote_code=True).eval(), processor


torch.set_num_threads(1)
report = {"config": type(AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)).__name__}
model, processor = load(checkpoint)
report["model"], report["processor"] = type(model).__name__, type(processor).__name__
report["module"] = type(model).__module__
report["text"], first = segment(model, processor, answer)

other, _ = load(checkpoint, AutoModelForImageTextToText)
report["other"] = type(other).__name__
_, second = segment(other, processor, answer)

model.save_pretrained(f"{output}/again")
processor.save_pretrained(f"{output}/again")
again, again_processor = load(f"{output}/again")
_, third = segment(again, again_processor, answer)

# A training loop of a user
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
batch = training_batch(processor)
report["losses"] = []
model.train()
for _ in range(10):
    loss = model(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    report["losses"].append(loss.item())

report["modules"] = sorted({name.split(".")[0] for name in sys.modules})
for name, arrays in (("first", first), ("second", second), ("third", third)):
    np.savez(f"{output}/{name}.npz", **arrays)
with open(f"{output}/report.json", "w") as file:
    json.dump(report, file)
"""
)


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def remote(checkpoint, tmp_path_factory):
    """Return the report, the arrays and the folder of a process without this project."""
    folder = tmp_path_factory.mktemp("remote")
    (folder / "program.py").write_text(REMOTE, encoding="utf-8")
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "hf"),
        "HF_MODULES_CACHE": str(folder / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    # -I -S ignore the current folder, PYTHONPATH and the .pth files of site-packages, which install this project
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", str(folder / "program.py")),
            *(sysconfig.get_path("purelib"), str(checkpoint), str(folder), ANSWER),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    arrays = {name: np.load(folder / f"{name}.npz") for name in ("first", "second", "third")}
    return report, arrays, folder


def in_project(checkpoint):
    scope: dict = {}
    exec(SEGMENT, scope)
    return scope["segment"](*load_checkpoint(checkpoint), ANSWER)


def test_a_checkpoint_contains_its_code(checkpoint):
    assert {path.name for path in checkpoint.glob("*.py")} == CODE_FILES
    auto_map = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_gemma_lisa.GemmaLisaConfig",
        "AutoModel": "modeling_gemma_lisa.GemmaLisaForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_gemma_lisa.GemmaLisaForConditionalGeneration",
    }


def test_auto_classes_use_the_classes_of_the_checkpoint(remote):
    report, _, _ = remote
    assert report["config"] == "GemmaLisaConfig"
    assert report["model"] == report["other"] == "GemmaLisaForConditionalGeneration"
    assert report["processor"] == "GemmaLisaProcessor"
    assert report["module"].startswith("transformers_modules.")


def test_a_checkpoint_needs_only_transformers(remote):
    report, _, _ = remote
    assert "transformers" in report["modules"] and "gemma_lisa" not in report["modules"]
    assert NOT_NEEDED & set(report["modules"]) == set()


@pytest.mark.parametrize("run", ["first", "second", "third"], ids=["AutoModel", "AutoModelForImageTextToText", "again"])
def test_masks_and_losses_are_bit_equal_without_the_project(remote, checkpoint, run):
    report, arrays, _ = remote
    text, expected = in_project(checkpoint)
    assert report["text"] == text == ANSWER.removesuffix("<end_of_turn>")
    assert expected["pred_masks"].shape == (2, 32, 32) and expected["masks"].shape == (2, 40, 60)
    assert set(arrays[run]) == set(expected) == set(ARRAYS)
    for name in ARRAYS:
        np.testing.assert_array_equal(arrays[run][name], expected[name], err_msg=name)


def test_a_checkpoint_saved_by_remote_code_contains_its_code(remote, checkpoint):
    _, _, folder = remote
    assert {path.name for path in (folder / "again").glob("*.py")} == CODE_FILES
    for name in CODE_FILES:
        assert (folder / "again" / name).read_bytes() == (checkpoint / name).read_bytes()
    first, again = (
        json.loads((at / "config.json").read_text(encoding="utf-8")) for at in (checkpoint, folder / "again")
    )
    assert again["auto_map"] == first["auto_map"]


def test_a_checkpoint_saved_by_remote_code_loads_with_the_project(remote, tiny):
    _, _, folder = remote
    model, processor = load_checkpoint(folder / "again")
    for (name, found), (_, expected) in zip(model.named_parameters(), tiny[0].named_parameters(), strict=True):
        assert torch.equal(found, expected), name
    assert processor.chat_template == tiny[1].chat_template


def test_a_training_loop_without_the_project_lowers_the_loss(remote):
    report, _, _ = remote
    losses = report["losses"]
    assert len(losses) == 10 and all(np.isfinite(losses))
    assert losses[-1] < 0.7 * losses[0]
