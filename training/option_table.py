"""Every option of train.py: the code that reads it, or the reason why it is not supported.

`option_checks` refuses options by this table, and `train.py --help_all` shows it. An option that a new release of
transformers adds is not supported until it has an entry here.
"""

from dataclasses import dataclass

NAMED_RUNS = ("comet_ml", "dagshub", "mlflow", "swanlab", "trackio", "wandb")  # integrations that read run_name

# What several options need; `option_checks.CONDITIONS` has the conditions
EVALUATED = "`eval_strategy` steps or epoch, or `eval_on_start`"
BEST = "`eval_strategy` steps or epoch, and `save_strategy` other than no or a schedule that follows the score"
NAMED = f"`report_to` one of {', '.join(NAMED_RUNS)}"


@dataclass(frozen=True)
class Option:
    """An entry of the table.

    Args:
        reader: "module:name" of the code that reads the option; None if the option is not supported.
        reason: why the option is not supported; of a supported option, which values are supported.
        only_with: key of `option_checks.CONDITIONS`; without it the option has no effect.
        neutral: values that change nothing, besides None and a default that is empty or zero.
        is_never_given: it is refused even with its default value.
    """

    reader: str | None = None
    reason: str = ""
    only_with: str | None = None
    neutral: tuple = ()
    is_never_given: bool = False


def read_by(reader: str, only_with: str | None = None, neutral: tuple = (), limit: str = "") -> Option:
    return Option(reader=reader, only_with=only_with, neutral=neutral, reason=limit)


def refused(reason: str, is_never_given: bool = False) -> Option:
    return Option(reason=reason, is_never_given=is_never_given)


_TRAINER = "transformers.trainer:Trainer."
_ARGUMENTS = "transformers.training_args:TrainingArguments."
_FLOW = "transformers.trainer_callback:DefaultFlowCallback."
_TRACKIO = "transformers.integrations.integration_utils:TrackioCallback.setup"
_OURS = "gemma_lisa.training.trainer:GemmaLisaTrainer."
_PUSHES = "gemma_lisa.training.hub_push:HubPushes."
_PARTS = "gemma_lisa.training.training_arguments:GemmaLisaTrainingArguments"
_MODEL = "gemma_lisa.training.load_model:load_model"
_LOSS = "gemma_lisa.modeling_gemma_lisa:GemmaLisaForConditionalGeneration._learn"
_DATA = "gemma_lisa.training.load_questions:training_questions"
_EVAL_DATA = "gemma_lisa.training.load_questions:evaluation_questions"
_PREVIEWS = "gemma_lisa.training.previews:PreviewCallback.of"
_MAIN = "gemma_lisa.train:train"
_NO_FLAG = "train.py always trains; eval_strategy turns on evaluation, and eval.py and predict.py are for the rest"
SHARED_OUT = "the loss and the training record depend on how Trainer distributes batches"
_LENGTHS = "the length of a sample is known only when its questions are drawn"

OPTIONS: dict[str, Option] = {
    # transformers' TrainingArguments
    "output_dir": read_by(f"{_TRAINER}_get_output_dir"),
    "per_device_train_batch_size": read_by(f"{_ARGUMENTS}train_batch_size"),
    "num_train_epochs": read_by(f"{_TRAINER}set_initial_training_values", "an unset `max_steps`"),
    "max_steps": read_by(f"{_TRAINER}set_initial_training_values"),
    "learning_rate": read_by(
        "gemma_lisa.training.trainer:groups_of", limit="no effect if every trained part has its own rate"
    ),
    "lr_scheduler_type": read_by(f"{_TRAINER}create_scheduler"),
    "lr_scheduler_kwargs": read_by(
        f"{_TRAINER}create_scheduler", "an `lr_scheduler_type` that has options", neutral=({}, "{}")
    ),
    "warmup_steps": read_by(f"{_ARGUMENTS}get_warmup_steps", "an `lr_scheduler_type` that warms up"),
    # With Muon, AdamW is torch's fused one
    "optim": read_by(
        f"{_TRAINER}get_optimizer_cls_and_kwargs",
        "an unset `muon_learning_rate`",
        neutral=("adamw_torch_fused",),
        limit="not GaLore, APOLLO or LOMO, which make their own parameter groups",
    ),
    "optim_args": read_by(f"{_TRAINER}get_optimizer_cls_and_kwargs", "an `optim` that reads each of them"),
    "weight_decay": read_by("gemma_lisa.training.trainer:groups_of"),
    "adam_beta1": read_by(f"{_TRAINER}get_optimizer_cls_and_kwargs", "an `optim` that has betas"),
    "adam_beta2": read_by(f"{_TRAINER}get_optimizer_cls_and_kwargs", "an `optim` that has betas"),
    "adam_epsilon": read_by(f"{_TRAINER}get_optimizer_cls_and_kwargs", "an `optim` that reads `adam_epsilon`"),
    "optim_target_modules": refused("only GaLore and APOLLO read it, and they are not supported"),
    "gradient_accumulation_steps": read_by(f"{_TRAINER}_run_epoch"),
    "average_tokens_across_devices": refused("losses are always divided by the counts of all devices"),
    "max_grad_norm": read_by(f"{_TRAINER}_run_epoch"),
    "label_smoothing_factor": refused("the model computes its loss without smoothing"),
    "bf16": read_by(_MAIN),
    "fp16": refused("use bf16: Gemma 3's activations exceed the range of fp16 and become NaN"),
    "bf16_full_eval": refused("use bf16: transformers applies this option only outside of training"),
    "fp16_full_eval": refused("use bf16: Gemma 3's activations exceed the range of fp16 and become NaN"),
    "tf32": read_by(f"{_ARGUMENTS}__post_init__"),
    "activation_checkpointing": read_by(f"{_TRAINER}train"),
    "activation_checkpointing_kwargs": read_by(f"{_TRAINER}train", "`activation_checkpointing`"),
    "gradient_checkpointing": refused("use activation_checkpointing, its new name", is_never_given=True),
    "gradient_checkpointing_kwargs": refused("use activation_checkpointing_kwargs, its new name", is_never_given=True),
    "torch_compile": refused("batch shapes change from step to step, and a speed-up was not measured"),
    "torch_compile_backend": refused("torch_compile is not supported"),
    "torch_compile_mode": refused("torch_compile is not supported"),
    "use_liger_kernel": refused("Liger has no kernels for this model and would silently do nothing"),
    "liger_kernel_config": refused("use_liger_kernel is not supported"),
    "use_cache": refused("a training step needs no KV cache"),
    "neftune_noise_alpha": read_by(f"{_TRAINER}train"),
    "torch_empty_cache_steps": read_by(f"{_TRAINER}training_step", "a GPU"),
    "auto_find_batch_size": refused(
        "use a lower per_device_train_batch_size with global_batch_size; a smaller micro-batch alone would change the "
        "global batch size"
    ),
    "logging_strategy": read_by(f"{_FLOW}on_step_end"),
    "logging_steps": read_by(f"{_FLOW}on_step_end", "`logging_strategy` steps"),
    "logging_first_step": read_by(f"{_FLOW}on_step_end"),
    "log_on_each_node": read_by(f"{_ARGUMENTS}should_log"),
    "logging_nan_inf_filter": refused("a loss that is not finite ends the run"),
    "include_num_input_tokens_seen": read_by(f"{_TRAINER}_track_num_input_tokens"),
    "log_level": read_by(f"{_ARGUMENTS}get_process_log_level"),
    "log_level_replica": read_by(f"{_ARGUMENTS}get_process_log_level"),
    "disable_tqdm": read_by(f"{_TRAINER}__init__"),
    "report_to": read_by(f"{_TRAINER}__init__"),
    "run_name": read_by("transformers.integrations.integration_utils:WandbCallback.setup", NAMED),
    "project": read_by(_TRACKIO, "`report_to` trackio"),
    "trackio_space_id": read_by(_TRACKIO, "`report_to` trackio"),
    "trackio_bucket_id": read_by(_TRACKIO, "`report_to` trackio"),
    "trackio_static_space_id": read_by(
        "transformers.integrations.integration_utils:TrackioCallback", "`report_to` trackio"
    ),
    "eval_strategy": read_by(f"{_FLOW}on_step_end"),
    "eval_steps": read_by(f"{_FLOW}on_step_end", "`eval_strategy` steps"),
    "eval_delay": read_by(f"{_FLOW}on_step_end", "`eval_strategy` steps or epoch"),
    "per_device_eval_batch_size": read_by(f"{_ARGUMENTS}eval_batch_size", EVALUATED),
    "prediction_loss_only": refused("an evaluation always computes the scores"),
    "eval_on_start": read_by(f"{_TRAINER}_inner_training_loop"),
    "eval_do_concat_batches": refused("the scores are computed over all batches"),
    "eval_use_gather_object": refused("the scores are computed from tensors, not from Python objects"),
    "eval_accumulation_steps": read_by(f"{_TRAINER}evaluation_loop", EVALUATED),
    "include_for_metrics": refused("the scores are computed from pixel counts only"),
    "batch_eval_metrics": refused("the scores are computed over all batches"),
    "save_only_model": refused("a run cannot be resumed from such a checkpoint"),
    "save_strategy": read_by(f"{_FLOW}on_step_end"),
    "save_steps": read_by(f"{_FLOW}on_step_end", "`save_strategy` steps"),
    "save_on_each_node": read_by(f"{_ARGUMENTS}should_save"),
    "save_total_limit": read_by(f"{_OURS}place_checkpoint", "a `save_strategy` other than no"),
    "enable_jit_checkpoint": refused(
        "a run stopped by SIGTERM would look finished; set save_steps, and repeat the command to resume"
    ),
    "push_to_hub": read_by(f"{_TRAINER}__init__", limit="not for an adapter"),
    "hub_token": read_by(f"{_TRAINER}init_hf_repo", "`push_to_hub`"),
    "hub_private_repo": read_by(f"{_TRAINER}init_hf_repo", "`push_to_hub` or `report_to` trackio"),
    "hub_model_id": read_by(f"{_TRAINER}init_hf_repo", "`push_to_hub`"),
    "hub_strategy": read_by(
        f"{_PUSHES}push_checkpoint", "`push_to_hub`, and for checkpoints a `save_strategy` other than no"
    ),
    "hub_always_push": read_by(
        f"{_PUSHES}push_checkpoint",
        "`push_to_hub` of checkpoints (`save_strategy` other than no, `hub_strategy` other than end)",
    ),
    "hub_revision": read_by(f"{_PUSHES}_push", "`push_to_hub`"),
    "load_best_model_at_end": read_by(f"{_TRAINER}_finalize_training", "`eval_strategy` steps or epoch"),
    "metric_for_best_model": read_by(
        f"{_TRAINER}_determine_best_metric", BEST, limit="loss, or a score that the questions can measure"
    ),
    "greater_is_better": read_by(
        f"{_TRAINER}_determine_best_metric",
        "`metric_for_best_model`, `eval_strategy` and `save_strategy` other than no",
    ),
    "ignore_data_skip": read_by(f"{_TRAINER}_init_training_state"),
    "restore_callback_states_from_checkpoint": refused("no callback has a state that a resumed run needs"),
    "full_determinism": read_by(f"{_TRAINER}__init__"),
    "seed": read_by(f"{_TRAINER}__init__"),
    "data_seed": read_by(f"{_PARTS}.order_seed"),
    "use_cpu": read_by(f"{_ARGUMENTS}_setup_devices"),
    "accelerator_config": read_by(
        f"{_TRAINER}create_accelerator_and_postprocess", limit="not the keys that change how batches are distributed"
    ),
    "parallelism_config": refused("only DDP, FSDP2 and DeepSpeed ZeRO are supported"),
    "dataloader_drop_last": read_by(
        f"{_TRAINER}_get_dataloader", "no `streaming` and no evaluation (which must have all samples)"
    ),
    "dataloader_num_workers": read_by(f"{_TRAINER}_get_dataloader"),
    "dataloader_pin_memory": read_by(f"{_TRAINER}_get_dataloader", "a GPU", neutral=(False,)),
    "dataloader_persistent_workers": read_by(
        f"{_TRAINER}_get_dataloader", "`dataloader_num_workers` above 0 and no `streaming`"
    ),
    "dataloader_prefetch_factor": read_by(f"{_TRAINER}_get_dataloader", "`dataloader_num_workers` above 0"),
    "dataloader_multiprocessing_context": read_by(f"{_TRAINER}_get_dataloader", "`dataloader_num_workers` above 0"),
    "dataloader_in_order": refused("a resumed run would read the rows in another order"),
    "remove_unused_columns": refused("the collator needs all columns"),
    "label_names": refused("the names of labels and masks are fixed"),
    "train_sampling_strategy": read_by(
        f"{_TRAINER}_get_train_sampler",
        "one data set (a mixture has its own order)",
        neutral=("random",),
        limit="only random or sequential",
    ),
    "length_column_name": refused(f"grouping by length is not supported: {_LENGTHS}"),
    "ddp_find_unused_parameters": read_by(f"{_TRAINER}_build_accelerator_args", "DDP, in several processes"),
    "ddp_bucket_cap_mb": read_by(f"{_TRAINER}_build_accelerator_args", "DDP, in several processes"),
    "ddp_broadcast_buffers": read_by(f"{_TRAINER}_build_accelerator_args", "DDP, in several processes"),
    "ddp_static_graph": read_by(f"{_TRAINER}_build_accelerator_args", "DDP, in several processes"),
    "ddp_backend": read_by(f"{_ARGUMENTS}_setup_devices", "several processes"),
    "ddp_timeout": read_by(f"{_ARGUMENTS}_setup_devices", "several processes with a GPU each"),
    "fsdp": read_by(f"{_ARGUMENTS}_process_fsdp_args", limit="only FSDP2, on GPUs"),
    "fsdp_config": read_by(f"{_ARGUMENTS}_process_fsdp_args", "`fsdp`", limit="only keys that FSDP2 reads"),
    "deepspeed": read_by(
        f"{_ARGUMENTS}__post_init__", limit="its configuration must not have an optimizer or scheduler"
    ),
    "debug": read_by(f"{_TRAINER}train", limit="only underflow_overflow"),
    "skip_memory_metrics": read_by(f"{_TRAINER}__init__"),
    "do_train": refused(_NO_FLAG, is_never_given=True),
    "do_eval": refused(_NO_FLAG, is_never_given=True),
    "do_predict": refused(_NO_FLAG, is_never_given=True),
    "resume_from_checkpoint": read_by("gemma_lisa.training.resume:begin"),
    "local_rank": read_by("gemma_lisa.training.option_checks:check_training"),
    # What train.py adds
    "muon_learning_rate": read_by("gemma_lisa.training.optimizers:muon_of"),
    "lora_learning_rate": read_by(_PARTS),
    "bridge_learning_rate": read_by(_PARTS),
    "decoder_learning_rate": read_by(_PARTS),
    "global_batch_size": read_by(_PARTS),
    "expected_processes": read_by("gemma_lisa.training.distributed:check_processes"),
    "fresh": read_by("gemma_lisa.training.resume:begin"),
    "self_check": read_by(_MAIN),
    "hub_license": read_by(f"{_PUSHES}_facts", "`push_to_hub`"),
    # The model
    "model": read_by(_MODEL),
    "trainable": read_by(_MODEL),
    "ce_loss_weight": read_by(_LOSS, "`learn_text`"),
    "bce_loss_weight": read_by(_LOSS, "`learn_masks`", neutral=(0,)),
    "dice_loss_weight": read_by(_LOSS, "`learn_masks`", neutral=(0,)),
    "score_loss_weight": read_by(_LOSS, "`learn_masks`", neutral=(0,)),
    "prompted_loss_weight": read_by(_LOSS, "`learn_masks`", neutral=(0,)),
    "adapter": read_by(_MODEL),
    "lora_rank": read_by(_MODEL),
    "lora_alpha": read_by(_MODEL),
    "lora_dropout": read_by(_MODEL),
    "lora_mlp": read_by(_MODEL),
    "use_rslora": read_by(_MODEL),
    "use_dora": read_by(_MODEL),
    "load_in_4bit": read_by(_MODEL),
    "load_in_8bit": read_by(_MODEL),
    # The data
    "dataset": read_by(_DATA),
    "mixture": read_by(_DATA),
    "epoch_length": read_by(_DATA),
    "streaming": read_by(_DATA),
    "data_dir": read_by(_DATA),
    "dataset_options": read_by(_DATA),
    "max_bad": read_by(_DATA, "a data set that reads files"),
    "train_split": read_by(_DATA),
    "eval_dataset": read_by(_EVAL_DATA),  # its rows are read and counted even without an evaluation
    "eval_split": read_by(_EVAL_DATA),
    "eval_rows": read_by(_EVAL_DATA, EVALUATED),
    "max_questions": read_by(_DATA),
    "allow_leakage": read_by("gemma_lisa.training.load_questions:find_held_out"),
    "languages": read_by(_DATA),
    "conversation_share": read_by(_DATA),
    "translations": read_by(_DATA, "`languages` other than English"),
    "learn_masks": read_by("gemma_lisa.train:build_trainer"),
    "learn_text": read_by("gemma_lisa.train:build_trainer"),
    "cache_features": read_by("gemma_lisa.training.cache_filling:open_filled", limit="not with `streaming`"),
    "cache_gb": read_by("gemma_lisa.training.cache_filling:open_filled", "`cache_features`"),
    "preview_samples": read_by(_PREVIEWS, EVALUATED, neutral=(0,)),
    "max_new_tokens": read_by(_PREVIEWS, "evaluation and `preview_samples` above 0"),
}

# Names in older releases of transformers, in LISA and in other trainers -> what to use here
RENAMED = {
    "adafactor": "optim: adafactor",
    "batch_size": "global_batch_size, or per_device_train_batch_size",
    "checkpoint": "resume_from_checkpoint",
    "data_path": "data_dir",
    "dataset_dir": "data_dir",
    "dataset_name": "dataset",
    "dialogue_share": "conversation_share",
    "dtype": "bf16",
    "epochs": "num_train_epochs",
    "eval_batch_size": "per_device_eval_batch_size",
    "evaluate_during_training": "eval_strategy",
    "evaluation_strategy": "eval_strategy",
    "exp_name": "output_dir",
    "fp16_backend": "bf16 (only bf16 and fp32 are supported)",
    "fp16_opt_level": "bf16 (only bf16 and fp32 are supported)",
    "fsdp_min_num_params": "fsdp_config",
    "fsdp_transformer_layer_cls_to_wrap": "fsdp_config",
    "grad_accumulation_steps": "gradient_accumulation_steps, or global_batch_size",
    "grad_clip": "max_grad_norm",
    "group_by_length": f"train_sampling_strategy, but not by length: {_LENGTHS}",
    "half_precision_backend": "bf16 (only bf16 and fp32 are supported)",
    "load_best": "load_best_model_at_end",
    "log_base_dir": "output_dir",
    "logging_dir": "the environment variable TENSORBOARD_LOGGING_DIR",
    "lora_r": "lora_rank",
    "lora_target_modules": "lora_mlp",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "max_epochs": "num_train_epochs",
    "mixed_precision": "bf16",
    "model_id": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "model_path": "model",
    "no_cuda": "use_cpu",
    "no_eval": "eval_strategy: no",
    "num_epochs": "num_train_epochs",
    "num_workers": "dataloader_num_workers",
    "optimizer": "optim",
    "overwrite_output_dir": "fresh",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "precision": "bf16",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_organization": "hub_model_id, as organization/name",
    "push_to_hub_token": "hub_token",
    "resume": "resume_from_checkpoint, or the same command again",
    "scheduler": "lr_scheduler_type",
    "sharded_ddp": "fsdp or deepspeed",
    "steps": "max_steps",
    "steps_per_epoch": "epoch_length, in samples",
    "torch_dtype": "bf16",
    "torchdynamo": "torch_compile, which is not supported",
    "train_batch_size": "global_batch_size, or per_device_train_batch_size",
    "val_dataset": "eval_dataset",
    "version": "model",
    "warmup_ratio": "warmup_steps, where a number below 1 is the share of all steps",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
    "workers": "dataloader_num_workers",
}
# Options of older releases of transformers -> why they are not supported
REMOVED = {
    "device": "training uses the GPUs that it finds; --use_cpu true trains on the CPU",
    "dispatch_batches": SHARED_OUT,
    "include_inputs_for_metrics": OPTIONS["include_for_metrics"].reason,
    "include_tokens_per_second": "use include_num_input_tokens_seen",
    "jit_mode_eval": "the model is not compiled",
    "mp_parameters": OPTIONS["parallelism_config"].reason,
    "past_index": OPTIONS["use_cache"].reason,
    "ray_scope": "hyperparameter search is not supported",
    "save_safetensors": "checkpoints are always safetensors",
    "split_batches": SHARED_OUT,
    "tpu_num_cores": "training on TPU is not supported",
    "use_ipex": "Intel's extension is not used",
    "use_mps_device": "the device is found automatically",
    "xpu_backend": "use ddp_backend",
}
