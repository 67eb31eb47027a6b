"""Load Gemma-LISA checkpoints, and adapters with their base model. Every error is one line."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.utils import logging

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.short_text import VALUE_LENGTH, reason_of, shorten, show

from .adapter_base import ADAPTER_CONFIG, find_base, identify, is_adapter
from .checksums import CHECKSUMS, check_checksums
from .devices import AUTO, choose_device, spread
from .quantization import check_quantization, check_quantized, keep_layout, quantization_config, quantization_of
from .small_files import check_json_files, open_processor

if TYPE_CHECKING:
    from .lora import AdaptedGemmaLisa

# `.lora` and bitsandbytes are imported only where they are used, because their imports take five seconds.

# The small checkpoint that is part of the project, and what it was trained on
EXAMPLE = Path(__file__).parents[1] / "examples" / "shapes-tiny"
EXAMPLE_KNOWS = "red, green and blue circles, squares and triangles in drawings, not photographs"

# Values of --dtype. "auto" is the type in which the weights are saved.
DTYPES = {"auto": "auto", "bfloat16": torch.bfloat16, "float32": torch.float32}

# A checkpoint contains a copy of the model code, but this project uses its own code.
AutoConfig.register(GemmaLisaConfig.model_type, GemmaLisaConfig)
AutoModel.register(GemmaLisaConfig, GemmaLisaForConditionalGeneration)
AutoProcessor.register(GemmaLisaConfig, GemmaLisaProcessor)


def load_asked(
    args: argparse.Namespace, dtype: torch.dtype | str = "auto"
) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """Return `load_checkpoint` of a program's options (`command_line.add_model_options`).

    Without --model this is the example checkpoint, with a note on stderr.
    """
    if args.model is None:
        print(
            f"model: examples/{EXAMPLE.name}, a small example. It knows {EXAMPLE_KNOWS}. For other images, give a "
            "trained checkpoint with --model.",
            file=sys.stderr,
        )
    return load_checkpoint(
        EXAMPLE if args.model is None else args.model,
        dtype=dtype,
        adapter=args.adapter,
        load_in_4bit=args.load_in_4bit,
        load_in_8bit=args.load_in_8bit,
        device=choose_device(args.device),
    )


def load_checkpoint(
    path: str | Path,
    dtype: torch.dtype | str = "auto",
    adapter: str | Path | None = None,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    device: torch.device | str | None = None,
) -> tuple["GemmaLisaForConditionalGeneration | AdaptedGemmaLisa", GemmaLisaProcessor]:
    """Load a model for inference and return it, in evaluation mode, with its processor.

    Args:
        path: folder or Hub name of a checkpoint, or folder of an adapter, whose base model is loaded too.
        dtype: type of the weights. "auto" is the type in which they are saved.
        adapter: folder of an adapter whose base model is now at `path`.
        load_in_4bit, load_in_8bit: quantize the text model. An adapter is then kept separate; else it is merged.
        device: device of the model (default: the CPU, or a GPU for quantized weights). "auto" spreads the model over
            all GPUs, then CPU memory and disk, with Accelerate; SAM stays on the first device.

    Raises:
        ValueError: the folder or name does not exist, is not a Gemma-LISA checkpoint, has missing or unexpected
            weights, or is an adapter of another base model.
    """
    model, processor = open_checkpoint(path, dtype, adapter, load_in_4bit, load_in_8bit, device)
    is_quantized = quantization_of(model.config) is not None
    if (adapter is not None or is_adapter(path)) and not is_quantized:
        from .lora import merge_adapter

        model = merge_adapter(model, model.dtype)
    if device not in (None, AUTO) and not is_quantized:
        model.to(device)
    return model.eval(), processor


def open_checkpoint(
    path: str | Path,
    dtype: torch.dtype | str = "auto",
    adapter: str | Path | None = None,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    device: torch.device | str | None = None,
    is_trainable: bool = False,
) -> tuple["GemmaLisaForConditionalGeneration | AdaptedGemmaLisa", GemmaLisaProcessor]:
    """Load like `load_checkpoint`, but without merging an adapter.

    Args:
        device: device of quantized weights. Other weights stay on the CPU.
        is_trainable: prepare the adapter for training.
    """
    if adapter is None and not is_adapter(path):
        return _load_whole(path, dtype, None, load_in_4bit, load_in_8bit, device)
    revision = None
    if adapter is None:
        adapter, recorded = path, find_base(path)
        path, revision = recorded.name, recorded.revision
    elif not is_adapter(adapter):
        raise ValueError(f"{adapter}: not an adapter, because it has no {ADAPTER_CONFIG}.")
    model, processor = _load_whole(path, dtype, revision, load_in_4bit, load_in_8bit, device)
    from .lora import attach_adapter

    return attach_adapter(model, adapter, identify(path, revision), is_trainable), processor


def _load_whole(
    path: str | Path,
    dtype: torch.dtype | str,
    revision: str | None,
    load_in_4bit: bool,
    load_in_8bit: bool,
    device: torch.device | str | None,
) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """Load a checkpoint without an adapter; see `load_checkpoint`."""
    config = _read_config(path, revision)
    if torch.float16 in (dtype, config.dtype if dtype == "auto" else None):
        raise ValueError(
            f"{path}: fp16 is not supported, because activations of Gemma 3 overflow it. Use bf16 or fp32."
        )
    check_quantization(config, path, load_in_4bit, load_in_8bit)
    if Path(path).is_dir():
        check_checksums(path)
    options = _quantize_or_place(config, path, dtype, load_in_4bit, load_in_8bit, device)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # hides the advice to install another image backend
    try:
        processor = open_processor(path, revision)
        model, info = GemmaLisaForConditionalGeneration.from_pretrained(
            path, dtype=dtype, output_loading_info=True, revision=revision, **options
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path}: its files cannot be read ({reason_of(error)}).") from error
    finally:
        logging.set_verbosity(verbosity)
    if not Path(path).is_dir():
        check_hub_checksums(str(path), revision)
    wrong = [str(key) for group in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[group]]
    if wrong:
        raise ValueError(f"{path}: {wrong_weights(wrong)}.")
    _check_tokens(model, processor, path)
    if quantization_of(config) is not None or load_in_4bit or load_in_8bit:
        if load_in_4bit or load_in_8bit:
            check_quantized(model)
        keep_layout(model)
    return model.eval(), processor


def wrong_weights(names: list[str]) -> str:
    """Return the message for weights that a checkpoint lacks or that the model does not have."""
    count = "1 weight is" if len(names) == 1 else f"{len(names)} weights are"
    return f"{count} missing, unexpected or of the wrong shape, such as {shorten(names[0], VALUE_LENGTH)}"


def _read_config(path: str | Path, revision: str | None) -> GemmaLisaConfig:
    """Return the configuration of a folder or Hub name.

    Raises:
        ValueError: the folder or name does not exist, its configuration cannot be read or is of another model type.
    """
    if not str(path).strip():
        raise ValueError("The name of the checkpoint is empty; expected a folder or a name on the Hub.")
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"{path}: not a checkpoint, because it has no config.json.")
    if Path(path).is_dir():
        check_json_files(Path(path))
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if Path(path).exists():
            raise ValueError(f"{path}: its config.json cannot be used ({reason_of(error)}).") from error
        raise ValueError(
            f"{shorten(str(path), VALUE_LENGTH)}: the folder does not exist, and no model with this name was found "
            "on the Hub or in the local cache. Check the name and the network connection."
        ) from error
    if not isinstance(config, GemmaLisaConfig):
        raise ValueError(
            f"{path}: a checkpoint of type {show(config.model_type)}; expected {GemmaLisaConfig.model_type!r}. Create "
            "a Gemma-LISA checkpoint from Gemma 3 and SAM with scripts/init_checkpoint.py."
        )
    return config


def _quantize_or_place(
    config: GemmaLisaConfig,
    path: str | Path,
    dtype: torch.dtype | str,
    load_in_4bit: bool,
    load_in_8bit: bool,
    device: torch.device | str | None,
) -> dict[str, Any]:
    """Return the options of `from_pretrained` that quantize the weights and place them on devices.

    Raises:
        ValueError: quantized weights were to be spread over devices, or SAM does not fit on the first device.
    """
    is_quantized = load_in_4bit or load_in_8bit
    is_saved_quantized = quantization_of(config) is not None
    if device == AUTO and (is_quantized or is_saved_quantized):
        raise ValueError(f"{path}: --device auto is not supported for quantized weights. Remove the option.")
    if device == AUTO:
        return {"device_map": spread(config, path, dtype)}
    if is_quantized:
        return {
            "quantization_config": quantization_config(load_in_4bit, load_in_8bit),
            "device_map": None if device is None else {"": device},
        }
    return {"device_map": {"": device}} if is_saved_quantized and device is not None else {}


def _check_tokens(model: GemmaLisaForConditionalGeneration, processor: GemmaLisaProcessor, path: str | Path) -> None:
    """Check that model and processor agree on the id of [SEG], and that answers end at <end_of_turn>.

    Raises:
        ValueError: one of these is wrong.
    """
    if model.config.seg_token_id != processor.seg_token_id:
        raise ValueError(
            f"{path}: the id of [SEG] is {processor.seg_token_id} in the tokenizer but {model.config.seg_token_id} in "
            "config.json. These files belong to different checkpoints; copy the checkpoint again."
        )
    stop = processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    stops = model.generation_config.eos_token_id
    if stop not in (stops if isinstance(stops, list) else [stops]):
        raise ValueError(
            f"{path}: eos_token_id in generation_config.json must contain {stop}, the id of <end_of_turn>."
        )


def check_hub_checksums(name: str, revision: str | None) -> None:
    """Check the cached files of a Hub name against the checksums of its repository, if it has any.

    Raises:
        ValueError: a file differs.
    """
    try:
        found = hf_hub_download(name, CHECKSUMS, revision=revision)
    except (EntryNotFoundError, OSError):  # there are none, or they are not cached and there is no network
        return
    check_checksums(Path(found).parent, missing_is_fine=True)
