"""plan_memory.py: the estimate matches the memory of a training run on the CPU, and suggests changes."""

import sys

import pytest
import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from gemma_lisa.checkpoints.lora import WRAPPED
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts import plan_memory
from gemma_lisa.scripts.init_tiny import build_config
from gemma_lisa.scripts.plan_memory import (
    DEFAULTS,
    build_model,
    measure_step,
    plan,
    read_recipe,
    total_of,
    weight_bytes,
)
from gemma_lisa.training.engine_configs import Engine
from gemma_lisa.training.step_memory import StepBytes, make_batch

ONE = Engine("one process, or DDP")
EVERY = ("weights", "gradients", "optimizer")
WHOLE = {"trainable": ["model.language_model.*", "seg_projector.*", "sam.mask_decoder.*"]}
WITH_LORA = {"lora_rank": 8, "trainable": ["seg_projector.*", "sam.mask_decoder.*"]}
NOTHING = StepBytes(0, 0, 0)
QUESTION_TOKENS, SIZE = 24, (120, 160)


@pytest.fixture(scope="module")
def config(tiny):
    """A model whose language model uses most of the memory, as at real sizes."""
    config = build_config(tiny[1], image_size=64)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_attention_heads, text.head_dim = 256, 1024, 8, 32
    text.vocab_size = 8000
    return config


def recipe_of(**fields):
    return DEFAULTS | {"per_device_train_batch_size": 2, "max_questions": 2} | fields


def sizes_of(rows):
    return {row.what: row.size for row in rows}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("trained", [WHOLE, WITH_LORA], ids=["whole", "lora"])
def test_the_estimate_is_within_15_percent_of_a_training_run_on_the_cpu(config, trained, bf16):
    recipe = recipe_of(**trained, bf16=bf16, activation_checkpointing=True)
    planned = build_model(config, recipe)
    rows, offloaded = plan(planned, measure_step(config, recipe, QUESTION_TOKENS, SIZE), recipe, ONE, 1)
    counted = [row for row in rows if "CUDA" not in row.what and "fragmentation" not in row.what]
    assert offloaded == 0

    generator = torch.Generator().manual_seed(0)
    batch = make_batch(config, 2, 2, QUESTION_TOKENS, SIZE)
    for name in ("pixel_values", "sam_pixel_values"):
        batch[name] = torch.rand(batch[name].shape, generator=generator)
    model = build_model(config, recipe, torch.device("cpu"))  # needs more memory than a step, for a moment
    inner = model.get_base_model() if trained is WITH_LORA else model
    inner.activation_checkpointing_enable()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
        for _ in range(2):
            for _ in range(2):  # micro-batches
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = model(**batch).loss
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert total_of(counted) == pytest.approx(peak, rel=0.15)


def test_sharded_parts_are_divided_by_the_devices_and_offloaded_parts_take_no_gpu_memory(config):
    recipe = recipe_of(**WHOLE, bf16=True)
    model = build_model(config, recipe)
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    one = sizes_of(plan(model, NOTHING, recipe, ONE, 1)[0])
    assert one["weights"] == 4 * sum(p.numel() for p in model.parameters())
    assert (one["gradients"], one["optimizer state"]) == (4 * numbers, 8 * numbers)
    eight = sizes_of(plan(model, NOTHING, recipe, Engine("FSDP2", "fsdp", EVERY), 8)[0])
    for part in ("weights", "gradients", "optimizer state"):
        assert eight[part] == pytest.approx(one[part] / 8)
    zero2 = sizes_of(plan(model, NOTHING, recipe, Engine("ZeRO-2", "deepspeed", EVERY[1:]), 8)[0])
    assert zero2["weights"] == 2 * sum(p.numel() for p in model.parameters())  # in bf16, on every device
    assert zero2["gradients"] == 2 * numbers / 8
    assert zero2["optimizer state"] == (4 + 8) * numbers / 8  # with the weights in fp32
    rows, offloaded = plan(model, NOTHING, recipe, Engine("ZeRO-3", "deepspeed", EVERY, ("optimizer",)), 8)
    assert sizes_of(rows)["optimizer state"] == 0
    assert offloaded == 12 * numbers / 8


def test_ddp_has_buckets_with_all_gradients(config):
    recipe = recipe_of(**WITH_LORA)
    model = build_model(config, recipe)
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    copies = [
        sizes_of(plan(model, NOTHING, recipe, ONE, devices)[0])[f"copies by the engine ({ONE.name})"]
        for devices in (1, 2)
    ]
    assert copies == [0, 4 * numbers]


def test_8_bit_optimizer_states_are_a_quarter_except_for_small_tensors_and_embeddings(config):
    recipe = recipe_of(**WHOLE, optim="adamw_bnb_8bit")
    matrix, table, small = torch.empty(128, 128), torch.empty(128, 128), torch.empty(64)
    assert plan_memory.state_bytes("model.language_model.layers.0.mlp.up_proj.weight", matrix, recipe) == 2 * 128 * 128
    assert plan_memory.state_bytes("model.language_model.embed_tokens.weight", table, recipe) == 8 * 128 * 128
    assert plan_memory.state_bytes("model.language_model.norm.weight", small, recipe) == 8 * 64


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_bytes_of_quantized_weights_equal_those_of_bitsandbytes(bits):
    from bitsandbytes.nn import Int8Params, Params4bit

    recipe = recipe_of(**{bits: True}, bf16=True)
    weight = torch.randn(256, 1024, dtype=torch.bfloat16)
    name = f"{WRAPPED}model.language_model.layers.0.mlp.up_proj.base_layer.weight"
    if bits == "load_in_4bit":
        held = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to("cpu")
        state = held.quant_state
        size = held.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    else:
        held = Int8Params(weight, requires_grad=False).to("cpu")
        size = held.CB.nbytes + held.SCB.nbytes
    assert weight_bytes(name, weight, recipe, in_bf16=False) == pytest.approx(size, rel=0.01)
    vision = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    assert weight_bytes(vision, weight, recipe, in_bf16=False) == weight.nbytes


# --- the program -----------------------------------------------------------------------------------------------------
@pytest.fixture
def planned(monkeypatch, capsys, tiny, tmp_path):
    """Return a function that runs the program on a small model and returns its exit code and output."""
    tiny[0].config.save_pretrained(tmp_path / "model")

    def call(recipe, *arguments):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        command = ["plan_memory.py", "--config", str(path), "--model", str(tmp_path / "model"), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        code = 0
        try:
            run(plan_memory.main)
        except SystemExit as leaving:
            code = leaving.code
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_a_recipe_that_fits_has_exit_code_0_and_estimates_are_marked(planned):
    code, said = planned({**WITH_LORA, "per_device_train_batch_size": 1}, "--gpu_gb", "24", "--mask_size", "64", "64")
    assert code == 0 and "The recipe fits according to this estimate" in said and "1 image per device" in said
    for line in said.splitlines():
        if line.startswith(("| CUDA", "| fragmentation", "| copies")):
            assert line.endswith("| estimated |")


def test_a_recipe_that_does_not_fit_has_exit_code_1_and_suggestions(planned):
    code, said = planned({**WHOLE, "per_device_train_batch_size": 16}, "--gpu_gb", "1.1", "--mask_size", "480", "640")
    assert code == 1 and "The recipe does not fit" in said
    assert "--activation_checkpointing true" in said and "--per_device_train_batch_size 1" in said


def test_overrides_are_used_and_unknown_overrides_are_usage_errors(planned, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**WITH_LORA, "learning_rate": 1.0}))
    assert read_recipe(path, ["--lora_rank", "4", "--bf16", "true"])["lora_rank"] == 4
    for overrides in (["--learning_rate", "1"], ["--bf16"]):
        with pytest.raises(UsageError, match="expected an option with a value"):
            read_recipe(path, overrides)
    code, said = planned({"bf16": True})
    assert code == 2 and "trainable is missing in the recipe" in said


def test_an_unreadable_recipe_is_a_usage_error(planned):
    code, said = planned(["no", "recipe"])
    assert code == 2 and "recipe.yaml: the recipe cannot be read" in said


@pytest.mark.parametrize(
    ("stem", "size", "name"),
    [
        ("gemma3-270m-reason", None, "Gemma 3 270M with SigLIP base and SAM ViT-B"),
        ("gemma3-1b-lora", None, "Gemma 3 1B with SigLIP base and SAM ViT-B"),
        ("gemma3-1b-lora", "4b", "Gemma 3 4B with SAM ViT-H"),
        ("gemma3-12b-lora-fsdp2", None, "Gemma 3 12B with SAM ViT-H"),
        ("shapes-64b-x", None, "Gemma 3 4B with SAM ViT-H"),
    ],
)
def test_the_size_is_that_of_the_option_or_of_the_name_of_the_recipe(stem, size, name, tmp_path):
    assert plan_memory.choose_config(None, size, tmp_path / f"{stem}.yaml")[1] == name


@pytest.mark.parametrize("size", ["270m", "1b"])
def test_a_small_gemma_is_planned(size, monkeypatch, capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**WITH_LORA, "bf16": True, "per_device_train_batch_size": 1}))
    plan_memory.main(["--config", str(recipe), "--size", size, "--gpu_gb", "16", "--mask_size", "64", "64"])
    said = capsys.readouterr().out
    assert f"Gemma 3 {size.upper()} with SigLIP base and SAM ViT-B" in said and "The recipe fits" in said
