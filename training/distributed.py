"""Find the processes and the engine (DDP, FSDP2, DeepSpeed), and refuse unsupported ones before weights are loaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.short_text import count_of

from .training_arguments import GemmaLisaTrainingArguments

# Variables in which launchers give the number of processes; for other launchers there is expected_processes
STARTED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# Variable of accelerate launch for an unsupported feature -> its option, and the values that leave it off
UNSUPPORTED = {
    "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", ("", "no")),
    "ACCELERATE_USE_MEGATRON_LM": ("use_megatron_lm", ("", "false")),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("use_parallelism_config", ("", "false")),
}
# Keys of fsdp_config that FSDP2 reads; transformers adds those that start with xla
FSDP_OPTIONS = {
    *("version", "reshard_after_forward", "cpu_offload", "activation_checkpointing", "cpu_ram_efficient_loading"),
    *("state_dict_type", "auto_wrap_policy", "transformer_layer_cls_to_wrap", "min_num_params"),
    *("xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt"),
}
NOT_SHARDED = (DistributedType.NO, DistributedType.MULTI_CPU)
GATHER = "stage3_gather_16bit_weights_on_model_save"
WHOLE = "FULL_STATE_DICT"


def check_processes(args: GemmaLisaTrainingArguments) -> None:
    """Refuse a number of processes or an engine that differs from what was asked for.

    Raises:
        UsageError: the training would run in other processes or on another engine.
    """
    if args.n_gpu > 1:
        raise UsageError(
            f"one process sees {args.n_gpu} GPUs, which is not supported. Start one process per GPU: torchrun "
            f"--nproc_per_node {args.n_gpu} train.py ..., or use one GPU: CUDA_VISIBLE_DEVICES=0 python train.py ..."
        )
    started = max(int(os.environ.get(name) or 1) for name in STARTED)
    if args.world_size < started:
        raise UsageError(
            f"{started} processes were started, but each would train alone. Start them with torchrun; if there are "
            "fewer GPUs than processes, add --use_cpu true."
        )
    if args.expected_processes not in (None, args.world_size):
        raise UsageError(
            f"expected_processes is {args.expected_processes}, but {count_of(args.world_size, 'process', 'processes')} "
            f"would train. Start them with torchrun --nproc_per_node {args.expected_processes} train.py ... "
            "(accelerate launch --cpu always starts only one)."
        )
    if asks_for_fsdp(args):
        _check_fsdp(args)
    stage = zero_stage(args)
    if stage is not None and args.distributed_state.distributed_type != DistributedType.DEEPSPEED:
        raise UsageError(
            "deepspeed with use_cpu is not supported: DeepSpeed would silently not be used. Remove one of them."
        )
    if stage == 3 and not args.deepspeed_plugin.deepspeed_config["zero_optimization"].get(GATHER):
        raise UsageError(f"ZeRO-3 without {GATHER} saves models that cannot be loaded. Set it to true.")
    if args.muon_learning_rate is not None and (asks_for_fsdp(args) or stage is not None):
        raise UsageError(
            "muon_learning_rate is not supported with FSDP or DeepSpeed: Muon needs whole matrices, and they shard "
            "them. Use DDP, or remove it."
        )


def check_engine(args: GemmaLisaTrainingArguments) -> None:
    """Refuse options of accelerate launch, FSDP and DeepSpeed that have no effect or override the recipe's.

    Raises:
        UsageError: for the first of them.
    """
    for name, (option, without_effect) in UNSUPPORTED.items():
        if (value := os.environ.get(name, "").lower()) not in without_effect:
            raise UsageError(f"accelerate launch --{option} {value} is not supported. Remove it.")
    if args.fsdp:
        unread = sorted(set(args.fsdp_config) - FSDP_OPTIONS)
        unread += [name for name in args.fsdp_config if name.startswith("xla") and args.fsdp_config[name]]
        if unread:
            raise UsageError(f"fsdp_config: FSDP2 does not read {', '.join(unread)}. Remove it.")
    in_engine = (args.fsdp_plugin_args or {}).get("activation_checkpointing") or (
        asks_for_fsdp(args) and os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true"
    )
    if in_engine and args.activation_checkpointing:
        raise UsageError("activation_checkpointing is given both to train.py and to FSDP. Remove one of them.")
    if args.deepspeed_plugin is None:
        return
    for name in ("optimizer", "scheduler"):
        if name in args.deepspeed_plugin.deepspeed_config:
            raise UsageError(
                f"DeepSpeed's configuration has its own {name}, which would override learning rates and other options. "
                f"Remove {name} from it."
            )
    if args.deepspeed and (mismatches := args.hf_deepspeed_config.mismatches):
        raise UsageError(
            f"DeepSpeed's configuration differs from the options: {'; '.join(mismatches)}. Use auto there."
        )


def _check_fsdp(args: GemmaLisaTrainingArguments) -> None:
    if (kind := args.distributed_state.distributed_type) in NOT_SHARDED:
        what = "in one process" if kind == DistributedType.NO else "on the CPU"
        raise UsageError(
            f"fsdp {what}: Accelerate would silently disable FSDP. It needs several processes with a GPU each."
        )
    options = args.fsdp_plugin_args or {}
    version = options.get("fsdp_version") or os.environ.get("FSDP_VERSION", "1")
    if int(version) != 2:
        raise UsageError(
            f"fsdp version {version} is not supported. Use version 2, as in configs/accelerate/fsdp2.yaml."
        )
    state = str(options.get("state_dict_type") or os.environ.get("FSDP_STATE_DICT_TYPE", WHOLE))
    if WHOLE not in state:
        raise UsageError(f"fsdp state_dict_type {state} would save no model at the end. Use {WHOLE}.")
    thrifty = options.get("cpu_ram_efficient_loading", os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false"))
    if str(thrifty).lower() in ("true", "1"):
        raise UsageError(
            "fsdp cpu_ram_efficient_loading is not supported: every process needs the weights to create LoRA and the "
            "embedding of [SEG]. Set it to false."
        )


def asks_for_fsdp(args: GemmaLisaTrainingArguments) -> bool:
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def zero_stage(args: GemmaLisaTrainingArguments) -> int | None:
    """Return DeepSpeed's ZeRO stage, or None without DeepSpeed."""
    return None if args.deepspeed_plugin is None else int(args.deepspeed_plugin.zero_stage)


def shards_weights(args: GemmaLisaTrainingArguments) -> bool:
    """Return whether the engine shards weights, so that all ranks must run the same modules."""
    return asks_for_fsdp(args) or zero_stage(args) == 3


def engine_of(args: GemmaLisaTrainingArguments) -> str:
    """Return the name of the engine that connects the processes."""
    if (stage := zero_stage(args)) is not None:
        return f"DeepSpeed ZeRO-{stage}"
    if asks_for_fsdp(args):
        return "FSDP2"
    return "DDP" if args.world_size > 1 else "no engine"


def device_name(args: GemmaLisaTrainingArguments) -> str:
    """Return the name of the GPU, or the CPU's number of cores."""
    return torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else f"cpu, {os.cpu_count()} cores"


def hold_constants(model: nn.Module) -> None:
    """Turn SAM's positional encodings into buffers: engines shard and round parameters, but keep buffers in fp32.

    Names in a state dict stay the same, and shared tensors stay shared.
    """
    held: dict[int, torch.Tensor] = {}
    for module in model.modules():
        code = getattr(module, "positional_embedding", None)
        if isinstance(code, nn.Parameter) and not code.requires_grad:
            del module.positional_embedding
            module.register_buffer("positional_embedding", held.setdefault(id(code), code.detach()))


@contextmanager
def whole_weights(args: GemmaLisaTrainingArguments) -> Iterator[None]:
    """Create the model without ZeRO-3's sharding; DeepSpeed shards it at the start of the training.

    transformers would shard weights while it reads them. But LoRA, the embedding of `[SEG]` and SAM's positional
    encodings are created from whole weights. Cost: every process reads all weights into host memory.
    """
    if zero_stage(args) != 3:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(args.deepspeed_plugin.hf_ds_config)


@contextmanager
def accelerate_prepares(model: nn.Module, plugin: FullyShardedDataParallelPlugin | None) -> Iterator[None]:
    """Prepare a model for FSDP2 while Accelerate passes it to the engine.

    Embedding and head of an adapted model: Accelerate would wrap each in an FSDP unit unless they share one tensor.
    PEFT trains the embedding of `[SEG]` in both and creates a new tensor at every access, and torch refuses a weight
    in two units. So they are hidden, and belong to the outermost unit.

    Each of the two also gets its own module for that embedding. With a shared module, torch finds one tensor where its
    checkpoints have two, and cannot resume.

    In bf16, gradients are summed over the processes in fp32, as under DDP, and losses are not rounded.

    FSDP2 makes a subclass of the model's class. It keeps the class's name, because saved folders record it.
    """
    if plugin is None or isinstance(model, FSDPModule):  # another engine, or already prepared
        yield
        return
    is_adapted = isinstance(model, PeftModel)
    if is_adapted:
        for layer in model.modules():
            if isinstance(layer, TrainableTokensLayer) and layer.tied_adapter is not None:
                layer.trainable_tokens_delta = nn.ParameterDict(layer.trainable_tokens_delta)
        model.get_input_embeddings = model.get_output_embeddings = lambda: None
    if (policy := plugin.mixed_precision_policy) is not None:
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)
    try:
        yield
    finally:
        if is_adapted:
            del model.get_input_embeddings, model.get_output_embeddings
    if isinstance(model, FSDPModule):
        made, (_, written) = type(model), type(model).__bases__
        made.__name__, made.__qualname__, made.__module__ = written.__name__, written.__qualname__, written.__module__
