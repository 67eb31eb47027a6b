"""Unsupported processes and engines are refused in one line; constants stay whole and exact."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft.tuners.trainable_tokens import TrainableTokensLayer

from gemma_lisa import train
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.distributed import (
    STARTED,
    UNSUPPORTED,
    accelerate_prepares,
    check_engine,
    check_processes,
    engine_of,
    hold_constants,
    zero_stage,
)

ROOT = train.Path(train.__file__).parent
GATHER = "stage3_gather_16bit_weights_on_model_save"


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (
        *STARTED,
        "ACCELERATE_USE_FSDP",
        "FSDP_VERSION",
        "FSDP_STATE_DICT_TYPE",
        "FSDP_CPU_RAM_EFFICIENT_LOADING",
    ):
        monkeypatch.delenv(name, raising=False)


def arguments(processes=1, kind=DistributedType.NO, zero=None, **options):
    """Return the arguments that check_processes reads, for machines that this one is not."""
    plugin = (
        None
        if zero is None
        else SimpleNamespace(zero_stage=zero["stage"], deepspeed_config={"zero_optimization": zero})
    )
    content = {
        "n_gpu": 1,
        "world_size": processes,
        "expected_processes": None,
        "fsdp": False,
        "fsdp_plugin_args": None,
        "muon_learning_rate": None,
        "distributed_state": SimpleNamespace(distributed_type=kind),
        "deepspeed_plugin": plugin,
    }
    return SimpleNamespace(**{**content, **options})


FSDP = {"fsdp": True, "fsdp_plugin_args": {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}}


@pytest.mark.parametrize(
    ("args", "engine"),
    [
        (arguments(), "no engine"),
        (arguments(2, DistributedType.MULTI_CPU, expected_processes=2), "DDP"),
        (arguments(8, DistributedType.DEEPSPEED, {"stage": 3, GATHER: True}), "DeepSpeed ZeRO-3"),
        (arguments(8, DistributedType.MULTI_GPU, **FSDP), "FSDP2"),
    ],
)
def test_the_engine_is_named(args, engine):
    check_processes(args)
    assert engine_of(args) == engine


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (arguments(n_gpu=4), "torchrun --nproc_per_node 4 train.py"),
        (
            arguments(expected_processes=2),
            "expected_processes is 2, but 1 process would train.* torchrun --nproc_per_node 2",
        ),
        (
            arguments(4, DistributedType.MULTI_GPU, expected_processes=2),
            "expected_processes is 2, but 4 processes would train",
        ),
        (arguments(**FSDP), "fsdp in one process: Accelerate would silently disable FSDP"),
        (arguments(2, DistributedType.MULTI_CPU, **FSDP), "fsdp on the CPU: Accelerate would silently disable FSDP"),
        (arguments(2, DistributedType.MULTI_GPU, fsdp=True, fsdp_plugin_args={"fsdp_version": 1}), "Use version 2"),
        (
            arguments(
                2,
                DistributedType.MULTI_GPU,
                fsdp=True,
                fsdp_plugin_args={"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT"},
            ),
            "Use FULL_STATE_DICT",
        ),
        (
            arguments(
                2,
                DistributedType.MULTI_GPU,
                fsdp=True,
                fsdp_plugin_args={"fsdp_version": 2, "cpu_ram_efficient_loading": 1},  # transformers passes 1 for true
            ),
            "every process needs the weights",
        ),
        (arguments(2, DistributedType.MULTI_CPU, {"stage": 2}), "deepspeed with use_cpu"),
        (arguments(2, DistributedType.DEEPSPEED, {"stage": 3}), f"ZeRO-3 without {GATHER}"),
        (arguments(2, DistributedType.DEEPSPEED, {"stage": 2}, muon_learning_rate=0.02), "Muon needs whole matrices"),
    ],
)
def test_unsupported_processes_and_engines_are_refused(args, message):
    with pytest.raises(UsageError, match=message) as refused:
        check_processes(args)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", STARTED)
def test_more_started_processes_than_training_processes_are_refused(name, monkeypatch):
    monkeypatch.setenv(name, "2")
    with pytest.raises(UsageError, match="2 processes were started, but each would train alone"):
        check_processes(arguments())
    check_processes(arguments(2, DistributedType.MULTI_CPU))


def engine_arguments(**options):
    """Return the arguments that check_engine reads."""
    return arguments(**{"activation_checkpointing": False, "deepspeed": None, **options})


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_options_of_accelerate_launch_are_refused(name, monkeypatch):
    monkeypatch.setenv(name, "NO" if "BACKEND" in name else "false")
    check_engine(engine_arguments())
    monkeypatch.setenv(name, "INDUCTOR" if "BACKEND" in name else "true")
    with pytest.raises(UsageError, match=f"accelerate launch --{UNSUPPORTED[name][0]} .* is not supported"):
        check_engine(engine_arguments())


@pytest.mark.parametrize(
    ("config", "unread"),
    [({"reshard": True}, "reshard"), ({"forward_prefetch": True}, "forward_prefetch"), ({"xla": True}, "xla")],
)
def test_options_that_fsdp2_does_not_read_are_refused(config, unread):
    made = {"version": 2, "min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False}
    check_engine(engine_arguments(fsdp=True, fsdp_config=made))
    with pytest.raises(UsageError, match=f"fsdp_config: FSDP2 does not read {unread}"):
        check_engine(engine_arguments(fsdp=True, fsdp_config={**made, **config}))


def test_activation_checkpointing_given_twice_is_refused(monkeypatch):
    asked = {"fsdp": True, "fsdp_config": {}, "fsdp_plugin_args": {"activation_checkpointing": True}}
    check_engine(engine_arguments(**asked))
    with pytest.raises(UsageError, match="activation_checkpointing is given both to train.py and to FSDP"):
        check_engine(engine_arguments(**asked, activation_checkpointing=True))
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    check_engine(engine_arguments(activation_checkpointing=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="activation_checkpointing is given both to train.py and to FSDP"):
        check_engine(engine_arguments(activation_checkpointing=True))


@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_an_optimizer_in_deepspeeds_configuration_is_refused(name):
    plugin = SimpleNamespace(zero_stage=2, deepspeed_config={name: {"type": "AdamW"}})
    with pytest.raises(UsageError, match=f"has its own {name}"):
        check_engine(engine_arguments(deepspeed_plugin=plugin))


def test_a_deepspeed_configuration_that_differs_from_the_options_is_refused():
    plugin = SimpleNamespace(zero_stage=2, deepspeed_config={})
    differing = SimpleNamespace(mismatches=["- ds gradient_clipping=2 vs hf max_grad_norm=1"])
    options = {"deepspeed_plugin": plugin, "deepspeed": "some.json", "hf_deepspeed_config": differing}
    with pytest.raises(UsageError, match="differs from the options: - ds gradient_clipping=2"):
        check_engine(engine_arguments(**options))
    check_engine(engine_arguments(**{**options, "hf_deepspeed_config": SimpleNamespace(mismatches=[])}))


def test_one_slurm_task_per_machine_that_starts_its_processes_is_accepted(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("WORLD_SIZE", "16")
    check_processes(arguments(16, DistributedType.MULTI_GPU, expected_processes=16))


def test_the_shipped_accelerate_configurations_are_accepted():
    folder = ROOT / "configs" / "accelerate"
    stages = {}
    for path in folder.glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        if content["distributed_type"] == "DEEPSPEED":
            zero = json.loads((ROOT / content["deepspeed_config"]["deepspeed_config_file"]).read_text())[
                "zero_optimization"
            ]
            args = arguments(8, DistributedType.DEEPSPEED, zero)
            stages[path.stem] = zero_stage(args)
        elif content["distributed_type"] == "FSDP":
            options = content["fsdp_config"]
            read = {"fsdp_version": options["fsdp_version"], "state_dict_type": options["fsdp_state_dict_type"]}
            args = arguments(8, DistributedType.MULTI_GPU, fsdp=True, fsdp_plugin_args=read)
        else:
            args = arguments(8, DistributedType.MULTI_GPU)
        check_processes(args)
    assert stages == {"zero2": 2, "zero3": 3, "zero3_offload": 3, "zero3_nvme": 3}


def test_positional_encodings_become_buffers_of_the_same_name_and_values(tmp_path):
    model, _ = build_tiny(image_size=32)
    names = [
        "sam.shared_image_embedding.positional_embedding",
        "sam.prompt_encoder.shared_embedding.positional_embedding",
    ]
    model.get_parameter(names[0]).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hold_constants(model)
    assert not set(names) & {name for name, _ in model.named_parameters()}
    assert model.get_buffer(names[0]) is model.get_buffer(names[1])
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    model.save_pretrained(tmp_path)
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.fixture
def adapted(tiny):
    return add_lora(copy.deepcopy(tiny[0]), rank=2)


def rows_of_seg(model) -> list[torch.nn.ParameterDict]:
    """Return the modules of the trained embedding of `[SEG]`: of the embedding, and of the head."""
    return [layer.trainable_tokens_delta for layer in model.modules() if isinstance(layer, TrainableTokensLayer)]


def test_fsdp2_gets_an_adapted_model_with_hidden_embeddings_and_two_modules_for_seg(adapted):
    shown = adapted.get_input_embeddings()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    with accelerate_prepares(adapted, plugin):
        assert adapted.get_input_embeddings() is adapted.get_output_embeddings() is None
    assert adapted.get_input_embeddings() is shown
    one, other = rows_of_seg(adapted)
    assert one is not other and one["default"] is other["default"]


def test_other_engines_get_an_adapted_model_unchanged(adapted):
    with accelerate_prepares(adapted, None):
        assert adapted.get_input_embeddings() is not None
    one, other = rows_of_seg(adapted)
    assert one is other


def test_fsdp2_sums_gradients_in_fp32_and_does_not_round_losses(tiny):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    with accelerate_prepares(tiny[0], plugin):
        policy = plugin.mixed_precision_policy
        assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)
