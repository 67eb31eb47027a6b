"""Open a Gemma-LISA checkpoint whole, or say in one line why not."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.utils import logging

from .configuration_gemma_lisa import GemmaLisaConfig
from .modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from .processing_gemma_lisa import GemmaLisaProcessor

# The small checkpoint that comes with the project: it knows drawn shapes and nothing else.
EXAMPLE = Path(__file__).parent / "examples" / "shapes-tiny"

# A checkpoint also carries the code it was saved with; here the project's own is used.
AutoConfig.register(GemmaLisaConfig.model_type, GemmaLisaConfig)
AutoModel.register(GemmaLisaConfig, GemmaLisaForConditionalGeneration)
AutoProcessor.register(GemmaLisaConfig, GemmaLisaProcessor)


def load_checkpoint(
    path: str | Path, dtype: torch.dtype | str = "auto"
) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """Model (in evaluation mode) and processor of a folder or a Hub name.

    Raises:
        ValueError: no such folder or name; not a Gemma-LISA checkpoint; weights that are missing or left over.
    """
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"{path}: no checkpoint, it holds no config.json.")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if Path(path).exists():
            raise ValueError(f"{path}: its config.json cannot be used: {error}") from error
        raise ValueError(f"{path}: no such folder, and no such name on the Hub can be reached.") from error
    if not isinstance(config, GemmaLisaConfig):
        raise ValueError(
            f"{path}: a checkpoint of type {config.model_type!r}, which has no [SEG]; make a Gemma-LISA of it with "
            "scripts/init_checkpoint.py."
        )
    if torch.float16 in (dtype, config.dtype if dtype == "auto" else None):
        raise ValueError(f"{path}: fp16 is too narrow for Gemma 3, whose activations become NaN; save it in bf16.")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the processor pins its own image backend: no advice on installing another
    try:
        processor = GemmaLisaProcessor.from_pretrained(path, trust_remote_code=False)
        model, info = GemmaLisaForConditionalGeneration.from_pretrained(path, dtype=dtype, output_loading_info=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path}: its files cannot be read: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    wrong = [str(key) for group in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[group]]
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} weights are missing or left over, as {wrong[0]}.")
    if model.config.seg_token_id != processor.seg_token_id:
        raise ValueError(
            f"{path}: [SEG] is token {processor.seg_token_id} of the tokenizer but {model.config.seg_token_id} in the "
            "configuration; they are not of one checkpoint."
        )
    stop = processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    stops = model.generation_config.eos_token_id
    if stop not in (stops if isinstance(stops, list) else [stops]):
        raise ValueError(f"{path}: its generation_config.json does not stop at <end_of_turn> (token {stop}).")
    return model.eval(), processor
