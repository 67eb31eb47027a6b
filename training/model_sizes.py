"""The published configurations of Gemma 3 and SAM, without their weights.

Source: transformers' convert_gemma3_weights.py and convert_sam_to_hf.py.
"""

from transformers import Gemma3TextConfig, SamConfig, SiglipVisionConfig

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig

# hidden size, layers, attention heads, KV heads, head size, MLP size
GEMMA_SIZES = {
    "4b": (2560, 34, 8, 4, 256, 10_240),
    "12b": (3840, 48, 16, 8, 256, 15_360),
    "27b": (5376, 62, 32, 16, 128, 21_504),
}


def build_real_config(size: str, **overrides) -> GemmaLisaConfig:
    """Return the configuration of Gemma 3 with SigLIP, and SAM ViT-H. size: key of GEMMA_SIZES; overrides: fields."""
    hidden, layers, heads, kv_heads, head, mlp = GEMMA_SIZES[size]
    text_config = Gemma3TextConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        query_pre_attn_scalar=hidden // heads if size == "27b" else head,
        intermediate_size=mlp,
        sliding_window=1024,
    )
    vision_config = SiglipVisionConfig(
        hidden_size=1152,
        num_hidden_layers=27,
        num_attention_heads=16,
        intermediate_size=4304,
        patch_size=14,
        image_size=896,
        vision_use_head=False,
    )
    sam_config = SamConfig(
        vision_config=dict(
            hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]
        )
    )
    return GemmaLisaConfig(
        text_config=text_config.to_dict(),
        vision_config=vision_config.to_dict(),
        sam_config=sam_config.to_dict(),
        **overrides,
    )
