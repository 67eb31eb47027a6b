"""Open a Gemma-LISA checkpoint whole, an adapter on its base too, or say in one line why not."""

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

from .adapter_base import ADAPTER_CONFIG, identify, is_adapter, read_base
from .checksums import CHECKSUMS, check_checksums
from .devices import AUTO, choose_device, spread
from .quantization import check_quantization, check_quantized, keep_layout, quantization_config, quantization_of
from .small_files import check_json_files, open_processor

if TYPE_CHECKING:
    from .lora import AdaptedGemmaLisa

# `.lora` is imported where an adapter is opened, bitsandbytes where weights are quantised: they take five seconds.

# The small checkpoint that is part of the project, and what it was trained on
EXAMPLE = Path(__file__).parents[1] / "examples" / "shapes-tiny"
EXAMPLE_KNOWS = "red, green and blue circles, squares and triangles in drawings, not photographs"

# What --dtype takes; "auto" is the type that the weights are saved in.
DTYPES = {"auto": "auto", "bfloat16": torch.bfloat16, "float32": torch.float32}

# A checkpoint also carries the code it was saved with; here the project's own is used.
AutoConfig.register(GemmaLisaConfig.model_type, GemmaLisaConfig)
AutoModel.register(GemmaLisaConfig, GemmaLisaForConditionalGeneration)
AutoProcessor.register(GemmaLisaConfig, GemmaLisaProcessor)


def load_asked(
    args: argparse.Namespace, dtype: torch.dtype | str = "auto"
) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """What a program was asked to open: --model, by default the example, which is said aloud, and what
    `command_line.add_model_options` adds to it. Raises as `load_checkpoint`.
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
    """Model (in evaluation mode) and processor, for use.

    Args:
        path: folder or Hub name of a checkpoint; or folder of an adapter, whose base is opened below it.
        dtype: of the weights; "auto": as they are saved.
        adapter: folder of an adapter whose base is `path`, wherever that was when it was trained.
        load_in_4bit, load_in_8bit: quantise the text model; an adapter then stays beside it, else it is merged.
        device: where to; by default the CPU, or a GPU for quantised weights if there is one. "auto": over all GPUs, and
            what does not fit in the CPU's memory or on disk, by Accelerate; SAM stays in one piece.

    Raises:
        ValueError: no such folder or name; not a Gemma-LISA checkpoint; weights that are missing or left over; an
            adapter of another base.
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
    """As `load_checkpoint`, but the adapter, if there is one, is not merged; `is_trainable`: it is to be trained on.

    `device` is where quantised weights are put; others are left on the CPU.
    """
    if adapter is None and not is_adapter(path):
        return _load_whole(path, dtype, None, load_in_4bit, load_in_8bit, device)
    revision = None
    if adapter is None:
        adapter, recorded = path, read_base(path)
        path, revision = recorded.name, recorded.revision
        if revision is None and not Path(path).is_dir():
            raise ValueError(
                f"{adapter}: an adapter, whose base {path} is not there any more; where it is now, say "
                f"--model BASE --adapter {adapter}."
            )
    elif not is_adapter(adapter):
        raise ValueError(f"{adapter}: no adapter, it holds no {ADAPTER_CONFIG}.")
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
    """The checkpoint itself; see `load_checkpoint`."""
    config = _read_config(path, revision)
    if torch.float16 in (dtype, config.dtype if dtype == "auto" else None):
        raise ValueError(f"{path}: fp16 is too narrow for Gemma 3, whose activations become NaN; save it in bf16.")
    check_quantization(config, path, load_in_4bit, load_in_8bit)
    if Path(path).is_dir():
        check_checksums(path)
    options = _quantize_or_place(config, path, dtype, load_in_4bit, load_in_8bit, device)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the processor pins its own image backend: no advice on installing another
    try:
        processor = open_processor(path, revision)
        model, info = GemmaLisaForConditionalGeneration.from_pretrained(
            path, dtype=dtype, output_loading_info=True, revision=revision, **options
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path}: its files cannot be read: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    if not Path(path).is_dir():
        check_hub_checksums(str(path), revision)
    wrong = [str(key) for group in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[group]]
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} weights are missing or left over, as {wrong[0]}.")
    _check_tokens(model, processor, path)
    if quantization_of(config) is not None or load_in_4bit or load_in_8bit:
        if load_in_4bit or load_in_8bit:
            check_quantized(model)
        keep_layout(model)
    return model.eval(), processor


def _read_config(path: str | Path, revision: str | None) -> GemmaLisaConfig:
    """Return the configuration of a folder or a name on the Hub.

    Raises:
        ValueError: no such folder or name; it cannot be read, or is of another kind of model.
    """
    if not str(path).strip():
        raise ValueError("The name of the checkpoint is empty; expected a folder or a name on the Hub.")
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"{path}: no checkpoint, it holds no config.json.")
    if Path(path).is_dir():
        check_json_files(Path(path))
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if Path(path).exists():
            raise ValueError(f"{path}: its config.json cannot be used: {error}") from error
        raise ValueError(f"{path}: no such folder, and no such name on the Hub can be reached.") from error
    if not isinstance(config, GemmaLisaConfig):
        raise ValueError(
            f"{path}: a checkpoint of type {config.model_type!r}, which has no [SEG]; make a Gemma-LISA of it with "
            "scripts/init_checkpoint.py."
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
    """Return the options of `from_pretrained` that quantise the weights and place them on devices.

    Raises:
        ValueError: quantised weights are to be spread over devices, or SAM does not fit on the first.
    """
    is_quantized = load_in_4bit or load_in_8bit
    is_saved_quantized = quantization_of(config) is not None
    if device == AUTO and (is_quantized or is_saved_quantized):
        raise ValueError(f"{path}: quantised weights are put on one device; leave --device auto out.")
    if device == AUTO:
        return {"device_map": spread(config, path, dtype)}
    if is_quantized:
        return {
            "quantization_config": quantization_config(load_in_4bit, load_in_8bit),
            "device_map": None if device is None else {"": device},
        }
    return {"device_map": {"": device}} if is_saved_quantized and device is not None else {}


def _check_tokens(model: GemmaLisaForConditionalGeneration, processor: GemmaLisaProcessor, path: str | Path) -> None:
    """Check that model and processor agree on [SEG], and that answers stop at <end_of_turn>.

    Raises:
        ValueError: they do not.
    """
    if model.config.seg_token_id != processor.seg_token_id:
        raise ValueError(
            f"{path}: [SEG] is token {processor.seg_token_id} of the tokenizer but {model.config.seg_token_id} in the "
            "configuration; they are not of one checkpoint."
        )
    stop = processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    stops = model.generation_config.eos_token_id
    if stop not in (stops if isinstance(stops, list) else [stops]):
        raise ValueError(f"{path}: its generation_config.json does not stop at <end_of_turn> (token {stop}).")


def check_hub_checksums(name: str, revision: str | None) -> None:
    """`check_checksums` of the cached files of a name on the Hub, where its repository has checksums.

    Raises:
        ValueError: a file differs.
    """
    try:
        found = hf_hub_download(name, CHECKSUMS, revision=revision)
    except (EntryNotFoundError, OSError):  # it has none, or they are not in the cache of a machine without network
        return
    check_checksums(Path(found).parent, missing_is_fine=True)
