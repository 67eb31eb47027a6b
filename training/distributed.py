"""Which processes train and by which engine: what is found, and what is refused before any weight is read."""

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

from .training_arguments import GemmaLisaTrainingArguments

# What launchers tell a process of how many were started; a launcher that tells nothing is caught by expected_processes.
STARTED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# What accelerate launch sets for what is not supported -> its option, and the values without effect
UNSUPPORTED = {
    "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", ("", "no")),
    "ACCELERATE_USE_MEGATRON_LM": ("use_megatron_lm", ("", "false")),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("use_parallelism_config", ("", "false")),
}
# Of fsdp_config, what FSDP2 reads; transformers adds those that begin with xla
FSDP_OPTIONS = {
    *("version", "reshard_after_forward", "cpu_offload", "activation_checkpointing", "cpu_ram_efficient_loading"),
    *("state_dict_type", "auto_wrap_policy", "transformer_layer_cls_to_wrap", "min_num_params"),
    *("xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt"),
}
NOT_SHARDED = (DistributedType.NO, DistributedType.MULTI_CPU)
GATHER = "stage3_gather_16bit_weights_on_model_save"
WHOLE = "FULL_STATE_DICT"


def check_processes(args: GemmaLisaTrainingArguments) -> None:
    """Refuse to train in other processes, or by another engine, than were asked for.

    Raises:
        UsageError: what was asked for, what would run, and what to do.
    """
    if args.n_gpu > 1:
        raise UsageError(
            f"{args.n_gpu} GPUs in one process: images and conversations would be split apart. Start one "
            f"process each: torchrun --nproc_per_node {args.n_gpu} train.py ..."
        )
    started = max(int(os.environ.get(name) or 1) for name in STARTED)
    if args.world_size < started:
        raise UsageError(
            f"{started} processes were started, but {args.world_size} would train, each alone; start them by torchrun, "
            "and without a GPU for each add --use_cpu true."
        )
    if args.expected_processes not in (None, args.world_size):
        raise UsageError(
            f"expected_processes: {args.expected_processes}, but {args.world_size} would train; start them by "
            f"torchrun --nproc_per_node {args.expected_processes} train.py ... (accelerate launch --cpu starts one "
            "only, whatever --num_processes says)."
        )
    if asks_for_fsdp(args):
        _check_fsdp(args)
    stage = zero_stage(args)
    if stage is not None and args.distributed_state.distributed_type != DistributedType.DEEPSPEED:
        raise UsageError("deepspeed and use_cpu: the engine would be left out without a word; leave one of them out.")
    if stage == 3 and not args.deepspeed_plugin.deepspeed_config["zero_optimization"].get(GATHER):
        raise UsageError(f"ZeRO-3 without {GATHER}: what is saved could not be loaded; set it to true.")
    if args.muon_learning_rate is not None and (asks_for_fsdp(args) or stage is not None):
        raise UsageError(
            "muon_learning_rate: Muon needs whole matrices, and this engine cuts them apart; use DDP, or leave it out."
        )


def check_engine(args: GemmaLisaTrainingArguments) -> None:
    """Refuse options of accelerate launch, FSDP and DeepSpeed that have no effect, or that replace the recipe's.

    Raises:
        UsageError: of the first of them.
    """
    for name, (option, without_effect) in UNSUPPORTED.items():
        if (value := os.environ.get(name, "").lower()) not in without_effect:
            raise UsageError(f"accelerate launch --{option} {value} is not supported. Remove it.")
    if args.fsdp:
        unread = sorted(set(args.fsdp_config) - FSDP_OPTIONS)
        unread += [name for name in args.fsdp_config if name.startswith("xla") and args.fsdp_config[name]]
        if unread:
            raise UsageError(f"fsdp_config: FSDP2 does not read {', '.join(unread)}. Remove what it does not read.")
    in_engine = (args.fsdp_plugin_args or {}).get("activation_checkpointing") or (
        asks_for_fsdp(args) and os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true"
    )
    if in_engine and args.activation_checkpointing:
        raise UsageError("activation_checkpointing is given twice, and to FSDP too; remove one of them.")
    if args.deepspeed_plugin is None:
        return
    for name in ("optimizer", "scheduler"):
        if name in args.deepspeed_plugin.deepspeed_config:
            raise UsageError(
                f"DeepSpeed's configuration has a {name} of its own, beside which learning rates and other options "
                f"have no effect; remove {name} from it."
            )
    if args.deepspeed and (mismatches := args.hf_deepspeed_config.mismatches):
        raise UsageError(
            f"DeepSpeed's configuration differs from the options: {'; '.join(mismatches)}. Use auto there."
        )


def _check_fsdp(args: GemmaLisaTrainingArguments) -> None:
    if (kind := args.distributed_state.distributed_type) in NOT_SHARDED:
        what = "one process" if kind == DistributedType.NO else "CPU"
        raise UsageError(
            f"fsdp on {what}: nothing would be sharded, and nobody told; it needs several processes with a GPU each."
        )
    options = args.fsdp_plugin_args or {}
    version = options.get("fsdp_version") or os.environ.get("FSDP_VERSION", "1")
    if int(version) != 2:
        raise UsageError(f"fsdp version {version}: use FSDP2, as configs/accelerate/fsdp2.yaml has it.")
    state = str(options.get("state_dict_type") or os.environ.get("FSDP_STATE_DICT_TYPE", WHOLE))
    if WHOLE not in state:
        raise UsageError(f"fsdp state_dict_type {state}: no model would be saved at the end; use {WHOLE}.")
    thrifty = options.get("cpu_ram_efficient_loading", os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false"))
    if str(thrifty).lower() in ("true", "1"):
        raise UsageError(
            "fsdp cpu_ram_efficient_loading: every process needs the weights, LoRA and the row of [SEG] are made from "
            "them; set it to false."
        )


def asks_for_fsdp(args: GemmaLisaTrainingArguments) -> bool:
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def zero_stage(args: GemmaLisaTrainingArguments) -> int | None:
    """DeepSpeed's stage, or None without DeepSpeed."""
    return None if args.deepspeed_plugin is None else int(args.deepspeed_plugin.zero_stage)


def engine_of(args: GemmaLisaTrainingArguments) -> str:
    """What keeps the processes together, in words."""
    if (stage := zero_stage(args)) is not None:
        return f"DeepSpeed ZeRO-{stage}"
    if asks_for_fsdp(args):
        return "FSDP2"
    return "DDP" if args.world_size > 1 else "no engine"


def device_name(args: GemmaLisaTrainingArguments) -> str:
    """Return the name of the GPU, or how many cores the CPU has."""
    return torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else f"cpu, {os.cpu_count()} cores"


def hold_constants(model: nn.Module) -> None:
    """SAM's positional code as buffers: engines leave those whole and in fp32, and cut or round parameters.

    Names in a state dict stay the same, and what is shared stays shared.
    """
    held: dict[int, torch.Tensor] = {}
    for module in model.modules():
        code = getattr(module, "positional_embedding", None)
        if isinstance(code, nn.Parameter) and not code.requires_grad:
            del module.positional_embedding
            module.register_buffer("positional_embedding", held.setdefault(id(code), code.detach()))


@contextmanager
def whole_weights(args: GemmaLisaTrainingArguments) -> Iterator[None]:
    """While the model is made, ZeRO-3 does not cut its weights apart; DeepSpeed does it at the start of the training.

    transformers would do it while it reads them, in bf16, and LoRA, the row of `[SEG]` and SAM's positional code are
    made from whole weights. It costs memory of the host: every process reads all weights.
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
    """While Accelerate hands the model to its engine, keep FSDP2 from what it would do to it.

    An adapted model does not show its embedding and head. Accelerate gives them a unit each unless their weights are
    one tensor; PEFT, which trains the row of `[SEG]` in both, makes a new tensor at every look, and torch refuses a
    weight that two units share. In the outermost unit they are gathered as in their own. And the row is in a module of
    each: in one that both share, torch finds it once where its checkpoints have it twice, and does not go on from them.

    In bf16 gradients are added up over the processes in fp32, as under DDP, and losses are not rounded.

    The class that FSDP2 makes of the model's keeps that one's name: what is saved tells by it which code opens it.
    """
    if plugin is None or isinstance(model, FSDPModule):  # another engine; or it is prepared already
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
