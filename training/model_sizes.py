"""The published configurations of Gemma 3, SigLIP and SAM, without their weights.

Source: transformers' convert_gemma3_weights.py, convert_siglip_to_hf.py and convert_sam_to_hf.py, and config.json of
google/gemma-3-270m and google/gemma-3-1b-it.
"""

from transformers import Gemma3TextConfig, SamConfig, SiglipVisionConfig

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig

# hidden size, layers, attention heads, KV heads, head size, MLP size, sliding window
GEMMA_SIZES = {
    "270m": (640, 18, 4, 1, 256, 2048, 512),
    "1b": (1152, 26, 4, 1, 256, 6912, 512),
    "4b": (2560, 34, 8, 4, 256, 10_240, 1024),
    "12b": (3840, 48, 16, 8, 256, 15_360, 1024),
    "27b": (5376, 62, 32, 16, 128, 21_504, 1024),
}
TEXT_ONLY = ("270m", "1b")  # these get SigLIP base and SAM ViT-B


def build_real_config(size: str, **overrides) -> GemmaLisaConfig:
    """Return the configuration of a Gemma-LISA of a published size.

    The 4B, 12B and 27B have their own SigLIP, and SAM ViT-H. The 270M and 1B read text only. They are combined with
    siglip-base-patch16-224 and SAM ViT-B, as by `init_checkpoint.py --vision`.

    Args:
        size: key of GEMMA_SIZES.
        overrides: fields of the configuration.
    """
    hidden, layers, heads, kv_heads, head, mlp, window = GEMMA_SIZES[size]
    text_config = Gemma3TextConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        query_pre_attn_scalar=hidden // heads if size == "27b" else head,
        intermediate_size=mlp,
        sliding_window=window,
    )
    is_small = size in TEXT_ONLY
    vision_config = _siglip(768, 12, 12, 3072, 16, 224) if is_small else _siglip(1152, 27, 16, 4304, 14, 896)
    # Default of SamConfig: ViT-B
    sam_vision = (
        {}
        if is_small
        else dict(hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31])
    )
    return GemmaLisaConfig(
        text_config=text_config.to_dict(),
        vision_config=vision_config.to_dict(),
        sam_config=SamConfig(vision_config=sam_vision).to_dict(),
        mm_tokens_per_image=(224 // 16) ** 2 if is_small else 256,
        **overrides,
    )


def describe(size: str) -> str:
    """Return the parts of `build_real_config(size)` as text."""
    encoders = "SigLIP base and SAM ViT-B" if size in TEXT_ONLY else "SAM ViT-H"
    return f"Gemma 3 {size.upper()} with {encoders}"


def _siglip(hidden: int, layers: int, heads: int, mlp: int, patch: int, side: int) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        patch_size=patch,
        image_size=side,
        vision_use_head=False,
    )
