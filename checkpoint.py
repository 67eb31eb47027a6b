"""Open a Gemma-LISA checkpoint whole, or say in one line why not."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_gemma_lisa import GemmaLisaConfig
from .modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from .processing_gemma_lisa import GemmaLisaProcessor

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
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no folder with a checkpoint, and no such name on the Hub can be reached.") from error
    if not isinstance(config, GemmaLisaConfig):
        raise ValueError(
            f"{path}: a checkpoint of type {config.model_type!r}, which has no [SEG]; make a Gemma-LISA of it with "
            "scripts/init_checkpoint.py."
        )
    processor = GemmaLisaProcessor.from_pretrained(path, trust_remote_code=False)
    model, info = GemmaLisaForConditionalGeneration.from_pretrained(path, dtype=dtype, output_loading_info=True)
    wrong = [str(key) for group in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[group]]
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} weights are missing or left over, as {wrong[0]}.")
    if model.config.seg_token_id != processor.seg_token_id:
        raise ValueError(
            f"{path}: [SEG] is token {processor.seg_token_id} of the tokenizer but {model.config.seg_token_id} in the "
            "configuration; they are not of one checkpoint."
        )
    return model.eval(), processor
