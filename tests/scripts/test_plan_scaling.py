"""plan_scaling.py: FLOP, bytes and speed of a recipe on many GPUs."""

import re

import pytest
import torch

from gemma_lisa.benchmarks.part_clock import flop_counter
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts import plan_scaling
from gemma_lisa.scripts.init_tiny import build_config
from gemma_lisa.scripts.plan_memory import DEFAULTS, build_model
from gemma_lisa.scripts.plan_scaling import (
    Machines,
    Traffic,
    cache_bytes,
    count_flop,
    feature_shapes,
    limits,
    point_of,
    traffic_of,
)
from gemma_lisa.training.engine_configs import Engine
from gemma_lisa.training.step_memory import make_batch

DDP = Engine("DDP")
FSDP = Engine("FSDP2", "fsdp", ("weights", "gradients", "optimizer"))
ZERO3 = Engine("ZeRO-3", "deepspeed", ("weights", "gradients", "optimizer"))
MACHINES = Machines(flops=100.0, gpus_per_machine=8, inner_rate=50.0, outer_rate=5.0)


@pytest.fixture(scope="module")
def config(tiny):
    return build_config(tiny[1], image_size=64)


def recipe_of(**fields):
    return DEFAULTS | {"per_device_train_batch_size": 2, "max_questions": 2, "lora_rank": 4} | fields


def test_the_flop_on_the_meta_device_are_those_of_a_real_step(config):
    recipe = recipe_of()
    counted = count_flop(config, recipe, cached=False)
    model = build_model(config, recipe, torch.device("cpu"))
    batch = make_batch(config, 2, 2, plan_scaling.QUESTION_TOKENS, plan_scaling.MASK_SIZE)
    for name in ("pixel_values", "sam_pixel_values"):
        batch[name] = torch.rand(batch[name].shape)
    with flop_counter() as real:
        model(**batch).loss.backward()
    # Attention on a CPU is one kernel, whose backward pass computes the scores again
    assert counted == pytest.approx(real.get_total_flops(), rel=0.05)


def test_cached_features_save_exactly_the_image_encoders(config):
    saved = count_flop(config, recipe_of(), cached=False) - count_flop(config, recipe_of(), cached=True)
    model = build_model(config, recipe_of(), torch.device("cpu")).get_base_model()
    batch = make_batch(config, 2, 2, plan_scaling.QUESTION_TOKENS, plan_scaling.MASK_SIZE)
    with torch.no_grad(), flop_counter() as encoders:
        model.sam.vision_encoder(torch.rand(batch["sam_pixel_values"].shape))
        features = model.model.vision_tower(torch.rand(batch["pixel_values"].shape)).last_hidden_state
        model.model.multi_modal_projector(features)
    assert saved == pytest.approx(encoders.get_total_flops(), rel=0.05)


def test_recomputed_layers_cost_flop(config):
    plain = count_flop(config, recipe_of(), cached=True)
    assert count_flop(config, recipe_of(activation_checkpointing=True), cached=True) > 1.05 * plain


def test_the_cache_holds_the_features_of_both_encoders_in_bf16(config):
    shapes = feature_shapes(config)
    assert shapes["image_features"] == (config.mm_tokens_per_image, config.text_config.hidden_size)
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert cache_bytes(config) == 2 * numbers


@pytest.mark.parametrize("engine, each, sharded", [(DDP, 4, False), (FSDP, 4, True), (ZERO3, 2, True)])
def test_the_traffic_counts_trained_numbers_and_sharded_weights(config, engine, each, sharded):
    model = build_model(config, recipe_of())
    traffic = traffic_of(model, recipe_of(), engine)
    assert traffic.gradients == each * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert traffic.weights == (2 * sum(p.numel() for p in model.parameters()) if sharded else 0)
    assert traffic.per_micro_batch is sharded


def test_ddp_sends_gradients_once_and_shards_send_weights_in_each_micro_batch():
    # 4 GPUs: each part of a ring sends 3/4 of the bytes
    assert Traffic(0, 80, per_micro_batch=False).sent(4, micro_batches=5) == 2 * 60
    assert Traffic(200, 80, per_micro_batch=True).sent(4, micro_batches=5) == 5 * (2 * 150 + 60)
    assert Traffic(200, 80, per_micro_batch=True).sent(1, micro_batches=5) == 0


def test_a_point_has_the_nearest_global_batch_and_the_slowest_link():
    traffic = Traffic(0, 80, per_micro_batch=False)
    inside = point_of(8, 2, 160, flop=50.0, traffic=traffic, machines=MACHINES)
    assert (inside.micro_batches, inside.global_batch) == (10, 160)
    assert inside.compute == 5.0 and inside.transfer == pytest.approx(140 / 50)
    assert inside.slowest == pytest.approx(160 / 7.8) and inside.fastest == pytest.approx(160 / 5)
    between = point_of(64, 2, 160, flop=50.0, traffic=traffic, machines=MACHINES)
    assert between.global_batch == 128
    assert between.transfer == pytest.approx(2 * 63 / 64 * 80 / 5)


def test_the_limits_name_the_first_number_of_gpus_and_the_reason():
    traffic = Traffic(0, 80, per_micro_batch=False)
    points = [point_of(gpus, 2, 160, 500.0, traffic, MACHINES) for gpus in (8, 64, 512)]
    links, batch = limits(points, 160)
    assert links.startswith("From 64 GPUs, sending") and batch.startswith("From 512 GPUs, one micro-batch")
    assert limits(points[:1], 160) == ["None of these numbers of GPUs reaches a limit."]


def test_the_program_prints_a_table(config, tmp_path, capsys):
    config.save_pretrained(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lora_rank: 4\nper_device_train_batch_size: 1\nmax_questions: 2\nglobal_batch_size: 16\n")
    arguments = ["--config", str(recipe), "--model", str(tmp_path), "--gpus", "1", "16"]
    plan_scaling.main([*arguments, "--cached_features"])
    printed = capsys.readouterr().out
    assert "| 1 | 16 | 0.00 |" in printed and "| 16 | 16 |" in printed
    assert "Feature cache: " in printed and "Data workers" not in printed
    plan_scaling.main(arguments)
    assert "Data workers: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, extra, message",
    [
        ("lora_rank: 4\n", [], "has no global_batch_size. Give --global_batch_size N."),
        (
            "lora_rank: 4\nglobal_batch_size: 16\n",
            ["--gpus", "0"],
            "argument --gpus: must be a whole number of at least 1",
        ),
        ("lora_rank: 4\nglobal_batch_size: 16\n", ["--banana", "1"], "--banana 1: expected an option with a value"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, content, extra, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    with pytest.raises(UsageError, match=re.escape(message)):
        plan_scaling.main(["--config", str(recipe), *extra])
