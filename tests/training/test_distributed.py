"""Processes and engines other than those asked for are refused in one line; constants stay whole and exact."""

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
    """What check_processes reads of the arguments, of machines that are not here."""
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
def test_an_engine_that_runs_as_asked_is_named(args, engine):
    check_processes(args)
    assert engine_of(args) == engine


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (arguments(n_gpu=4), "torchrun --nproc_per_node 4 train.py"),
        (arguments(expected_processes=2), "expected_processes: 2, but 1 would train.* torchrun --nproc_per_node 2"),
        (arguments(4, DistributedType.MULTI_GPU, expected_processes=2), "expected_processes: 2, but 4 would train"),
        (arguments(**FSDP), "fsdp on one process: nothing would be sharded"),
        (arguments(2, DistributedType.MULTI_CPU, **FSDP), "fsdp on CPU: nothing would be sharded"),
        (arguments(2, DistributedType.MULTI_GPU, fsdp=True, fsdp_plugin_args={"fsdp_version": 1}), "use FSDP2"),
        (
            arguments(
                2,
                DistributedType.MULTI_GPU,
                fsdp=True,
                fsdp_plugin_args={"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT"},
            ),
            "use FULL_STATE_DICT",
        ),
        (
            arguments(
                2,
                DistributedType.MULTI_GPU,
                fsdp=True,
                fsdp_plugin_args={"fsdp_version": 2, "cpu_ram_efficient_loading": 1},  # transformers' true
            ),
            "every process needs the weights",
        ),
        (arguments(2, DistributedType.MULTI_CPU, {"stage": 2}), "deepspeed and use_cpu"),
        (arguments(2, DistributedType.DEEPSPEED, {"stage": 3}), f"ZeRO-3 without {GATHER}"),
        (arguments(2, DistributedType.DEEPSPEED, {"stage": 2}, muon_learning_rate=0.02), "Muon needs whole matrices"),
    ],
)
def test_what_would_not_run_as_asked_is_refused(args, complaint):
    with pytest.raises(UsageError, match=complaint) as refused:
        check_processes(args)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", STARTED)
def test_a_launcher_that_started_more_than_train_is_refused(name, monkeypatch):
    monkeypatch.setenv(name, "2")
    with pytest.raises(UsageError, match="2 processes were started, but 1 would train"):
        check_processes(arguments())
    check_processes(arguments(2, DistributedType.MULTI_CPU))


def engine_arguments(**options):
    """What check_engine reads of the arguments."""
    return arguments(**{"activation_checkpointing": False, "deepspeed": None, **options})


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_accelerate_launch_asks_for_and_nobody_would_record_is_refused(name, monkeypatch):
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


def test_activation_checkpointing_is_asked_for_once(monkeypatch):
    asked = {"fsdp": True, "fsdp_config": {}, "fsdp_plugin_args": {"activation_checkpointing": True}}
    check_engine(engine_arguments(**asked))
    with pytest.raises(UsageError, match="activation_checkpointing is given twice"):
        check_engine(engine_arguments(**asked, activation_checkpointing=True))
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    check_engine(engine_arguments(activation_checkpointing=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="activation_checkpointing is given twice"):
        check_engine(engine_arguments(activation_checkpointing=True))


@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_an_optimizer_of_deepspeeds_own_is_refused(name):
    plugin = SimpleNamespace(zero_stage=2, deepspeed_config={name: {"type": "AdamW"}})
    with pytest.raises(UsageError, match=f"has a {name} of its own"):
        check_engine(engine_arguments(deepspeed_plugin=plugin))


def test_numbers_of_deepspeeds_own_that_differ_are_refused():
    plugin = SimpleNamespace(zero_stage=2, deepspeed_config={})
    differing = SimpleNamespace(mismatches=["- ds gradient_clipping=2 vs hf max_grad_norm=1"])
    options = {"deepspeed_plugin": plugin, "deepspeed": "some.json", "hf_deepspeed_config": differing}
    with pytest.raises(UsageError, match="differs from the options: - ds gradient_clipping=2"):
        check_engine(engine_arguments(**options))
    check_engine(engine_arguments(**{**options, "hf_deepspeed_config": SimpleNamespace(mismatches=[])}))


def test_one_task_a_machine_that_starts_its_processes_itself_is_let_through(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("WORLD_SIZE", "16")
    check_processes(arguments(16, DistributedType.MULTI_GPU, expected_processes=16))


def test_the_shipped_configurations_are_those_that_are_not_refused():
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


def test_the_positional_code_becomes_a_buffer_of_the_same_name_and_values(tmp_path):
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
    """Where the trained row of `[SEG]` is: of the embedding, and of the head."""
    return [layer.trainable_tokens_delta for layer in model.modules() if isinstance(layer, TrainableTokensLayer)]


def test_fsdp2_sees_an_adapted_model_without_its_embedding_and_each_row_in_a_module_of_its_own(adapted):
    shown = adapted.get_input_embeddings()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    with accelerate_prepares(adapted, plugin):
        assert adapted.get_input_embeddings() is adapted.get_output_embeddings() is None
    assert adapted.get_input_embeddings() is shown
    one, other = rows_of_seg(adapted)
    assert one is not other and one["default"] is other["default"]


def test_other_engines_see_an_adapted_model_as_it_is(adapted):
    with accelerate_prepares(adapted, None):
        assert adapted.get_input_embeddings() is not None
    one, other = rows_of_seg(adapted)
    assert one is other


def test_fsdp2_adds_gradients_up_in_fp32_and_rounds_no_loss(tiny):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    with accelerate_prepares(tiny[0], plugin):
        policy = plugin.mixed_precision_policy
        assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)
