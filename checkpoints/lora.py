"""LoRA on Gemma's text model, with the row of `[SEG]` and a few modules trained whole beside it."""

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
from transformers import AutoModel, PreTrainedModel

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import VALUE_LENGTH, shorten

from .adapter_base import ADAPTER_CONFIG, Base, check_base, write_base
from .checksums import check_checksums, write_checksums
from .quantization import TEXT_LINEARS, quantization_of

# Paths of the linear layers that LoRA goes into: whole, because SigLIP and SAM have a q_proj too.
LORA_TARGETS = r"model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
TRAINED_WITH_LORA = ["seg_projector.*", "sam.mask_decoder.*"]
# SAM's positional code is a constant; its codes of clicks, boxes and masks are taught only where those are simulated.
NEVER_TRAINED = ("sam.prompt_encoder.shared_embedding.", "sam.shared_image_embedding.")
PROMPTS_BY_HAND = (
    "sam.prompt_encoder.mask_embed.",
    "sam.prompt_encoder.point_embed.",
    "sam.prompt_encoder.not_a_point_embed.",
)
WRAPPED = "base_model.model."
_WRAPPERS = re.compile(rf"^(?:module\.|_orig_mod\.|{re.escape(WRAPPED)})+")  # of DDP, torch.compile, PEFT
LORA, SEG_ROW = "LoRA", "the row of [SEG]"  # parts of the model beside its modules
# What PEFT compiles to regular expressions, one of which can take forever
PATTERN_LISTS, PATTERN_MAPS = ("target_modules", "exclude_modules", "layers_pattern"), ("rank_pattern", "alpha_pattern")
MODULE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


class AdaptedGemmaLisa(PeftModel):
    """A Gemma-LISA with an adapter, whose every saved folder says which base it belongs to (`adapter_base`)."""

    base: Base | None = None

    def __init__(self, *args, **kwargs):
        with warnings.catch_warnings():  # PEFT asks for a name that transformers is about to drop
            warnings.simplefilter("ignore", FutureWarning)
            super().__init__(*args, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """As PEFT, never with the embedding matrix: one row of it is trained, and saved as such."""
        super().save_pretrained(save_directory, **{**kwargs, "save_embedding_layers": False})
        if kwargs.get("is_main_process", True):
            write_checksums(save_directory)
            if self.base is not None:
                write_base(save_directory, self.base)

    def _get_base_model_class(self, is_prompt_tuning=False):
        """The class that AutoPeftModel opens the base with. The model's own lies in code that it cannot import."""
        return AutoModel

    def create_or_update_model_card(self, output_dir):
        """None: PEFT's is a form with blanks; training.json says what there is to say."""

    def load_adapter(self, model_id, *args, **kwargs):
        """As PEFT, but not the adapter of another base."""
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
    """Freeze the model but for new LoRA layers, the row of `[SEG]`, and the modules that `trainable` matches.

    Args:
        model: changed in place.
        rank, alpha, dropout, use_rslora, use_dora: PEFT's; alpha is 2 × rank by default.
        mlp: LoRA in gate, up and down too, not in q, k, v, o only.
        trainable: patterns of parameter names; what they match must be whole modules outside the text model.
        base: which checkpoint `model` is; every saved adapter will tell.

    Raises:
        ValueError: a pattern that matches nothing, a part of a module only, or the text model.
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
    adapted.base = base
    hold_trained_in_fp32(adapted)
    return adapted


def attach_adapter(
    model: PreTrainedModel, adapter: str | Path, base: Base, is_trainable: bool = False
) -> AdaptedGemmaLisa:
    """The saved adapter on its base, which is changed in place; where it is to be trained on, held in fp32.

    Raises:
        ValueError: it belongs to another base, or its file does not hold what its configuration says; as
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
        raise ValueError(f"{adapter}: its files cannot be read: {error}") from error
    wrong = found ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if wrong:
        raise ValueError(f"{weights}: {len(wrong)} weights are missing or left over, as {min(wrong)}.")
    adapted.base = base
    if is_trainable:
        hold_trained_in_fp32(adapted)
    return adapted


def check_patterns(adapter: str | Path) -> None:
    """Refuse an adapter whose configuration has a regular expression of its own: whoever made it would choose what
    PEFT runs here, and some take forever.

    Raises:
        ValueError: which entry, and what is expected. Or the configuration cannot be read.
    """
    path = Path(adapter) / ADAPTER_CONFIG
    if not path.is_file():
        return  # a name on the Hub, which PEFT looks up; or it says that there is none
    try:
        config = parse_json(path.read_bytes())
        entries = [(name, config.get(name)) for name in (*PATTERN_LISTS, *PATTERN_MAPS)]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: the file is damaged ({error}); copy the adapter again.") from error
    for name, value in entries:
        if value is None or (name == "target_modules" and value in (LORA_TARGETS, TEXT_LINEARS)):
            continue
        names = [value] if isinstance(value, str) and name == "layers_pattern" else value
        wanted = dict if name in PATTERN_MAPS else list
        if not isinstance(names, wanted) or not all(
            isinstance(found, str) and MODULE_NAME.fullmatch(found) for found in names
        ):
            raise ValueError(
                f"{path}: {name} is {shorten(str(value), VALUE_LENGTH)}; expected names of modules, without a regular "
                "expression. Get the adapter from someone you trust, or train it again."
            )


def options_of(adapted: AdaptedGemmaLisa) -> dict[str, float | bool]:
    """The options of LoRA that the adapter was made with, by the names of train.py."""
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
    """Paths of the modules that the adapter holds whole."""
    return set(adapted.peft_config["default"].modules_to_save or [])


def merge_adapter(adapted: AdaptedGemmaLisa, dtype: torch.dtype) -> PreTrainedModel:
    """The base with the adapter's changes in its own weights, all of them in `dtype`."""
    model = adapted.merge_and_unload()
    hold_in(model, dtype)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# What is trained
# ---------------------------------------------------------------------------------------------------------------------
def trained_names(model: PreTrainedModel, patterns: Iterable[str]) -> set[str]:
    """Names of the parameters that the patterns match, but for those that nothing would teach.

    Raises:
        ValueError: a pattern that matches nothing.
    """
    unmatched, names = set(patterns), set()
    untaught = NEVER_TRAINED if model.config.prompted_loss_weight else (*NEVER_TRAINED, *PROMPTS_BY_HAND)
    for name, _ in model.named_parameters():
        matching = {pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)}
        unmatched -= matching
        if matching and not name.startswith(untaught):
            names.add(name)
    if unmatched:
        raise ValueError(f"trainable: {', '.join(sorted(unmatched))} matches no parameter of the model.")
    return names


def whole_modules(model: PreTrainedModel, patterns: Iterable[str]) -> list[str]:
    """The largest modules whose parameters all match: what PEFT is to copy, train and save.

    Raises:
        ValueError: a pattern that matches nothing, a part of a module only, or the text model, which LoRA trains.
    """
    wanted = trained_names(model, patterns)
    if text := sorted(name for name in wanted if name.startswith(("model.language_model.", "lm_head."))):
        raise ValueError(f"trainable: {text[0]} is of the text model, which LoRA trains; leave lora_rank or it out.")
    chosen: list[str] = []
    for path, module in model.named_modules():  # parents before their children
        names = {f"{path}.{name}" for name, _ in module.named_parameters()} if path else set()
        if names and names <= wanted:
            chosen.append(path)
            wanted -= names
    if wanted:
        raise ValueError(f"trainable: beside LoRA modules are trained whole, but {min(wanted)} is a part of one.")
    return chosen


# ---------------------------------------------------------------------------------------------------------------------
# Precision
# ---------------------------------------------------------------------------------------------------------------------
def check_trainable(model: PreTrainedModel | AdaptedGemmaLisa, gets_lora: bool, use_dora: bool, path: str) -> None:
    """Refuse to train weights that are saved quantised, other than below LoRA.

    Raises:
        ValueError: how they are saved, and what to do.
    """
    saved = quantization_of(model.config)
    if saved is None:
        return
    if not gets_lora and not isinstance(model, AdaptedGemmaLisa):
        raise ValueError(
            f"{path}: its weights are quantised to {saved}, too coarse for training steps; set lora_rank to train LoRA "
            "beside them, or give the checkpoint that was not quantised."
        )
    if use_dora and saved == "8 bits":
        raise ValueError(
            f"{path}: its weights are quantised to {saved}, and DoRA loses the scale of int8 weights in PEFT; leave "
            "use_dora out."
        )


def hold_trained_in_fp32(model: nn.Module) -> None:
    """Steps of an optimizer are too small for bf16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def hold_in(model: PreTrainedModel, dtype: torch.dtype, only_frozen: bool = False) -> None:
    """Weights in `dtype`, but for those that must stay in fp32 (see modeling_gemma_lisa)."""
    exact = tuple(model._keep_in_fp32_modules_strict)
    for name, parameter in model.named_parameters():
        if not (only_frozen and parameter.requires_grad) and not any(part in name for part in exact):
            parameter.data = parameter.data.to(dtype)


def part_of_weight(name: str) -> str | None:
    """The part of the model that a parameter is counted to, whatever wrapped the model.

    None for a weight that a trained copy stands in for.
    """
    name = _WRAPPERS.sub("", name)
    if ".original_module." in name:
        return None
    if "lora_" in name:
        return LORA
    if "trainable_tokens_delta" in name:
        return SEG_ROW
    return ".".join(name.split(".")[: 2 if name.startswith(("model.", "sam.")) else 1])


def count_weights(parameter: nn.Parameter) -> int:
    """How many numbers a parameter holds: two in a byte where it is quantised to 4 bits."""
    packed = type(parameter).__name__ == "Params4bit"
    return parameter.numel() * (2 * parameter.element_size() if packed else 1)


def type_of(parameter: nn.Parameter) -> str:
    """What a parameter's numbers are held in: "fp32", "bf16", "int8", "nf4"."""
    if type(parameter).__name__ == "Params4bit":
        return "nf4"
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int8: "int8"}
    return names.get(parameter.dtype, str(parameter.dtype).removeprefix("torch."))
