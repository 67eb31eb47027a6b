"""Add LoRA to Gemma's text model, and train the `[SEG]` row and selected modules in full."""

import fnmatch
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import VALUE_LENGTH, listed, reason_of, shorten

from .adapter_base import ADAPTER_CONFIG, Base, check_base, write_base
from .checksums import check_checksums, write_checksums
from .loading import wrong_weights
from .quantization import TEXT_LINEARS, quantization_of
from .trained_rows import replace_rows_without_copies

# Full paths of the linear layers with LoRA. Full, because SigLIP and SAM also have a q_proj.
LORA_TARGETS = r"model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
TRAINED_WITH_LORA = ["seg_projector.*", "sam.mask_decoder.*"]
# Constants of SAM: its positional encoding
NEVER_TRAINED = ("sam.prompt_encoder.shared_embedding.", "sam.shared_image_embedding.")
# SAM's embeddings of points and boxes, of a mask, and of no mask
CLICKS = ("sam.prompt_encoder.point_embed.", "sam.prompt_encoder.not_a_point_embed.")
MASK, NO_MASK = "sam.prompt_encoder.mask_embed.", "sam.prompt_encoder.no_mask_embed."
WRAPPED = "base_model.model."
_WRAPPERS = re.compile(rf"^(?:module\.|_orig_mod\.|{re.escape(WRAPPED)})+")  # of DDP, torch.compile and PEFT
LORA, SEG_ROW = "LoRA", "the row of [SEG]"  # parts of the model that are not modules
# Fields that PEFT compiles to regular expressions, which can take exponential time
PATTERN_LISTS, PATTERN_MAPS = ("target_modules", "exclude_modules", "layers_pattern"), ("rank_pattern", "alpha_pattern")
MODULE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


class AdaptedGemmaLisa(PeftModel):
    """A Gemma-LISA with an adapter. Every saved folder records its base model (`adapter_base`)."""

    base: Base | None = None

    def __init__(self, *args, **kwargs):
        with warnings.catch_warnings():  # PEFT uses a name that transformers deprecates
            warnings.simplefilter("ignore", FutureWarning)
            super().__init__(*args, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """Save like PEFT, but without the embedding matrix, of which only one row is trained."""
        super().save_pretrained(save_directory, **{**kwargs, "save_embedding_layers": False})
        if kwargs.get("is_main_process", True):
            write_checksums(save_directory)
            if self.base is not None:
                write_base(save_directory, self.base)

    def _get_base_model_class(self, is_prompt_tuning=False):
        """Return the class with which AutoPeftModel loads the base. It cannot import the model's own class."""
        return AutoModel

    def create_or_update_model_card(self, output_dir):
        """Write no model card: PEFT's is an empty form, and training.json contains the facts."""

    def load_adapter(self, model_id, *args, **kwargs):
        """Load like PEFT, but raise an error for an adapter of another base model."""
        if self.base is not None:
            check_base(model_id, self.base)
        check_patterns(model_id)
        return super().load_adapter(model_id, *args, **kwargs)


def add_lora(
    model: PreTrainedModel,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    mlp: bool = False,
    use_rslora: bool = False,
    use_dora: bool = False,
    trainable: Iterable[str] = tuple(TRAINED_WITH_LORA),
    base: Base | None = None,
) -> AdaptedGemmaLisa:
    """Add LoRA layers and freeze all but these, the `[SEG]` row, and the modules that `trainable` matches.

    Args:
        model: model to change in place.
        rank, alpha, dropout, use_rslora, use_dora: options of PEFT's `LoraConfig` (default of alpha: 2 × rank).
        mlp: add LoRA to gate, up and down too, in addition to q, k, v and o.
        trainable: patterns of parameter names. They must match whole modules outside the text model.
        base: the checkpoint of `model`, which every saved adapter records.

    Raises:
        ValueError: a pattern matches nothing, only a part of a module, or the text model.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        use_rslora=use_rslora,
        use_dora=use_dora,
        target_modules=TEXT_LINEARS if mlp else LORA_TARGETS,
        modules_to_save=whole_modules(model, trainable) or None,
        trainable_token_indices=[model.config.seg_token_id],
    )
    if base is not None:
        config.base_model_name_or_path, config.revision = base.name, base.revision
    adapted = AdaptedGemmaLisa(model, config)
    replace_rows_without_copies(adapted)
    adapted.base = base
    hold_trained_in_fp32(adapted)
    return adapted


def attach_adapter(
    model: PreTrainedModel, adapter: str | Path, base: Base, is_trainable: bool = False
) -> AdaptedGemmaLisa:
    """Load a saved adapter on its base model.

    Args:
        model: base model to change in place.
        adapter: folder of the adapter.
        base: the checkpoint of `model`.
        is_trainable: prepare the adapter for training, with its weights in fp32.

    Raises:
        ValueError: the adapter belongs to another base, its weights do not match its configuration, or see
            `check_patterns`.
    """
    check_base(adapter, base)
    check_checksums(adapter)
    check_patterns(adapter)
    weights = Path(adapter) / SAFETENSORS_WEIGHTS_NAME
    try:
        with safe_open(weights, "pt") as file:
            found = set(file.keys())
        adapted = AdaptedGemmaLisa.from_pretrained(
            model, str(adapter), is_trainable=is_trainable, torch_device=str(model.device)
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{adapter}: its files cannot be read ({reason_of(error)}).") from error
    wrong = found ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if wrong:
        raise ValueError(f"{weights}: {wrong_weights(sorted(wrong))}.")
    replace_rows_without_copies(adapted)
    adapted.base = base
    if is_trainable:
        hold_trained_in_fp32(adapted)
    return adapted


def check_patterns(adapter: str | Path) -> None:
    """Refuse an adapter whose configuration contains an unknown regular expression.

    PEFT would run the expression of an untrusted author, and some expressions take exponential time.

    Raises:
        ValueError: an entry is not a list of module names, or the configuration cannot be read.
    """
    path = Path(adapter) / ADAPTER_CONFIG
    if not path.is_file():
        return  # PEFT looks for a name on the Hub, or raises its own error
    try:
        config = parse_json(path.read_bytes())
        entries = [(name, config.get(name)) for name in (*PATTERN_LISTS, *PATTERN_MAPS)]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: the file is damaged ({reason_of(error)}). Copy the adapter again.") from error
    for name, value in entries:
        if value is None or (name == "target_modules" and value in (LORA_TARGETS, TEXT_LINEARS)):
            continue
        names = [value] if isinstance(value, str) and name == "layers_pattern" else value
        wanted = dict if name in PATTERN_MAPS else list
        if not isinstance(names, wanted) or not all(
            isinstance(found, str) and MODULE_NAME.fullmatch(found) for found in names
        ):
            raise ValueError(
                f"{path}: {name} is {shorten(str(value), VALUE_LENGTH)}; expected names of modules. Regular "
                "expressions are not supported here. Use an adapter from a source that you trust, or train it again."
            )


def options_of(adapted: AdaptedGemmaLisa) -> dict[str, float | bool]:
    """Return the LoRA options of an adapter, by the option names of train.py."""
    config = adapted.peft_config["default"]
    return {
        "lora_rank": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "lora_mlp": config.target_modules == TEXT_LINEARS,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }


def trained_whole(adapted: AdaptedGemmaLisa) -> set[str]:
    """Return the paths of the modules that the adapter trains in full."""
    return set(adapted.peft_config["default"].modules_to_save or [])


def merge_adapter(adapted: AdaptedGemmaLisa, dtype: torch.dtype) -> PreTrainedModel:
    """Return the base model with the adapter merged into its weights, in `dtype`."""
    model = adapted.merge_and_unload()
    hold_in(model, dtype)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# What is trained
# ---------------------------------------------------------------------------------------------------------------------
def trained_names(model: PreTrainedModel, patterns: Iterable[str]) -> set[str]:
    """Return the names of the matching parameters, except those that would get no gradient.

    Raises:
        ValueError: a pattern matches nothing.
    """
    unmatched, names = set(patterns), set()
    without_gradient = _without_gradient(model.config)
    for name, _ in model.named_parameters():
        matching = {pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)}
        unmatched -= matching
        if matching and not name.startswith(without_gradient):
            names.add(name)
    if unmatched:
        raise ValueError(f"trainable: no parameter of the model matches {listed(sorted(unmatched))}.")
    return names


def _without_gradient(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the starts of the names of parameters that no loss depends on."""
    has_map, has_clicks = config.bridge == "heat_map", bool(config.prompted_loss_weight)
    unused = NEVER_TRAINED if has_clicks else (*NEVER_TRAINED, *CLICKS)
    if has_map:  # it is always a mask prompt
        return (*unused, NO_MASK)
    return unused if has_clicks else (*unused, MASK)


def whole_modules(model: PreTrainedModel, patterns: Iterable[str]) -> list[str]:
    """Return the paths of the largest modules whose parameters all match. PEFT copies, trains and saves these.

    Raises:
        ValueError: a pattern matches nothing, only a part of a module, or the text model, which LoRA trains.
    """
    wanted = trained_names(model, patterns)
    if text := sorted(name for name in wanted if name.startswith(("model.language_model.", "lm_head."))):
        raise ValueError(
            f"trainable: {text[0]} belongs to the text model, which LoRA trains. Remove either lora_rank or the "
            "pattern that matches it."
        )
    chosen: list[str] = []
    for path, module in model.named_modules():  # parents before their children
        names = {f"{path}.{name}" for name, _ in module.named_parameters()} if path else set()
        if names and names <= wanted:
            chosen.append(path)
            wanted -= names
    if wanted:
        raise ValueError(
            f"trainable: {min(wanted)} is only a part of a module. With lora_rank, patterns must match whole modules, "
            "for example sam.mask_decoder.*"
        )
    _check_whole_bridge(chosen, model.config)
    return chosen


# ---------------------------------------------------------------------------------------------------------------------
# Precision
# ---------------------------------------------------------------------------------------------------------------------
def check_trainable(model: PreTrainedModel | AdaptedGemmaLisa, gets_lora: bool, use_dora: bool, path: str) -> None:
    """Check that saved quantized weights are trained only with LoRA.

    Raises:
        ValueError: they would be trained without LoRA, or with an unsupported combination of options.
    """
    saved = quantization_of(model.config)
    if saved is None:
        return
    if not gets_lora and not isinstance(model, AdaptedGemmaLisa):
        raise ValueError(
            f"{path}: its weights are quantized ({saved}) and cannot be trained. Set lora_rank to train LoRA, or use "
            "the checkpoint that is not quantized."
        )
    if use_dora and saved == "8 bits":
        raise ValueError(
            f"{path}: its weights are quantized ({saved}), and PEFT does not support DoRA with int8 weights. Remove "
            "use_dora."
        )


def hold_trained_in_fp32(model: nn.Module) -> None:
    """Convert trainable weights to fp32, because small optimizer steps are lost in bf16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def hold_in(model: PreTrainedModel, dtype: torch.dtype, only_frozen: bool = False) -> None:
    """Convert weights to `dtype`, except those that must stay in fp32 (see modeling_gemma_lisa)."""
    exact = tuple(model._keep_in_fp32_modules_strict)
    for name, parameter in model.named_parameters():
        if not (only_frozen and parameter.requires_grad) and not any(part in name for part in exact):
            parameter.data = parameter.data.to(dtype)


def part_of_weight(name: str) -> str | None:
    """Return the part of the model to which a parameter belongs, also in a wrapped model.

    It is None for a frozen weight that PEFT replaced by a trained copy.
    """
    name = _WRAPPERS.sub("", name)
    if ".original_module." in name:
        return None
    if "lora_" in name:
        return LORA
    if "trainable_tokens_delta" in name:
        return SEG_ROW
    return ".".join(name.split(".")[: 2 if name.startswith(("model.", "sam.")) else 1])


def _check_whole_bridge(modules: list[str], config: PreTrainedConfig) -> None:
    """Raise ValueError if only parts of a bridge with measured numbers are trained: PEFT would not save the numbers."""
    parts = [name for name in modules if name.startswith("seg_projector.")]
    if parts and config.bridge != "mlp":
        raise ValueError(f"trainable: {parts[0]} is only a part of the bridge. With lora_rank, use seg_projector.*.")


def count_weights(parameter: nn.Parameter) -> int:
    """Return the number of weights in a parameter. Packed 4-bit parameters have two per byte."""
    packed = type(parameter).__name__ == "Params4bit"
    return parameter.numel() * (2 * parameter.element_size() if packed else 1)


def type_of(parameter: nn.Parameter) -> str:
    """Return the type in which a parameter is stored: "fp32", "bf16", "int8" or "nf4"."""
    if type(parameter).__name__ == "Params4bit":
        return "nf4"
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int8: "int8"}
    return names.get(parameter.dtype, str(parameter.dtype).removeprefix("torch."))
