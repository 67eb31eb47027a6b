"""SAM for a new Gemma-LISA: a folder, a Hub name, a `.pth` file of segment_anything, or the SAM of a Gemma-LISA."""

from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, SamConfig, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.checkpoints import sam_pth
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

from .reading import check_whole, read, read_fields

# SAM's decoder upscales the image embeddings by this factor in each direction.
MASK_UPSCALING = 4


def read_sam_config(name: str) -> SamConfig:
    """Return SAM's configuration. Errors as in `read_fields` and `sam_pth.read_config`."""
    if Path(name).is_file():
        return sam_pth.read_config(name)
    fields = _fields(name)
    if fields["model_type"] == GemmaLisaConfig.model_type:
        return GemmaLisaConfig.from_dict(fields).sam_config
    return SamConfig.from_dict(fields)


def read_sam_image_processor(name: str, config: SamConfig) -> tuple[SamImageProcessorPil, bool]:
    """Return SAM's image processor, and whether the checkpoint has one. If not, one for its image size is created.

    Raises:
        ValueError: it gives images of another size than SAM expects.
    """
    side = config.vision_config.image_size
    mask_side = MASK_UPSCALING * side // config.vision_config.patch_size  # 256 of 1024
    image_processor = _own_image_processor(name)
    is_own = image_processor is not None
    if not is_own:
        image_processor = SamImageProcessorPil(
            size={"longest_edge": side},
            pad_size={"height": side, "width": side},
            mask_size={"longest_edge": mask_side},
            mask_pad_size={"height": mask_side, "width": mask_side},
        )
    pad_size = image_processor.pad_size
    for what, found, expected in (
        ("longest edge of its image processor", image_processor.size.longest_edge, side),
        ("padded (height, width) of its image processor", (pad_size.height, pad_size.width), (side, side)),
        ("image_size of its prompt encoder", config.prompt_encoder_config.image_size, side),
    ):
        if found != expected:
            raise ValueError(
                f"{name}: the {what} is {found}, but the vision encoder in config.json expects {expected}."
            )
    return image_processor, is_own


def _own_image_processor(name: str) -> SamImageProcessorPil | None:
    if Path(name).is_file():  # a .pth file has weights only
        return None
    if _is_gemma_lisa(name):
        return read(GemmaLisaProcessor.from_pretrained, name, "processor").sam_image_processor
    with suppress(OSError):
        return SamImageProcessorPil.from_pretrained(name)
    return None


def load_sam(model: PreTrainedModel, name: str, config: SamConfig) -> None:
    """Load SAM into `model.sam`, in the type of the model except for the positional encoding, which stays in fp32.

    Args:
        model: Gemma-LISA with a random SAM.
        name: folder, Hub name or `.pth` file.
        config: of SAM.

    Raises:
        ValueError: the checkpoint is incomplete.
    """
    if Path(name).is_file():
        model.sam.shared_image_embedding.float()  # the positional encoding, see modeling_gemma_lisa
        sam_pth.load_weights(model.sam, name)
        return
    model.sam = None  # frees the memory of the random SAM before SAM is loaded
    model.sam = _load(name, config)
    encoding = model.sam.shared_image_embedding.positional_embedding
    exact = encoding.detach().clone()
    model.sam.to(model.dtype)
    encoding.data = exact


def _load(name: str, config: SamConfig) -> nn.Module:
    if _is_gemma_lisa(name):
        return load_checkpoint(name, dtype=torch.float32, device="cpu")[0].sam
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    sam, info = read(
        lambda name: SamModel.from_pretrained(name, config=config, dtype=torch.float32, **options), name, "weights"
    )
    check_whole(name, info)
    return sam


def _is_gemma_lisa(name: str) -> bool:
    return _fields(name)["model_type"] == GemmaLisaConfig.model_type


def _fields(name: str) -> dict:
    accepted = (SamConfig.model_type, GemmaLisaConfig.model_type)
    return read_fields(name, "--sam", accepted, "'sam', SAM 1 (not SAM 2), or a Gemma-LISA")
