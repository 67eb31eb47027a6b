"""export.py: one complete folder of an adapter and its base, or of weights in pieces, proven before it is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from gemma_lisa.adapters import add_lora
from gemma_lisa.bases import identify
from gemma_lisa.checkpoint import load_checkpoint, open_checkpoint
from gemma_lisa.command_line import UsageError
from gemma_lisa.scripts import export
from gemma_lisa.scripts.init_tiny import build_tiny

ROOT = Path(export.__file__).parents[1]
RECORD = {"stages": [{"command": "train.py --lora_rank 4", "steps": 3}]}
COMPLETE = {
    *("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "training.json", "configuration_gemma_lisa.py", "modeling_gemma_lisa.py"),
    *("processing_gemma_lisa.py", "images_gemma_lisa.py", "losses_gemma_lisa.py"),
}
LOAD = """
import sys
from transformers import AutoModel, AutoProcessor
model, info = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, output_loading_info=True)
AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model).__name__, sum(map(len, info.values())), model.seg_projector[0].weight.sum().item())
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a small random Gemma-LISA."""
    folder = tmp_path_factory.mktemp("start") / "base"
    for part in build_tiny(image_size=32):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make_adapter(base, tmp_path_factory):
    """A folder with an adapter of `base` whose every weight is drawn anew."""

    def make(dtype=torch.float32, **options):
        folder = tmp_path_factory.mktemp("adapter")
        model, processor = load_checkpoint(base, dtype)
        model = add_lora(model, rank=4, mlp=True, base=identify(base), **options)
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        for part in (model, processor):
            part.save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(RECORD))
        return folder

    return make


def run(*arguments):
    export.main(list(map(str, arguments)))


def shares(source, folder, **options):
    """How far a folder's answers are from those of what it was made of, as shares of the largest."""
    model, processor = open_checkpoint(source, **options)
    expected = export.probe(model.eval(), processor)
    found = export.probe(*load_checkpoint(folder))
    return [((a - b).abs().max() / a.abs().max()).item() for a, b in zip(expected, found, strict=True)]


@pytest.mark.parametrize("kind", ["plain", "use_dora", "use_rslora"])
def test_an_adapter_becomes_one_complete_folder_that_answers_the_same(base, make_adapter, tmp_path, capsys, kind):
    adapter = make_adapter(**({} if kind == "plain" else {kind: True}))
    out = tmp_path / "out"
    run("--model", adapter, "--output", out, "--max_shard_size", "1MB")
    assert COMPLETE <= {path.name for path in out.iterdir()}
    assert len(list(out.glob("*.safetensors"))) > 1
    assert not [path for path in tmp_path.iterdir() if path != out]
    assert max(shares(adapter, out)) < 1e-5
    assert max(shares(base, out)) > 1e-2  # the adapter does something
    assert json.loads((out / "training.json").read_text()) == RECORD
    config = json.loads((out / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_gemma_lisa.GemmaLisaForConditionalGeneration"
    assert not any("lora" in name for name in load_checkpoint(out)[0].state_dict())
    said = capsys.readouterr().out
    assert f"{adapter} merged into {base}" in said and "logits differ by" in said


def test_the_base_can_be_named_and_must_be_the_adapters_own(base, make_adapter, tmp_path):
    adapter = make_adapter()
    run("--model", base, "--adapter", adapter, "--output", tmp_path / "out")
    assert max(shares(adapter, tmp_path / "out")) < 1e-5
    for part in build_tiny(image_size=32, seed=1):
        part.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="the adapter of"):
        run("--model", tmp_path / "other", "--adapter", adapter, "--output", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_base_in_bf16_gives_a_folder_in_bf16(base, tmp_path):
    model, processor = load_checkpoint(base, torch.bfloat16)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "half")
    adapted = add_lora(model, rank=4, base=identify(tmp_path / "half"))
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    for part in (adapted, processor):
        part.save_pretrained(tmp_path / "adapter")
    run("--model", tmp_path / "adapter", "--output", tmp_path / "out")
    merged, _ = load_checkpoint(tmp_path / "out")
    exact = {name for name, weight in merged.named_parameters() if weight.dtype != torch.bfloat16}
    assert exact and all("shared_" in name for name in exact)


def test_a_whole_checkpoint_is_cut_anew_and_its_weights_stay(base, tmp_path):
    run("--model", base, "--output", tmp_path / "out", "--max_shard_size", "1MB")
    before, after = load_checkpoint(base)[0].state_dict(), load_checkpoint(tmp_path / "out")[0].state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_shards_of_fsdp2_are_put_together(base, tmp_path):
    pieces = tmp_path / "run" / "checkpoint-2"
    model, processor = build_tiny(image_size=32, seed=3)
    dcp.save({"model": model.state_dict()}, checkpoint_id=pieces / "pytorch_model_fsdp_0", no_dist=True)
    with pytest.raises(ValueError, match="--config_from"):
        run("--model", pieces, "--output", tmp_path / "out")
    run("--model", pieces, "--config_from", base, "--output", tmp_path / "out")
    after = load_checkpoint(tmp_path / "out")[0].state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in model.state_dict().items())


def test_shards_of_another_model_are_refused(base, tmp_path):
    weights = build_tiny(image_size=32)[0].state_dict()
    del weights["seg_projector.0.weight"]
    dcp.save({"model": weights}, checkpoint_id=tmp_path / "run" / "pytorch_model_fsdp_0", no_dist=True)
    with pytest.raises(ValueError, match=r"1 weights are missing or left over, as seg_projector\.0\.weight"):
        run("--model", tmp_path / "run", "--config_from", base, "--output", tmp_path / "out")


@pytest.mark.parametrize("damage", ["wrong weights", "no disk"])
def test_nothing_is_left_where_the_proof_fails(make_adapter, tmp_path, monkeypatch, damage):
    def wrong(adapted, dtype):
        model = adapted.merge_and_unload()
        model.seg_projector[2].bias.data += 1
        return model

    def full(*arguments, **options):
        raise OSError("no space left")

    if damage == "wrong weights":
        monkeypatch.setattr(export, "merge_adapter", wrong)
    else:
        monkeypatch.setattr(export, "write_whole", full)
    with pytest.raises((ValueError, OSError), match="not what was trained|no space left"):
        run("--model", make_adapter(), "--output", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_overwritten(base, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="not empty"):
        run("--model", base, "--output", tmp_path)
    with pytest.raises(UsageError, match="max_shard_size"):
        run("--model", base, "--output", tmp_path / "out", "--max_shard_size", "much")


@pytest.mark.slow
def test_the_folder_loads_by_auto_classes_where_this_project_is_not(make_adapter, tmp_path):
    adapter = make_adapter()
    run("--model", adapter, "--output", tmp_path / "out")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "out"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    name, wrong, total = done.stdout.split()
    assert (name, wrong) == ("GemmaLisaForConditionalGeneration", "0")
    assert float(total) == pytest.approx(load_checkpoint(adapter)[0].seg_projector[0].weight.sum().item())
