"""Tiny Gemma 3 and SAM checkpoints in their original formats."""

import json

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
    SamConfig,
    SamModel,
    SamProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.scripts.init_checkpoint import main

GEMMA_SIDE, SAM_SIDE = 32, 48
IMAGE_TOKENS = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
TURNS = ["<start_of_turn>", "<end_of_turn>"]
EMBEDDING = "language_model.model.embed_tokens.weight"  # in files of the Hub
GOOGLES_TEMPLATE = "{{ bos_token }}a template without marks of the answers"


def stock_tokenizer(named=True):
    """Return a byte-level BPE tokenizer with the special tokens of Gemma 3, which has no [SEG].

    Args:
        named: whether it has `<image_soft_token>` and the names of the image tokens, as that of a Gemma 3 with images.
    """
    image_tokens = [*IMAGE_TOKENS.values()] if named else [*IMAGE_TOKENS.values()][:2]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[*SPECIAL.values(), *TURNS, *image_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user the red circle", "model it is here"] * 9, trainer)
    tokenizer.add_tokens(["\n\n"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **SPECIAL,
        **({"extra_special_tokens": IMAGE_TOKENS} if named else {}),
        additional_special_tokens=TURNS,
        chat_template=GOOGLES_TEMPLATE,
    )


def randomize(model, seed):
    """Set all weights to random values, so that equal outputs mean that every weight was loaded."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model.eval()


def text_config(tokenizer, num_rows):
    return Gemma3TextConfig(
        vocab_size=num_rows,
        hidden_size=32,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        intermediate_size=48,
        sliding_window=8,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def write_gemma(folder, layout="stock", spare_rows=7, tokenizer=None, generation_config=True):
    """Write a Gemma 3 and its processor.

    Args:
        layout: names of the weights. "google": as in the files on the Hub; "stock": as saved by transformers 5;
            "native": names of the modules.
    """
    tokenizer = tokenizer or stock_tokenizer()
    config = Gemma3Config(
        text_config=text_config(tokenizer, len(tokenizer) + spare_rows).to_dict(),
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            patch_size=8,
            image_size=GEMMA_SIDE,
            vision_use_head=False,
        ).to_dict(),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["boi_token"]),
        eoi_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["eoi_token"]),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["image_token"]),
        initializer_range=0.03,
    )
    model = randomize(Gemma3ForConditionalGeneration(config), seed=1)
    if generation_config:  # as published by Google
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")],
            pad_token_id=tokenizer.pad_token_id,
            cache_implementation="hybrid",
            do_sample=True,
            top_k=64,
            top_p=0.95,
        )
    model.save_pretrained(folder, save_original_format=layout != "native")
    if not generation_config:
        (folder / "generation_config.json").unlink()
    if layout == "google":
        edit_weights(folder, lambda weights: {google_name(name): weight for name, weight in weights.items()})
    Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": GEMMA_SIDE, "width": GEMMA_SIDE}),
        tokenizer=tokenizer,
        chat_template=GOOGLES_TEMPLATE,
        image_seq_length=4,
    ).save_pretrained(folder)
    return folder


def write_text_gemma(folder, with_image_token=True, spare_rows=0):
    """Write a text-only Gemma 3 and its tokenizer, like Google's 270M and 1B.

    Args:
        with_image_token: whether the tokenizer has `<image_soft_token>`. It is its last token, without a row.
        spare_rows: number of rows of the embedding beyond the other tokens.
    """
    tokenizer = stock_tokenizer(named=False)
    model = Gemma3ForCausalLM(text_config(tokenizer, len(tokenizer) + spare_rows))
    randomize(model, seed=3).save_pretrained(folder)
    if with_image_token:
        tokenizer.add_tokens([IMAGE_TOKENS["image_token"]], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def siglip_vision_config(**fields):
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return SiglipVisionConfig(**{**sizes, "patch_size": 8, "image_size": GEMMA_SIDE, **fields})


def write_siglip(folder, layout="whole"):
    """Write a SigLIP and its image processor.

    Args:
        layout: "whole": with its text model, as saved by transformers 5; "original": as on the Hub, where all files
            have the prefix `vision_model.` and a pooling head; "vision": the vision model alone.
    """
    if layout == "vision":
        model = randomize(SiglipVisionModel(siglip_vision_config()), seed=4)
    else:
        sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
        model = randomize(
            SiglipModel(SiglipConfig(text_config=sizes, vision_config=siglip_vision_config().to_dict())), seed=4
        )
    model.save_pretrained(folder, save_original_format=layout == "original")
    if layout == "original":
        positions = torch.arange((GEMMA_SIDE // 8) ** 2)[None]
        edit_weights(
            folder, lambda weights: {**weights, "vision_model.embeddings.position_ids": positions}
        )  # in files of older releases
    SiglipImageProcessor(
        size={"height": GEMMA_SIDE, "width": GEMMA_SIDE}, image_mean=[0.4, 0.5, 0.6], image_std=[0.5, 0.4, 0.3]
    ).save_pretrained(folder)
    return folder


def google_name(name):
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name


def write_sam(folder):
    config = SamConfig(
        vision_config=dict(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_dim=32,
            image_size=SAM_SIDE,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[1],
            output_channels=16,
            num_pos_feats=8,
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=SAM_SIDE, patch_size=8, mask_input_channels=8),
        mask_decoder_config=dict(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16),
    )
    randomize(SamModel(config), seed=2).save_pretrained(folder)
    SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": SAM_SIDE},
            pad_size={"height": SAM_SIDE, "width": SAM_SIDE},
            mask_size={"longest_edge": SAM_SIDE // 2},
            mask_pad_size={"height": SAM_SIDE // 2, "width": SAM_SIDE // 2},
            image_mean=[0.4, 0.5, 0.6],  # different from the default
        )
    ).save_pretrained(folder)
    return folder


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    weights = {name: weight.clone() for name, weight in load_file(path).items()}
    save_file(edit(weights), path, metadata={"format": "pt"})


def edit_json(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def init(gemma, sam, output, *more):
    """Create a Gemma-LISA checkpoint with scripts/init_checkpoint.py and return its folder."""
    main(["--gemma", str(gemma), "--sam", str(sam), "--output", str(output), *more])
    return output
