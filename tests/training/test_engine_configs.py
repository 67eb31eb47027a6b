"""The engine of an accelerate configuration: its name, what it shards and what it offloads."""

import json

import pytest
import yaml

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.engine_configs import engine_of_recipe, read_engine

EVERY = ("weights", "gradients", "optimizer")


@pytest.fixture
def written(tmp_path):
    def write(**content):
        path = tmp_path / "engine.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize("kind", ["NO", "MULTI_GPU", "MULTI_CPU"])
def test_ddp_shards_nothing(written, kind):
    engine = read_engine(written(distributed_type=kind))
    assert (engine.kind, engine.shares, engine.offloads) == ("ddp", (), ())


def test_fsdp_shards_everything_and_can_offload(written):
    engine = read_engine(written(distributed_type="FSDP", fsdp_config={"fsdp_version": 2}))
    assert (engine.kind, engine.shares, engine.offloads) == ("fsdp", EVERY, ())
    engine = read_engine(written(distributed_type="FSDP", fsdp_config={"fsdp_offload_params": True}))
    assert engine.offloads == EVERY


@pytest.mark.parametrize(
    ("stage", "shares"),
    [(1, {"optimizer"}), (2, {"optimizer", "gradients"}), (3, set(EVERY))],
    ids=["one", "two", "three"],
)
def test_zero_shards_by_its_stage(written, stage, shares):
    engine = read_engine(written(distributed_type="DEEPSPEED", deepspeed_config={"zero_stage": stage}))
    assert (engine.kind, set(engine.shares), engine.offloads) == ("deepspeed", shares, ())
    assert engine.name == f"DeepSpeed ZeRO-{stage}"


def test_offloading_is_read_from_accelerates_keys_and_from_a_deepspeed_file(written, tmp_path):
    options = {"zero_stage": 3, "offload_optimizer_device": "cpu", "offload_param_device": "none"}
    assert read_engine(written(distributed_type="DEEPSPEED", deepspeed_config=options)).offloads == ("optimizer",)
    file = tmp_path / "zero.json"
    zero = {"stage": 3, "offload_optimizer": {"device": "nvme"}, "offload_param": {"device": "cpu"}}
    file.write_text(json.dumps({"zero_optimization": zero}))
    options = {"deepspeed_config_file": str(file)}
    engine = read_engine(written(distributed_type="DEEPSPEED", deepspeed_config=options))
    assert (engine.shares, engine.offloads) == (("optimizer", "gradients", "weights"), ("optimizer", "weights"))
    assert "off the device" in engine.name


@pytest.mark.parametrize("content", ["a: [", "- a", "distributed_type: FSDP", "distributed_type: TPU"])
def test_an_unknown_engine_is_refused_by_name(tmp_path, content):
    path = tmp_path / "engine.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match="engine.yaml"):
        read_engine(path)
    with pytest.raises(UsageError, match="nowhere.yaml"):
        read_engine(tmp_path / "nowhere.yaml")


def test_the_engine_of_a_recipe_is_the_one_in_its_first_comments(tmp_path, written):
    path = written(distributed_type="DEEPSPEED", deepspeed_config={"zero_stage": 2})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"# For many.\n#   accelerate launch --config_file {path} train.py\ndataset: shapes\n")
    assert engine_of_recipe(recipe).name == "DeepSpeed ZeRO-2"
    recipe.write_text("# For one.\ndataset: shapes  # --config_file nowhere.yaml\n")
    assert engine_of_recipe(recipe).kind == "ddp"
