"""Load the model to train, and set which parameters are trained."""

import torch

from gemma_lisa.checkpoints.adapter_base import identify, is_adapter
from gemma_lisa.checkpoints.loading import open_checkpoint
from gemma_lisa.checkpoints.lora import (
    TRAINED_WITH_LORA,
    AdaptedGemmaLisa,
    add_lora,
    check_trainable,
    hold_in,
    options_of,
    trained_names,
    trained_whole,
    whole_modules,
)
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

from .arguments import ModelArguments, given_lora_options

# Patterns of the parameters that are trained by default without LoRA
TRAINED_WHOLE = ["model.language_model.*", "seg_projector.*", "sam.mask_decoder.*"]
LOSS_WEIGHTS = [f"{name}_loss_weight" for name in ("ce", "bce", "dice", "score", "prompted")]


def load_model(
    model_args: ModelArguments, compute_dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> tuple[GemmaLisaForConditionalGeneration | AdaptedGemmaLisa, GemmaLisaProcessor]:
    """Return the model and its processor.

    Trained parameters are in fp32. Frozen ones are in `compute_dtype`, or in fp32 if the language model is trained.

    Raises:
        ValueError: the checkpoint is incomplete (`load_checkpoint`), a pattern matches no parameter, or the adapter
            does not match the LoRA options.
    """
    quantization = {"load_in_4bit": model_args.load_in_4bit, "load_in_8bit": model_args.load_in_8bit, "device": device}
    uses_adapter = model_args.lora_rank is not None or model_args.adapter or is_adapter(model_args.model)
    dtype = compute_dtype if uses_adapter else torch.float32
    model, processor = open_checkpoint(model_args.model, dtype, model_args.adapter, **quantization, is_trainable=True)
    check_trainable(model, model_args.lora_rank is not None, model_args.use_dora, model_args.model)
    for name in LOSS_WEIGHTS:
        if (weight := getattr(model_args, name)) is not None:
            setattr(model.config, name, weight)

    if isinstance(model, AdaptedGemmaLisa):
        check_adapter(model, model_args)
    elif model_args.lora_rank is not None:
        model = add_lora(
            model,
            model_args.lora_rank,
            model_args.lora_alpha,
            model_args.lora_dropout,
            model_args.lora_mlp,
            model_args.use_rslora,
            model_args.use_dora,
            model_args.trainable or TRAINED_WITH_LORA,
            identify(model_args.model),
        )
    else:
        trained = trained_names(model, model_args.trainable or TRAINED_WHOLE)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        if not any(name.startswith("model.language_model.") for name in trained):
            hold_in(model, compute_dtype, only_frozen=True)
    return model, processor


def check_adapter(model: AdaptedGemmaLisa, model_args: ModelArguments) -> None:
    """Check that the resumed adapter matches the given LoRA arguments.

    Raises:
        ValueError: it was trained with other options.
    """
    made = options_of(model)
    asked = made if model_args.lora_rank is not None else given_lora_options(model_args)
    wanted = {name: getattr(model_args, name) for name in asked}
    if wanted.get("lora_alpha", 0) is None:
        wanted["lora_alpha"] = 2 * model_args.lora_rank
    wrong = [f"{name} {made[name]}, not {value}" for name, value in wanted.items() if made[name] != value]
    trainable = model_args.trainable or (TRAINED_WITH_LORA if model_args.lora_rank is not None else None)
    if trainable is not None and (found := trained_whole(model)) != set(
        modules := whole_modules(model.get_base_model(), trainable)
    ):
        wrong.append(f"fully trained modules {', '.join(sorted(found))}, not {', '.join(modules)}")
    if wrong:
        raise ValueError(
            f"{model_args.adapter or model_args.model} is an adapter with {'; '.join(wrong)}. Remove these options to "
            "train it further. To start a new adapter on top of it, merge it with scripts/export.py first."
        )
